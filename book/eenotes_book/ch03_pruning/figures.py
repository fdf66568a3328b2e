"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book.style import GREY, METHODS, ORANGE, RED, SKY

LAYERS = {"convolution": SKY, "linear": ORANGE}


def magnitude_pools(weights: pd.DataFrame, cuts: dict[str, float], *, sparsity: float) -> Figure:
    """How large the weights of backbone and exits are, with the cut of one common pool and that of
    each pool for itself.

    Args:
        weights: ``magnitude`` and ``part`` (backbone, exits), as `studies.pruning.magnitudes`
            returns them.
        cuts: pool (``"all"``, ``"backbone"``, ``"exits"``) → magnitude below which the weights go.
        sparsity: share of each pool that goes.
    """
    figure, axes = plt.subplots(2, 1, figsize=(7.6, 4.4), sharex=True)
    edges = np.geomspace(1e-3, weights.magnitude.max() * 1.05, 60)
    for ax, part, color in (
        (axes[0], "backbone", LAYERS["convolution"]),
        (axes[1], "exits", LAYERS["linear"]),
    ):
        values = weights.magnitude[weights.part == part]
        ax.hist(
            np.clip(values, edges[0], None),
            edges,
            weights=np.full(len(values), 1 / len(values)),
            color=color,
        )
        ax.axvline(
            cuts["all"],
            color=METHODS["together"][0],
            linewidth=2,
            label=f"one pool: {(values < cuts['all']).mean():.0%} go",
        )
        ax.axvline(
            cuts[part],
            color=METHODS["separately"][0],
            linewidth=2,
            linestyle="--",
            label=f"own pool: {sparsity:.0%} go",
        )
        ax.set(
            xscale="log", ylabel="share of the weights", title=f"{part}: {len(values):,} weights"
        )
        ax.legend(loc="upper left")
    axes[1].set(xlabel="magnitude of a weight (first bar: all below 0.001)")
    return figure


def layer_sparsity(table: pd.DataFrame) -> Figure:
    """Final sparsity of every layer, one panel per approach; convolutions and linear layers in two
    colours.

    Args:
        table: ``layer``, ``kind`` and one column per approach, as `studies.pruning.layer_table`
            returns it.
    """
    approaches = [name for name in METHODS if name in table]
    wide = min(3 + 0.24 * len(table), 12.5)
    figure, axes = plt.subplots(
        len(approaches),
        1,
        figsize=(wide, 2.2 * len(approaches)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for ax, name in zip(axes[:, 0], approaches, strict=True):
        _layer_bars(ax, table, table[name])
        ax.set(ylabel="sparsity", title=name, ylim=(0, 1.05))
    axes[0, 0].legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.1))
    axes[-1, 0].set(xlabel="layer in the order of execution (E: linear exit)")
    return figure


