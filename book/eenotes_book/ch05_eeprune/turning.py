"""When EEPrune pays: leads by the size of the data, turning points, Sorscher et al.'s model.

The model is a perceptron that learns from another one, the teacher, whose samples are kept by their
distance from its border (Sorscher et al., 2022).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eenotes_book.statistics import band, interval


def leads_by_size(rows: Sequence[Mapping], name: str, other: str) -> pd.DataFrame:
    """EEPrune's accuracy minus that of another choice: a row per seed, a column per size.

    Only seeds at which both have run at every size.
    """
    table = pd.DataFrame([row for row in rows if row["data"] == name])
    if table.empty:
        return table
    table = table.pivot_table(index=["seed", "size"], columns="keep", values="accuracy")
    if not {"EEPrune", other} <= set(table):
        return pd.DataFrame()
    return (table["EEPrune"] - table[other]).unstack("size").dropna()


def lead_band(leads: pd.DataFrame) -> pd.DataFrame:
    """``mean``, ``low``, ``high`` by size, of `leads_by_size`; a single seed has no band."""
    if len(leads) == 1:
        nothing = np.full(leads.shape[1], math.nan)
        table = pd.DataFrame({"mean": leads.iloc[0].to_numpy(), "low": nothing, "high": nothing})
    else:
        table = band(leads.to_numpy().tolist())
    return table.set_index(leads.columns)


def turning_point(leads: pd.Series) -> float | None:
    """The size from which on a lead by size is positive.

    Between two sizes the lead is a line over the logarithm of the size.  ``None`` if the lead has
    no change from minus to plus, or is negative at the largest size.
    """
    sizes, values = np.log(leads.index.to_numpy(dtype=float)), leads.to_numpy()
    below = np.flatnonzero(values <= 0)
    if not len(below) or below[-1] == len(values) - 1:
        return None
    i = below[-1]
    share = -values[i] / (values[i + 1] - values[i])
    return float(np.exp(sizes[i] + share * (sizes[i + 1] - sizes[i])))


def turning_interval(points: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of turning points, and its 95 % interval (NaN for one seed)."""
    logs = np.log(points)
    low, high = interval(logs) if len(logs) > 1 else (math.nan, math.nan)
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def perceptron(
    per_weight: Sequence[float], *, ratio: float, weights: int = 60, seeds: int = 5
) -> pd.DataFrame:
    r"""Sorscher et al.'s model: a perceptron learns a teacher's labels from samples that are kept.

    The teacher is $t$, samples are normal, and their labels are the signs of $t^\top x$.  Hard ones
    have a small $|t^\top x|$.  The student is the separator with the widest margin; its error on
    new samples is the angle between it and the teacher, over π.

    Args:
        per_weight: samples before pruning, for each of the weights.
        ratio: of the samples that are dropped.
        weights: of teacher and student.
        seeds: to average over.

    Returns:
        ``seed``, ``size`` (samples per weight), ``keep`` (hard, easy, random), ``accuracy``.
    """
    from sklearn.svm import SVC

    rows = []
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        teacher = draw.standard_normal(weights)
        teacher /= np.linalg.norm(teacher)
        for size in per_weight:
            x = draw.standard_normal((round(size * weights), weights))
            margins = x @ teacher
            order = np.abs(margins).argsort()  # the hardest first
            kept = round((1 - ratio) * len(x))
            for keep, rows_kept in {
                "hard": order[:kept],
                "easy": order[-kept:],
                "random": draw.permutation(len(x))[:kept],
            }.items():
                student = SVC(kernel="linear", C=1e4).fit(x[rows_kept], margins[rows_kept] > 0)
                direction = student.coef_[0] / np.linalg.norm(student.coef_)
                error = math.acos(np.clip(direction @ teacher, -1, 1)) / math.pi
                common = {"seed": seed, "size": size, "keep": keep}
                rows.append(common | {"accuracy": 1 - error})
    return pd.DataFrame(rows)
