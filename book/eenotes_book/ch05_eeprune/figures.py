"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book.style import BLUE, GREY, METHODS, RED

SIDES = {"hard": (RED, "o"), "easy": (BLUE, "^"), "random": (GREY, "s"), "all": ("black", "x")}


def ring_panels(
    points: np.ndarray, labels: np.ndarray, dropped: dict[int, np.ndarray], *, classes: int = 6
) -> Figure:
    """The ring after several epochs: classes in shades of blue and grey, what would be dropped in
    red.

    Args:
        points: ``(N, 2)``.
        labels: ``(N,)``.
        dropped: epoch → rows.
        classes: equal sectors; their boundaries are dashed.
    """
    figure, axes = plt.subplots(
        1, len(dropped), figsize=(3.1 * len(dropped), 3.4), sharex=True, sharey=True, squeeze=False
    )
    shades = np.array(["#9DB8CF", "#C9C9C9"])[labels % 2]
    for ax, (epoch, rows) in zip(axes[0], dropped.items(), strict=True):
        ax.scatter(*points.T, s=5, c=shades, linewidths=0)
        ax.scatter(*points[rows].T, s=7, c=RED, marker="D", linewidths=0)
        for angle in np.arange(classes) * 2 * np.pi / classes:
            ends = np.array([0.9, 2.1])
            ax.plot(
                ends * np.cos(angle),
                ends * np.sin(angle),
                color="black",
                linestyle="--",
                linewidth=0.8,
            )
        ax.set(title=f"epoch {epoch}: {len(rows)} dropped", aspect="equal", xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
        ax.grid(False)
    return figure


def early_against_final(
    early: np.ndarray, final: np.ndarray, dropped: np.ndarray, kept: np.ndarray
) -> Axes:
    """Every training sample by the probability that the early and the final exit give its true
    class; dropped ones in red.

    Args:
        early: ``(N,)``.
        final: ``(N,)``.
        dropped: rows that the rule drops.
        kept: rows that it keeps.
    """
    _, ax = plt.subplots(figsize=(5.4, 4.2))
    ax.scatter(
        early[kept],
        final[kept],
        s=9,
        color=GREY,
        alpha=0.5,
        linewidths=0,
        label=f"kept ({len(kept):,})",
    )
    ax.scatter(
        early[dropped],
        final[dropped],
        s=11,
        color=RED,
        marker="D",
        alpha=0.6,
        linewidths=0,
        label=f"dropped ({len(dropped):,})",
    )
    limits = (-0.02, 1.02)
    ax.set(
        xlabel="probability of the true class at the early exit",
        ylabel="the same at the final exit",
        xlim=limits,
        ylim=limits,
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def accuracy_against_samples(
    tables: dict[str, pd.DataFrame], *, unit: int, title: str = ""
) -> Figure:
    """Test accuracy against samples seen, one column per ratio.

    Above: training alone; below: scoring included.

    Args:
        tables: heading of the column → ``method``, ``training``, ``total``, ``accuracy``,
            ``spread`` (NaN for a single run).
        unit: samples in the whole training set: the axis counts passes over it.
        title: of the figure.
    """
    figure, axes = plt.subplots(
        2, len(tables), figsize=(3.9 * len(tables), 6.2), sharey=True, squeeze=False
    )
    for column, (heading, table) in enumerate(tables.items()):
        for row, x in enumerate(("training", "total")):
            ax = axes[row, column]
            for method, part in table.groupby("method", sort=False):
                color, marker = METHODS[method]
                line = "--" if method == "no pruning" else "-"
                passes = part[x] / unit
                ax.plot(
                    passes,
                    part.accuracy,
                    color=color,
                    marker=marker,
                    linestyle=line,
                    markersize=4.5,
                    linewidth=1.3,
                    label=method,
                )
                ax.fill_between(
                    passes,
                    part.accuracy - part.spread,
                    part.accuracy + part.spread,
                    color=color,
                    alpha=0.13,
                    linewidth=0,
                )
        axes[0, column].set(title=heading, xlabel="passes over the data, training only")
        axes[1, column].set(xscale="log", xlabel="passes over the data, scoring included")
        axes[1, column].xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
        axes[1, column].set_xticks([2, 5, 10, 20, 50])
        axes[1, column].minorticks_off()
    ends = pd.concat(
        [table[table.training == table.training.max()] for table in tables.values()]
    ).accuracy
    for ax in axes[:, 0]:
        # the first steps of a training would squeeze what there is to compare
        ax.set(ylabel="test accuracy", ylim=(max(0, ends.min() - 0.15), min(1, ends.max() + 0.03)))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def lead_over_random(panels: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy at the end of the budget minus that of random pruning with the same seed, one panel
    per data set.

    Args:
        panels: data set → ``method``, ``ratio``, ``lead`` (mean over the runs), ``spread`` (NaN for
            a single run).
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.6 * len(panels) + 1.6, 3.9), squeeze=False
    )
    for ax, (name, table) in zip(axes[0], panels.items(), strict=True):
        ratios = sorted(table.ratio.unique())
        methods = [method for method in dict.fromkeys(table.method) if method != "Random"]
        for i, method in enumerate(methods):
            part, (color, marker) = (
                table[table.method == method].sort_values("ratio"),
                METHODS[method],
            )
            x = np.arange(len(part)) + 0.09 * (i - (len(methods) - 1) / 2)
            ax.errorbar(
                x,
                part.lead,
                yerr=part.spread.fillna(0),
                color=color,
                marker=marker,
                linestyle="none",
                capsize=2,
                label=method,
            )
        ax.axhline(0, color=METHODS["Random"][0], linewidth=1.5, label="Random")
        ax.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
        ax.set(title=name, xlabel="dropped", ylabel="accuracy − that of random pruning")
        ax.grid(axis="x", visible=False)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def scoring_costs(table: pd.DataFrame) -> Figure:
    """What scoring costs, one bar per method and one panel per column.

    Args:
        table: indexed by method, columns ``passes``, ``seconds`` and, where there is a meter,
            ``joules``.
    """
    table, labels = table[::-1], {"passes": "samples seen / size of the data set"}
    figure, axes = plt.subplots(
        1, len(table.columns), figsize=(1 + 4.7 * len(table.columns), 3.5), sharey=True
    )
    colors = [METHODS[method][0] for method in table.index]
    for ax, column in zip(axes, table.columns, strict=True):
        ax.barh(table.index, table[column], color=colors)
        for y, value in enumerate(table[column]):
            text = f"{value:.3g}" if value >= 0.05 else "≈ 0"
            ax.annotate(
                text, (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
            )
        ax.set(
            xlabel=f"scoring: {labels.get(column, column)}", xlim=(0, 1.15 * table[column].max())
        )
        ax.grid(axis="y", visible=False)
    return figure


def dropped_by_class(
    panels: dict[tuple[str, str], pd.DataFrame], imbalances: dict[tuple[str, str], pd.Series]
) -> Figure:
    """How many samples of each class each method discards, and below it the imbalance that this
    causes.

    Args:
        panels: (data set, ratio) → rows = classes, columns = methods.
        imbalances: (data set, ratio) → one number per method.
    """
    data, ratios = ([*dict.fromkeys(key[i] for key in panels)] for i in (0, 1))
    heights = [part for _ in ratios for part in (3.2, 1)]
    size = (4.2 * len(data) + 1.2, 4.8 * len(ratios))
    figure, axes = plt.subplots(
        2 * len(ratios), len(data), figsize=size, height_ratios=heights, squeeze=False, sharex="col"
    )
    worst = max(series.max() for series in imbalances.values())
    for (name, ratio), table in panels.items():
        row, column = 2 * ratios.index(ratio), data.index(name)
        heat, bars = axes[row, column], axes[row + 1, column]
        numbers = {"annot": True, "fmt": ".0f", "annot_kws": {"fontsize": 8}}
        sns.heatmap(table, ax=heat, cmap="rocket_r", vmin=0, cbar=False, **numbers)
        heat.set(title=f"{name}, {ratio} dropped", xlabel="", ylabel="")
        heat.tick_params(length=0, labelbottom=False)
        heat.tick_params(axis="y", rotation=0)
        series = imbalances[name, ratio]
        bars.bar(
            np.arange(len(series)) + 0.5,
            series,
            color=[METHODS[method][0] for method in series.index],
        )
        bars.set_xticks(np.arange(len(series)) + 0.5, series.index, rotation=90)
        bars.tick_params(labelbottom=True)
        bars.set(ylim=(0, 1.25 * worst), ylabel="imbalance" if column == 0 else "")
        for i, value in enumerate(series):
            bars.annotate(
                f"{value:.2f}",
                (i + 0.5, value),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        bars.grid(axis="x", visible=False)
    return figure


def halves(table: pd.DataFrame) -> Axes:
    """Accuracy after training on what was dropped and on as much of the rest; error bars: standard
    deviation.

    Args:
        table: one row per data set, indexed by name: ``dropped``, ``kept``, ``dropped_spread``,
            ``kept_spread`` (NaN for one run).
    """
    _, ax = plt.subplots(figsize=(1.8 + 1.9 * len(table), 3.3))
    at = np.arange(len(table))
    sides = [
        (-0.2, "dropped", RED, "dropped by EEPrune", "//"),
        (0.2, "kept", BLUE, "as many of the rest", None),
    ]
    for shift, side, color, label, hatch in sides:
        error = table[f"{side}_spread"].fillna(0)
        ax.bar(
            at + shift,
            table[side],
            0.38,
            color=color,
            alpha=0.85,
            hatch=hatch,
            label=label,
            yerr=error,
            capsize=3,
        )
        for x, value, above in zip(at + shift, table[side], error, strict=True):
            ax.annotate(
                f"{value:.3f}",
                (x, value + above),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
    ax.set_xticks(at, table.index)
    ax.set(ylabel="test accuracy", ylim=(0, 1.02), xlim=(-0.6, len(table) - 0.4))
    ax.legend(
        loc="upper left", bbox_to_anchor=(1, 1), title="trained on the samples", title_fontsize=9
    )
    ax.grid(axis="x", visible=False)
    return ax


def amount_of_data(rows: pd.DataFrame) -> Figure:
    """Accuracy when the easy, the hard or random samples are kept, minus that of random ones,
    against the size of the data set.

    Args:
        rows: ``data``, ``seed``, ``size``, ``keep``, ``accuracy``.
    """
    names = [*dict.fromkeys(rows.data)]
    figure, axes = plt.subplots(
        2, len(names), figsize=(5 * len(names), 6), sharex="col", squeeze=False
    )
    for (above, below), (_, part) in zip(axes.T, rows.groupby("data", sort=False), strict=True):
        table = part.pivot_table(index=["seed", "size"], columns="keep", values="accuracy")
        for side, (color, marker) in SIDES.items():
            for ax, values in ((above, table[side]), (below, table[side] - table["random"])):
                if ax is below and side in ("random", "all"):
                    continue
                groups = values.groupby("size")
                mean, spread = groups.mean(), groups.std()
                label = (
                    "all samples"
                    if side == "all"
                    else f"the {side} ones"
                    if side != "random"
                    else "random ones"
                )
                line = "--" if side == "all" else "-"
                ax.plot(mean.index, mean, color=color, marker=marker, linestyle=line, label=label)
                ax.fill_between(
                    mean.index, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0
                )
        below.axhline(0, color=GREY, linewidth=1.2, label="random ones")
        above.set(title=part.data.iloc[0], ylabel="test accuracy")
        below.set(
            xscale="log", xlabel="samples before pruning", ylabel="accuracy − that of random ones"
        )
        below.set_xticks(
            sorted(part["size"].unique()), [f"{size:,}" for size in sorted(part["size"].unique())]
        )
        below.minorticks_off()
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title="kept", title_fontsize=9)
    return figure
