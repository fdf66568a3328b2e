"""Tables of chapter 5: the numbers of its runs, ordered for figures and claims.

A study that is not finished has methods that ran with fewer seeds than others.  Every number is a
mean over the seeds that are there, and every difference is paired: the same seed on both sides.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from eenotes_book.ch05_eeprune.experiment import EXTRAS, METHODS, NONE, QUOTA, SIDES
from eenotes_book.statistics import mean, reach, spread

ORDER = (NONE, *METHODS, *EXTRAS)
THESIS_HALVES = {  # MobileNetV3-large, 50 %: trained on the dropped, on the kept
    "CIFAR-10": (0.8563, 0.8830),
    "CIFAR-100": (0.5056, 0.7086),
    "Tiny ImageNet": (0.5543, 0.5688),
    "KMNIST": (0.9363, 0.9606),
    "ImageNet": (0.6812, 0.6839),
}
THESIS_PLACES = {  # CIFAR-100: before, middle, after; with their spreads
    "10%": ("0.680 ± 0.004", "0.734 ± 0.005", "0.656 ± 0.005"),
    "30%": ("0.677 ± 0.005", "0.723 ± 0.004", "0.670 ± 0.006"),
    "60%": ("0.676 ± 0.006", "0.685 ± 0.008", "0.676 ± 0.005"),
}
_PLACES = {"before": "EEPrune-Before", "middle": "EEPrune", "after": "EEPrune-After"}


def ratios(runs: Iterable[dict]) -> list[str]:
    """The ratios of which a run has something, ascending."""
    return sorted({ratio for run in runs for ratio in run["runs"]}, key=float)


def part(run: dict, method: str, ratio: str) -> dict | None:
    """What one run says of a method at a ratio; ``None`` if it is not there."""
    return run["none"] if method == NONE else run["runs"].get(ratio, {}).get(method)


def finals(runs: Iterable[dict], method: str, ratio: str) -> list[float]:
    """A method's accuracies at the end of the budget, one per seed that has it."""
    found = (part(run, method, ratio) for run in runs)
    return [each["accuracy"][-1] for each in found if each]


def lead(runs: Iterable[dict], method: str, other: str, ratio: str) -> list[float]:
    """Accuracy of one method minus that of another, one per seed that has both."""
    pairs = ((part(run, method, ratio), part(run, other, ratio)) for run in runs)
    return [one["accuracy"][-1] - two["accuracy"][-1] for one, two in pairs if one and two]


def curve_table(runs: Sequence[dict], ratio: str) -> pd.DataFrame:
    """Test accuracy on the way, mean over the runs.

    Returns:
        ``method``, ``training`` and ``total`` (samples seen, scoring included), ``accuracy``,
        ``spread`` (NaN for one run), ``seeds``.
    """
    rows = []
    for run in runs:
        for method in ORDER:
            found = part(run, method, ratio)
            if found is None:
                continue
            cost = _samples(run, method)
            rows += [
                {"method": method, "training": seen, "total": seen + cost, "accuracy": accuracy}
                for seen, accuracy in zip(found["seen"], found["accuracy"], strict=True)
            ]
    groups = pd.DataFrame(rows).groupby(["method", "training", "total"], sort=False)["accuracy"]
    return groups.agg(accuracy="mean", spread="std", seeds="size").reset_index()


def final_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Test accuracy at the end of the budget: a row per method, a column per ratio."""
    columns = {}
    for ratio in ratios(runs):
        found = {method: finals(runs, method, ratio) for method in ORDER}
        columns[f"{float(ratio):.0%} dropped"] = {
            method: plus_minus(values) for method, values in found.items() if values
        }
    return pd.DataFrame(columns).reindex([m for m in ORDER if finals_anywhere(runs, m)]).fillna("–")


def finals_anywhere(runs: Sequence[dict], method: str) -> bool:
    """Whether a method has run at any ratio."""
    return any(finals(runs, method, ratio) for ratio in ratios(runs))


def lead_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Accuracy at the end minus that of random pruning with the same seed.

    Returns:
        ``method``, ``ratio``, ``lead`` (mean), ``reach`` (half the 95 % interval; NaN for one run),
        ``seeds``.
    """
    rows = []
    for ratio in ratios(runs):
        for method in ORDER:
            values = lead(runs, method, "Random", ratio)
            if values and method != "Random":
                row = {"method": method, "ratio": float(ratio), "lead": mean(values)}
                rows.append(row | {"reach": reach(values), "seeds": len(values)})
    return pd.DataFrame(rows)


def scoring_table(runs: Sequence[dict]) -> pd.DataFrame:
    """What scoring has cost, a row per method, averaged over the runs.

    Returns:
        ``passes`` (samples seen, in units of the data set), ``seconds``, and ``joules`` where a
        meter was readable in every run.
    """
    rows = {}
    for method in METHODS:
        scored = [run for run in runs if method in run["scoring"]]
        if not scored:
            continue
        found = [run["scoring"][method] for run in scored]
        joules = [each["joules"] for each in found]
        rows[method] = {
            "passes": mean([passes(run, method) for run in scored]),
            "seconds": mean([each["scoring_seconds"] for each in found]),
            "joules": math.nan if None in joules else mean(joules),
        }
    return pd.DataFrame(rows).T.dropna(axis="columns")


def passes(run: dict, method: str) -> float:
    """Samples that a method's scoring has seen, in units of the data set."""
    return _samples(run, method) / run["counts"]["train"]


