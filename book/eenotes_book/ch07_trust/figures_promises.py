"""Figures of chapter 7: promises, kept and broken, and the test of two classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from eenotes_book import style
from eenotes_book.ch07_trust.promises import Walk
from eenotes_book.ch07_trust.stopping import TwoClasses
from eenotes_book.statistics import interval
from eenotes_book.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

LOOKS = {
    "naive": (GREY, "s"),
    "in expectation": (ORANGE, "v"),
    "Learn then Test": (GREEN, "D"),
    "Hoeffding-Bentkus": (PURPLE, "X"),
    "binomial": (RED, "o"),
    "two coins": (RED, "^"),
    "betting": (BLUE, "P"),
}


def picture(
    walk: Walk, weights: np.ndarray, bound: np.ndarray, *, level: float, provenance: str
) -> HTML:
    """Risk on the calibration samples, its upper bound, and the true risk, along the thresholds.

    Args:
        walk: all thresholds.
        weights: the calibration samples, ``(N,)``.
        bound: after each step, ``(M + 1,)``.
        level: that is promised.
        provenance: for the small print.
    """
    everyone = np.ones(len(weights))
    cost, seen, true = walk.cost(everyone), walk.risk(weights), walk.risk(everyone)
    last = int(np.argmax(cost < 0.55))
    shown = np.unique(np.append(np.arange(0, last, max(last // 600, 1)), last))
    figure, ax = plt.subplots(figsize=(7.4, 3.9))
    ax.plot(cost[shown], 100 * seen[shown], color=GREY, label="on the calibration samples")
    ax.plot(cost[shown], 100 * bound[shown], color=RED, label="its upper bound")
    ax.plot(cost[shown], 100 * true[shown], color="black", linestyle=":", label="the truth")
    ax.axhline(100 * level, color=BLUE, linewidth=1, linestyle="--")
    ax.annotate("promised", (0.985, 100 * level + 0.06), color=BLUE, fontsize=9)
    for curve, color, text in ((seen, GREY, "naive"), (bound, RED, "guaranteed")):
        at = int(np.flatnonzero(curve > level)[0]) - 1
        ax.plot([cost[at]] * 2, [0, 100 * curve[at]], color=color, linewidth=1)
        ax.plot(cost[at], 100 * curve[at], "o", color=color)
        shift, side = (0.006, "right") if text == "guaranteed" else (-0.006, "left")
        ax.annotate(text, (cost[at] + shift, 0.12), ha=side, color=color, fontsize=9)
    ax.set(xlim=(1.01, 0.55), ylim=(0, 5), xlabel="relative cost, as the threshold falls")
    ax.set_ylabel("risk: disagreement with the last exit, %")
    ax.legend(loc="upper left")
    return style.show(
        figure,
        caption="The risk grows as the threshold falls. Where the risk on 1,000 samples meets two "
        "per cent, the truth may be beyond it; where the upper bound meets it, hardly ever.",
        alt="Three rising curves of risk over falling cost. The upper bound in red crosses the "
        "dashed level of two per cent first, the risk on the samples in grey later.",
        provenance=provenance,
    )


def broken(found: pd.DataFrame, *, level: float, provenance: str) -> HTML:
    """The true risk of the thresholds that many calibration samples give, by way of choosing.

    Args:
        found: from `eenotes_book.ch07_trust.promises.trial`.
        level: that is promised.
        provenance: for the small print.
    """
    names = list(found.chooser.unique())
    figure, axes = plt.subplots(len(names), 1, figsize=(7.6, 1.0 * len(names) + 0.6), sharex=True)
    bins = np.linspace(0, 2 * level, 81)
    for ax, name in zip(axes, names, strict=True):
        part = found[found.chooser == name]
        heights, _ = np.histogram(part.risk, bins)
        colors = np.where(bins[:-1] + 1e-12 >= level, RED, GREY)
        ax.bar(
            100 * bins[:-1], heights, width=100 * (bins[1] - bins[0]), align="edge", color=colors
        )
        ax.axvline(100 * level, color=BLUE, linewidth=1, linestyle="--")
        ax.set_yticks([])
        ax.grid(False)
        ax.spines["left"].set_visible(False)
        text = f"{name}: broken {part.broken.mean():.1%}, cost {part.cost.mean():.3f}"
        ax.set_title(text, loc="left", fontsize=10)
    axes[-1].set(xlabel="true risk of the chosen threshold, % (dashed: promised)")
    return style.show(
        figure,
        caption="One threshold for every drawn calibration sample, and its true risk. Red: worse "
        "than promised. At most a tenth may be; nothing of the kind is said of the first two.",
        alt="Histograms below each other. Naive and in expectation are centred on the promised "
        "level, half of them red; the others lie to its left, with few red bars.",
        provenance=provenance,
    )


def against_samples(found: pd.DataFrame, *, delta: float, draws: int, provenance: str) -> HTML:
    """Broken promises and distance from the oracle's cost, by number of calibration samples.

    Args:
        found: columns ``samples``, ``risk``, ``chooser``, ``broken``, ``above``, one row each.
        delta: the promised share of broken promises.
        draws: calibration samples of each size.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.7))
    for (risk, chooser), part in found.groupby(["risk", "chooser"], sort=False):
        color, marker = LOOKS[chooser]
        line = "--" if risk == "lost accuracy" else "-"
        look = {"color": color, "marker": marker, "markersize": 5, "linestyle": line}
        left.plot(part.samples, part.broken, **look, label=f"{risk}, {chooser}")
        right.plot(part.samples, part.above, **look)
    left.axhline(delta, color=GREY, linewidth=1, linestyle="--")
    noise = 2 * (delta * (1 - delta) / draws) ** 0.5
    left.axhspan(delta - noise, delta + noise, color=GREY, alpha=0.15, linewidth=0)
    left.annotate("allowed", (found.samples.min(), delta * 1.03), color=GREY, fontsize=9)
    left.set(xlabel="calibration samples", ylabel="share of broken promises", ylim=(0, 0.13))
    right.set(xlabel="calibration samples", ylabel="cost above the oracle's", ylim=(0, None))
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xticks(*[sorted(found.samples.unique())] * 2)
        ax.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return style.show(
        figure,
        caption="Left: how often promises were broken; a tenth is allowed (grey: noise). Right: "
        "the price of the promise, in backbones. The oracle knows the risk of every threshold.",
        alt="Left, lines below a dashed one at .1, the binomial one nearest to it. Right, lines "
        "that fall with the number of samples.",
        provenance=provenance,
    )


