"""CBT: class based thresholding (Görmez and Koyuncu, 2024).

Every class gets its own threshold, from how clearly the trained exits tell it from the next best
class: easy classes may stop early, hard ones must be sure.  In segmentation a sample is a pixel, in
classification an image; the thresholds go into `eenotes.rules.PerClass`.  Beyond the paper,
`eenotes.methods.cbt_budgets` chooses class thresholds for a given cost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eenotes._checks import require_classes, require_whole
from eenotes._processes import gathered
from eenotes.class_statistics import ClassMeans
from eenotes.rules import PerClass

Margin = Literal["top", "own"]


@dataclass(frozen=True)
class Statistics:
    """What the exits say on average of the samples of each class."""

    #: $p_{j,k}$ ``(J, K, K)``: row k is the mean softmax of exit j over all samples of class k
    per_exit: Tensor
    counts: Tensor  #: ``(K,)`` samples per class

    @property
    def shared(self) -> Tensor:
        r"""$\bar p_k = \frac1J \sum_j p_{j,k}$ (4.2), ``(K, K)``: the average over all exits."""
        return self.per_exit.mean(0)

    @property
    def confused(self) -> list[int]:
        """The classes whose samples get, on average, more probability for another class."""
        likeliest = self.shared.argmax(1)
        return [k for k in range(len(self.counts)) if self.counts[k] and likeliest[k] != k]

    def margins(self, *, shared: bool = True, margin: Margin = "top") -> Tensor:
        r"""How clearly a class stands out: ``(K,)``, or ``(J, K)`` without sharing between exits.

        ``"top"``, the paper's (4.3): largest minus second largest entry of $\bar p_k$.  ``"own"``:
        entry k minus the largest other one; negative for the classes in `confused`.

        Raises:
            ValueError: another ``margin``.
        """
        if margin not in ("top", "own"):
            raise ValueError(f"margin={margin!r} must be 'top' or 'own'")
        p = self.shared if shared else self.per_exit
        if margin == "top":
            first, second = p.topk(2, dim=-1).values.unbind(-1)
            return first - second
        own = torch.eye(p.shape[-1], dtype=torch.bool, device=p.device)
        return p.diagonal(dim1=-2, dim2=-1) - p.masked_fill(own, -torch.inf).amax(-1)

    def thresholds(
        self, *, alpha: float, beta: float, shared: bool = True, margin: Margin = "top"
    ) -> Tensor:
        """Class thresholds between ``alpha`` (easiest class) and ``beta`` (hardest), see `stretch`.

        They are ``(K,)`` with sharing (CBT), else ``(J-1, K)``, each row with a scale of its own
        (CBT-ns).
        """
        margins = self.margins(shared=shared, margin=margin)
        return stretch(
            margins if shared else margins[:-1], alpha=alpha, beta=beta, present=self.counts > 0
        )

    def rule(
        self, *, alpha: float, beta: float, shared: bool = True, margin: Margin = "top"
    ) -> PerClass:
        """The rule with these `thresholds`, for inference and for segmentation alike."""
        return PerClass(self.thresholds(alpha=alpha, beta=beta, shared=shared, margin=margin))


def statistics(
    batches: Iterable[tuple[Sequence[Tensor], Tensor]],
    *,
    num_classes: int,
    ignore_index: int | None = None,
) -> Statistics:
    """Average every exit's softmax over the samples of each class (4.1), in one pass.

    Only J arrays of K × K sums are kept; those of the processes of ``torch.distributed`` are added.

    Args:
        batches: the logits of all J exits, ``(B, K)`` or ``(B, K, *space)`` each, and the labels,
            ``(B,)`` or ``(B, *space)``.
        num_classes: K.
        ignore_index: the label of samples that have no class; inside or outside 0..K-1.

    Raises:
        ValueError: no batch, no sample with a class, other labels outside 0..K-1, logits whose
            sizes fit neither each other nor the labels, another number of exits than before, logits
            that are not finite.
        TypeError: labels that are not whole numbers.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    means: list[ClassMeans] = []
    for logits, labels in batches:
        logits = list(logits)
        _check(logits, labels, num_classes, exits=len(means) or None)
        means = means or [ClassMeans(num_classes).to(labels.device) for _ in logits]
        labels = labels.long()
        keep = torch.ones_like(labels, dtype=torch.bool)
        if ignore_index is not None:
            keep = labels != ignore_index
        if keep.any():
            for mean, z in zip(means, logits, strict=True):
                mean.update(z.detach().float().softmax(1).movedim(1, -1)[keep], labels[keep])
    exits = max(gathered(len(means)))  # this process may have no batch
    means = means or [ClassMeans(num_classes) for _ in range(exits)]
    if not means:
        raise ValueError("batches gave nothing: there are no probabilities to average")
    summed = [_summed(mean) for mean in means]
    counts = summed[0][1]
    if not counts.any():
        raise ValueError(f"no sample has a class: every label is {ignore_index}, the one to ignore")
    per_exit = torch.stack(
        [sums.expand(num_classes, num_classes) / counts.clamp_min(1)[:, None] for sums, _ in summed]
    )
    return Statistics(per_exit.cpu(), counts.cpu())


