"""The threshold slider: its rows and positions, HTML that is complete and safe, and errors."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pages
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eenotes import simulate
from eenotes.costs import Costs
from eenotes.exits import ClassMeanExit
from eenotes.rules import ClassMeanConfidence, Confidence, Entropy
from eenotes.thresholds import evaluate
from eenotes_book import slider
from eenotes_book.slider import Row
from eenotes_book.style import exit_colors

# Three exits, four samples, two classes; exit j is so sure of class 0 (positive) or 1 (negative).
SURE = [[0.9, -0.6, 0.7, -0.8], [0.9, 0.6, 0.7, -0.8], [0.99, 0.95, -0.7, -0.9]]
LABELS = torch.tensor([0, 0, 1, 1])
COSTS = Costs(stages=(40, 40, 20), exits=(5, 5))  # relative, cumulative: .45, .90, 1.10


def table(sure=SURE):
    """``(J, N, 2)`` logits whose softmax is ``sure``."""
    p = torch.tensor(sure, dtype=torch.float64)
    zero = torch.where(p > 0, p, 1 + p)
    return torch.stack([zero.log(), (1 - zero).log()], -1)


def made(**changes):
    numbers = {"threshold": 0.5, "score": 0.8, "relative_cost": 0.4, "left": [0.25, 0.75]} | changes
    return Row(**numbers)


# --- the rows


def test_rows_by_hand():
    low, middle, high = slider.rows(
        table(), LABELS, Confidence(1.0), COSTS, thresholds=[0.95, 0.5, 0.75], shown=[3, 2]
    )
    # .5: all samples exit at exit 1 with 0, 1, 0, 1: two of four right
    assert (low.threshold, low.score, low.left) == (0.5, 0.5, [1.0, 0.0, 0.0])
    # .75: samples 0 and 3 exit at exit 1, the others at the end with 0 and 1: all right
    assert (middle.score, middle.left) == (1.0, [0.5, 0.0, 0.5])
    assert middle.exits.tolist() == [0, 2] and middle.answers.tolist() == [1, 1], "of 3 and 2"
    # .95: no sample exits early
    assert (high.score, high.left) == (1.0, [0.0, 0.0, 1.0])
    found = [row.relative_cost for row in (low, middle, high)]
    assert found == pytest.approx([0.45, (2 * 0.45 + 2 * 1.10) / 4, 1.10])


@st.composite
def logits_and_labels(draw):
    J, N, K = draw(st.integers(2, 5)), draw(st.integers(1, 20)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(J, N, K, generator=generator) * draw(st.sampled_from([0.01, 1.0, 30.0]))
    return logits, torch.randint(K, (N,), generator=generator)


@given(logits_and_labels())
def test_rows_are_what_simulate_says_and_a_higher_threshold_delays(drawn):
    logits, labels = drawn
    costs = Costs(tuple(range(1, len(logits) + 1)), (1,) * (len(logits) - 1))
    found = slider.rows(logits, labels, Confidence(0.7), costs, shown=range(len(labels)))
    for row in found:
        rule = Confidence(row.threshold)
        outcome, numbers = simulate(logits, rule), evaluate(logits, labels, rule, costs)
        assert torch.equal(row.exits, outcome.exit_index)
        assert torch.equal(row.answers, outcome.prediction)
        assert (row.score, row.relative_cost) == (numbers["accuracy"], numbers["relative_cost"])
        assert row.left == numbers["left"]
    assert found[0].left[0] == 1, "at the first position all samples exit at exit 1"
    assert found[-1].left[-1] == 1 or logits[:-1].softmax(2).max() == 1, "at the last none early"
    for lower, higher in zip(found, found[1:], strict=False):
        assert (lower.exits <= higher.exits).all() and lower.threshold < higher.threshold
        # a threshold of 1 closes every exit, and no test is run
        assert lower.relative_cost <= higher.relative_cost + 1e-12 or higher.threshold == 1


@given(st.integers(2, 1000), st.floats(1e-4, 0.3), st.integers(2, 40))
def test_positions_follow_the_data_even_just_above_one_over_k(K, width, count):
    generator = torch.Generator().manual_seed(K)
    random = torch.rand(3, 50, generator=generator, dtype=torch.float64)
    seen = 1 / K + (1 - 1 / K) * width * random
    found = slider.positions(seen, count=count)
    assert 2 <= len(found) <= count and found == sorted(set(found))
    assert 0 <= found[0] < seen[0].min() and seen.max() <= found[-1] <= 1
    assert found[-1] - found[0] <= 1.1 * (seen.max() - seen.min()) + 2e-4, "no dead way at the ends"


def test_positions_move_equally_many_samples():
    # most of it above .9, half above .99
    crowded = 1 - torch.logspace(-1, -3, 1000, dtype=torch.float64)[None]
    between = slider.positions(crowded, count=11)[1:-1]
    shares = [(crowded > t).double().mean().item() for t in between]
    assert shares == pytest.approx([k / 10 for k in range(9, 0, -1)], abs=0.02)


def test_the_rule_s_own_threshold_is_a_position():
    for thresholds, is_one in ((0.6543, True), ([0.6543, 0.7], False)):
        found = slider.rows(table(), LABELS, Confidence(thresholds), COSTS)
        assert (0.6543 in [row.threshold for row in found]) is is_one


def test_e2cm_s_normalised_confidence_moves_through_its_narrow_band():
    """Ten class means on the axes, distances divided by their average: all confidences lie just
    above 1/10.
    """
    noise = torch.randn(60, 10, generator=torch.Generator().manual_seed(0)) * 0.3
    x = noise + torch.eye(10).repeat(6, 1)
    mu = torch.cdist(x, torch.eye(10)).mean(0)
    logits, labels = torch.stack([ClassMeanExit(torch.eye(10))(x), 9 * x]), torch.arange(60) % 10
    rule = ClassMeanConfidence(1.0, (mu,))
    found = slider.rows(logits, labels, rule, Costs((1, 1), (0,)))
    assert 0.1 <= found[0].threshold < found[-1].threshold < 0.2
    assert len({tuple(row.left) for row in found}) > 10, "and yet most steps move a sample"
    one = found[len(found) // 2]
    prediction = simulate(logits, replace(rule, thresholds=one.threshold)).prediction
    assert one.score == (prediction == labels).double().mean()


# --- the HTML


class Tree(HTMLParser):
    """Tags with attributes, and text outside of scripts and styles; unclosed tags raise."""

    VOID = {"img", "input", "br"}

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(source)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def small(**changes):
    numbers = {"thresholds": [0.5, 0.75, 0.95], "shown": [0, 1]}
    options = {"names": ["first", "second", "last"], "caption": "What it shows."} | changes
    found = options.pop("rows", None)
    found = found or slider.rows(table(), LABELS, Confidence(1.0), COSTS, **numbers)
    return slider.slider(found, **options)


def drawings(first="cat", second="dog"):
    return slider.pictures([np.eye(2), np.ones((2, 2))], [0, 0], [first, second])


def test_the_page_has_a_native_slider_that_says_where_it_is():
    page = Tree(small().html)
    (control,) = page.all("input")
    wanted = {"type": "range", "min": "0", "max": "2", "step": "1"}
    wanted |= {"value": "1", "aria-valuetext": "0.75"}  # the middle of the costs
    assert wanted.items() <= control.items()
    assert "label" in dict(page.tags) and len(page.all("output")) == 1
    assert "accuracy 1.000, relative cost 0.775" in page.text
    for start, value in [(0.0, "0"), (0.74, "1"), (1.0, "2")]:
        assert Tree(small(start=start).html).all("input")[0]["value"] == value, "the nearest"


def test_every_position_is_in_the_table_and_in_the_page():
    made = small()
    page = Tree(made.html)
    lines = re.findall(r"<tr>(.*?)</tr>", made.html)[1:]
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in lines]
    assert cells == [
        ["0.50", "0.500", "0.450", "100.0%", "0.0%", "0.0%"],
        ["0.75", "1.000", "0.775", "50.0%", "0.0%", "50.0%"],
        ["0.95", "1.000", "1.100", "0.0%", "0.0%", "100.0%"],
    ]
    positions = page.all("template")
    assert [p["data-value"] for p in positions] == [line[0] for line in cells]
    said = [f"accuracy {line[1]}, relative cost {line[2]}" for line in cells]
    assert [p["data-said"] for p in positions] == said
    found = [Row(t, 0.8, 0.4, [0.25, 0.75]) for t in (0.12345, 0.12346, 0.5)]
    page = Tree(small(rows=found, names=["a", "b"]).html)
    told_apart = ["0.12345", "0.12346", "0.50000"]
    assert [position["data-value"] for position in page.all("template")] == told_apart


def test_the_page_works_without_scripts_and_without_a_network():
    source = small(samples=drawings()).html
    page = Tree(source)
    assert "open" in page.all("details")[0], "the table is open until a script folds it"
    (control,) = [attrs for attrs in page.all("div") if attrs.get("class") == "control"]
    assert "hidden" in control and page.all("noscript")
    addresses = [attrs[key] for _, attrs in page.tags for key in ("src", "href") if key in attrs]
    addresses += re.findall(r"url\('?([^')]*)", source)
    assert addresses and all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"https?://|@import", source)


EVIL = "<script>alert(\"1\")</script> & 'x'"


@pytest.mark.parametrize(
    "samples", [slider.tokens([EVIL, "line\nbreak"], [0, 0], lead=EVIL), drawings(EVIL)]
)
def test_nothing_from_outside_becomes_markup(samples):
    options = {"names": [EVIL, "b", "c"], "samples": samples, "caption": EVIL, "score": EVIL}
    page = Tree(small(**options, cost=EVIL).html)
    assert len(page.all("script")) == 1 and EVIL in page.text
    said = [attrs["data-said"] for attrs in page.all("template")]
    assert any(EVIL in text for text in said), "quotes do not end an attribute"
    live = Tree(small(**options)._live(0))
    assert not live.all("script") and EVIL in live.text


def test_pictures_say_where_they_exit_and_whether_they_are_right():
    cells = Tree(small(samples=drawings()).state(1)).all("span")
    assert [attrs["aria-label"] for attrs in cells if attrs.get("class") == "cell"] == [
        "class cat: leaves at first, answer cat, right",
        "class cat: leaves at last, answer cat, right",
    ]
    first = Tree(small(samples=drawings()).state(0)).text
    assert "cat ✓" in first and "dog ✗" in first, "not by colour alone"


def test_tokens_carry_number_and_verdict():
    page = Tree(small(samples=slider.tokens(["un", "til"], [0, 1], lead="not ")).state(1))
    assert re.sub(r"\s+", " ", page.text).endswith("not un1 right til3 wrong ")
    assert sum("right" in attrs.get("class", "").split() for attrs in page.all("span")) == 1


def test_a_scene_s_map_has_one_pixel_per_place_in_the_exit_s_colour():
    places = torch.tensor([[0, 1, 1], [1, 0, 0]])
    found = [made(threshold=t, exits=places) for t in (0.1, 0.2)]
    scene = slider.scene(np.zeros((4, 6, 3)), (2, 3))
    drawn = slider.slider(found, names=["a", "b"], caption="c", samples=scene).state(0)
    (image,) = Tree(drawn).all("img")
    assert image["alt"] == "Map of where the places of the image leave: 50% at a, 50% at b."
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    colors = np.array([matplotlib.colors.to_rgb(ground) for ground, _ in exit_colors(2)])
    np.testing.assert_allclose(pixels[..., :3], colors[places.numpy()], atol=1 / 255)


# --- live and static


def test_a_front_end_with_widgets_gets_the_live_one_any_other_the_page_s(monkeypatch):
    bundle = small()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", slider._VIEW}
    assert bundle["text/html"].startswith('<figure class="eenotes-slider">')
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    assert set(small()._repr_mimebundle_()) == {"text/plain", slider._VIEW}


def test_the_live_slider_shows_the_same_rows_by_the_same_drawing():
    made = small(samples=slider.tokens(["a", "b"], [0, 0]))
    control, shown = made.live().children
    assert [label for label, _ in control.options] == ["0.50", "0.75", "0.95"]
    assert control.value == made.first
    for i in range(3):
        control.value = i
        state, said = made.state(i), made._numbers(made.rows[i])
        assert state in shown.value and said in shown.value
        position = f'<template data-value="{control.label}" data-said="{said}">{state}</template>'
        assert position in made.html


def test_the_page_keeps_the_slider_and_drops_what_needs_a_kernel():
    def output(**data):
        return {"output_type": "display_data", "data": data}

    text = {"output_type": "stream", "name": "stdout", "text": "x"}
    live = output(**{"text/html": "<p>", slider._VIEW: {"model_id": "1"}})
    dead = output(**{"text/plain": "Bar()", slider._VIEW: {"model_id": "2"}})
    cells = [{"cell_type": "code", "outputs": [live, dead, text]}, {"cell_type": "markdown"}]
    page = pages.without_live_widgets({"metadata": {"widgets": {}}, "cells": cells})
    assert page["cells"][0]["outputs"] == [output(**{"text/html": "<p>"}), text]
    assert "widgets" not in page["metadata"]


# --- bad input


ONE = slider.tokens(["a"], [0])


def exits_at(exit_index, **changes):
    return made(threshold=0.1, exits=torch.tensor([exit_index]), **changes)


@pytest.mark.parametrize(
    "change, what",
    [
        ({"caption": " "}, "caption"),
        ({"rows": [made()]}, "at least two"),
        ({"rows": [made(), made()]}, "rising"),
        ({"rows": [made(threshold=0.1), made(left=[1.0])]}, "2 shares"),
        ({"rows": [made(threshold=0.1), made(left=[0.5, 0.6])]}, "add up to 1"),
        ({"rows": [made(threshold=0.1), made(score=float("nan"))]}, "finite"),
        ({"rows": [made(threshold=0.1), made()], "samples": ONE}, "exits, got None"),
        ({"rows": [exits_at(2, answers=torch.tensor([0])), made()], "samples": ONE}, "from 0 to 1"),
        ({"rows": [exits_at(1), made()], "samples": ONE}, "1 answers"),
    ],
)
def test_a_slider_that_cannot_be(change, what):
    with pytest.raises(ValueError, match=what):
        small(**{"names": ["a", "b"]} | change)


@pytest.mark.parametrize(
    "change, what",
    [
        ({"labels": LABELS[:3]}, "4 samples and labels for 3"),
        ({"shown": [0, 4]}, r"samples \[4\]"),
        ({"logits": table()[:1]}, "single exit"),
        ({"thresholds": [0.5, 1.5]}, r"in \[0, 1"),
    ],
)
def test_rows_that_cannot_be(change, what):
    options = {"logits": table(), "labels": LABELS} | change
    logits, labels = options.pop("logits"), options.pop("labels")
    with pytest.raises(ValueError, match=what):
        slider.rows(logits, labels, Confidence(0.5), COSTS, **options)


def test_rows_and_positions_of_something_else():
    with pytest.raises(TypeError, match="as of Confidence, got Entropy"):
        slider.rows(table(), LABELS, Entropy(0.1), COSTS)
    outside, nan = torch.full((1, 3), 1.5), torch.full((1, 2), float("nan"))
    for wrong in (torch.zeros(0, 5), torch.zeros(2, 0), outside, torch.tensor([0.5]), nan):
        with pytest.raises(ValueError, match=r"\(J-1, N\)"):
            slider.positions(wrong)
    with pytest.raises(ValueError, match="count=1"):
        slider.positions(torch.full((1, 3), 0.5), count=1)


@pytest.mark.parametrize(
    "build, what",
    [
        (lambda: slider.pictures([np.eye(2), np.eye(3)], [0, 0], ["a"]), "one size"),
        (lambda: slider.pictures([np.eye(2)], [0, 1], ["a", "b"]), "a class for each"),
        (lambda: slider.tokens(["a"], [0, 1]), "got 1 and 2"),
        (lambda: slider.scene(np.eye(2), (1, 1)), r"\(H, W, 3\)"),
    ],
)
def test_samples_that_cannot_be(build, what):
    with pytest.raises(ValueError, match=what):
        build()
