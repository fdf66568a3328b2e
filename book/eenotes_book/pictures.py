"""A figure as a picture of a page: as wide as its text at most, legible, one more for phones."""

import base64
import html
import io
import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.text import Text

PIXELS = 96  # per inch, as browsers count
PAGE = 7.15  # inches: the text of a built page in a window of 1280 pixels
PHONE = 4.2  # inches
NARROW = 600  # pixels: a window up to this gets the picture for phones
SMALLEST = 9  # pixels: the type of a figure as wide as the page
MANY = 6  # panels; more would make a phone's picture endless
DETAIL = 2  # pixels of the picture for one of the page


def wide_and_narrow(
    figure: Figure, *, alt: str, vector: bool = False, narrow: Figure | None = None
) -> str:
    """A figure as HTML: the picture for a page, and for a narrow window one with stacked panels.

    Args:
        figure: the figure; its size and its panels are changed.
        alt: what there is to see.
        vector: as SVG instead of PNG.
        narrow: what a narrow window gets instead of stacked panels.

    Raises:
        ValueError: if a text is smaller than `SMALLEST` where the picture is as wide as the page.
    """
    width, height = figure.get_size_inches()
    if width > PAGE:
        # photographs and maps keep their shape; charts keep their height
        charts = [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]
        rows = {ax.get_subplotspec().rowspan.start for ax in figure.axes if ax.get_subplotspec()}
        smaller = height * PAGE / width + 0.15 * len(rows)
        figure.set_size_inches(PAGE, height if charts else smaller)
    fit_words(figure)
    source, pixels, _ = encoded(figure, vector)
    type_size = smallest_type(figure) * min(1, PAGE * PIXELS / pixels)
    if type_size < SMALLEST:
        raise ValueError(
            f"the smallest text of this figure, {smallest_text(figure)!r}, is {type_size:.1f} "
            f"pixels high on a page; at least {SMALLEST} can be read"
        )
    if narrow is None and stack(figure):
        fit_words(figure)
        narrow = figure
    other = ""
    if narrow is not None:
        address, _, kind = encoded(narrow, vector)
        other = f'<source media="(max-width: {NARROW}px)" srcset="{address}" type="{kind}">'
    return (
        f'<picture>{other}<img src="{source}" alt="{html.escape(alt)}" '
        f'data-type="{type_size:.1f}" '
        f'style="width:{pixels}px;max-width:100%;height:auto;background:white"></picture>'
    )


def encoded(figure: Figure, vector: bool = False) -> tuple[str, int, str]:
    """A figure as the address of a picture that contains it, its width on a page in pixels, and
    what kind of picture it is: a PNG or an SVG.
    """
    made = io.BytesIO()
    tight = {"bbox_inches": "tight", "pad_inches": 0.05}
    if vector:
        figure.savefig(made, format="svg", metadata={"Date": None}, **tight)
        content, kind = made.getvalue(), "image/svg+xml"
        points = float(re.search(rb'width="([0-9.]+)pt"', content)[1])
        width = round(points * PIXELS / 72)
    else:
        figure.savefig(made, format="png", dpi=DETAIL * PIXELS, **tight)
        content, kind = made.getvalue(), "image/png"
        width = round(int.from_bytes(content[16:20], "big") / DETAIL)  # where a PNG says it
    return f"data:{kind};base64,{base64.b64encode(content).decode()}", width, kind


# --- words


def texts(figure: Figure) -> list[Text]:
    """What can be read in a figure."""
    found = figure.findobj(lambda part: isinstance(part, Text) and part.get_visible())
    hidden = [ax for ax in figure.axes if not ax.axison]
    ticks = {
        label
        for ax in hidden
        for axis in (ax.xaxis, ax.yaxis)
        for label in (*axis.get_ticklabels(), axis.label)
    }
    return [text for text in found if text.get_text().strip() and text not in ticks]


def smallest_text(figure: Figure) -> str:
    """The text with the smallest type."""
    return min(texts(figure), key=Text.get_fontsize).get_text()


def smallest_type(figure: Figure) -> float:
    """Height of the smallest type, in pixels of a page; that of the axes if there is no text."""
    points = min(map(Text.get_fontsize, texts(figure)), default=9)
    return points * PIXELS / 72


def fit_words(figure: Figure) -> None:
    """Break titles and axis labels that are longer than their panel into lines."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        box = ax.get_window_extent()
        across = 1.1 * box.width
        for text in (ax.title, ax._left_title, ax.xaxis.label):
            _wrap(text, text.get_window_extent().width, across)
        _wrap(ax.yaxis.label, ax.yaxis.label.get_window_extent().height, 1.1 * box.height)


def _wrap(text: Text, length: float, room: float) -> None:
    """As few lines as fit, of about the same length; mathematics is left alone."""
    words = text.get_text().split()
    if length <= room or len(words) < 2 or "$" in text.get_text():
        return
    lines = int(length // room) + 1
    goal, made = len(" ".join(words)) / lines, [""]
    for word in words:
        full = len(made[-1]) + len(word) / 2 > goal
        if made[-1] and full and len(made) < lines:
            made.append(word)
        else:
            made[-1] = f"{made[-1]} {word}".strip()
    text.set_text("\n".join(made))


# --- phones


def stack(figure: Figure) -> bool:
    """Put the panels of a figure one below the other; whether it has such panels.

    Pictures without axes and grids of many panels stay as they are.
    """
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    grids = {ax.get_subplotspec().get_gridspec() for ax in panels}
    if len(grids) != 1 or not any(ax.axison for ax in panels):
        return False
    (grid,) = grids
    count = grid.nrows * grid.ncols
    if grid.ncols == 1 or count > MANY or any(_spans(ax) for ax in panels):
        return False
    each = max(2.4, figure.get_figheight() / grid.nrows)
    tall = GridSpec(count, 1, figure=figure)
    for ax in panels:
        place = ax.get_subplotspec()
        ax.set_subplotspec(tall[place.rowspan.start * grid.ncols + place.colspan.start])
        _own_labels(ax, panels)
    figure.set_size_inches(PHONE, each * count)
    _legends_below(figure, panels)
    return True


def _spans(ax: Axes) -> bool:
    place = ax.get_subplotspec()
    return len(place.rowspan) > 1 or len(place.colspan) > 1


def _own_labels(ax: Axes, panels: Sequence[Axes]) -> None:
    """What a panel had shared with its neighbour: numbers at its axis, and the axis' name."""
    ax.tick_params(labelleft=True, labelbottom=True)
    if (
        not ax.get_ylabel()
        and panels[0].get_ylabel()
        and ax.get_shared_y_axes().joined(ax, panels[0])
    ):
        ax.set_ylabel(panels[0].get_ylabel())


def _legends_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Legends beside panels, or as wide as several, move below, two entries a line."""
    for legend in list(figure.legends):
        _again(figure, legend)
    for ax in panels:
        legend = ax.get_legend()
        if legend is not None and legend.get_bbox_to_anchor().x1 > ax.bbox.x1 + 1:
            _again(figure, legend)


def _again(figure: Figure, legend: Legend) -> None:
    handles, labels = legend.legend_handles, [text.get_text() for text in legend.get_texts()]
    title, size = legend.get_title().get_text(), legend.get_texts()[0].get_fontsize()
    legend.remove()
    long = max(map(len, labels)) > 22
    look = {"fontsize": size, "ncols": 1 if long else 2, "title": title or None}
    figure.legend(handles, labels, loc="outside lower center", **look)
