"""The search of `eenotes.thresholds.thresholds_for_budgets`: one number, then one exit at a time.

Every exit has its own threshold, and random vectors of many thresholds are rarely good.  One
threshold for all exits, and one quantile for all exits, are searched completely; the best vectors
are then improved.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eenotes.inference import first_exit

if TYPE_CHECKING:
    from eenotes.thresholds import Answers

_LEVELS = 24  # thresholds that each exit may take: few, so that the search does not fit the noise
_SWEEPS = 4  # over the exits, at most
_EQUAL = 1e-9  # of accuracy: less is rounding
_REACH = 0.08  # of relative cost, over which the slope of a front is taken
_FACTORS = (0.7, 1.0, 1.4)  # prices that are tried around that slope


@dataclass(frozen=True)
class Split:
    """Every exit's answers to N samples; a sample exits where its score is above the threshold."""

    score: Tensor  #: ``(J-1, N)``
    right: Tensor  #: ``(J, N)`` float64, 1 where the answer is right
    stages: Tensor  #: ``(J,)`` float64, relative cost of all stages up to each
    tests: Tensor  #: ``(J-1,)`` float64, relative cost of each exit test
    closed: float  #: the threshold that no sample passes
    lowest: float  #: a threshold that every sample passes

    @classmethod
    def of(cls, answers: "Answers", sign: int) -> "Split":
        """Answers whose samples exit where ``sign`` times the score is above ``sign`` times it."""
        costs, score = answers.costs, sign * answers.score[:-1].cpu()
        low, high = sorted(sign * limit for limit in answers.rule.limits)
        return cls(
            score,
            (answers.prediction == answers.labels).double().cpu(),
            torch.tensor(costs.stages, dtype=torch.float64).cumsum(0) / costs.backbone,
            torch.tensor(costs.exits, dtype=torch.float64) / costs.backbone,
            closed=high,
            lowest=max(low, score.min().item() - 1),
        )

    def cost(self, thresholds: Tensor) -> Tensor:
        """The relative cost of exiting at each exit, ``(J,)``: closed exits are not tested."""
        tests = torch.where(thresholds < self.closed, self.tests, 0)
        return self.stages + torch.cat([tests, tests.new_zeros(1)]).cumsum(0)


def search(split: Split, starts: Tensor, budgets: Sequence[float]) -> tuple[Tensor, list[float]]:
    """The best thresholds found for every budget that can be kept.

    Args:
        split: the samples to choose on.
        starts: vectors ``(M, J-1)`` to begin with, beside those of `common`.
        budgets: relative costs.

    Returns:
        Vectors ``(M, J-1)`` and their budgets.

    Raises:
        ValueError: if no budget can be kept.
    """
    pools = [common(split)]
    for start in starts:
        pools.append((start[None], _along(split, start, 0, start[:1])))
    vectors, numbers = (torch.cat(part) for part in zip(*pools, strict=True))
    kept = [budget for budget in budgets if (numbers[:, 1] <= budget).any()]
    if not kept:
        raise ValueError(
            f"no thresholds cost at most {max(budgets)}; the cheapest: {numbers[:, 1].min():.3f}"
        )
    # A budget is a wall that stops most single changes; a price lets accuracy and cost go together.
    for budget in kept:
        start, price = vectors[_best(numbers, budget)], _price(numbers, budget)
        for factor in _FACTORS:
            better, reached = improve(split, start, price=factor * price)
            vectors, numbers = torch.cat([vectors, better[None]]), torch.cat([numbers, reached])
    best = [improve(split, vectors[_best(numbers, b)], budget=b)[0] for b in kept]
    return torch.stack(best), kept


def _best(numbers: Tensor, budget: float) -> Tensor:
    """The most accurate row of accuracy and cost ``(M, 2)`` within the budget."""
    return numbers[:, 0].masked_fill(numbers[:, 1] > budget, -1).argmax()


def _price(numbers: Tensor, budget: float) -> float:
    """What cost is worth in accuracy around the budget: the slope of the front."""
    cheaper, dearer = (numbers[_best(numbers, budget + by), 0] for by in (-_REACH, _REACH))
    return ((dearer - cheaper) / (2 * _REACH)).clamp_min(0).item()