def location_table(groups: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """Accuracy by the place of the early exit; the thesis's numbers come last."""
    columns = {}
    for data, runs in groups.items():
        for ratio in ratios(runs):
            cells = {place: finals(runs, method, ratio) for place, method in _PLACES.items()}
            if all(cells.values()):
                columns[data, f"{float(ratio):.0%}"] = {
                    place: plus_minus(values) for place, values in cells.items()
                }
    columns |= {
        ("thesis, CIFAR-100", ratio): dict(zip(_PLACES, values, strict=True))
        for ratio, values in THESIS_PLACES.items()
    }
    return pd.DataFrame(columns)


def quota_table(groups: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """What a quota per class does to EEPrune: accuracy, imbalance and samples kept, per data set.

    Returns:
        ``data``, ``ratio``, ``method``, ``accuracy`` (text), ``imbalance``, ``kept``, ``seeds``.
    """
    rows = []
    for data, runs in groups.items():
        for ratio in ratios(runs):
            if not lead(runs, QUOTA, "EEPrune", ratio):
                continue
            for method in ("EEPrune", QUOTA, "Random"):
                found = [each for run in runs if (each := part(run, method, ratio))]
                rows.append(_row(found) | {"data": data, "ratio": ratio, "method": method})
    columns = ["data", "ratio", "method", "accuracy", "imbalance", "kept", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def extras_table(runs: Sequence[dict], more: Sequence[dict]) -> pd.DataFrame:
    """The experiments beyond the thesis, beside EEPrune and random pruning at the same ratio.

    Returns:
        ``method``, ``accuracy`` (text), ``imbalance``, ``kept``, ``seeds``.
    """
    ratio = f"{more[0]['ratio']:g}"
    rows = []
    for method in ("EEPrune", *EXTRAS, "Random"):
        found = [each["runs"][method] for each in more] if method in EXTRAS else None
        rows.append({"method": method} | _row(found or [part(run, method, ratio) for run in runs]))
    return pd.DataFrame(rows)


def halves_table(groups: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """Accuracy after training on dropped samples and on as many kept ones; ours, then the thesis's.

    Returns:
        By data set: ``dropped``, ``kept``, ``dropped_spread``, ``kept_spread`` (NaN for one run, or
        where the thesis does not say), ``thesis`` (bool).
    """
    rows = {}
    for name, runs in groups.items():
        found = {side: half(runs, side) for side in SIDES}
        if all(found.values()):
            rows[name] = {side: mean(values) for side, values in found.items()}
            rows[name] |= {f"{side}_spread": spread(values) for side, values in found.items()}
            rows[name]["thesis"] = False
    for name, (dropped, kept) in THESIS_HALVES.items():
        rows[f"{name} (thesis)"] = {"dropped": dropped, "kept": kept, "thesis": True}
    columns = ["dropped", "kept", "dropped_spread", "kept_spread", "thesis"]
    return pd.DataFrame(rows).T.reindex(columns=columns).astype({"thesis": bool})


def half(runs: Iterable[dict], side: str) -> list[float]:
    """Accuracy after training on ``"dropped"`` or as many ``"kept"``, where both are there."""
    return [run["halves"][side]["accuracy"][-1] for run in runs if len(run["halves"]) == 2]


def dropped_tables(groups: Mapping[str, Sequence[dict]]) -> tuple[dict, dict]:
    """Discarded samples per class and method, and the imbalances: means over the runs.

    Both come by (data set, ratio), for the largest ratio at which all methods of the race ran.
    """
    panels, imbalances = {}, {}
    for name, runs in groups.items():
        full = [ratio for ratio in ratios(runs) if lead(runs, "EEPrune", "EEPrune-After", ratio)]
        for ratio in full[-1:]:
            found = {
                method: [each for run in runs if (each := part(run, method, ratio))]
                for method in METHODS
            }
            key = name, f"{float(ratio):.0%}"
            panels[key] = pd.DataFrame(
                {
                    method: pd.DataFrame([each["dropped"] for each in parts]).mean()
                    for method, parts in found.items()
                    if parts
                }
            )
            imbalances[key] = pd.Series(
                {m: mean([p["imbalance"] for p in parts]) for m, parts in found.items() if parts}
            )
    return panels, imbalances


BALANCED_METHOD = "Complexity gap"  # drops the same share of every class


def dropped_shares(dropped: pd.DataFrame, ratio: str) -> pd.DataFrame:
    """Which share of its class each number of discarded samples is; the last row is all classes.

    How large the classes are follows from the method that drops the same share of each, within one
    sample; without it they count as equally large.

    Args:
        dropped: a panel of `dropped_tables`.
        ratio: the share that a method is asked to drop, ``"60%"``.
    """
    asked = float(ratio.rstrip("%")) / 100
    if BALANCED_METHOD in dropped:
        sizes = dropped[BALANCED_METHOD] / asked
    else:
        sizes = pd.Series(dropped["Random"].sum() / asked / len(dropped), index=dropped.index)
    shares = dropped.div(sizes, axis=0)
    shares.loc["all"] = dropped.sum() / sizes.sum()
    return shares.clip(upper=1)


def plus_minus(values: Sequence[float]) -> str:
    """A mean with its spread over the runs and their number, ``"0.912 ± 0.010 (5)"``."""
    if len(values) == 1:
        return f"{mean(values):.3f} (1)"
    return f"{mean(values):.3f} ± {spread(values):.3f} ({len(values)})"


def _samples(run: dict, method: str) -> int:
    """Samples seen by scoring; a quota or a reversal uses EEPrune's scores."""
    source = "EEPrune" if method.startswith("EEPrune,") else method
    return run["scoring"].get(source, {"samples": 0})["samples"]


def _row(found: Sequence[dict]) -> dict:
    return {
        "accuracy": plus_minus([each["accuracy"][-1] for each in found]),
        "imbalance": mean([each["imbalance"] for each in found]),
        "kept": round(mean([each["kept"] for each in found])),
        "seeds": len(found),
    }
