"""Question 4, a cascade over two sensors: which exit of which modality suffices for which class."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_jaccard_index

from eenotes.costs import Costs
from eenotes.thresholds import Answers
from eenotes_book import cbt_budgets
from eenotes_book.ch08_open.streets import CLASSES, Senses

Step = tuple[str, int]  # a modality and its exit, from 0
PLANS: dict[str, list[Step]] = {
    "image": [("image", j) for j in range(3)],
    "depth": [("depth", j) for j in range(3)],
    "depth first": [(m, j) for j in range(3) for m in ("depth", "image")],
    "image first": [(m, j) for j in range(3) for m in ("image", "depth")],
}


def cascade(
    known: Mapping[str, Tensor], costs: Mapping[str, Costs], plan: Sequence[Step]
) -> tuple[Tensor, Costs]:
    """A cascade over several modalities as one list of exits.

    After a step everything that is known is used: the log-probabilities of the latest exit of each
    modality so far are added, as if the modalities erred independently (8.6).

    Args:
        known: modality → log-probabilities of its exits ``(J, N, K)``.
        costs: of each modality's network.
        plan: which exits, one after the other.

    Returns:
        Logits ``(S, N, K)`` after each step, and the costs of the steps.

    Raises:
        ValueError: no step, a modality or an exit that does not exist, or a modality's exits out of
            order.
    """
    latest: dict[str, Tensor] = {}
    logits, stages, exits = [], [], []
    for m, j in plan:
        position = sum(other == m for other, _ in plan[: len(logits)])
        if m not in known or j != position or j >= len(known[m]):
            raise ValueError(
                f"step {(m, j)}: a plan names the exits of {', '.join(known)} from 0 on, "
                "each modality's in order"
            )
        latest[m] = known[m][j]
        logits.append(torch.stack(list(latest.values())).sum(0))
        stages.append(costs[m].stages[j])
        exits.append(costs[m].exits[j] if j < len(costs[m].exits) else 0)
    if not logits:
        raise ValueError("the plan has no step: name at least one modality and exit")
    return torch.stack(logits), Costs(tuple(stages), tuple(exits[:-1]))


def class_table(v: Senses) -> pd.DataFrame:
    """Test IoU of every class (rows) at every source (columns).

    The sources are the exits of each modality alone, and both last exits together (``"both"``).
    """
    known, labels = v.seen("test")
    columns = {f"{m} {j + 1}": z for m, logits in known.items() for j, z in enumerate(logits)}
    columns["both"] = known["image"][-1] + known["depth"][-1]
    iou = {
        name: multiclass_jaccard_index(
            z.argmax(1), labels, num_classes=len(CLASSES), average=None
        ).tolist()
        for name, z in columns.items()
    }
    return pd.DataFrame(iou, index=CLASSES)


def sufficient(
    table: pd.DataFrame, cost: pd.Series, *, within: float = 0.02, least: float = 0.1
) -> pd.Series:
    """Per class the cheapest source that is nearly as good as both last exits together.

    Args:
        table: IoU, one row per class, one column per source, one of them called ``both``.
        cost: of each column.
        within: how far below ``both`` the IoU may be.
        least: a class that no source finds with at least this IoU has no sufficient source:
            ``"none"``.
    """
    good = table.ge(table["both"] - within, axis=0) & (table >= least)
    return good.apply(lambda row: cost[row.index[row]].idxmin() if row.any() else "none", axis=1)


def source_costs(v: Senses) -> pd.Series:
    """Relative cost of each column of `class_table`; 1 is the whole image network without exits."""
    unit = v.costs["image"].backbone
    cost = {
        f"{m} {j + 1}": macs / unit
        for m, costs in v.costs.items()
        for j, macs in enumerate(costs.cumulative.tolist())
    }
    return pd.Series(cost | {"both": cost["image 3"] + cost["depth 3"]})


def plan_table(
    v: Senses, budgets: Sequence[float], plans: Sequence[str] = tuple(PLANS)
) -> pd.DataFrame:
    """Thresholds chosen on validation for every plan and budget.

    There is one threshold per step for all classes, or one per step and class, both at equal
    marginal loss (chapter 4).  Costs are relative to the whole image network; places that have
    exited are not computed, and nothing is filled in for them (their neighbours see them).

    Returns:
        ``plan``, ``thresholds``, ``budget``, and on test ``cost``, ``miou``; a budget below the
        cost of the first step has no row.
    """
    rows = []
    for name in plans:
        val, test = _answers(v, name, "val"), _answers(v, name, "test")
        unit = val.costs.backbone / v.costs["image"].backbone
        for budget in budgets:
            for kind, per_class in (("per step", False), ("per step and class", True)):
                try:
                    chosen = cbt_budgets.priced_for_budget(
                        val, budget=budget / unit, per_class=per_class
                    )
                except ValueError:  # even the first step costs more
                    continue
                found = cbt_budgets.choice(test, chosen.thresholds)
                row = {"plan": name, "thresholds": kind, "budget": budget}
                rows.append(row | {"cost": found.relative_cost * unit, "miou": found.score})
    return pd.DataFrame(rows)


def exit_shares(v: Senses, plan: str, budget: float) -> pd.DataFrame:
    """Of the test places of each class (rows) the share that exits at each step (columns).

    Thresholds are per step and class, chosen on validation for the budget.
    """
    val, test = _answers(v, plan, "val"), _answers(v, plan, "test")
    unit = val.costs.backbone / v.costs["image"].backbone
    chosen = cbt_budgets.priced_for_budget(val, budget=budget / unit)
    at = cbt_budgets.exit_index(test, chosen.thresholds)
    names = [f"{m} {j + 1}" for m, j in PLANS[plan]]
    rows = [
        torch.bincount(at[test.labels == k], minlength=len(names)) / (test.labels == k).sum()
        for k in range(test.num_classes)
    ]
    return pd.DataFrame(torch.stack(rows).tolist(), index=CLASSES, columns=names)


def _answers(v: Senses, plan: str, split: str) -> Answers:
    known, labels = v.seen(split)
    logits, costs = cascade(known, v.costs, PLANS[plan])
    return cbt_budgets.validation(logits, labels, costs)
