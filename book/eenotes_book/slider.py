"""A threshold slider: accuracy, cost and the exits of the samples, while the threshold moves.

Every position of a slider is a `Row`, computed beforehand by `simulate`.  Moving the slider looks
up another row.  The same rows are drawn by the same function in two places: live by ``ipywidgets``
where a front end has widgets (Jupyter, Colab), and in any other page by a native slider, whose
script (``slider.js``) needs neither a kernel nor a network.  A notebook's output holds both, and
the front end takes the one that it can show.

The samples that a slider may show beside its numbers are `pictures`, `tokens` of a text, or the
places of a `scene`.
"""

import html
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from eenotes_book.slider_rows import Row, positions, rows
from eenotes_book.slider_samples import Samples, css, pictures, scene, tokens
from eenotes_book.style import exit_colors

__all__ = ["Row", "Slider", "pictures", "positions", "rows", "scene", "slider", "tokens"]
_VIEW = "application/vnd.jupyter.widget-view+json"


def slider(
    rows: Sequence[Row],
    *,
    names: Sequence[str],
    caption: str,
    samples: Samples | None = None,
    start: float | None = None,
    score: str = "accuracy",
    cost: str = "relative cost",
) -> "Slider":
    """A slider over precomputed rows, to be the last expression of a cell.

    Args:
        rows: at least two, in the order of their thresholds.
        names: of the J exits.
        caption: the takeaway and the conditions, plain text.
        samples: what to look at; the rows then need `Row.exits` (and `Row.answers`) of the same
            samples.
        start: the position shown first is the one with the nearest threshold; by default the one
            nearest to the middle of all costs.
        score: what `Row.score` is.
        cost: what `Row.relative_cost` is.

    Raises:
        ValueError: what is wrong with the rows, the names, the caption or the samples.
    """
    rows, names = list(rows), list(names)
    if not caption.strip():
        raise ValueError("a slider needs a caption: what it shows, and on what data")
    thresholds = [row.threshold for row in rows]
    if len(rows) < 2 or thresholds != sorted(set(thresholds)):
        raise ValueError(f"need at least two rows with rising thresholds, got {thresholds}")
    for row in rows:
        _check(row, names, samples)
    if start is None:
        middle = (rows[0].relative_cost + rows[-1].relative_cost) / 2
        first = min(range(len(rows)), key=lambda i: abs(rows[i].relative_cost - middle))
    else:
        first = min(range(len(rows)), key=lambda i: abs(rows[i].threshold - start))
    return Slider(rows, names, caption, samples, first, score, cost)


def _check(row: Row, names: list[str], samples: Samples | None) -> None:
    numbers = [row.threshold, row.score, row.relative_cost, *row.left]
    sound = all(math.isfinite(x) and x >= 0 for x in numbers)
    if len(row.left) != len(names) or not sound or abs(sum(row.left) - 1) > 1e-4:
        raise ValueError(
            f"a row needs finite numbers and {len(names)} shares that add up to 1, one per name, "
            f"got {row}"
        )
    if samples is None:
        return
    if row.exits is None or tuple(row.exits.shape) != samples.shape:
        found = None if row.exits is None else tuple(row.exits.shape)
        raise ValueError(
            f"to show samples of shape {samples.shape} every row needs their exits, got {found}"
        )
    if row.exits.min() < 0 or row.exits.max() >= len(names):
        raise ValueError(
            f"exits are counted from 0 to {len(names) - 1}, "
            f"got {row.exits.min()} to {row.exits.max()}"
        )
    if len(samples.shape) == 1 and (row.answers is None or row.answers.shape != row.exits.shape):
        raise ValueError(f"to show samples every row needs their {len(row.exits)} answers")


