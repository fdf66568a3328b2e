"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

import html
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book import pictures

# Okabe and Ito's palette: told apart by colour-blind readers, too.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#6E6E6E",
)  # fmt: skip

# One colour per class of a figure with few classes.
CLASS_COLORS = (RED, GREEN, BLUE, ORANGE, PURPLE, SKY, "#8C6D1F", "#4B0082", GREY, "#111111")


# One colour and one marker per method, the same in every chapter: red for what the thesis proposes,
# grey for what it is measured against, blue for exits trained as usual.
METHODS = {
    # chapters 1 and 2
    "backbone": (GREY, "s"),
    "early exits": (BLUE, "^"),
    "confidence": (BLUE, "^"),
    "entropy": (GREEN, "D"),
    "patience": (ORANGE, "s"),
    "E²CM": (RED, "o"),
    "E²CM, whitened": (PURPLE, "X"),  # chapter 6's whitened class means
    "E²CM, posterior": ("#F2A27E", "v"),
    "SDN": (BLUE, "^"),
    "SDN, one epoch": (SKY, "<"),
    "BranchyNet": (GREEN, "D"),
    "BranchyNet, one epoch": ("#7FBF9F", "d"),
    "E²CM + SDN": ("#8C6D1F", "P"),
    # chapter 3
    "unpruned": (GREY, "s"),
    "together": (BLUE, "^"),
    "separately": (RED, "o"),
    "separately, all exits' loss": (PURPLE, "P"),
    "separately, exits spared": (ORANGE, "v"),
    "channels": (GREEN, "D"),
    # chapter 4
    "nobody stops": ("black", "x"),
    "one threshold": (GREY, "s"),
    "one per exit": (BLUE, "^"),  # chapter 1's confidence rule
    "CBT": (RED, "o"),
    "CBT-ns": (PURPLE, "P"),
    "one per exit and class": (GREEN, "D"),
    # chapter 5
    "no pruning": ("black", "x"),
    "Random": (GREY, "s"),
    "EEPrune": (RED, "o"),
    "EL2N": (BLUE, "^"),
    "Forgetting": (GREEN, "D"),
    "SVP": (ORANGE, "v"),
    "Complexity gap": (PURPLE, "P"),
    "EEPrune-Before": (SKY, "<"),
    "EEPrune-After": ("#8C6D1F", ">"),
    "EEPrune, quota": ("#F2A27E", "p"),
    "EEPrune, reversed": ("#1B3A57", "h"),
    # chapter 6
    "random": (GREY, "s"),
    "copy": (GREEN, "^"),
    "copy, after the final norm": ("#7FBF9F", "."),
    "class mean": (RED, "o"),  # E²CM with a prior
    "class mean, scaled": ("#8A3C00", "v"),
    "class mean, plug-in N₀": ("#F2A27E", "<"),
    "whitened class mean": (PURPLE, "X"),
    "whitened class mean, model's tokens": ("#C79BE0", "p"),
    "trained head": (SKY, "h"),
    "tuned lens": ("black", "*"),
    "class mean + random": (ORANGE, "D"),
    "class mean + copy": (BLUE, "P"),
}


def exit_colors(count: int) -> list[tuple[str, str]]:
    """Ground and ink for each of ``count`` exits, light to dark: black or white, whichever stands
    out more (at least 4.5 : 1).
    """
    shades = plt.get_cmap("cividis")(np.linspace(0.95, 0.05, count))[:, :3]
    linear = np.where(shades <= 0.03928, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    inks = ["#000" if light > 0.179 else "#fff" for light in linear @ (0.2126, 0.7152, 0.0722)]
    return list(zip(map(plt.matplotlib.colors.to_hex, shades), inks, strict=True))


def use_style() -> None:
    """The look of the whole book: on white, so that a figure can be read on a dark page, too."""
    sns.set_theme(context="notebook", style="ticks", font="DejaVu Sans")
    plt.rcParams |= {"figure.dpi": 110, "figure.constrained_layout.use": True}
    plt.rcParams |= {"figure.facecolor": "white", "axes.grid": True, "grid.alpha": 0.3}
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
    plt.rcParams |= {"axes.titlesize": 11, "axes.labelsize": 10, "legend.frameon": False}
    plt.rcParams |= dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9)


LONGEST_CAPTION = 40  # words


def show(
    figure: Figure | Axes,
    *,
    caption: str,
    alt: str,
    provenance: str = "",
    vector: bool = False,
    narrow: Figure | None = None,
) -> HTML:
    """A figure with caption and alternative text, the same in Jupyter, Colab and the built page.

    A figure wider than the page's text is made as wide as that.  On a narrow screen panels stand
    one below the other.

    Args:
        figure: the figure, or any of its axes; it is closed.
        caption: what the figure shows, in plain text of at most 40 words; the first sentence, the
            takeaway, is set in bold.
        alt: what there is to see, for those who do not see it.
        provenance: scale, data, counts, seeds, device; in small print.
        vector: as SVG, for drawings of a few shapes; otherwise as PNG.
        narrow: another figure for narrow screens, in place of panels one below the other.

    Raises:
        ValueError: if caption or alt is empty, the caption is longer, or a text of the figure is
            too small to read (see `pictures.SMALLEST`).
    """
    if not caption.strip() or not alt.strip():
        raise ValueError(
            "a figure needs a caption (what it shows) and an alt text (what it looks like)"
        )
    if len(caption.split()) > LONGEST_CAPTION:
        raise ValueError(
            f"a caption has at most {LONGEST_CAPTION} words, this one has {len(caption.split())}: "
            "conclusions belong to the text, and where the numbers come from to provenance"
        )
    figure = figure.figure if isinstance(figure, Axes) else figure
    picture = pictures.wide_and_narrow(figure, alt=alt, vector=vector, narrow=narrow)
    plt.close(figure)
    plt.close(narrow)
    takeaway, space, rest = re.fullmatch(r"(.+?[.!?])(\s+|$)(.*)|.*", caption, re.S).groups("")
    words = f"<strong>{html.escape(takeaway or caption)}</strong>{space}{html.escape(rest)}"
    small = f'<br><small style="opacity:.8">{html.escape(provenance)}</small>' if provenance else ""
    return HTML(
        f'<figure style="margin:1em 0">{picture}'
        f'<figcaption style="font-size:.9em;max-width:46em">{words}{small}</figcaption></figure>'
    )


def cost_axes(ax: Axes, *, title: str = "") -> Axes:
    """Label an accuracy-against-cost panel the way all of them are labelled."""
    ax.set(
        xlabel="relative cost (MACs; 1 = backbone without exits)",
        ylabel="test accuracy",
        title=title,
        xlim=(0, 1.08),
    )
    return ax


def gallery(
    pictures: Sequence,
    titles: Sequence[str],
    *,
    columns: int,
    heading: str = "",
    colors: Sequence[str] | None = None,
) -> Figure:
    """A grid of small pictures, ``(H, W)`` or ``(H, W, 3)`` in [0, 1], a line of text over each."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.25 * columns, 1.5 * rows + 0.3), squeeze=False
    )
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(pictures):
            ax.imshow(np.asarray(pictures[i]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_title(titles[i], fontsize=8, color=colors[i] if colors else "black")
    if heading:
        figure.suptitle(heading, fontsize=11)
    return figure
