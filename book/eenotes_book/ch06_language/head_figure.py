"""A drawing of the exit's head: a column per token, its bias, and the sum that decides."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from eenotes_book import style
from eenotes_book.style import CLASS_COLORS, GREY

_SHOWN = 12  # coordinates of each vector
_CELL = 0.5  # height of a coordinate; a column is 1 wide


def columns(
    tokens: Sequence[str], weight: Tensor, bias: Tensor, r: Tensor, counts: Sequence[int]
) -> HTML:
    """Class means as columns, their biases, and the scores of one feature vector.

    Args:
        tokens: what the columns stand for, at most eight.
        weight: ``(K, D)``, their class means.
        bias: ``(K,)``.
        r: ``(D,)``, the vector of one position.
        counts: how many positions each mean is taken from.
    """
    figure, ax = plt.subplots(figsize=(9.2, 5.0))
    scores = (weight @ r + bias).tolist()
    reach = float(weight[:, :_SHOWN].abs().max().maximum(r[:_SHOWN].abs().max()))
    _column(ax, 0, r, reach, GREY)
    ax.text(0.5, _SHOWN * _CELL + 0.25, "$r$", ha="center", fontsize=13)
    ax.text(1.6, _SHOWN * _CELL / 2, "·", ha="center", va="center", fontsize=26)
    best = int(np.argmax(scores))
    for i, token in enumerate(tokens):
        x, color = 2.2 + 1.35 * i, CLASS_COLORS[i]
        _column(ax, x, weight[i], reach, color)
        ax.text(x + 0.5, _SHOWN * _CELL + 0.72, repr(token), ha="center", fontsize=10,
                color=color, weight="bold")  # fmt: skip
        ax.text(x + 0.5, _SHOWN * _CELL + 0.22, f"{counts[i]:,}", ha="center", fontsize=9)
        for y, value, edge in ((-0.95, float(bias[i]), 1.0), (-2.15, scores[i], 0.0)):
            won = not edge and i == best
            ax.add_patch(plt.Rectangle((x, y), 1, 0.62, facecolor=color, alpha=0.25, linewidth=0))
            ax.add_patch(plt.Rectangle((x, y), 1, 0.62, fill=False, edgecolor="black" if won else
                                       color, linewidth=2.4 if won else 0.8))  # fmt: skip
            ax.text(x + 0.5, y + 0.31, f"{value:.1f}", ha="center", va="center", fontsize=10,
                    weight="bold" if won else "normal")  # fmt: skip
    left = 1.95
    ax.text(left, _SHOWN * _CELL + 0.22, "mean of", ha="right", fontsize=9)
    ax.text(left, -0.64, r"bias $b_v$ ($\eta_v$)", ha="right", va="center", fontsize=10)
    ax.text(left, -1.84, r"$M_v \cdot r + b_v$", ha="right", va="center", fontsize=10)
    right = 2.2 + 1.35 * len(tokens)
    ax.set(xlim=(-0.9, right), ylim=(-2.4, _SHOWN * _CELL + 1.2))
    ax.axis("off")
    return style.show(
        figure,
        caption="A column per token: its class mean (6.15). Below it the bias (6.9), and the score "
        f"of one vector r; the largest is named. {len(tokens)} of the columns, {_SHOWN} of "
        f"{len(r)} coordinates; dark: large, stroke: negative.",
        alt="A grey column r beside coloured columns, one for each of some tokens; under each a "
        "box with its bias and one with its score; the largest score is framed.",
    )


def _column(ax: Axes, x: float, values: Tensor, reach: float, color: str) -> None:
    shade = LinearSegmentedColormap.from_list("", ["white", color])
    for i, value in enumerate(values[:_SHOWN].tolist()):
        y = (_SHOWN - 1 - i) * _CELL
        ax.add_patch(plt.Rectangle((x, y), 1, _CELL, facecolor=shade(0.9 * abs(value) / reach),
                                   edgecolor=color, linewidth=0.8))  # fmt: skip
        if value < 0:
            ax.plot([x + 0.32, x + 0.68], [y + _CELL / 2] * 2, color="black", linewidth=1)
