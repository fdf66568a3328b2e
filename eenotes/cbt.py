r"""CBT: class based thresholding (Görmez and Koyuncu, 2024).

Every class gets its own threshold, from how clearly the trained exits tell it from the next best class: easy classes may stop early,
hard ones must be sure.  Nothing is retrained.  In segmentation a sample is a pixel; in plain classification it is an image, and the same
functions serve: the thresholds go into `eenotes.rules.PerClass`.

Beyond the paper: `for_budget` chooses the two ends of the scale for a given cost, and `priced` chooses class thresholds such that every
class pays the same loss for the last multiplication it saves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eenotes.costs import Costs
from eenotes.means import ClassMeans
from eenotes.rules import PerClass

BETAS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.9995)
LEAST = 0.5  # above one half only the likeliest class can exceed its threshold

Margin = Literal["top", "own"]


@dataclass(frozen=True)
class Statistics:
    r"""What the exits say on average of the samples of each class.

    Args:
        per_exit: $p_{j,k}$ ``(J, K, K)``: row k is the mean softmax of exit j over all samples **of** class k; zero for a class without
            samples.
        counts: ``(K,)`` samples per class.
    """

    per_exit: Tensor
    counts: Tensor

    @property
    def shared(self) -> Tensor:
        r"""$\bar p_k = \frac1J \sum_j p_{j,k}$ (4.2), ``(K, K)``: the exits' average, the last one included."""
        return self.per_exit.mean(0)

    @property
    def confused(self) -> list[int]:
        """The classes whose samples get, on average, more probability for another class: their margin is easy for the wrong reason."""
        likeliest = self.shared.argmax(1)
        return [k for k in range(len(self.counts)) if self.counts[k] and likeliest[k] != k]

    def margins(self, *, shared: bool = True, margin: Margin = "top") -> Tensor:
        r"""How clearly a class stands out: ``(K,)``, or ``(J, K)`` without sharing between exits.

        ``"top"``, the paper's (4.3): largest minus second largest entry of $\bar p_k$, whichever classes these are.  ``"own"``: entry k
        minus the largest other one; negative for the classes in `confused`.

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

    def thresholds(self, *, alpha: float, beta: float, shared: bool = True, margin: Margin = "top") -> Tensor:
        """Class thresholds between ``alpha`` (the easiest class) and ``beta`` (the hardest).

        Returns:
            ``(K,)`` with sharing (CBT), else ``(J-1, K)``, one row per early exit, each with a scale of its own (CBT-ns).

        Raises:
            ValueError: unless 0 ≤ alpha ≤ beta ≤ 1.
        """
        margins = self.margins(shared=shared, margin=margin)
        return stretch(margins if shared else margins[:-1], alpha=alpha, beta=beta, present=self.counts > 0)

    def rule(self, *, alpha: float, beta: float, shared: bool = True, margin: Margin = "top") -> PerClass:
        """The rule with these thresholds: for `eenotes.predict`, `eenotes.simulate` and the segmentation networks' ``segment``."""
        return PerClass(self.thresholds(alpha=alpha, beta=beta, shared=shared, margin=margin))


