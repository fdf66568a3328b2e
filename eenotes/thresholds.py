"""Which threshold: from cached exit logits to an operating point.

Choose on one split, report on another: every function here takes the logits of one split, and a
table row's thresholds can be given to `evaluate` with the logits of another.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from eenotes.costs import Costs
from eenotes.inference import Outcome, check_answers, simulate
from eenotes.rules import Confidence, Entropy, Rule

if TYPE_CHECKING:
    import pandas as pd


BUDGETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # relative costs


def evaluate(
    logits: Tensor, labels: Tensor, rule: Rule, costs: Costs
) -> dict[str, float | list[float]]:
    """Accuracy and cost of a rule on cached logits ``(J, N, K)`` with labels ``(N,)``.

    Returns:
        ``accuracy``, ``relative_cost`` and ``overhead`` (both in units of the backbone without
        exits) and ``left``, the share of the
        samples that leaves at each exit.

    Raises:
        ValueError: what `eenotes.simulate` raises, labels that are not ``(N,)``, or the costs of
            another number of exits.
    """
    _check_costs(costs, num_exits=len(logits))
    return summarise(simulate(logits, rule), labels, costs)


def summarise(outcome: Outcome, labels: Tensor, costs: Costs) -> dict[str, float | list[float]]:
    """The numbers of `evaluate` for the outcome of any run, given its labels ``(N,)``.

    Raises:
        ValueError: labels that are not ``(N,)``, or an exit that the costs do not have.
    """
    _check_labels(labels, len(outcome.prediction))
    left = torch.bincount(outcome.exit_index, minlength=len(costs.stages)) / len(labels)
    return {
        "accuracy": (outcome.prediction == labels).double().mean().item(),
        "relative_cost": costs.relative_cost(outcome.exit_index).mean().item(),
        "overhead": costs.overhead(outcome.exit_index).mean().item(),
        "left": left.tolist(),
    }


def draw_thresholds(
    logits: Tensor,
    rule: Confidence | Entropy,
    *,
    count: int,
    seed: int = 0,
    how: Literal["quantile", "uniform"] = "quantile",
) -> Tensor:
    """Random threshold vectors, ``(count, J-1)``, for a rule whose own thresholds do not matter.

    ``"quantile"`` draws each exit's threshold among that exit's own values, so that every share of
    leavers is as likely as any other, and closes exits at random; ``"uniform"`` draws from [0, 1]
    (Confidence only), which hardly ever opens an exit whose confidences stay low.

    Args:
        logits: of all exits, ``(J, N, K)``.
        rule: of the kind that shall get the thresholds.
        count: how many vectors.
        seed: of the drawing.
        how: see above.

    Raises:
        ValueError: another ``how``, or ``"uniform"`` for a rule that is no `Confidence`.
    """
    if how not in ("quantile", "uniform") or (
        how == "uniform" and not isinstance(rule, Confidence)
    ):
        raise ValueError(
            f"how={how!r} must be 'quantile', or 'uniform' for a Confidence rule, got {type(rule).__name__}"
        )
    generator = torch.Generator().manual_seed(seed)
    num_early = len(logits) - 1
    draws = torch.rand(count, num_early, generator=generator, dtype=torch.float64)
    if how == "uniform":
        return draws
    values = (
        torch.stack([rule.observe(j, logits[j])[2] for j in range(num_early)])
        .double()
        .cpu()
        .sort(1)
        .values
    )
    # no confidence exceeds 1, no entropy is below 0
    closed, opened = (1.0, values) if isinstance(rule, Confidence) else (0.0, values.flip(1))
    # Some vectors use every exit, some only one: how many are open is drawn first.
    open_share = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    is_open = torch.rand(count, num_early, generator=generator, dtype=torch.float64) < open_share
    picked = opened.gather(1, (draws * values.shape[1]).long().T).T
    return torch.where(is_open, picked, closed)


def sweep(
    logits: Tensor,
    labels: Tensor,
    rule: Confidence | Entropy,
    costs: Costs,
    *,
    thresholds: Tensor | Sequence,
) -> "pd.DataFrame":
    """`evaluate` for many threshold vectors ``(M, J-1)`` at once; one row each.

    The statistics of all exits are computed once, whatever M.

    Args:
        logits: of all exits, ``(J, N, K)``.
        labels: ``(N,)``.
        rule: of the kind that gets the thresholds; its own do not matter.
        costs: from `count_macs`.
        thresholds: ``(M, J-1)``.

    Returns:
        A table with the columns ``thresholds`` (a tuple), ``accuracy``, ``relative_cost``,
        ``overhead``.

    Raises:
        ValueError: no samples, NaN logits, labels that are not ``(N,)``, no threshold vector,
            vectors of another length than J-1 or with values that the rule does not take, or the
            costs of another number of exits.
    """
    import pandas as pd

    thresholds = torch.as_tensor(thresholds, dtype=torch.float64)
    num_exits = len(logits)
    if len(labels) == 0 or not len(thresholds):
        raise ValueError("a sweep needs at least one sample and one threshold vector")
    _check_labels(labels, len(logits[0]))
    _check_costs(costs, num_exits=num_exits)
    if thresholds.shape != (len(thresholds), num_exits - 1):
        raise ValueError(
            f"threshold vectors for {num_exits - 1} early exits must be (M, {num_exits - 1}), got {tuple(thresholds.shape)}"
        )
    for extreme in (thresholds.amin(0), thresholds.amax(0)):  # NaN wins both
        replace(rule, thresholds=extreme.tolist()).check(num_exits)
    seen = [rule.observe(j, z) for j, z in enumerate(logits)]
    for j, (_, _, values) in enumerate(seen):
        check_answers(j, values)
    correct = torch.stack([prediction == labels for prediction, _, _ in seen])
    statistic = torch.stack([values for _, _, values in seen[:-1]])
    relative, overhead = (
        (costs.cumulative / costs.backbone).tolist(),
        costs.overhead(torch.arange(num_exits)).tolist(),
    )
    rows = []
    for vector in thresholds:
        # the rule compares in the precision of its thresholds, which are Python floats
        leave = torch.stack(
            [
                rule.leaves(values, limit.item())
                for values, limit in zip(statistic, vector, strict=True)
            ]
        )
        exit_index = torch.cat([leave, leave.new_ones(1, leave.shape[1])]).int().argmax(0)
        share = torch.bincount(exit_index, minlength=num_exits).double() / len(labels)
        rows.append(
            {
                "thresholds": tuple(vector.tolist()),
                "accuracy": correct.gather(0, exit_index[None]).double().mean().item(),
                "relative_cost": sum(
                    share_j * cost for share_j, cost in zip(share.tolist(), relative, strict=True)
                ),
                "overhead": sum(
                    share_j * cost for share_j, cost in zip(share.tolist(), overhead, strict=True)
                ),
            }
        )
    return pd.DataFrame(rows)


def pareto_front(table: "pd.DataFrame", *, convex: bool = False) -> "pd.DataFrame":
    """The rows that no other row beats in both cost and accuracy, cheapest first; with ``convex``
    only those on the upper hull.
    """
    ordered = table.sort_values(
        ["relative_cost", "accuracy"], ascending=[True, False], ignore_index=True
    )
    front = ordered[
        ordered.accuracy > ordered.accuracy.cummax().shift(fill_value=-1.0)
    ].reset_index(drop=True)
    if not convex:
        return front
    hull: list[int] = []
    cost, accuracy = front.relative_cost.to_numpy(), front.accuracy.to_numpy()
    for i in range(len(front)):
        while len(hull) > 1 and _below(hull[-2], hull[-1], i, cost, accuracy):
            hull.pop()
        hull.append(i)
    return front.loc[hull].reset_index(drop=True)


def thresholds_for_budgets(
    logits: Tensor,
    labels: Tensor,
    rule: Confidence | Entropy,
    costs: Costs,
    *,
    draws: int,
    seed: int = 0,
    budgets: Sequence[float] = BUDGETS,
) -> "pd.DataFrame":
    """Draw threshold vectors, and for every budget keep the most accurate that costs no more.

    Args:
        logits: of all exits, ``(J, N, K)``: those of the split to choose on.
        labels: ``(N,)``.
        rule: of the kind that gets the thresholds.
        costs: from `count_macs`.
        draws: how many vectors.
        seed: of the drawing.
        budgets: relative costs; one that no vector keeps is left out.

    Returns:
        One row per budget that can be kept: ``budget`` and the columns of `sweep`.
    """
    import pandas as pd

    drawn = draw_thresholds(logits, rule, count=draws, seed=seed)
    front = pareto_front(sweep(logits, labels, rule, costs, thresholds=drawn))
    kept = [budget for budget in budgets if front.relative_cost.min() <= budget]
    return pd.DataFrame(
        [{"budget": budget, **for_budget(front, max_relative_cost=budget)} for budget in kept]
    )


def for_budget(table: "pd.DataFrame", *, max_relative_cost: float) -> "pd.Series":
    """The most accurate row that costs at most so much; the cheapest of several.

    Raises:
        ValueError: if none does; it says what the cheapest costs.
    """
    affordable = table[table.relative_cost <= max_relative_cost]
    if affordable.empty:
        raise ValueError(
            f"no row costs at most {max_relative_cost}; the cheapest costs {table.relative_cost.min():.3f}"
        )
    return affordable.sort_values(["accuracy", "relative_cost"], ascending=[False, True]).iloc[0]


def for_accuracy(table: "pd.DataFrame", *, min_accuracy: float) -> "pd.Series":
    """The cheapest row that is at least so accurate; the most accurate of several.

    Raises:
        ValueError: if none is; it says how accurate the best is.
    """
    good = table[table.accuracy >= min_accuracy]
    if good.empty:
        raise ValueError(
            f"no row reaches an accuracy of {min_accuracy}; the best reaches {table.accuracy.max():.3f}"
        )
    return good.sort_values(["relative_cost", "accuracy"], ascending=[True, False]).iloc[0]


def _check_labels(labels: Tensor, count: int) -> None:
    """Raise a ValueError unless there is one label per sample, ``(N,)``: any other shape would
    broadcast.
    """
    if labels.shape != (count,):
        raise ValueError(
            f"need one label for each of {count} samples, labels of shape ({count},), got {tuple(labels.shape)}"
        )


def _check_costs(costs: Costs, *, num_exits: int) -> None:
    if len(costs.stages) != num_exits:
        raise ValueError(
            f"the costs are of {len(costs.stages)} stages, the logits of {num_exits} exits"
        )


def _below(a: int, b: int, c: int, cost, accuracy) -> bool:
    """Whether point b lies on or below the line from a to c."""
    return (accuracy[b] - accuracy[a]) * (cost[c] - cost[a]) <= (accuracy[c] - accuracy[a]) * (
        cost[b] - cost[a]
    )
