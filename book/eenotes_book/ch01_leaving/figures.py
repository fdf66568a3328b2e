"""Figures of chapter 1 about images: where they exit, which are hard, and what exits say."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from torch import Tensor

from eenotes.costs import Costs
from eenotes_book.style import (
    BLUE,
    CLASS_COLORS,
    GREEN,
    GREY,
    METHODS,
    RED,
    cost_axes,
    gallery,
    show,
)

_KINDS = {"vision": (BLUE, "o"), "language": (RED, "^"), "speech/multimodal": (GREEN, "D")}


def cascade(found: Mapping[str, Any], costs: Costs, *, last: float, provenance: str) -> HTML:
    """A network as a row of stages with a door after each; the bars are the images still there.

    Args:
        found: from `eenotes.thresholds.evaluate`, on test.
        costs: of the network.
        last: accuracy of the last exit.
        provenance: for the small print.
    """
    left, there = found["left"], 1.0
    so_far = (costs.cumulative / costs.backbone).tolist()
    figure, ax = plt.subplots(figsize=(max(8.2, 1.15 * len(left)), 2.9))
    for j, (share, cost) in enumerate(zip(left, so_far, strict=True)):
        alpha, middle, door = 0.25 + 0.5 * (j + 1) / len(left), j + 0.36, j + 0.86
        bar = plt.Rectangle((j, -there / 2), 0.72, there, color=BLUE, alpha=alpha, linewidth=0)
        ax.add_patch(bar)
        ax.text(middle, 0, f"{there:.0%}", ha="center", va="center", fontsize=9)
        arrow = {"arrowstyle": "->", "color": RED}
        ax.annotate("", xy=(door, -0.78), xytext=(door, -there / 2 + 0.04), arrowprops=arrow)
        below = {"ha": "center", "va": "top", "fontsize": 8, "color": RED}
        ax.text(door, -0.86, f"{share:.0%}\nleave", **below)
        above = {"ha": "center", "va": "bottom", "fontsize": 8}
        ax.text(middle, 0.6, f"stage {j + 1}\ncost so\nfar {cost:.2f}", **above)
        there -= share
    ax.set(xlim=(-0.1, len(left) + 0.3), ylim=(-1.25, 0.95))
    ax.axis("off")
    return show(
        figure,
        caption=f"With thresholds chosen on validation, {1 - left[-1]:.0%} of the test images exit "
        f"before the last stage. The average image costs {found['relative_cost']:.2f} of the "
        f"backbone, accuracy {found['accuracy']:.3f} against {last:.3f} at the end.",
        alt="A row of bars, one per stage, getting shorter as images leave through an arrow after "
        "each stage.",
        provenance=provenance,
    )


def rising_cost(models: pd.DataFrame) -> HTML:
    """Parameters and sizes of training sets by year, on logarithmic axes.

    Training sets have one panel per unit.  The names are of models clearly larger than all before.

    Args:
        models: the table in ``models.csv``.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=(1.5, 1, 1))
    _scatter(axes[0], models, "parameters", label="parameters")
    for ax, unit in zip(axes[1:], ("images", "tokens"), strict=True):
        table = models[models.training_unit == unit]
        _scatter(ax, table, "training_examples", label=f"training {unit}")
    axes[0].legend(loc="lower right")
    largest, first = models.loc[models.parameters.idxmax()], models.loc[models.year.idxmin()]
    growth = largest.parameters / first.parameters / 1e6
    return show(
        figure,
        caption=f"{len(models)} well-known models; those clearly larger than all before have "
        f"names. From {first.model} ({first.year}) to {largest.model} ({largest.year}) parameters "
        f"grew {growth:,.0f} million times. For mixtures of experts all parameters count.",
        alt="Three scatter plots on logarithmic axes: parameters, training images and training "
        "tokens of well-known models, all rising with the years.",
        provenance="Training sizes of models that state them in images or tokens; sources in "
        "ch01_leaving/models.csv",
    )


def _scatter(ax: plt.Axes, table: pd.DataFrame, column: str, *, label: str) -> None:
    table = table.dropna(subset=[column])
    table = table.assign(when=table.year + (table.month - 0.5) / 12).sort_values("when")
    for kind, group in table.groupby("kind"):
        color, marker = _KINDS[kind]
        ax.scatter(group.when, group[column], color=color, marker=marker, s=28, label=kind)
    ax.set(yscale="log", xlabel="year", ylabel=label)
    ax.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True))
    for row, align in _largest_so_far(table, column):
        offset = {"left": (6, -3), "right": (-5, 2)}[align]
        look = {"fontsize": 8, "ha": align, "xytext": offset, "textcoords": "offset points"}
        ax.annotate(row.model, (row.when, row[column]), **look)
    ax.margins(x=0.08, y=0.1)


def _largest_so_far(table: pd.DataFrame, column: str) -> list[tuple[pd.Series, str]]:
    """The models clearly larger than all before, in order of time.

    With each, the side of its point on which there is room for a name.
    """
    found, highest = [], 0.0
    for _, row in table.iterrows():
        if row[column] > 1.3 * highest:
            found.append((row, "right" if found else "left"))
            highest = row[column]
    return found


