"""Figures of chapter 3: what pruning costs in accuracy, and what it saves."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML

from eenotes_book import style


def accuracy_of_exits(
    table: pd.DataFrame, *, title: str, thesis: Mapping[str, Sequence[float]], provenance: str
) -> HTML:
    """The accuracy of every exit, one line per approach; the thesis's in a second panel.

    Args:
        table: from `tables.accuracy_table`; the reach is NaN for a single run.
        title: what the first panel shows.
        thesis: approach → accuracy of each exit.
        provenance: of the numbers.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 3.8), sharey=True)
    for name, group in table.groupby("approach", sort=False):
        color, marker = style.METHODS[name]
        reach = group.reach if group.reach.notna().all() else None
        axes[0].errorbar(
            group.exit, group.accuracy, reach, color=color, marker=marker, capsize=3, label=name
        )
    axes[0].set(title=title)
    for name, values in thesis.items():
        color, marker = style.METHODS[name]
        axes[1].plot(range(1, len(values) + 1), values, color=color, marker=marker, label=name)
        axes[1].set(title="thesis (ResNet-56, CIFAR-10; read off its figure)")
    for ax in axes:
        ax.set(xlabel="exit")
        ax.set_xticks(sorted(table.exit.unique()))
    axes[0].set_ylabel("test accuracy of the exit, all images")
    axes[0].legend(loc="upper left")
    wide = table.pivot(index="exit", columns="approach", values="accuracy")
    lead = 100 * (wide["together"] - wide["separately"])
    return style.show(
        figure,
        caption="Together minus separately: the early exits "
        f"{lead.iloc[:-1].mean():+.1f} points on average, the last exit {lead.iloc[-1]:+.1f}. "
        f"Left: {title}; right: the thesis's ResNet-56.{_bars(table)}",
        alt="Accuracy over exit number for the unpruned network and for both procedures; left "
        f"{title}, right the thesis's numbers.",
        provenance=provenance,
    )


