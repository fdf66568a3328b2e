"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book.style import BLUE, GREEN, GREY, METHODS, ORANGE, RED, cost_axes, exit_colors

KINDS = {"vision": (BLUE, "o"), "language": (RED, "^"), "speech/multimodal": (GREEN, "D")}


def cascade(left: Sequence[float], *, costs: Sequence[float]) -> Figure:
    """A network as a row of stages with a door after each: the width of a stage's bar is who is
    still there.

    Args:
        left: share of the images that leaves at each exit.
        costs: cumulative relative cost at each exit.
    """
    figure, ax = plt.subplots(figsize=(8.2, 2.9))
    there = 1.0
    for j, (share, cost) in enumerate(zip(left, costs, strict=True)):
        ax.add_patch(
            plt.Rectangle(
                (j, -there / 2),
                0.72,
                there,
                color=BLUE,
                alpha=0.25 + 0.5 * (j + 1) / len(left),
                linewidth=0,
            )
        )
        ax.text(j + 0.36, 0, f"{there:.0%}", ha="center", va="center", fontsize=9)
        ax.annotate(
            "",
            xy=(j + 0.86, -0.78),
            xytext=(j + 0.86, -there / 2 + 0.04),
            arrowprops={"arrowstyle": "->", "color": RED},
        )
        ax.text(
            j + 0.86, -0.86, f"{share:.0%}\nleave", ha="center", va="top", fontsize=8, color=RED
        )
        ax.text(
            j + 0.36,
            0.6,
            f"stage {j + 1}\ncost so far {cost:.2f}",
            ha="center",
            va="bottom",
            fontsize=8,
        )
        there -= share
    ax.set(xlim=(-0.1, len(left) + 0.3), ylim=(-1.25, 0.95))
    ax.axis("off")
    return figure


def rising_cost(models: pd.DataFrame) -> Figure:
    """Parameters by year, and training-set sizes by year in one panel per unit, all on logarithmic
    axes; records have names.

    Args:
        models: the table in ``assets/models.csv``.
    """
    panels = [("parameters", models, "parameters")]
    panels += [
        (f"training {unit}", models[models.training_unit == unit], "training_examples")
        for unit in ("images", "tokens")
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=(1.5, 1, 1))
    for ax, (label, table, column) in zip(axes, panels, strict=True):
        table = (
            table.dropna(subset=[column])
            .assign(when=table.year + (table.month - 0.5) / 12)
            .sort_values("when")
        )
        for kind, group in table.groupby("kind"):
            color, marker = KINDS[kind]
            ax.scatter(group.when, group[column], color=color, marker=marker, s=28, label=kind)
        ax.set(yscale="log", xlabel="year", ylabel=label)
        ax.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True))
        for row, align in _records(table, column):
            offset = {"left": (6, -3), "right": (-5, 2)}[align]
            ax.annotate(
                row.model,
                (row.when, row[column]),
                fontsize=7.5,
                ha=align,
                xytext=offset,
                textcoords="offset points",
            )
        ax.margins(x=0.08, y=0.1)
    axes[0].legend(loc="lower right")
    return figure


def _records(table: pd.DataFrame, column: str) -> list[tuple[pd.Series, str]]:
    """Who was clearly larger than all before, in order of time, and on which side of its point
    there is room for a name.
    """
    found, highest = [], 0.0
    for _, row in table.iterrows():
        if row[column] > 1.3 * highest:
            found.append((row, "right" if found else "left"))
            highest = row[column]
    return found


def difficulty(tenths: pd.DataFrame, *, overall: float) -> Axes:
    """Accuracy of one classifier among images sorted by its margin.

    Args:
        tenths: ``group`` (from 1, most clear-cut first) and ``accuracy``.
        overall: the accuracy on all of them.
    """
    _, ax = plt.subplots(figsize=(6.4, 3))
    ax.bar(tenths.group, tenths.accuracy, color=BLUE, alpha=0.75)
    ax.axhline(overall, color=GREY, linestyle="--", linewidth=1.2)
    ax.text(
        len(tenths) + 0.55,
        overall + 0.015,
        f"all: {overall:.3f}",
        ha="right",
        va="bottom",
        fontsize=9,
    )
    ax.set(
        xlabel="tenth of the test images, largest margin first",
        ylabel="accuracy of the last exit",
        ylim=(0, 1.05),
    )
    ax.set_xticks(tenths.group)
    return ax


