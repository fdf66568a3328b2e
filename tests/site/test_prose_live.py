"""Chapter 8 has no recorded study: its sentences are about the run that the page shows.

They name no number; what they say has to hold in that run, by a wide margin.
"""

import json

import chapters
import pandas as pd
import pytest

from eenotes_book import statistics
from eenotes_book.ch08_open import tables
from eenotes_book.ch08_open.stale import FRESH

pytestmark = pytest.mark.executed
NAME = "08-open-problems"


@pytest.fixture(scope="module")
def numbers() -> dict:
    path = chapters.executed(NAME, "tiny").with_suffix(".record.json")
    if not path.exists():
        pytest.skip("the chapter has not been executed at tiny: make book")
    found = json.loads(path.read_text(encoding="utf-8"))["numbers"]
    frames = ("compact", "order", "plans", "clusters", "reading", "tuning", "reward")
    return found | {name: pd.DataFrame(found[name]) for name in frames}


def test_unseen_classes_cost_more_and_a_gate_refuses_seen_images(numbers):
    for run in numbers["novelty"]:
        gate = run["gate"]["distance"]
        assert gate["unknown_open"] > 1.3 * gate["known_open"]
        assert gate["unknown"] < gate["unknown_open"] and gate["accuracy"] < gate["accuracy_open"]
    leads = tables.novelty_leads(numbers["novelty"]).mean(axis=1).tolist()
    assert abs(statistics.mean(leads)) < statistics.spread(leads), "it changes more than it is"


def test_four_bits_change_little_and_one_average_costs_points(numbers):
    loss = {grid: tables.compact_loss(numbers["compact"], grid=grid, bits=4) for grid in (2, 1)}
    assert loss[2].mean() < 0.025 and loss[1].mean() > 0.025


def test_two_bits_before_pruning_lose_the_last_exit(numbers):
    order = numbers["order"]
    assert tables.order_groups(order, 8).range.iloc[0] < 0.03
    orders = order[(order.bits == 2) & order.order.isin(["QPD", "QDP", "DQP"])]
    assert (orders["exit 4"] < 0.2).all()
    for bits in (8, 2):
        groups = tables.order_groups(order, bits)
        assert abs((groups.PQD - groups.PQC).mean()) < 0.02, "distilling gains little"


def test_the_depth_map_first_reaches_the_image_network(numbers):
    whole = numbers["sources"]["image 3"]
    assert tables.cheapest_as_good(numbers["plans"], whole) < 0.5
    assert abs(tables.class_leads(numbers["plans"]).mean()) < 0.02


def test_dropping_what_is_agreed_on_is_worse_than_dropping_any(numbers):
    assert max(tables.kept_leads(numbers["clusters"], "accuracy")) < -0.03
    reading = numbers["reading"]
    agreeing = statistics.mean(tables.kept_leads(reading, "perplexity"))
    assert agreeing > statistics.mean(tables.kept_leads(reading, "perplexity", "drop disagreeing"))


def test_a_reward_makes_class_means_stale_and_another_text_a_little(numbers):
    end = tables.last_look(numbers["tuning"], "samples", "accuracy").mean()
    assert 0 < end[FRESH] - end["new text, before"] < 0.02
    assert abs(end[FRESH] - end["carried along"]) < 0.01
    end = tables.last_look(numbers["reward"], "round", "agreement").mean()
    assert end[FRESH] - end["before"] > 0.03
