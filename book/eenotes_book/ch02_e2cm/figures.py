"""Figures of chapter 2: separability, one image's way, costs of tests, and comparisons."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book import style
from eenotes_book.style import CLASS_COLORS, GREY, METHODS, RED

THREE_COLORS = ("#D62728", "#2CA02C", "#1F77B4")


def three_classes(table: pd.DataFrame, *, provenance: str) -> HTML:
    """Three classes at a few layers, a colour each; arguments as in `all_classes`."""
    first, last = table.columns[0], table.columns[-1]
    return style.show(
        _class_mean_grid(table, THREE_COLORS),
        caption=f"Class means of {', '.join(table.index)} become separable with depth: "
        f"separability grows from {table[first].mean():.2f} on average after the {first} to "
        f"{table[last].mean():.2f} at the {last}.",
        alt="A grid with one row per class and one column per layer; each row has its own colour, "
        "faint on the left and strong on the right.",
        provenance=provenance,
    )


def all_classes(table: pd.DataFrame, *, provenance: str) -> HTML:
    """The class means of all classes at all layers: white is not separated, full colour is.

    Args:
        table: separability in [0, 1], indexed by class name, one column per layer.
        provenance: for the small print.
    """
    last = table.iloc[:, -1]
    return style.show(
        _class_mean_grid(table, CLASS_COLORS),
        caption="Between the stem and the classifier every class gains separability, most of it "
        f"late; at the end {last.idxmax()!r} stands out most and {last.idxmin()!r} least. Colour "
        "strength is equation (2.1), the largest value at full colour.",
        alt="A grid with one row per class and one column per layer, tinted more strongly from "
        "left to right in every row.",
        provenance=provenance,
    )


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
    """MACs per stage and of the exit test after it, as bars on a logarithmic axis.

    Args:
        table: indexed by exit name, columns ``stage`` and one per kind of exit.
        provenance: for the small print.
    """
    colors = {"stage": GREY} | {name: METHODS[name][0] for name in table.columns if name in METHODS}
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    table.plot.bar(ax=ax, color=[colors[name] for name in table.columns], width=0.8, logy=True)
    ax.set(ylabel="MACs per image", xlabel="exit after")
    ax.tick_params(axis="x", rotation=30)
    ax.legend(ncols=len(table.columns), loc="upper center", bbox_to_anchor=(0.5, 1.0))
    ax.set_ylim(top=table.to_numpy().max() * 6)
    share = table["E²CM"].sum() / table["stage"].sum()
    return style.show(
        figure,
        caption="An E²CM exit test costs at least as much as a linear exit on 4 × 4 averages, and "
        "more wherever the feature map is larger: all E²CM tests together are "
        f"{share:.1%} of the stages before them.",
        alt="Grouped bars on a logarithmic axis: stages mostly far highest, then class-mean "
        "tests, linear exits lowest or equal to them.",
        provenance=provenance,
    )


def clustering(groups: Mapping[str, Sequence[dict]], *, provenance: str) -> HTML:
    """Clustering accuracy against cost, one panel per data set.

    Args:
        groups: data set → runs, each with ``accuracy`` of the whole encoder and ``points``
            (``budget``, ``relative_cost``, ``accuracy``).
        provenance: for the small print.
    """
    figure, axes = plt.subplots(1, len(groups), figsize=(5.2 * len(groups), 3.8), squeeze=False)
    for ax, (name, runs) in zip(axes[0], groups.items(), strict=True):
        tables = [pd.DataFrame(run["points"]).sort_values("relative_cost") for run in runs]
        thin = {"color": GREY, "linewidth": 0.9, "marker": "."}
        for i, table in enumerate(tables):
            label = "one run" if i == 0 else None
            ax.plot(table.relative_cost, table.accuracy, label=label, **thin)
        if len(runs) > 1:
            mean = pd.concat(tables).groupby("budget")[["relative_cost", "accuracy"]].mean()
            thick = {"color": RED, "linewidth": 3, "marker": "o"}
            ax.plot(mean.relative_cost, mean.accuracy, label=f"mean of {len(runs)} runs", **thick)
        whole = np.mean([run["accuracy"] for run in runs])
        ax.axhline(whole, color="black", linestyle="--", linewidth=1, label="whole encoder")
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
    return style.show(
        figure,
        caption="What early exits keep of a clustering, with thresholds chosen without labels; "
        "dashed: the whole encoder.",
        alt="Clustering accuracy against relative cost, one panel per data set; thin grey lines "
        "for runs, a thick red one for their mean.",
        provenance=provenance,
    )


def _class_mean_grid(table: pd.DataFrame, colors: Sequence[str]) -> Figure:
    """Rows are classes, each with its colour, and columns layers."""
    values = table.to_numpy()
    shown = values / values.max()
    full = np.array([plt.matplotlib.colors.to_rgb(color) for color in colors[: len(table)]])
    cells = 1 - shown[..., None] * (1 - full[:, None, :])
    wide = table.shape[1]
    figure, ax = plt.subplots(figsize=(1.0 + 0.82 * wide, 0.9 + 0.48 * len(table)))
    ax.imshow(cells, aspect="auto", interpolation="nearest")
    centred = {"ha": "center", "va": "center", "fontsize": 8}
    for (row, column), value in np.ndenumerate(values):
        dark = np.dot(cells[row, column], (0.299, 0.587, 0.114)) < 0.5
        ax.text(column, row, f"{value:.2f}", color="white" if dark else "black", **centred)
    tilted = {"rotation": 30, "ha": "right"} if wide > 6 else {"rotation": 0, "ha": "center"}
    ax.set_xticks(range(wide), table.columns, **tilted)
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlabel="layer whose class means are compared")
    ax.grid(False)
    ax.tick_params(length=0)
    return figure


def _bars(ax: Axes, values: pd.Series, *, marked: int) -> None:
    """A bar per class; the one marked is red."""
    colors = [RED if i == marked else "#BBBBBB" for i in range(len(values))]
    ax.bar(range(len(values)), values, color=colors)
