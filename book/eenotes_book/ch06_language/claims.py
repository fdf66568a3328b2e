"""Chapter 6's claims: the thesis's numbers beside ours, and sentences about what was measured."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from eenotes_book import records
from eenotes_book.ch06_language import (
    calm,
    drafting_clock,
    drafting_tables,
    frozen_tables,
    pretrained,
)
from eenotes_book.ch06_language.experiment import as_table
from eenotes_book.statistics import Gate, mean

_POINT = 0.01
_MARGIN = 0.5 * _POINT  # of accuracy: a smaller difference is none
_CHANCE = 0.05  # the random head of the thesis is at .019 after ten frozen epochs


def claim_all(record: records.Record, numbers: dict[str, Any]) -> None:
    """Put the thesis's claims beside ours.

    Small models trained here are demonstrations: their numbers get no verdict.

    Args:
        record: gets the claims.
        numbers: a record's: ``"run"``, or ``"runs"``, one per seed; in the study also
            ``"pretrained"``, ``"training"`` and ``"drafting"``.
    """
    if "pretrained" in numbers:
        _pretrained(record, numbers["pretrained"])
    frozen_tables.claim(record, numbers.get("training", []))
    if "drafting" in numbers:
        drafting_tables.claim(record, numbers["drafting"])
    drafting_clock.claim(record, numbers.get("clock", []))
    calm.claim(record, numbers.get("leaving"))
    runs = numbers.get("runs") or [numbers["run"]]
    _before_training(record, runs)
    _training(record, runs)
    same = [_identical(run["decoding"]) for run in runs if "decoding" in run]
    if same:
        record.check(
            "Drafting: the text is that of plain greedy decoding; ours: share of the heads for "
            "which it is",
            values=same,
            holds=all(share == 1 for share in same),
            where="decoding",
        )


def _pretrained(record: records.Record, found: pretrained.Found) -> None:
    """Claims about SmolLM2-135M: one value per draw of text, at the exit in the middle."""
    at = found["whole"]["at"]
    table, rest = (pretrained.accuracies(found, at=at, group=group) for group in (0, 1))
    raw = pretrained.accuracies(found, at=at, norm=False)
    name = f"SmolLM2-135M, exit after decoder {at} of 30, epoch 0"

    def claim(
        statement: str,
        head: str,
        other: str,
        among: pd.DataFrame = table,
        *,
        ours: Literal["ratio", "difference"] = "difference",
        **facts,
    ) -> None:
        lead, facts = among.loc[head] - among.loc[other], {"thesis": "not stated"} | facts
        values = lead if ours == "difference" else among.loc[head] / among.loc[other]
        record.claim(
            f"{name}: {statement}; ours: {ours}{' of the accuracies' * (ours == 'ratio')}",
            values=values,
            differences=lead,
            margin=_MARGIN,
            where="pretrained",
            **facts,
        )

    thesis = {"thesis": "OPT-125m: .243 / .056 = 4.3", "thesis_value": 0.243 / 0.056}
    means, white = "class mean", "whitened class mean"
    claim("class means are better than the copied head", means, "copy", ours="ratio", **thesis)
    claim(
        "outside of <unk>, class means are better than the copied head",
        means,
        "copy",
        rest,
        ours="ratio",
    )
    claim(
        "with the plug-in N₀, class means are better than the copied head",
        "class mean, plug-in N₀",
        "copy",
        ours="ratio",
    )
    claim("on raw output, class means are better than the copied head", means, "copy", raw)
    claim("on raw output, whitened class means are", white, "copy", raw)
    claim("whitened class means are better than class means", white, means)
    claim("a searched N₀ is better than the plug-in one", means, "class mean, plug-in N₀")
    claim(
        "mixing with the copied head beats class means alone",
        "class mean + copy",
        means,
        thesis="OPT-125m: .229 - .243",
    )
    claim("shrunken means are better than class means", "class mean, shrunken", means)
    few = pretrained.with_few(found, at=at)
    claim("a tuned lens is better than whitened class means", pretrained.LENS, white, few)


def _small(record: records.Record, statement: str, *, thesis: str, values, where: str, **judged):
    """A claim where the models are the thesis's, else the number of a demonstration."""
    if record.at == "full":
        record.claim(
            statement, thesis=thesis, values=values, where=where, at_thesis_setting=True, **judged
        )
    else:
        record.number(f"Small model: {statement}", thesis=thesis, values=values, where=where)


def _before_training(record: records.Record, runs: Sequence[dict]) -> None:
    def lead(name: str, other: str) -> list[float]:
        return [run["epoch 0"][name] - run["epoch 0"][other] for run in runs]

    put = partial(_small, record, margin=_MARGIN, where="epoch-zero")
    put(
        "Epoch 0: class means are better than the copied head; ours: ratio of the accuracies",
        thesis="OPT-125m: .243 / .056 = 4.3",
        values=[run["epoch 0"]["class mean"] / max(run["epoch 0"]["copy"], 1e-9) for run in runs],
        differences=lead("class mean", "copy"),
        thesis_value=0.243 / 0.056,
    )
    put(
        "Epoch 0: whitened class means are better than the copied head; ours: difference",
        thesis="not stated",
        values=lead("whitened class mean", "copy"),
    )
    put(
        "Epoch 0: a random head knows nothing, class means do; ours: difference",
        thesis="OPT-125m: .243",
        values=lead("class mean", "random"),
        thesis_value=0.243,
    )
    put(
        "Epoch 0: mixing with random beats class means alone; ours: difference",
        thesis="OPT-125m: .261 - .243",
        values=lead("class mean + random", "class mean"),
        thesis_value=0.261 - 0.243,
    )


