"""Scores and selections small enough for pen and paper, and networks that are tables."""

import math
import warnings
from functools import partial

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eenotes import EarlyExitNetwork, training
from eenotes.baselines import complexity_gap, sample_scores
from eenotes.baselines.complexity_gap import arc_cosine_kernel, complexity_gaps
from eenotes.methods import eeprune
from eenotes.methods.sample_selection import (
    Scores,
    SelectionWarning,
    class_quotas,
    imbalance,
    select,
    split_rows,
)
from eenotes.methods.scoring import Recipe, measure

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


def test_quotas_round_the_largest_remainders_up():
    """4, 3 and 3 samples, 5 to go: 2, 1.5, 1.5; one of the two halves is rounded up."""
    labels = torch.tensor([0] * 4 + [1] * 3 + [2] * 3)
    assert class_quotas(labels, 5).tolist() == [2, 2, 1]


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
        quotas = class_quotas(torch.tensor(labels), chosen.wanted).tolist()
        for k, quota in enumerate(quotas):
            here = [v for v, label in zip(values, labels, strict=True) if label == k and v < INF]
            assert sum(labels[row] == k for row in drop) == min(quota, len(here))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50), st.floats(0, 1))
def test_quotas_add_up_and_stay_within_one_of_their_share(labels, ratio):
    labels, wanted = torch.tensor(labels), round(ratio * len(labels))
    quotas, sizes = class_quotas(labels, wanted), labels.bincount()
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


def test_imbalance_by_hand():
    """Of three and three, three of class 0 and one of class 1 are kept: ¾ and ¼ instead of ½ and ½,
    so a quarter is out of place.
    """
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    for drop, wanted in [([3, 4], 0.25), ([0, 3], 0), ([0, 1, 2], 0.5)]:
        assert imbalance(split_rows(torch.tensor(drop), 6), labels) == pytest.approx(wanted)


# --- their mathematics


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_el2n_of_given_probabilities(dtype):
    """(.6, .3, .1) against class 0: √(.16 + .09 + .01); right and sure: 0; wrong and sure: √2."""
    p = torch.tensor([[0.6, 0.3, 0.1], [1.0, 0, 0], [0, 1.0, 0]])
    norms = sample_scores.error_norm(p, torch.tensor([0, 0, 0], dtype=dtype))
    assert norms.tolist() == pytest.approx([math.sqrt(0.26), 0, math.sqrt(2)])


