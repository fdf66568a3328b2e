"""Drawings of chapter 1 and of the first page: a network with exits, and images that leave it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from eenotes import simulate
from eenotes.costs import Costs
from eenotes.thresholds import evaluate
from eenotes_book.data import recorded
from eenotes_book.pictures import PAGE, PHONE
from eenotes_book.style import BLUE, GREY, RED, exit_colors, show

_PALE_BLUE, _PALE_RED = "#DCE9F3", "#FBE6D6"


def exit_network() -> HTML:
    """A network in stages with an exit after each: where a sample leaves, and what it pays."""
    return show(
        _network(stages=4, size=(PAGE, 3.3)),
        narrow=_network(stages=3, size=(PHONE, 2.4)),
        caption="After every stage an exit asks whether its answer is good enough. A sample that "
        "leaves at exit 1 pays for one stage and one test; one that no exit is confident about "
        "pays for all stages and all tests.",
        alt="Boxes in a row, the stages of a network, joined by arrows. Below each but the last a "
        "diamond asks whether the confidence is above the threshold: yes leads down to an answer, "
        "no to the next stage.",
        vector=True,
    )


def cascade(found: Mapping[str, Any], costs: Costs, *, last: float, provenance: str) -> HTML:
    """The images as a stream along the stages, a part of which leaves at every exit.

    Args:
        found: from `eenotes.thresholds.evaluate`, on test.
        costs: of the network.
        last: accuracy of the last exit.
        provenance: for the small print.
    """
    left, so_far = found["left"], (costs.cumulative / costs.backbone).tolist()

    def drawn(width: float) -> Figure:
        figure, ax = plt.subplots(figsize=(width, 2.9))
        ax.set(xlim=(-1.1 * PAGE / width, len(left) + 0.05), ylim=(-1.0, 1.25))
        _stream(ax, left, so_far)
        return figure

    return show(
        drawn(PAGE),
        narrow=drawn(PHONE),
        caption=f"With thresholds chosen on validation, {1 - left[-1]:.0%} of the test images exit "
        f"before the last stage. The average image costs {found['relative_cost']:.2f} of the "
        f"backbone, accuracy {found['accuracy']:.3f} against {last:.3f} at the end.",
        alt="A stream that runs from left to right and gets thinner, as a part of it turns down "
        "at every exit.",
        provenance=provenance,
        vector=True,
    )


def first_page() -> HTML:
    """What leaves where in the recorded run of ResNet-56: the stream, and images that leave."""
    run = recorded.load("resnet56", "whitened")
    rows, images, facts = recorded.thumbnails()
    rule = replace(run.rule, thresholds=facts["threshold"])
    found, outcome = (evaluate(run.logits, run.labels, rule, run.costs), simulate(run.logits, rule))
    right = outcome.prediction == run.labels
    shares = [right[outcome.exit_index == j].double().mean() for j in range(len(run.logits))]
    so_far = (run.costs.cumulative / run.costs.backbone).tolist()

    def drawn(width: float, height: float, tall: float, each: int = 3) -> Figure:
        figure, ax = plt.subplots(figsize=(width, height))
        view = {"xlim": (-1.1 * PAGE / width, len(shares) + 0.05)}
        view |= {"ylim": (-1.3 - tall * each, 1.25)}
        ax.set(**view)
        _stream(ax, found["left"], so_far)
        _words(ax, -0.1, -1.08, "right", ha="right")
        for j, share in enumerate(shares):
            _words(ax, j + _TURN, -1.08, f"{share:.0%}")
            here = [i for i, at in enumerate(facts["exits"]) if at == j][:each]
            for place, i in enumerate(here):
                top = -1.26 - tall * place
                box = (j + _TURN - 0.46, j + _TURN + 0.46, top - 0.95 * tall, top)
                ax.imshow(images[i].numpy(), extent=box, interpolation="bicubic")
        ax.set(**view, aspect="auto")
        return figure

    backbone = (run.logits[-1].argmax(1) == run.labels).double().mean().item()
    return show(
        drawn(PAGE, 4.9, 0.56),
        narrow=drawn(PHONE, 3.57, 0.34),
        caption="Easy images leave early: ResNet-56 answers at "
        f"{found['relative_cost']:.2f} of its cost on average, {found['accuracy']:.3f} right "
        f"instead of {backbone:.3f}. Below each exit: images that leave there.",
        alt="A stream of images runs through ten stages and gets thinner, as a part turns down at "
        "every exit; under each exit small photographs of animals and vehicles that leave there.",
        provenance=f"Recorded run: published ResNet-56, exits of whitened class means, one "
        f"threshold of {facts['threshold']} for all exits; CIFAR-10, {len(run.labels):,} test "
        "images; the first three that leave at each exit, not chosen",
    )


# --- parts


def _network(*, stages: int, size: tuple[float, float]) -> Figure:
    figure, ax = plt.subplots(figsize=size)
    wide, step, small = 1.2, 1.88, {"fontsize": 9 if size[0] == PAGE else 7.5}
    for j in range(1, stages + 1):
        left, middle = 0.8 + (j - 1) * step, 0.8 + (j - 1) * step + wide / 2
        look = {"boxstyle": "round,pad=0,rounding_size=.08", "fc": _PALE_BLUE, "ec": BLUE}
        ax.add_patch(FancyBboxPatch((left, 2.35), wide, 0.8, **look))
        _words(ax, middle, 2.75, f"stage {j}\n$s_{j}$ MACs", **small)
        _arrow(ax, (left - step + wide if j > 1 else 0.45, 2.75), (left, 2.75), color=BLUE)
        pays = f"$w_{j} = " + (f"w_{j - 1} + " if j > 1 else "") + f"s_{j}"
        if j == stages:
            _arrow(ax, (middle, 2.35), (middle, 0.78), color=RED)
            _words(ax, middle, 1.6, f"exit {j}:\nalways", background="white", **small)
        else:
            _arrow(ax, (middle, 2.35), (middle, 2.05), color=GREY)
            corners = [(middle, 2.05), (middle + 0.74, 1.6), (middle, 1.15), (middle - 0.74, 1.6)]
            ax.add_patch(plt.Polygon(corners, facecolor=_PALE_RED, edgecolor=RED))
            _words(ax, middle, 1.6, f"exit {j}:\n$c_{j} > T_{j}$?", **small)
            _arrow(ax, (middle, 1.15), (middle, 0.78), color=RED)
            _words(ax, middle + 0.22, 0.98, "yes", color=RED, **small)
            _words(ax, left + wide + 0.29, 2.92, "no", color=BLUE, **small)
            pays += f" + t_{j}"
        _words(ax, middle, 0.62, f"answer; paid:\n{pays}$", va="top", **small)
    _words(ax, 0.3, 2.75, "$x$", fontsize=14)
    ax.set(xlim=(0.1, 0.85 + stages * step - step + wide), ylim=(0.05, 3.2))
    ax.axis("off")
    return figure


_TURN = 0.5  # where, along a stage, what leaves has turned down


def _stream(ax: Axes, left: Sequence[float], so_far: Sequence[float]) -> None:
    """Stages along x, the share of the images that is still there as the height of a stream.

    A share is as thick where it runs down as where it runs along.
    """
    across, up = ax.figure.get_size_inches() / (np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim()))
    there, colors = 1.0, exit_colors(len(left))
    roomy = ax.figure.get_figwidth() >= PAGE
    _words(ax, -0.1, 0.5, "all\nimages", ha="right")
    if not roomy:
        _words(ax, -0.1, -0.62, "exit", ha="right", weight="bold")
    for words, height in (("cost so far", 1.12), ("leave here", -0.86)):
        _words(ax, -0.1, height, words, ha="right")
    for j, (share, cost) in enumerate(zip(left, so_far, strict=True)):
        low, wide, turn = 1 - there, share * up / across, j + _TURN
        there -= share
        go_on = plt.Rectangle((j - 0.03, 1 - there), 1.03, there, facecolor=_PALE_BLUE, linewidth=0)
        ax.add_patch(go_on)
        _bend(ax, j, (low, low + share), (turn - wide / 2, turn + wide / 2), colors[j][0])
        _words(ax, turn, -0.62, f"exit {j + 1}" if roomy else f"{j + 1}", weight="bold")
        _words(ax, turn, -0.86, f"{share:.0%}")
        _words(ax, turn, 1.12, f"{cost:.2f}")
    ax.axis("off")
    ax.grid(False)


def _bend(
    ax: Axes, start: float, ends: tuple[float, float], below: tuple[float, float], color: str
) -> None:
    """A band that comes from the left between two heights and ends, turned down, below."""
    (low, high), (inner, outer), down = ends, below, -0.5
    points = [(start - 0.03, low), (inner, low), (inner, low), (inner, down), (outer, down)]
    points += [(outer, high), (outer, high), (start - 0.03, high), (start - 0.03, low)]
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO]
    codes += [Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.CLOSEPOLY]
    ax.add_patch(PathPatch(Path(points, codes), facecolor=color, linewidth=0, alpha=0.95))


def _words(ax: Axes, x: float, y: float, text: str, *, background: str = "none", **look) -> None:
    box = {"facecolor": background, "edgecolor": "none", "pad": 1.5}
    ax.text(x, y, text, **({"ha": "center", "va": "center", "fontsize": 9, "bbox": box} | look))


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], *, color: str) -> None:
    shape = {"arrowstyle": "-|>", "color": color, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=end, xytext=start, arrowprops=shape)
