"""Chapter 4's experiment, claims and figures on numbers made up for the purpose."""

import json
from importlib.resources import files

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch

from eenotes.rules import Confidence
from eenotes_book import cbt_budgets, records, scene_pictures, settings, style
from eenotes_book.ch04_cbt import (
    claims,
    clock,
    experiment,
    figures,
    figures_of_images,
    one_image,
    tables,
)
from eenotes_book.ch04_cbt.bench import Bench
from eenotes_book.ch04_cbt.leads import leads, mean_leads
from eenotes_book.data import camvid, drawn_scenes, scenes
from eenotes_book.models.segmentation import SegmentationNetwork


def run(lead=0.0, *, at=0.5):
    """A lead over one threshold, whose mean IoU is its cost, at one budget."""
    line = [{"budget": cost, "cost": cost, "miou": cost} for cost in (0.4, 0.8)]
    other = [{"budget": 0.6, "cost": at, "miou": at + lead}]
    methods = experiment.BUDGET_METHODS[1:]
    return {
        "budgets": {"one threshold": line} | dict.fromkeys(methods, other),
        "singles": {"threshold": [0.9], "cost": [0.6], "miou": [0.6]},
    }


@pytest.mark.parametrize("at", [0.3, 0.4, 0.5, 0.6, 1.0])
def test_leads_are_taken_at_equal_cost_between_points_and_beyond_them(at):
    runs = [run(0.02, at=at), run(0.04, at=at)]
    table = leads(runs, "CBT")
    assert table.budget.tolist() == [0.6]
    assert table["mean"].tolist() == pytest.approx([0.03])
    assert table.spread.tolist() == pytest.approx([0.01 * 2**0.5])
    assert mean_leads(runs, "CBT") == pytest.approx([0.02, 0.04])
    assert mean_leads(runs, "CBT", "one per exit") == pytest.approx([0.0, 0.0])


def test_sentences_of_the_chapter():
    assert "CBT: +3.00 points, ahead at 1 of 1 budgets" in claims.verdict([run(0.03)])
    table = pd.DataFrame({"class": ["road", "bus"], "share": [0.9, 0.1], "CBT": [0.0, -3.0]})
    sentence = "CBT: bus pays most (-3.0 points of its IoU), no class gains"
    assert tables.payers(table, "CBT") == sentence


@pytest.mark.parametrize("at", ["reduced", "study"])
def test_claims_are_made_from_the_numbers_of_a_record(at):
    folder = files("eenotes_book").joinpath("records", at)
    kept = json.loads(folder.joinpath("04-cbt.json").read_text(encoding="utf-8"))
    record = records.Record("04-cbt", data=kept["data"], seeds=kept["seeds"], at=at)
    claims.claim_all(record, kept["numbers"])
    verdicts = {row["statement"]: row.get("verdict") for row in record.claims}
    assert len(verdicts) == 14
    # the transformer's last exit is behind its first, so it cannot decide
    closed = [statement for statement in verdicts if "not testable" in str(verdicts[statement])]
    assert len(closed) == 2 and all("tokens" in statement for statement in closed)


@pytest.mark.parametrize(
    ("sparse", "dense", "expected"),
    [([0.5, 1.5], [1.0, 1.0], 0.45), ([1.5, 1.6], [1.0, 1.0], 0.0), ([0.1, 0.2], [1.0, 1.0], 1.0)],
)
def test_crossing(sparse, dense, expected):
    table = pd.DataFrame({"share": [0.2, 0.7], "sparse": sparse, "dense": dense})
    assert clock.crossing(table) == pytest.approx(expected)


@pytest.fixture(scope="module")
def bench():
    """An untrained network on a few small scenes."""
    torch.manual_seed(0)
    net = SegmentationNetwork(8, channels=8, blocks=(1, 1)).eval()
    data = scenes.load("drawn", train=4, val=3, test=3)
    return Bench(data, net, settings.load("04-cbt", "tiny"), 0)


def test_a_score_is_that_of_all_pixels_together(bench):
    score = experiment.evaluate(bench, Confidence(1.0), every_exit=True)
    images, labels = bench.data.test.tensors
    keep = labels != scenes.IGNORE
    predicted = bench.net.segment(images, Confidence(1.0)).labels((64, 96))[keep]
    truth = labels[keep].long()
    iou = []
    for k in range(bench.num_classes):
        hit = ((predicted == k) & (truth == k)).sum().item()
        pixels = (truth == k).sum().item()
        union = pixels + (predicted == k).sum().item() - hit
        iou += [hit / union] if union else []
        assert score.iou[k] == (pytest.approx(hit / union, abs=1e-6) if union else None)
        assert score.recall[k] == (pytest.approx(hit / pixels, abs=1e-6) if pixels else None)
    assert score.miou[-1] == pytest.approx(sum(iou) / len(iou), abs=1e-6)
    whole = bench.costs.cumulative[-1] / bench.costs.backbone
    assert score.cost[-1] == pytest.approx(whole.item())
    assert score.left == [0, 1]


