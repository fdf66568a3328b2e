"""Chapter 4's experiment and figures on numbers made up for the purpose."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from eenotes import Confidence
from eenotes.methods import cbt_budgets
from eenotes_book import scene_pictures
from eenotes_book.ch04_cbt import claims, clock, experiment, figures
from eenotes_book.data import camvid, drawn_scenes, scenes
from eenotes_book.models.segmentation import SegmentationNetwork


def run(lead=0.0):
    """One threshold gives .4 at cost .4 and .6 at .8; the others a constant lead over that line, at
    cost .5.
    """
    line = [{"budget": c, "cost": c, "miou": c} for c in (0.4, 0.8)]
    other = [{"budget": 0.6, "cost": 0.5, "miou": 0.5 + lead}]
    budgets = {
        "one threshold": line,
        "one per exit": other,
        "CBT": other,
        "one per exit and class": other,
    }
    return {"budgets": budgets, "singles": {"threshold": [0.9], "cost": [0.6], "miou": [0.6]}}


def test_leads_are_taken_at_equal_cost():
    table = experiment.leads([run(0.02), run(0.04)], "CBT")
    assert table.budget.tolist() == [0.6]
    assert table["mean"].tolist() == pytest.approx([0.03])
    assert table.spread.tolist() == pytest.approx([0.01 * 2**0.5])
    assert experiment.leads([run(0.02)], "CBT", "one per exit")["mean"].tolist() == pytest.approx(
        [0.0]
    )


@pytest.mark.parametrize(("cost", "miou"), [(0.4, 1.0), (0.5, 1.5), (0.3, 0.5), (1.0, 3.5)])
def test_between_points_and_beyond_them_the_curve_is_straight(cost, miou):
    curve = pd.DataFrame({"cost": [0.4, 0.6, 0.8], "miou": [1.0, 2.0, 2.75]})
    assert experiment._interpolate(curve, cost) == pytest.approx(miou)


@pytest.mark.parametrize(
    ("lead", "spread", "expected"),
    [
        (0.006, np.nan, True),
        (0.004, np.nan, None),
        (-0.001, np.nan, False),
        (0.004, 0.003, True),
        (0.004, 0.005, None),
    ],
)
def test_a_lead_counts_only_if_it_is_more_than_chance(lead, spread, expected):
    assert claims._ahead(pd.DataFrame({"mean": [lead], "spread": [spread]})) is expected


def test_the_verdict_counts():
    assert "CBT: +3.00 points, ahead at 1 of 1 budgets" in claims.verdict([run(0.03)])


@pytest.mark.parametrize(
    ("sparse", "dense", "expected"),
    [([0.5, 1.5], [1.0, 1.0], 0.45), ([1.5, 1.6], [1.0, 1.0], 0.0), ([0.1, 0.2], [1.0, 1.0], 1.0)],
)
def test_crossing(sparse, dense, expected):
    table = pd.DataFrame({"share": [0.2, 0.7], "sparse": sparse, "dense": dense})
    assert clock.crossing(table) == pytest.approx(expected)


def test_payers_names_the_worst_and_says_when_nobody_gains():
    table = pd.DataFrame({"class": ["road", "bus"], "share": [0.9, 0.1], "CBT": [0.0, -3.0]})
    assert (
        claims.payers(table, "CBT") == "CBT: bus pays most (-3.0 points of its IoU), no class gains"
    )


@pytest.fixture(scope="module")
def bench():
    """An untrained network on a few small scenes."""
    torch.manual_seed(0)
    net = SegmentationNetwork(8, channels=8, blocks=(1, 1)).eval()
    return experiment.Bench(scenes.load("drawn", train=4, val=3, test=3), net, SimpleNamespace(), 0)


def test_a_score_is_that_of_all_pixels_together(bench):
    score = experiment.evaluate(bench, Confidence(1.0), every_exit=True)
    said = torch.cat(
        [
            bench.net.segment(x, Confidence(1.0)).labels((64, 96))
            for x, _ in scenes.batches(bench.data.test)
        ]
    )
    truth = bench.data.test.tensors[1].long()
    keep = truth != scenes.IGNORE
    iou = []
    for k in truth[keep].unique():
        a, b = said[keep] == k, truth[keep] == k
        iou.append(((a & b).sum() / (a | b).sum()).item())
        assert score.iou[k] == pytest.approx(iou[-1], abs=1e-5)
    extra = set(said[keep].unique().tolist()) - set(truth[keep].unique().tolist())
    assert score.miou[-1] == pytest.approx(sum(iou) / (len(iou) + len(extra)), abs=1e-5)
    assert score.cost[-1] == pytest.approx(
        (bench.costs.cumulative[-1] / bench.costs.backbone).item()
    )
    assert score.left == [0, 1]


def test_validation_leaves_out_the_ignored_and_counts_match(bench):
    labels = scenes.at_places(bench.data.val.tensors[1], bench.grid)
    assert len(bench.validation.labels) == int((labels != scenes.IGNORE).sum())
    assert int(bench.statistics.counts.sum()) == int(
        (scenes.at_places(bench.data.train.tensors[1], bench.grid) != scenes.IGNORE).sum()
    )
    assert experiment.margin_table(bench)["class"].tolist() == list(drawn_scenes.CLASSES)


def test_budgets_that_cannot_be_kept_are_left_out(bench):
    least = cbt_budgets.cost(bench.validation, torch.full((8,), 0.5))
    assert experiment.affordable(bench, [least - 0.1, least + 0.1]) == [least + 0.1]
    assert experiment.affordable(bench, [0.01]) == [(least + max(1.0, least)) / 2]


def test_a_share_of_each_image_stays_active(bench):
    x = bench.data.test.tensors[0][:2]
    plan = clock.share_plan(bench, x, 0.25)
    assert (plan > 0).flatten(1).float().mean(1).tolist() == pytest.approx([0.25, 0.25])


# --- figures


def test_every_class_has_a_colour_and_the_ignored_are_white():
    for classes in (drawn_scenes.CLASSES, camvid.CLASSES):
        assert len({scene_pictures.COLORS[name] for name in classes}) == len(classes)
    picture = scene_pictures.label_map(np.array([[0, scenes.IGNORE]]), ("sky", "road"))
    np.testing.assert_allclose(picture[0, 1], 1)
    np.testing.assert_allclose(
        picture[0, 0], matplotlib.colors.to_rgb(scene_pictures.COLORS["sky"])
    )


def test_budget_curves_draw_every_method_and_its_lead():
    left, right = figures.budget_curves(experiment.with_leads([run(0.03)])).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(
        experiment.BUDGET_METHODS
    )
    assert [line.get_ydata()[0] for line in right.lines[:3]] == pytest.approx([3.0] * 3)
    plt.close("all")


def test_maps_of_one_image_have_a_panel_per_exit_and_rule(bench):
    maps = experiment.on_one_image(bench, 0, {"all": Confidence(1.0), "none": Confidence(0.0)})
    figure = figures.exit_maps(
        np.zeros((64, 96, 3)), np.zeros((64, 96), int), maps, classes=drawn_scenes.CLASSES
    )
    titles = [ax.get_title() for ax in figure.axes if ax.get_title().startswith("computed")]
    assert titles == ["computed: 100%", "computed: 100%", "computed: 100%", "computed: 0%"]
    plt.close("all")
