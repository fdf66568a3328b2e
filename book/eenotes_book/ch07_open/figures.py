"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

NOVELTY = {
    "softmax": (BLUE, "^"),
    "E²CM confidence": (ORANGE, "s"),
    "distance": (RED, "o"),
    "whitened distance": (PURPLE, "P"),
}


GRIDS = ((RED, "o"), (BLUE, "^"), (GREEN, "D"), (ORANGE, "s"), (PURPLE, "P"))


PLANS = {
    "image": (BLUE, "^"),
    "depth": (GREEN, "D"),
    "depth first": (RED, "o"),
    "image first": (ORANGE, "s"),
}


KEPT = {
    "everything": (GREY, "s"),
    "drop agreeing": (RED, "o"),
    "random": (BLUE, "^"),
    "drop disagreeing": (GREEN, "D"),
}


EXIT_HEADS = {
    "copied head": (BLUE, "^"), "old text, before": (GREY, "s"), "new text, before": (ORANGE, "D"), "before": (ORANGE, "D"),
    "re-estimated": (RED, "o"), "carried along": (GREEN, "P"),
}  # fmt: skip


def six_questions() -> Figure:
    """Data, three stages and two exits as boxes, a second sensor, and numbered circles where
    chapter 7's questions sit.
    """
    figure, ax = plt.subplots(figsize=(9.6, 3.3))
    middle = {"data": 0.0, "stage 1": 2.2, "stage 2": 4.4, "stage 3": 6.6, "classifier": 8.8}
    boxes = {name: (x, 0.0, GREY) for name, x in middle.items()}
    boxes |= {
        "exit 1": (3.3, 1.5, RED),
        "exit 2": (5.5, 1.5, RED),
        "second sensor": (0.0, -1.5, BLUE),
    }
    for name, (x, y, color) in boxes.items():
        look = {
            "boxstyle": "round,pad=0.5",
            "facecolor": "white",
            "edgecolor": color,
            "linewidth": 1.5,
        }
        ax.text(x, y, name, ha="center", va="center", bbox=look, fontsize=10, zorder=3)
    arrows = [
        ((a, 0.0), (b, 0.0))
        for a, b in zip(list(middle.values())[:-1], list(middle.values())[1:], strict=True)
    ]
    arrows += [((2.2, 0.0), (3.3, 1.5)), ((4.4, 0.0), (5.5, 1.5)), ((0.0, -1.5), (2.2, 0.0))]
    for start, end in arrows:
        ax.annotate(
            "",
            end,
            start,
            arrowprops={"arrowstyle": "->", "color": GREY, "shrinkA": 22, "shrinkB": 22},
            zorder=1,
        )
    notes = {
        1: (4.15, 1.95),
        2: (3.3, 2.3),
        3: (4.4, -0.75),
        4: (0.95, -1.05),
        5: (0.0, 0.8),
        6: (6.6, 0.8),
    }
    words = {
        1: "none of these?",
        2: "smaller?",
        3: "smaller, in which order?",
        4: "a second look",
        5: "which are needed?",
        6: "what if they move?",
    }
    for number, (x, y) in notes.items():
        ax.text(x, y, str(number), ha="center", va="center", color="white", fontsize=10, fontweight="bold", zorder=4,
                bbox={"boxstyle": "circle,pad=0.25", "facecolor": BLUE, "edgecolor": "none"})  # fmt: skip
        ax.text(x + 0.28, y, words[number], ha="left", va="center", fontsize=9)
    ax.set(xlim=(-0.9, 9.7), ylim=(-2.1, 2.7))
    ax.axis("off")
    return figure