def test_validation_leaves_out_the_ignored_and_counts_match(bench):
    labels = scenes.at_places(bench.data.val.tensors[1], bench.grid)
    assert len(bench.validation.labels) == int((labels != scenes.IGNORE).sum())
    labels = scenes.at_places(bench.data.train.tensors[1], bench.grid)
    assert int(bench.statistics.counts.sum()) == int((labels != scenes.IGNORE).sum())
    assert tables.margin_table(bench)["class"].tolist() == list(drawn_scenes.CLASSES)


def test_budgets_that_cannot_be_kept_are_left_out(bench):
    least = cbt_budgets.cost(bench.validation, torch.full((8,), 0.5))
    assert experiment.affordable(bench, [least - 0.1, least + 0.1]) == [least + 0.1]
    assert experiment.affordable(bench, [0.01]) == [(least + max(1.0, least)) / 2]


def test_a_share_of_each_image_stays_active(bench):
    images = bench.data.test.tensors[0][:2]
    plan = clock.share_plan(bench, images, 0.25)
    assert (plan > 0).flatten(1).float().mean(1).tolist() == pytest.approx([0.25, 0.25])


# --- figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are shown, and their captions: at most 40 words each."""
    shown = []

    def show(figure, *, caption, alt, provenance=""):
        assert len(caption.split()) <= 40 and alt
        shown.append(figure)

    monkeypatch.setattr(style, "show", show)
    yield shown
    mpl.pyplot.close("all")


def test_every_class_has_a_colour_and_the_ignored_are_white():
    for classes in (drawn_scenes.CLASSES, camvid.CLASSES):
        assert len({scene_pictures.COLORS[name] for name in classes}) == len(classes)
    picture = scene_pictures.label_map(np.array([[0, scenes.IGNORE]]), ("sky", "road"))
    np.testing.assert_allclose(picture[0, 1], 1)
    np.testing.assert_allclose(picture[0, 0], mpl.colors.to_rgb(scene_pictures.COLORS["sky"]))


def test_charts(bench, drawn):
    figures.threshold_bars(tables.margin_table(bench), ends=(0.9, 0.998))
    scores = {name: {"miou": [0.4, 0.5], "cost": [0.3, 0.9]} for name in ("single 1", "CBT [0, 1]")}
    singles = pd.DataFrame({"threshold": [0.9], "cost": [0.6], "miou": [0.6]})
    figures.anytime_curves(scores, singles, single="single 1", named="CBT [0, 1]")
    pay = pd.DataFrame({"class": ["road"], "share": [0.9], "CBT [0, 1]": [-3.0]})
    figures.who_pays(pay, reference="single 1")
    times = pd.DataFrame({"share": [0.2, 0.7], "sparse": [0.5, 1.5], "dense": 1.0, "MACs": 0.5})
    speed = {"speed_up": 1.1, "macs": 1.5, "batch": 2}
    figures.skipping_time(times, crossing=0.45, speed=speed)
    figures.budget_curves([run(0.03)])
    left, right = drawn[-1].axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == list(experiment.BUDGET_METHODS)
    assert [line.get_ydata()[0] for line in right.lines[:3]] == pytest.approx([3.0] * 3)
    assert len(drawn) == 5


def test_pictures_of_one_image(bench, drawn):
    picture, classes = np.zeros((64, 96, 3)), drawn_scenes.CLASSES
    figures_of_images.first_and_last(picture, one_image.first_look(bench, 0), classes=classes)
    rules = {"all": Confidence(1.0), "none": Confidence(0.0)}
    maps = one_image.on_one_image(bench, 0, rules)
    active = [step[1] for step in maps["none"]]
    speed = {"speed_up": 1.1, "macs": 1.5}
    figures_of_images.tokens_left(picture, active, rule="CBT", speed=speed)
    figures_of_images.exit_maps(picture, np.zeros((64, 96), int), maps, classes=classes)
    titles = [ax.get_title() for ax in drawn[-1].axes if ax.get_title().startswith("computed")]
    assert titles == ["computed: 100%", "computed: 100%", "computed: 100%", "computed: 0%"]
