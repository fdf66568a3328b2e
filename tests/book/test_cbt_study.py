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
    drawings,
    experiment,
    figures,
    figures_of_images,
    figures_of_records,
    one_image,
    study,
    tables,
    thesis,
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
    assert (table.high - table.low).tolist() == pytest.approx([2 * 12.7062 * 0.01])
    assert mean_leads(runs, "CBT") == pytest.approx([0.02, 0.04])
    assert mean_leads(runs, "CBT", "one per exit") == pytest.approx([0.0, 0.0])


def test_sentences_of_the_chapter():
    assert "CBT: +3.00 points, ahead at 1 of 1 budgets" in claims.verdict([run(0.03)])
    table = pd.DataFrame({"class": ["road", "bus"], "share": [0.9, 0.1], "CBT": [0.0, -3.0]})
    sentence = "CBT: the IoU of a class changes by -3.0 to +0.0 points; it falls for 1 of 2 classes"
    assert tables.payers(table, "CBT") == sentence


def score(*exits):
    """Mean IoU and cost of every exit."""
    miou, cost = zip(*exits, strict=True)
    return {"miou": list(miou), "cost": list(cost)}


def seed_of(seed, *, ahead, lost=0.002):
    """One seed of both networks; the last exit is ahead of the first by so many hundredths."""
    first = (0.5 - ahead, 0.2)
    conv = {name: score(first, (0.5, 1.0)) for name in (experiment.NOBODY, experiment.single())}
    for pair in experiment.PAIRS:
        conv[experiment.cbt_of(pair)] = score(first, (0.5 - lost, 0.7))
    apart = experiment.cbt_of(experiment.NAMED, shared=False)
    vit = {experiment.NOBODY: score(first, (0.5, 1.0))}
    for pair in experiment.TOKEN_PAIRS:
        vit |= {experiment.single(pair[1]): score(first, (0.5, 0.9))}
        vit |= {experiment.cbt_of(pair): score(first, (0.5 - lost, 0.8))}
    counts = {"train": 1, "val": 1, "test": 1}
    about = {"seed": seed, "counts": counts, "rank": 0.8 + seed / 100}
    conv |= {apart: score(first, (0.5 - lost, 0.7))}
    return run(0.0) | about | {"anytime": conv}, {"seed": seed, "anytime": vit}


def judged(seeds, clocks=(), **how):
    """Statement → row of the claims that these seeds make."""
    conv, vit = zip(*(seed_of(seed, **how) for seed in range(seeds)), strict=True)
    record = records.Record("04-cbt", data={}, seeds=range(seeds), at="study")
    claims.claim_all(record, {"conv": list(conv), "vit": list(vit), "clock": list(clocks)})
    return {row["statement"]: row for row in record.claims}


def the(rows, *words):
    """The only row with all these words."""
    found = [row for statement, row in rows.items() if all(word in statement for word in words)]
    assert len(found) == 1, found
    return found[0]


def test_each_pair_is_compared_with_what_the_thesis_says_of_it():
    """All pairs save 30 % for .2 points; with five seeds that decides."""
    rows = judged(5, ahead=0.1)
    for pair, share in (("[0.99, 0.998]", "23 %"), ("[0.9, 0.998]", "6 %")):
        saved = the(rows, f"CBT {pair} saves at least", "of the MACs")
        assert saved["ours"] == pytest.approx(0.3) and saved["verdict"] == "holds"
        assert share in saved["statement"]
        assert the(rows, f"... CBT {pair}", "points lost")["verdict"] == "holds"
    lead = the(rows, "CBT [0.99, 0.998]: ahead of one threshold at the same cost")
    # one threshold costs what it scores: .6 at .6 and .5 at 1 make .65 at a cost of .7
    assert lead["verdict"] == "fails" and lead["ours"] < 0
    for pair, thesis_saves in (("[0.85, 0.9]", 0.0326), ("[0.9, 0.95]", 0.0671)):
        tokens = the(rows, f"tokens: CBT {pair}")
        assert tokens["ours"] == pytest.approx(1 / 9, rel=1e-3)
        assert tokens["ratio"] == pytest.approx(1 / 9 / thesis_saves, rel=2e-3)


def test_where_the_last_exit_is_not_ahead_nothing_is_testable():
    rows = judged(5, ahead=0.02)
    closed = {row["verdict"] for statement, row in rows.items() if "MACs of the" in statement}
    assert closed == {"not testable here"}
    assert "ahead by 2.0" in the(rows, "CBT [0.99, 0.998] saves")["reason"]


def test_seeds_without_a_clock_make_no_claim_on_time():
    assert not [statement for statement in judged(3, ahead=0.1) if "time" in statement]
    one = {"speed_up": 1.1, "macs": 1.5}
    table = {"threads": [1, 2], "speed_up": [1.2, 1.4], "macs": [1.6, 1.7]}
    rows = judged(3, [{"conv": one, "vit": one, "larger": table}] * 3, ahead=0.1)
    assert the(rows, "skipping saves time, convolutions on maps twice as large")["ours"] == 1.4


@pytest.mark.parametrize("at", ["reduced", "study"])
def test_claims_are_made_from_the_numbers_of_a_record(at):
    folder = files("eenotes_book").joinpath("records", at)
    kept = json.loads(folder.joinpath("04-cbt.json").read_text(encoding="utf-8"))
    record = records.Record("04-cbt", data=kept["data"], seeds=kept["seeds"], at=at)
    claims.claim_all(record, kept["numbers"])
    statements = [row["statement"] for row in record.claims]
    assert len(statements) == len(set(statements)) >= 12
    for words in ("saves at least", "equal marginal loss", "tokens", "rank correlation"):
        assert any(words in statement for statement in statements)


