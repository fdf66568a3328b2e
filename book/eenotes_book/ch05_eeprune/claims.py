"""Claims of chapter 5: the thesis's statements beside this run, and the run in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eenotes_book.ch05_eeprune.experiment import BALANCED, HALF, METHODS, NONE
from eenotes_book.ch05_eeprune.tables import final, half, lead, passes
from eenotes_book.records import Record
from eenotes_book.statistics import Gate, mean

_HALF_POINT = 0.005  # half a point of accuracy: a smaller difference counts as none
_SPARE = 0.1  # so many more samples than the ratio must qualify, or EEPrune has no choice


def claim_all(record: Record, numbers: Mapping[str, Any]) -> None:
    """Fill a record with the thesis's claims.

    Args:
        record: to fill.
        numbers: those of the record: ``comparison`` and ``extras``, runs by data set.
    """
    for name, runs in numbers["comparison"].items():
        _race(record, name, runs)
        _halves(record, name, runs, numbers["extras"][name])
        _location(record, name, runs)
        _classes(record, name, runs)
        _scoring(record, name, runs)


def _race(record: Record, name: str, runs: Sequence[dict]) -> None:
    ratios, gate = _testable(runs)
    over = f"mean lead at {_percent(ratios)}"
    record.claim(
        f"{name}: EEPrune is not behind random pruning; {over}",
        thesis="73.6 against 71.2 at 20 %, CIFAR-100 (figure)",
        thesis_value=0.024,
        values=_mean_lead(runs, "EEPrune", "Random", ratios),
        wanted="not behind",
        margin=_HALF_POINT,
        gate=gate,
        where="race",
    )
    record.claim(
        f"{name}: at equal training samples EEPrune is ahead of no pruning; {over}",
        thesis="73.6 against 72.3 at 20 %, CIFAR-100 (figure)",
        thesis_value=0.013,
        values=_mean_lead(runs, "EEPrune", NONE, ratios),
        margin=_HALF_POINT,
        gate=gate,
        where="race",
    )


def _halves(record: Record, name: str, runs: Sequence[dict], more: Sequence[dict]) -> None:
    sides = zip(half(more, "kept"), half(more, "dropped"), strict=True)
    record.claim(
        f"{name}: training on what EEPrune drops is worse than on as many of the rest; "
        f"difference, {HALF:.0%} dropped",
        thesis="50.56 against 70.86, CIFAR-100, 50 %",
        thesis_value=0.203,
        values=[kept - dropped for kept, dropped in sides],
        margin=_HALF_POINT,
        gate=_gate(runs, HALF),
        where="halves",
    )


def _location(record: Record, name: str, runs: Sequence[dict]) -> None:
    others = {"EEPrune-Before": ("an earlier", 67.98), "EEPrune-After": ("a later", 65.57)}
    for other, (place, thesis) in others.items():
        ratios, gate = _testable(runs, "EEPrune", other)
        record.claim(
            f"{name}: the middle exit is ahead of {place} one; mean lead at {_percent(ratios)}",
            thesis=f"73.39 against {thesis} at 10 %, CIFAR-100",
            thesis_value=(73.39 - thesis) / 100,
            values=_mean_lead(runs, "EEPrune", other, ratios),
            margin=_HALF_POINT,
            gate=gate,
            where="location",
        )


def _classes(record: Record, name: str, runs: Sequence[dict]) -> None:
    ratio = list(runs[0]["runs"])[-1]
    free = [method for method in METHODS if method not in (*BALANCED, "Random")]
    imbalance = [run["imbalance"][ratio] for run in runs]
    values = [mean([found[method] for method in free]) for found in imbalance]
    record.claim(
        f"{name}: methods without a quota unbalance the classes more than twice as much as random "
        f"pruning; their mean imbalance at {float(ratio):.0%}",
        thesis="visible in the heat map",
        values=values,
        differences=[
            value - 2 * found["Random"] for value, found in zip(values, imbalance, strict=True)
        ],
        where="classes",
    )


def _scoring(record: Record, name: str, runs: Sequence[dict]) -> None:
    # how long each method trains is a setting: nothing is claimed
    record.number(
        f"{name}: samples seen by scoring, EEPrune ÷ Forgetting",
        thesis="≈ .05 of its energy (figure)",
        values=[passes(run, "EEPrune") / passes(run, "Forgetting") for run in runs],
        where="scoring",
    )


def _mean_lead(runs: Sequence[dict], method: str, other: str, ratios: Sequence[str]) -> list[float]:
    """Accuracy of one method minus that of another, averaged over the ratios, run by run."""
    leads = [lead(runs, method, other, ratio) for ratio in ratios]
    return [mean(values) for values in zip(*leads, strict=True)]


def _testable(runs: Sequence[dict], *methods: str) -> tuple[list[str], Gate]:
    """The ratios at which EEPrune has a choice and ``methods`` drop what they shall, and the gate.

    If there are none, it is the smallest ratio, and the gate is closed.
    """
    ratios = [
        ratio
        for ratio in runs[0]["runs"]
        if _gate(runs, float(ratio)).passed
        and all(_drops_enough(run, method, ratio) for run in runs for method in methods)
    ]
    if ratios:
        return ratios, _gate(runs, max(map(float, ratios)))
    smallest = min(runs[0]["runs"], key=float)
    return [smallest], Gate(_gate(runs, float(smallest)).condition, passed=False)


def _gate(runs: Sequence[dict], ratio: float) -> Gate:
    candidates = min(run["candidates"] for run in runs)
    condition = (
        f"at {ratio:.0%} dropped at least {ratio + _SPARE:.0%} of the samples must qualify; "
        f"{candidates:.1%} do"
    )
    return Gate(condition, passed=candidates >= ratio + _SPARE)


def _drops_enough(run: dict, method: str, ratio: str) -> bool:
    count = run["counts"]["train"]
    return run["runs"][ratio][method]["kept"] == count - round(float(ratio) * count)


def _percent(ratios: Sequence[str]) -> str:
    return ", ".join(f"{float(ratio):.0%}" for ratio in ratios)


def verdict(groups: Mapping[str, Sequence[dict]]) -> str:
    """A sentence per data set: the first method at each ratio, and EEPrune against random."""
    sentences = []
    for name, runs in groups.items():
        parts = []
        for ratio in runs[0]["runs"]:
            means = {
                method: mean([final(run, method, ratio) for run in runs]) for method in METHODS
            }
            gap = mean(lead(runs, "EEPrune", "Random", ratio))
            parts.append(
                f"{float(ratio):.0%}: {max(means, key=means.get)} first of the pruned, "
                f"EEPrune {100 * gap:+.1f} points against random"
            )
        sentences.append(f"{name}, {'; '.join(parts)}.")
    return " ".join(sentences)


def extras_verdict(table: pd.DataFrame) -> str:
    """From `tables.extras_table`, a sentence per data set: what the quota and no labels change."""
    sentences = []
    for name, part in table.groupby("data", sort=False):
        part = part.set_index("method")
        accuracy, imbalance = 100 * part["mean"], part["imbalance"]
        quota = accuracy["EEPrune, quota"] - accuracy["EEPrune"]
        blind = accuracy["EEPrune, no labels"] - accuracy["Random"]
        sentences.append(
            f"{name}: the quota takes the imbalance from {imbalance['EEPrune']:.2f} to "
            f"{imbalance['EEPrune, quota']:.2f} and changes accuracy by {quota:+.1f} points; "
            f"without labels EEPrune is {blind:+.1f} points from random."
        )
    return " ".join(sentences)


def turning_verdict(rows: Sequence[dict]) -> str:
    """A sentence per data set: at which sizes the hard samples beat the easy ones, and random."""
    table = pd.DataFrame(rows).pivot_table(
        index=["data", "size"], columns="keep", values="accuracy"
    )
    sentences = []
    for name, part in table.groupby(level=0):
        part = part.droplevel(0)
        words = {}
        for other in ("easy", "random"):
            sizes = part.index[part["hard"] > part[other]]
            listed = ", ".join(f"{size:,}" for size in sizes)
            words[other] = f"at {listed}" if listed else "at none of the sizes"
        sentences.append(
            f"{name}: the hard samples beat the easy ones {words['easy']}, "
            f"and random ones {words['random']}."
        )
    return " ".join(sentences)
