"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book.style import (
    CLASS_COLORS,
    GREY,
    METHODS,
    RED,
    accuracy_against_cost,
    backbone_line,
)

THREE_COLORS = ("#D62728", "#2CA02C", "#1F77B4")


def class_mean_grid(
    table: pd.DataFrame, *, colors: Sequence[str] = CLASS_COLORS, title: str = ""
) -> Figure:
    """The colour-coded class means: rows = classes, columns = layers; white = not separated, full
    colour = separated.

    Args:
        table: separability in [0, 1], indexed by class name, one column per layer, as
            `separability.separability` returns it.
        colors: one per class, in the order of the rows.
        title: of the figure.
    """
    values = table.to_numpy()
    shown = values / values.max()
    full = np.array([plt.matplotlib.colors.to_rgb(color) for color in colors[: len(table)]])
    cells = 1 - shown[..., None] * (1 - full[:, None, :])
    wide = table.shape[1]
    figure, ax = plt.subplots(figsize=(1.0 + 0.82 * wide, 0.9 + 0.48 * len(table)))
    ax.imshow(cells, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        dark = np.dot(cells[row, column], (0.299, 0.587, 0.114)) < 0.5
        ax.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )
    ax.set_xticks(
        range(wide),
        table.columns,
        rotation=30 if wide > 6 else 0,
        ha="right" if wide > 6 else "center",
    )
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlabel="layer whose class means are compared", title=title)
    ax.grid(False)
    ax.tick_params(length=0)
    return figure


