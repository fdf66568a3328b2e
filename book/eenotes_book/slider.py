"""A threshold slider: how right, how dear, and who leaves where, while the threshold moves.

Only notebooks import this module.

Every position of a slider is a `Row`, computed beforehand by the package's own inference; moving it
only looks up another row.  The same rows are drawn by the same function in two places: live by
`ipywidgets` where a front end has widgets (Jupyter, Colab), and in any other page by a native
slider whose script needs neither a kernel nor a network.  A notebook's output holds both, and the
front end takes the one that it can show: nothing has to be chosen.

The samples that a slider may show beside its numbers are `pictures`, `tokens` of a text, or the
places of a `scene`.
"""

import base64
import html
import io
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from eenotes.costs import Costs
from eenotes.inference import simulate
from eenotes.rules import Confidence
from eenotes.thresholds import summarise
from eenotes_book.style import exit_colors

_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Row:
    """One position of a slider."""

    threshold: float
    score: float  # in [0, 1]: accuracy, or what else the slider is told to call it
    relative_cost: float
    left: Sequence[float]  # J shares: who leaves at each exit; together 1
    # from 0, of the samples that are shown: (S,), or (h, w) for the places of a scene
    exits: Tensor | None = None
    answers: Tensor | None = None  # (S,), the answers they leave with


@dataclass(frozen=True)
class Samples:
    """Samples to look at: made by `pictures`, `tokens` or `scene`."""

    shape: tuple[int, ...]  # that `Row.exits` must have
    draw: Callable[[Row, Sequence[str]], str]  # row and names of the exits → HTML
    sheet: str = ""  # the address of a picture that every position uses


def positions(confidences: Tensor, *, count: int = 24) -> list[float]:
    """Thresholds worth a position: at the first everybody leaves at exit 1, at the last nobody
    leaves early.

    Between them lie quantiles of the confidences, so that every step moves some samples, whether
    confidences crowd near 1 (a trained softmax) or just above 1/K (E²CM).  All are rounded, to a
    hundredth of their range or finer, but to six digits at most.

    Args:
        confidences: ``(J-1, N)`` in [0, 1], of the early exits.
        count: at most so many.

    Raises:
        ValueError: no early exit, no samples, numbers outside [0, 1], or a count below 2.
    """
    seen = torch.as_tensor(confidences).double().cpu()
    if seen.ndim != 2 or not seen.numel() or not ((seen >= 0) & (seen <= 1)).all():
        raise ValueError(
            f"need confidences (J-1, N) in [0, 1] of at least one early exit and one sample, got {tuple(seen.shape)}"
        )
    if count < 2:
        raise ValueError(f"a slider has at least two positions, got count={count}")
    every = seen.flatten().sort().values
    low, high = seen[0].min().item(), every[-1].item()
    # more, float32 confidences do not have
    digits = min(max(4, 2 - math.floor(math.log10(max(high - low, 1e-6)))), 6)
    # of the rounded numbers the next below every confidence of exit 1
    below = math.ceil(low * 10**digits - 1e-3) - 1
    first, last = max(0.0, below / 10**digits), min(1.0, math.ceil(high * 10**digits) / 10**digits)
    between = every[torch.linspace(0, len(every) - 1, count)[1:-1].long()].tolist()
    return sorted(
        {first, last, *(min(max(round(value, digits), first), last) for value in between)}
    )


def rows(
    logits: Tensor,
    labels: Tensor,
    rule: Confidence,
    costs: Costs,
    *,
    shown: Sequence[int] = (),
    thresholds: Sequence[float] | None = None,
) -> list[Row]:
    """One `Row` per threshold, from cached logits, by `simulate`.

    Args:
        logits: ``(J, N, K)``.
        labels: ``(N,)``.
        rule: its thresholds are replaced by one number for all exits.
        costs: of one sample.
        shown: rows of the samples to look at.
        thresholds: by default the `positions` of these logits, and the rule's own threshold if that
            is one number below 1.

    Raises:
        TypeError: a rule that is not a Confidence rule.
        ValueError: labels that do not fit, a threshold outside [0, 1], or a sample that is not
            there.
    """
    if not isinstance(rule, Confidence):
        raise TypeError(
            f"the slider moves the threshold of a Confidence rule, got {type(rule).__name__}"
        )
    if len(logits) < 2:
        raise ValueError("with a single exit there is no threshold to move")
    if len(labels) != len(logits[0]):
        raise ValueError(
            f"there are logits for {len(logits[0])} samples and labels for {len(labels)}"
        )
    missing = [i for i in shown if not 0 <= i < len(labels)]
    if missing:
        raise ValueError(f"cannot show samples {missing}: there are {len(labels)}, counted from 0")
    if thresholds is None:
        # 1 closes every exit
        own = (
            [rule.thresholds] if isinstance(rule.thresholds, float) and rule.thresholds < 1 else []
        )
        thresholds = [
            *positions(torch.stack([rule.observe(j, z)[1] for j, z in enumerate(logits[:-1])])),
            *own,
        ]
    index, found = torch.as_tensor(list(shown), dtype=torch.int64), []
    for threshold in sorted({float(t) for t in thresholds}):
        outcome = simulate(logits, replace(rule, thresholds=threshold))
        numbers = summarise(outcome, labels, costs)
        exits, answers = outcome.exit_index.cpu()[index], outcome.prediction.cpu()[index]
        found.append(
            Row(
                threshold,
                numbers["accuracy"],
                numbers["relative_cost"],
                numbers["left"],
                exits,
                answers,
            )
        )
    return found


