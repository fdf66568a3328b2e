"""Leads: mean IoU of a way to choose thresholds minus that of another at the same cost."""

from collections.abc import Sequence

import pandas as pd
from scipy.interpolate import make_interp_spline

from eenotes_book import statistics


def leads(runs: Sequence[dict], method: str, other: str = "one threshold") -> pd.DataFrame:
    """The lead of a method over another, per ``budget``: ``mean``, ``low`` and ``high``.

    The ends are those of `eenotes_book.statistics.band`; one run has none.  The two rarely cost
    exactly the same on test; the other's curve is interpolated linearly at the method's cost.

    Args:
        runs: from `eenotes_book.ch04_cbt.experiment.conv_run`.
        method: one of `eenotes_book.ch04_cbt.experiment.BUDGET_METHODS`.
        other: another one.
    """
    tables = [_leads_of(run, method, other) for run in runs]
    curves = [table.lead.tolist() for table in tables]
    if len(runs) > 1:
        return statistics.band(curves).assign(budget=tables[0].budget)
    return pd.DataFrame({"budget": tables[0].budget, "mean": curves[0], "low": None, "high": None})


def mean_leads(runs: Sequence[dict], method: str, other: str = "one threshold") -> list[float]:
    """The lead of a method over another, averaged over the budgets: one number per run."""
    return [float(_leads_of(run, method, other).lead.mean()) for run in runs]


def lead_of_rule(run: dict, name: str) -> float:
    """Mean IoU of a named rule minus that of one threshold at the same cost, in one run."""
    score = run["anytime"][name]
    return score["miou"][-1] - _at_cost(_one_threshold(run), score["cost"][-1])


def _one_threshold(run: dict) -> pd.DataFrame:
    """``cost`` and ``miou`` of every single threshold that was tried."""
    named = [
        {"cost": score["cost"][-1], "miou": score["miou"][-1]}
        for name, score in run.get("anytime", {}).items()
        if name.startswith("single")
    ]
    found = (run["budgets"]["one threshold"], pd.DataFrame(run["singles"]), named)
    return pd.concat(pd.DataFrame(part, columns=["cost", "miou"]) for part in found if len(part))


def _leads_of(run: dict, method: str, other: str) -> pd.DataFrame:
    """One run's ``budget`` and ``lead``."""
    if other == "one threshold":
        curve = _one_threshold(run)
    else:
        curve = pd.DataFrame(run["budgets"][other])[["cost", "miou"]]
    rows = run["budgets"][method]
    ahead = [row["miou"] - _at_cost(curve, row["cost"]) for row in rows]
    return pd.DataFrame({"budget": [row["budget"] for row in rows], "lead": ahead})


def _at_cost(curve: pd.DataFrame, cost: float) -> float:
    """Mean IoU of a curve at a cost: linear between its points.

    Beyond them the line through the nearest pair goes on.
    """
    points = curve.sort_values("cost", kind="stable").drop_duplicates("cost", keep="last")
    if len(points) == 1:
        return float(points.miou.iloc[0])
    return float(make_interp_spline(points.cost, points.miou, k=1)(cost))