def shifts(rows: Sequence[Mapping[str, Any]], *, delta: float, provenance: str) -> HTML:
    """How often a promise made on clean images is broken on others.

    Args:
        rows: from `eenotes_book.ch07_trust.numbers.shifts`.
        delta: the promised share of broken promises.
        provenance: for the small print.
    """
    figure, ax = plt.subplots(figsize=(7.6, 0.8 + 0.32 * len(rows)))
    names = []
    for row, each in enumerate(rows):
        groups = pd.DataFrame(each["groups"])
        name = "no shift" if each["shift"] == "none" else f"{each['shift']} {each['strength']:g}"
        names.append(f"{name} ({each['accuracy']:.3f})")
        share = groups.broken.mean()
        color = RED if interval(groups.broken)[0] > delta else GREY
        ax.barh(row, max(share, 0.004), color=color)
        text = f"{share:.0%} broken, risk {100 * groups.risk.mean():.1f} %"
        inside = share > 0.6
        place = share - 0.01 if inside else max(share, delta) + 0.012
        look = {"ha": "right", "color": "white"} if inside else {"ha": "left"}
        ax.annotate(text, (place, row), va="center", fontsize=8, **look)
    ax.axvline(delta, color=BLUE, linewidth=1, linestyle="--", zorder=0)
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="share of broken promises (dashed: allowed)")
    ax.grid(axis="y", visible=False)
    return style.show(
        figure,
        caption="Two per cent of disagreement, promised on 5,000 clean images and met by others. "
        "In brackets: accuracy of the whole network. Red: surely broken more often than allowed.",
        alt="Horizontal bars: none beyond the dashed line without shift, long red ones for blur "
        "and noise that are strong.",
        provenance=provenance,
    )


def two_classes(
    model: TwoClasses, prices: Sequence[float], sequential: pd.DataFrame, *, provenance: str
) -> HTML:
    """The sequential test: log-odds walking to a boundary, and what that saves.

    Args:
        model: the two classes.
        prices: of a wrong answer, whose boundaries are drawn.
        sequential: columns ``looks`` on average and ``error``, one row per price.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.6))
    logits, labels = model.draw(14, seed=5)
    looks = np.arange(1, model.looks + 1)
    walks = (logits[..., 1] - logits[..., 0]).numpy()
    for column, label in zip(walks.T, labels.tolist(), strict=True):
        left.plot(looks, column, color=(BLUE, ORANGE)[label], linewidth=0.8, alpha=0.7)
    for price, line in zip(prices, ("-", "--"), strict=True):
        edge = model.boundaries(price)
        for sign in (1, -1):
            label = f"a wrong answer costs {price:g} times all looks" if sign == 1 else None
            left.plot(looks[:-1], sign * edge, color="black", linestyle=line, label=label)
    left.set_xticks(range(0, model.looks + 1, 5))
    left.set(xlabel="look", ylabel="log-odds of one class", ylim=(-9, 9))
    left.legend(loc="upper left", fontsize=8)
    fixed = model.fixed()
    right.plot(
        fixed.looks, fixed.error, color=GREY, marker="s", markersize=4, label="always as many"
    )
    right.plot(
        sequential.looks, sequential.error, color=RED, marker="o", markersize=5, label="sequential"
    )
    right.set(xlabel="looks, on average", ylabel="wrong answers", yscale="log")
    right.set_yticks([0.06, 0.1, 0.2, 0.3], [".06", ".1", ".2", ".3"])
    right.minorticks_off()
    right.set_xticks(range(0, model.looks + 1, 5))
    right.legend()
    return style.show(
        figure,
        caption="Left: evidence for one of two classes, look after look (14 samples), and where it "
        "is best to stop. Right: wrong answers against looks, for both tests.",
        alt="Left, random walks between two boundaries that close towards the last look. Right, "
        "the curve of the sequential test lies far below that of a fixed number of looks.",
        provenance=provenance,
    )


def who_pays(table: pd.DataFrame, *, level: float, provenance: str) -> HTML:
    """Disagreement, and the share that leaves early, class by class.

    Args:
        table: from `eenotes_book.ch07_trust.numbers.classes`.
        level: that is promised on average.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    at = np.arange(len(table))
    left.barh(at, 100 * table.risk, color=[RED if r > level else GREY for r in table.risk])
    left.axvline(100 * level, color=BLUE, linewidth=1, linestyle="--")
    left.set(xlabel="disagreement, % (dashed: promised)")
    left.set_yticks(at, table["class"])
    left.invert_yaxis()
    right.barh(at, table.early, color=GREEN)
    right.set(xlabel="share that leaves early", xlim=(0, 1))
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    return style.show(
        figure,
        caption="One threshold that keeps its promise on average, by true class. Red: more than "
        "was promised.",
        alt="Bars for ten classes: disagreement from one to three per cent, most for birds; the "
        "share that leaves early from .7 for cats to .93 for automobiles.",
        provenance=provenance,
    )