def pictures(images: Sequence, truth: Sequence[int], classes: Sequence[str]) -> Samples:
    """Small pictures, each in the colour of the exit where it leaves, with the answer below.

    Args:
        images: S pictures of one size, ``(H, W)`` or ``(H, W, 3)`` in [0, 1].
        truth: S classes, from 0.
        classes: their names.

    Raises:
        ValueError: no pictures, different sizes, or not one class for each.
    """
    images, truth = [np.asarray(image, dtype=float) for image in images], [int(k) for k in truth]
    if not images or len({image.shape for image in images}) > 1 or len(images) != len(truth):
        raise ValueError(
            f"need pictures of one size and a class for each, got {[image.shape for image in images]} and {len(truth)}"
        )
    height, width = images[0].shape[:2]

    def draw(row: Row, names: Sequence[str]) -> str:
        looks = exit_colors(len(names))
        cells = []
        for i, (j, k) in enumerate(zip(row.exits.tolist(), row.answers.tolist(), strict=True)):
            right = k == truth[i]
            said = f"class {classes[truth[i]]}: leaves at {names[j]}, answer {classes[k]}, {'right' if right else 'wrong'}"
            cells.append(
                f'<span class="cell" role="img" aria-label="{html.escape(said)}" style="{_on(looks[j])}"><span class="thumb" '
                f'style="--i:{i}"></span>{html.escape(classes[k])} {"✓" if right else "✗"}<small>{j + 1}</small></span>'
            )
        size = f"--n:{len(images)};--ratio:{width / height:.3f}"
        return f'<div class="cells" style="{size}">{"".join(cells)}</div>'

    return Samples((len(images),), draw, _png(np.concatenate(images, axis=1)))


def tokens(words: Sequence[str], truth: Sequence[int], *, lead: str = "") -> Samples:
    """A text whose every token has the colour and the number of the exit where its prediction left;
    right ones are underlined.

    Args:
        words: S tokens in their order.
        truth: S tokens as numbers, to be compared with `Row.answers`.
        lead: text before the first of them, which nobody predicts.

    Raises:
        ValueError: no tokens, or not one number for each.
    """
    words, truth = list(words), [int(v) for v in truth]
    if not words or len(words) != len(truth):
        raise ValueError(f"need tokens and a number for each, got {len(words)} and {len(truth)}")

    def draw(row: Row, names: Sequence[str]) -> str:
        looks = exit_colors(len(names))
        spans = [_text(lead)]
        for word, v, j, said in zip(
            words, truth, row.exits.tolist(), row.answers.tolist(), strict=True
        ):
            right, breaks = v == said, "<br>" * word.count("\n")
            spans.append(
                f'<span class="token{" right" if right else ""}" style="{_on(looks[j])}">{_text(word)}<sub>{j + 1}</sub>'
                f'<span class="unseen"> {"right" if right else "wrong"} </span></span>{breaks}'
            )
        return f'<div class="text">{"".join(spans)}</div>'

    return Samples((len(words),), draw)


