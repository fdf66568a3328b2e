"""Figures of chapter 8: the questions, and the three experiments on images."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes

from eenotes_book.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, show

QUESTIONS = {  # number → where it sits, and what it is about
    1: (4.15, 1.95, "none of these?"),
    2: (3.3, 2.3, "smaller?"),
    3: (4.4, -0.75, "smaller, in which order?"),
    4: (0.95, -1.05, "a second look"),
    5: (0.0, 0.8, "which are needed?"),
    6: (6.6, 0.8, "what if they move?"),
}
NOVELTY = {
    "softmax": (BLUE, "^"),
    "E²CM confidence": (ORANGE, "s"),
    "distance": (RED, "o"),
    "whitened distance": (PURPLE, "P"),
}
GRIDS = ((RED, "o"), (BLUE, "^"), (GREEN, "D"), (ORANGE, "s"), (PURPLE, "P"))


def six_questions() -> HTML:
    """Data, three stages and two exits as boxes, with the chapter's questions where they sit."""
    figure, ax = plt.subplots(figsize=(9.6, 3.3))
    _boxes(ax)
    for number, (x, y, words) in QUESTIONS.items():
        circle = {"boxstyle": "circle,pad=0.25", "facecolor": BLUE, "edgecolor": "none"}
        look = {"color": "white", "fontsize": 10, "fontweight": "bold", "zorder": 4}
        ax.text(x, y, str(number), ha="center", va="center", bbox=circle, **look)
        ax.text(x + 0.28, y, words, ha="left", va="center", fontsize=9)
    ax.set(xlim=(-0.9, 9.7), ylim=(-2.1, 2.7))
    ax.axis("off")
    return show(
        figure,
        caption=(
            "Where the six questions sit: three at the exits and the stages, one at a second "
            "sensor, one at the data, and one at stages that move under their exits."
        ),
        alt=(
            "A row of boxes, from data through three stages to the classifier, with an exit above "
            "each of the first two stages and a second sensor below; numbered circles from 1 to 6 "
            "on the parts that the questions concern."
        ),
        vector=True,
    )


def _boxes(ax: Axes) -> None:
    """The network and a second sensor, box by box, with arrows."""
    row = {"data": 0.0, "stage 1": 2.2, "stage 2": 4.4, "stage 3": 6.6, "classifier": 8.8}
    boxes = {name: (x, 0.0, GREY) for name, x in row.items()}
    boxes |= {"exit 1": (3.3, 1.5, RED), "exit 2": (5.5, 1.5, RED)}
    boxes |= {"second sensor": (0.0, -1.5, BLUE)}
    for name, (x, y, color) in boxes.items():
        look = {"facecolor": "white", "edgecolor": color, "linewidth": 1.5}
        box = look | {"boxstyle": "round,pad=0.5"}
        ax.text(x, y, name, ha="center", va="center", bbox=box, fontsize=10, zorder=3)
    arrows = [((a, 0.0), (b, 0.0)) for a, b in pairwise(row.values())]
    arrows += [((2.2, 0.0), (3.3, 1.5)), ((4.4, 0.0), (5.5, 1.5)), ((0.0, -1.5), (2.2, 0.0))]
    look = {"arrowstyle": "->", "color": GREY, "shrinkA": 22, "shrinkB": 22}
    for start, end in arrows:
        ax.annotate("", end, start, arrowprops=look, zorder=1)


