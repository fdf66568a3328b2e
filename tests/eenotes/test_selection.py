"""Selections small enough for pen and paper."""

import math
import warnings

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from eenotes.methods.sample_selection import Scores, SelectionWarning, select

INF = math.inf


def scores(values, labels=None):
    values = torch.tensor(values, dtype=torch.float64)
    labels = torch.zeros(len(values)) if labels is None else torch.tensor(labels)
    return Scores("test", values, labels.long())


# --- select


@pytest.mark.parametrize(
    ("values", "labels", "ratio", "balanced", "drop"),
    [
        ([0.3, 0.1, 0.9, 0.2], None, 0.5, False, [1, 3]),
        ([0.3, 0.1], None, 0.0, False, []),
        # class 0 has all the low scores; the quota takes two of its four, and one of class 1's two
        ([0.0, 0.1, 0.2, 0.3, 0.8, 0.7], [0, 0, 0, 0, 1, 1], 0.5, True, [0, 1, 5]),
    ],
)
def test_the_lowest_scores_go(values, labels, ratio, balanced, drop):
    chosen = select(scores(values, labels), ratio, balanced)
    assert chosen.drop.tolist() == drop and chosen.wanted == len(drop)
    assert chosen.keep.tolist() == [row for row in range(len(values)) if row not in drop]


def given_up(labels, wanted):
    """How many samples each class gives, if ``wanted`` of them go."""
    labels = torch.tensor(labels)
    drop = select(Scores("test", torch.zeros(len(labels)), labels), wanted / len(labels), True).drop
    return labels[drop].bincount(minlength=int(labels.max()) + 1)


def test_quotas_round_the_largest_remainders_up():
    """4, 3 and 3 samples, 5 to go: 2, 1.5, 1.5; one of the two halves is rounded up."""
    assert given_up([0] * 4 + [1] * 3 + [2] * 3, 5).tolist() == [2, 2, 1]


def test_infinite_scores_are_never_dropped_and_it_says_so():
    with pytest.warns(SelectionWarning, match=r"3 of 4 samples.*only 1 qualify"):
        chosen = select(scores([INF, 0.5, INF, INF]), 0.75)
    assert chosen.drop.tolist() == [1]
    assert chosen.wanted == 3


def test_equal_scores_do_not_favour_the_first_rows():
    equal = scores([0.0] * 1000, [0] * 500 + [1] * 500)
    drop = select(equal, 0.3).drop
    assert 100 < (drop < 500).sum() < 200
    assert torch.equal(select(equal, 0.3).drop, drop), "the same seed"
    assert not torch.equal(select(equal, 0.3, seed=1).drop, drop)


@given(
    st.lists(st.tuples(st.floats(0, 1) | st.just(INF), st.integers(0, 3)), min_size=1, max_size=40),
    st.floats(0, 0.99),
    st.booleans(),
)
def test_every_row_is_kept_or_dropped_and_none_worse_is_kept(pairs, ratio, balanced):
    assume(round(ratio * len(pairs)) < len(pairs))
    values, labels = map(list, zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)
        chosen = select(scores(values, labels), ratio, balanced)
    keep, drop = chosen.keep.tolist(), chosen.drop.tolist()
    assert sorted(keep + drop) == list(range(len(values)))
    assert len(drop) == min(chosen.wanted, sum(v < INF for v in values)) or balanced
    assert all(values[row] < INF for row in drop)
    for k in set(labels) if balanced else [None]:
        inside = [row for row in range(len(values)) if k is None or labels[row] == k]
        kept, gone = (
            [values[row] for row in inside if row in part] for part in (set(keep), set(drop))
        )
        assert not kept or not gone or max(gone) <= min(kept)
    if balanced:
        quotas = given_up(labels, chosen.wanted).tolist()
        for k, quota in enumerate(quotas):
            here = [v for v, label in zip(values, labels, strict=True) if label == k and v < INF]
            assert sum(labels[row] == k for row in drop) == min(quota, len(here))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=50), st.floats(0, 1))
def test_quotas_add_up_and_stay_within_one_of_their_share(labels, ratio):
    wanted = min(round(ratio * len(labels)), len(labels) - 1)
    quotas, sizes = given_up(labels, wanted), torch.tensor(labels).bincount()
    assert quotas.sum() == wanted
    assert ((quotas - sizes * wanted / len(labels)).abs() < 1).all()
    assert (quotas <= sizes).all()


@pytest.mark.parametrize(
    ("ratio", "count", "message"),
    [(ratio, 2, r"must be in \[0, 1\)") for ratio in (1.0, -0.1, 1.5, math.nan)]
    + [(0.96, 10, "would leave none")],
)
def test_a_ratio_that_leaves_nothing_or_is_none(ratio, count, message):
    with pytest.raises(ValueError, match=message):
        select(scores([0.1] * count), ratio)


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        ([], [], "one value per label"),
        ([0.1], [0, 1], "one value per label"),
        ([math.nan], [0], "NaN"),
        ([0.1], [-1], "whole numbers"),
    ],
)
def test_scores_that_are_none(values, labels, message):
    with pytest.raises(ValueError, match=message):
        scores(values, labels)