def scene(picture, size: tuple[int, int]) -> Samples:
    """An image beside a map of its places, each in the colour of the exit where it leaves.

    Args:
        picture: ``(H, W, 3)`` in [0, 1].
        size: (h, w) of the map.

    Raises:
        ValueError: a picture of another shape.
    """
    picture = np.asarray(picture, dtype=float)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"the picture must be (H, W, 3), got {picture.shape}")

    def draw(row: Row, names: Sequence[str]) -> str:
        palette = np.array(
            [plt.matplotlib.colors.to_rgb(ground) for ground, _ in exit_colors(len(names))]
        )
        exits = row.exits.cpu().numpy()
        shares = [f"{np.mean(exits == j):.0%} at {name}" for j, name in enumerate(names)]
        ratio = f"aspect-ratio:{picture.shape[1]}/{picture.shape[0]}"
        alt = f"Map of where the places of the image leave: {', '.join(shares)}."
        return (
            f'<div class="scene"><span class="sheet" role="img" aria-label="The image whose places are shown." style="{ratio}"></span>'
            f'<img src="{_png(palette[exits])}" alt="{html.escape(alt)}" style="{ratio}"></div>'
        )

    return Samples(tuple(size), draw, _png(picture))


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
    if len(rows) < 2 or any(
        a.threshold >= b.threshold for a, b in zip(rows, rows[1:], strict=False)
    ):
        raise ValueError(
            f"need at least two rows with rising thresholds, got {[row.threshold for row in rows]}"
        )
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
    if (
        len(row.left) != len(names)
        or not all(math.isfinite(x) and x >= 0 for x in numbers)
        or abs(sum(row.left) - 1) > 1e-4
    ):
        raise ValueError(
            f"a row needs finite numbers and {len(names)} shares that add up to 1, one per name, got {row}"
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
            f"exits are counted from 0 to {len(names) - 1}, got {row.exits.min()} to {row.exits.max()}"
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
        return f"Slider: {len(self.rows)} thresholds from {self._value(self.rows[0])} to {self._value(self.rows[-1])}"

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
        body = f'<p class="output">{html.escape(self._said(self.rows[i]))}</p><div class="state">{self.state(i)}</div>'
        return f'<div class="eenotes-slider">{self._card(body, open_table=False)}<p>{html.escape(self.caption)}</p></div>'

    @cached_property
    def html(self) -> str:
        """The slider for a page: complete in itself, and without scripts still the starting
        position and the table.
        """
        row = self.rows[self.first]
        control = (
            f'<div class="control" hidden><label>threshold <input type="range" min="0" max="{len(self.rows) - 1}" step="1" '
            f'value="{self.first}" autocomplete="off" aria-valuetext="{self._value(row)}"></label> '
            f'<span class="value" aria-hidden="true">{self._value(row)}</span></div>'
            f"<noscript><p>Shown: threshold {self._value(row)}. Moving it takes JavaScript; the table has every position.</p></noscript>"
        )
        templates = "".join(
            f'<template data-value="{self._value(row)}" data-said="{html.escape(self._said(row))}">{self.state(i)}</template>'
            for i, row in enumerate(self.rows)
        )
        body = f'{control}<output>{html.escape(self._said(row))}</output><div class="state">{self.state(self.first)}</div>{templates}'
        return (
            f'<figure class="eenotes-slider">{self._card(body, open_table=True)}'
            f"<figcaption>{html.escape(self.caption)}</figcaption><script>{_SCRIPT}</script></figure>"
        )

    def state(self, i: int) -> str:
        """The drawing of position i: a bar per exit, and the samples."""
        row, bars = self.rows[i], []
        for j, (name, share, look) in enumerate(
            zip(self.names, row.left, exit_colors(len(self.names)), strict=True)
        ):
            bars.append(
                f'<span class="name"><b style="{_on(look)}">{j + 1}</b> {html.escape(name)}</span><span class="track">'
                f'<span style="width:{100 * share:.2f}%;background:{look[0]}"></span></span><span class="share">{share:.1%}</span>'
            )
        drawn = self.samples.draw(row, self.names) if self.samples else ""
        return f'<div class="bars">{"".join(bars)}</div>{drawn}'

    def _card(self, body: str, *, open_table: bool) -> str:
        sheet = (
            f" style=\"--sheet:url('{self.samples.sheet}')\""
            if self.samples and self.samples.sheet
            else ""
        )
        opened = " open" if open_table else ""
        table = f'<div class="scroll" tabindex="0" role="region" aria-label="Table of every position">{self._table()}</div>'
        folded = f"<details{opened}><summary>Every position as a table</summary>{table}</details>"
        return f'<style>{_STYLE}</style><div class="card"{sheet}>{body}{folded}</div>'

    def _table(self) -> str:
        heads = ["threshold", self.score, self.cost, *(f"leave at {name}" for name in self.names)]
        lines = [
            [
                self._value(row),
                f"{row.score:.3f}",
                f"{row.relative_cost:.3f}",
                *(f"{share:.1%}" for share in row.left),
            ]
            for row in self.rows
        ]
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
        body = "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in line)}</tr>" for line in lines)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _said(self, row: Row) -> str:
        return f"{self.score} {row.score:.3f}, {self.cost} {row.relative_cost:.3f}"

    def _value(self, row: Row) -> str:
        """The threshold with as many digits as tell all of them apart."""
        digits = next(
            (
                d
                for d in range(2, 12)
                if len({f"{r.threshold:.{d}f}" for r in self.rows}) == len(self.rows)
            ),
            12,
        )
        return f"{row.threshold:.{digits}f}"


def _on(look: tuple[str, str]) -> str:
    return f"background:{look[0]};color:{look[1]}"


def _text(token: str) -> str:
    return html.escape(token).replace("\n", "⏎")


