"""Drawings of chapter 2: class means, far apart or not, and what whitening does to them."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from eenotes_book import style
from eenotes_book.style import BLUE, CLASS_COLORS, RED

THREE_COLORS = ("#D62728", "#2CA02C", "#1F77B4")
_MEASURE = "separability  $\\delta\\,/\\,(\\delta + \\sigma)$"


def three_classes(
    table: pd.DataFrame, *, provenance: str, pictures: Sequence[np.ndarray] = ()
) -> HTML:
    """Three classes at some layers, a colour each; arguments as in `all_classes`.

    Args:
        table: separability in [0, 1], indexed by class name, one column per layer.
        provenance: for the small print.
        pictures: an image of each class, ``(H, W, 3)``, or none.
    """
    first, middle, last = (table.iloc[:, at].mean() for at in (0, table.shape[1] // 2, -1))
    return style.show(
        _grid(table, THREE_COLORS, pictures=pictures, high=0.75),
        caption=f"The class means of {_listed(table.index)} become separable late: {first:.2f} on "
        f"average at the {table.columns[0]}, {middle:.2f} half-way, {last:.2f} at the "
        f"{table.columns[-1]}. Pale: close to another mean; full: far from all.",
        alt="A grid with one row per class and one column per layer; each row has its own colour, "
        "faint on the left and strong on the right.",
        provenance=provenance,
    )


def all_classes(table: pd.DataFrame, *, provenance: str) -> HTML:
    """The class means of all classes at all layers: white is not separated, full colour is.

    Args:
        table: separability in [0, 1], indexed by class name, one column per layer.
        provenance: for the small print.
    """
    last = table.iloc[:, -1]
    return style.show(
        _grid(table, CLASS_COLORS, high=0.36),
        caption=f"Every class gains separability, most of it late. At the end {last.idxmax()} is "
        f"farthest from the others ({last.max():.2f}) and {last.idxmin()} nearest to one "
        f"({last.min():.2f}).",
        alt="A grid with one row per class and one column per layer, tinted more strongly from "
        "left to right in every row.",
        provenance=provenance,
    )


def in_their_plane(
    layers: Mapping[str, Mapping[str, Any]], classes: Sequence[str], *, provenance: str
) -> HTML:
    """Three class means in the plane that they span, with an ellipse around each.

    Every plane is turned so that the first class is on top and the last one on the right.

    Args:
        layers: title → a row of `recorded_means.measure`.
        classes: the three.
        provenance: for the small print.
    """
    figure, axes = plt.subplots(1, len(layers), figsize=(7.15, 2.5), sharex=True, sharey=True)
    for ax, (title, layer) in zip(axes, layers.items(), strict=True):
        at, spreads = np.array(layer["means"]), np.array(layer["covariances"])
        unit = np.sqrt(np.trace(spreads, axis1=1, axis2=2).mean() / 2)
        turn = np.diag(np.where([at[2, 0] > at[:2, 0].mean(), at[0, 1] > at[1, 1]], 1, -1)) / unit
        for k, color in enumerate(THREE_COLORS):
            _ellipse(ax, turn @ at[k], turn @ spreads[k] @ turn.T, color=color)
            ax.plot(*turn @ at[k], "o", color=color, markersize=5, label=classes[k])
        ax.set(title=title, aspect="equal", xlim=(-6, 6), ylim=(-5, 5))
        ax.set(xticks=(-5, 0, 5), yticks=(-5, 0, 5))
    axes[0].set_ylabel("standard deviations")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return style.show(
        figure,
        caption="Early, the means of the three classes lie within each other's spread; late, they "
        "lie outside. Points: class means, in the plane through them. Ellipses: one standard "
        "deviation of the class's samples in this plane.",
        alt="Panels from early to late with three points and an ellipse around each: at first the "
        "ellipses cover each other, at the end they lie apart.",
        provenance=provenance,
        vector=True,
    )


def whitening() -> HTML:
    """Which mean is nearest: by distance, and by distance in units of the spread."""
    means, spread = np.array([[0.0, 0.0], [2.4, 1.5]]), np.array([[2.2, 0.95], [0.95, 0.6]])
    values, axes_of = np.linalg.eigh(spread)
    white = axes_of @ np.diag(values**-0.5) @ axes_of.T
    sample = np.array([1.9, 0.35])
    figure, axes = plt.subplots(1, 2, figsize=(7.15, 3.7))
    panels = (
        (axes[0], np.eye(2), "distance (2.3)"),
        (axes[1], white, "in units of the spread (2.7)"),
    )
    for ax, change, title in panels:
        at, x = means @ change.T, change @ sample
        lengths = np.linalg.norm(at - x, axis=1)
        for k, color in enumerate((RED, BLUE)):
            _ellipse(ax, at[k], change @ spread @ change.T, color=color)
            nearest = k == lengths.argmin()
            look = {"color": color, "linestyle": "-" if nearest else ":", "linewidth": 2}
            ax.plot(*np.stack([at[k], x]).T, **look)
            ax.plot(*at[k], "o", color=color, markersize=9)
            ax.annotate(
                f"$M_{k + 1}$", at[k], (-6, 10), textcoords="offset points", ha="right", color=color
            )
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
            middle = 0.5 * at[k] + 0.5 * x
            ax.text(*middle, f"{lengths[k]:.1f}", ha="center", va="center", fontsize=9, bbox=box)
        ax.plot(*x, "*", color="black", markersize=13)
        ax.annotate("$x$", x, (8, 3), textcoords="offset points")
        ax.set_title(f"{title}: $M_{lengths.argmin() + 1}$ is nearer")
        wide = np.linalg.norm(change @ spread @ change.T, 2) ** 0.5
        middle, reach = at.mean(0), np.abs(at - at.mean(0)).max() + 1.04 * wide
        ax.set(xlim=middle[0] + [-reach, reach], ylim=middle[1] + [-reach, reach], aspect="equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return style.show(
        figure,
        caption="In units of the spread another mean can be the nearest. Left: two classes with "
        "the same elongated spread (ellipse: one standard deviation). Right: whitened, the spread "
        "is a circle, and a distance counts standard deviations.",
        alt="Two panels with two class means, an ellipse around each, and a sample: on the left it "
        "is nearer to one mean; on the right, where the ellipses are circles, to the other.",
        vector=True,
    )


# --- parts


def _grid(
    table: pd.DataFrame, colors: Sequence[str], *, high: float, pictures: Sequence[np.ndarray] = ()
) -> plt.Figure:
    """Rows are classes, each with its colour, and columns layers; ``high`` inches a row."""
    values = table.to_numpy()
    cells = _tinted(values / values.max(), colors[: len(table)])
    rows, wide = table.shape
    figure, (ax, key) = plt.subplots(
        2, 1, figsize=(7.15, high * rows + 1.25), height_ratios=(high * rows, 0.16)
    )
    ax.imshow(cells, aspect="auto", interpolation="nearest")
    centred = {"ha": "center", "va": "center", "fontsize": 9}
    for (row, column), value in np.ndenumerate(values):
        dark = np.dot(cells[row, column], (0.299, 0.587, 0.114)) < 0.5
        ax.text(column, row, f"{value:.2f}", color="white" if dark else "black", **centred)
    tilted = {"rotation": 30, "ha": "right"} if wide > 12 else {}
    ax.set_xticks(range(wide), [name.replace(" ", "\n") for name in table.columns], **tilted)
    ax.set_yticks(range(rows), table.index, fontsize=11 if rows < 5 else 10)
    for row, picture in enumerate(pictures):
        inset = ax.inset_axes((-0.24, 1 - (row + 0.95) / rows, 0.13, 0.9 / rows))
        inset.imshow(picture, interpolation="bicubic")
        inset.axis("off")
    levels = np.tile(np.linspace(0, 1, 200), (len(table), 1))
    ends = (0, values.max(), 0, 1)
    key.imshow(_tinted(levels, colors[: len(table)]), aspect="auto", extent=ends)
    ax.set_xlabel("layer: the stem, the residual block of that number, the classifier")
    key.set(yticks=[], xlabel=_MEASURE)
    key.set_xticks([0, *np.arange(0.2, values.max(), 0.2), values.max()])
    key.xaxis.set_major_formatter("{x:.2f}")
    for each in (ax, key):
        each.grid(False)
        each.tick_params(length=0)
        each.spines[:].set_visible(False)
    return figure


def _tinted(shares: np.ndarray, colors: Sequence[str]) -> np.ndarray:
    """``(rows, columns)`` in [0, 1] → RGB: white at 0, the row's colour at 1."""
    full = np.array([plt.matplotlib.colors.to_rgb(color) for color in colors])
    return 1 - shares[..., None] * (1 - full[:, None, :])


def _ellipse(ax: Axes, at: np.ndarray, spread: np.ndarray, *, color: str) -> None:
    """One standard deviation around a mean."""
    values, axes_of = np.linalg.eigh(spread)
    angle = np.degrees(np.arctan2(axes_of[1, 1], axes_of[0, 1]))
    wide, high = 2 * np.sqrt(values[::-1])
    for filled in (True, False):
        look = {"facecolor": color, "alpha": 0.15} if filled else {"fill": False, "ec": color}
        ax.add_patch(Ellipse(at, wide, high, angle=angle, **look))
    ax.update_datalim([at - wide / 2, at + wide / 2])


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
