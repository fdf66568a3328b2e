"""Figures of chapter 3, layer by layer: which weights are cut, and where the zeros end up."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.axes import Axes

from eenotes_book import pictures, style
from eenotes_book.ch03_pruning.tables import early_exits

LAYERS = {"convolution": style.SKY, "linear": style.ORANGE}


def magnitude_pools(pools: dict, *, sparsity: float, provenance: str) -> HTML:
    """How large the weights are, with the cut of one common pool and that of each pool.

    Args:
        pools: from `experiment.pools`.
        sparsity: share of each pool that goes.
        provenance: of the numbers.
    """
    figure, axes = plt.subplots(2, 1, figsize=(7.6, 4.4), sharex=True)
    edges, cuts, below = pools["edges"], pools["cuts"], pools["below"]
    for ax, part, color in (
        (axes[0], "backbone", LAYERS["convolution"]),
        (axes[1], "exits", LAYERS["linear"]),
    ):
        ax.stairs(pools["shares"][part], edges, color=color, fill=True)
        ax.axvline(
            cuts["all"],
            color=style.METHODS["together"][0],
            linewidth=2,
            label=f"one pool: {below[part]:.0%} go",
        )
        ax.axvline(
            cuts[part],
            color=style.METHODS["separately"][0],
            linewidth=2,
            linestyle="--",
            label=f"own pool: {sparsity:.0%} go",
        )
        size = pools["sizes"][part]
        ax.set(xscale="log", ylabel="share of the weights", title=f"{part}: {size:,} weights")
        ax.legend(loc="upper left")
    axes[1].set(xlabel="magnitude of a weight (first bar: all below 0.001)")
    return style.show(
        figure,
        caption=f"One common cut at {sparsity:.1%} of all weights takes {below['exits']:.0%} of "
        f"the exits' weights; a cut through the exits alone takes {sparsity:.0%} of them. "
        "Magnitudes of the trained weights before pruning.",
        alt="Two histograms of weight magnitudes on a logarithmic axis, backbone above and exits "
        "below, each with a solid line for the common cut and a dashed line for its own cut.",
        provenance=provenance,
    )


def layer_sparsity(table: pd.DataFrame, *, provenance: str) -> HTML:
    """The final sparsity of every layer, one panel per approach.

    Args:
        table: from `tables.layer_table`.
        provenance: of the numbers.
    """
    approaches = [name for name in style.METHODS if name in table]
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
    early = early_exits(table)
    means = [f"{early[name].mean():.2f} when pruned {name}" for name in approaches]
    return style.show(
        figure,
        caption=f"Early exits end at a sparsity of {' and at '.join(means)}. Final sparsity of "
        f"every layer; E{len(early) + 1} is the classifier, part of the backbone.",
        alt="Two rows of bars, one per layer: convolutions look alike in both rows, the hatched "
        "linear exits are low when pruned together and high when pruned separately.",
        provenance=provenance,
    )


def layer_difference(table: pd.DataFrame, *, thesis: Sequence[float], provenance: str) -> HTML:
    """Sparsity together - separately, a bar per layer, with 95 % intervals over runs.

    Args:
        table: from `tables.layer_table`.
        thesis: its differences at the linear layers; drawn if there are as many here.
        provenance: of the numbers.
    """
    _, ax = plt.subplots(figsize=(pictures.PAGE, 4.2))
    _layer_bars(ax, table, table.difference)
    at = np.arange(len(table))
    if table.reach.notna().all():
        look = {"fmt": "none", "ecolor": "black", "elinewidth": 1, "capsize": 2}
        ax.errorbar(at, table.difference, table.reach, **look)
    linear = at[(table.kind == "linear").to_numpy()]
    if len(thesis) == len(linear):
        look = {"color": "black", "markerfacecolor": "white", "markersize": 8}
        ax.plot(linear, thesis, "D", label="exit, thesis (read off its figure)", **look)
    ax.axhline(0, color="black", linewidth=1)
    ax.set_ylabel("sparsity: together − separately", fontsize=12)
    ax.set_xlabel("layer by depth (E: exit)", fontsize=12)
    ax.tick_params(axis="y", labelsize=11)
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=11)
    early = early_exits(table).difference.mean()
    most = table[table.kind == "convolution"].difference.abs().max()
    diamonds = " Diamonds: the thesis's linear layers (ResNet-56), read off its figure."
    return style.show(
        ax,
        caption=f"Together minus separately: {early:+.2f} on average at the early exits, at most "
        f"{most:.3f} in size at any convolution.{diamonds if len(thesis) == len(linear) else ''}",
        alt="A bar per layer around zero: convolutions near zero, linear exits at a clear "
        "distance, with the thesis's values as open diamonds.",
        provenance=provenance,
    )


def difference_map(table: pd.DataFrame, *, provenance: str) -> HTML:
    """A heat map of differences in sparsity, centred at zero: rows are rounds, columns layers.

    Args:
        table: from `tables.difference_by_round`.
        provenance: of the numbers.
    """
    _, ax = plt.subplots(
        figsize=(min(3.6 + 0.26 * table.shape[1], 13), max(2.9, 1.3 + 0.26 * len(table)))
    )
    limit = max(float(table.abs().to_numpy().max()), 1e-6)
    bar = {"label": "sparsity: together - separately", "pad": 0.02}
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
    linear = table.columns.str.startswith("E")
    early = table.loc[:, linear].iloc[:, :-1].mean(axis=1)
    most = table.loc[:, ~linear].abs().max().max()
    return style.show(
        ax,
        caption=f"Early exits differ by {early.iloc[0]:+.2f} on average after the first round and "
        f"by {early.iloc[-1]:+.2f} after the last; no convolution ever by more than {most:.3f}. "
        "Red: sparser when pruned separately; blue: sparser together.",
        alt="A heat map with one row per round and one column per layer; the columns of the early "
        "exits turn darker row by row, the others stay near white.",
        provenance=provenance,
    )


def _layer_bars(ax: Axes, table: pd.DataFrame, heights: pd.Series) -> None:
    at = np.arange(len(table))
    for kind, color in LAYERS.items():
        rows = (table.kind == kind).to_numpy()
        ax.bar(
            at[rows],
            heights[rows],
            color=color,
            label="exit, ours" if kind == "linear" else kind,
            hatch="//" if kind == "linear" else None,
            edgecolor="white",
            linewidth=0,
        )
    every = 5 if len(table) > 12 else 1  # numbers of convolutions; exits are all named
    shown = [
        i
        for i, name in enumerate(table.layer)
        if name[0] == "E" or int(name) in (1, *range(0, 999, every))
    ]
    ax.set_xticks(at[shown], table.layer.iloc[shown], fontsize=10)
    for tick in ax.get_xticklabels():
        tick.set_fontweight("bold" if tick.get_text().startswith("E") else "normal")
    ax.set_xlim(-0.8, len(table) - 0.2)
    ax.grid(axis="x", visible=False)
