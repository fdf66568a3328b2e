"""Class thresholds for a budget: CBT's two ends, one threshold, and thresholds of equal prices.

None of this is in the paper.  All choose on a validation split, see `validation`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from eenotes._checks import require_classes
from eenotes.costs import Costs
from eenotes.methods.cbt import Statistics
from eenotes.network import for_doubles
from eenotes.rules import Confidence, PerClass
from eenotes.thresholds import Answers

_BETAS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.9995)
_LEAST = 0.5  # above one half only the likeliest class can exceed its threshold


@dataclass(frozen=True)
class Choice:
    """Thresholds chosen on one split, with their cost and mean IoU there."""

    thresholds: Tensor  #: ``(K,)`` or ``(J-1, K)``
    relative_cost: float
    score: float  #: mean IoU
    alpha: float | None = None
    beta: float | None = None
    price: float | None = None

    @property
    def rule(self) -> PerClass:
        """The rule with these thresholds."""
        return PerClass(self.thresholds)


def validation(logits: Tensor, labels: Tensor, costs: Costs) -> Answers:
    """The exits' answers ``(J, N, K)`` to samples with labels ``(N,)``, to choose thresholds on."""
    require_classes(labels, logits[0].shape[-1])
    return Answers(logits, labels.long(), Confidence(1.0), costs)


def exit_index(v: Answers, thresholds: Tensor) -> Tensor:
    """Where each sample exits, ``(N,)``, with thresholds ``(K,)`` or ``(J-1, K)`` of `PerClass`.

    From one half on only the likeliest class can exceed its own threshold.

    Raises:
        ValueError: thresholds below one half, or of another shape.
    """
    K, early = v.num_classes, len(v.score) - 1
    if (thresholds < _LEAST).any() or thresholds.shape not in ((K,), (early, K)):
        shapes = f"({K},) or ({early}, {K}), got {tuple(thresholds.shape)}"
        raise ValueError(f"thresholds must be at least {_LEAST} and of shape {shapes}")
    return v.exit_index(thresholds.expand(early, K))


def cost(v: Answers, thresholds: Tensor) -> float:
    """The mean relative cost with thresholds ``(K,)`` or ``(J-1, K)``."""
    return v.relative_cost[exit_index(v, thresholds)].mean().item()


def choice(v: Answers, thresholds: Tensor, **how) -> Choice:
    """Cost and mean IoU of thresholds ``(K,)`` or ``(J-1, K)``."""
    index = exit_index(v, thresholds)
    prediction = v.prediction.gather(0, index[None])[0]
    score = mean_iou(prediction, v.labels, v.num_classes)
    return Choice(thresholds, v.relative_cost[index].mean().item(), score, **how)


def mean_iou(prediction: Tensor, labels: Tensor, num_classes: int) -> float:
    """The Jaccard index of predictions and labels ``(N,)``, averaged over classes that occur."""
    require_classes(labels, num_classes)
    require_classes(prediction, num_classes)
    from torchmetrics.functional.classification import multiclass_jaccard_index

    return multiclass_jaccard_index(prediction, labels, num_classes, average="macro").item()


def scale_for_budget(
    found: Statistics, v: Answers, *, budget: float, shared: bool = True
) -> Choice:
    """The [alpha, beta] with the best mean IoU among those that cost at most ``budget``.

    For each of ten betas the largest alpha that keeps the budget, at least one half, is found by
    bisection.  ``shared`` says whether it is CBT or CBT-ns.

    Raises:
        ValueError: even the smallest thresholds cost more.
    """
    choices = []
    for beta in _BETAS:
        at = partial(found.thresholds, beta=beta, shared=shared)
        alpha = _largest(lambda value, at=at: cost(v, at(alpha=value)), _LEAST, beta, budget)
        choices.append(choice(v, at(alpha=alpha), alpha=alpha, beta=beta))
    return _best(choices, budget)


def single_for_budget(v: Answers, *, budget: float) -> Choice:
    """One threshold for all classes and exits: the largest that keeps the budget."""
    same = torch.ones(v.num_classes)
    threshold = _largest(lambda value: cost(v, value * same), _LEAST, 1.0, budget)
    return _best([choice(v, threshold * same, alpha=threshold, beta=threshold)], budget)