@dataclass(frozen=True)
class Slider:
    """What `slider` returns: a notebook shows it by itself."""

    rows: list[Row]
    names: list[str]
    caption: str
    samples: Samples | None
    first: int
    score: str
    cost: str

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        """The live slider and the page's; a front end takes the first that it can show.

        Colab gets the live one alone, so that it need not choose.
        """
        # as ipywidgets 7 (Colab's) and 8 write it
        view = {"version_major": 2, "version_minor": 0, "model_id": self.live().model_id}
        bundle = {"text/plain": repr(self), _VIEW: view}
        return bundle if "google.colab" in sys.modules else bundle | {"text/html": self.html}

    def __repr__(self) -> str:
        low, high = self._value(self.rows[0]), self._value(self.rows[-1])
        return f"Slider: {len(self.rows)} thresholds from {low} to {high}"

    def live(self):
        """The slider as a widget, for a running kernel."""
        import ipywidgets

        options = [(self._value(row), i) for i, row in enumerate(self.rows)]
        wide = {"width": "95%", "max_width": "46em"}
        control = ipywidgets.SelectionSlider(
            options=options, value=self.first, description="threshold", layout=wide
        )
        shown = ipywidgets.HTML(self._live(self.first))
        control.observe(lambda change: setattr(shown, "value", self._live(change.new)), "value")
        return ipywidgets.VBox([control, shown])

    def _live(self, i: int) -> str:
        numbers = html.escape(self._numbers(self.rows[i]))
        body = f'<p class="output">{numbers}</p><div class="state">{self.state(i)}</div>'
        card = self._card(body, open_table=False)
        return f'<div class="eenotes-slider">{card}<p>{html.escape(self.caption)}</p></div>'

    @cached_property
    def html(self) -> str:
        """The slider for a page; without scripts, the starting position and the table."""
        row = self.rows[self.first]
        templates = "".join(self._template(i) for i in range(len(self.rows)))
        body = (
            f"{self._control(row)}<output>{html.escape(self._numbers(row))}</output>"
            f'<div class="state">{self.state(self.first)}</div>{templates}'
        )
        return (
            f'<figure class="eenotes-slider">{self._card(body, open_table=True)}'
            f"<figcaption>{html.escape(self.caption)}</figcaption>"
            f"<script>{_asset('slider.js')}</script></figure>"
        )

    def _control(self, row: Row) -> str:
        value, last = self._value(row), len(self.rows) - 1
        return (
            '<div class="control" hidden><label>threshold <input type="range" min="0" '
            f'max="{last}" step="1" value="{self.first}" autocomplete="off" '
            f'aria-valuetext="{value}"></label> '
            f'<span class="value" aria-hidden="true">{value}</span></div>'
            f"<noscript><p>Shown: threshold {value}. Moving it takes JavaScript; "
            "the table has every position.</p></noscript>"
        )

    def _template(self, i: int) -> str:
        row = self.rows[i]
        return (
            f'<template data-value="{self._value(row)}" '
            f'data-said="{html.escape(self._numbers(row))}">{self.state(i)}</template>'
        )

    def state(self, i: int) -> str:
        """The drawing of position i: a bar per exit, and the samples."""
        row, looks = self.rows[i], exit_colors(len(self.names))
        bars = "".join(
            f'<span class="name"><b style="{css(look)}">{j}</b> {html.escape(name)}</span>'
            f'<span class="track"><span style="width:{100 * share:.2f}%;background:{look[0]}">'
            f'</span></span><span class="share">{share:.1%}</span>'
            for j, (name, share, look) in enumerate(
                zip(self.names, row.left, looks, strict=True), 1
            )
        )
        drawn = self.samples.draw(row.exits, row.answers, self.names) if self.samples else ""
        return f'<div class="bars">{bars}</div>{drawn}'

    def _card(self, body: str, *, open_table: bool) -> str:
        sheet = self.samples.sheet if self.samples else ""
        style = f" style=\"--sheet:url('{sheet}')\"" if sheet else ""
        return (
            f'<style>{_asset("slider.css")}</style><div class="card"{style}>{body}'
            f"<details{' open' if open_table else ''}><summary>Every position as a table</summary>"
            '<div class="scroll" tabindex="0" role="region" aria-label="Table of every position">'
            f"{self._table()}</div></details></div>"
        )

    def _table(self) -> str:
        heads = ["threshold", self.score, self.cost, *(f"leave at {name}" for name in self.names)]
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
        body = "".join(f"<tr>{self._line(row)}</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _line(self, row: Row) -> str:
        numbers = [self._value(row), f"{row.score:.3f}", f"{row.relative_cost:.3f}"]
        return "".join(f"<td>{text}</td>" for text in numbers + [f"{x:.1%}" for x in row.left])

    def _numbers(self, row: Row) -> str:
        return f"{self.score} {row.score:.3f}, {self.cost} {row.relative_cost:.3f}"

    def _value(self, row: Row) -> str:
        """The threshold with the fewest digits, from two on, that tell all of them apart."""
        for digits in range(2, 12):
            if len({f"{other.threshold:.{digits}f}" for other in self.rows}) == len(self.rows):
                break
        return f"{row.threshold:.{digits}f}"


@cache
def _asset(name: str) -> str:
    return files("eenotes_book").joinpath(name).read_text(encoding="utf-8")
