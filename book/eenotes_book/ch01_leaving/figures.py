"""Figures of chapter 1 about images: where they exit, which are hard, and what exits say."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from torch import Tensor

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
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    largest, first = models.loc[models.parameters.idxmax()], models.loc[models.year.idxmin()]
    growth = largest.parameters / first.parameters / 1e6
    return show(
        figure,
        caption=f"From {first.model} ({first.year}) to {largest.model} ({largest.year}) "
        f"parameters grew {growth:,.0f} million times. {len(models)} well-known models; those "
        "clearly larger than all before have names. For mixtures of experts all parameters count.",
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
            found.append((row, "left" if row.year < 2012 or not found else "right"))
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
        caption=f"{len(order) - wrong} of these {len(order)} answers are right. The first test "
        f"images that leave at each exit, with one threshold of {threshold} for all, and the "
        "answer there. Red: wrong; true class below.",
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
    label = "right here, wrong at the end"
    right.bar(at + 0.2, changes.spoiled, 0.4, color=RED, hatch="//", label=label)
    right.set_xticks(at, changes.exit)
    right.set(xlabel="exit", ylabel="test images")
    right.legend(loc="lower center", bbox_to_anchor=(0.45, 1))
    first, last = exits.accuracy.iloc[[0, -1]]
    return show(
        figure,
        caption=f"The first exit is right on {first:.3f} of the images, the last on {last:.3f}, "
        f"and {spoiled} of {images:,} images are right at some early exit and wrong at the end. "
        f"Right: what the stages after each exit repair and spoil.",
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
        caption="Some images are recognised early and lost at the end. Drawn are those whose true "
        "class loses most between its best early exit and the end.",
        alt="Lines of the true class's probability over the exits: high at an early or middle "
        "exit and near zero at the last.",
        provenance=provenance,
    )
