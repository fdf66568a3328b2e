"""Chapter 5: the race is fair, the tables and claims follow from its numbers."""

import math
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from eenotes.methods.sample_selection import split_rows
from eenotes_book import records, settings, style
from eenotes_book.ch05_eeprune import (
    claims,
    experiment,
    figures,
    pictures,
    probe,
    study,
    sweep,
    tables,
    turning,
)
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.ch05_eeprune.harness import train_on
from eenotes_book.ch05_eeprune.ring import learn_ring
from eenotes_book.ch05_eeprune.settings import StudySettings, SweepSettings
from eenotes_book.data import vision
from eenotes_book.data.passes import Passes
from eenotes_book.models.four_stages import four_stages


def test_everybody_sees_equally_many_samples():
    """Ten samples from three rows: each three times, one of them once more."""
    passes = Passes(TensorDataset(torch.arange(9)), torch.tensor([2, 5, 7]), 10)
    assert len(passes) == 10
    assert [int(passes[i][0]) for i in range(10)] == [2, 5, 7, 2, 5, 7, 2, 5, 7, 2]
    assert passes.__getitems__([1, 9, 3]) == [(torch.tensor(row),) for row in (5, 2, 2)]


def test_imbalance_by_hand():
    """Of three and three, three of class 0 and one of class 1 are kept: ¾ and ¼ instead of ½ and ½,
    so a quarter is out of place.
    """
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    for drop, wanted in [([3, 4], 0.25), ([0, 3], 0), ([0, 1, 2], 0.5)]:
        assert experiment.imbalance(split_rows(torch.tensor(drop), 6), labels) == pytest.approx(
            wanted
        )


def test_the_ring_drops_the_middles_of_the_classes():
    ring = learn_ring(points=300, epochs=[1, 12], ratio=0.2)
    assert set(ring.pruned) == {1, 12}
    angle = ring.to_boundary
    assert angle.min() >= 0 and angle.max() <= 30
    last = ring.pruned[12]
    assert len(last.drop) == 60
    assert angle[last.drop].mean() > angle[last.keep].mean() + 5


@pytest.mark.parametrize(
    ("kind", "shape"), [("mlp", (1, 8, 8)), ("conv", (3, 32, 32)), ("conv", (1, 28, 28))]
)
def test_networks_have_three_early_exits_or_none(kind, shape):
    net = four_stages(kind, shape, num_classes=10, width=4)
    assert [tuple(z.shape) for z in net.eval()(torch.zeros(2, *shape))] == [(2, 10)] * 4
    assert four_stages(kind, shape, num_classes=10, width=4, exits=False).num_exits == 1


@pytest.mark.parametrize("name", ["CIFAR100", "KMNIST"])
def test_the_networks_of_the_full_scale_take_two_steps(name):
    """Stand-in images, four a step, through EEPrune's training and through the race's."""
    s = settings.load("05-eeprune", "full").race(name)
    b = Bench(name, replace(s, train=8, batch_size=4, budget=1, exit_grid=1), seed=0)
    shape = {"CIFAR100": (3, 16, 16), "KMNIST": (1, 14, 14)}[name]
    images = TensorDataset(torch.randn(8, *shape), torch.arange(8))
    classes = tuple(map(str, range(8)))
    b.data = vision.Vision(name, images, images, images, classes, torch.zeros(1), torch.ones(1))
    net = b.recipe(1, exits=True).train(images, seed=0)
    assert [tuple(z.shape) for z in net(images.tensors[0])] == [(8, 8)] * 4
    found = train_on(b, torch.arange(4))
    assert (found["kept"], found["seen"][-1]) == (4, 8)
    assert b.recipe(1, proxy=True).network(0).num_exits == 1


def run(accuracy, *, seed=0, drop=("0.5",), candidates=1.0, none=0.5):
    """A run's record with the final accuracies given."""
    part = {"seen": [50, 100], "imbalance": 0.1, "dropped": {"cat": 3, "dog": 1}}
    return {
        "counts": {"train": 100},
        "seed": seed,
        "none": part | {"kept": 100, "accuracy": [0.2, none]},
        "runs": {
            ratio: {
                method: part | {"kept": 100 - round(100 * float(ratio)), "accuracy": [0.1, end]}
                for method, end in accuracy.items()
            }
            for ratio in drop
        },
        "halves": {"dropped": {"accuracy": [0.3]}, "kept": {"accuracy": [0.5]}},
        "scoring": {
            method: {
                "samples": 400 if method == "Forgetting" else 100,
                "scoring_seconds": 1.0,
                "joules": None,
                "candidates": candidates,
            }
            for method in accuracy
        },
    }


