"""Figures: caption and alternative text are not optional, methods keep their looks, and no panel
stays empty.
"""

import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from eenotes_book import style
from eenotes_book.ch02_e2cm import at_costs, at_costs_figures, drawings
from eenotes_book.ch04_cbt import experiment as ch04_cbt_experiment
from eenotes_book.ch05_eeprune import experiment as ch05_eeprune_experiment


def test_show_puts_caption_and_alt_beside_the_picture():
    figure, ax = plt.subplots()
    html = style.show(ax, caption="a < b", alt='the "curve"').data
    assert "a &lt; b" in html and 'alt="the &quot;curve&quot;"' in html
    assert "data:image/png;base64," in html and not plt.fignum_exists(figure.number)


@pytest.mark.parametrize(("caption", "alt"), [("", "x"), ("x", " ")])
def test_show_asks_for_both(caption, alt):
    with pytest.raises(ValueError, match="caption"):
        style.show(plt.figure(), caption=caption, alt=alt)


CHAPTERS = {
    "1": ["confidence", "entropy", "patience"],
    "2": [at_costs.BACKBONE, *at_costs.NAMES.values(), at_costs.POSTERIOR, at_costs.BOTH],
    "3": ["unpruned", "together", "separately", "separately, all exits' loss",
          "separately, exits spared", "channels"],
    "4": [*ch04_cbt_experiment.BUDGET_METHODS, ch04_cbt_experiment.NOBODY],
    "5": [ch05_eeprune_experiment.NONE, *ch05_eeprune_experiment.METHODS,
          ch05_eeprune_experiment.QUOTA, ch05_eeprune_experiment.EASY],
    "6": ["random", "copy", "copy, after the final norm", "class mean", "class mean, scaled",
          "class mean, plug-in N₀", "whitened class mean", "class mean + random",
          "class mean + copy", "tuned lens", "whitened class mean, model's tokens",
          "trained head"],
}  # fmt: skip


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_methods_of_a_chapter_differ_in_colour_and_in_marker(chapter):
    colors, markers = zip(*(style.METHODS[name] for name in CHAPTERS[chapter]), strict=True)
    assert len(set(colors)) == len(set(markers)) == len(CHAPTERS[chapter])


def test_every_method_belongs_to_a_chapter_and_looks_the_same_everywhere():
    looks = style.METHODS
    assert set(looks) == {"early exits"}.union(*CHAPTERS.values())
    assert looks["confidence"] == looks["one per exit"] == looks["early exits"]
    assert looks["E²CM"] == looks["class mean"], "the exits of chapters 2 and 6"
    assert looks[at_costs.WHITENED] == looks["whitened class mean"]
    assert looks["backbone"] == looks["unpruned"]


@pytest.fixture
def drawn(monkeypatch):
    """Chapter 2's figures before they become pictures."""
    monkeypatch.setattr(style, "show", lambda figure, **words: figure)
    yield
    plt.close("all")


@pytest.mark.usefixtures("drawn")
def test_a_class_without_separability_is_white_and_the_most_separable_has_its_full_colour():
    table = pd.DataFrame({"stem": [0.0, 0.2], "classifier": [0.4, 0.8]}, index=["cat", "dog"])
    image = drawings.three_classes(table, provenance="").axes[0].images[0].get_array()
    cat, dog = (matplotlib.colors.to_rgb(color) for color in drawings.THREE_COLORS[:2])
    np.testing.assert_allclose(image[0, 0], [1, 1, 1])
    np.testing.assert_allclose(image[1, 1], dog)
    assert (image[0, 1] < 1).any() and image[0, 1].sum() > np.sum(cat)


@pytest.mark.usefixtures("drawn")
def test_a_comparison_draws_every_method_that_is_recorded():
    rows = [{"budget": c, "relative_cost": c, "accuracy": c, "reach": 0.01} for c in (0.3, 0.6)]
    found = {
        "resnet20": {"backbone": 0.9, "methods": {"E²CM": rows, "SDN": rows}},
        "resnet56": {"backbone": 0.9, "methods": {"E²CM": rows}},
    }
    figure = at_costs_figures.comparison(found, ["E²CM", "SDN", "BranchyNet"], provenance="")
    assert [len(ax.containers) for ax in figure.axes] == [2, 1]


def test_a_drawing_is_an_svg_and_a_chart_a_png_of_double_resolution():
    figure, ax = plt.subplots(figsize=(4, 2))
    ax.plot([0, 1])
    given = {"caption": "A line.", "alt": "a line"}
    drawn, charted = (style.show(ax, vector=vector, **given).data for vector in (True, False))
    kinds = [re.search(r'<img src="data:([a-z/+]+);base64,', html)[1] for html in (drawn, charted)]
    assert kinds == ["image/svg+xml", "image/png"]
    wide = [int(re.search(r"width:(\d+)px", html)[1]) for html in (drawn, charted)]
    assert wide[0] == pytest.approx(wide[1], abs=3)


def test_ink_stands_out_from_the_ground_of_every_exit():
    for count in range(1, 30):
        looks = style.exit_colors(count)
        assert len(looks) == count == len({ground for ground, _ in looks})
        for ground, ink in looks:
            light, dark = sorted(map(luminance, (ground, ink)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def luminance(color):
    """WCAG's relative luminance."""
    rgb = matplotlib.colors.to_rgb(color)
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
