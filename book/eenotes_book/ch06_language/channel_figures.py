"""Figures of the channel: regions of decision, error rates."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from eenotes_book import style
from eenotes_book.style import BLUE, CLASS_COLORS, GREEN, RED


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
