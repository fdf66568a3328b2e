"""Figures of chapter 8: two sensors, dropped data, and models that go on learning."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.axes import Axes
from torch import Tensor

from eenotes_book.ch08_open.streets import CLASSES
from eenotes_book.scene_pictures import label_map, scene_panels
from eenotes_book.style import BLUE, GREEN, GREY, ORANGE, RED, show

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
    "copied head": (BLUE, "^"),
    "old text, before": (GREY, "s"),
    "new text, before": (ORANGE, "D"),
    "before": (ORANGE, "D"),
    "re-estimated": (RED, "o"),
    "carried along": (GREEN, "P"),
}


def one_scene(image: Tensor, depth: Tensor, labels: Tensor) -> HTML:
    """A scene in two modalities, and its classes.

    Args:
        image: ``(3, H, W)``, uint8.
        depth: ``(H, W)``, nearness.
        labels: ``(H, W)``.
    """
    panels = {
        "image": image.permute(1, 2, 0).numpy() / 255,
        "depth map": depth.clamp(0, 1).numpy(),
        "classes": label_map(labels, CLASSES),
    }
    return show(
        scene_panels(panels, classes=CLASSES, bar="nearness"),
        caption=(
            "One scene, two modalities. The depth map knows neither paint nor light, nor the "
            "border between two things that stand side by side. It is inverse distance with noise."
        ),
        alt=(
            "Three panels: a drawn street scene, its noisy depth map in shades from far to near, "
            "and the map of its classes."
        ),
    )


def modality_panels(
    iou: pd.DataFrame, enough: pd.Series, plans: pd.DataFrame, *, provenance: str
) -> HTML:
    """Left: IoU of every class at every source.  Right: mean IoU against cost of each plan.

    Args:
        iou: one row per class, one column per source.
        enough: class → the column that is framed, or ``"none"``.
        plans: ``plan``, ``thresholds``, ``cost``, ``miou``.
        provenance: for the small print.
    """
    whole = iou["image 3"].mean()
    early = sum(source in iou.columns and source != "both" for source in enough)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.4, 4.2), width_ratios=(1.15, 1))
    shades = {"cmap": "cividis", "vmin": 0, "vmax": 1, "cbar": False}
    sns.heatmap(iou, ax=left, annot=True, fmt=".2f", annot_kws={"fontsize": 8}, **shades)
    frame = {"fill": False, "edgecolor": RED, "linewidth": 3, "clip_on": False}
    for row, column in enumerate(enough):
        if column in iou.columns:
            left.add_patch(plt.Rectangle((iou.columns.get_loc(column), row), 1, 1, **frame))
    left.tick_params(axis="x", rotation=35)
    left.set(title="IoU per class and source", xlabel="", ylabel="")
    for (plan, kind), part in plans.groupby(["plan", "thresholds"], sort=False):
        color, marker = PLANS[plan]
        dotted = kind == "per step"
        look = {"color": color, "marker": marker, "markersize": 5}
        look |= {"linestyle": ":", "markerfacecolor": "white"} if dotted else {}
        right.plot(part.cost, part.miou, label=f"{plan}, {kind}", **look)
    dashed = {"color": "black", "linestyle": "--", "linewidth": 1.2}
    right.axhline(whole, label=f"whole image network ({whole:.3f})", **dashed)
    right.set(
        xlabel="relative cost (1 = whole image network)", ylabel="mean IoU of the places (test)"
    )
    figure.legend(
        *right.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3
    )
    return show(
        figure,
        caption=(
            f"{early} of {len(iou)} classes need no more than one network: framed is the cheapest "
            "source within 2 points of both together. Left: IoU of each class at each source. "
            "Right: mean IoU against cost; dotted: thresholds per step."
        ),
        alt=(
            "Left: a table of IoU in shades, classes by sources, with one framed cell per class. "
            "Right: mean IoU against relative cost for the image network, the depth network and "
            "both, with a dashed line for the whole image network."
        ),
        provenance=provenance,
    )


def what_was_dropped(clusters: pd.DataFrame, reading: pd.DataFrame, *, provenance: str) -> HTML:
    """What is learned from what was kept, a panel per experiment.

    Args:
        clusters: ``kept`` and ``accuracy``, one row per seed.
        reading: ``kept`` and ``perplexity``, one row per seed.
        provenance: for the small print.
    """
    panels = {
        "clustering accuracy (test; to the right is better)": (clusters, "accuracy"),
        "perplexity (test; to the left is better)": (reading, "perplexity"),
    }
    accuracy = clusters.groupby("kept").accuracy.mean()
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
    return show(
        figure,
        caption=(
            "Clustering accuracy without the half on which the exits agree: "
            f"{accuracy['drop agreeing']:.2f}; without a random half: {accuracy['random']:.2f}. "
            "Right: the same for rows of text, read by a fresh language model. Small marks: seeds; "
            "bars: means."
        ),
        alt=(
            "Two panels of dots, one row each for everything, dropping what is agreed on, at "
            "random, and what is disagreed on; clustering accuracy on the left, perplexity on the "
            "right."
        ),
        provenance=provenance,
    )


def stale_exits(tuning: pd.DataFrame, reward: pd.DataFrame, *, provenance: str) -> HTML:
    """An exit while its model is trained: on another text (left), and on a reward (right).

    Args:
        tuning: ``samples``, ``head``, ``accuracy``, ``final``, one row per seed.
        reward: ``round``, ``head``, ``agreement``, one row per seed.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.0, 4.2))
    _head_curves(left, tuning, "samples", "accuracy")
    _head_curves(right, reward, "round", "agreement")
    final = tuning.groupby("samples").final.mean()
    ends = tuning[tuning.samples == tuning.samples.max()].groupby("head").accuracy.mean()
    dashed = {"color": "black", "linestyle": "--", "linewidth": 1.2}
    left.plot(final.index, final, label="final head", **dashed)
    left.set(
        xlabel="rows of the other text seen",
        ylabel="next-token accuracy there",
        title="fine-tuned on another text",
    )
    right.set(
        xlabel="round of reward-ranked fine-tuning",
        ylabel="agreement with the final head",
        title="trained on its best samples",
    )
    right.set_xticks(sorted(reward["round"].unique()))
    for ax in (left, right):
        ax.legend(fontsize=8)
    return show(
        figure,
        caption=(
            f"After {tuning.samples.max()} rows of another text the copied head has "
            f"{ends['copied head']:.3f}, re-estimated class means {ends['re-estimated']:.3f}, "
            f"those from before {ends['new text, before']:.3f}. Bands: one standard deviation over "
            "the seeds. Right: a model that learns from its own best samples."
        ),
        alt=(
            "Left: accuracy of the exit on the other text against rows seen, one line per way of "
            "setting it. Right: agreement of the exit with the final head on the model's own "
            "samples against rounds of reward."
        ),
        provenance=provenance,
    )


def _head_curves(ax: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """One line per way of setting the exit, with a band of one standard deviation."""
    for name, rows in table.groupby("head", sort=False):
        found = rows.groupby(x)[y].agg(["mean", "std"]).fillna(0)
        color, marker = EXIT_HEADS[name]
        low, high = found["mean"] - found["std"], found["mean"] + found["std"]
        ax.plot(found.index, found["mean"], color=color, marker=marker, markersize=5, label=name)
        ax.fill_between(found.index, low, high, color=color, alpha=0.15, linewidth=0)