def novelty_panels(
    scores: pd.DataFrame, final: float, costs: pd.DataFrame, *, provenance: str
) -> HTML:
    """Left: how well each score tells unseen classes.  Right: what seen and unseen images cost.

    Args:
        scores: ``measure``, ``exit`` (from 1), ``auroc``, ``split``; the points are means, the bars
            standard deviations over the splits.
        final: AUROC of the last exit's softmax.
        costs: relative costs, one row per kind of cascade, columns ``seen classes`` and ``unseen
            classes``.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.9), width_ratios=(1.25, 1))
    means = scores[scores.exit == scores.exit.max()].groupby("measure").auroc.mean()
    best, top = means.idxmax(), means.max()
    for i, (name, (color, marker)) in enumerate(NOVELTY.items()):
        found = scores[scores.measure == name].groupby("exit").auroc.agg(["mean", "std"])
        at = found.index + 0.05 * (i - 1.5)
        look = {"color": color, "marker": marker, "capsize": 3}
        left.errorbar(at, found["mean"], found["std"].fillna(0), label=name, **look)
    dashed = {"color": "black", "linestyle": "--", "linewidth": 1.2}
    left.axhline(final, label=f"last exit, softmax ({final:.2f})", **dashed)
    left.set(xlabel="early exit", ylabel="AUROC of unseen against seen")
    left.set_xticks(sorted(scores.exit.unique()))
    left.legend(fontsize=8, loc="lower right")
    costs.plot.barh(ax=right, color=[GREY, RED], width=0.7)
    right.invert_yaxis()
    right.set(xlabel="relative cost (1 = backbone without exits)", ylabel="")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return show(
        figure,
        caption=(
            f"At exit {scores.exit.max()} {best} tells unseen classes best, AUROC {top:.2f}; the "
            f"last exit's softmax has {final:.2f}. Bars: one standard deviation over the splits. "
            "Right: cost of an image without a gate and with one on two scores."
        ),
        alt=(
            "Left: AUROC against the early exit for four scores with bars for the spread, and a "
            "dashed line for the last exit. Right: relative cost of seen and unseen classes "
            "without a gate and with two gates."
        ),
        provenance=provenance,
    )


def memory_against_accuracy(table: pd.DataFrame, *, budget: float, provenance: str) -> HTML:
    """One line per pooling grid through its numbers of bits, on a logarithmic axis of memory.

    Args:
        table: ``grid``, ``bits``, ``bytes``, ``macs`` and ``accuracy``, one row per seed and
            choice.
        budget: at which the accuracy was measured.
        provenance: for the small print.
    """
    _, ax = plt.subplots(figsize=(7.8, 4.0))
    for i, ((grid, part), (color, marker)) in enumerate(
        zip(table.groupby("grid", sort=False), GRIDS, strict=False)
    ):
        height = -13 if i % 2 else 6  # numbers of neighbouring lines on different sides
        found = part.groupby("bits", sort=False).agg(
            bytes=("bytes", "mean"), mean=("accuracy", "mean"), std=("accuracy", "std")
        )
        name = f"{grid} × {grid} averages ({part.macs.iloc[0] / 1000:.1f} kMAC)"
        look = {"color": color, "marker": marker, "capsize": 3}
        ax.errorbar(found.bytes, found["mean"], found["std"].fillna(0), label=name, **look)
        small = {"textcoords": "offset points", "fontsize": 8, "color": color}
        for bits, row in found.iterrows():
            ax.annotate(f"{bits}", (row.bytes, row["mean"]), xytext=(4, height), **small)
    ax.set(
        xscale="log",
        xlabel="memory of all class-mean exits (bytes); numbers: bits per number",
        ylabel=f"test accuracy within {budget} of the cost",
    )
    ax.legend(fontsize=8, loc="lower right")
    means = table.groupby(["grid", "bits"])[["accuracy", "bytes"]].mean().reset_index()
    grid = means.grid.max()
    finest = means[means.grid == grid].sort_values("bits")
    bits, least, whole = finest.bits.tolist(), finest.iloc[0], finest.iloc[-1]
    return show(
        ax,
        caption=(
            f"From {bits[-1]} to {bits[0]} bits a number, the {grid} × {grid} exits go "
            f"from {whole.accuracy:.3f} to {least.accuracy:.3f} accuracy and from "
            f"{whole.bytes:,.0f} to {least.bytes:,.0f} bytes. Thresholds chosen on validation; "
            "bars: one standard deviation over the seeds."
        ),
        alt=(
            "Accuracy against memory on a logarithmic axis, one line per pooling grid, each point "
            "labelled with its number of bits; the lines are flat down to few bits."
        ),
        provenance=provenance,
    )


def order_dots(table: pd.DataFrame, *, provenance: str) -> HTML:
    """Mean accuracy of the exits for every order, one panel per number of bits.

    Args:
        table: ``order``, ``bits``, ``mean``, one row per seed; the rows called ``dense`` are drawn
            as a dashed line.
        provenance: for the small print.
    """
    dense = table[table.order == "dense"]["mean"].mean()
    rest = table[table.order != "dense"]
    widths = list(dict.fromkeys(rest.bits))
    figure, axes = plt.subplots(
        1, len(widths), figsize=(4.9 * len(widths), 3.6), sharex=True, sharey=True, squeeze=False
    )
    for ax, bits in zip(axes[0], widths, strict=True):
        part = rest[rest.bits == bits]
        for i, (order, rows) in enumerate(part.groupby("order", sort=False)):
            after = "Q" in order and order.index("P") > order.index("Q")
            color, marker = (RED, "o") if after else (BLUE, "^")
            ax.scatter(rows["mean"], [i] * len(rows), color=color, marker=marker, alpha=0.45, s=30)
            ax.scatter(rows["mean"].mean(), i, color=color, marker="|", s=420, linewidth=2.5)
        ax.axvline(dense, color=GREY, linestyle="--", linewidth=1.2)
        ax.set(
            title=f"{bits} bits per weight", xlabel="mean test accuracy of exits (dashed: before)"
        )
        ax.set_yticks(
            range(part.order.nunique()), [" → ".join(order) for order in dict.fromkeys(part.order)]
        )
    late = rest[rest.bits == widths[-1]]
    rounded_first = [o.index("P") > o.index("Q") for o in late.order]
    said = late.groupby(rounded_first)["mean"].mean()
    axes[0, 0].set_ylim(rest.order.nunique() - 0.4, -0.6)
    look = {"linestyle": "", "markersize": 6}
    kinds = ((BLUE, "^", "pruned before it is rounded"), (RED, "o", "rounded before it is pruned"))
    handles = [
        plt.Line2D([], [], color=color, marker=marker, label=label, **look)
        for color, marker, label in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return show(
        figure,
        caption=(
            f"At {widths[-1]} bits the exits have {said[False]:.3f} where pruning comes before "
            f"rounding, and {said[True]:.3f} where it is the other way round. P: pruning; Q: "
            "rounding; D: distilling; C: training on. Small marks: seeds; bars: means."
        ),
        alt=(
            "Two panels of horizontal dot plots, one row per order of P, Q, D; with 8 bits all "
            "rows lie together near the dashed line, with 2 bits the rows that round first lie far "
            "to the left."
        ),
        provenance=provenance,
    )
