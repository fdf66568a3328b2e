"""Figures: caption and alternative text are not optional, methods keep their looks, and no panel stays empty."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from eenotes import plots


def test_show_puts_caption_and_alt_beside_the_picture():
    figure, ax = plt.subplots()
    html = plots.show(ax, caption="a < b", alt='the "curve"').data
    assert "a &lt; b" in html and 'alt="the &quot;curve&quot;"' in html and "data:image/png;base64," in html
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize(("caption", "alt"), [("", "x"), ("x", " ")])
def test_show_asks_for_both(caption, alt):
    with pytest.raises(ValueError, match="caption"):
        plots.show(plt.figure(), caption=caption, alt=alt)


def test_methods_differ_in_colour_or_marker():
    assert len(set(plots.METHODS.values())) >= len(plots.METHODS) - 2  # two names for one thing may look alike
    assert len({plots.METHODS[name][0] for name in ("E²CM", "SDN", "BranchyNet", "E²CM + SDN", "backbone")}) == 5


def test_a_class_without_separability_is_white_and_the_most_separable_has_its_full_colour():
    table = pd.DataFrame({"stem": [0.0, 0.2], "classifier": [0.4, 0.8]}, index=["cat", "dog"])
    image = plots.class_mean_grid(table, colors=plots.THREE_COLORS).axes[0].images[0].get_array()
    np.testing.assert_allclose(image[0, 0], [1, 1, 1])
    np.testing.assert_allclose(image[1, 1], matplotlib.colors.to_rgb(plots.THREE_COLORS[1]))
    assert (image[0, 1] < 1).any() and image[0, 1].sum() > np.sum(matplotlib.colors.to_rgb(plots.THREE_COLORS[0]))
    plt.close("all")


def test_comparison_panels_draw_every_method_of_every_data_set():
    curve = pd.DataFrame({"relative_cost": [0.2, 0.8], "accuracy": [0.5, 0.9], "spread": [np.nan, 0.1]})
    figure = plots.comparison_panels({"A": {"E²CM": curve, "SDN": curve}, "B": {"E²CM": curve}}, {"A": 0.9, "B": 0.8})
    assert [len(ax.lines) for ax in figure.axes] == [3, 2]  # the backbone's line too
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == {"E²CM", "SDN", "backbone"}
    plt.close("all")


def test_colored_text_can_be_read_without_colours():
    shown = plots.colored_text(["<a>", " b"], [-1, 1], names=["exit 1", "final head"], right=[False, True], caption="two & more").data
    assert "&lt;a&gt;" in shown and "<a>" not in shown and "two &amp; more" in shown
    assert "<sub" in shown and ">2</sub>" in shown, "the number of the exit stands after the token"
    assert "b: final head, right" in shown, "and the same in words"


@pytest.mark.parametrize("ground", plots.EXIT_GROUNDS)
def test_black_on_every_ground_has_contrast(ground):
    red, green, blue = (int(ground[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert (luminance + 0.05) / 0.05 > 10
