"""What frozen training of SmolLM2's exit has recorded, as tables, claims and a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML

from eenotes_book import records, style
from eenotes_book.ch06_language import thesis
from eenotes_book.ch06_language.frozen_training import COPY, MEANS, RANDOM, SCALED, WITH_COPY
from eenotes_book.statistics import Gate, mean
from eenotes_book.style import METHODS

Found = Sequence[Mapping[str, Any]]  # the record's numbers["training"], a start at a rate each
_MARGIN = 0.005  # of accuracy: a smaller difference is none
_CHANCE = 0.05  # the random head of the thesis is at .019 after ten frozen epochs


def accuracies(found: Found, start: str, *, rate: float, group: int = 0) -> pd.DataFrame | None:
    """Next-token accuracy, a row per epoch from 0, a column per draw; ``None`` if it is missing.

    Args:
        found: the record's.
        start: one of `frozen_training.STARTS`.
        rate: learning rate.
        group: 0: all positions; 1: those outside of ``<unk>``.
    """
    for run in found:
        if (run["start"], run["rate"]) == (start, rate):
            counts = [draw[group] for draw in run["positions"]]
            rows = [[draw[group] for draw in epoch["right"]] for epoch in run["history"]]
            return pd.DataFrame(rows) / counts
    return None


def rates(found: Found) -> list[float]:
    """The learning rates of which anything has finished, ascending."""
    return sorted({run["rate"] for run in found})


def table(found: Found, *, rate: float) -> pd.DataFrame:
    """Before training, after one epoch and after the last: accuracy and cross-entropy by start."""
    rows = {}
    for run in found:
        if run["rate"] == rate:
            curve = accuracies(found, run["start"], rate=rate).mean(axis=1)
            losses = [epoch["loss"] for epoch in run["history"]]
            rows[run["start"]] = [curve.iloc[i] for i in (0, 1, -1)]
            rows[run["start"]] += [losses[i] for i in (0, 1, -1)]
    last = len(found[0]["history"]) - 1
    parts = pd.MultiIndex.from_product(
        [("accuracy", "cross-entropy"), ("before", "epoch 1", f"epoch {last}")]
    )
    return pd.DataFrame.from_dict(rows, orient="index", columns=parts)


def claim(record: records.Record, found: Found) -> None:
    """What the starts come to; one value per draw of test text, for the runs that have finished."""
    for rate in rates(found):
        curves = {
            run["start"]: accuracies(found, run["start"], rate=rate)
            for run in found
            if run["rate"] == rate
        }
        _claim_at(record, curves, rate)


def _claim_at(record: records.Record, curves: Mapping[str, pd.DataFrame], rate: float) -> None:
    name = f"SmolLM2-135M, frozen training at {rate:g}"
    common = {"margin": _MARGIN, "over": "draws", "where": "frozen"}
    gate = None
    if RANDOM in curves:
        ends = mean(curves[RANDOM].iloc[-1])
        condition = (
            f"the random head is still near chance (at most {_CHANCE}) after the last epoch, as in "
            f"the thesis; here it reaches {ends:.3f}"
        )
        gate = Gate(condition, ends <= _CHANCE)
    for start, statement, theirs, wanted in (
        (MEANS, "class means dip after the first epoch", -0.111, "ahead"),
        (SCALED, "class means scaled to log posteriors do not dip", None, "not behind"),
    ):
        if start in curves:
            change = list(curves[start].iloc[1] - curves[start].iloc[0])
            record.claim(
                f"{name}: {statement}; ours: epoch 1 - epoch 0",
                thesis="OPT-125m: .131 - .242" if theirs else "not stated",
                thesis_value=theirs,
                values=change,
                differences=[-value for value in change] if theirs else change,
                wanted=wanted,
                **common,
            )
    for start, other, statement, theirs, value in (
        (MEANS, RANDOM, "random ends far behind class means", ".222 - ≈.019", 0.203),
        (MEANS, COPY, "class means end ahead of the copied head", ".222 - .187", 0.035),
        (SCALED, MEANS, "scaled class means end ahead of unscaled ones", "", None),
        (WITH_COPY, MEANS, "mixed with the copy, class means end ahead", ".229 - .222", 0.007),
        (SCALED, COPY, "scaled class means end ahead of the copied head", "", None),
    ):
        if start in curves and other in curves:
            record.claim(
                f"{name}: {statement}; ours: difference after the last epoch",
                thesis=f"OPT-125m, 10 epochs: {theirs}" if theirs else "not stated",
                thesis_value=value,
                values=list(curves[start].iloc[-1] - curves[other].iloc[-1]),
                gate=gate if other == RANDOM else None,
                **common,
            )


def sentences(found: Found) -> str:
    """How many runs have finished, and where each begins, is after an epoch, and ends."""
    parts = [f"{len(found)} trainings have finished"]
    for rate in rates(found):
        rows = table(found, rate=rate)["accuracy"]
        ends = (
            f"{start} {', '.join(f'{value:.3f}' for value in row)}"
            for start, row in rows.iterrows()
        )
        parts.append(f"at {rate:g} (before, epoch 1, end): {'; '.join(ends)}")
    return ". ".join(parts) + "."


def figure(found: Found, *, device: str) -> HTML:
    """Accuracy over the epochs, the thesis's panel and one per learning rate, a line per start.

    Args:
        found: the record's.
        device: that it ran on.
    """
    if not found:
        return HTML("<p>No training has finished yet: <code>make study N=6</code>.</p>")
    one, panels = found[0], {f"thesis, {thesis.MODEL}": dict(thesis.FROZEN.items())}
    for rate in rates(found):
        panels[f"learning rate {rate:g}"] = {
            run["start"]: accuracies(found, run["start"], rate=rate).mean(axis=1)
            for run in found
            if run["rate"] == rate
        }
    drawing, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 4.2), squeeze=False, sharey=True
    )
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for start, curve in curves.items():
            color, marker = METHODS[start]
            line = "--" if curve.isna().any() else "-"  # between two known ends
            ax.plot(curve.dropna(), line, color=color, marker=marker, markersize=4, label=start)
        ax.set(title=title, xlabel="epoch (0 = before training)")
    axes[0, 0].set(ylabel="next-token accuracy of the exit", ylim=(0, None))
    handles = {
        label: handle
        for ax in axes[0]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    drawing.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8
    )
    positions, slowest = sum(draw[0] for draw in one["positions"]), rates(found)[0]
    moves = [
        (name, curve.iloc[0], curve.iloc[-1])
        for name, curve in panels[f"learning rate {slowest:g}"].items()
        if name in (COPY, MEANS, RANDOM)
    ]
    ends = ", ".join(f"from {before:.3f} to {after:.3f} ({name})" for name, before, after in moves)
    return style.show(
        drawing,
        caption=f"With its head alone trained at {slowest:g}, a start's accuracy goes {ends}. "
        "SmolLM2-135M, exit after decoder 15 of 30; mean of five draws of test text.",
        alt="Accuracy of the exit per epoch, a panel of the thesis's curves and one per learning "
        "rate, one line per start.",
        provenance=f"SmolLM2-135M on WikiText-2; {one['tokens']:,} training positions "
        f"of {one['words']:,} tokens that occur five times or more, {positions:,} of test; one "
        f"training each; {device}",
    )