def common(split: Split) -> tuple[Tensor, Tensor]:
    """The front of one threshold for all exits, and that of one quantile for all exits.

    With m the largest score up to exit j, a sample exits at j or before where m > t.  So sorting
    all m tells accuracy and cost for every t at once.

    Returns:
        The vectors ``(M, J-1)``, and their accuracy and relative cost ``(M, 2)``.
    """
    early, N = split.score.shape
    ordered = split.score.sort(1).values.contiguous()
    # How many samples of an exit have a smaller score.  Above the r-th smallest: more than r.
    ranks = torch.searchsorted(ordered, split.score.contiguous()).double()
    level, numbers = _path(split, split.score.double())
    same = level.clamp_min(split.lowest)[:, None].expand(-1, early)
    rank, of_ranks = _path(split, ranks)
    at = rank.clamp(0, N - 1).long()
    quantiles = torch.where(rank >= 0, ordered[:, at].double(), split.lowest).T
    return torch.cat([same, quantiles]), torch.cat([numbers, of_ranks])


def _path(split: Split, score: Tensor) -> tuple[Tensor, Tensor]:
    """Every threshold for all exits that matters, ``(M,)``, with accuracy and cost ``(M, 2)``."""
    early, N = score.shape
    cost = split.stages + torch.cat([split.tests, split.tests.new_zeros(1)]).cumsum(0)
    change = torch.stack([split.right, cost[:, None].expand(-1, N)])
    change = (change[:, :-1] - change[:, 1:]).flatten(1)
    falling, order = score.cummax(0).values.flatten().sort(descending=True)
    sums = torch.cat([change.new_zeros(2, 1), change[:, order].cumsum(1)], 1)
    end = torch.stack([split.right[-1].sum(), cost[-1] * N])
    # before the first sample, between two different ones, and after the last
    level = torch.cat([falling, falling[-1:] - 1])
    new = torch.cat([falling.new_ones(1, dtype=torch.bool), falling[1:] < falling[:-1]])
    everybody = falling.new_tensor([split.lowest < split.score[0].min()], dtype=torch.bool)
    new = torch.cat([new, everybody])
    numbers = ((end[:, None] + sums) / N)[:, new].T
    kept = _undominated(numbers)
    return level[new][kept], numbers[kept]


def _undominated(numbers: Tensor) -> Tensor:
    """The rows of accuracy and cost ``(M, 2)`` that are more accurate than all cheaper ones."""
    order = numbers[:, 1].argsort(stable=True)
    accuracy = numbers[order, 0]
    before = torch.cat([accuracy.new_tensor([-1.0]), accuracy.cummax(0).values[:-1]])
    return order[accuracy > before]


def improve(
    split: Split, thresholds: Tensor, *, budget: float = math.inf, price: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Change one exit's threshold at a time, as long as accuracy less the cost's price rises.

    Args:
        split: the samples to choose on.
        thresholds: ``(J-1,)``, to start from; their relative cost is within the budget.
        budget: the largest relative cost.
        price: the accuracy that is worth one whole backbone.

    Returns:
        Thresholds ``(J-1,)`` that are no worse, and their accuracy and relative cost ``(1, 2)``.
    """
    levels, best, reached = _levels(split), thresholds.clone(), None
    for _ in range(_SWEEPS):
        before = best.clone()
        for j in range(len(best)):
            candidates = torch.cat([best[j : j + 1], levels[j]])
            numbers = _along(split, best, j, candidates)
            worth = numbers[:, 0] - price * numbers[:, 1]
            worth[1:] = worth[1:].masked_fill(numbers[1:, 1] > budget, -math.inf)
            equal = (worth >= worth.max() - _EQUAL).nonzero()[:, 0]
            found = equal[numbers[equal, 1].argmin()]
            best[j], reached = candidates[found], numbers[found, None]
        if torch.equal(best, before):
            break
    return best, reached


def _levels(split: Split) -> Tensor:
    """The thresholds that each exit may take, ``(J-1, L)``: quantiles of its scores, and closed."""
    ordered = split.score.sort(1).values.double()
    at = torch.linspace(0, ordered.shape[1] - 1, _LEVELS + 1)[:-1].long()
    closed = ordered.new_full((len(ordered), 1), split.closed)
    return torch.cat([ordered[:, at], closed], 1)


def _along(split: Split, thresholds: Tensor, j: int, candidates: Tensor) -> Tensor:
    """Accuracy and cost ``(L, 2)`` with each candidate for exit ``j``, the others as they are."""
    N = split.score.shape[1]
    leave = split.score > thresholds.to(split.score)[:, None]
    leave[j] = False
    later = first_exit(leave)  # if no sample leaves at j
    shut = thresholds.clone()
    shut[j] = split.closed
    cost, reach = split.cost(shut), later > j
    without = torch.stack([split.right.gather(0, later[None])[0], cost[later]])
    change = torch.stack([split.right[j], cost[j].expand(N)]) - without
    gone = (split.score[j] > candidates.to(split.score)[:, None]) & reach
    numbers = (gone.double() @ change.T + without.sum(1)) / N
    numbers[:, 1] += (candidates < split.closed) * split.tests[j] * reach.double().mean()
    return numbers
