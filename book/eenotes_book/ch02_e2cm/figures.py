"""Figures of chapter 2: one image's way, confidences, costs of tests, and clusterings."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes

from eenotes_book import statistics, style
from eenotes_book.style import GREY, METHODS, RED


def walk_through(
    steps: pd.DataFrame,
    *,
    classes: Sequence[str],
    truth: str,
    thresholds: Sequence[float],
    names: Sequence[str],
    provenance: str,
) -> HTML:
    """One image on its way: per exit the normalised distances, and their softmax below.

    Args:
        steps: columns ``exit`` (from 0), ``class`` (from 0), ``distance`` (d/μ) and ``softmax``.
        classes: names of the classes.
        truth: the class of the image.
        thresholds: one per exit shown.
        names: of the exits shown; the image exits at the last.
        provenance: for the small print.
    """
    exits = sorted(steps.exit.unique())
    size = (2.3 * len(exits) + 0.8, 4.4)
    figure, axes = plt.subplots(
        2, len(exits), figsize=size, sharex=True, sharey="row", squeeze=False
    )
    largest = steps.softmax.max()
    # an exit that no sample leaves by: its line would dwarf the bars
    closed = [threshold > 2 * largest for threshold in thresholds]
    open_ones = [t for t, shut in zip(thresholds, closed, strict=True) if not shut]
    top = 1.15 * max([largest, *open_ones])
    for column, j in enumerate(exits):
        part, threshold = steps[steps.exit == j], thresholds[column]
        leaves = part.softmax.max() > threshold
        _bars(axes[0, column], part.distance, marked=part.distance.argmin())
        _bars(axes[1, column], part.softmax, marked=part.softmax.argmax())
        axes[1, column].axhline(min(threshold, 2 * top), color="black", linestyle="--", linewidth=1)
        axes[1, column].set_ylim(0, top)
        verdict = "leaves" if leaves else "exit closed: goes on" if closed[column] else "goes on"
        color = RED if leaves else "black"
        axes[0, column].set_title(f"{names[column]}\n{verdict}", color=color, fontsize=10)
        axes[1, column].set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axes[0, 0].set_ylabel("distance / μ")
    axes[1, 0].set_ylabel("softmax (dashed: threshold)", fontsize=9)
    return style.show(
        figure,
        caption=f"A test image of class {truth!r} stops after {names[-1]}, the first exit where "
        "the largest softmax value passes its threshold. Above: distance to each class mean "
        "divided by its average; below: softmax of the negative.",
        alt="Two rows of bar charts, one column per exit drawn: normalised distances above, "
        "softmax values below with a dashed threshold line.",
        provenance=provenance,
    )


def confidence_bands(
    table: pd.DataFrame, mean_cost: Mapping[str, float], *, num_classes: int, provenance: str
) -> HTML:
    """Where the confidences of each exit lie: median, middle 90 % and extremes, beside 1/K.

    Args:
        table: indexed by exit name, columns ``min``, ``low``, ``median``, ``high``, ``max``.
        mean_cost: of thresholds that are drawn: ``uniform`` and ``quantile``.
        num_classes: K.
        provenance: for the small print.
    """
    figure, ax = plt.subplots(figsize=(7.2, 3.0))
    at, uniform = np.arange(len(table)), 1 / num_classes
    ax.vlines(at, table["min"], table["max"], color=RED, linewidth=1, label="smallest to largest")
    middle = {"color": RED, "linewidth": 6, "alpha": 0.5, "label": "middle 90 %"}
    ax.vlines(at, table["low"], table["high"], **middle)
    ax.plot(at, table["median"], "o", color=RED, label="median")
    ax.axhline(uniform, color=GREY, linestyle="--", linewidth=1, label=f"1/K = {uniform:.2f}")
    ax.set_xticks(at, table.index, rotation=30)
    ax.set(ylabel="confidence", xlabel="exit after")
    ax.legend(ncols=2, loc="upper left")
    ax.set_ylim(uniform * 0.97, table["max"].max() * 1.25 - 0.25 * uniform)
    return style.show(
        figure,
        caption=f"With K = {num_classes} classes all confidences lie in a narrow band above 1/K, "
        f"up to {table['max'].max():.2f}. Thresholds drawn uniformly from [0, 1] cost "
        f"{mean_cost['uniform']:.2f} on average, drawn among the exits' own confidences "
        f"{mean_cost['quantile']:.2f}.",
        alt="One vertical bar per exit for the range of confidences, all close to a dashed line "
        "at one over the number of classes.",
        provenance=provenance,
    )


def exit_overhead(table: pd.DataFrame, *, provenance: str) -> HTML:
    """MACs per stage and of the exit test after it, on a logarithmic axis.

    Args:
        table: indexed by exit name, columns ``stage`` and one per kind of exit.
        provenance: for the small print.
    """
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    for name in table:
        color, marker = METHODS.get(name, (GREY, "s"))
        look = {"color": color, "marker": marker, "linestyle": ":", "markersize": 7}
        ax.plot(range(len(table)), table[name], label=name, **look)
    ax.set_xticks(range(len(table)), table.index, rotation=30)
    ax.set(ylabel="MACs per image", xlabel="exit after", yscale="log")
    ax.legend(ncols=len(table.columns), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    share = table["E²CM"].sum() / table["stage"].sum()
    return style.show(
        figure,
        caption="An E²CM exit test costs at least as much as a linear exit on 4 × 4 averages, and "
        "more wherever the feature map is larger: all E²CM tests together are "
        f"{share:.1%} of the stages before them.",
        alt="Markers over the exits on a logarithmic axis: stages mostly far highest, then "
        "class-mean tests, linear exits lowest or equal to them.",
        provenance=provenance,
    )


def clustering(groups: Mapping[str, Sequence[dict]], *, provenance: str) -> HTML:
    """What early exits change in clustering accuracy, against cost: a panel per data set.

    Args:
        groups: data set → runs, each with ``accuracy`` of the whole encoder and ``points``
            (``budget``, ``relative_cost``, ``accuracy``).
        provenance: for the small print.
    """
    size = (5.2 * len(groups), 3.8)
    figure, axes = plt.subplots(1, len(groups), figsize=size, sharey=True, squeeze=False)
    found = []
    for ax, (name, runs) in zip(axes[0], groups.items(), strict=True):
        table = pd.concat([_changes(run) for run in runs])
        for _, run in table.groupby("accuracy_of_all", sort=False):
            ax.plot(run.relative_cost, run.change, color=GREY, linewidth=0.9, marker=".")
        costs, mean = table.groupby("budget").relative_cost.mean(), table.groupby("budget").change
        reach = mean.agg(lambda values: statistics.reach(values.tolist()))
        look = {"color": RED, "linewidth": 2.5, "marker": "o", "capsize": 3}
        ax.errorbar(costs, mean.mean(), None if reach.isna().any() else reach, **look)
        ax.axhline(0, color="black", linestyle="--", linewidth=1)
        ax.set(xlabel="relative cost (MACs; 1 = whole encoder)", title=name, xlim=(0, 1.08))
        last = mean.mean().iloc[-1]
        found.append(f"{last:+.1f} on {name} at {costs.iloc[-1]:.2f} of the cost")
    axes[0, 0].set_ylabel("change of the clustering accuracy (points)")
    count = max(len(runs) for runs in groups.values())
    bars = f" Thin: each of {count} runs; red: mean, 95 % interval." if count > 1 else " One run."
    return style.show(
        figure,
        caption=f"Points of clustering accuracy against the whole encoder: {', '.join(found)}. "
        f"Thresholds are chosen without labels.{bars}",
        alt="Change of clustering accuracy against relative cost, one panel per data set; thin "
        "grey lines for runs and a thick red one for their mean, near a dashed line at zero.",
        provenance=provenance,
    )


def _changes(run: Mapping) -> pd.DataFrame:
    """The points of a run, with their change against the whole encoder."""
    table = pd.DataFrame(run["points"]).sort_values("relative_cost")
    change = 100 * (table.accuracy - run["accuracy"])
    return table.assign(change=change, accuracy_of_all=run["accuracy"])


def _bars(ax: Axes, values: pd.Series, *, marked: int) -> None:
    """A bar per class; the one marked is red."""
    colors = [RED if i == marked else "#BBBBBB" for i in range(len(values))]
    ax.bar(range(len(values)), values, color=colors)
