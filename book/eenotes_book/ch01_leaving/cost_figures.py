"""Figures of chapter 1 about costs: accuracy against cost, one threshold for all, and the clock."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from pandas.io.formats.style import Styler

from eenotes.rules import Confidence
from eenotes_book import slider
from eenotes_book.data.recorded import Recorded
from eenotes_book.style import BLUE, GREEN, GREY, METHODS, ORANGE, RED, cost_axes, exit_colors, show


def trade(
    curves: dict[str, pd.DataFrame], *, chosen: dict[str, float], last: float, provenance: str
) -> HTML:
    """Accuracy against cost on test, one line per rule; dashed: all images go to the end.

    Args:
        curves: rule → table with ``relative_cost`` and ``accuracy``.
        chosen: the numbers of the confidence rule that keeps the last exit's validation accuracy.
        last: accuracy of the last exit.
        provenance: for the small print.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4))
    for name, table in curves.items():
        color, marker = METHODS[name]
        table = table.sort_values("relative_cost")
        look = {"color": color, "marker": marker, "markersize": 4}
        ax.plot(table.relative_cost, table.accuracy, label=name, **look)
    ax.axhline(last, color=GREY, linestyle="--", linewidth=1.2, label="last exit for everybody")
    ax.legend(loc="lower right")
    return show(
        cost_axes(ax),
        caption="At the accuracy that the last exit has on validation, the confidence rule costs "
        f"{chosen['relative_cost']:.2f} on test, with accuracy {chosen['accuracy']:.3f} (last "
        f"exit: {last:.3f}). Points: thresholds on the validation split's Pareto front.",
        alt="Accuracy against relative cost for the confidence, entropy and patience rules, with a "
        "dashed line for the last exit.",
        provenance=provenance,
    )


def threshold_slider(
    run: Recorded, rows: Sequence[int], pictures: Sequence, *, start: float, provenance: str
) -> slider.Slider:
    """One confidence threshold for all exits, to be moved by the reader.

    Args:
        run: the recorded logits of the test images.
        rows: of the images that are shown.
        pictures: of them, ``(H, W, 3)`` in [0, 1].
        start: the threshold shown first.
        provenance: for the caption.
    """
    table = slider.rows(run.logits, run.labels, Confidence(start), run.costs, shown=rows)
    truth = run.labels[torch.as_tensor(rows)]
    return slider.slider(
        table,
        names=[f"exit {j + 1}" for j in range(len(run.logits))],
        samples=slider.pictures(pictures, truth, run.facts["classes"]),
        start=start,
        caption=f"One threshold for all exits: from accuracy {table[0].score:.3f} at cost "
        f"{table[0].relative_cost:.2f} to {table[-1].score:.3f} at {table[-1].relative_cost:.2f}. "
        f"Pictures: colour and number: the exit; ✗: wrong. {provenance}",
    )


def threshold_landscape(table: pd.DataFrame, *, last: float, provenance: str) -> HTML:
    """One threshold for all exits.  Left: which share exits where; right: accuracy and cost.

    Args:
        table: from `experiment.single_threshold`.
        last: accuracy of the last exit.
        provenance: for the small print.
    """
    figure, (shares, trade_off) = plt.subplots(1, 2, figsize=(10.4, 3.6), sharex=True)
    left, threshold = np.array(table.left.tolist()).T, table.threshold
    colors = [ground for ground, _ in exit_colors(len(left))]
    shares.stackplot(threshold, left, colors=colors, labels=_exit_names(len(left)))
    shares.set(xlabel="threshold", ylabel="share of the test images that leaves at")
    shares.set(ylim=(0, 1), xlim=(threshold.min(), 1))
    handles, labels = shares.get_legend_handles_labels()
    shares.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    trade_off.plot(threshold, table.accuracy, color=BLUE, label="accuracy")
    dashed = {"color": RED, "linestyle": "-.", "label": "relative cost (MACs)"}
    trade_off.plot(threshold, table.relative_cost, **dashed)
    line = {"color": GREY, "linestyle": "--", "linewidth": 1.2}
    trade_off.axhline(last, label="accuracy of the last exit", **line)
    trade_off.set(xlabel="threshold", ylim=(0, 1.05))
    trade_off.legend(loc="lower center", bbox_to_anchor=(0.45, 1))
    return show(
        figure,
        caption="One threshold for all exits: at 0.1 all images exit at exit 1; at 1 "
        f"{table.left.iloc[-1][-1]:.0%} go to the end. In between, accuracy and cost rise, but not "
        "together.",
        alt="Left, stacked areas: the share of test images that leaves at each exit as the "
        "threshold rises. Right: accuracy and relative cost against the threshold.",
        provenance=provenance,
    )


def _exit_names(count: int) -> list[str]:
    return [f"exit {j + 1}" for j in range(count)]


def clock(times: pd.DataFrame, stages: pd.DataFrame, *, provenance: str) -> HTML:
    """Left: time against the share of MACs, per batch size and way of exiting.

    Right: the time of a MAC in each stage.

    Args:
        times: from `clock.relative_times`.
        stages: from `clock.per_stage`.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.8, 3.9), width_ratios=(1.5, 1))
    filled = {"linestyle": "--", "markersize": 4}
    masked = {"linestyle": ":", "markerfacecolor": "white"}
    looks = zip((ORANGE, BLUE, GREEN), ("s", "o", "^"), strict=True)
    for (batch, group), (color, marker) in zip(times.groupby("batch"), looks, strict=True):
        look = {"color": color, "marker": marker}
        left.plot(group.MACs, group.compacted, label=f"batch {batch}: leavers taken out", **look)
        left.plot(group.MACs, group.rebatched, **look, **filled)
        left.plot(group.MACs, group["every exit"], **look, **masked)
    black = {"color": "black", "marker": "o"}
    left.plot([], [], label="and batches filled up again", **black, **filled)
    left.plot([], [], label="all computed, then masked", **black, **masked)
    ends = [times.MACs.min(), times.MACs.max()]
    left.plot(ends, ends, color=GREY, linewidth=1, label="time = MACs")
    left.set(xlabel="relative cost (MACs)", ylabel="time / time of the plain backbone")
    left.set(ylim=(0, None))
    left.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    right.bar(stages.stage, stages.time_per_mac, color=GREY)
    right.axhline(1, color="black", linewidth=1, linestyle="--")
    right.set(xlabel="stage", ylabel="time per MAC / average", xticks=stages.stage)
    middle = times[times.batch == times.batch.max()].iloc[1]
    return show(
        figure,
        caption=f"With leavers taken out, {middle.MACs:.2f} of the MACs take "
        f"{middle.compacted:.2f} of the time at batch {middle.batch}; filled up again, "
        f"{middle.rebatched:.2f}; computing everything and masking, {middle['every exit']:.2f}. "
        f"Right: a MAC in stage 1 takes {stages.time_per_mac.iloc[0]:.1f} times the average.",
        alt="Left: time against MACs for three batch sizes and three ways of leaving; right: bars "
        "of time per multiply-accumulate for each stage.",
        provenance=provenance,
    )


def clock_table(times: pd.DataFrame, *, provenance: str) -> Styler:
    """The numbers of `clock`, as a table with a caption."""
    caption = (
        "Everything as a part of the plain backbone. rule: the threshold; stage times: cost with "
        "each stage's and test's own time in place of its MACs; then leavers taken out "
        "(compacted), filled up again (rebatched), everything computed (every exit)."
    )
    styled = times.round(2).style.hide(axis="index").format(precision=2)
    return styled.set_caption(f"{caption} {provenance}")
