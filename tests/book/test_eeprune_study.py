"""Chapter 5: the race is fair, the tables and claims follow from its numbers."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from eenotes.methods.sample_selection import split_rows
from eenotes_book import records, settings, style
from eenotes_book.ch05_eeprune import claims, experiment, figures, pictures, tables
from eenotes_book.ch05_eeprune.ring import learn_ring
from eenotes_book.data.passes import Passes
from eenotes_book.models.four_stages import four_stages


def test_everybody_sees_equally_many_samples():
    """Ten samples from three rows: each three times, one of them once more."""
    passes = Passes(TensorDataset(torch.arange(9)), torch.tensor([2, 5, 7]), 10)
    assert len(passes) == 10
    assert [int(passes[i][0]) for i in range(10)] == [2, 5, 7, 2, 5, 7, 2, 5, 7, 2]


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


def run(accuracy, *, seed=0, drop=(0.5,), candidates=1.0):
    """A run's record with the final accuracies given."""
    return {
        "counts": {"train": 100},
        "seed": seed,
        "candidates": candidates,
        "none": {"kept": 100, "seen": [50, 100], "accuracy": [0.2, 0.5]},
        "runs": {
            f"{ratio:g}": {
                method: {
                    "kept": 100 - round(100 * ratio),
                    "seen": [50, 100],
                    "accuracy": [0.1, end],
                }
                for method, end in accuracy.items()
            }
            for ratio in drop
        },
        "imbalance": {f"{ratio:g}": dict.fromkeys(accuracy, 0.1) for ratio in drop},
        "scoring": {method: {"samples": 40, "seconds": 1.0, "joules": None} for method in accuracy},
    }


def test_tables_from_two_runs():
    base = dict.fromkeys(experiment.METHODS, 0.5)
    runs = [run(base | {"EEPrune": 0.6}), run(base | {"EEPrune": 0.5, "Random": 0.6}, seed=1)]
    assert tables.lead(runs, "EEPrune", "Random", "0.5") == pytest.approx([0.1, -0.1])
    assert tables.final_table(runs).loc["EEPrune", "50% dropped"] == "0.550 ± 0.071"
    costs = tables.scoring_table(runs)
    assert costs.passes["EEPrune"] == pytest.approx(0.4)
    assert "joules" not in costs, "no meter, no energy"
    curves = tables.curve_table(runs, 0.5).set_index(["method", "training"])
    assert curves.total["EEPrune", 100] == 140 and curves.total[experiment.NONE, 100] == 100
    leads = tables.lead_table(runs).set_index("method")
    assert leads.lead["EEPrune"] == pytest.approx(0)
    assert leads.spread["EEPrune"] == pytest.approx(0.2 / math.sqrt(2))


def claims_of(runs):
    """The claims of made-up runs, by the label of the cell and the end of the statement."""
    halves = {"dropped": {"accuracy": [0.3]}, "kept": {"accuracy": [0.5]}}
    numbers = {"comparison": {"A": runs}, "extras": {"A": [{"halves": halves}] * len(runs)}}
    record = records.Record("05-eeprune", data={}, seeds=range(len(runs)))
    claims.claim_all(record, numbers)
    return record.claims


@pytest.mark.parametrize(
    ("candidates", "over", "race", "halves"),
    [
        (0.7, "20%, 50%", "holds", "holds"),
        (0.4, "20%", "holds", "not testable here"),
        (0.25, "20%", "not testable here", "not testable here"),
    ],
)
def test_claims_are_made_where_eeprune_has_a_choice(candidates, over, race, halves):
    base = dict.fromkeys(experiment.METHODS, 0.5) | {"EEPrune": 0.6}
    runs = [run(base, seed=seed, drop=(0.2, 0.5), candidates=candidates) for seed in range(5)]
    found = claims_of(runs)
    assert found[0]["statement"].endswith(f"mean lead at {over}")
    assert (found[0]["verdict"], found[0]["difference"]) == (race, pytest.approx(0.1))
    assert [claim["verdict"] for claim in found if claim["where"] == "halves"] == [halves]


def test_a_rival_that_drops_too_few_is_not_compared():
    base = dict.fromkeys(experiment.METHODS, 0.5)
    runs = [run(base, drop=(0.2, 0.5))]
    runs[0]["runs"]["0.2"]["EEPrune-Before"]["kept"] = 90
    earlier, later = (claim for claim in claims_of(runs) if claim["where"] == "location")
    assert earlier["statement"].endswith("mean lead at 50%")
    assert later["statement"].endswith("mean lead at 20%, 50%")


@pytest.mark.parametrize("at", ["reduced", "study"])
def test_claims_follow_from_a_record_alone(at):
    recorded = records.load("05-eeprune", at)
    record = records.Record("05-eeprune", at=at, data=recorded["data"], seeds=recorded["seeds"])
    claims.claim_all(record, recorded["numbers"])
    assert len(record.claims) == 7 * len(recorded["numbers"]["comparison"])


@pytest.mark.parametrize("at", ["tiny", "reduced", "full", "study"])
def test_every_data_set_of_the_race_has_settings(at):
    s = settings.load("05-eeprune", at)
    assert all(s.race(name).budget > 0 for name in s.names)


def test_where_the_order_turns():
    rows = [
        {"data": "A", "seed": 0, "size": size, "keep": keep, "accuracy": accuracy}
        for size, found in {100: (0.5, 0.4, 0.6), 1000: (0.6, 0.7, 0.65)}.items()
        for keep, accuracy in zip(("easy", "hard", "random"), found, strict=True)
    ]
    sentence = "A: the hard samples beat the easy ones {}, and random ones {}."
    for part, where in ((rows, "at 1,000"), (rows[:3], "at none of the sizes")):
        assert claims.turning_verdict(part) == sentence.format(where, where)


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


def test_the_heat_map_has_the_methods_in_the_thesis_s_order_and_a_bar_for_each(drawn):
    methods = list(experiment.METHODS)
    panels = {("A", "10%"): pd.DataFrame(1.0, index=["cat", "dog"], columns=methods)}
    skew = {("A", "10%"): pd.Series(range(8), index=methods) / 10}
    heat, bars = pictures.dropped_by_class(panels, skew, provenance="").axes
    assert heat.collections[0].get_array().shape == (2, 8)
    assert [text.get_text() for text in bars.get_xticklabels()] == methods
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([i / 10 for i in range(8)])


def test_curves_start_later_by_what_scoring_costs(drawn):
    table = pd.DataFrame(
        {"training": [50, 100], "total": [90, 140], "accuracy": [0.5, 0.6], "spread": math.nan}
    ).assign(method="EEPrune")
    above, below = figures.accuracy_against_samples(
        {"10% dropped": table}, unit=100, title="", provenance=""
    ).axes
    assert above.lines[0].get_xdata().tolist() == [0.5, 1.0]
    assert below.lines[0].get_xdata().tolist() == pytest.approx([0.9, 1.4])
