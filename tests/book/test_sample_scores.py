"""Scores of training samples: by hand, on two clouds, and on data sets that cannot be scored."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eenotes import EarlyExitNetwork, training
from eenotes.methods.sample_selection import select
from eenotes.methods.scoring import measure
from eenotes_book.ch05_eeprune import complexity_gap, sample_scores
from eenotes_book.ch05_eeprune.complexity_gap import arc_cosine_kernel, complexity_gaps
from eenotes_book.ch05_eeprune.recipe import Recipe

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
        (sample_scores.eeprune, 4 * 60),
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
    for score in (sample_scores.random, sample_scores.svp, sample_scores.eeprune):
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
@pytest.mark.parametrize(
    "score", [sample_scores.random, sample_scores.forgetting, sample_scores.eeprune]
)
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
    with pytest.raises((ValueError, TypeError), match=message):
        sample_scores.random(dataset)


def test_any_data_set_with_rows():
    values = [sample_scores.svp(dataset, RECIPE).values for dataset in (Plain(), DATA)]
    torch.testing.assert_close(*values)


def test_measuring_in_training_mode():
    with pytest.raises(ValueError, match="training mode"):
        measure(build(0).train(), DATA, lambda logits, y: y)
