"""The claims of chapter 4: from a record's numbers to the thesis's claims beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

from eenotes_book import records, statistics
from eenotes_book.ch04_cbt import thesis
from eenotes_book.ch04_cbt.experiment import NAMED, NOBODY, PAIRS, TOKEN_PAIRS, cbt_of, single
from eenotes_book.ch04_cbt.leads import lead_of_rule, leads, mean_leads

POINT = 1.0  # of mean IoU, in hundredths; all leads and losses are in points
NEAR = 0.5 * POINT  # the smallest difference in mean IoU that matters
APART = 3 * POINT  # by so much the last exit must be ahead of the first
FREQUENT = 0.5  # a rank correlation above it: frequent classes have the larger margins
FASTER = 1.3  # what skipping shall gain on larger maps

Points = list[tuple[dict, dict]]  # per seed, two rules: ``miou`` and ``cost`` at every exit


def claim_all(record: records.Record, numbers: Mapping[str, Any]) -> None:
    """Put the chapter's claims into a record, as far as its numbers go.

    Args:
        record: to be filled.
        numbers: ``conv`` and ``vit`` (from `experiment.conv_run` and `experiment.vit_run`) and
            ``clock`` (``conv`` and ``vit``, each from `clock.speed`): one of each, or a list with
            one per seed.
    """
    conv, vit, clocks = (_runs(numbers[name]) for name in ("conv", "vit", "clock"))
    gate = _gate(conv)
    for pair in (PAIRS[0], NAMED):
        _claim_named(record, conv, pair, gate)
    _claim_sharing(record, conv, gate)
    _claim_margins(record, conv)
    _claim_budgets(record, conv, gate)
    if clocks:
        _claim_clock(record, clocks)
    for pair in TOKEN_PAIRS:
        _claim_tokens(record, vit, pair)


def verdict(runs: Sequence[dict]) -> str:
    """A sentence: the lead of each method over one threshold at the same cost."""
    parts = []
    for method in runs[0]["budgets"]:
        if method != "one threshold":
            table = leads(runs, method)
            ahead = f"ahead at {int((table['mean'] > 0).sum())} of {len(table)} budgets"
            parts.append(f"{method}: {100 * table['mean'].mean():+.2f} points, {ahead}")
    return "Against one threshold at the same cost: " + "; ".join(parts) + "."


def _claim_named(
    record: records.Record, conv: Sequence[dict], pair: tuple, gate: statistics.Gate
) -> None:
    """The paper's comparison: one threshold against class thresholds with one [alpha, beta]."""
    named, one, row = cbt_of(pair), single(), thesis.row(pair)
    if named not in conv[0]["anytime"]:
        return
    found, saved = _pairs(conv, one, named), row["saved"]
    shares, lost = _saved(found), _lost(found)
    record.claim(
        f"{named} saves at least {100 * saved:.0f} % of the MACs of the {one}; ours: share saved",
        thesis=f"{saved:.3f} ({row['where']})", thesis_value=saved, values=shares,
        differences=[share - saved for share in shares], gate=gate, where="named",
    )  # fmt: skip
    record.claim(
        f"... {named}: for at most half a point of mean IoU; ours: points lost",
        thesis=f"{row['lost']:.2f} ({row['where']})", thesis_value=row["lost"], values=lost,
        differences=[-points for points in lost], wanted="not behind", margin=NEAR, gate=gate,
        where="named",
    )  # fmt: skip
    record.claim(
        f"{named}: ahead of one threshold at the same cost; ours: lead, points",
        thesis="not stated", values=[100 * lead_of_rule(run, named) for run in conv],
        margin=NEAR, gate=gate, where="named",
    )  # fmt: skip


def _claim_sharing(record: records.Record, conv: Sequence[dict], gate: statistics.Gate) -> None:
    names = [NOBODY, single()]
    for name in [name for name in names if name in conv[0]["anytime"]]:
        record.number(
            f"mean IoU of the last exit, {name}, points",
            thesis="81.3 (Cityscapes, HRNet-W48, single 0.998)",
            values=[100 * run["anytime"][name]["miou"][-1] for run in conv],
            where="named",
        )
    apart = _pairs(conv, cbt_of(NAMED), cbt_of(NAMED, shared=False))
    record.claim(
        "sharing between exits hardly matters (within half a point): "
        "mean IoU of CBT minus CBT-ns, points",
        thesis="-.02 (ADE20K, W48)", values=_lost(apart), wanted="equal", margin=NEAR, gate=gate,
        where="named",
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
    ways = [
        ("conv", 1.0, f"convolutions with {cbt_of(NAMED)}", [clock["conv"] for clock in clocks]),
        ("vit", FASTER, "tokens", [clock["vit"] for clock in clocks]),
    ]
    if all("larger" in clock for clock in clocks):
        best = [_fastest(clock["larger"]) for clock in clocks]
        ways.append(("conv", FASTER, "convolutions on maps twice as large, best case", best))
    for _, least, name, found in ways:
        ratio = [clock["speed_up"] for clock in found]
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
            values=[clock["macs"] for clock in found],
            where="clock",
        )


def _fastest(columns: dict[str, list]) -> dict:
    """The row of `clock.larger` with the largest gain."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return max(rows, key=lambda row: row["speed_up"])


def _claim_tokens(record: records.Record, vit: Sequence[dict], pair: tuple) -> None:
    """The transformer: one threshold against class thresholds below it."""
    named, one, row = cbt_of(pair), single(pair[1]), thesis.row(pair)
    if named not in vit[0]["anytime"]:
        return
    gate, found = _gate(vit), _pairs(vit, one, named)
    lost = _lost(found)
    record.claim(
        f"tokens: {named} saves MACs of the {one}; ours: share saved",
        thesis=f"{row['saved']:.3f} ({row['where']})", thesis_value=row["saved"],
        values=_saved(found), gate=gate, where="tokens",
    )  # fmt: skip
    record.claim(
        f"... tokens, {named}: for at most half a point of mean IoU; ours: points lost",
        thesis=f"{row['lost']:.2f} ({row['where']})", thesis_value=row["lost"], values=lost,
        differences=[-points for points in lost], wanted="not behind", margin=NEAR, gate=gate,
        where="tokens",
    )  # fmt: skip


def _gate(runs: Sequence[dict]) -> statistics.Gate:
    """Whether stopping early could cost anything: the last exit must be ahead of the first.

    Where nobody stops; in a record without that row, with its highest single threshold.
    """
    names = [name for name in runs[0]["anytime"] if name == NOBODY or name.startswith("single")]
    rule = NOBODY if NOBODY in names else names[-1]
    ahead = statistics.mean(
        [100 * (run["anytime"][rule]["miou"][-1] - run["anytime"][rule]["miou"][0]) for run in runs]
    )
    return statistics.Gate(
        f"the last exit is ahead of the first by three points of mean IoU ({rule}); "
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
