"""Figures of chapter 5's race: accuracy, leads, costs of scoring, and the amount of data."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from eenotes_book import style
from eenotes_book.style import BLUE, GREY, METHODS, RED

_SIDES = {  # kept → label, colour, marker
    "hard": ("the hard ones", RED, "o"),
    "easy": ("the easy ones", BLUE, "^"),
    "random": ("random ones", GREY, "s"),
    "all": ("all samples", "black", "x"),
}


def accuracy_against_samples(
    tables: Mapping[str, pd.DataFrame], *, unit: int, title: str, provenance: str
) -> HTML:
    """Test accuracy against samples seen, one column per ratio.

    Above: training alone; below: scoring included.

    Args:
        tables: heading of the column → ``method``, ``training``, ``total``, ``accuracy``,
            ``spread`` (NaN for a single run).
        unit: samples in the whole training set: the axis counts passes over it.
        title: of the figure.
        provenance: for the small print.
    """
    figure, axes = plt.subplots(
        2, len(tables), figsize=(3.9 * len(tables), 6.2), sharey=True, squeeze=False
    )
    for (above, below), (heading, table) in zip(axes.T, tables.items(), strict=True):
        for ax, x in ((above, "training"), (below, "total")):
            for method, part in table.groupby("method", sort=False):
                color, marker = METHODS[method]
                line = "--" if method == "no pruning" else "-"
                look = {"color": color, "marker": marker, "linestyle": line, "label": method}
                passes, accuracy = part[x] / unit, part.accuracy
                ax.plot(passes, accuracy, markersize=4.5, linewidth=1.3, **look)
                band = accuracy - part.spread, accuracy + part.spread
                ax.fill_between(passes, *band, color=color, alpha=0.13, linewidth=0)
        above.set(title=heading, xlabel="passes over the data, training only")
        below.set(xscale="log", xlabel="passes over the data, scoring included")
        below.xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
        below.set_xticks([2, 5, 10, 20, 50])
        below.minorticks_off()
    ends = pd.concat([table[table.training == table.training.max()] for table in tables.values()])
    # the first steps of a training would squeeze what there is to compare
    low, high = max(0, ends.accuracy.min() - 0.15), min(1, ends.accuracy.max() + 0.03)
    for ax in axes[:, 0]:
        ax.set(ylabel="test accuracy", ylim=(low, high))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(title, fontsize=12)
    caption = (
        "Test accuracy against samples seen: training alone above, scoring included below. The "
        "learning rate falls to zero at the right end of each curve; the first points may lie "
        "below the panel. Bands: ± one standard deviation over seeds."
    )
    alt = (
        "Test accuracy against samples seen, one column per ratio, one line per method; below, "
        "the curves start later by what scoring costs."
    )
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)


def lead_over_random(panels: Mapping[str, pd.DataFrame], *, provenance: str) -> HTML:
    """Accuracy minus that of random pruning, one panel per data set.

    Args:
        panels: data set → ``method``, ``ratio``, ``lead`` (mean over the runs), ``spread`` (NaN for
            a single run).
        provenance: for the small print.
    """
    size = (5.6 * len(panels) + 1.6, 3.9)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, (name, table) in zip(axes[0], panels.items(), strict=True):
        ratios = sorted(table.ratio.unique())
        methods = [method for method in dict.fromkeys(table.method) if method != "Random"]
        for i, method in enumerate(methods):
            part = table[table.method == method].sort_values("ratio")
            color, marker = METHODS[method]
            look = {"color": color, "marker": marker, "linestyle": "none", "label": method}
            x = np.arange(len(part)) + 0.09 * (i - (len(methods) - 1) / 2)
            ax.errorbar(x, part.lead, yerr=part.spread.fillna(0), capsize=2, **look)
        ax.axhline(0, color=METHODS["Random"][0], linewidth=1.5, label="Random")
        ax.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
        ax.set(title=name, xlabel="dropped", ylabel="accuracy − that of random pruning")
        ax.grid(axis="x", visible=False)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    caption = (
        "Accuracy at the end of the budget minus that of random pruning with the same seed. "
        "Bars: ± one standard deviation, where there are several seeds."
    )
    alt = (
        "Points around a horizontal line at zero, which is random pruning: one column per ratio, "
        "one colour and marker per method."
    )
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)


def scoring_costs(table: pd.DataFrame, *, provenance: str) -> HTML:
    """What scoring costs, one bar per method and one panel per column.

    Args:
        table: indexed by method, columns ``passes``, ``seconds`` and, where there is a meter,
            ``joules``.
        provenance: for the small print.
    """
    eeprune, forgetting = table.passes["EEPrune"], table.passes["Forgetting"]
    table = table[::-1]
    size = (1 + 4.7 * len(table.columns), 3.5)
    figure, axes = plt.subplots(1, len(table.columns), figsize=size, sharey=True)
    colors = [METHODS[method][0] for method in table.index]
    for ax, column in zip(axes, table.columns, strict=True):
        bars = ax.barh(table.index, table[column], color=colors)
        texts = [f"{value:.3g}" if value >= 0.05 else "≈ 0" for value in table[column]]
        ax.bar_label(bars, texts, padding=4, fontsize=9)
        label = "samples seen / size of the data set" if column == "passes" else column
        ax.set(xlabel=f"scoring: {label}", xlim=(0, 1.15 * table[column].max()))
        ax.grid(axis="y", visible=False)
    caption = (
        f"Scoring by EEPrune looks at {eeprune:.0f} times the data set, its epochs and one pass to "
        f"score; Forgetting at {forgetting:.0f} times. Means over data sets and seeds. The three "
        "positions of EEPrune share one training."
    )
    alt = (
        "Bar charts with one bar per method: samples seen while scoring, and seconds; Forgetting "
        "has the longest bar, random none."
    )
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)


def halves(table: pd.DataFrame, *, provenance: str) -> HTML:
    """Accuracy after training on what was dropped and on as much of the rest.

    Args:
        table: one row per data set, indexed by name: ``dropped``, ``kept``, ``dropped_spread``,
            ``kept_spread`` (NaN for one run).
        provenance: for the small print.
    """
    _, ax = plt.subplots(figsize=(1.8 + 1.9 * len(table), 3.3))
    at = np.arange(len(table))
    looks = {
        "dropped": (-0.2, {"color": RED, "label": "dropped by EEPrune", "hatch": "//"}),
        "kept": (0.2, {"color": BLUE, "label": "as many of the rest"}),
    }
    for side, (shift, look) in looks.items():
        error = table[f"{side}_spread"].fillna(0)
        bars = ax.bar(at + shift, table[side], 0.38, alpha=0.85, yerr=error, capsize=3, **look)
        ax.bar_label(bars, fmt="%.3f", padding=3, fontsize=9)
    ax.set_xticks(at, table.index)
    ax.set(ylabel="test accuracy", ylim=(0, 1.02), xlim=(-0.6, len(table) - 0.4))
    title = "trained on the samples"
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title=title, title_fontsize=9)
    ax.grid(axis="x", visible=False)
    caption = (
        "Test accuracy after training on what EEPrune drops, at most half, and on as many of the "
        "kept samples. Error bars: ± one standard deviation, where there are several seeds."
    )
    alt = "Pairs of bars, one pair per data set: accuracy after training on dropped and on kept."
    return style.show(ax, caption=caption, alt=alt, provenance=provenance)


def amount_of_data(rows: pd.DataFrame, *, ratio: float, provenance: str) -> HTML:
    """Accuracy when the easy, the hard or random samples are kept, against the amount of data.

    Args:
        rows: ``data``, ``seed``, ``size``, ``keep``, ``accuracy``.
        ratio: the share that is dropped.
        provenance: for the small print.
    """
    names = list(dict.fromkeys(rows.data))
    size = (5 * len(names), 6)
    figure, axes = plt.subplots(2, len(names), figsize=size, sharex="col", squeeze=False)
    for (above, below), (name, part) in zip(axes.T, rows.groupby("data", sort=False), strict=True):
        table = part.pivot_table(index=["seed", "size"], columns="keep", values="accuracy")
        leads = table[["hard", "easy"]].sub(table["random"], axis=0)
        for ax, values in ((above, table), (below, leads)):
            for side in filter(values.__contains__, _SIDES):
                label, color, marker = _SIDES[side]
                groups = values[side].groupby("size")
                mean, spread = groups.mean(), groups.std()
                line = "--" if side == "all" else "-"
                ax.plot(mean.index, mean, line, color=color, marker=marker, label=label)
                band = mean - spread, mean + spread
                ax.fill_between(mean.index, *band, color=color, alpha=0.15, linewidth=0)
        below.axhline(0, color=GREY, linewidth=1.2, label="random ones")
        above.set(title=name, ylabel="test accuracy")
        below.set(xscale="log", xlabel="samples before pruning")
        below.set(ylabel="accuracy − that of random ones")
        sizes = sorted(part["size"].unique())
        below.set_xticks(sizes, [f"{size:,}" for size in sizes])
        below.minorticks_off()
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title="kept", title_fontsize=9)
    caption = (
        f"Accuracy with {ratio:.0%} of the samples dropped, and below minus that of random ones. "
        "A network of three hidden layers; at each size all see equally many samples."
    )
    alt = (
        "Above: accuracy against the size of the data set for easy, hard, random and all samples "
        "kept; below: minus random."
    )
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)
