"""Leads: mean IoU of a way to choose thresholds minus that of another at the same cost."""

from collections.abc import Sequence

import pandas as pd
from scipy.interpolate import make_interp_spline


def leads(runs: Sequence[dict], method: str, other: str = "one threshold") -> pd.DataFrame:
    """The lead of a method over another, ``mean`` and ``spread`` over runs, per ``budget``.

    The two rarely cost exactly the same on test; the other's curve is interpolated linearly at the
    method's cost.

    Args:
        runs: from `eenotes_book.ch04_cbt.experiment.conv_run`.
        method: one of `eenotes_book.ch04_cbt.experiment.BUDGET_METHODS`.
        other: another one.
    """
    table = pd.concat(_leads_of(run, method, other) for run in runs)
    grouped = table.groupby("budget").lead
    return pd.DataFrame({"mean": grouped.mean(), "spread": grouped.std()}).reset_index()


def mean_leads(runs: Sequence[dict], method: str, other: str = "one threshold") -> list[float]:
    """The lead of a method over another, averaged over the budgets: one number per run."""
    return [float(_leads_of(run, method, other).lead.mean()) for run in runs]


def _leads_of(run: dict, method: str, other: str) -> pd.DataFrame:
    """One run's ``budget`` and ``lead``."""
    curve = pd.DataFrame(run["budgets"][other])[["cost", "miou"]]
    if other == "one threshold":  # every single threshold that was tried is a point of this curve
        curve = pd.concat([curve, pd.DataFrame(run["singles"])[["cost", "miou"]]])
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
