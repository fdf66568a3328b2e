"""Figures of the channel: regions of decision, the line between two signals, error rates."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from eenotes_book import style
from eenotes_book.ch06_language import channel
from eenotes_book.style import BLUE, CLASS_COLORS, GREEN, GREY, RED


def decision_regions(panels: Mapping[str, Mapping[str, Tensor]]) -> HTML:
    """Received points over the regions in which a linear detector decides for each message.

    Args:
        panels: title → what `eenotes_book.ch06_language.channel.transmissions` returns, in the
            plane.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 4.2), squeeze=False)
    reach = 1.05 * max(panel["received"].abs().max().item() for panel in panels.values())
    for ax, (title, panel) in zip(axes[0], panels.items(), strict=True):
        _regions(ax, panel, reach)
        ax.set(
            title=title,
            xlabel="first coordinate of $r$",
            ylabel="second coordinate of $r$",
            xlim=(-reach, reach),
            ylim=(-reach, reach),
        )
        ax.grid(False)
    return style.show(
        figure,
        caption="The MAP receiver divides the plane by straight lines; an unequal prior shifts "
        "them away from the likely message. Stars: what is sent; points: receptions, coloured by "
        "what was sent; ground: what the receiver decides.",
        alt="Two panels with four stars on a circle and clouds of points around them over four "
        "coloured regions; in the second panel the region of the first star has grown.",
        provenance=f"{len(panel['received'])} simulated receptions per panel",
    )


def _regions(ax: Axes, panel: Mapping[str, Tensor], reach: float) -> None:
    count, grid = len(panel["signals"]), np.linspace(-reach, reach, 300)
    places = np.stack(np.meshgrid(grid, grid), -1)
    scores = places @ np.asarray(panel["weight"]).T + np.asarray(panel["bias"])
    ax.imshow(
        scores.argmax(-1),
        origin="lower",
        extent=(-reach, reach) * 2,
        cmap=ListedColormap(CLASS_COLORS[:count]),
        vmin=-0.5,
        vmax=count - 0.5,
        alpha=0.22,
    )
    for message in range(count):
        color = CLASS_COLORS[message]
        points = np.asarray(panel["received"][panel["messages"] == message])
        ax.plot(*points.T, ".", color=color, markersize=3, alpha=0.7)
        signal = np.asarray(panel["signals"][message])
        star = {"marker": "*", "markersize": 15, "markeredgecolor": "black", "linestyle": "none"}
        ax.plot(*signal, color=color, **star)
        words = {"xytext": (8, 8), "textcoords": "offset points", "fontsize": 10, "weight": "bold"}
        ax.annotate(str(message + 1), signal, **words)


def two_signals(prior: float, *, n0: float) -> HTML:
    """The line through two signals: where the receiver changes its mind, and what it gets wrong.

    Equal priors, and a prior of the signal on the left; the signals are at -1 and 1.
    """
    signals = torch.tensor([[-1.0], [1.0]])
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 3.9), sharey=True)
    x, spread = np.linspace(-3.4, 3.4, 601), (n0 / 2) ** 0.5
    for ax, first in zip(axes, (0.5, prior), strict=True):
        priors = torch.tensor([first, 1 - first])
        border = n0 / 4 * float((priors[0] / priors[1]).log())  # d = 2
        for m, (color, wrong) in enumerate(((BLUE, x > border), (RED, x < border))):
            place = signals[m].item()
            density = priors[m].item() * np.exp(-((x - place) ** 2) / n0) / (np.pi * n0) ** 0.5
            ax.plot(x, density, color=color, label=f"$P_{m + 1}\\,p(r \\mid s_{m + 1})$")
            ax.fill_between(x, density, where=wrong, color=color, alpha=0.35, linewidth=0)
            ax.plot(place, 0, "*", color=color, markersize=15, markeredgecolor="black", zorder=5,
                    clip_on=False)  # fmt: skip
        top = 1.04 * prior / (np.pi * n0) ** 0.5
        ax.vlines(0, 0, top, color=GREY, linestyle=":", linewidth=1.2)
        ax.vlines(border, 0, top, color="black", linewidth=1.6)
        _length(ax, (-1, 0), r"$\frac{d}{2}$")
        _length(ax, (1, 1 + spread), r"$\sqrt{N_0/2}$")
        if first != 0.5:
            _length(ax, (0, border), r"$\frac{N_0}{2d}\ln\frac{P_1}{P_2}$", below=0.05)
        error = channel.union_bound(signals, n0=n0, prior=priors)
        ax.set(
            title=f"$P_1 = {first:g}$: error probability {error:.3f}", xlabel="$r$ along the line"
        )
        ax.grid(False)
        ax.axhline(0, color="black", linewidth=0.8)
    axes[0].set(ylabel="prior times density", ylim=(-0.17, None), yticks=np.arange(0, 0.5, 0.1))
    axes[1].legend(fontsize=9, loc="upper right")
    return style.show(
        figure,
        caption="A likelier signal gets more room. Two signals (stars) at distance d in noise of "
        "variance N₀/2 per dimension; the border (black) lies where both curves are equal. The "
        "shaded areas are the two terms of (6.13).",
        alt="Two panels with a bell curve around each of two stars. With equal priors the border "
        "lies half-way; with a larger left curve it lies further to the right. The tails beyond "
        "the border are shaded.",
        provenance=f"computed, N₀ = {n0:g}",
    )


def _length(ax: Axes, ends: tuple[float, float], words: str, *, below: float = 0.0) -> None:
    """A length under the line, with its name below."""
    look = {"arrowstyle": "<->", "color": "black", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=(ends[1], -0.03), xytext=(ends[0], -0.03), arrowprops=look)
    ax.text(sum(ends) / 2, -0.045 - below, words, ha="center", va="top", fontsize=11)


def error_rates(table: pd.DataFrame, *, provenance: str) -> HTML:
    """Simulated error rates (markers) and theory (lines) against the signal-to-noise ratio.

    Args:
        table: from `eenotes_book.ch06_language.channel.error_curves`.
        provenance: how many transmissions.
    """
    _, ax = plt.subplots(figsize=(7.2, 4.2))
    looks = ((BLUE, "o", "exact"), (GREEN, "^", "exact"), (RED, "s", "union bound"))
    for (case, part), (color, marker, what) in zip(
        table.groupby("case", sort=False), looks, strict=True
    ):
        ax.plot(part.db, part.theory, color=color, label=f"{case}: {what}")
        shown = part[part.simulated > 0]
        ax.plot(shown.db, shown.simulated, marker, color=color, label=f"{case}: simulated")
        if (part.wrong != part.simulated).any():
            # to be seen on the markers of equal priors
            look = {"color": color, "markersize": 11, "markeredgewidth": 2, "zorder": 4}
            ax.plot(part.db, part.wrong, "x", label=f"{case}: detector without the priors", **look)
    lowest = max(table.simulated[table.simulated > 0].min() / 3, 1e-6)
    ax.set(xlabel=r"$E / N_0$ in dB", ylabel="error probability", yscale="log", ylim=(lowest, 4))
    ax.legend(fontsize=8, loc="lower left")
    return style.show(
        ax,
        caption="Simulation and theory. Ignoring unequal priors costs as much as equal priors "
        "would, so the crosses lie on the blue line. The union bound for eight signals closes up "
        "as the noise falls; above 1 it says nothing.",
        alt="Error probability on a logarithmic axis, falling with the signal-to-noise ratio; "
        "markers on two of the lines, below the third; crosses above for the detector that ignores "
        "the priors.",
        provenance=provenance,
    )