def _training(record: records.Record, runs: Sequence[dict]) -> None:
    frozen = [as_table(run["curves"]["frozen"]) for run in runs]
    free = [as_table(run["curves"]["all weights"]) for run in runs]
    put = partial(_small, record, margin=_MARGIN, where="training")
    gate = _random_near_chance(frozen)

    def first_epoch(name: str) -> list[float]:
        return [table[name][1] - table[name][0] for table in frozen]

    def lead(tables: Sequence[pd.DataFrame], name: str, other: str) -> list[float]:
        return [table[name].iloc[-1] - table[other].iloc[-1] for table in tables]

    dips = first_epoch("class mean")
    put(
        "Frozen: class means dip after the first epoch; ours: epoch 1 - epoch 0",
        thesis="OPT-125m: .131 - .242",
        values=dips,
        differences=[-dip for dip in dips],
        thesis_value=0.131 - 0.242,
        gate=gate,
    )
    put(
        "Frozen, head scaled to log posteriors: no dip; ours: epoch 1 - epoch 0",
        thesis="not stated",
        values=first_epoch("class mean, scaled"),
        wanted="not behind",
        gate=gate,
    )
    put(
        "Frozen: class means end ahead of the copied head; ours: difference after the last epoch",
        thesis="OPT-125m, 10 epochs: .222 - .187",
        values=lead(frozen, "class mean", "copy"),
        thesis_value=0.222 - 0.187,
        gate=gate,
    )
    put(
        "Frozen: random ends far behind; ours: class means - random after the last epoch",
        thesis="OPT-125m: .222 - ≈.019",
        values=lead(frozen, "class mean", "random"),
        thesis_value=0.222 - 0.019,
        gate=gate,
    )
    put(
        "All weights: the copied head ends ahead of class means; ours: difference after the last "
        "epoch",
        thesis="OPT-125m: .325 - .311",
        values=lead(free, "copy", "class mean"),
        thesis_value=0.325 - 0.311,
    )


def _random_near_chance(frozen: Sequence[pd.DataFrame]) -> Gate:
    """Where even a random head learns, the training does not depend on where it begins."""
    ends = mean([table["random"].iloc[-1] for table in frozen])
    condition = (
        f"the random head is still near chance (at most {_CHANCE}) after the last frozen epoch, as "
        f"in the thesis; here it reaches {ends:.3f}"
    )
    return Gate(condition, ends <= _CHANCE)


def _identical(decoding: dict[str, dict]) -> float:
    """Share of the ways to decode whose text is the greedy one."""
    return float(np.mean([row["identical"] for row in decoding.values()]))


# ------------------------------------------------------------------------------- sentences


def best_sentence(zero: dict[str, float]) -> str:
    """The accuracies at epoch 0 of copy, class means and whitened class means."""
    copied, means, plug_in, white = (
        zero[name]
        for name in ("copy", "class mean", "class mean, plug-in N₀", "whitened class mean")
    )
    return (
        f"Share of the test tokens that are named without any training: copied head {copied:.3f}, "
        f"class means {means:.3f} ({plug_in:.3f} with the plug-in N₀), whitened class means "
        f"{white:.3f}."
    )


def lead_sentences(rows: Sequence[dict]) -> str:
    """The lead of class means (N₀ chosen) over the copied head, in points, for each model."""
    table = pd.DataFrame(rows).groupby(["model", "features"], sort=False).mean(numeric_only=True)
    lead, white = 100 * (table.chosen - table["copy"]), 100 * (table.whitened - table["copy"])
    parts = [
        f"{model}: {lead[model, 'raw']:+.1f} raw, {lead[model, 'normalised']:+.1f} normalised"
        for model in lead.index.unique(0)
    ]
    return (
        f"Class means minus copy, in points: {'; '.join(parts)}. Whitened class means minus copy: "
        f"{white.mean():+.1f} on average over {len(white)} cases."
    )


def cause_sentences(rows: Sequence[dict]) -> str:
    """What each suspected cause does to the lead of class means over the copied head, in points."""
    groups = pd.DataFrame(rows).groupby(["model", "features"], sort=False)
    table = groups.mean(numeric_only=True).reset_index()
    table["lead"] = 100 * (table.chosen - table["copy"])
    raw, norm = (table[table.features == kind].set_index("model") for kind in ("raw", "normalised"))
    base = raw[(raw.tied == 1) & (raw.width == raw.width.max())].sort_values("epochs")
    first, last = base.lead.iloc[0], base.lead.iloc[-1]
    parts = []
    if len(base) > 1:
        parts += [
            "Training longer moves the lead of class means (raw features) "
            f"from {first:+.1f} to {last:+.1f}"
        ]
    for what, other in (
        ("untying", raw[raw.tied == 0]),
        ("halving the width", raw[raw.width < raw.width.max()]),
    ):
        parts += [f"{what} from {last:+.1f} to {lead:+.1f}" for lead in other.lead]
    moves = norm.lead - raw.lead
    return "; ".join([*parts, f"normalising by {moves.min():+.1f} to {moves.max():+.1f}."])


def training_sentences(tables: dict[str, pd.DataFrame]) -> str:
    """Where each line ends in each setting, and what the first epoch does to frozen class means."""
    parts = []
    for setting, table in tables.items():
        ends = ", ".join(f"{name} {value:.3f}" for name, value in table.iloc[-1].items())
        parts.append(f"{setting}, after the last epoch: {ends}")
    frozen = tables["frozen"]
    changes = " and ".join(
        f"{name!r} by {100 * (frozen[name][1] - frozen[name][0]):+.1f} points"
        for name in ("class mean", "class mean, scaled")
    )
    return f"{'; '.join(parts)}. The first frozen epoch changes {changes}."
