"""Pictures of chapter 5: which samples EEPrune and the others drop."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.figure import Figure

from eenotes_book import style
from eenotes_book.ch05_eeprune import tables
from eenotes_book.ch05_eeprune.ring import Ring
from eenotes_book.pictures import PAGE
from eenotes_book.style import GREY, RED

_CLASSES = 6  # equal sectors of the ring


def ring_panels(ring: Ring) -> HTML:
    """The ring after several epochs: classes in shades of blue and grey, what is dropped in red."""
    points, labels = (tensor.numpy() for tensor in ring.data.tensors)
    count = len(ring.pruned)
    figure, axes = plt.subplots(
        1, count, figsize=(3.1 * count, 3.4), sharex=True, sharey=True, squeeze=False
    )
    shades = np.array(["#9DB8CF", "#C9C9C9"])[labels % 2]
    boundaries = np.arange(_CLASSES) * 2 * np.pi / _CLASSES
    ends = np.array([0.9, 2.1])
    for ax, (epoch, pruned) in zip(axes[0], ring.pruned.items(), strict=True):
        rows = pruned.drop.numpy()
        ax.scatter(*points.T, s=5, c=shades, linewidths=0)
        ax.scatter(*points[rows].T, s=7, c=RED, marker="D", linewidths=0)
        for angle in boundaries:
            ax.plot(ends * np.cos(angle), ends * np.sin(angle), "--", color="black", linewidth=0.8)
        ax.set(title=f"epoch {epoch}: {len(rows)} dropped", aspect="equal", xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
        ax.grid(False)
    first, last = min(ring.pruned), max(ring.pruned)
    early, late = ring.pruned[first], ring.pruned[last]
    dropped, kept = (ring.to_boundary[rows].mean().item() for rows in (late.drop, late.keep))
    caption = (
        f"After epoch {first}, {len(early.drop)} of the {early.report.wanted} points to be dropped "
        f"(orange) qualify. After epoch {last} the dropped points lie {dropped:.0f}° from the "
        f"nearest class boundary on average, the kept ones {kept:.0f}°; 30° is the middle."
    )
    alt = (
        "Pictures of a ring of points in six sectors with dashed boundaries; the orange points "
        "move to the middles of the sectors as training goes on."
    )
    provenance = f"{len(points):,} points, one seed"
    return style.show(figure, caption=caption, alt=alt, provenance=provenance)


def early_against_final(
    exits: Mapping[str, Any], *, ratio: float, epochs: int, provenance: str
) -> HTML:
    """Training samples by the probability of their true class at the early and the final exit.

    Args:
        exits: what the two exits say, as `experiment.seen_by_exits` gives it.
        ratio: of the samples that are dropped, drawn in red.
        epochs: of the network's training.
        provenance: for the small print.
    """
    early, final, confidence = (np.array(exits[key]) for key in ("early", "final", "confidence"))
    score = np.where(exits["candidate"], 1 - confidence, np.inf)
    order = score.argsort(kind="stable")[: round(ratio * len(score))]
    dropped = np.zeros(len(score), dtype=bool)
    dropped[order[np.isfinite(score[order])]] = True
    _, ax = plt.subplots(figsize=(5.4, 4.2))
    looks = {
        "kept": (~dropped, {"s": 9, "color": GREY, "alpha": 0.5}),
        "dropped": (dropped, {"s": 11, "color": RED, "marker": "D", "alpha": 0.6}),
    }
    for name, (rows, look) in looks.items():
        label = f"{name} ({rows.sum():,})"
        ax.scatter(early[rows], final[rows], linewidths=0, label=label, **look)
    ax.set(xlabel="probability of the true class at the early exit", xlim=(-0.02, 1.02))
    ax.set(ylabel="the same at the final exit", ylim=(-0.02, 1.02))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    caption = (
        f"After {epochs} epochs {exits['both_right']:.0%} of the training samples are right at "
        f"both exits, the middle one and the last, so no more can be dropped. Orange: dropped at a "
        f"ratio of {ratio:.0%}."
    )
    alt = (
        "A scatter plot of the probability of the true class at the early against the final exit; "
        "orange points crowd in the upper right corner."
    )
    return style.show(ax, caption=caption, alt=alt, provenance=provenance)


def dropped_by_class(
    panels: Mapping[tuple[str, str], pd.DataFrame],
    imbalances: Mapping[tuple[str, str], pd.Series],
    *,
    provenance: str,
) -> HTML:
    """Which share of each class each method discards, and the imbalance that this causes.

    The first data set is in sight, the others are folded.

    Args:
        panels: (data set, ratio) → rows = classes, columns = methods; numbers of samples.
        imbalances: (data set, ratio) → one number per method.
        provenance: for the small print.
    """
    shown = []
    for (name, ratio), table in panels.items():
        shares = tables.dropped_shares(table, ratio)
        method = shares.columns[0]
        of_each = 100 * shares[method].iloc[:-1]
        caption = (
            f"{method} discards {of_each.max():.0f} % of {of_each.idxmax()} and "
            f"{of_each.min():.0f} % of {of_each.idxmin()}. {name}, {ratio} to go. "
            "Imbalance: the share of the kept samples that would have to change class for "
            "class shares as before."
        )
        alt = (
            "A heat map from 0 to 100 per cent, one row per class and one for all of them, one "
            "column per method; below it a strip with the imbalance of each method."
        )
        figure = shares_and_imbalance(shares, imbalances[name, ratio])
        shown.append(style.show(figure, caption=caption, alt=alt, provenance=provenance).data)
    first, *others = shown
    names = " and ".join(name for name, _ in list(panels)[1:])
    folded = f"<details><summary>The same for {names}</summary>{''.join(others)}</details>"
    return HTML(first + (folded if others else ""))


def shares_and_imbalance(shares: pd.DataFrame, imbalance: pd.Series) -> Figure:
    """A heat map on one scale, 0 to 100 %, with the methods' names on top and a strip below.

    Args:
        shares: of `tables.dropped_shares`.
        imbalance: one number per method.
    """
    rows = len(shares)
    figure, (heat, strip) = plt.subplots(
        2, 1, figsize=(PAGE, 1.5 + 0.34 * rows), height_ratios=(rows, 1), sharex=True
    )
    scale = {"vmin": 0, "vmax": 100, "cmap": "rocket_r"}
    numbers = {"annot": True, "annot_kws": {"fontsize": 9}, "linewidths": 0.5}
    bar = {"label": "share of the class discarded, %", "pad": 0.02}
    sns.heatmap(100 * shares, ax=heat, fmt=".0f", cbar_kws=bar, **scale, **numbers)
    heat.axhline(rows - 1, color="white", linewidth=5)  # "all" stands apart
    strip_values = imbalance[list(shares)].to_frame("imbalance").T
    sns.heatmap(
        strip_values, ax=strip, fmt=".2f", cmap="Greys", vmin=0, vmax=1, cbar=False, **numbers
    )
    strip.tick_params(length=0, labelbottom=False, labeltop=False)
    strip.tick_params(axis="y", rotation=0)
    names = [name.replace("-", "-\n").replace(" ", "\n") for name in shares]
    heat.xaxis.tick_top()
    heat.set_xticks(np.arange(len(names)) + 0.5, names, rotation=0)
    heat.tick_params(length=0, labeltop=True, labelbottom=False)
    heat.tick_params(axis="y", rotation=0)
    return figure