def novelty_panels(scores: pd.DataFrame, final: float, costs: pd.DataFrame) -> Figure:
    """Left: how well each score tells unseen classes, exit by exit.

    Right: what seen and unseen images cost, with and without a gate.

    Args:
        scores: ``measure``, ``exit`` (from 1), ``auroc``, ``split``; the points are means, the bars
            standard deviations over the splits.
        final: AUROC of the last exit's softmax.
        costs: relative costs, one row per kind of cascade, columns ``seen classes`` and ``unseen
            classes``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.9), width_ratios=(1.25, 1))
    for i, (name, (color, marker)) in enumerate(NOVELTY.items()):
        found = scores[scores.measure == name].groupby("exit").auroc.agg(["mean", "std"])
        at = found.index + 0.05 * (i - 1.5)
        left.errorbar(
            at,
            found["mean"],
            found["std"].fillna(0),
            color=color,
            marker=marker,
            capsize=3,
            label=name,
        )
    left.axhline(
        final,
        color="black",
        linestyle="--",
        linewidth=1.2,
        label=f"last exit, softmax ({final:.2f})",
    )
    left.set(xlabel="early exit", ylabel="AUROC of unseen against seen")
    left.set_xticks(sorted(scores.exit.unique()))
    left.legend(fontsize=8, loc="lower right")
    costs.plot.barh(ax=right, color=[GREY, RED], width=0.7)
    right.invert_yaxis()
    right.set(xlabel="relative cost (1 = backbone without exits)", ylabel="")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return figure


def memory_against_accuracy(
    table: pd.DataFrame, *, y: str = "accuracy", label: str = "test accuracy at the budget"
) -> Axes:
    """One line per pooling grid through its numbers of bits, on a logarithmic axis of memory; bars:
    standard deviation over the seeds.

    Args:
        table: ``grid``, ``bits``, ``bytes``, ``macs`` and the column ``y``, one row per seed and
            choice.
        y: what to draw.
        label: of the vertical axis.
    """
    _, ax = plt.subplots(figsize=(7.8, 4.0))
    for i, ((grid, part), (color, marker)) in enumerate(
        zip(table.groupby("grid", sort=False), GRIDS, strict=False)
    ):
        height = -13 if i % 2 else 6  # numbers of neighbouring lines on different sides
        found = part.groupby("bits", sort=False).agg(
            bytes=("bytes", "mean"), mean=(y, "mean"), std=(y, "std")
        )
        name = f"{grid} × {grid} averages ({part.macs.iloc[0] / 1000:.1f} kMAC)"
        ax.errorbar(
            found.bytes,
            found["mean"],
            found["std"].fillna(0),
            color=color,
            marker=marker,
            capsize=3,
            label=name,
        )
        for bits, row in found.iterrows():
            ax.annotate(
                f"{bits}",
                (row.bytes, row["mean"]),
                xytext=(4, height),
                textcoords="offset points",
                fontsize=8,
                color=color,
            )
    ax.set(
        xscale="log",
        xlabel="memory of all class-mean exits (bytes); numbers: bits per number",
        ylabel=label,
    )
    ax.legend(fontsize=8, loc="lower right")
    return ax


def order_dots(table: pd.DataFrame) -> Figure:
    """Mean accuracy of the exits for every order of prune, quantise, distil; one panel per number
    of bits, a dot per seed.

    Args:
        table: ``order``, ``bits``, ``mean``, one row per seed; the rows called ``dense`` are drawn
            as a dashed line.
    """
    dense, rest = table[table.order == "dense"]["mean"].mean(), table[table.order != "dense"]
    widths = list(dict.fromkeys(rest.bits))
    figure, axes = plt.subplots(
        1, len(widths), figsize=(4.9 * len(widths), 3.6), sharey=True, squeeze=False
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
            title=f"{bits} bits per weight",
            xlabel="mean test accuracy of the exits (dashed: before)",
        )
        ax.set_yticks(
            range(part.order.nunique()), [" → ".join(order) for order in dict.fromkeys(part.order)]
        )
    axes[0, 0].set_ylim(rest.order.nunique() - 0.4, -0.6)
    look = {"linestyle": "", "markersize": 6}
    handles = [plt.Line2D([], [], color=c, marker=m, label=t, **look) for c, m, t in
               ((BLUE, "^", "pruned before it is rounded"), (RED, "o", "rounded before it is pruned"))]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def modality_panels(
    iou: pd.DataFrame, enough: pd.Series, curves: pd.DataFrame, *, whole: float
) -> Figure:
    """Left:

    IoU of every class at every source, the cheapest sufficient one framed.  Right: mean IoU against
    cost of each plan.

    Args:
        iou: one row per class, one column per source.
        enough: class → column, or ``"none"``.
        curves: ``plan``, ``thresholds``, ``cost``, ``miou``.
        whole: mean IoU of the whole image network.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.4, 4.2), width_ratios=(1.15, 1))
    sns.heatmap(
        iou,
        ax=left,
        cmap="cividis",
        vmin=0,
        vmax=1,
        annot=True,
        fmt=".2f",
        annot_kws={"fontsize": 8},
        cbar=False,
    )
    for row, column in enumerate(enough):
        if column in iou.columns:
            box = plt.Rectangle(
                (iou.columns.get_loc(column), row),
                1,
                1,
                fill=False,
                edgecolor=RED,
                linewidth=3,
                clip_on=False,
            )
            left.add_patch(box)
    left.tick_params(axis="x", rotation=35)
    left.set(title="IoU per class and source", xlabel="", ylabel="")
    for (plan, kind), part in curves.groupby(["plan", "thresholds"], sort=False):
        color, marker = PLANS[plan]
        dotted = kind == "per step"
        right.plot(part.cost, part.miou, color=color, marker=marker, linestyle=":" if dotted else "-", markersize=5,
                   markerfacecolor="white" if dotted else color, label=f"{plan}, {kind}")  # fmt: skip
    right.axhline(
        whole,
        color="black",
        linestyle="--",
        linewidth=1.2,
        label=f"whole image network ({whole:.3f})",
    )
    right.set(
        xlabel="relative cost (1 = whole image network)", ylabel="mean IoU of the places (test)"
    )
    figure.legend(
        *right.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4
    )
    return figure


