"""Chapter 6: a small OPT, five initialisations of its early exit, and what the exit is good for."""

from collections.abc import Callable, Sequence

import pandas as pd

from eenotes_book import records
from eenotes_book.ch06_language.experiment import as_table


def best_sentence(zero: dict[str, float]) -> str:
    """What the accuracies at epoch 0 say about copy, class means and whitening."""
    copied, means, plug, white = (
        zero[n] for n in ("copy", "class mean", "class mean, plug-in N₀", "whitened class mean")
    )
    return (
        f"Without any training the class means reach {means:.3f} ({plug:.3f} with the plug-in N₀) and are {_order(means, copied)} the "
        f"copied head's {copied:.3f}; whitened they reach {white:.3f}, {_order(white, copied)} the copy"
    )


def why_sentences(rows: Sequence[dict]) -> str:
    """The lead of class means (N₀ chosen) over the copied head, in points, under each condition."""
    table = pd.DataFrame(rows).groupby(["model", "features"], sort=False).mean(numeric_only=True)
    lead, white = 100 * (table.chosen - table["copy"]), 100 * (table.whitened - table["copy"])
    parts = [
        f"{model}: {lead[model, 'raw']:+.1f} raw, {lead[model, 'normalised']:+.1f} normalised"
        for model in lead.index.unique(0)
    ]
    return (
        f"Lead of class means over the copy in points: {'; '.join(parts)}. Whitened class means lead in {int((white > 0).sum())} of "
        f"{len(white)} cases, by {white.mean():+.1f} on average"
    )


def effects(rows: Sequence[dict]) -> str:
    """What each suspected cause does to the lead of class means over the copied head, in points."""
    table = (
        pd.DataFrame(rows)
        .groupby(["model", "features"], sort=False)
        .mean(numeric_only=True)
        .reset_index()
    )
    table["lead"] = 100 * (table.chosen - table["copy"])
    raw, norm = (table[table.features == kind].set_index("model") for kind in ("raw", "normalised"))
    base = raw[(raw.tied == 1) & (raw.width == raw.width.max())].sort_values("epochs")
    first, last = base.lead.iloc[0], base.lead.iloc[-1]
    parts = (
        [
            f"Training longer moves the lead of class means (raw features) from {first:+.1f} to {last:+.1f}"
        ]
        if len(base) > 1
        else []
    )
    for what, other in (
        ("untying", raw[raw.tied == 0]),
        ("halving the width", raw[raw.width < raw.width.max()]),
    ):
        parts += [f"{what} from {last:+.1f} to {lead:+.1f}" for lead in other.lead]
    moves = norm.lead - raw.lead
    return "; ".join([*parts, f"normalising by {moves.min():+.1f} to {moves.max():+.1f}"])


def training_sentences(tables: dict[str, pd.DataFrame]) -> str:
    """Who ends first in each setting, and what the first epoch does to frozen class means."""
    parts = []
    for setting, table in tables.items():
        last = table.iloc[-1].sort_values(ascending=False)
        parts.append(
            f"{setting}: {last.index[0]} ends first ({last.iloc[0]:.3f}), {last.index[-1]} last ({last.iloc[-1]:.3f})"
        )
    frozen = tables["frozen"]
    dips = {
        name: 100 * (frozen[name][1] - frozen[name][0])
        for name in ("class mean", "class mean, scaled")
    }
    moved = " and ".join(f"{value:+.1f} points for {name!r}" for name, value in dips.items())
    return f"{'; '.join(parts)}. The first frozen epoch brings {moved}"


def averaged(
    runs: Sequence[dict], setting: str, column: str = "exit_accuracy"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation over runs of `as_table`, one column per initialisation."""
    tables = pd.concat([as_table(run["curves"][setting], column) for run in runs]).groupby(level=0)
    return tables.mean(), tables.std()


def claim_all(record: records.Record, runs: Sequence[dict]) -> None:
    """The thesis's claims beside ours."""

    def claim(
        statement: str,
        thesis: str,
        values: Sequence[float],
        holds: Callable[[float], bool] | None,
        where: str,
    ) -> None:
        series = pd.Series(values, dtype=float)
        spread = None if len(series) < 2 else float(series.std())
        ours = float(series.mean())
        record.old_claim(
            statement,
            thesis=thesis,
            ours=ours,
            spread=spread,
            holds=None if holds is None else holds(ours),
            where=where,
        )

    zero = [run["epoch 0"] for run in runs]
    frozen = [as_table(run["curves"]["frozen"]) for run in runs]
    free = [as_table(run["curves"]["all weights"]) for run in runs]
    claim(
        "Epoch 0: class means are better than the copied head; ours: ratio of the accuracies",
        "OPT-125m: .243 / .056 = 4.3", [z["class mean"] / max(z["copy"], 1e-9) for z in zero], lambda v: v > 1, "epoch-zero",
    )  # fmt: skip
    claim(
        "Epoch 0: whitened class means are better than the copied head; ours: difference",
        "not stated", [z["whitened class mean"] - z["copy"] for z in zero], lambda v: v > 0, "epoch-zero",
    )  # fmt: skip
    claim(
        "Epoch 0: a random head knows nothing, class means do; ours: difference",
        "OPT-125m: .243", [z["class mean"] - z["random"] for z in zero], lambda v: v > 0.01, "epoch-zero",
    )  # fmt: skip
    claim(
        "Epoch 0: mixing with random beats class means alone; ours: difference",
        "OPT-125m: .261 - .243", [z["class mean + random"] - z["class mean"] for z in zero], lambda v: v > 0, "epoch-zero",
    )  # fmt: skip
    claim(
        "Frozen: class means dip after the first epoch; ours: epoch 1 - epoch 0",
        "OPT-125m: .131 - .242", [t["class mean"][1] - t["class mean"][0] for t in frozen], lambda v: v < 0, "training",
    )  # fmt: skip
    claim(
        "Frozen, head scaled to log posteriors: no dip; ours: epoch 1 - epoch 0",
        "not stated", [t["class mean, scaled"][1] - t["class mean, scaled"][0] for t in frozen], lambda v: v >= 0, "training",
    )  # fmt: skip
    claim(
        "Frozen: class means end ahead of the copied head; ours: difference after the last epoch",
        "OPT-125m, 10 epochs: .222 - .187", [t["class mean"].iloc[-1] - t["copy"].iloc[-1] for t in frozen], lambda v: v > 0, "training",
    )  # fmt: skip
    claim(
        "Frozen: random ends far behind; ours: class means - random after the last epoch",
        "OPT-125m: .222 - ≈.019", [t["class mean"].iloc[-1] - t["random"].iloc[-1] for t in frozen], lambda v: v > 0.01, "training",
    )  # fmt: skip
    claim(
        "All weights: the copied head ends ahead of class means; ours: difference after the last epoch",
        "OPT-125m: .325 - .311", [t["copy"].iloc[-1] - t["class mean"].iloc[-1] for t in free], lambda v: v > 0, "training",
    )  # fmt: skip
    claim(
        "Drafting: the text is that of plain greedy decoding; ours: share of the heads for which it is",
        "not stated", [_share(row["identical"] for row in run["decoding"].values()) for run in runs], lambda v: v == 1, "decoding",
    )  # fmt: skip


def _order(a: float, b: float) -> str:
    return "level with" if abs(a - b) < 5e-4 else "ahead of" if a > b else "behind"


def _share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)
