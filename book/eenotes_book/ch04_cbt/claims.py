"""Chapter 4: one threshold for all classes, or one for each; a convolutional network and a
transformer that skip what is finished.
"""

from collections.abc import Sequence

import pandas as pd

from eenotes_book import records
from eenotes_book.ch04_cbt.experiment import (
    BUDGET_METHODS,
    NEAR,
    PAIRS,
    SAVING,
    SINGLE,
    leads,
    number,
)


def verdict(runs: Sequence[dict], *, methods: Sequence[str] = BUDGET_METHODS[1:]) -> str:
    """A sentence per method: by how much it is ahead of one threshold at the same cost, averaged
    over budgets and runs.
    """
    parts = []
    for method in methods:
        table = leads(runs, method)
        ahead = f"ahead at {int((table['mean'] > 0).sum())} of {len(table)} budgets"
        parts.append(f"{method}: {100 * table['mean'].mean():+.2f} points, {ahead}")
    return "Against one threshold at the same cost: " + "; ".join(parts) + "."


def payers(table: pd.DataFrame, rule: str) -> str:
    """A sentence: which class a rule costs most, and which it helps most."""
    worst, best = table.loc[table[rule].idxmin()], table.loc[table[rule].idxmax()]
    gains = (
        f"{best['class']} gains most ({best[rule]:+.1f})"
        if best[rule] >= 0.05
        else "no class gains"
    )
    return f"{rule}: {worst['class']} pays most ({worst[rule]:+.1f} points of its IoU), {gains}"


def claim_all(
    record: records.Record, conv: Sequence[dict], vit: Sequence[dict], clocks: Sequence[dict]
) -> None:
    """The thesis's claims beside ours; ``clocks`` hold ``conv``, with the first of `PAIRS`, and
    ``vit``, each from `speed`.
    """
    single, named = f"single {SINGLE}", f"CBT [{PAIRS[0][0]}, {PAIRS[0][1]}]"
    points = [(r["anytime"][single], r["anytime"][named]) for r in conv]
    saved = [1 - ours["cost"][-1] / one["cost"][-1] for one, ours in points]
    lost = [100 * (one["miou"][-1] - ours["miou"][-1]) for one, ours in points]
    record.old_claim(
        f"{named} saves at least 23 % of the MACs of the single {SINGLE}; ours: share saved",
        thesis=".23 for .62 points (Cityscapes, W48, [.99, .998])",
        ours=_mean(saved), spread=_spread(saved), holds=_mean(saved) >= SAVING, where="named",
    )  # fmt: skip
    record.old_claim(
        f"... for at most half a point of mean IoU; ours: points lost, {100 * _mean([o['miou'][-1] for _, o in points]):.2f} left",
        thesis=".97 (ADE20K, W48, [.9, .998])",
        ours=_mean(lost), spread=_spread(lost), holds=_mean(lost) <= 100 * NEAR, where="named",
    )  # fmt: skip
    ns = f"CBT-ns [{PAIRS[0][0]}, {PAIRS[0][1]}]"
    gap = [100 * (r["anytime"][named]["miou"][-1] - r["anytime"][ns]["miou"][-1]) for r in conv]
    record.old_claim(
        "sharing between exits hardly matters (within half a point): mean IoU of CBT minus CBT-ns, points",
        thesis="-.02 (ADE20K, W48)", ours=_mean(gap), spread=_spread(gap), holds=abs(_mean(gap)) <= 100 * NEAR, where="named",
    )  # fmt: skip
    rank = [r["rank"] for r in conv]
    record.old_claim(
        "frequent classes have the larger margins: rank correlation of margin and share of pixels",
        thesis="road .90 ... train .998 (figure)", ours=_mean(rank), spread=_spread(rank), holds=_mean(rank) > 0.5, where="margins",
    )  # fmt: skip
    for method, what in [
        ("CBT", "CBT"),
        ("one per exit and class", "class thresholds of equal marginal loss"),
    ]:
        table = leads(conv, method)
        record.old_claim(
            f"{what}: ahead of the best single threshold at the same cost; ours: mean lead over budgets, points",
            thesis="not asked", ours=float(100 * table["mean"].mean()), spread=number(100 * table.spread.mean()),
            holds=_ahead(table), where="budgets",
        )  # fmt: skip
    table = leads(conv, "one per exit and class", "one per exit")
    record.old_claim(
        "... and it is the classes that help, not the exits: lead over thresholds of equal marginal loss per exit only, points",
        thesis="not asked", ours=float(100 * table["mean"].mean()), spread=number(100 * table.spread.mean()),
        holds=_ahead(table), where="budgets",
    )  # fmt: skip
    for kind, least, text in [("conv", 1.0, f"convolutions with {named}"), ("vit", 1.3, "tokens")]:
        ratio, macs = ([clock[kind][key] for clock in clocks] for key in ("speed_up", "macs"))
        record.old_claim(
            f"skipping saves time, {text}: plain backbone's time / masked time, at least {least} (MACs: {_mean(macs):.2f})",
            thesis="MACs only, nothing skipped", ours=_mean(ratio), spread=_spread(ratio), holds=_mean(ratio) > least, where="clock",
        )  # fmt: skip
    names = [name for name in vit[0]["anytime"] if name.startswith("CBT")]
    first = next(name for name in vit[0]["anytime"] if name.startswith("single"))
    kept = [1 - r["anytime"][names[-1]]["cost"][-1] / r["anytime"][first]["cost"][-1] for r in vit]
    drop = [
        100 * (r["anytime"][first]["miou"][-1] - r["anytime"][names[-1]]["miou"][-1]) for r in vit
    ]
    record.old_claim(
        f"tokens: {names[-1]} saves MACs of the {first} for at most half a point (lost here: {_mean(drop):.2f}); ours: share saved",
        thesis=".033 for .17 points (ViT-B, ADE20K, [.85, .9])", ours=_mean(kept), spread=_spread(kept),
        holds=_mean(kept) > 0 and _mean(drop) <= 100 * NEAR, where="tokens",
    )  # fmt: skip


def _ahead(table: pd.DataFrame) -> bool | None:
    """Whether a lead is more than the seeds' spread, or with one seed more than half a point;
    between that and 0 it is undecided.
    """
    lead, spread = table["mean"].mean(), table.spread.mean()
    return True if lead > (NEAR if pd.isna(spread) else spread) else False if lead <= 0 else None


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


def _spread(values: Sequence[float]) -> float | None:
    return number(pd.Series(values).std())