def what_was_dropped(panels: dict[str, tuple[pd.DataFrame, str]]) -> Figure:
    """What is learned from what was kept, a panel per experiment; small: seeds, bar: their mean.

    Args:
        panels: label of the horizontal axis → (table with ``kept`` and a column of values, the name
            of that column).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5.3 * len(panels), 2.7), squeeze=False)
    for ax, (label, (table, column)) in zip(axes[0], panels.items(), strict=True):
        names = list(dict.fromkeys(table.kept))
        for i, name in enumerate(names):
            color, marker = KEPT[name]
            values = table[table.kept == name][column]
            ax.scatter(values, [i] * len(values), color=color, marker=marker, alpha=0.5, s=36)
            ax.scatter(values.mean(), i, color=color, marker="|", s=480, linewidth=2.5)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    return figure


def stale_exits(tuning: pd.DataFrame, reward: pd.DataFrame) -> Figure:
    """An exit while its model is trained on.

    Left: accuracy against samples of another text; right: agreement against rounds of reward.

    Args:
        tuning: ``samples``, ``head``, ``accuracy``, ``final``; several seeds are averaged, with
            bands of one standard deviation.
        reward: ``round``, ``head``, ``agreement``; likewise.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11.0, 4.2))
    for ax, table, x, y in (
        (axes[0], tuning, "samples", "accuracy"),
        (axes[1], reward, "round", "agreement"),
    ):
        for name in dict.fromkeys(table["head"]):
            found = table[table["head"] == name].groupby(x)[y].agg(["mean", "std"]).fillna(0)
            color, marker = EXIT_HEADS[name]
            ax.plot(
                found.index, found["mean"], color=color, marker=marker, markersize=5, label=name
            )
            ax.fill_between(
                found.index,
                found["mean"] - found["std"],
                found["mean"] + found["std"],
                color=color,
                alpha=0.15,
                linewidth=0,
            )
    final = tuning.groupby("samples").final.mean()
    axes[0].plot(
        final.index, final, color="black", linestyle="--", linewidth=1.2, label="final head"
    )
    axes[0].set(
        xlabel="rows of the other text seen",
        ylabel="next-token accuracy there",
        title="fine-tuned on another text",
    )
    axes[1].set(
        xlabel="round of reward-ranked fine-tuning",
        ylabel="agreement with the final head",
        title="trained on its best samples",
    )
    axes[1].set_xticks(sorted(reward["round"].unique()))
    for ax in axes:
        ax.legend(fontsize=8)
    return figure