def _png(pixels: np.ndarray) -> str:
    """Pixels in [0, 1] as the address of a picture."""
    file = io.BytesIO()
    plt.imsave(file, np.clip(pixels, 0, 1), cmap="gray", vmin=0, vmax=1, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# Looks up the row that the slider names, and shows it.  Every figure is wired once, by itself;
# without scripts the control stays hidden and the table open.  A page with keys of its own, such as
# slides, does not get those that move the slider.
_SCRIPT = """
for (const figure of document.querySelectorAll("figure.eenotes-slider:not([data-ready])")) {
  const [range, value, output, state, table, control] =
    ["input", ".value", "output", ".state", "details", ".control"].map(part => figure.querySelector(part));
  const rows = figure.querySelectorAll("template");
  range.addEventListener("input", () => {
    const row = rows[range.value];
    range.setAttribute("aria-valuetext", row.dataset.value);
    value.textContent = row.dataset.value;
    output.textContent = row.dataset.said;
    state.replaceChildren(row.content.cloneNode(true));
  });
  range.addEventListener("keydown", event => event.stopPropagation());
  table.open = control.hidden = false;
  figure.dataset.ready = "";
}
"""


# On white in dark mode, too, like every figure of the book.
_STYLE = """
.eenotes-slider { margin: 1em 0; max-width: 46em; }
.eenotes-slider .card { background: #fff; color: #111; color-scheme: light; padding: .8em; border: 1px solid #bbb; border-radius: 4px; }
.eenotes-slider .control:not([hidden]) { display: flex; align-items: center; gap: .6em; }
.eenotes-slider .control label { display: flex; flex: 1; align-items: center; gap: .6em; margin: 0; min-width: 0; }
.eenotes-slider input { flex: 1; min-width: 0; accent-color: #0072B2; }
.eenotes-slider input:focus-visible { outline: 3px solid #0072B2; outline-offset: 3px; }
.eenotes-slider .value { min-width: 4em; text-align: right; font-variant-numeric: tabular-nums; }
.eenotes-slider output, .eenotes-slider .output { display: block; margin: .4em 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.eenotes-slider .bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .15em .6em; align-items: center; }
.eenotes-slider .bars { font-size: .85em; line-height: 1.3; }
.eenotes-slider .name { max-width: 11em; overflow-wrap: anywhere; }
.eenotes-slider .name b { display: inline-block; min-width: 1.6em; text-align: center; border-radius: 2px; }
.eenotes-slider .track { background: #eee; height: 1em; }
.eenotes-slider .track span { display: block; height: 100%; box-shadow: inset 0 0 0 1px #0004; }
.eenotes-slider .share { text-align: right; min-width: 3.6em; font-variant-numeric: tabular-nums; }
.eenotes-slider .cells { display: flex; flex-wrap: wrap; gap: 4px; margin-top: .6em; }
.eenotes-slider .cell { padding: 3px 3px 1px; border-radius: 3px; font-size: .7em; line-height: 1.3; text-align: center; }
.eenotes-slider .cell small { display: block; font-size: 1em; }
.eenotes-slider .thumb { --h: 42px; --w: calc(var(--h) * var(--ratio)); display: block; width: var(--w); height: var(--h); margin: 0 auto; }
.eenotes-slider .thumb { background: var(--sheet) calc(var(--i) * -1 * var(--w)) 0 / calc(var(--n) * var(--w)) var(--h); }
.eenotes-slider .thumb, .eenotes-slider .scene img { image-rendering: pixelated; }
.eenotes-slider .text { margin-top: .6em; font-family: monospace; line-height: 2; overflow-wrap: anywhere; white-space: pre-wrap; }
.eenotes-slider .token { position: relative; padding: 0 1px; border-radius: 2px; }
.eenotes-slider .token.right { text-decoration: underline; text-underline-offset: 3px; }
.eenotes-slider .token sub { font-size: .65em; }
.eenotes-slider .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.eenotes-slider .scene { display: flex; flex-wrap: wrap; gap: 6px; margin-top: .6em; }
.eenotes-slider .scene > * { flex: 1 1 15em; min-width: 0; max-width: 100%; height: auto; }
.eenotes-slider .scene .sheet { background: var(--sheet) 0 0 / 100% 100%; }
.eenotes-slider details { margin: .8em 0 0; padding: 0; border: 0; }
.eenotes-slider summary { cursor: pointer; }
.eenotes-slider .scroll { overflow-x: auto; max-height: 24em; overflow-y: auto; }
.eenotes-slider table { border-collapse: collapse; font-size: .8em; color: #111; background: #fff; font-variant-numeric: tabular-nums; }
.eenotes-slider th, .eenotes-slider td { padding: .15em .6em; text-align: right; border-bottom: 1px solid #ddd; color: #111; }
.eenotes-slider figcaption, .eenotes-slider > p { font-size: .9em; margin-top: .4em; }
"""