def threshold_landscape(table: pd.DataFrame, *, last: float) -> Figure:
    """One threshold for all exits.  Left: who leaves where; right: accuracy and relative cost.

    Args:
        table: one row per ``threshold``, with ``left``, ``accuracy`` and ``relative_cost``.
        last: accuracy of the last exit.
    """
    figure, (shares, trade_off) = plt.subplots(1, 2, figsize=(10.4, 3.6), sharex=True)
    left = np.array(table.left.tolist()).T
    colors = [ground for ground, _ in exit_colors(len(left))]
    shares.stackplot(
        table.threshold, left, colors=colors, labels=[f"exit {j + 1}" for j in range(len(left))]
    )
    shares.set(
        xlabel="threshold",
        ylabel="share of the test images that leaves at",
        ylim=(0, 1),
        xlim=(table.threshold.min(), 1),
    )
    handles, labels = shares.get_legend_handles_labels()
    shares.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    trade_off.plot(table.threshold, table.accuracy, color=BLUE, label="accuracy")
    trade_off.plot(
        table.threshold,
        table.relative_cost,
        color=RED,
        linestyle="-.",
        label="relative cost (MACs)",
    )
    trade_off.axhline(
        last, color=GREY, linestyle="--", linewidth=1.2, label="accuracy of the last exit"
    )
    trade_off.set(xlabel="threshold", ylim=(0, 1.05))
    trade_off.legend(loc="lower right")
    return figure


def exits_and_overthinking(exits: pd.DataFrame, changes: pd.DataFrame) -> Figure:
    """Left: accuracy of each exit on all images.

    Right: images that the rest of the network repairs or spoils after each early exit.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.6))
    color, marker = METHODS["early exits"]
    left.plot(exits.relative_cost, exits.accuracy, color=color, marker=marker)
    for row in exits.itertuples():
        left.annotate(
            f"exit {row.exit}",
            (row.relative_cost, row.accuracy),
            xytext=(4, -12),
            textcoords="offset points",
            fontsize=8,
        )
    cost_axes(left).margins(y=0.15)
    at = np.arange(len(changes))
    right.bar(at - 0.2, changes.repaired, 0.4, color=BLUE, label="wrong here, right at the end")
    right.bar(
        at + 0.2,
        changes.spoiled,
        0.4,
        color=RED,
        hatch="//",
        label="right here, wrong at the end (overthinking)",
    )
    right.set_xticks(at, [f"exit {j}" for j in changes.exit])
    right.set(
        ylabel="test images", ylim=(0, 1.3 * max(changes.repaired.max(), changes.spoiled.max(), 1))
    )
    right.legend(loc="upper right")
    return figure


def trade(curves: dict[str, pd.DataFrame], *, last: float) -> Figure:
    """Accuracy against cost on test, one line per rule; dashed: everybody goes to the end."""
    figure, ax = plt.subplots(figsize=(6.4, 4))
    for name, table in curves.items():
        color, marker = METHODS[name]
        table = table.sort_values("relative_cost")
        ax.plot(
            table.relative_cost,
            table.accuracy,
            color=color,
            marker=marker,
            markersize=4,
            label=name,
        )
    ax.axhline(last, color=GREY, linestyle="--", linewidth=1.2, label="last exit for everybody")
    ax.legend(loc="lower right")
    cost_axes(ax)
    return figure


def clock(times: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    """Left: time with three ways of leaving against the share of MACs, per batch size.

    Right: how dear a MAC is in each stage.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.8, 3.9), width_ratios=(1.5, 1))
    for (batch, group), color, marker in zip(
        times.groupby("batch"), (ORANGE, BLUE, GREEN), ("s", "o", "^"), strict=True
    ):
        left.plot(
            group.MACs,
            group.compacted,
            color=color,
            marker=marker,
            label=f"batch {batch}: leavers taken out",
        )
        left.plot(
            group.MACs, group.rebatched, color=color, marker=marker, linestyle="--", markersize=4
        )
        left.plot(
            group.MACs,
            group["every exit"],
            color=color,
            marker=marker,
            linestyle=":",
            markerfacecolor="white",
        )
    left.plot(
        [],
        [],
        color="black",
        linestyle="--",
        marker="o",
        markersize=4,
        label="and batches filled up again",
    )
    left.plot(
        [],
        [],
        color="black",
        linestyle=":",
        marker="o",
        markerfacecolor="white",
        label="all computed, then masked",
    )
    ends = [times.MACs.min(), times.MACs.max()]
    left.plot(ends, ends, color=GREY, linewidth=1, label="time = MACs")
    left.set(
        xlabel="relative cost (MACs)", ylabel="time / time of the plain backbone", ylim=(0, None)
    )
    left.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    right.bar(stages.stage, stages.time_per_mac, color=GREY)
    right.axhline(1, color="black", linewidth=1, linestyle="--")
    right.set(xlabel="stage", ylabel="time per MAC / average")
    return figure