def test_tables_from_two_runs():
    base = dict.fromkeys(experiment.METHODS, 0.5)
    runs = [run(base | {"EEPrune": 0.6}), run(base | {"EEPrune": 0.5, "Random": 0.6}, seed=1)]
    assert tables.lead(runs, "EEPrune", "Random", "0.5") == pytest.approx([0.1, -0.1])
    assert tables.final_table(runs).loc["EEPrune", "50% dropped"] == "0.550 ± 0.071 (2)"
    costs = tables.scoring_table(runs)
    assert costs.passes["EEPrune"] == pytest.approx(1)
    assert "joules" not in costs, "no meter, no energy"
    curves = tables.curve_table(runs, "0.5").set_index(["method", "training"])
    assert curves.total["EEPrune", 100] == 200 and curves.total[experiment.NONE, 100] == 100
    leads = tables.lead_table(runs).set_index("method")
    assert leads.lead["EEPrune"] == pytest.approx(0)
    # twice the standard error, 0.1, of two values, by the t-value of one degree of freedom
    assert leads.reach["EEPrune"] == pytest.approx(0.1 * 12.7062, rel=1e-4)


def test_a_study_on_its_way_compares_the_seeds_that_both_methods_have():
    whole = run({"EEPrune": 0.6, "Random": 0.5, "EL2N": 0.7}, drop=("0.2", "0.5"))
    begun = run({"Random": 0.4}, seed=1) | {"none": None, "halves": {}, "scoring": {}}
    runs = [whole, begun]
    assert tables.lead(runs, "EEPrune", "Random", "0.5") == pytest.approx([0.1])
    assert tables.finals(runs, "Random", "0.5") == [0.5, 0.4]
    assert tables.final_table(runs).loc["EL2N"].tolist() == ["0.700 (1)"] * 2
    leads = tables.lead_table(runs).set_index(["method", "ratio"])
    assert leads.seeds["EEPrune", 0.5] == 1 and math.isnan(leads.reach["EEPrune", 0.5])
    assert len(tables.halves_table({"A": runs})) == 1 + len(tables.THESIS_HALVES)
    assert {claim.get("verdict") for claim in claims_of(runs)} <= {"one run", "holds", None}


SWEEP = {
    sweep.EASY: (0.5, 0.6, 0.6),
    "EEPrune": (0.4, 0.7, 0.8),
    "Random": (0.6, 0.65, 0.7),
    experiment.NONE: (0.7, 0.75, 0.79),
}


def rows_of(seeds=1, shift=0.0, candidates=1.0):
    """A sweep in which EEPrune turns against random pruning between 100 and 1,000."""
    return [
        {"data": "A", "seed": seed, "size": size, "ratio": 0.6, "keep": keep}
        | {"accuracy": accuracy + (keep == "EEPrune") * shift * seed, "candidates": candidates}
        for seed in range(seeds)
        for keep, accuracies in SWEEP.items()
        for size, accuracy in zip((100, 1000, 10_000), accuracies, strict=True)
    ]


def claims_of(runs, rows=()):
    """The claims of made-up runs."""
    record = records.Record("05-eeprune", data={}, seeds=range(len(runs)))
    claims.claim_all(record, {"comparison": {"A": runs}, "sweep": rows})
    return record.claims


@pytest.mark.parametrize(
    ("candidates", "verdicts", "largest"),
    [
        (0.7, ["holds", "holds"], "50%"),
        (0.4, ["holds", "not testable here"], "20%"),
        (0.2, ["not testable here"] * 2, "20%"),
    ],
)
def test_claims_are_made_where_eeprune_has_a_choice(candidates, verdicts, largest):
    """Against random pruning at every ratio; against the others at the largest that is open."""
    base = dict.fromkeys(experiment.METHODS, 0.5) | {"EEPrune": 0.6}
    runs = [run(base, seed=seed, drop=("0.2", "0.5"), candidates=candidates) for seed in range(5)]
    found = claims_of(runs)
    race = [claim for claim in found if "EEPrune is ahead of random" in claim["statement"]]
    assert [claim["verdict"] for claim in race] == verdicts
    assert [claim["difference"] for claim in race] == pytest.approx([0.1, 0.1])
    places = [claim for claim in found if claim["where"] == "location"]
    assert len(places) == 2
    assert all(claim["statement"].endswith(f"{largest} dropped") for claim in places)
    (halves,) = (claim for claim in found if claim["where"] == "halves")
    assert (halves["verdict"], halves["difference"]) == (verdicts[1], pytest.approx(0.2))