def walk_through(
    steps: pd.DataFrame,
    *,
    classes: Sequence[str],
    thresholds: Sequence[float],
    names: Sequence[str],
) -> Figure:
    """One image on its way: per exit the normalised distances (above) and their softmax with the
    threshold (below).

    Args:
        steps: columns ``exit`` (from 0), ``class`` (from 0), ``distance`` (d/μ) and ``softmax``.
        classes: names of the classes.
        thresholds: one per exit shown.
        names: of the exits shown.
    """
    exits = sorted(steps.exit.unique())
    figure, axes = plt.subplots(
        2,
        len(exits),
        figsize=(2.3 * len(exits) + 0.8, 4.4),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    largest = steps.softmax.max()
    # an exit that lets nobody go: its line would dwarf the bars
    closed = [threshold > 2 * largest for threshold in thresholds]
    top = 1.15 * max(
        [largest, *(t for t, shut in zip(thresholds, closed, strict=True) if not shut)]
    )
    for column, j in enumerate(exits):
        part = steps[steps.exit == j]
        leaves = part.softmax.max() > thresholds[column]
        nearest, likeliest = part.distance.argmin(), part.softmax.argmax()
        for ax, values, best in (
            (axes[0, column], part.distance, nearest),
            (axes[1, column], part.softmax, likeliest),
        ):
            ax.bar(
                range(len(part)),
                values,
                color=[RED if i == best else "#BBBBBB" for i in range(len(part))],
            )
        axes[1, column].axhline(
            min(thresholds[column], 2 * top), color="black", linestyle="--", linewidth=1
        )
        axes[1, column].set_ylim(0, top)
        verdict = "leaves" if leaves else "exit closed: goes on" if closed[column] else "goes on"
        axes[0, column].set_title(
            f"{names[column]}\n{verdict}", color=RED if leaves else "black", fontsize=10
        )
        axes[1, column].set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axes[0, 0].set_ylabel("distance / μ")
    axes[1, 0].set_ylabel("softmax (dashed: threshold)", fontsize=9)
    return figure


def exit_overhead(table: pd.DataFrame, *, title: str = "") -> Figure:
    """MACs per stage and of the exit test after it, as bars on a logarithmic axis.

    Args:
        table: indexed by exit name, columns ``stage`` and one per kind of exit head.
        title: of the figure.
    """
    colors = {"stage": GREY} | {name: METHODS[name][0] for name in table.columns if name in METHODS}
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    table.plot.bar(ax=ax, color=[colors[name] for name in table.columns], width=0.8, logy=True)
    ax.set(ylabel="MACs per image", xlabel="exit after", title=title)
    ax.tick_params(axis="x", rotation=30)
    ax.legend(ncols=len(table.columns), loc="upper center", bbox_to_anchor=(0.5, 1.0))
    ax.set_ylim(top=table.to_numpy().max() * 6)
    return figure


def confidence_bands(table: pd.DataFrame, *, uniform: float) -> Axes:
    """Where the confidences of each exit lie: median, middle 90 % and extremes, beside 1/K.

    Args:
        table: indexed by exit name, columns ``min``, ``low``, ``median``, ``high``, ``max``.
        uniform: 1/K, the smallest confidence possible.
    """
    _, ax = plt.subplots(figsize=(7.2, 3.0))
    at = np.arange(len(table))
    ax.vlines(at, table["min"], table["max"], color=RED, linewidth=1, label="smallest to largest")
    ax.vlines(
        at, table["low"], table["high"], color=RED, linewidth=6, alpha=0.5, label="middle 90 %"
    )
    ax.plot(at, table["median"], "o", color=RED, label="median")
    ax.axhline(uniform, color=GREY, linestyle="--", linewidth=1, label=f"1/K = {uniform:.2f}")
    ax.set_xticks(at, table.index, rotation=30)
    ax.set(ylabel="confidence", xlabel="exit after")
    ax.legend(ncols=2, loc="upper left")
    ax.set_ylim(uniform * 0.97, table["max"].max() * 1.25 - 0.25 * uniform)
    return ax


def comparison_panels(
    tables: dict[str, dict[str, pd.DataFrame]], backbones: dict[str, float]
) -> Figure:
    """Accuracy against cost, one panel per data set and one line per method; a band where a table
    has a ``spread``.

    Args:
        tables: data set → method → table with ``relative_cost``, ``accuracy`` and ``spread`` (NaN
            for a single run).
        backbones: data set → accuracy of its backbone.
    """
    figure, axes = plt.subplots(
        1, len(tables), figsize=(min(4.6, 12.6 / len(tables)) * len(tables), 4), squeeze=False
    )
    for ax, (name, curves) in zip(axes[0], tables.items(), strict=True):
        accuracy_against_cost(ax, curves, title=name)
        for method, table in curves.items():
            low, high = table.accuracy - table.spread, table.accuracy + table.spread
            ax.fill_between(
                table.relative_cost, low, high, color=METHODS[method][0], alpha=0.2, linewidth=0
            )
        backbone_line(ax, backbones[name])
    axes[0, 0].legend(*_merged_legend(axes[0]), loc="best")
    return figure


def _merged_legend(axes: Sequence[Axes]) -> tuple[list, list[str]]:
    """Handles and names of all methods; the backbone's without its number, which differs between
    panels.
    """
    entries = {
        label.split(" (")[0]: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    return list(entries.values()), list(entries)


def clustering_panels(groups: dict[str, Sequence[dict]]) -> Figure:
    """Clustering accuracy against cost, one panel per data set; thin lines: runs, thick red: their
    mean per budget.

    Args:
        groups: data set → runs, each with ``accuracy`` of the whole encoder and ``points``
            (``budget``, ``relative_cost``, ``accuracy``).
    """
    figure, axes = plt.subplots(1, len(groups), figsize=(5.2 * len(groups), 3.8), squeeze=False)
    for ax, (name, runs) in zip(axes[0], groups.items(), strict=True):
        tables = [pd.DataFrame(run["points"]).sort_values("relative_cost") for run in runs]
        for i, table in enumerate(tables):
            ax.plot(
                table.relative_cost,
                table.accuracy,
                color=GREY,
                linewidth=0.9,
                marker=".",
                label="one run" if i == 0 else None,
            )
        mean = pd.concat(tables).groupby("budget")[["relative_cost", "accuracy"]].mean()
        if len(runs) > 1:
            ax.plot(
                mean.relative_cost,
                mean.accuracy,
                color=RED,
                linewidth=3,
                marker="o",
                label=f"mean of {len(runs)} runs",
            )
        ax.axhline(
            np.mean([run["accuracy"] for run in runs]),
            color="black",
            linestyle="--",
            linewidth=1,
            label="whole encoder",
        )
        ax.set(
            xlabel="relative cost (MACs; 1 = whole encoder)",
            ylabel="clustering accuracy (test)",
            title=name,
            xlim=(0, 1.08),
        )
        low, high = ax.get_ylim()
        # a tenth of a point shall not look like a cliff
        ax.set_ylim(min(low, high - 0.05), high + 0.005)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
