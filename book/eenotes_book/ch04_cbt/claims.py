"""The claims of chapter 4: from a record's numbers to the thesis's claims beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

from eenotes_book import records, statistics
from eenotes_book.ch04_cbt.experiment import BUDGET_METHODS, PAIRS, SINGLE
from eenotes_book.ch04_cbt.leads import leads, mean_leads

POINT = 1.0  # of mean IoU, in hundredths; all leads and losses are in points
NEAR = 0.5 * POINT  # the smallest difference in mean IoU that matters
APART = 3 * POINT  # by so much the last exit must be ahead of the first
SAVING = 0.23  # of the one threshold's MACs: the thesis's, for [.99, .998] on Cityscapes
FREQUENT = 0.5  # a rank correlation above it: frequent classes have the larger margins

Points = list[tuple[dict, dict]]  # per seed, two rules: ``miou`` and ``cost`` at every exit


def claim_all(record: records.Record, numbers: Mapping[str, Any]) -> None:
    """Put the chapter's claims into a record.

    Args:
        record: to be filled.
        numbers: ``conv`` and ``vit`` (from `experiment.conv_run` and `experiment.vit_run`) and
            ``clock`` (``conv`` and ``vit``, each from `clock.speed`): one of each, or a list with
            one per seed.
    """
    conv, vit, clocks = (_runs(numbers[name]) for name in ("conv", "vit", "clock"))
    gate = _gate(conv, f"single {SINGLE}")
    _claim_named(record, conv, gate)
    _claim_margins(record, conv)
    _claim_budgets(record, conv, gate)
    _claim_clock(record, clocks)
    _claim_tokens(record, vit)


def verdict(runs: Sequence[dict], *, methods: Sequence[str] = BUDGET_METHODS[1:]) -> str:
    """A sentence: the lead of each method over one threshold at the same cost."""
    parts = []
    for method in methods:
        table = leads(runs, method)
        ahead = f"ahead at {int((table['mean'] > 0).sum())} of {len(table)} budgets"
        parts.append(f"{method}: {100 * table['mean'].mean():+.2f} points, {ahead}")
    return "Against one threshold at the same cost: " + "; ".join(parts) + "."


def _claim_named(record: records.Record, conv: Sequence[dict], gate: statistics.Gate) -> None:
    """The paper's comparison: one threshold against class thresholds with one [alpha, beta]."""
    pair = f"[{PAIRS[0][0]}, {PAIRS[0][1]}]"
    single, named, apart = f"single {SINGLE}", f"CBT {pair}", f"CBT-ns {pair}"
    saved = _saved(_pairs(conv, single, named))
    record.claim(
        f"{named} saves at least 23 % of the MACs of the single {SINGLE}; ours: share saved",
        thesis=".23 for .62 points (Cityscapes, W48, [.99, .998])", thesis_value=SAVING,
        values=saved, differences=[share - SAVING for share in saved], gate=gate, where="named",
    )  # fmt: skip
    lost = _lost(_pairs(conv, single, named))
    record.claim(
        "... for at most half a point of mean IoU; ours: points lost",
        thesis=".97 (ADE20K, W48, [.9, .998])", thesis_value=0.97,
        values=lost, differences=[-points for points in lost], wanted="not behind", margin=NEAR,
        gate=gate, where="named",
    )  # fmt: skip
    record.number(
        f"mean IoU of the single {SINGLE}, points",
        thesis="81 (Cityscapes, HRNet)",
        values=[100 * run["anytime"][single]["miou"][-1] for run in conv],
        where="named",
    )
    record.claim(
        "sharing between exits hardly matters (within half a point): "
        "mean IoU of CBT minus CBT-ns, points",
        thesis="-.02 (ADE20K, W48)", values=_lost(_pairs(conv, named, apart)),
        wanted="equal", margin=NEAR, gate=gate, where="named",
    )  # fmt: skip


def _claim_margins(record: records.Record, conv: Sequence[dict]) -> None:
    rank = [run["rank"] for run in conv]
    record.claim(
        "frequent classes have the larger margins: "
        "rank correlation of margin and share of pixels, above one half",
        thesis="road .90 ... train .998 (figure)",
        values=rank,
        differences=[value - FREQUENT for value in rank],
        where="margins",
    )


