r"""CBT: class based thresholding (Görmez and Koyuncu, 2024).

Every class gets its own threshold, from how clearly the trained exits tell it from the next best
class: easy classes may stop early, hard ones must be sure.  Nothing is retrained.  In segmentation
a sample is a pixel; in plain classification it is an image, and the same functions serve: the
thresholds go into `eenotes.rules.PerClass`.

Beyond the paper: `for_budget` chooses the two ends of the scale for a given cost, and `priced`
chooses class thresholds such that every class pays the same loss for the last multiplication it
saves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eenotes.costs import Costs
from eenotes.methods.cbt import LEAST, Statistics, check_whole, mean_iou
from eenotes.rules import PerClass

BETAS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.9995)


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
    """The exits' answers on a split, kept in the form in which many thresholds can be tried on
    them.

    Thresholds are at least one half here: then only the likeliest class can exceed its own, and two
    numbers per exit and sample, the class and its probability, are all that `eenotes.simulate`
    would need.

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
        check_whole(labels)
        if labels.shape != (N,) or not N or labels.min() < 0 or labels.max() >= self.K:
            raise ValueError(
                f"labels must be {N} whole numbers in 0..{self.K - 1}; leave out the ignored ones"
            )
        if len(costs.stages) != self.J:
            raise ValueError(
                f"the costs are of {len(costs.stages)} stages, the logits of {self.J} exits"
            )
        self.labels, self.costs = labels.long(), costs
        seen = [z.float().softmax(-1).max(-1) for z in logits]
        self.confidence, self.called = (torch.stack(parts) for parts in zip(*seen, strict=True))
        if self.confidence.isnan().any():
            raise ValueError("some logits are NaN: look at the features or at the heads' weights")
        self.relative = (costs.cumulative / costs.backbone).to(labels.device)

    def exit_index(self, thresholds: Tensor) -> Tensor:
        """Where each sample leaves, ``(N,)``, with thresholds ``(K,)`` or ``(J-1, K)`` of at least
        one half.

        Raises:
            ValueError: lower thresholds, or thresholds of another shape.
        """
        if (thresholds < LEAST).any() or thresholds.shape not in ((self.K,), (self.J - 1, self.K)):
            raise ValueError(
                f"thresholds must be at least {LEAST} and of shape ({self.K},) or ({self.J - 1}, {self.K})"
            )
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
        return Choice(
            thresholds, self.relative[at].mean().item(), mean_iou(said, self.labels, self.K), **how
        )


def for_budget(
    found: Statistics,
    v: Validation,
    *,
    budget: float,
    shared: bool = True,
    betas: Sequence[float] = BETAS,
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
        ValueError: if even the smallest thresholds cost more; it says how much.  If there is no
            beta to try.
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
    """One threshold for all classes and exits, the largest that keeps the budget: what class
    thresholds have to beat.

    Raises:
        ValueError: as `for_budget`.
    """
    threshold = _largest(lambda value: v.cost(torch.full((v.K,), value)), LEAST, 1.0, budget)
    return _best([v.choice(torch.full((v.K,), threshold), alpha=threshold, beta=threshold)], budget)


def iou_loss(v: Validation) -> Tensor:
    r"""How much mean IoU each answer costs, to first order (4.5): ``(J, N)``, 0 for a right answer.

    Mean IoU is no sum over pixels, but its gradient is.  With $U_k$ the union and $I_k$ the
    intersection of class k at the last exit, a pixel of class y that is called l ≠ y instead of y
    takes $\frac1K\bigl(\frac1{U_y} + \frac{I_l}{U_l^2}\bigr)$ from it.
    """
    last, labels = v.called[-1], v.labels
    truth = torch.bincount(labels, minlength=v.K).double()
    inter = torch.bincount(labels[last == labels], minlength=v.K).double()
    union = (truth + torch.bincount(last, minlength=v.K) - inter).clamp_min(1)
    loss = (1 / union[labels] + (inter / union.square())[v.called]) / (truth > 0).sum()
    return loss.masked_fill(v.called == labels, 0.0)


def priced(
    v: Validation, *, price: float, per_class: bool = True, loss: Tensor | None = None
) -> Tensor:
    r"""Thresholds at which the next sample to stop loses as much as its computation is worth (4.6):

    ``(J-1, K)``.

    Each sample that stops at exit j pays its loss there plus ``price`` times its cost; each that
    goes on pays what the exits after it make of it.  From the last early exit to the first, and for
    every class that is called, the threshold is put where the sum over the samples is least.  Then
    no exit and no class has a cheaper way left to save: all pay the same loss for the last MAC.

    Args:
        v: the validation samples.
        price: the loss that is accepted for saving one whole backbone per sample; at 0 only what
            costs nothing stops.
        per_class: ``False``: one threshold per exit for all classes, by the same reasoning.
        loss: ``(J, N)``; by default `iou_loss`.

    Raises:
        ValueError: a negative price, or a loss of another size.
    """
    loss = iou_loss(v) if loss is None else loss.double()
    if not price >= 0 or loss.shape != v.called.shape:
        raise ValueError(
            f"need a price of at least 0 and a loss of shape {tuple(v.called.shape)}, got {price}, {tuple(loss.shape)}"
        )
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


def priced_for_budget(
    v: Validation, *, budget: float, per_class: bool = True, steps: int = 16
) -> Choice:
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


def _largest(
    cost: Callable[[float], float], low: float, high: float, budget: float, *, steps: int = 20
) -> float:
    """The largest argument whose cost is within the budget (to bisection's precision), or ``low``;
    cost grows with the argument.
    """
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
        raise ValueError(
            f"no thresholds cost at most {budget}; the least found: {min(c.relative_cost for c in choices):.3f}"
        )
    return max(affordable, key=lambda choice: choice.score)


def _least_sum(confidence: Tensor, gain: Tensor) -> float:
    """The threshold t for which the sum of ``gain`` over ``confidence > t`` is least; 1 if stopping
    never pays.
    """
    if not len(confidence):
        return 1.0
    confidence, order = confidence.sort(descending=True)
    sums = gain[order].double().cumsum(0)
    # A cut lies between two different confidences; the first that stays is the threshold.
    limits = torch.cat([confidence[1:], confidence.new_tensor([LEAST])])
    sums = sums.masked_fill(confidence == limits, torch.inf)
    best = int(sums.argmin())
    return limits[best].item() if sums[best] < 0 else 1.0
