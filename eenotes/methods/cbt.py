"""CBT: class based thresholding (Görmez and Koyuncu, 2024).

Every class gets its own threshold, from how clearly the trained exits tell it from the next best
class.  A sample is a pixel in segmentation, an image in classification.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from eenotes._checks import require_at_least, require_one_of, require_whole
from eenotes.class_statistics import ClassMeans
from eenotes.rules import PerClass

Margin = Literal["top", "own"]
Batch = tuple[Sequence[Tensor], Tensor]  # the logits of all exits, and the labels


@dataclass(frozen=True)
class Statistics:
    """The exits' average answer to the samples of each class."""

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
        entry k minus the largest other one, negative for `confused` classes.

        Raises:
            ValueError: another ``margin``.
        """
        require_one_of(get_args(Margin), margin=margin)
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

        They are ``(K,)`` with sharing (CBT), else ``(J-1, K)``, each row stretched alone (CBT-ns).
        """
        margins = self.margins(shared=shared, margin=margin)
        margins = margins if shared else margins[:-1]
        return stretch(margins, alpha=alpha, beta=beta, present=self.counts > 0)

    def rule(self, **options) -> PerClass:
        """The rule with the `thresholds` of these options, for inference and segmentation alike."""
        return PerClass(self.thresholds(**options))


def statistics(
    batches: Iterable[Batch], *, num_classes: int, ignore_index: int | None = None
) -> Statistics:
    """Average every exit's softmax over the samples of each class (4.1), in one pass.

    Only J × K × K sums are kept; those of the processes of ``torch.distributed`` are added.

    Logits are ``(B, K)`` or ``(B, K, *space)`` from each of J exits, labels ``(B,)`` or
    ``(B, *space)``; samples with the label ``ignore_index`` have no class.

    Raises:
        ValueError: no sample with a class, other labels outside 0..K-1, or logits that are not
            finite or whose number or sizes differ.
        TypeError: labels that are not whole numbers.
    """
    require_at_least(2, num_classes=num_classes)
    means, exits = ClassMeans(num_classes), None
    for logits, labels in batches:
        logits = list(logits)
        _check(logits, labels, num_classes, exits=exits)
        exits, labels = len(logits), labels.long()
        keep = torch.full_like(labels, True, dtype=torch.bool)
        if ignore_index is not None:
            keep = labels != ignore_index
        if keep.any():
            softmax = [z.detach().float().softmax(1).movedim(1, -1)[keep] for z in logits]
            means.update(torch.stack(softmax, 1), labels[keep])
    found = means.summed()
    per_class = (found.sums / found.counts.clamp_min(1)[:, None]).reshape(-1, *found.shape)
    return Statistics(per_class.transpose(0, 1).contiguous(), found.counts)


def stretch(margins: Tensor, *, alpha: float, beta: float, present: Tensor | None = None) -> Tensor:
    r"""Map margins linearly to thresholds (4.4): the largest to ``alpha``, the least to ``beta``.

    $T_k = (1 - \frac{m_k - \min m}{\max m - \min m})(\beta - \alpha) + \alpha$ for margins
    ``(K,)``, or ``(J, K)`` row by row.  A class that is not ``present`` ``(K,)`` gets ``beta``, and
    so do all classes if their margins are equal.

    Raises:
        ValueError: not 0 ≤ alpha ≤ beta ≤ 1, or margins that are not finite.
    """
    if not 0 <= alpha <= beta <= 1:
        raise ValueError(f"need 0 ≤ alpha ≤ beta ≤ 1, got alpha={alpha}, beta={beta}")
    if margins.ndim not in (1, 2) or not margins.isfinite().all():
        raise ValueError(f"margins must be finite and of shape (K,) or (J, K), got {margins}")
    present = torch.ones(margins.shape[-1], dtype=torch.bool) if present is None else present.cpu()
    if present.shape != margins.shape[-1:]:
        count = margins.shape[-1]
        raise ValueError(f"present: one entry for each of {count} classes, got {present.shape}")
    margins = margins.cpu().double()
    least = margins.masked_fill(~present, torch.inf).amin(-1, keepdim=True)
    span = margins.masked_fill(~present, -torch.inf).amax(-1, keepdim=True) - least
    easiness = torch.where(present & (span > 0), (margins - least) / span, 0.0)
    return ((1 - easiness) * (beta - alpha) + alpha).clamp(alpha, beta).float()


def _check(logits: list[Tensor], labels: Tensor, num_classes: int, *, exits: int | None) -> None:
    require_whole(labels)
    if not logits or (exits is not None and len(logits) != exits):
        raise ValueError(f"batches must have the same exits, got {len(logits)} after {exits}")
    for j, z in enumerate(logits):
        shape = tuple(z.shape)
        if z.ndim < 2 or z.shape[1] != num_classes:
            raise ValueError(f"exit {j} gave logits {shape}, not those of {num_classes} classes")
        if (z.shape[0], *z.shape[2:]) != tuple(labels.shape):
            what = f"exit {j} gave logits {shape} for labels {tuple(labels.shape)}"
            raise ValueError(f"{what}: batch and space must agree; resize one of them")