def _claim_budgets(record: records.Record, conv: Sequence[dict], gate: statistics.Gate) -> None:
    """At equal cost: the mean lead over the budgets, one number per seed."""
    priced = "one per exit and class"
    lead_of = "ahead of the best single threshold at the same cost; ours: mean lead over budgets"
    for statement, method, other in [
        (f"CBT: {lead_of}, points", "CBT", "one threshold"),
        (f"class thresholds of equal marginal loss: {lead_of}, points", priced, "one threshold"),
        (
            "... and it is the classes that help, not the exits: "
            "lead over thresholds of equal marginal loss per exit only, points",
            priced,
            "one per exit",
        ),
    ]:
        record.claim(
            statement,
            thesis="not stated",
            values=[100 * lead for lead in mean_leads(conv, method, other)],
            margin=NEAR,
            gate=gate,
            where="budgets",
        )


def _claim_clock(record: records.Record, clocks: Sequence[dict]) -> None:
    """Time saved by skipping, and the MACs saved beside it."""
    pair = f"[{PAIRS[0][0]}, {PAIRS[0][1]}]"
    for kind, least, name in [
        ("conv", 1.0, f"convolutions with CBT {pair}"),
        ("vit", 1.3, "tokens"),
    ]:
        ratio = [clock[kind]["speed_up"] for clock in clocks]
        record.claim(
            f"skipping saves time, {name}: plain backbone's time / masked time, above {least}",
            thesis="MACs only, nothing skipped",
            values=ratio,
            differences=[value - least for value in ratio],
            where="clock",
        )
        record.number(
            f"... {name}: plain backbone's MACs / masked MACs",
            thesis="not stated",
            values=[clock[kind]["macs"] for clock in clocks],
            where="clock",
        )


def _claim_tokens(record: records.Record, vit: Sequence[dict]) -> None:
    """The transformer: one threshold against the widest range of class thresholds."""
    single = next(name for name in vit[0]["anytime"] if name.startswith("single"))
    named = [name for name in vit[0]["anytime"] if name.startswith("CBT")][-1]
    gate, pairs = _gate(vit, single), _pairs(vit, single, named)
    record.claim(
        f"tokens: {named} saves MACs of the {single}; ours: share saved",
        thesis=".033 (ViT-B, ADE20K, [.85, .9])", thesis_value=0.033,
        values=_saved(pairs), gate=gate, where="tokens",
    )  # fmt: skip
    lost = _lost(pairs)
    record.claim(
        "... tokens: for at most half a point of mean IoU; ours: points lost",
        thesis=".17 (ViT-B, ADE20K, [.85, .9])", thesis_value=0.17,
        values=lost, differences=[-points for points in lost], wanted="not behind", margin=NEAR,
        gate=gate, where="tokens",
    )  # fmt: skip


def _gate(runs: Sequence[dict], rule: str) -> statistics.Gate:
    """Whether stopping early could cost anything: the last exit must be ahead of the first."""
    ahead = statistics.mean(
        [100 * (run["anytime"][rule]["miou"][-1] - run["anytime"][rule]["miou"][0]) for run in runs]
    )
    return statistics.Gate(
        "the last exit is ahead of the first by three points of mean IoU; "
        f"it is ahead by {ahead:.1f}",
        ahead >= APART,
    )


def _pairs(runs: Sequence[dict], one: str, other: str) -> Points:
    return [(run["anytime"][one], run["anytime"][other]) for run in runs]


def _saved(pairs: Points) -> list[float]:
    """The share of the first rule's MACs that the second saves, at the last exit."""
    return [1 - other["cost"][-1] / one["cost"][-1] for one, other in pairs]


def _lost(pairs: Points) -> list[float]:
    """Points of mean IoU by which the first rule is ahead of the second, at the last exit."""
    return [100 * (one["miou"][-1] - other["miou"][-1]) for one, other in pairs]


def _runs(numbers: dict | list[dict]) -> list[dict]:
    return numbers if isinstance(numbers, list) else [numbers]
