"""The hypotheses of chapter 8, judged, and what a run says in words.

They are ours: the thesis has no numbers here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eenotes_book import statistics
from eenotes_book.ch08_open import tables
from eenotes_book.ch08_open.stale import FRESH
from eenotes_book.records import Record
from eenotes_book.statistics import Gate

THESIS = "future work"
# the labels of the cells, by question
_CELLS = {
    "1": "open-world",
    "2": "compact",
    "3": "order",
    "4": "modalities",
    "5": "dropping",
    "6": "stale",
}
_POINT = 0.01  # of accuracy, mean IoU or agreement
_HALF_POINT = 0.005
_ONE = 1.0  # of perplexity


def claim_all(record: Record, numbers: Mapping[str, Any]) -> None:
    """Judge the hypotheses one by one.

    Args:
        record: is filled.
        numbers: from `tables.as_numbers`: novelty, compact, order, sources, plans, clusters,
            reading, tuning, reward.
    """
    frames = {name: pd.DataFrame(numbers[name]) for name in numbers if name != "sources"}
    _claim_novelty(record, numbers["novelty"])
    _claim_compact(record, frames["compact"])
    _claim_order(record, frames["order"])
    _claim_streets(record, frames["plans"], numbers["sources"])
    _claim_dropping(record, frames["clusters"], frames["reading"])
    _claim_stale(record, frames["tuning"], frames["reward"])


def _claim(
    record: Record, number: str, statement: str, values: Sequence[float], **judged: Any
) -> None:
    where = _CELLS[number[0]]
    record.claim(f"H{number}: {statement}", thesis=THESIS, values=values, where=where, **judged)


def _claim_novelty(record: Record, runs: Sequence[Mapping]) -> None:
    _claim(
        record,
        "1a",
        "the distance tells unseen classes better than the softmax does; "
        "ours: lead in AUROC, mean over the exits",
        tables.novelty_leads(runs).mean(axis=1).tolist(),
        wanted="ahead",
        margin=_HALF_POINT,
    )
    gates = [run["gate"]["distance"] for run in runs]
    _claim(
        record,
        "1b",
        "an unseen class costs more than a seen one; ours: difference in relative cost",
        [gate["unknown_open"] - gate["known_open"] for gate in gates],
        wanted="ahead",
        margin=_HALF_POINT,
    )


def _claim_compact(record: Record, compact: pd.DataFrame) -> None:
    loss = tables.compact_loss(compact, grid=2, bits=4)
    _claim(
        record,
        "2",
        "4 bits on 2 × 2 averages lose at most a point at the same budget; ours: loss",
        loss.tolist(),
        differences=(-loss).tolist(),
        wanted="not behind",
        margin=_POINT,
    )


def _claim_order(record: Record, order: pd.DataFrame) -> None:
    rounded = order[order.order != "dense"]
    most, least = int(rounded.bits.max()), int(rounded.bits.min())
    high, low = tables.order_groups(order, most), tables.order_groups(order, least)
    _claim(
        record,
        "3a",
        f"with {most} bits it matters by less than a point whether pruning comes first; "
        "ours: what pruning first gains",
        (high.before - high.after).tolist(),
        wanted="equal",
        margin=_POINT,
    )
    _claim(
        record,
        "3b",
        f"with {least} bits pruning has to come before rounding; ours: what it gains",
        (low.before - low.after).tolist(),
        wanted="ahead",
        margin=_HALF_POINT,
    )
    _claim(
        record,
        "3c",
        "distilling at the end beats training on as long; ours: what it gains",
        (high.PQD - high.PQC).tolist(),
        wanted="ahead",
        margin=_HALF_POINT,
    )


def _claim_streets(record: Record, plans: pd.DataFrame, sources: Mapping[str, float]) -> None:
    """Of one seed; at half the cost the largest budget within it counts."""
    gate = Gate(
        "the image network's last exit is ahead of its first by three points of mean IoU",
        sources["image 3"] - sources["image 1"] >= 0.03,
    )
    _claim(
        record,
        "4a",
        "thresholds per class beat one per step, with the depth map first; "
        "ours: lead in mean IoU, mean over equal budgets",
        [float(tables.class_leads(plans).mean())],
        wanted="ahead",
        margin=_POINT,
        gate=gate,
    )
    rows = plans[(plans.plan == "depth first") & (plans.thresholds == "per step and class")]
    half = rows[rows.budget <= 0.5].sort_values("budget")
    if len(half):
        _claim(
            record,
            "4b",
            "with the depth map first, half the cost reaches the whole image network's mean IoU; "
            "ours: difference",
            [float(half.miou.iloc[-1] - sources["image 3"])],
            wanted="not behind",
            margin=_POINT,
            gate=gate,
        )


def _claim_dropping(record: Record, clusters: pd.DataFrame, reading: pd.DataFrame) -> None:
    _claim(
        record,
        "5a",
        "dropping the points on which the exits agree beats dropping any; "
        "ours: lead in clustering accuracy",
        tables.kept_leads(clusters, "accuracy"),
        wanted="ahead",
        margin=_HALF_POINT,
    )
    _claim(
        record,
        "5b",
        "dropping the rows on which the exits agree beats dropping any; ours: perplexity saved",
        [-lead for lead in tables.kept_leads(reading, "perplexity")],
        wanted="ahead",
        margin=_ONE,
    )


def _claim_stale(record: Record, tuning: pd.DataFrame, reward: pd.DataFrame) -> None:
    end = tables.last_look(tuning, "samples", "accuracy")
    gap = end[FRESH] - end["new text, before"]
    _claim(
        record,
        "6a",
        "class means go stale: after fine-tuning those from before are more than 2 points behind; "
        "ours: gap",
        gap.tolist(),
        differences=(gap - 2 * _POINT).tolist(),
        wanted="ahead",
    )
    gap = end[FRESH] - end["carried along"]
    _claim(
        record,
        "6b",
        "carried along, they stay within a point of estimating anew; ours: gap",
        gap.tolist(),
        differences=(-gap).tolist(),
        wanted="not behind",
        margin=_POINT,
    )
    end = tables.last_look(reward, "round", "agreement")
    gap = end[FRESH] - end["before"]
    _claim(
        record,
        "6c",
        "training on a reward makes them stale, too: more than 2 points of agreement; ours: gap",
        gap.tolist(),
        differences=(gap - 2 * _POINT).tolist(),
        wanted="ahead",
    )


# ------------------------------------------------------------------------------------- in words


def novelty_sentence(runs: Sequence[Mapping]) -> str:
    """The leads of the distance, and what the gate on it does."""
    leads = tables.novelty_leads(runs)
    gates = pd.DataFrame([run["gate"]["distance"] for run in runs]).mean()
    by_exit = ", ".join(f"{_signed(leads[j])} at exit {j}" for j in leads)
    return (
        f"AUROC of the distance minus that of the trained exit's softmax, in points: {by_exit} "
        f"(mean and deviation over {len(runs)} splits). Without a gate an unseen class costs "
        f"{gates.unknown_open / gates.known_open:.1f} times as much as a seen one; a gate on the "
        f"distance rejects {gates.rejected:.0%} of the unseen images, refuses {gates.refused:.0%} "
        f"of the seen, and takes the accuracy on seen classes from {gates.accuracy_open:.3f} to "
        f"{gates.accuracy:.3f}."
    )


def compact_sentence(table: pd.DataFrame) -> str:
    """What pooling and rounding save, and what they cost."""
    mean = table.groupby(["grid", "bits"]).mean(numeric_only=True)
    full, small, one = mean.loc[(table.grid.max(), 32)], mean.loc[(2, 4)], mean.loc[(1, 4)]
    return (
        f"4 bits on 2 × 2 averages take {small.bytes:,.0f} instead of {full.bytes:,.0f} bytes "
        f"({full.bytes / small.bytes:.0f} times less) and {full.macs / small.macs:.1f} times fewer "
        f"MACs. The accuracy changes by {100 * (small.accuracy - full.accuracy):+.1f} points; a "
        f"single average per map changes it by {100 * (one.accuracy - full.accuracy):+.1f}."
    )


def order_sentence(table: pd.DataFrame) -> str:
    """How much the order matters with each number of bits."""
    parts = []
    for bits in sorted(set(table[table.order != "dense"].bits), reverse=True):
        found = tables.order_groups(table, bits)
        parts.append(
            f"With {bits} bits the six orders differ by {100 * found.range.iloc[0]:.1f} points: "
            f"pruning before rounding minus after it {_signed(found.before - found.after)}, "
            f"distillation minus plain training {_signed(found.PQD - found.PQC)}."
        )
    return " ".join(parts)


def street_sentence(plans: pd.DataFrame, sources: pd.Series, enough: pd.Series) -> str:
    """Which source suffices for which class, and at what cost the cascade is good enough."""
    whole = sources["image 3"]
    cost, lead = tables.cheapest_as_good(plans, whole), tables.class_leads(plans)
    reached = "does not reach it" if cost is None else f"reaches it at {cost:.2f} of its cost"
    named = {source: ", ".join(enough.index[enough == source]) for source in enough.unique()}
    listed = "; ".join(f"{source} for {names}" for source, names in named.items())
    return (
        f"The cheapest source within 2 points of both together: {listed}. "
        f"The whole image network has a mean IoU of {whole:.3f}; the depth map first {reached}. "
        f"Thresholds per class change the mean IoU by {100 * lead.mean():+.1f} points on average "
        "over the budgets."
    )


def dropping_sentence(clusters: pd.DataFrame, reading: pd.DataFrame) -> str:
    """What dropping by agreement does beside dropping at random."""
    points = tables.kept_leads(clusters, "accuracy")
    rows = tables.kept_leads(reading, "perplexity")
    other = tables.kept_leads(reading, "perplexity", "drop disagreeing")
    return (
        "Against dropping at random, dropping what the exits agree on changes the clustering "
        f"accuracy by {_signed(points)} points, and the language model's perplexity by "
        f"{_signed(rows, unit=1)} (lower is better); dropping what they disagree on changes the "
        f"latter by {_signed(other, unit=1)}."
    )


def stale_sentence(tuning: pd.DataFrame, reward: pd.DataFrame) -> str:
    """How far each way of setting the exit is from estimating anew."""
    end = tables.last_look(tuning, "samples", "accuracy")
    gap = {name: _signed(end[name] - end[FRESH]) for name in end}
    rounds = tables.last_look(reward, "round", "agreement")
    before, after = (
        reward[reward["round"] == number].mean(numeric_only=True)
        for number in (0, reward["round"].max())
    )
    moved = tuning[tuning.samples == tuning.samples.max()].moved.mean()
    return (
        f"Left: at the end the means of the new text from before are {gap['new text, before']} "
        f"points from estimating anew, those carried along {gap['carried along']}, the copied head "
        f"{gap['copied head']}; the means have moved by {moved:.2f} of the spread within a class. "
        f"Right: the reward rises from {before.reward:.2f} to {after.reward:.2f}, the means move "
        f"by {after.moved:.2f}, and those from before are "
        f"{_signed(rounds['before'] - rounds[FRESH])} points of agreement from estimating anew."
    )


def _signed(values: Sequence[float], *, unit: float = 100) -> str:
    """``"+1.2 ± 0.3"``: mean and standard deviation, times ``unit``."""
    mean, spread = statistics.mean(values), statistics.spread(values)
    return f"{unit * mean:+.1f}" + ("" if spread is None else f" ± {unit * spread:.1f}")
