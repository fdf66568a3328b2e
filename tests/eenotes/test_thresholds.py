"""Thresholds from cached logits: a sweep gives what evaluate gives, a front what nothing beats."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eenotes import ClassMeanConfidence, Confidence, Entropy, Patience, PerClass
from eenotes.costs import Costs
from eenotes.inference import simulate
from eenotes.thresholds import (
    best_within_budget,
    cheapest_with_accuracy,
    evaluate,
    summarise,
    sweep,
    thresholds_for_budgets,
)

COSTS = Costs(stages=(10, 30, 60), exits=(5, 15))
# (J, N, K) = (3, 4, 2) with confidences .9 .8 .7 .6 at the first exit, .55 everywhere at the second
FIRST = [0.9, 0.8, 0.7, 0.6]
LOGITS = torch.tensor(
    [[[math.log(p), math.log(1 - p)] for p in c] for c in (FIRST, [0.55] * 4, [0.3, 0.9, 0.9, 0.9])]
)
LABELS = torch.tensor([0, 1, 0, 0])


def random_logits(seed, num_exits=3, count=30, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(num_exits, count, classes, generator=generator), torch.randint(
        classes, (count,), generator=generator
    )


# --- evaluate


@pytest.mark.parametrize(
    ("rule", "accuracy", "cost", "overhead", "left"),
    [
        # two exit first (right, wrong) for 15 MACs each, two at the end (right, right) for 105:
        # the second exit is closed, and its test is not run
        (Confidence([0.75, 1.0]), 0.75, 0.6, 0.05, [0.5, 0, 0.5]),
        (Confidence([0.75, 0.99]), 0.75, 0.675, 0.125, [0.5, 0, 0.5]),
        (Confidence([1.0, 0.5]), 0.75, 0.55, 0.15, [0, 1, 0]),
        (Confidence(1.0), 0.5, 1.0, 0, [0, 0, 1]),
        (PerClass(torch.tensor([[0.75, 1.0], [1.0, 1.0]])), 0.75, 0.6, 0.05, [0.5, 0, 0.5]),
        # right at the first exit, wrong at the end
        (Confidence([0.85, 1.0]), 0.75, 0.825, 0.05, [0.25, 0, 0.75]),
        (Patience(1), 0.75, 0.6, 0.2, [0, 1, 0]),
    ],
)
def test_evaluate_by_hand(rule, accuracy, cost, overhead, left):
    numbers = evaluate(LOGITS, LABELS, rule, COSTS)
    assert numbers == {
        "accuracy": accuracy,
        "relative_cost": pytest.approx(cost),
        "overhead": pytest.approx(overhead),
        "left": left,
    }
    assert summarise(simulate(LOGITS, rule), LABELS, COSTS.under(rule)) == numbers


# --- sweep


RULES = {
    "confidence": Confidence(0.0),
    "class means": ClassMeanConfidence(0.0, [torch.arange(1.0, 5), None]),
    "entropy": Entropy(0.0),
}


@given(
    st.sampled_from(sorted(RULES)),
    st.integers(0, 99),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)
def test_a_row_is_what_evaluate_says(name, seed, thresholds):
    logits, labels = random_logits(seed)
    table = sweep(logits, labels, RULES[name], COSTS, thresholds=thresholds)
    assert list(table.columns) == ["thresholds", "accuracy", "relative_cost", "overhead"]
    for row, vector in zip(table.itertuples(), thresholds, strict=True):
        assert row.thresholds == vector
        numbers = evaluate(logits, labels, replace(RULES[name], thresholds=vector), COSTS)
        assert row.accuracy == pytest.approx(numbers["accuracy"])
        assert row.relative_cost == pytest.approx(numbers["relative_cost"])
        assert row.overhead == pytest.approx(numbers["overhead"])


ONE_VECTOR = torch.ones(1, 2)
FOUR_STAGES = Costs(stages=(10, 30, 30, 30), exits=(5, 15, 15))
NAN_LOGITS = [LOGITS.clone() for _ in range(3)]
for j, z in enumerate(NAN_LOGITS):
    z[j, 2] = torch.nan
BAD_LABELS = [LABELS[:, None], LABELS[:1], LABELS[:3]]
BAD_ROWS = [torch.tensor([[0.5, 0.5], [0.5, bad], [0.5, 0.5]]) for bad in (torch.nan, 7.0, -0.1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": torch.zeros(1, 3)}, r"2 early exits must be \(M, 2\), .*got \(1, 3\)"),
        ({"thresholds": torch.zeros(0, 2)}, "at least one"),
        ({"logits": LOGITS[:, :0], "labels": LABELS[:0]}, "at least one"),
        *[({"labels": bad}, r"of shape \(4,\)") for bad in BAD_LABELS],
        *[({"labels": LABELS - 100 * k}, "leave out ignored ones") for k in (1, -1)],
        ({"costs": FOUR_STAGES}, "costs of 4 stages do not fit logits of 3 exits"),
        *[({"logits": z}, f"exit {j} gave NaN") for j, z in enumerate(NAN_LOGITS)],
        *[({"thresholds": rows}, "must be one number, one per early exit") for rows in BAD_ROWS],
    ],
)  # fmt: skip
def test_a_sweep_refuses(change, message):
    given = {"logits": LOGITS, "labels": LABELS, "costs": COSTS, "thresholds": ONE_VECTOR} | change
    with pytest.raises(ValueError, match=message):
        sweep(rule=Confidence(0.0), **given)
    if change.keys() & {"labels", "costs"} and len(given["labels"]):
        with pytest.raises(ValueError, match=message):
            evaluate(given["logits"], given["labels"], Confidence(0.5), given["costs"])


# --- one operating point


TABLE = pd.DataFrame(
    [(0.5, 0.8), (0.3, 0.8), (0.4, 0.8), (0.3, 0.6), (0.9, 0.9)],
    columns=["relative_cost", "accuracy"],
)


@pytest.mark.parametrize(
    ("choose", "point"),
    [
        ({"budget": 0.3}, (0.3, 0.8)),
        ({"budget": 0.6}, (0.3, 0.8)),  # of the most accurate the cheapest
        ({"budget": 0.9}, (0.9, 0.9)),
        ({"budget": 5.0}, (0.9, 0.9)),
        ({"accuracy": 0.0}, (0.3, 0.8)),  # of the cheapest the most accurate
        ({"accuracy": 0.6}, (0.3, 0.8)),
        ({"accuracy": 0.85}, (0.9, 0.9)),
    ],
)
def test_one_operating_point(choose, point):
    function = best_within_budget if "budget" in choose else cheapest_with_accuracy
    assert tuple(function(TABLE, **choose)) == point


def test_what_cannot_be_had_is_said():
    with pytest.raises(ValueError, match=r"at most 0.2; the cheapest: 0.300"):
        best_within_budget(TABLE, budget=0.2)
    with pytest.raises(ValueError, match=r"accuracy of 0.95; the best reaches 0.900"):
        cheapest_with_accuracy(TABLE, accuracy=0.95)


# --- the search


@settings(max_examples=25)
@given(st.sampled_from(sorted(RULES)), st.integers(0, 99), st.floats(0.1, 1.2), st.booleans())
def test_the_search_is_never_behind_one_threshold(name, seed, budget, coarse):
    """At any budget, on the split that it chooses on; coarse logits make ties."""
    logits, labels = random_logits(seed)
    given = ((logits * 2).round() / 2 if coarse else logits, labels, RULES[name], COSTS)
    scores = torch.stack([RULES[name].score(j, z).score for j, z in enumerate(given[0][:-1])])
    low, high = RULES[name].limits
    levels = torch.cat([scores.flatten().double(), torch.tensor([low, min(high, 9.0)])]).unique()
    single = sweep(*given, thresholds=levels[:, None].expand(-1, 2))
    if (single.relative_cost <= budget).any():
        found = thresholds_for_budgets(*given, budgets=[budget]).iloc[0]
        assert found.relative_cost <= budget
        assert found.accuracy >= best_within_budget(single, budget=budget).accuracy - 1e-9


def few_samples(seed):
    """Eight samples, and the table of all vectors that matter."""
    logits, labels = random_logits(seed, count=8)
    given = (logits, labels, Confidence(0.0), COSTS)
    scores = logits[:-1].softmax(2).amax(2).double()
    levels = [torch.cat([score, torch.tensor([0.0, 1.0])]) for score in scores]
    return given, sweep(*given, thresholds=torch.cartesian_prod(*levels))


def test_a_search_of_few_samples_finds_the_best_vector_there_is():
    given, every = few_samples(seed=5)
    found = thresholds_for_budgets(*given, budgets=(0.01, 0.3, 0.6, 0.9))
    assert found.budget.tolist() == [0.3, 0.6, 0.9]  # nothing costs a hundredth
    for row in found.itertuples():
        assert row.accuracy == best_within_budget(every, budget=row.budget).accuracy


def test_a_search_begins_with_what_it_is_given():
    """Two exits in turn are worth it; every single change from one threshold for all is not."""
    given, every = few_samples(seed=31)
    best = best_within_budget(every, budget=0.6)
    alone, with_it = (
        thresholds_for_budgets(*given, budgets=[0.6], starts=starts).accuracy[0]
        for starts in ((), [best.thresholds])
    )
    assert (alone, with_it) == (0.5, best.accuracy) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": (0.01, 0.02)}, r"at most 0.02; the cheapest: 0\.150"),
        ({"starts": [[0.5]]}, r"must be \(M, 2\)"),
        ({"starts": [[0.5, 1.5]]}, r"in \[0, 1\]"),
        ({"logits": LOGITS[:1], "costs": Costs((10,), ())}, "single exit"),
    ],
)
def test_a_search_refuses(change, message):
    given = {"logits": LOGITS, "labels": LABELS, "rule": Confidence(0.0), "costs": COSTS}
    with pytest.raises(ValueError, match=message):
        thresholds_for_budgets(**given | change)
