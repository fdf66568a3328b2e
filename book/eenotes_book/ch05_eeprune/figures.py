"""Figures of chapter 5's race: accuracy, leads, scoring, halves, and the amount of data."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes

from eenotes_book import style
from eenotes_book.ch05_eeprune.sweep import KEPT
from eenotes_book.ch05_eeprune.turning import (
    lead_band,
    leads_by_size,
    turning_interval,
    turning_point,
)
from eenotes_book.style import BLUE, GREY, METHODS, RED

_MODEL = {"hard": ("keep the hard", RED, "o"), "easy": ("keep the easy", BLUE, "^")}


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
        2,
        len(tables),
        figsize=(3.9 * len(tables) + 0.5, 6.2),
        sharey=True,
        sharex="row",
        squeeze=False,
    )
    labels = {}
    for (above, below), (heading, table) in zip(axes.T, tables.items(), strict=True):
        for ax, x in ((above, "training"), (below, "total")):
            for method, part in table.groupby("method", sort=False):
                color, marker = METHODS[method]
                line = "--" if method == "no pruning" else "-"
                look = {"color": color, "marker": marker, "linestyle": line, "label": method}
                passes, accuracy = part[x] / unit, part.accuracy
                (labels[method],) = ax.plot(passes, accuracy, markersize=4.5, linewidth=1.3, **look)
                band = accuracy - part.spread, accuracy + part.spread
                ax.fill_between(passes, *band, color=color, alpha=0.13, linewidth=0)
        above.set(title=heading, xlabel="passes over the data, training only")
        below.set(xlabel="passes over the data, scoring included")
    ends = pd.concat([table[table.training == table.training.max()] for table in tables.values()])
    middle = pd.concat(
        [table[table.training > table.training.min()] for table in tables.values()]
    ).accuracy
    # the first point of a training would squeeze what there is to compare
    low, high = middle.min() - 0.01, min(1, ends.accuracy.max() + 0.01)
    for ax in axes[:, 0]:
        ax.set(ylabel="test accuracy", ylim=(max(0, low), high))
    figure.legend(labels.values(), labels, loc="outside lower center", ncols=5)
    figure.suptitle(title, fontsize=12)
    caption = (
        f"{_at_the_end(tables)} Training alone above, scoring included below. The learning rate "
        "falls to zero at the right end. Bands: ± one standard deviation over seeds."
    )
    alt = (
        "Test accuracy against samples seen, one column per ratio, one line per method; below, "
        "the curves start later by what scoring costs."
    )
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)


def _at_the_end(tables: Mapping[str, pd.DataFrame]) -> str:
    """What EEPrune and random pruning end at, where most methods have run."""
    heading = max(tables, key=lambda name: tables[name].method.nunique())
    ends = tables[heading].groupby("method").accuracy.last()
    said = [f"{m} ends at {ends[m]:.3f}" for m in ("EEPrune", "Random") if m in ends]
    return f"{heading}: {', '.join(said)}."


def lead_over_random(panels: Mapping[str, pd.DataFrame], *, provenance: str) -> HTML:
    """Accuracy minus that of random pruning, one panel per data set.

    Args:
        panels: data set → ``method``, ``ratio``, ``lead`` (mean over the runs), ``reach`` (half the
            interval, NaN for a single run).
        provenance: for the small print.
    """
    size = (5.6 * len(panels) + 1.6, 3.9)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    labels, said = {}, []
    for ax, (name, table) in zip(axes[0], panels.items(), strict=True):
        ratios = sorted(table.ratio.unique())
        for at, ratio in enumerate(ratios):
            part = table[table.ratio == ratio]
            for i, row in enumerate(part.itertuples()):
                color, marker = METHODS[row.method]
                look = {"color": color, "marker": marker, "linestyle": "none", "capsize": 2}
                x = at + 0.09 * (i - (len(part) - 1) / 2)
                bar = 0 if math.isnan(row.reach) else 100 * row.reach
                labels[row.method] = ax.errorbar(x, 100 * row.lead, yerr=bar, **look)
        ours = table[table.method == "EEPrune"].sort_values("ratio")
        leads = [f"{100 * row.lead:+.2f} at {row.ratio:.0%}" for row in ours.itertuples()]
        said = said or [f"{name}: EEPrune against random pruning {', '.join(leads)}."]
        ax.set_xlim(-0.6, len(ratios) - 0.4)
        ax.axhline(0, color=METHODS["Random"][0], linewidth=1.5)
        ax.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
        ax.set(title=name, xlabel="dropped", ylabel="points ahead of random pruning")
        ax.grid(axis="x", visible=False)
    figure.legend(labels.values(), labels, loc="outside right center")
    caption = (
        f"{' '.join(said)} Points of accuracy at the end, minus those of random pruning with the "
        "same seed. Bars: 95 % intervals over seeds, where there are several."
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
    table = table[::-1]
    size = (1 + 4.7 * len(table.columns), 0.8 + 0.34 * len(table))
    figure, axes = plt.subplots(1, len(table.columns), figsize=size, sharey=True)
    colors = [METHODS[method][0] for method in table.index]
    for ax, column in zip(axes, table.columns, strict=True):
        bars = ax.barh(table.index, table[column], color=colors)
        texts = [f"{value:.3g}" if value >= 0.05 else "≈ 0" for value in table[column]]
        ax.bar_label(bars, texts, padding=4, fontsize=9)
        label = "samples seen / size of the data set" if column == "passes" else column
        ax.set(xlabel=f"scoring: {label}", xlim=(0, 1.15 * table[column].max()))
        ax.grid(axis="y", visible=False)
    dearest = table.passes.idxmax()
    caption = (
        f"{dearest} shows networks {table.passes.max():.0f} times the data set before it can "
        f"choose, EEPrune {table.passes['EEPrune']:.0f} times. Means over seeds. The three "
        "positions of EEPrune share one training."
    )
    alt = (
        "Bar charts with one bar per method: samples seen while scoring, and seconds; random has "
        "no bar."
    )
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)


def halves(table: pd.DataFrame, *, provenance: str) -> HTML:
    """Accuracy after training on what was dropped and on as much of the rest, and the thesis's.

    Args:
        table: as of `tables.halves_table`.
        provenance: for the small print.
    """
    _, ax = plt.subplots(figsize=(2.4 + 1.15 * len(table), 3.5))
    at = np.arange(len(table))
    looks = {
        "dropped": (-0.2, {"color": RED, "label": "dropped by EEPrune", "hatch": "//"}),
        "kept": (0.2, {"color": BLUE, "label": "of the rest"}),
    }
    for side, (shift, look) in looks.items():
        values, spreads = table[side].astype(float), table[f"{side}_spread"].astype(float)
        bars = ax.bar(at + shift, values, 0.38, alpha=0.85, **look)
        ax.errorbar(at + shift, values, yerr=spreads, fmt="none", ecolor="black", capsize=3)
        ax.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    ours = int((~table.thesis).sum())
    ax.axvspan(ours - 0.5, len(table) - 0.5, color=GREY, alpha=0.12, zorder=0)
    ax.set_xticks(at, [name.replace(" ", "\n") for name in table.index])
    ax.set(ylabel="test accuracy", ylim=(0, 1.08), xlim=(-0.6, len(table) - 0.5))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="trained on", title_fontsize=9)
    ax.grid(axis="x", visible=False)
    first = table.iloc[0]
    caption = (
        f"{table.index[0]}: trained on the half that EEPrune drops {first.dropped:.3f}, on as many "
        f"others {first.kept:.3f}. Grey ground: the thesis's numbers. Error bars: ± one standard "
        "deviation over seeds."
    )
    alt = "Pairs of bars, one pair per data set: accuracy after training on dropped and on kept."
    return style.show(ax, caption=caption, alt=alt, provenance=provenance)


def when_it_pays(rows: Sequence[Mapping], model: pd.DataFrame, *, provenance: str) -> HTML:
    """EEPrune's lead over every other choice against the amount of data, beside the model's.

    Args:
        rows: of the sweep.
        model: of `turning.perceptron`.
        provenance: for the small print.
    """
    names = list(dict.fromkeys(row["data"] for row in rows))
    size = (4.3 * (1 + len(names)), 3.9)
    figure, axes = plt.subplots(1, 1 + len(names), figsize=size, sharey=True)
    _model(axes[0], model)
    ends = []
    for ax, name in zip(axes[1:], names, strict=True):
        for other in KEPT[1:]:
            leads = leads_by_size(rows, name, other)
            if not leads.empty:
                _lead(ax, 100 * leads, other)
            if other == "Random" and not leads.empty:
                last = f"{100 * leads.iloc[:, -1].mean():+.1f} points with {leads.columns[-1]:,}"
                ends.append(f"{name}: EEPrune against random pruning {last} images.")
        ax.axhline(0, color="black", linewidth=1)
        sizes = sorted({row["size"] for row in rows if row["data"] == name})
        ax.set(title=name, xscale="log", xlabel="training images before pruning")
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
        ax.set(ylabel="points that EEPrune is ahead")
        ax.tick_params(labelleft=True)
        ax.minorticks_off()
    # a band over two seeds would squeeze the lines
    drawn = [line.get_ydata() for ax in axes for line in ax.lines if len(line.get_xdata()) > 2]
    axes[0].set_ylim(1.3 * np.concatenate(drawn).min(), 1.3 * np.concatenate(drawn).max())
    handles = {}
    for ax in axes[1:]:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(), handles, loc="outside right center", title="ahead of", title_fontsize=9
    )
    turning = any(line.get_linestyle() == ":" for ax in axes for line in ax.lines)
    dotted = " Dotted: where EEPrune overtakes." if turning else ""
    caption = (
        f"{' '.join(ends)} Left: Sorscher et al.'s model. Right: EEPrune's lead as the data "
        f"grow, with a simultaneous 95 % band.{dotted}"
    )
    alt = (
        "Left, two lines that rise and fall and cross; on the right, EEPrune's lead over random, "
        "reversed and no pruning against the size of the data set."
    )
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)


def _model(ax: Axes, model: pd.DataFrame) -> None:
    """The lead of easy and of hard samples over random ones, in the model."""
    table = model.pivot_table(index=["seed", "size"], columns="keep", values="accuracy")
    for keep, (label, color, marker) in _MODEL.items():
        lead = 100 * (table[keep] - table["random"]).groupby("size").mean()
        ax.plot(lead.index, lead, color=color, marker=marker, label=label)
    ax.axhline(0, color="black", linewidth=1)
    sizes = sorted(model["size"].unique())
    ax.set(title="the model: a perceptron", xscale="log", xlabel="samples per weight")
    ax.set(ylabel="points ahead of keeping any")
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
    ax.minorticks_off()
    ax.legend(loc="lower right")


def _lead(ax: Axes, leads: pd.DataFrame, other: str) -> None:
    """One line with its band; over random pruning also the turning point."""
    color, marker = METHODS[other]
    table = lead_band(leads)
    look = {"color": color, "marker": marker, "label": other}
    ax.plot(table.index, table["mean"], linewidth=1.4, markersize=5, **look)
    ax.fill_between(table.index, table.low, table.high, color=color, alpha=0.13, linewidth=0)
    points = [turning_point(row) for _, row in leads.iterrows()]
    if other == "Random" and all(points):
        middle, low, high = turning_interval(points)
        ax.axvline(middle, color=RED, linestyle=":", linewidth=1.5)
        if not math.isnan(low):
            ax.axvspan(low, high, color=RED, alpha=0.1, linewidth=0)