def stretch(margins: Tensor, *, alpha: float, beta: float, present: Tensor | None = None) -> Tensor:
    r"""Map margins linearly to thresholds (4.4): the largest to ``alpha``, the least to ``beta``.

    $T_k = (1 - \frac{m_k - \min m}{\max m - \min m})(\beta - \alpha) + \alpha$ for margins
    ``(K,)``, or ``(J, K)`` row by row.  A class that is not ``present`` ``(K,)`` gets ``beta``, and
    so do all classes if their margins are equal.

    Raises:
        ValueError: unless 0 ≤ alpha ≤ beta ≤ 1, or for margins that are not finite.
    """
    if not 0 <= alpha <= beta <= 1:
        raise ValueError(f"need 0 ≤ alpha ≤ beta ≤ 1, got alpha={alpha}, beta={beta}")
    if margins.ndim not in (1, 2) or not margins.isfinite().all():
        raise ValueError(f"margins must be finite and of shape (K,) or (J, K), got {margins}")
    present = torch.ones(margins.shape[-1], dtype=torch.bool) if present is None else present.cpu()
    if present.shape != margins.shape[-1:]:
        raise ValueError(
            f"present: one entry for each of {margins.shape[-1]} classes, got {present.shape}"
        )
    margins = margins.cpu().double()
    least = margins.masked_fill(~present, torch.inf).amin(-1, keepdim=True)
    span = margins.masked_fill(~present, -torch.inf).amax(-1, keepdim=True) - least
    easiness = torch.where(present & (span > 0), (margins - least) / span, 0.0)
    return ((1 - easiness) * (beta - alpha) + alpha).clamp(alpha, beta).float()


def mean_iou(prediction: Tensor, labels: Tensor, num_classes: int) -> float:
    """The Jaccard index of predictions and labels ``(N,)``, averaged over classes that occur."""
    for what in (labels, prediction):
        require_classes(what, num_classes)
    from torchmetrics.functional.classification import multiclass_jaccard_index

    return multiclass_jaccard_index(prediction, labels, num_classes, average="macro").item()


def _summed(mean: ClassMeans) -> tuple[Tensor, Tensor]:
    with mean.sync_context():
        return mean.sums.clone(), mean.counts.clone()


def _check(logits: list[Tensor], labels: Tensor, num_classes: int, *, exits: int | None) -> None:
    require_whole(labels)
    if not logits or (exits is not None and len(logits) != exits):
        raise ValueError(
            f"every batch must have the logits of the same exits, got {len(logits)} after {exits}"
        )
    for j, z in enumerate(logits):
        if z.ndim < 2 or z.shape[1] != num_classes:
            raise ValueError(
                f"exit {j} gave logits {tuple(z.shape)}: dimension 2 must be {num_classes} classes"
            )
        if (z.shape[0], *z.shape[2:]) != tuple(labels.shape):
            raise ValueError(
                f"exit {j} gave logits {tuple(z.shape)} for labels {tuple(labels.shape)}: "
                "batch and space must agree; resize one of them"
            )