def iou_loss(v: Answers) -> Tensor:
    r"""How much mean IoU each prediction costs, to first order (4.5): ``(J, N)``, 0 where right.

    With $U_k$ the union and $I_k$ the intersection of class k at the last exit, a pixel of class y
    with the prediction l ≠ y takes $\frac1K\bigl(\frac1{U_y} + \frac{I_l}{U_l^2}\bigr)$ from it.
    """
    last, labels, K = v.prediction[-1], v.labels, v.num_classes
    truth = torch.bincount(labels, minlength=K).double()
    inter = torch.bincount(labels[last == labels], minlength=K).double()
    union = (truth + torch.bincount(last, minlength=K) - inter).clamp_min(1)
    loss = (1 / union[labels] + (inter / union.square())[v.prediction]) / (truth > 0).sum()
    return loss.masked_fill(v.prediction == labels, 0.0)


def priced(
    v: Answers, *, price: float, per_class: bool = True, loss: Tensor | None = None
) -> Tensor:
    """Thresholds ``(J-1, K)`` at which an exiting sample loses what its work is worth (4.6).

    A sample that exits at j pays its loss ``(J, N)`` there, by default `iou_loss`, plus ``price``
    times its cost; one that goes on pays what it pays later.  From the last early exit to the
    first, and for every predicted class, or for all together, the threshold minimises the sum over
    the samples.

    Raises:
        ValueError: a negative price, or a loss of another size.
    """
    loss = iou_loss(v) if loss is None else for_doubles(loss).double()
    if not price >= 0 or loss.shape != v.prediction.shape:
        shapes = f"{tuple(v.prediction.shape)}, got {tuple(loss.shape)}"
        raise ValueError(f"need a price ≥ 0, got {price}, and a loss {shapes}")
    pay = loss + (price * v.relative_cost / len(v.labels))[:, None]
    early, K = len(pay) - 1, v.num_classes
    thresholds, going_on = torch.ones(early, K), pay[-1]
    for j in reversed(range(early)):
        may_exit, predicted = v.score[j] > _LEAST, v.prediction[j]
        for k in range(K) if per_class else [slice(None)]:
            group = may_exit & (predicted == k) if per_class else may_exit
            thresholds[j, k] = _least_sum(v.score[j][group], (pay[j] - going_on)[group])
        exits = v.score[j] > thresholds[j].to(predicted.device)[predicted]
        going_on = torch.where(exits, pay[j], going_on)
    return thresholds


def priced_for_budget(v: Answers, *, budget: float, per_class: bool = True) -> Choice:
    """`priced` at the lowest price that keeps the budget, by bisection on its logarithm."""
    at = partial(priced, v, per_class=per_class, loss=iou_loss(v))
    # _largest needs a cost that grows with its argument: a cheaper price is a higher cost.
    exponent = _largest(lambda value: cost(v, at(price=10.0**-value)), -3.0, 6.0, budget, steps=16)
    price = 10.0**-exponent
    return _best([choice(v, at(price=price), price=price)], budget)


def _largest(
    cost: Callable[[float], float], low: float, high: float, budget: float, *, steps: int = 20
) -> float:
    """The largest argument with a cost within the budget, or ``low``; costs grow with it."""
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
        least = min(choice.relative_cost for choice in choices)
        raise ValueError(f"no thresholds cost at most {budget}; the least found: {least:.3f}")
    return max(affordable, key=lambda choice: choice.score)


def _least_sum(confidence: Tensor, gain: Tensor) -> float:
    """The threshold t with the smallest sum of ``gain`` over ``confidence > t``.

    It is 1 if exiting never pays.
    """
    if not len(confidence):
        return 1.0
    confidence, order = confidence.sort(descending=True)
    sums = gain[order].double().cumsum(0)
    # A cut lies between two different confidences; the first that stays is the threshold.
    limits = torch.cat([confidence[1:], confidence.new_tensor([_LEAST])])
    sums = sums.masked_fill(confidence == limits, torch.inf)
    best = int(sums.argmin())
    return limits[best].item() if sums[best] < 0 else 1.0