def test_where_the_order_turns():
    """−.2, +.05: four fifths of the way from 100 to 1,000, a factor of ten."""
    leads = turning.leads_by_size(rows_of(), "A", "Random").iloc[0]
    assert leads.tolist() == pytest.approx([-0.2, 0.05, 0.1])
    assert turning.turning_point(leads) == pytest.approx(100 * 10**0.8)
    assert turning.turning_point(leads + 1) is None, "never behind"
    assert turning.turning_point(leads - 1) is None, "never ahead"
    middle, low, high = turning.turning_interval([100, 10_000])
    assert middle == pytest.approx(1000) and low < 1000 < high
    assert math.isnan(turning.turning_interval([100])[1])
    sentence = claims.turning_verdict(rows_of())
    assert "Random: from 631 images on" in sentence and "no pruning: from" in sentence
    assert "EEPrune, reversed: from" in sentence


def test_the_turn_is_a_claim_with_an_interval_and_a_gate():
    for candidates, verdict in ((1.0, "holds"), (0.65, "not testable here")):
        rows = rows_of(seeds=5, shift=0.001, candidates=candidates)
        found = claims_of([run({"Random": 0.5})], rows)
        larger, point = found[:2]
        assert (larger["verdict"], point["verdict"]) == (verdict, verdict)
        assert larger["difference"] == pytest.approx(0.3)
        assert "overtakes random pruning" in point["statement"] and "[" in point["statement"]
        assert point["low"] < point["difference"] < point["high"] < 2


def test_in_the_model_the_hard_samples_win_where_there_are_many():
    table = turning.perceptron([2, 16], ratio=0.6, weights=20, seeds=3)
    means = table.pivot_table(index="size", columns="keep", values="accuracy")
    assert means.easy[2] > means.random[2] > means.hard[2]
    assert means.hard[16] > means.random[16]


def test_small_data_sets_are_passed_over_more_often():
    race = settings.load("05-eeprune", "study").FashionMNIST
    same = sweep.at_size(race, race.train, least=110_000)
    assert same == race
    small = sweep.at_size(race, 1000, least=120_000)
    assert (small.train, small.budget) == (1000, 120)
    assert small.score_epochs == 10 * race.score_epochs


def test_a_study_goes_on_where_it_was_and_records_what_is_finished(tmp_path, monkeypatch):
    """Two miniature runs: the second trains nothing; the record holds what the first has made."""
    monkeypatch.setenv("EENOTES_STEPS", str(tmp_path / "steps"))
    monkeypatch.setenv("EENOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EENOTES_RESULTS", str(tmp_path / "records"))
    monkeypatch.setattr(records.probes, "run", lambda chapter: {})
    race = replace(probe.settings(kind="mlp", width=8), runners={"0.4": ["Random", "EEPrune"]})
    few = SweepSettings(names=["digits"], seeds=1, sizes=[60], least=60)
    s = StudySettings(names=["digits"], seeds=1, sweep=few, digits=race)
    monkeypatch.setattr(study.settings, "load", lambda *where: s)

    with pytest.raises(ValueError, match="no step of the race"):
        study.record()
    b = Bench("digits", race, 0)
    experiment.run(b, "Random", 0.4)
    numbers = study.run_all(s, experiment.finished)
    assert list(numbers["comparison"]["digits"][0]["runs"]["0.4"]) == ["Random"]
    assert numbers["sweep"] == []

    study.study()
    (run_of_seed,) = records.load("05-eeprune", "study")["numbers"]["comparison"]["digits"]
    assert set(run_of_seed["runs"]["0.4"]) == {"Random", "EEPrune"}
    assert set(run_of_seed["halves"]) == {"kept", "dropped"}

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "train_on", refuse)
    study.study()


@pytest.mark.parametrize("at", ["study"])
def test_claims_follow_from_a_record_alone(at):
    recorded = records.load("05-eeprune", at)
    record = records.Record("05-eeprune", at=at, data=recorded["data"], seeds=recorded["seeds"])
    claims.claim_all(record, recorded["numbers"])
    assert record.claims == recorded["claims"]


@pytest.mark.parametrize("at", ["tiny", "reduced", "full", "study"])
def test_every_data_set_of_the_race_has_settings(at):
    s = settings.load("05-eeprune", at)
    assert all(s.race(name).budget > 0 for name in s.names)
    for name in s.sweep.names:
        assert max(s.sweep.sizes) < s.race(name).train