def test_forgetting_of_a_hand_made_history():
    """Sample by sample: never forgotten; forgotten once; twice; late to learn, then kept; never
    learned: as often as it was shown.
    """
    rows = [[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    history = torch.tensor(rows).bool().T
    assert sample_scores.forgetting_events(history).tolist() == [0, 1, 2, 0, 4]


def test_forgetting_wants_a_history():
    with pytest.raises(ValueError, match="booleans"):
        sample_scores.forgetting_events(torch.zeros(3, 2))


def test_entropy_of_even_and_sure():
    entropies = sample_scores.entropy(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    assert entropies.tolist() == pytest.approx([math.log(2), 0], abs=1e-6)


def test_arc_cosine_kernel_by_hand():
    """Same direction ½; right angle 0; 60°: ½ (π − π/3) / 2π = 1/6; opposite 0."""
    x = torch.tensor([[1.0, 0], [0, 1], [0.5, math.sqrt(0.75)], [-1, 0]], dtype=torch.float64)
    assert arc_cosine_kernel(x)[0].tolist() == pytest.approx([0.5, 0, 1 / 6, 0], abs=1e-12)


def test_complexity_gap_against_the_direct_formula_on_40_points():
    torch.manual_seed(0)
    x = nn.functional.normalize(torch.randn(40, 6, dtype=torch.float64), dim=1)
    y = torch.where(torch.rand(40) < 0.5, -1.0, 1.0).double()
    kernel = arc_cosine_kernel(x)
    whole = y @ torch.linalg.solve(kernel, y)
    direct = []
    for a in range(40):
        rest = [i for i in range(40) if i != a]
        direct.append(whole - y[rest] @ torch.linalg.solve(kernel[rest][:, rest], y[rest]))
    gaps = complexity_gaps(kernel, y)
    torch.testing.assert_close(gaps, torch.stack(direct), rtol=1e-8, atol=1e-8)


# --- on a data set

torch.manual_seed(0)
Y = torch.arange(60) % 2
X = torch.randn(60, 2) + 3 * Y[:, None]  # two clouds
DATA = TensorDataset(X, Y)


def build(seed, inputs=2):
    stages = [nn.Sequential(nn.Linear(inputs, 8), nn.ReLU()), nn.Linear(8, 2)]
    return EarlyExitNetwork(stages, [nn.Linear(8, 2)])


RECIPE = Recipe(build, epochs=3, batch_size=20)


@pytest.mark.parametrize(
    ("score", "seen"),
    [
        (sample_scores.random, 0),
        (partial(sample_scores.el2n, networks=2), 2 * 4 * 60),
        (sample_scores.forgetting, 3 * 60),
        (sample_scores.svp, 4 * 60),
        (complexity_gap.complexity_gap, 0),
        (eeprune.scores, 4 * 60),
    ],
    ids=["random", "el2n", "forgetting", "svp", "complexity_gap", "eeprune"],
)
def test_one_signature(score, seen):
    state = torch.get_rng_state()
    first, again = score(DATA, RECIPE), score(DATA, RECIPE)
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers stay"
    assert torch.equal(first.values, again.values), "the same seed, the same scores"
    assert first.values.dtype == torch.float64 and first.values.shape == (60,)
    assert torch.equal(first.labels, Y)
    assert first.samples_seen == seen
    assert first.seconds > 0
    assert len(select(first, 0.1).drop) == 6


def test_seeds_differ():
    for score in (sample_scores.random, sample_scores.svp, eeprune.scores):
        values = [score(DATA, RECIPE, seed=seed).values for seed in (0, 1)]
        assert not torch.equal(*values)


def test_el2n_is_the_mean_over_its_networks():
    parts = [sample_scores.el2n(DATA, RECIPE, seed=i, networks=1).values for i in (2, 3)]
    values = sample_scores.el2n(DATA, RECIPE, seed=1, networks=2).values
    torch.testing.assert_close(values, (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize(
    "score",
    [partial(sample_scores.el2n, networks=2), complexity_gap.complexity_gap],
    ids=["el2n", "complexity_gap"],
)
def test_a_wrong_label_has_the_highest_score(score):
    y = Y.clone()
    y[7] = 1 - y[7]
    x = torch.cat([3 * X, torch.ones(60, 1)], 1)
    recipe = Recipe(partial(build, inputs=3), epochs=10, batch_size=20)
    assert score(TensorDataset(x, y), recipe).values.argmax() == 7


def test_complexity_gap_of_large_classes_in_parts_and_of_equal_samples(monkeypatch):
    monkeypatch.setattr(complexity_gap, "_LARGEST", 7)
    equal = TensorDataset(X[:1].expand(60, 2), Y)
    assert complexity_gap.complexity_gap(equal).values.isfinite().all()


def test_forgetting_follows_the_rows_through_every_order():
    """A network that cannot learn (rate 0) is right about the same samples in both epochs."""
    recipe = Recipe(build, epochs=2, batch_size=20, optimizer=partial(training.sgd, lr=0.0))
    net = recipe.network(0)
    right = net(X)[-1].argmax(1) == Y
    values = sample_scores.forgetting(DATA, recipe).values
    assert torch.equal(values, torch.where(right, 0.0, 2.0).double())


def test_no_networks():
    with pytest.raises(ValueError, match="networks=0"):
        sample_scores.el2n(DATA, RECIPE, networks=0)


def test_complexity_gap_needs_two_classes_and_directions():
    with pytest.raises(ValueError, match="only one class"):
        complexity_gap.complexity_gap(TensorDataset(X, torch.zeros_like(Y)))
    with pytest.raises(ValueError, match="zero everywhere"):
        complexity_gap.complexity_gap(TensorDataset(torch.cat([X[:-1], torch.zeros(1, 2)]), Y))


# --- the data set


class Shuffling(Dataset):
    """Draws a new order every time its first row is asked for."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self):
        return 60

    def __getitem__(self, row):
        if row == 0:
            self.order = torch.randperm(60, generator=self.generator)
        return X[self.order[row]], Y[self.order[row]]


class Augmenting(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, row):
        return X[row] + torch.randn(2), Y[row]


class Plain(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, row):
        return X[row], int(Y[row])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


NOT_FINITE = torch.where(torch.arange(60)[:, None] == 3, math.nan, X)


@pytest.mark.parametrize("dataset", [Shuffling(), Augmenting()])
@pytest.mark.parametrize("score", [sample_scores.random, sample_scores.forgetting, eeprune.scores])
def test_a_data_set_that_changes_between_epochs(dataset, score):
    with pytest.raises(ValueError, match="rows changed between two readings"):
        score(dataset, RECIPE)


@pytest.mark.parametrize("dataset", [DataLoader(DATA, 10, shuffle=True), Stream(), iter(DATA)])
def test_no_data_set(dataset):
    with pytest.raises(TypeError, match="a loader's order changes"):
        sample_scores.el2n(dataset, RECIPE)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(X[:0], Y[:0]), "empty"),
        (TensorDataset(NOT_FINITE, Y), r"1 samples hold NaN or infinite values \(first: row 3\)"),
        (list(zip(NOT_FINITE, Y, strict=True)), r"1 samples hold NaN"),
        (TensorDataset(X, X[:, 0]), "whole number"),
    ],
)
def test_a_data_set_that_cannot_be_scored(dataset, message):
    with pytest.raises(ValueError, match=message):
        sample_scores.random(dataset)


def test_any_data_set_with_rows():
    values = [sample_scores.svp(dataset, RECIPE).values for dataset in (Plain(), DATA)]
    torch.testing.assert_close(*values)


def test_measuring_in_training_mode():
    with pytest.raises(ValueError, match="training mode"):
        measure(build(0).train(), DATA, lambda logits, y: y)
