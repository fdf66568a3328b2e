"""Pictures of chapter 4: one street scene on its way through the exits."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes
from torch import Tensor

from eenotes_book import slider, style
from eenotes_book.ch04_cbt.one_image import Step
from eenotes_book.scene_pictures import class_legend, label_map, scene_panels
from eenotes_book.style import GREY


def first_and_last(
    picture: np.ndarray, look: Mapping[str, Tensor], *, classes: Sequence[str], provenance: str = ""
) -> HTML:
    """A scene, the maps of the first and the last exit, and the first one's confidence.

    Args:
        picture: ``(H, W, 3)`` in [0, 1].
        look: from `one_image.first_look`.
        classes: of the data set.
        provenance: of the numbers.
    """
    panels = {
        "image": picture,
        "exit 1 says": label_map(look["first"], classes),
        "how sure it is": look["sure"].numpy(),
        "the last exit says": label_map(look["last"], classes),
    }
    differ, sure = look["differ"], look["sure"]
    return style.show(
        scene_panels(panels, classes=classes, bar="largest softmax value"),
        caption=f"The last exit changes only {differ.float().mean():.0%} of the first one's "
        f"answers, and the first exit is less sure there: {sure[differ].mean():.2f} on average, "
        f"against {sure[~differ].mean():.2f} where they agree. One test image.",
        alt="Four panels: a street scene, the first exit's class map, a map of its confidence that "
        "is dark along borders and on small things, and the last exit's class map.",
        provenance=provenance,
    )


def threshold_slider(
    rows: Sequence[slider.Row], picture: np.ndarray, *, start: float, images: int, provenance: str
) -> slider.Slider:
    """A slider over one threshold for all places.

    Args:
        rows: from `one_image.slider_rows`.
        picture: ``(H, W, 3)`` in [0, 1], the scene that the slider shows.
        start: the threshold that it shows first.
        images: test images behind the numbers.
        provenance: of the numbers.
    """
    first, last = rows[0], rows[-1]
    return slider.slider(
        rows,
        names=[f"exit {j + 1}" for j in range(len(first.left))],
        samples=slider.scene(picture, first.exits.shape),
        start=start,
        score="mean IoU",
        caption=f"From mean IoU {first.score:.3f} at cost {first.relative_cost:.2f}, where every "
        f"place stops at exit 1, to {last.score:.3f} at {last.relative_cost:.2f}, where none stops "
        f"early. Numbers and bars: {images} test images; map: one image. {provenance}",
    )


def exit_maps(
    picture: np.ndarray,
    truth: np.ndarray,
    methods: Mapping[str, Sequence[Step]],
    *,
    classes: Sequence[str],
    provenance: str = "",
) -> HTML:
    """One image on its way: per rule a row of maps and a row of masks, one column per exit.

    Args:
        picture: ``(H, W, 3)``.
        truth: ``(H, W)`` labels.
        methods: name of a rule → its steps, from `one_image.on_one_image`.
        classes: of the data set.
        provenance: of the numbers.
    """
    exits = len(next(iter(methods.values())))
    height = 2.25 * truth.shape[0] / truth.shape[1] + 0.28
    size = (2.25 * (exits + 1), 2 * len(methods) * height + 0.6)
    figure, axes = plt.subplots(2 * len(methods), exits + 1, figsize=size)
    for ax in axes.flat:
        ax.axis("off")
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("image", fontsize=9)
    axes[1, 0].imshow(label_map(truth, classes))
    axes[1, 0].set_title("truth", fontsize=9)
    for m, (name, steps) in enumerate(methods.items()):
        for j, (labels, active) in enumerate(steps):
            title = f"{name}: exit {j + 1}" if j == 0 else f"exit {j + 1}"
            axes[2 * m, j + 1].imshow(label_map(labels, classes), interpolation="nearest")
            axes[2 * m, j + 1].set_title(title, fontsize=9)
            _still_computed(axes[2 * m + 1, j + 1], picture, active)
    class_legend(figure, classes)
    still = ", ".join(f"{name} {np.mean(steps[-1][1]):.0%}" for name, steps in methods.items())
    return style.show(
        figure,
        caption=f"Places still computed at the last exit: {still}. Above: the map known after each "
        "exit; below, in the picture: the places that the exit still tests; under white: finished.",
        alt="Rows of class maps, and of the scene under a white veil where it is finished, for two "
        "rules over four exits; the veil grows from left to right, faster in the lower rows.",
        provenance=provenance,
    )


def tokens_left(
    picture: np.ndarray,
    steps: Sequence[np.ndarray],
    *,
    rule: str,
    speed: Mapping[str, float],
    provenance: str = "",
) -> HTML:
    """An image under a white veil where tokens are finished, one panel per stage of layers.

    Args:
        picture: ``(H, W, 3)`` in [0, 1].
        steps: for each stage ``(h, w)`` bool: not finished yet.
        rule: its name.
        speed: with that rule, from `clock.speed`.
        provenance: of the numbers.
    """
    height, width = picture.shape[:2]
    size = (3.4 * len(steps), 3.4 * height / width + 0.5)
    figure, axes = plt.subplots(1, len(steps), figsize=size, squeeze=False)
    for j, (ax, active) in enumerate(zip(axes[0], steps, strict=True)):
        _veiled(ax, picture, active)
        ax.set_title(f"stage {j + 1}: {np.mean(active):.0%} not finished", fontsize=10)
        ax.axis("off")
    return style.show(
        figure,
        caption=f"With {rule} the transformer is {speed['speed_up']:.2f} times as fast as its "
        f"plain backbone ({speed['macs']:.2f} in MACs). White: finished tokens, of which five per "
        "class stay as context.",
        alt="The street scene three times, more and more of it under a white veil over the "
        "finished tokens.",
        provenance=provenance,
    )


def _still_computed(ax: Axes, picture: np.ndarray, active: np.ndarray) -> None:
    _veiled(ax, picture, active)
    ax.set_title(f"computed: {np.mean(active):.0%}", fontsize=9)
    frame = {"fill": False, "color": GREY, "linewidth": 1}
    ax.add_patch(plt.Rectangle((0, 0), 1, 1, transform=ax.transAxes, **frame))


def _veiled(ax: Axes, picture: np.ndarray, active: np.ndarray) -> None:
    """The picture ``(H, W, 3)``, under a white veil where ``active`` ``(h, w)`` is false."""
    height, width = picture.shape[:2]
    rows = np.arange(height) * active.shape[0] // height
    columns = np.arange(width) * active.shape[1] // width
    shown = active[rows[:, None], columns][..., None]
    veil = 0.85 + 0.15 * np.asarray(picture)
    ax.imshow(np.where(shown, picture, veil), interpolation="nearest")
