"""Street scenes as pictures: a colour for every class, maps of labels, panels side by side."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

# One colour for each thing, whatever a data set calls it and wherever it stands in its list of
# classes.
COLORS = {
    "road": "#6E6E6E",
    "sky": "#9AD1F0",
    "building": "#8C510A",
    "vegetation": "#1B7837",
    "tree": "#1B7837",
    "car": "#0072B2",
    "person": "#D55E00",
    "pedestrian": "#D55E00",
    "pole": "#F0E442",
    "bus": "#CC79A7",
    "pavement": "#D9B8A3",
    "sidewalk": "#D9B8A3",
    "sign": "#E69F00",
    "traffic sign": "#E69F00",
    "fence": "#B2ABD2",
    "bicyclist": "#000000",
    "bicycle": "#000000",
    "wall": "#F6E8C3",
    "traffic light": "#67001F",
    "terrain": "#A6D96A",
    "rider": "#C51B7D",
    "truck": "#542788",
    "train": "#01665E",
    "motorcycle": "#4D4D4D",
}


def label_map(labels, classes: Sequence[str], *, ignore: int = 255) -> np.ndarray:
    """Labels ``(H, W)`` as a picture ``(H, W, 3)``; ignored pixels are white."""
    palette = np.array([plt.matplotlib.colors.to_rgb(COLORS[name]) for name in classes])
    labels = np.asarray(labels)
    return np.where(
        (labels == ignore)[..., None], 1.0, palette[np.where(labels == ignore, 0, labels)]
    )


def scene_panels(panels: dict[str, np.ndarray], *, classes: Sequence[str], bar: str = "") -> Figure:
    """Pictures side by side, and a legend of the classes.

    Args:
        panels: title → picture; ``(H, W, 3)`` as it is, ``(H, W)`` as shades with a colour bar.
        classes: names in the legend.
        bar: what the colour bar shows.
    """
    first = np.asarray(next(iter(panels.values())))
    width = 3.0 * len(panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, 3.0 * first.shape[0] / first.shape[1] + 0.6), squeeze=False
    )
    for ax, (title, picture) in zip(axes[0], panels.items(), strict=True):
        shown = ax.imshow(picture, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.axis("off")
        if np.ndim(picture) == 2:
            figure.colorbar(shown, ax=ax, shrink=0.75, label=bar)
    class_legend(figure, classes)
    return figure


def class_legend(figure: Figure, classes: Sequence[str]) -> None:
    """Add a legend of the classes under a figure."""
    patches = [plt.Rectangle((0, 0), 1, 1, color=COLORS[name]) for name in classes]
    figure.legend(
        patches,
        classes,
        loc="outside lower center",
        ncols=min(len(classes), 11),
        fontsize=8,
        handlelength=1,
        columnspacing=1,
    )