def statistics(
    batches: Iterable[tuple[Sequence[Tensor], Tensor]], *, num_classes: int, ignore_index: int | None = None
) -> Statistics:
    r"""Average every exit's softmax over the samples of each class (4.1), in one pass.

    Only J arrays of K × K sums are kept, whatever the number of pixels; under ``torch.distributed`` the processes' sums are added.

    Args:
        batches: ``(logits, labels)``: the logits of all J exits, ``(B, K)`` or ``(B, K, *space)`` each, and the labels, ``(B,)`` or
            ``(B, *space)``.
        num_classes: K.
        ignore_index: the label of samples that have no class; inside or outside 0..K-1.

    Raises:
        ValueError: no batch, no sample with a class, labels outside 0..K-1 that are not ``ignore_index``, logits whose sizes fit
            neither each other nor the labels, another number of exits than before, logits that are not finite.
        TypeError: labels that are not whole numbers.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, for a largest and a second largest probability, got {num_classes}")
    means: list[ClassMeans] = []
    for logits, labels in batches:
        logits = list(logits)
        _check(logits, labels, num_classes, exits=len(means) or None)
        means = means or [ClassMeans(num_classes).to(labels.device) for _ in logits]
        labels = labels.long()
        keep = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
        if keep.any():
            for mean, z in zip(means, logits, strict=True):
                mean.update(z.detach().float().softmax(1).movedim(1, -1)[keep], labels[keep])
    if not means:
        raise ValueError("batches gave nothing: there are no probabilities to average")
    summed = [_summed(mean) for mean in means]
    counts = summed[0][1]
    if not counts.any():
        raise ValueError(f"no sample has a class: every label is {ignore_index}, the one to ignore")
    per_exit = torch.stack([sums.expand(num_classes, num_classes) / counts.clamp_min(1)[:, None] for sums, _ in summed])
    return Statistics(per_exit.cpu(), counts.cpu())


def stretch(margins: Tensor, *, alpha: float, beta: float, present: Tensor | None = None) -> Tensor:
    r"""Map margins to thresholds (4.4): the largest to ``alpha``, the smallest to ``beta``, in between linearly.

    $$ T_k = \Bigl(1 - \frac{m_k - \min m}{\max m - \min m}\Bigr)(\beta - \alpha) + \alpha $$

    A class without samples gets ``beta``, and so do all classes if their margins are equal: without evidence, be careful.

    Args:
        margins: ``(K,)``, or ``(J, K)``: then each row by itself.
        alpha: of the easiest class.
        beta: of the hardest.
        present: ``(K,)`` bool, the classes that have samples; all by default.

    Raises:
        ValueError: unless 0 ≤ alpha ≤ beta ≤ 1, or for margins that are not finite.
    """
    if not 0 <= alpha <= beta <= 1:
        raise ValueError(f"need 0 ≤ alpha ≤ beta ≤ 1 (easy classes get alpha, hard ones beta), got alpha={alpha}, beta={beta}")
    if margins.ndim not in (1, 2) or not margins.isfinite().all():
        raise ValueError(f"margins must be finite and of shape (K,) or (J, K), got {tuple(margins.shape)}: {margins.tolist()}")
    present = torch.ones(margins.shape[-1], dtype=torch.bool) if present is None else present.cpu()
    if present.shape != margins.shape[-1:]:
        raise ValueError(f"present must have one entry for each of {margins.shape[-1]} classes, got {tuple(present.shape)}")
    m = margins.double().cpu()
    least = m.masked_fill(~present, torch.inf).amin(-1, keepdim=True)
    span = m.masked_fill(~present, -torch.inf).amax(-1, keepdim=True) - least
    easiness = torch.where(present & (span > 0), (m - least) / span, 0.0)
    return ((1 - easiness) * (beta - alpha) + alpha).clamp(alpha, beta).float()


# --------------------------------------------------------------------------------------------- thresholds for a budget


@dataclass(frozen=True)
class Choice:
    """Thresholds chosen on one split, with their cost and mean IoU there."""

    thresholds: Tensor  #: ``(K,)`` or ``(J-1, K)``
    relative_cost: float
    score: float
    alpha: float | None = None
    beta: float | None = None
    price: float | None = None

    @property
    def rule(self) -> PerClass:
        return PerClass(self.thresholds)


class Validation:
    """The exits' answers on a split, kept in the form in which many thresholds can be tried on them.

    Thresholds are at least one half here: then only the likeliest class can exceed its own, and two numbers per exit and sample, the
    class and its probability, are all that `eenotes.simulate` would need.

    Args:
        logits: ``(J, N, K)``.
        labels: ``(N,)``, all in 0..K-1: leave out the ignored samples.
        costs: of one sample.

    Raises:
        ValueError: sizes that do not fit, NaN logits, or labels outside 0..K-1.
        TypeError: labels that are not whole numbers.
    """

    def __init__(self, logits: Tensor, labels: Tensor, costs: Costs):
        self.J, N, self.K = logits.shape
        _check_whole(labels)
        if labels.shape != (N,) or not N or labels.min() < 0 or labels.max() >= self.K:
            raise ValueError(f"labels must be {N} whole numbers in 0..{self.K - 1}; leave out the ignored ones")
        if len(costs.stages) != self.J:
            raise ValueError(f"the costs are of {len(costs.stages)} stages, the logits of {self.J} exits")
        self.labels, self.costs = labels.long(), costs
        seen = [z.float().softmax(-1).max(-1) for z in logits]
        self.confidence, self.called = (torch.stack(parts) for parts in zip(*seen, strict=True))
        if self.confidence.isnan().any():
            raise ValueError("some logits are NaN: look at the features or at the heads' weights")
        self.relative = (costs.cumulative / costs.backbone).to(labels.device)

    def exit_index(self, thresholds: Tensor) -> Tensor:
        """Where each sample leaves, ``(N,)``, with thresholds ``(K,)`` or ``(J-1, K)`` of at least one half.

        Raises:
            ValueError: lower thresholds, or thresholds of another shape.
        """
        if (thresholds < LEAST).any() or thresholds.shape not in ((self.K,), (self.J - 1, self.K)):
            raise ValueError(f"thresholds must be at least {LEAST} and of shape ({self.K},) or ({self.J - 1}, {self.K})")
        rows = thresholds.to(self.called.device).expand(self.J - 1, self.K)
        leave = self.confidence[:-1] > rows.gather(1, self.called[:-1])
        return torch.cat([leave, leave.new_ones(1, leave.shape[1])]).int().argmax(0)

    def cost(self, thresholds: Tensor) -> float:
        """The mean relative cost."""
        return self.relative[self.exit_index(thresholds)].mean().item()

    def choice(self, thresholds: Tensor, **how) -> Choice:
        """Cost and mean IoU of these thresholds."""
        at = self.exit_index(thresholds)
        said = self.called.gather(0, at[None])[0]
        return Choice(thresholds, self.relative[at].mean().item(), mean_iou(said, self.labels, self.K), **how)


def for_budget(
    found: Statistics, v: Validation, *, budget: float, shared: bool = True, betas: Sequence[float] = BETAS
) -> Choice:
    """The [alpha, beta] with the best mean IoU among those that cost at most ``budget``.

    For each beta the largest alpha, at least one half, that keeps the budget is found by bisection.

    Args:
        found: from `statistics`.
        v: the validation samples.
        budget: relative cost; 1.0 is the backbone without exits.
        shared: CBT, or CBT-ns.
        betas: which to try.

    Raises:
        ValueError: if even the smallest thresholds cost more; it says how much.  If there is no beta to try.
    """
    if not len(betas):
        raise ValueError("betas is empty: there is nothing to choose from")
    choices = []
    for beta in betas:

        def at(alpha: float, beta: float = beta) -> Tensor:
            return found.thresholds(alpha=alpha, beta=beta, shared=shared)

        alpha = _largest(lambda value: v.cost(at(value)), LEAST, beta, budget)
        choices.append(v.choice(at(alpha), alpha=alpha, beta=beta))
    return _best(choices, budget)


def single_for_budget(v: Validation, *, budget: float) -> Choice:
    """One threshold for all classes and exits, the largest that keeps the budget: what class thresholds have to beat.

    Raises:
        ValueError: as `for_budget`.
    """
    threshold = _largest(lambda value: v.cost(torch.full((v.K,), value)), LEAST, 1.0, budget)
    return _best([v.choice(torch.full((v.K,), threshold), alpha=threshold, beta=threshold)], budget)


# ---------------------------------------------------------------------------------------------- thresholds with a price


def iou_loss(v: Validation) -> Tensor:
    r"""How much mean IoU each answer costs, to first order (4.5): ``(J, N)``, 0 for a right answer.

    Mean IoU is no sum over pixels, but its gradient is.  With $U_k$ the union and $I_k$ the intersection of class k at the last exit, a
    pixel of class y that is called l ≠ y instead of y takes $\frac1K\bigl(\frac1{U_y} + \frac{I_l}{U_l^2}\bigr)$ from it.
    """
    last, labels = v.called[-1], v.labels
    truth = torch.bincount(labels, minlength=v.K).double()
    inter = torch.bincount(labels[last == labels], minlength=v.K).double()
    union = (truth + torch.bincount(last, minlength=v.K) - inter).clamp_min(1)
    loss = (1 / union[labels] + (inter / union.square())[v.called]) / (truth > 0).sum()
    return loss.masked_fill(v.called == labels, 0.0)


def priced(v: Validation, *, price: float, per_class: bool = True, loss: Tensor | None = None) -> Tensor:
    r"""Thresholds at which the next sample to stop loses as much as its computation is worth (4.6): ``(J-1, K)``.

    Each sample that stops at exit j pays its loss there plus ``price`` times its cost; each that goes on pays what the exits after it
    make of it.  From the last early exit to the first, and for every class that is called, the threshold is put where the sum over the
    samples is least.  Then no exit and no class has a cheaper way left to save: all pay the same loss for the last MAC.

    Args:
        v: the validation samples.
        price: the loss that is accepted for saving one whole backbone per sample; at 0 only what costs nothing stops.
        per_class: ``False``: one threshold per exit for all classes, by the same reasoning.
        loss: ``(J, N)``; by default `iou_loss`.

    Raises:
        ValueError: a negative price, or a loss of another size.
    """
    loss = iou_loss(v) if loss is None else loss.double()
    if not price >= 0 or loss.shape != v.called.shape:
        raise ValueError(f"need a price of at least 0 and a loss of shape {tuple(v.called.shape)}, got {price}, {tuple(loss.shape)}")
    pay = loss + (price * v.relative / len(v.labels))[:, None]
    thresholds, go = torch.ones(v.J - 1, v.K), pay[-1]
    for j in reversed(range(v.J - 1)):
        sure, called = v.confidence[j] > LEAST, v.called[j]
        for k in range(v.K) if per_class else [slice(None)]:
            who = sure & (called == k) if per_class else sure
            thresholds[j, k] = _least_sum(v.confidence[j][who], (pay[j] - go)[who])
        leaves = v.confidence[j] > thresholds[j].to(called.device)[called]
        go = torch.where(leaves, pay[j], go)
    return thresholds


def priced_for_budget(v: Validation, *, budget: float, per_class: bool = True, steps: int = 16) -> Choice:
    """`priced` at the lowest price that keeps the budget, by bisection on its logarithm.

    Raises:
        ValueError: if no price does.
    """
    loss = iou_loss(v)

    def at(exponent: float) -> Tensor:
        return priced(v, price=10.0**exponent, per_class=per_class, loss=loss)

    # _largest wants a cost that grows with its argument: a cheaper price is a higher cost.
    exponent = -_largest(lambda value: v.cost(at(-value)), -3.0, 6.0, budget, steps=steps)
    return _best([v.choice(at(exponent), price=10.0**exponent)], budget)


def mean_iou(prediction: Tensor, labels: Tensor, num_classes: int) -> float:
    """The Jaccard index of all samples together, ``(N,)`` predictions and labels, averaged over the classes that occur."""
    from torchmetrics.functional.classification import multiclass_jaccard_index

    return multiclass_jaccard_index(prediction, labels, num_classes, average="macro").item()


def _largest(cost: Callable[[float], float], low: float, high: float, budget: float, *, steps: int = 20) -> float:
    """The largest argument whose cost is within the budget (to bisection's precision), or ``low``; cost grows with the argument."""
    if cost(high) <= budget:
        return high
    for _ in range(steps):
        middle = (low + high) / 2
        if cost(middle) <= budget:
            low = middle
        else:
            high = middle
    return low


def _best(choices: Sequence[Choice], budget: float) -> Choice:
    affordable = [choice for choice in choices if choice.relative_cost <= budget]
    if not affordable:
        raise ValueError(f"no thresholds cost at most {budget}; the least found: {min(c.relative_cost for c in choices):.3f}")
    return max(affordable, key=lambda choice: choice.score)


def _least_sum(confidence: Tensor, gain: Tensor) -> float:
    """The threshold t for which the sum of ``gain`` over ``confidence > t`` is least; 1 if stopping never pays."""
    if not len(confidence):
        return 1.0
    confidence, order = confidence.sort(descending=True)
    sums = gain[order].double().cumsum(0)
    # A cut lies between two different confidences; the first that stays is the threshold.
    limits = torch.cat([confidence[1:], confidence.new_tensor([LEAST])])
    sums = sums.masked_fill(confidence == limits, torch.inf)
    best = int(sums.argmin())
    return limits[best].item() if sums[best] < 0 else 1.0


def _summed(mean: ClassMeans) -> tuple[Tensor, Tensor]:
    with mean.sync_context():
        return mean.sums.clone(), mean.counts.clone()


def _check_whole(labels: Tensor) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be whole numbers, got {labels.dtype}")


def _check(logits: list[Tensor], labels: Tensor, num_classes: int, *, exits: int | None) -> None:
    _check_whole(labels)
    if not logits or (exits is not None and len(logits) != exits):
        raise ValueError(f"every batch must have the logits of the same exits, got {len(logits)} after {exits}")
    for j, z in enumerate(logits):
        if z.ndim < 2 or z.shape[1] != num_classes:
            raise ValueError(f"exit {j} gave logits {tuple(z.shape)}: the second dimension must be the {num_classes} classes")
        if (z.shape[0], *z.shape[2:]) != tuple(labels.shape):
            raise ValueError(
                f"exit {j} gave logits {tuple(z.shape)} for labels {tuple(labels.shape)}: batch and space must agree; resize one of them"
            )