# --- the figures


@pytest.fixture
def drawn(monkeypatch):
    """`style.show` gives the figure back, open, and checks captions as it does."""
    show = style.show

    def keep(figure, **words):
        show(figure, **words)
        return figure

    monkeypatch.setattr(style, "show", keep)
    yield
    plt.close("all")


def test_the_heat_map_has_names_on_top_a_row_for_all_and_one_scale(drawn):
    methods = list(experiment.METHODS)
    shares = pd.DataFrame(0.25, index=["cat", "dog", "all"], columns=methods)
    skew = pd.Series(range(8), index=methods) / 10
    heat, strip, bar = pictures.shares_and_imbalance(shares, skew).axes
    assert heat.collections[0].get_clim() == (0, 100) and bar.get_ylabel().endswith("%")
    np.testing.assert_allclose(heat.collections[0].get_array(), 25)
    names = [
        text.get_text().replace("-\n", "-").replace("\n", " ") for text in heat.get_xticklabels()
    ]
    assert "EEPrune-\nBefore" in [text.get_text() for text in heat.get_xticklabels()]
    assert names == methods and heat.xaxis.get_ticks_position() == "top"
    assert [text.get_text() for text in heat.get_yticklabels()] == ["cat", "dog", "all"]
    np.testing.assert_allclose(np.ravel(strip.collections[0].get_array()), skew)


def test_shares_of_a_class_follow_from_the_method_that_drops_the_same_of_each():
    dropped = pd.DataFrame({"Random": [10, 20], "Complexity gap": [10, 30]}, index=["a", "b"])
    shares = tables.dropped_shares(dropped, "50%")  # classes of 20 and 60
    assert shares["Random"].tolist() == pytest.approx([10 / 20, 20 / 60, 30 / 80])
    assert shares["Complexity gap"].tolist() == pytest.approx([0.5, 0.5, 0.5])
    alone = tables.dropped_shares(dropped[["Random"]], "50%")  # two classes of 30
    assert alone["Random"].tolist() == pytest.approx([10 / 30, 20 / 30, 0.5])


def test_one_data_set_is_in_sight_and_the_others_are_folded():
    panels = {(name, "50%"): pd.DataFrame({"Random": [5.0]}, index=["cat"]) for name in "AB"}
    skews = dict.fromkeys(panels, pd.Series({"Random": 0.1}))
    before, after = pictures.dropped_by_class(panels, skews, provenance="").data.split("<details>")
    assert before.count("<figure") == after.count("<figure") == 1 and "The same for B" in after


def test_every_figure_can_be_drawn_of_a_study_on_its_way(drawn):
    runs = [run({"EEPrune": 0.6, "Random": 0.5}), run({"Random": 0.4}, seed=1)]
    model = turning.perceptron([4, 8], ratio=0.6, weights=10, seeds=2)
    for rows in (rows_of(), rows_of(seeds=3, shift=0.01)):
        left, right = figures.when_it_pays(rows, model, provenance="").axes
        assert [line.get_label() for line in left.lines[:2]] == ["keep the hard", "keep the easy"]
        assert {line.get_label() for line in right.lines} >= set(sweep.KEPT[1:])
    leads = figures.lead_over_random({"A": tables.lead_table(runs)}, provenance="").axes[0]
    assert leads.get_xticklabels()[0].get_text() == "50%"
    bars = figures.halves(tables.halves_table({"A": runs}), provenance="")
    assert bars.get_xticklabels()[0].get_text() == "A"
    exits = {"early": [0.9, 0.8, 0.2], "final": [0.9, 0.9, 0.9], "confidence": [0.9, 0.8, 0.9]}
    exits |= {"candidate": [1, 1, 0], "both_right": 0.67}
    points = pictures.early_against_final(exits, ratio=0.34, epochs=3, provenance="")
    assert [text.get_text() for text in points.get_legend().get_texts()] == [
        "kept (2)", "dropped (1)"
    ]  # fmt: skip


def test_curves_start_later_by_what_scoring_costs(drawn):
    table = pd.DataFrame(
        {"training": [50, 100], "total": [90, 140], "accuracy": [0.5, 0.6], "spread": math.nan}
    ).assign(method="EEPrune")
    above, below = figures.accuracy_against_samples(
        {"10% dropped": table}, unit=100, title="", provenance=""
    ).axes
    assert above.lines[0].get_xdata().tolist() == [0.5, 1.0]
    assert below.lines[0].get_xdata().tolist() == pytest.approx([0.9, 1.4])