def price_of_pruning(
    table: pd.DataFrame, *, title: str, thesis: pd.DataFrame, provenance: str
) -> HTML:
    """What pruning changes at every exit in points, one line per approach; the thesis's beside it.

    Args:
        table: from `tables.price_table`; the reach is NaN for a single run.
        title: what the first panel shows.
        thesis: the same of the thesis's numbers.
        provenance: of the numbers.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 3.8), sharey=True)
    names = (title, "thesis (ResNet-56, CIFAR-10; read off its figure)")
    for ax, rows, name in zip(axes, (table, thesis), names, strict=True):
        for approach, group in rows.groupby("approach", sort=False):
            color, marker = style.METHODS[approach]
            reach = None
            if "reach" in group and group.reach.notna().all():
                reach = 100 * group.reach
            look = {"color": color, "marker": marker, "capsize": 3, "label": approach}
            ax.errorbar(group.exit, 100 * group.difference, reach, **look)
        ax.axhline(0, color=style.METHODS["unpruned"][0], linestyle="--", label="unpruned")
        ax.set(xlabel="exit", title=name)
        ax.set_xticks(sorted(rows.exit.unique()))
    axes[0].set(ylabel="accuracy, pruned - unpruned (points)")
    axes[0].legend(loc="best", fontsize=8)
    last = 100 * table[table.exit == table.exit.max()].set_index("approach").difference
    return style.show(
        figure,
        caption=f"88 % of zeros change the last exit by {last['together']:+.1f} points when pruned "
        f"together, and by {last['separately']:+.1f} when pruned separately. Left: {title}; right: "
        f"the thesis's ResNet-56.{_bars(table)}",
        alt="Difference in accuracy to the unpruned network over exit number, a line for every "
        f"procedure and a dashed line at zero; left {title}, right the thesis's numbers.",
        provenance=provenance,
    )


def pruned_trade(curves: dict[str, pd.DataFrame], *, provenance: str) -> HTML:
    """Accuracy against relative cost of thresholded inference, one line per approach.

    Args:
        curves: from `tables.curves`; the reach, NaN for a single run, is drawn as a band.
        provenance: of the numbers.
    """
    ax = style.cost_axes(plt.subplots(figsize=(6.6, 4))[1])
    for name, table in curves.items():
        table, (color, marker) = table.sort_values("relative_cost"), style.METHODS[name]
        cost, accuracy, reach = table.relative_cost, table.accuracy, table.reach
        ax.plot(cost, accuracy, color=color, marker=marker, markersize=5, label=name)
        ax.fill_between(cost, accuracy - reach, accuracy + reach, color=color, alpha=0.2, lw=0)
    unit = "effective MACs; 1 = unpruned backbone without exits"
    ax.set(xlabel=f"relative cost ({unit})", xlim=(0, None))
    ax.legend(loc="lower right")
    return style.show(
        ax,
        caption="Zeros move the whole curve to the left. Leaving early saves more from there, and "
        "costs accuracy. Thresholds were chosen on other images; bands: 95 % intervals over seeds, "
        "where there are several.",
        alt="Accuracy against relative cost for the unpruned network and both pruned ones; the "
        "pruned curves lie to the left.",
        provenance=provenance,
    )


def sweep_maps(tables: dict[str, pd.DataFrame], *, provenance: str) -> HTML:
    """Accuracy together - separately in points over two sparsities, one panel each.

    Args:
        tables: title → table from `tables.sweep_table`; all share one colour scale.
        provenance: of the numbers.
    """
    figure, axes = plt.subplots(
        1,
        len(tables),
        figsize=(5.1 * len(tables), 1.6 + 0.55 * len(next(iter(tables.values())))),
        squeeze=False,
    )
    ahead = [
        f"together is ahead in {int((table > 0).to_numpy().sum())} of {table.size} cases at the "
        f"{title.removesuffix(' (mean)')}"
        for title, table in tables.items()
    ]
    ahead[0] = ahead[0].capitalize()
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
    return style.show(
        figure,
        caption=f"{', and '.join(ahead)}. Points of accuracy, together - separately. Blue: "
        "together is ahead; red: separate pruning is.",
        alt="Two heat maps of accuracy differences, early exits and last exit, over the sparsity "
        "of the network and of the separately pruned exits.",
        provenance=provenance,
    )


def what_is_saved(table: pd.DataFrame, *, batch: int, provenance: str) -> HTML:
    """Weights, MACs, bytes and seconds of several networks as parts of the first one's.

    Args:
        table: from `deployment.relative`: one row per network.
        batch: images per batch of the timing.
        provenance: of the numbers.
    """
    _, ax = plt.subplots(figsize=(8.4, 3.4))
    at, width = np.arange(table.shape[1]), 0.8 / len(table)
    for i, (name, row) in enumerate(table.iterrows()):
        color, hatch = style.METHODS[name][0], ("", "//", "..")[i % 3]
        bars = ax.bar(
            at + (i - (len(table) - 1) / 2) * width,
            row,
            width,
            color=color,
            label=name,
            hatch=hatch,
        )
        ax.bar_label(bars, [f"{value:.2f}" for value in row], fontsize=8, padding=1)
    ax.set_xticks(at, table.columns)
    ax.set(ylabel="part of the unpruned network", ylim=(0, 1.2 * table.to_numpy().max()))
    ax.legend(ncols=len(table), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    zeros, channels = table.loc["together"], table.loc["channels"]
    return style.show(
        ax,
        caption=f"Zeros change the time by a factor of {zeros.seconds:.2f}, fewer channels by "
        f"{channels.seconds:.2f}. Zeros leave {zeros.gzip:.2f} of the compressed file's bytes; "
        f"fewer channels need {channels.MACs:.2f} of the MACs. All exits computed, batch {batch}.",
        alt="Grouped bars for weights, effective MACs, MACs done, file size, compressed size and "
        "seconds, for the unpruned network, the one with zeros and the one with fewer channels.",
        provenance=provenance,
    )


def _bars(table: pd.DataFrame) -> str:
    """What the bars are, where several seeds have run."""
    return " Bars: 95 % intervals over seeds." if table.reach.notna().all() else ""


def sparse_matmul(table: pd.DataFrame, *, size: int, provenance: str) -> HTML:
    """Time of a product with a sparsely stored matrix, relative to the dense product.

    Args:
        table: ``sparsity``, ``relative_time``.
        size: rows and columns of the matrix.
        provenance: where the times come from.
    """
    _, ax = plt.subplots(figsize=(6, 3.2))
    ax.plot(
        table.sparsity,
        table.relative_time,
        color=style.RED,
        marker="o",
        label="stored sparsely (CSR)",
    )
    ax.axhline(1, color=style.GREY, linestyle="--", label="dense, zeros multiplied")
    ax.set(xlabel="sparsity", ylabel="time / time of the dense product", yscale="log")
    ax.legend()
    faster = table.sparsity[table.relative_time < 1]
    verdict = f"faster from sparsity {faster.min():.2f} on" if len(faster) else "never faster"
    return style.show(
        ax,
        caption=f"A {size} × {size} matrix in sparse row format, times 64 columns: {verdict} than "
        "the dense product, of the levels tried.",
        alt="Relative time of the sparse product over sparsity, falling, with a dashed line at one "
        "for the dense product.",
        provenance=provenance,
    )
