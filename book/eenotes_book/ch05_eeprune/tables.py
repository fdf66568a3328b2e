"""Tables of chapter 5: the numbers of its runs, ordered for figures and claims."""

import math
from collections.abc import Sequence

import pandas as pd

from eenotes_book.ch05_eeprune.experiment import EXTRAS, METHODS, NONE
from eenotes_book.statistics import mean, spread


def curve_table(runs: Sequence[dict], ratio: float) -> pd.DataFrame:
    """Test accuracy on the way, mean over the runs.

    Returns:
        ``method``, ``training`` and ``total`` (samples seen, scoring included), ``accuracy``,
        ``spread`` (NaN for one run).
    """
    rows = []
    for run in runs:
        for method, part in ({NONE: run["none"]} | run["runs"][f"{ratio:g}"]).items():
            cost = run["scoring"][method]["samples"] if method != NONE else 0
            rows += [
                {"method": method, "training": seen, "total": seen + cost, "accuracy": accuracy}
                for seen, accuracy in zip(part["seen"], part["accuracy"], strict=True)
            ]
    groups = pd.DataFrame(rows).groupby(["method", "training", "total"], sort=False)["accuracy"]
    return groups.agg(accuracy="mean", spread="std").reset_index()


def final_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Test accuracy at the end of the budget: a row per method, a column per ratio."""
    columns = {}
    for ratio in runs[0]["runs"]:
        finals = {
            method: [final(run, method, ratio) for run in runs] for method in (NONE, *METHODS)
        }
        columns[f"{float(ratio):.0%} dropped"] = {
            method: _plus_minus(values) for method, values in finals.items()
        }
    return pd.DataFrame(columns)


def final(run: dict, method: str, ratio: str) -> float:
    """A method's accuracy at the end of the budget."""
    return (run["none"] if method == NONE else run["runs"][ratio][method])["accuracy"][-1]


def lead(runs: Sequence[dict], method: str, other: str, ratio: str) -> list[float]:
    """Accuracy of one method minus that of another, run by run."""
    return [final(run, method, ratio) - final(run, other, ratio) for run in runs]


def lead_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Accuracy at the end minus that of random pruning with the same seed.

    Returns:
        ``method``, ``ratio``, ``lead`` (mean over the runs), ``spread`` (NaN for one run).
    """
    rows = []
    for ratio in runs[0]["runs"]:
        for method in (NONE, *METHODS):
            values = lead(runs, method, "Random", ratio)
            row = {"method": method, "ratio": float(ratio)}
            rows.append(row | {"lead": mean(values), "spread": spread(values)})
    return pd.DataFrame(rows).astype({"spread": float})


def scoring_table(runs: Sequence[dict]) -> pd.DataFrame:
    """What scoring has cost, a row per method, averaged over the runs.

    Returns:
        ``passes`` (samples seen, in units of the data set), ``seconds``, and ``joules`` where a
        meter was readable in every run.
    """
    rows = {}
    for method in METHODS:
        found = [run["scoring"][method] for run in runs]
        joules = [part["joules"] for part in found]
        rows[method] = {
            "passes": mean([passes(run, method) for run in runs]),
            "seconds": mean([part["seconds"] for part in found]),
            "joules": math.nan if None in joules else mean(joules),
        }
    return pd.DataFrame(rows).T.dropna(axis="columns")


def location_table(groups: dict[str, Sequence[dict]]) -> pd.DataFrame:
    """Accuracy by the place of the early exit, at each ratio; the thesis's numbers come last."""
    names = {"before": "EEPrune-Before", "middle": "EEPrune", "after": "EEPrune-After"}
    columns = {}
    for data, runs in groups.items():
        for ratio in runs[0]["runs"]:
            cells = {
                place: _plus_minus([final(run, method, ratio) for run in runs])
                for place, method in names.items()
            }
            columns[data, f"{float(ratio):.0%}"] = cells
    thesis = {
        "10%": (".680", ".734", ".656"),
        "30%": (".677", ".723", ".670"),
        "60%": (".676", ".685", ".676"),
    }
    columns |= {
        ("thesis, CIFAR-100", ratio): dict(zip(names, values, strict=True))
        for ratio, values in thesis.items()
    }
    return pd.DataFrame(columns)


def extras_table(
    groups: dict[str, Sequence[dict]], more: dict[str, Sequence[dict]]
) -> pd.DataFrame:
    """The experiments beyond the thesis, beside EEPrune and random pruning at the same ratio.

    Returns:
        ``data``, ``method``, ``accuracy`` (text), ``mean``, ``kept`` (samples), ``imbalance``.
    """
    rows = []
    for name, runs in groups.items():
        ratio = f"{more[name][0]['ratio']:g}"
        for method in ("EEPrune", *EXTRAS, "Random"):
            source = more[name] if method in EXTRAS else runs
            parts = [
                (run["runs"] if method in EXTRAS else run["runs"][ratio])[method] for run in source
            ]
            skew = [
                (run["imbalance"] if method in EXTRAS else run["imbalance"][ratio])[method]
                for run in source
            ]
            accuracy = [part["accuracy"][-1] for part in parts]
            row = {"data": name, "method": method, "accuracy": _plus_minus(accuracy)}
            kept = round(mean([part["kept"] for part in parts]))
            rows.append(row | {"mean": mean(accuracy), "kept": kept, "imbalance": mean(skew)})
    return pd.DataFrame(rows)


def halves_table(more: dict[str, Sequence[dict]]) -> pd.DataFrame:
    """Accuracy after training on dropped samples and on as many kept ones, a row per data set.

    Returns:
        ``dropped``, ``kept``, ``dropped_spread``, ``kept_spread`` (NaN for one run).
    """
    rows = {}
    for name, runs in more.items():
        found = {side: half(runs, side) for side in ("dropped", "kept")}
        rows[name] = {side: mean(values) for side, values in found.items()}
        rows[name] |= {f"{side}_spread": spread(values) for side, values in found.items()}
    return pd.DataFrame(rows, dtype=float).T


def dropped_tables(
    groups: dict[str, Sequence[dict]], classes: dict[str, Sequence[str]]
) -> tuple[dict, dict]:
    """Discarded samples per class and method, and the imbalances: means over the runs.

    Both come by (data set, ratio).
    """
    panels, imbalances = {}, {}
    for name, runs in groups.items():
        for ratio in runs[0]["runs"]:
            key = name, f"{float(ratio):.0%}"
            panels[key] = sum(
                pd.DataFrame(run["dropped"][ratio], index=list(classes[name])) for run in runs
            ) / len(runs)
            imbalances[key] = pd.DataFrame([run["imbalance"][ratio] for run in runs]).mean()
    return panels, imbalances


def half(runs: Sequence[dict], side: str) -> list[float]:
    """Accuracy after training on ``"dropped"`` or as many ``"kept"`` samples, run by run."""
    return [run["halves"][side]["accuracy"][-1] for run in runs]


def passes(run: dict, method: str) -> float:
    """Samples that a method's scoring has seen, in units of the data set."""
    return run["scoring"][method]["samples"] / run["counts"]["train"]


def _plus_minus(values: Sequence[float]) -> str:
    """A mean with its spread over the runs, ``"0.912 ± 0.010"``."""
    return f"{mean(values):.3f}" + (f" ± {spread(values):.3f}" if len(values) > 1 else "")