def difficulty(tenths: pd.DataFrame, *, overall: float, provenance: str) -> HTML:
    """Accuracy of the last exit among images sorted by its margin.

    Args:
        tenths: ``group`` (from 1, most clear-cut first) and ``accuracy``.
        overall: the accuracy on all of them.
        provenance: for the small print.
    """
    figure, ax = plt.subplots(figsize=(6.4, 3))
    ax.bar(tenths.group, tenths.accuracy, color=BLUE, alpha=0.75)
    ax.axhline(overall, color=GREY, linestyle="--", linewidth=1.2)
    place = (len(tenths) + 0.55, overall + 0.015)
    ax.text(*place, f"all: {overall:.3f}", ha="right", va="bottom", fontsize=9)
    ax.set(xlabel="tenth of the test images, largest margin first")
    ax.set(ylabel="accuracy of the last exit", ylim=(0, 1.05))
    ax.set_xticks(tenths.group)
    clearest, hardest = tenths.accuracy.iloc[[0, -1]]
    return show(
        figure,
        caption=f"The last exit is right on {clearest:.0%} of the tenth with the largest margins "
        f"and on {hardest:.0%} of the tenth with the smallest.",
        alt="Ten bars, the accuracy of the last exit among the test images sorted by margin, with "
        "a dashed line at the accuracy on all of them.",
        provenance=provenance,
    )


def leavers(
    pictures: Sequence,
    answers: Sequence[int],
    truths: Sequence[int],
    exits: Sequence[int],
    *,
    classes: Sequence[str],
    threshold: float,
    provenance: str,
) -> HTML:
    """A column of pictures for each exit: the first test images that leave there.

    Args:
        pictures: M images ``(H, W, 3)`` in [0, 1], in the order of their exits, as many for each.
        answers: M classes, from the exit that the image takes.
        truths: M classes.
        exits: M, from 0.
        classes: their names.
        threshold: for all exits.
        provenance: for the small print.
    """
    columns = max(exits) + 1
    order = sorted(range(len(exits)), key=lambda i: (exits[:i].count(exits[i]), exits[i]))
    titles, colors = [], []
    for place, i in enumerate(order):
        right, above = answers[i] == truths[i], f"exit {exits[i] + 1}\n" * (place < columns)
        titles.append(above + classes[answers[i]] + f"\nis: {classes[truths[i]]}" * (not right))
        colors.append("black" if right else RED)
    wrong = colors.count(RED)
    return show(
        gallery([pictures[i] for i in order], titles, columns=columns, colors=colors),
        caption="The first test images that leave at each exit, with one threshold of "
        f"{threshold} for all, and the answer there. Red: wrong ({wrong} of {len(order)}); true "
        "class below.",
        alt="A grid of small photographs, a column for each exit and a row for each image, with "
        "the network's answer above each.",
        provenance=provenance,
    )


def exits_and_overthinking(
    exits: pd.DataFrame, changes: pd.DataFrame, *, spoiled: int, images: int, provenance: str
) -> HTML:
    """Left: accuracy of each exit on all images.  Right: what the rest of the network changes.

    Args:
        exits: from `experiment.per_exit`.
        changes: from `experiment.overthinking`.
        spoiled: images that are right at some early exit and wrong at the end.
        images: of the test split.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.6))
    color, marker = METHODS["early exits"]
    left.plot(exits.relative_cost, exits.accuracy, color=color, marker=marker)
    below = {"xytext": (4, -12), "textcoords": "offset points", "fontsize": 8}
    for row in exits.itertuples():
        left.annotate(f"exit {row.exit}", (row.relative_cost, row.accuracy), **below)
    cost_axes(left).margins(y=0.15)
    at = np.arange(len(changes))
    right.bar(at - 0.2, changes.repaired, 0.4, color=BLUE, label="wrong here, right at the end")
    label = "right here, wrong at the end (overthinking)"
    right.bar(at + 0.2, changes.spoiled, 0.4, color=RED, hatch="//", label=label)
    right.set_xticks(at, [f"exit {j}" for j in changes.exit])
    highest = max(changes.repaired.max(), changes.spoiled.max(), 1)
    right.set(ylabel="test images", ylim=(0, 1.3 * highest))
    right.legend(loc="upper right")
    first, last = exits.accuracy.iloc[[0, -1]]
    return show(
        figure,
        caption=f"Left: accuracy at each exit, {first:.3f} at the first, "
        f"{exits.accuracy.max():.3f} at the best and {last:.3f} at the last. Right: repaired and "
        f"spoiled images; {spoiled} of {images:,} are right at some early exit and wrong at the "
        "end.",
        alt="Left a curve of accuracy per exit against cost, steep at first and then flat; right "
        "paired bars per exit for repaired and spoiled answers.",
        provenance=provenance,
    )


def falls(
    deepest: pd.DataFrame, of_truth: Tensor, *, truths: Sequence[str], provenance: str
) -> HTML:
    """The images of `experiment.falls`: the probability of the true class, exit by exit.

    Args:
        deepest: from `experiment.falls`.
        of_truth: from `experiment.of_truth`, ``(J, N)``.
        truths: the true class of each of the images.
        provenance: for the small print.
    """
    figure, ax = plt.subplots(figsize=(7.4, 3.6))
    exits = range(1, len(of_truth) + 1)
    for i, (fall, truth) in enumerate(zip(deepest.itertuples(), truths, strict=True)):
        look = {"color": CLASS_COLORS[i], "marker": "os^Dv<>P"[i], "markersize": 4}
        ax.plot(exits, of_truth[:, fall.row].tolist(), label=truth, **look)
    ax.set(xlabel="exit", ylabel="probability of the true class", ylim=(-0.03, 1.03))
    ax.set_xticks(exits)
    ax.legend(title="true class", loc="center left", bbox_to_anchor=(1, 0.5))
    return show(
        figure,
        caption="The images whose true class loses most between its best early exit and the end.",
        alt="Lines of the true class's probability over the exits: high at an early or middle "
        "exit and near zero at the last.",
        provenance=provenance,
    )
