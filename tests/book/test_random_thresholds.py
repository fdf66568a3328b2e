"""Random threshold vectors open every exit to every share; a front is what nothing beats."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eenotes import Confidence, Entropy
from eenotes.costs import Costs
from eenotes.thresholds import best_within_budget, cheapest_with_accuracy, evaluate, sweep
from eenotes_book.random_thresholds import draw_thresholds, pareto_front

# (J, N, K) = (3, 4, 2) with confidences .9 .8 .7 .6 at the first exit, .55 everywhere at the second
FIRST = [0.9, 0.8, 0.7, 0.6]
LOGITS = torch.tensor(
    [[[math.log(p), math.log(1 - p)] for p in c] for c in (FIRST, [0.55] * 4, [0.3, 0.9, 0.9, 0.9])]
)


@given(st.sampled_from([Confidence(0.0), Entropy(0.0)]), st.integers(0, 20))
def test_a_drawn_threshold_means_the_same_later(rule, seed):
    """It is the score of one sample, which exits, or stays, in the table as in simulate."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, 30, 4, generator=generator)
    data = logits, torch.randint(4, (30,), generator=generator)
    costs = Costs(stages=(10, 30, 60), exits=(5, 15))
    drawn = draw_thresholds(logits, rule, count=8, seed=seed)
    for row in sweep(*data, rule, costs, thresholds=drawn).itertuples():
        numbers = evaluate(*data, replace(rule, thresholds=row.thresholds), costs)
        assert numbers["relative_cost"] == pytest.approx(row.relative_cost)


@pytest.mark.parametrize("how", ["quantile", "uniform"])
def test_draws_depend_on_the_seed_alone(how):
    def draw(seed, threshold=0.0):
        return draw_thresholds(LOGITS, Confidence(threshold), count=20, seed=seed, how=how)

    torch.manual_seed(1)
    first = draw(3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(draw(3, threshold=0.5), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(draw(4), first)
    assert first.shape == (20, 2)


@pytest.mark.parametrize("rule", [Confidence(0.0), Entropy(0.0)])
def test_quantiles_open_every_exit_to_every_share(rule):
    """Confidences between .10 and .11, as E²CM's with ten classes: uniform draws miss them all."""
    logits = 0.01 * torch.randn(3, 200, 10, generator=torch.Generator().manual_seed(0))
    drawn = draw_thresholds(logits, rule, count=400)
    for j in range(2):
        score = rule.score(j, logits[j]).score
        leave = rule.leaves(score, drawn[:, j, None].float()).double().mean(1)
        assert (leave == 0).any()
        assert (leave > 0.9).any()
        spread = torch.histc(leave[leave > 0], bins=4, min=0, max=1) / (leave > 0).sum()
        assert (spread > 0.15).all()


def test_a_closed_exit_stays_closed_on_other_data():
    for rule, never in ((Confidence(0.0), 1.0), (Entropy(0.0), 0.0)):
        drawn = draw_thresholds(LOGITS, rule, count=200)
        closed = drawn == never
        assert 0.2 < closed.double().mean() < 0.8
        for j in range(2):
            assert set(drawn[:, j][~closed[:, j]].tolist()) <= set(
                rule.score(j, LOGITS[j]).score.tolist()
            )


def test_the_order_of_the_samples_does_not_change_the_draws():
    rule, order = Confidence(0.0), torch.tensor([2, 0, 3, 1])
    assert torch.equal(
        draw_thresholds(LOGITS, rule, count=9), draw_thresholds(LOGITS[:, order], rule, count=9)
    )


def test_uniform_is_for_confidences():
    with pytest.raises(ValueError, match="uniform"):
        draw_thresholds(LOGITS, Entropy(0.0), count=2, how="uniform")
    with pytest.raises(ValueError, match="'quantiles' must be"):
        draw_thresholds(LOGITS, Confidence(0.0), count=2, how="quantiles")


def table(points):
    return pd.DataFrame(points, columns=["relative_cost", "accuracy"])


def pairs(frame):
    return list(frame[["relative_cost", "accuracy"]].itertuples(index=False, name=None))


# a small grid: many ties
points = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=12)


def test_front_by_hand():
    given_points = [(3, 5), (1, 2), (2, 2), (2, 4), (3, 3), (4, 5), (5, 6)]
    assert pairs(pareto_front(table(given_points))) == [(1, 2), (2, 4), (3, 5), (5, 6)]


@given(points)
def test_front_is_what_no_other_row_beats(found):
    beaten = {p for p in found for q in found if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert pairs(pareto_front(table(found))) == sorted(set(found) - beaten)


def test_front_keeps_the_other_columns_and_leaves_the_table_alone():
    whole = table([(2, 1), (1, 1), (3, 2)]).assign(thresholds=["a", "b", "c"])
    copy = whole.copy()
    assert pareto_front(whole).thresholds.tolist() == ["b", "c"]
    pd.testing.assert_frame_equal(whole, copy)


@given(points, st.integers(0, 13))
def test_an_operating_point_lies_on_the_front(found, limit):
    front = pairs(pareto_front(table(found)))
    if any(cost <= limit for cost, _ in found):
        assert tuple(best_within_budget(table(found), budget=limit)) in front
    if any(accuracy >= limit for _, accuracy in found):
        assert tuple(cheapest_with_accuracy(table(found), accuracy=limit)) in front
