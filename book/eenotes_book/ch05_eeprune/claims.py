"""Claims of chapter 5: the thesis's statements beside this run, and the run in sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eenotes_book.ch05_eeprune.experiment import BALANCED, HALF, METHODS, NONE
from eenotes_book.ch05_eeprune.sweep import KEPT
from eenotes_book.ch05_eeprune.tables import half, lead, part, passes, ratios
from eenotes_book.ch05_eeprune.turning import leads_by_size, turning_interval, turning_point
from eenotes_book.records import Record
from eenotes_book.statistics import Gate, judge, mean

_HALF_POINT = 0.005  # half a point of accuracy: a smaller difference counts as none
_SPARE = 0.1  # so many more samples than the ratio must qualify, or EEPrune has no choice
_RIVALS = {  # method → the thesis's words and lead
    "Random": ("73.6 against 71.2 at 20 %, CIFAR-100 (figure)", 0.024),
    NONE: ("73.6 against 72.3 at 20 %, CIFAR-100 (figure)", 0.013),
    "Forgetting": ("73.6 against 71 at 20 %, CIFAR-100 (figure)", 0.026),
    "EL2N": ("73.6 against 69.5 at 20 %, CIFAR-100 (figure)", 0.041),
    "EEPrune-Before": ("73.39 against 67.98 at 10 %, CIFAR-100", 0.0541),
    "EEPrune-After": ("73.39 against 65.57 at 10 %, CIFAR-100", 0.0782),
}
_WORDS = {
    "Random": "EEPrune is ahead of random pruning",
    NONE: "at equal training samples EEPrune is ahead of no pruning",
    "Forgetting": "EEPrune is ahead of Forgetting",
    "EL2N": "EEPrune is ahead of EL2N",
    "EEPrune-Before": "the middle exit is ahead of an earlier one",
    "EEPrune-After": "the middle exit is ahead of a later one",
}


def claim_all(record: Record, numbers: Mapping[str, Any]) -> None:
    """Fill a record with the thesis's claims, as far as their runs are there.

    Args:
        record: to fill.
        numbers: those of the record: ``comparison``, runs by data set, and ``sweep``, rows.
    """
    for name, runs in numbers["comparison"].items():
        _turning(record, name, numbers["sweep"])
        for rival in _RIVALS:
            there = [r for r in ratios(runs) if lead(runs, "EEPrune", rival, r)]
            # the thesis's two rivals at every ratio, the others where they can be told apart best
            for ratio in there if rival in ("Random", NONE) else _largest(runs, there, rival):
                _race(record, name, runs, rival, ratio)
        _classes(record, name, runs)
        _halves(record, name, runs)
        _scoring(record, name, runs)


def _turning(record: Record, name: str, rows: Sequence[Mapping]) -> None:
    """What Sorscher et al. predict: the lead grows with the data, from minus to plus."""
    for other, words in {"Random": "random pruning", NONE: "no pruning"}.items():
        leads = leads_by_size(rows, name, other)
        if len(leads.columns) < 2:
            continue
        smallest, largest = leads.columns[0], leads.columns[-1]
        gate = _sweep_gate(rows, name)
        record.claim(
            f"{name}: EEPrune's lead over {words} is larger with {largest:,} images than with "
            f"{smallest:,}",
            thesis="not stated; predicted by Sorscher et al. (2022)",
            values=(leads[largest] - leads[smallest]).tolist(),
            margin=_HALF_POINT,
            gate=gate,
            where="sweep",
        )
        found = [turning_point(row) for _, row in leads.iterrows()]
        points = [point for point in found if point]
        if points:
            condition = f"the lead must turn from minus to plus in all {len(found)} seeds"
            turns = Gate(f"{condition}; it does in {len(points)}", len(points) == len(found))
            middle, low, high = turning_interval(points)
            among = f" [{low:,.0f}, {high:,.0f}]" if len(points) > 1 else ""
            record.claim(
                f"{name}: EEPrune overtakes {words} before the training set ends, at "
                f"{middle:,.0f}{among} images; powers of ten between",
                thesis="not stated; predicted by Sorscher et al. (2022)",
                values=[math.log10(largest / point) for point in points],
                gate=gate if not gate.passed else turns,
                where="sweep",
            )


def _race(record: Record, name: str, runs: Sequence[dict], rival: str, ratio: str) -> None:
    thesis, thesis_value = _RIVALS[rival]
    record.claim(
        f"{name}: {_WORDS[rival]}; difference, {float(ratio):.0%} dropped",
        thesis=thesis,
        thesis_value=thesis_value,
        values=lead(runs, "EEPrune", rival, ratio),
        margin=_HALF_POINT,
        gate=_gate(runs, ratio, rival),
        where="location" if rival.startswith("EEPrune-") else "race",
    )


def _largest(runs: Sequence[dict], there: Sequence[str], rival: str) -> list[str]:
    """The largest ratio with an open gate, else the smallest; none if there are no ratios."""
    open_ones = [ratio for ratio in there if _gate(runs, ratio, rival).passed]
    return open_ones[-1:] or list(there[:1])


def _classes(record: Record, name: str, runs: Sequence[dict]) -> None:
    """Whether scores without a quota hit some classes more than others."""
    free = [m for m in METHODS if m not in (*BALANCED, "Random")]
    there = [ratio for ratio in ratios(runs) if lead(runs, "Forgetting", "Random", ratio)]
    if not there:
        return
    ratio = there[-1]
    skew = [
        {m: found["imbalance"] for m in METHODS if (found := part(run, m, ratio))}
        for run in runs
        if part(run, "Forgetting", ratio) and part(run, "Random", ratio)
    ]
    values = [mean([each[m] for m in free if m in each]) for each in skew]
    record.claim(
        f"{name}: methods without a quota unbalance the classes more than twice as much as random "
        f"pruning; their mean imbalance at {float(ratio):.0%}",
        thesis="visible in the heat map",
        values=values,
        differences=[v - 2 * each["Random"] for v, each in zip(values, skew, strict=True)],
        where="classes",
    )


def _halves(record: Record, name: str, runs: Sequence[dict]) -> None:
    kept, dropped = half(runs, "kept"), half(runs, "dropped")
    if not kept:
        return
    record.claim(
        f"{name}: training on what EEPrune drops is worse than on as many of the rest; "
        f"difference, {HALF:.0%} dropped",
        thesis="50.56 against 70.86, CIFAR-100, 50 %",
        thesis_value=0.203,
        values=[one - two for one, two in zip(kept, dropped, strict=True)],
        margin=_HALF_POINT,
        gate=_gate(runs, str(HALF)),
        where="halves",
    )


def _scoring(record: Record, name: str, runs: Sequence[dict]) -> None:
    scored = [run for run in runs if {"EEPrune", "Forgetting"} <= run["scoring"].keys()]
    if scored:
        # how long each method trains is a setting: nothing is claimed
        ours = [passes(run, "EEPrune") for run in scored]
        record.check(
            f"{name}: EEPrune's scoring sees the data a whole number of times",
            values=ours,
            holds=all(value == round(value) for value in ours),
            where="scoring",
        )
        record.number(
            f"{name}: samples seen by scoring, EEPrune ÷ Forgetting",
            thesis="≈ .05 of its energy (figure)",
            values=[passes(run, "EEPrune") / passes(run, "Forgetting") for run in scored],
            where="scoring",
        )


def _gate(runs: Sequence[dict], ratio: str, rival: str = "Random") -> Gate:
    """Enough samples must qualify, at every exit that is compared."""
    wanted = float(ratio) + _SPARE
    shares = [
        run["scoring"][method]["candidates"]
        for run in runs
        for method in ("EEPrune", rival)
        if method in run["scoring"]
    ]
    fewest = min(shares, default=0.0)
    return Gate(
        f"at {float(ratio):.0%} dropped at least {wanted:.0%} of the samples must qualify; at the "
        f"fewest {fewest:.1%} do",
        passed=fewest >= wanted - 1e-9,
    )


def _sweep_gate(rows: Sequence[Mapping], name: str) -> Gate:
    """At every size more samples must qualify than are dropped."""
    found = [row for row in rows if row["data"] == name]
    short = [row["candidates"] - row["ratio"] for row in found]
    return Gate(
        f"at every size {_SPARE:.0%} more samples must qualify than are dropped; the smallest "
        f"surplus is {min(short):.1%}",
        passed=min(short) >= _SPARE - 1e-9,
    )


def verdict(groups: Mapping[str, Sequence[dict]]) -> str:
    """A sentence per data set and ratio: EEPrune against random."""
    sentences = []
    for name, runs in groups.items():
        parts = []
        for ratio in ratios(runs):
            gaps = lead(runs, "EEPrune", "Random", ratio)
            if gaps:
                points = f"{100 * mean(gaps):+.1f} points"
                parts.append(f"{float(ratio):.0%} dropped: {points} ({_word(gaps)})")
        sentences.append(f"{name}, EEPrune minus random: {'; '.join(parts)}.")
    return " ".join(sentences)


def turning_verdict(rows: Sequence[Mapping]) -> str:
    """A sentence per data set: from which size on EEPrune leads over each other choice."""
    sentences = []
    for name in dict.fromkeys(row["data"] for row in rows):
        words = []
        for other in KEPT[1:]:
            leads = leads_by_size(rows, name, other)
            if leads.empty:
                continue
            points = [point for _, row in leads.iterrows() if (point := turning_point(row))]
            if len(points) == len(leads):
                middle, low, high = turning_interval(points)
                where = f"from {middle:,.0f} images on"
                where += f" [{low:,.0f}, {high:,.0f}]" if len(points) > 1 else ""
            elif (leads.mean() > 0).all():
                where = "at every size"
            elif leads.mean().iloc[-1] <= 0:
                where = "not at the largest size"
            else:
                where = f"in the end, with a turn in {len(points)} of {len(leads)} seeds"
            words.append(f"{other}: {where}")
        if words:
            sentences.append(f"{name}: EEPrune leads over {'; over '.join(words)}.")
    return " ".join(sentences)


def _word(values: Sequence[float]) -> str:
    """The common rule's word on a lead, and the seeds behind it."""
    word = judge(values, wanted="ahead", margin=_HALF_POINT).word
    return f"{word}, {len(values)} seeds" if len(values) > 1 else word
