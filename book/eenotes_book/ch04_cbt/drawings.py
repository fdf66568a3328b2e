"""Drawings of chapter 4: what a finished place is, and how class thresholds act on a map."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.axes import Axes

from eenotes_book import style
from eenotes_book.ch04_cbt.bench import Bench
from eenotes_book.models.sparse_convolution import Neighbours
from eenotes_book.style import BLUE, GREY, ORANGE, RED

_ACTIVE = (  # a border between two regions, seen from far away
    "...........",
    "......##...",
    ".....##....",
    "....##.....",
    "...##......",
    "...........",
)


def places() -> HTML:
    """Active places, their halo, and where a filled-in value comes from."""
    active = np.array([[letter == "#" for letter in row] for row in _ACTIVE])
    h, w = active.shape
    numbers = torch.from_numpy(active).flatten().nonzero().squeeze(1)
    halo = np.zeros(h * w, dtype=bool)
    halo[Neighbours(numbers, (1, h, w), 1.0).halo.numpy()] = True
    halo = halo.reshape(h, w)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    reading, filling = (2, 6), (1, 5)  # an active place, and a finished one next to it
    for ax, title in zip(
        axes, ("what an active place reads", "what a finished one shows"), strict=True
    ):
        for y, x in np.ndindex(h, w):
            look = {"facecolor": "#DDDDDD", "edgecolor": "white"}
            if active[y, x]:
                look = {"facecolor": BLUE, "edgecolor": "white"}
            elif halo[y, x]:
                look = {"facecolor": "#F7D9A8", "edgecolor": ORANGE, "hatch": "//"}
            ax.add_patch(plt.Rectangle((x, y), 1, 1, **look))
        ax.set(xlim=(0, w), ylim=(h, 0), aspect="equal", title=title)
        ax.axis("off")
    _window(axes[0], reading)
    _window(axes[1], filling)
    _arrows(axes[1], active, filling)
    colors = (BLUE, "#F7D9A8", "#DDDDDD")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors]
    words = ["active: computed", "halo: finished, and read", "finished, and never read"]
    figure.legend(handles, words, loc="outside lower center", ncols=3)
    return style.show(
        figure,
        caption="An active place also reads finished places, the hatched halo. Left: the 3 × 3 "
        "neighbourhood of one active place. Right: inside a stage, a place of the halo shows an "
        "average of the active places around it.",
        alt="Two copies of a grid of cells with a diagonal band of active cells, a hatched halo "
        "around it, and grey cells further away; a frame around nine cells in each, and arrows "
        "into the middle cell in the right one.",
    )


def _window(ax: Axes, middle: tuple[int, int]) -> None:
    y, x = middle
    frame = {"fill": False, "edgecolor": RED, "linewidth": 2.5}
    ax.add_patch(plt.Rectangle((x - 1, y - 1), 3, 3, **frame))


def _arrows(ax: Axes, active: np.ndarray, middle: tuple[int, int]) -> None:
    """From every active place around a place into it; the nearer, the thicker."""
    y, x = middle
    for dy, dx in np.ndindex(3, 3):
        there = (y + dy - 1, x + dx - 1)
        if active[there]:
            weight = np.exp(-((dy - 1) ** 2 + (dx - 1) ** 2))
            shape = {"arrowstyle": "-|>", "color": RED, "linewidth": 1 + 5 * weight}
            ends = {"xy": (x + 0.5, y + 0.5), "xytext": (there[1] + 0.5, there[0] + 0.5)}
            ax.annotate("", **ends, arrowprops=shape)


def split_and_merge(bench: Bench, index: int, *, alpha: float, beta: float, count: int = 4) -> HTML:
    """One map of the first exit: channels, each with its threshold, and the masks merged.

    Args:
        bench: with a trained network.
        index: of a test image.
        alpha: the easiest class's threshold.
        beta: the hardest class's threshold.
        count: how many classes are drawn, those with most places; all are merged.
    """
    image = bench.data.test[index][0][None].to(next(bench.net.parameters()).device)
    with torch.inference_mode():
        p = bench.net(image)[0][0].softmax(0).cpu()  # (K, h, w)
    T = bench.statistics.thresholds(alpha=alpha, beta=beta)
    masks = p > T[:, None, None]
    shown = torch.bincount(p.argmax(0).flatten(), minlength=len(p)).argsort(descending=True)[:count]
    height = 2 * 2.0 * p.shape[1] / p.shape[2] + 0.9
    figure, axes = plt.subplots(2, count + 1, figsize=(2.1 * (count + 1), height))
    for ax in axes.flat:
        ax.axis("off")
    for column, k in enumerate(shown.tolist()):
        axes[0, column].imshow(
            p[k].numpy(), cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
        )
        axes[0, column].set_title(bench.data.classes[k], fontsize=10)
        axes[1, column].imshow(
            masks[k].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
        )
        axes[1, column].set_title(f"above {T[k]:.3f}", fontsize=9)
    merged = masks.any(0)
    axes[1, -1].imshow(merged.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes[1, -1].set_title(f"any class: {merged.float().mean():.0%}", fontsize=9)
    axes[0, -1].imshow(bench.data.picture(image[0].cpu()).numpy())
    axes[0, -1].set_title("the image", fontsize=10)
    for ax in axes[1]:
        frame = {"fill": False, "color": GREY, "linewidth": 1}
        ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, **frame))
    return style.show(
        figure,
        caption=f"Split the channels of exit 1's softmax, compare each with its class's threshold, "
        f"merge the masks. White places stop. The {count} largest classes of one test image; the "
        "last mask merges all classes.",
        alt="Upper row: one probability map per class. Lower row: a black and white mask under "
        "each, and at the right one mask that is white wherever any of them is.",
        provenance=bench.data.name,
    )