def test_the_study_goes_on_where_it_was_cut_off(monkeypatch, tmp_path):
    """One conv step fails; what had finished is not computed again, and makes a record."""
    for name in ("EENOTES_STEPS", "EENOTES_RESULTS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(records, "made_by", lambda *args, **options: {})
    computed = []

    def step(kind, fail=None):
        def compute(s, seed):
            if (kind, seed) == fail:
                raise KeyboardInterrupt
            computed.append((kind, seed))
            one = {"speed_up": 1.1, "macs": 1.5, "seed": seed}
            conv, vit = seed_of(seed, ahead=0.1)
            return {"conv": conv, "vit": vit, "clock": one | {"conv": one, "vit": one}}[kind]

        return compute

    for kind in ("conv", "vit", "clock"):
        monkeypatch.setattr(study, f"_{kind}_step", step(kind, fail=("conv", 1)))
    with pytest.raises(KeyboardInterrupt):
        study.study()
    assert computed == [("conv", 0), ("vit", 0)]
    kept = json.loads((tmp_path / "EENOTES_RESULTS/study/04-cbt.json").read_text())
    assert kept["seeds"] == [0] and kept["numbers"]["clock"] == []
    for kind in ("conv", "vit", "clock"):
        monkeypatch.setattr(study, f"_{kind}_step", step(kind))
    path = study.study()
    seeds = settings.load("04-cbt", "study").seeds
    assert len(computed) == len(set(computed)) == 3 * seeds
    assert [part["seed"] for part in json.loads(path.read_text())["numbers"]["clock"]] == list(
        range(seeds)
    )


def test_the_thesis_is_quoted_with_what_follows_from_its_numbers():
    found = thesis.row((0.99, 0.998))
    assert found["saved"] == pytest.approx(0.23, abs=0.005) and found["lost"] == pytest.approx(0.62)
    table = thesis.table()
    assert table.groupby("where").saved.count().sum() == len(table) - table["where"].nunique()
    ours = thesis.ours({"conv": [seed_of(seed, ahead=0.1)[0] for seed in range(2)]})
    assert ours.rule.tolist() == [*map(experiment.cbt_of, experiment.PAIRS), "CBT-ns [0.9, 0.998]"]
    assert ours.saved.tolist() == pytest.approx([0.3] * 5)
    assert ours.lost.tolist() == pytest.approx([0.2] * 5)


@pytest.mark.parametrize(
    ("sparse", "expected"),
    [([0.5, 1.5], (0.4, 0.45)), ([1.1, 1.6], None), ([0.1, 0.2], (0.7, 0.6))],
)
def test_break_even_is_where_skipping_takes_as_long_as_the_plain_backbone(sparse, expected):
    table = pd.DataFrame({"share": [0.1, 0.7], "sparse": sparse, "MACs": [0.3, 0.6]})
    found = clock.break_even(table)
    assert found == (None if expected is None else pytest.approx(expected))


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
    times = pd.DataFrame(
        {"share": [0.2, 0.7], "sparse": [0.5, 1.5], "dense": 1.0, "MACs": [0.3, 0.7]}
    )
    speed = {"speed_up": 1.1, "macs": 1.5, "batch": 2}
    figures.skipping_time(times, crossing=0.45, speed=speed)
    figures_of_records.budget_curves([run(0.03)])
    left, right = drawn[-1].axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == list(experiment.BUDGET_METHODS)
    assert [line.get_ydata()[0] for line in right.lines[:3]] == pytest.approx([3.0] * 3)
    assert len(drawn) == 5


def test_charts_over_seeds(drawn):
    runs = [seed_of(seed, ahead=0.1)[0] for seed in range(3)]
    scores, singles = figures_of_records.averaged(runs)
    assert scores["single 0.998"]["reach"] == 0 and singles.threshold.tolist() == [0.9]
    figures.anytime_curves(scores, singles, single="single 0.998", named="CBT [0.9, 0.998]")
    figures_of_records.saved_and_lost(thesis.table(), thesis.ours({"conv": runs}))
    (ax,) = drawn[-1].axes
    assert "30" not in ax.get_xlabel() and len(ax.collections) == 8  # seven hosts, and ours
    figures_of_records.budget_curves(runs)
    assert len(drawn) == 3


def test_the_drawing_of_places_marks_the_halo_that_is_read(drawn):
    drawings.places()
    left, right = drawn[-1].axes
    hatched = [patch for patch in left.patches if patch.get_hatch()]
    assert 0 < len(hatched) < 66 and len(right.texts) == 3  # three active places around it
    assert len(drawn) == 1


def test_merged_masks_are_where_the_rule_lets_go(bench, drawn):
    """No exit of an untrained network is sure: below 1/K everything stops, at 1 nothing."""
    drawings.split_and_merge(bench, 0, alpha=0.99, beta=0.99)
    assert drawn[-1].axes[-1].get_title() == "any class: 0%"
    drawings.split_and_merge(bench, 0, alpha=0.0, beta=0.0)
    assert drawn[-1].axes[-1].get_title() == "any class: 100%"


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
