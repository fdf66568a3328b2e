"""What a threshold slider shows beside its numbers: pictures, the tokens of a text, or a scene.

Each function makes `Samples` for `eenotes_book.slider.slider`.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from eenotes_book.style import exit_colors

Draw = Callable[[Tensor, Tensor | None, Sequence[str]], str]


@dataclass(frozen=True)
class Samples:
    """Samples to look at: made by `pictures`, `tokens` or `scene`."""

    shape: tuple[int, ...]  #: of the exits that `draw` gets
    draw: Draw  #: exits and answers of the samples, names of the exits → HTML
    sheet: str = ""  #: the address of a picture that every position uses


def pictures(images: Sequence, truth: Sequence[int], classes: Sequence[str]) -> Samples:
    """Small pictures, each in the colour of its exit, with the answer below.

    Args:
        images: S pictures of one size, ``(H, W)`` or ``(H, W, 3)`` in [0, 1].
        truth: S classes, from 0.
        classes: their names.

    Raises:
        ValueError: no pictures, different sizes, or not one class for each.
    """
    images = [np.asarray(image, dtype=float) for image in images]
    truth = [int(k) for k in truth]
    if not images or len({image.shape for image in images}) > 1 or len(images) != len(truth):
        raise ValueError(
            "need pictures of one size and a class for each, "
            f"got {[image.shape for image in images]} and {len(truth)}"
        )
    height, width = images[0].shape[:2]

    def cell(i: int, j: int, k: int, names: Sequence[str]) -> str:
        look = exit_colors(len(names))[j]
        right = k == truth[i]
        words = (
            f"class {classes[truth[i]]}: leaves at {names[j]}, "
            f"answer {classes[k]}, {'right' if right else 'wrong'}"
        )
        return (
            f'<span class="cell" role="img" aria-label="{html.escape(words)}" '
            f'style="{css(look)}"><span class="thumb" style="--i:{i}"></span>'
            f"{html.escape(classes[k])} {'✓' if right else '✗'}<small>{j + 1}</small></span>"
        )

    def draw(exits: Tensor, answers: Tensor, names: Sequence[str]) -> str:
        pairs = enumerate(zip(exits.tolist(), answers.tolist(), strict=True))
        cells = "".join(cell(i, j, k, names) for i, (j, k) in pairs)
        size = f"--n:{len(images)};--ratio:{width / height:.3f}"
        return f'<div class="cells" style="{size}">{cells}</div>'

    return Samples((len(images),), draw, _png(np.concatenate(images, axis=1)))


def tokens(words: Sequence[str], truth: Sequence[int], *, lead: str = "") -> Samples:
    """A text: each token has the colour and number of its exit, and a line below if it is right.

    Args:
        words: S tokens in their order.
        truth: S tokens as numbers, to be compared with the answers.
        lead: text before the first of them, which is given and not predicted.

    Raises:
        ValueError: no tokens, or not one number for each.
    """
    words, truth = list(words), [int(v) for v in truth]
    if not words or len(words) != len(truth):
        raise ValueError(f"need tokens and a number for each, got {len(words)} and {len(truth)}")

    def span(word: str, j: int, right: bool, names: Sequence[str]) -> str:
        look = exit_colors(len(names))[j]
        return (
            f'<span class="token{" right" if right else ""}" style="{css(look)}">'
            f"{_text(word)}<sub>{j + 1}</sub>"
            f'<span class="unseen"> {"right" if right else "wrong"} </span></span>'
            + "<br>"
            * word.count("\n")
        )

    def draw(exits: Tensor, answers: Tensor, names: Sequence[str]) -> str:
        columns = zip(words, truth, exits.tolist(), answers.tolist(), strict=True)
        spans = [span(word, j, v == answer, names) for word, v, j, answer in columns]
        return f'<div class="text">{_text(lead)}{"".join(spans)}</div>'

    return Samples((len(words),), draw)


def scene(picture, size: tuple[int, int]) -> Samples:
    """An image beside a map of its places, each in the colour of its exit.

    Args:
        picture: ``(H, W, 3)`` in [0, 1].
        size: (h, w) of the map.

    Raises:
        ValueError: a picture of another shape.
    """
    picture = np.asarray(picture, dtype=float)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"the picture must be (H, W, 3), got {picture.shape}")
    ratio = f"aspect-ratio:{picture.shape[1]}/{picture.shape[0]}"

    def draw(exits: Tensor, answers: Tensor | None, names: Sequence[str]) -> str:
        grounds = [ground for ground, _ in exit_colors(len(names))]
        palette = np.array([plt.matplotlib.colors.to_rgb(ground) for ground in grounds])
        places = exits.cpu().numpy()
        shares = [f"{np.mean(places == j):.0%} at {name}" for j, name in enumerate(names)]
        alt = f"Map of where the places of the image leave: {', '.join(shares)}."
        return (
            '<div class="scene"><span class="sheet" role="img" '
            f'aria-label="The image whose places are shown." style="{ratio}"></span>'
            f'<img src="{_png(palette[places])}" alt="{html.escape(alt)}" style="{ratio}"></div>'
        )

    return Samples(tuple(size), draw, _png(picture))


def css(look: tuple[str, str]) -> str:
    """The style of an exit's colours, ``(ground, text)``."""
    return f"background:{look[0]};color:{look[1]}"


def _text(token: str) -> str:
    return html.escape(token).replace("\n", "⏎")


def _png(pixels: np.ndarray) -> str:
    """Pixels in [0, 1] as the address of a picture."""
    file = io.BytesIO()
    plt.imsave(file, np.clip(pixels, 0, 1), cmap="gray", vmin=0, vmax=1, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