def layer_difference(table: pd.DataFrame, *, thesis: Sequence[float] = ()) -> Axes:
    """Sparsity together - separately, a bar per layer, with the spread over runs; the thesis's
    linear layers as open diamonds.

    Args:
        table: ``layer``, ``kind``, ``difference`` and ``spread`` (NaN for a single run).
        thesis: its differences at the linear layers.
    """
    _, ax = plt.subplots(figsize=(min(3 + 0.24 * len(table), 12.5), 3.2))
    _layer_bars(ax, table, table.difference)
    at = np.arange(len(table))
    if table.spread.notna().all():
        ax.errorbar(
            at, table.difference, table.spread, fmt="none", ecolor="black", elinewidth=1, capsize=2
        )
    linear = at[(table.kind == "linear").to_numpy()]
    if len(thesis) == len(linear):
        ax.plot(
            linear,
            thesis,
            "D",
            color="black",
            markerfacecolor="white",
            markersize=6,
            label="thesis (figure), linear",
        )
    ax.axhline(0, color="black", linewidth=1)
    ax.set(
        ylabel="sparsity: together - separately",
        xlabel="layer in the order of execution (E: linear exit)",
    )
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def _layer_bars(ax: Axes, table: pd.DataFrame, heights: pd.Series) -> None:
    at = np.arange(len(table))
    for kind, color in LAYERS.items():
        rows = (table.kind == kind).to_numpy()
        ax.bar(
            at[rows],
            heights[rows],
            color=color,
            label=kind,
            hatch="//" if kind == "linear" else None,
            edgecolor="white",
            linewidth=0,
        )
    every = max(1, len(table) // 32)
    shown = [i for i, name in enumerate(table.layer) if name.startswith("E") or (every == 1)]
    ax.set_xticks(at[shown], table.layer.iloc[shown], fontsize=8)
    ax.set_xlim(-0.8, len(table) - 0.2)
    ax.grid(axis="x", visible=False)


def difference_map(table: pd.DataFrame, *, label: str = "sparsity: together - separately") -> Axes:
    """A heat map of differences, diverging and centred at zero: rows are rounds, columns layers.

    Args:
        table: indexed by round, one column per layer.
        label: of the colour bar.
    """
    _, ax = plt.subplots(
        figsize=(min(3.6 + 0.26 * table.shape[1], 13), max(2.9, 1.3 + 0.26 * len(table)))
    )
    limit = max(float(table.abs().to_numpy().max()), 1e-6)
    bar = {"label": label, "pad": 0.02}
    sns.heatmap(
        table,
        ax=ax,
        cmap="RdBu",
        center=0,
        vmin=-limit,
        vmax=limit,
        cbar_kws=bar,
        xticklabels=1,
        linewidths=0.3,
    )
    step = max(1, len(table) // 10)
    ax.set_yticks(np.arange(0, len(table), step) + 0.5, table.index[::step], rotation=0)
    if table.shape[1] > 40:
        marks = [i for i, name in enumerate(table.columns) if str(name).startswith("E")]
        ax.set_xticks(np.array(marks) + 0.5, [table.columns[i] for i in marks])
    ax.tick_params(axis="x", rotation=0, labelsize=8)
    ax.set(xlabel="layer in the order of execution (E: linear exit)", ylabel="round")
    return ax


def accuracy_of_exits(
    table: pd.DataFrame, *, title: str, thesis: dict[str, Sequence[float]] | None = None
) -> Figure:
    """Accuracy of every exit, one line per approach, with the spread over runs; the thesis's
    numbers in a second panel.

    Args:
        table: ``exit`` (from 1), ``approach``, ``accuracy`` and ``spread`` (NaN for a single run).
        title: what the first panel shows.
        thesis: approach → accuracy of each exit.
    """
    figure, axes = plt.subplots(
        1, 2 if thesis else 1, figsize=(10.6 if thesis else 6.4, 3.8), squeeze=False
    )
    for name, group in table.groupby("approach", sort=False):
        color, marker = METHODS[name]
        spread = group.spread if group.spread.notna().all() else None
        axes[0, 0].errorbar(
            group.exit, group.accuracy, spread, color=color, marker=marker, capsize=3, label=name
        )
    axes[0, 0].set(title=title)
    for name, values in (thesis or {}).items():
        color, marker = METHODS[name]
        axes[0, 1].plot(range(1, len(values) + 1), values, color=color, marker=marker, label=name)
        axes[0, 1].set(title="thesis (ResNet-56, CIFAR-10; read off its figure)")
    for ax in axes[0]:
        ax.set(xlabel="exit", ylabel="test accuracy of the exit, all images")
        ax.set_xticks(sorted(table.exit.unique()))
        ax.legend(loc="best")
    return figure


def pruned_trade(curves: dict[str, pd.DataFrame]) -> Axes:
    """Accuracy against relative cost of thresholded inference, one line per approach, a band where
    a table has a spread.

    Args:
        curves: approach → ``relative_cost`` (multiplications by weights that are not zero),
            ``accuracy``, ``spread``.
    """
    _, ax = plt.subplots(figsize=(6.6, 4))
    for name, table in curves.items():
        color, marker = METHODS[name]
        table = table.sort_values("relative_cost")
        ax.plot(
            table.relative_cost,
            table.accuracy,
            color=color,
            marker=marker,
            markersize=5,
            label=name,
        )
        ax.fill_between(
            table.relative_cost,
            table.accuracy - table.spread,
            table.accuracy + table.spread,
            color=color,
            alpha=0.2,
            linewidth=0,
        )
    ax.set(
        xlabel="relative cost (effective MACs; 1 = unpruned backbone without exits)",
        ylabel="test accuracy",
        xlim=(0, None),
    )
    ax.legend(loc="lower right")
    return ax


def what_is_saved(table: pd.DataFrame) -> Axes:
    """Weights, MACs, bytes and seconds of several networks as parts of the first one's, on one
    axis.

    Args:
        table: one row per network, one column per quantity; the first row is 1 everywhere.
    """
    _, ax = plt.subplots(figsize=(8.4, 3.4))
    at, width = np.arange(table.shape[1]), 0.8 / len(table)
    for i, (name, row) in enumerate(table.iterrows()):
        color, hatch = METHODS[name][0], ("", "//", "..")[i % 3]
        bars = ax.bar(
            at + (i - (len(table) - 1) / 2) * width,
            row,
            width,
            color=color,
            label=name,
            hatch=hatch,
        )
        ax.bar_label(bars, [f"{value:.2f}" for value in row], fontsize=7, padding=1)
    ax.set_xticks(at, table.columns)
    ax.set(ylabel="part of the unpruned network", ylim=(0, 1.2 * table.to_numpy().max()))
    ax.legend(ncols=len(table), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def sweep_maps(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy together - separately in points over two settings, one panel each, diverging around
    zero on one colour scale.

    Args:
        tables: title → table in [-1, 1], indexed by the sparsity of the network, columns the
            sparsity of the exits.
    """
    figure, axes = plt.subplots(
        1,
        len(tables),
        figsize=(5.1 * len(tables), 1.6 + 0.55 * len(next(iter(tables.values())))),
        squeeze=False,
    )
    limit = 100 * max(float(table.abs().max().max()) for table in tables.values())
    for i, (ax, (title, table)) in enumerate(zip(axes[0], tables.items(), strict=True)):
        last = i == len(tables) - 1
        look = {
            "cmap": "RdBu",
            "center": 0,
            "vmin": -limit,
            "vmax": limit,
            "annot": True,
            "fmt": "+.1f",
            "linewidths": 1,
        }
        bar = {"label": "together - separately\n(points)"} if last else None
        sns.heatmap(100 * table, ax=ax, cbar=last, cbar_kws=bar, **look)
        ax.set(
            title=title,
            xlabel="sparsity of the separately pruned exits",
            ylabel="sparsity of the network" if i == 0 else "",
        )
        ax.tick_params(axis="y", rotation=0)
    return figure


def sparse_matmul(table: pd.DataFrame) -> Axes:
    """Time of a product with a sparsely stored matrix, relative to the dense product, over
    sparsity.

    Args:
        table: ``sparsity``, ``relative_time``.
    """
    _, ax = plt.subplots(figsize=(6, 3.2))
    ax.plot(
        table.sparsity, table.relative_time, color=RED, marker="o", label="stored sparsely (CSR)"
    )
    ax.axhline(1, color=GREY, linestyle="--", label="dense, zeros multiplied")
    ax.set(xlabel="sparsity", ylabel="time / time of the dense product", yscale="log")
    ax.legend()
    return ax
