"""Scores and selections small enough for pen and paper, and networks that are tables."""

import math
import warnings

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eenotes import EarlyExitNetwork
from eenotes.baselines import sample_scores
from eenotes.baselines.sample_scores import Recipe
from eenotes.methods import eeprune, sample_selection
from eenotes.methods.sample_selection import Scores, SelectionWarning, select

INF = math.inf


def scores(values, labels=None):
    values = torch.tensor(values, dtype=torch.float64)
    return Scores(
        "test",
        values,
        torch.zeros(len(values), dtype=torch.int64) if labels is None else torch.tensor(labels),
    )


def rows_of(tensor):
    return tensor.tolist()


# --- select


def test_the_lowest_scores_go():
    chosen = select(scores([0.3, 0.1, 0.9, 0.2]), 0.5)
    assert (rows_of(chosen.keep), rows_of(chosen.drop), chosen.wanted) == ([0, 2], [1, 3], 2)


def test_ratio_zero_keeps_everything():
    chosen = select(scores([0.3, 0.1]), 0.0)
    assert (rows_of(chosen.keep), rows_of(chosen.drop)) == ([0, 1], [])


def test_balanced_takes_the_same_share_of_each_class():
    """Class 0 has all the low scores; the quota takes two of its four samples and one of the other
    class's two.
    """
    chosen = select(scores([0.0, 0.1, 0.2, 0.3, 0.8, 0.7], [0, 0, 0, 0, 1, 1]), 0.5, True)
    assert rows_of(chosen.drop) == [0, 1, 5]


def test_quotas_round_the_largest_remainders_up():
    """4, 3 and 3 samples, 5 to go: 2, 1.5, 1.5; one of the two halves is rounded up."""
    assert sample_selection.class_quotas(torch.tensor([0] * 4 + [1] * 3 + [2] * 3), 5).tolist() == [
        2,
        2,
        1,
    ]


def test_infinite_scores_are_never_dropped_and_it_says_so():
    with pytest.warns(SelectionWarning, match=r"3 of 4 samples.*only 1 qualify"):
        chosen = select(scores([INF, 0.5, INF, INF]), 0.75)
    assert rows_of(chosen.drop) == [1]
    assert chosen.wanted == 3


def test_equal_scores_do_not_favour_the_first_rows():
    labels = [0] * 500 + [1] * 500
    chosen = select(scores([0.0] * 1000, labels), 0.3)
    assert 100 < sum(row < 500 for row in rows_of(chosen.drop)) < 200
    assert rows_of(select(scores([0.0] * 1000, labels), 0.3).drop) == rows_of(chosen.drop), (
        "the same seed"
    )
    assert rows_of(select(scores([0.0] * 1000, labels), 0.3, seed=1).drop) != rows_of(chosen.drop)


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
    keep, drop = rows_of(chosen.keep), rows_of(chosen.drop)
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
        for k, quota in enumerate(
            sample_selection.class_quotas(torch.tensor(labels), chosen.wanted).tolist()
        ):
            here = [v for v, label in zip(values, labels, strict=True) if label == k and v < INF]
            assert sum(labels[row] == k for row in drop) == min(quota, len(here))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50), st.floats(0, 1))
def test_quotas_add_up_and_stay_within_one_of_their_share(labels, ratio):
    labels, wanted = torch.tensor(labels), round(ratio * len(labels))
    quotas, sizes = sample_selection.class_quotas(labels, wanted), labels.bincount()
    assert quotas.sum() == wanted
    assert ((quotas - sizes * wanted / len(labels)).abs() < 1).all()
    assert (quotas <= sizes).all()


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, math.nan])
def test_a_ratio_outside_zero_to_one(ratio):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        select(scores([0.1, 0.2]), ratio)


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
        Scores(
            "test",
            torch.tensor(values, dtype=torch.float64),
            torch.tensor(labels, dtype=torch.int64),
        )


def test_imbalance_by_hand():
    """Of three and three, three of class 0 and one of class 1 are kept: ¾ and ¼ instead of ½ and ½,
    so a quarter is out of place.
    """
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert sample_selection.imbalance(
        sample_selection.split_rows(torch.tensor([3, 4]), 6), labels
    ) == pytest.approx(0.25)
    assert (
        sample_selection.imbalance(sample_selection.split_rows(torch.tensor([0, 3]), 6), labels)
        == 0
    )
    assert sample_selection.imbalance(
        sample_selection.split_rows(torch.tensor([0, 1, 2]), 6), labels
    ) == pytest.approx(0.5)


# --- their mathematics


def test_el2n_of_given_probabilities():
    """(.6, .3, .1) against class 0: √(.16 + .09 + .01); right and sure: 0; wrong and sure: √2."""
    p = torch.tensor([[0.6, 0.3, 0.1], [1.0, 0, 0], [0, 1.0, 0]])
    assert sample_scores.error_norm(p, torch.tensor([0, 0, 0])).tolist() == pytest.approx(
        [math.sqrt(0.26), 0, math.sqrt(2)]
    )


def test_forgetting_of_a_hand_made_history():
    """Sample by sample: never forgotten; forgotten once; twice; late to learn, then kept; never
    learned: as often as it was shown.
    """
    history = (
        torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
        .bool()
        .T
    )
    assert sample_scores.forgetting_events(history).tolist() == [0, 1, 2, 0, 4]


def test_forgetting_wants_a_history():
    with pytest.raises(ValueError, match="booleans"):
        sample_scores.forgetting_events(torch.zeros(3, 2))


def test_entropy_of_even_and_sure():
    assert sample_scores.entropy(
        torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    ).tolist() == pytest.approx([math.log(2), 0], abs=1e-6)


def test_arc_cosine_kernel_by_hand():
    """Same direction ½; right angle 0; 60°: ½ (π − π/3) / 2π = 1/6; opposite 0."""
    x = torch.tensor([[1.0, 0], [0, 1], [0.5, math.sqrt(0.75)], [-1, 0]], dtype=torch.float64)
    assert sample_scores.arc_cosine_kernel(x)[0].tolist() == pytest.approx(
        [0.5, 0, 1 / 6, 0], abs=1e-12
    )


def test_complexity_gap_against_the_direct_formula_on_40_points():
    torch.manual_seed(0)
    x = nn.functional.normalize(torch.randn(40, 6, dtype=torch.float64), dim=1)
    y = torch.where(torch.rand(40) < 0.5, -1.0, 1.0).double()
    kernel = sample_scores.arc_cosine_kernel(x)
    whole = y @ torch.linalg.solve(kernel, y)
    direct = []
    for a in range(40):
        rest = [i for i in range(40) if i != a]
        direct.append(whole - y[rest] @ torch.linalg.solve(kernel[rest][:, rest], y[rest]))
    torch.testing.assert_close(
        sample_scores.complexity_gaps(kernel, y), torch.stack(direct), rtol=1e-8, atol=1e-8
    )


# --- on a data set

torch.manual_seed(0)
Y = torch.arange(60) % 2
X = torch.randn(60, 2) + 3 * Y[:, None]  # two clouds
DATA = TensorDataset(X, Y)


def build(seed):
    return EarlyExitNetwork(
        [nn.Sequential(nn.Linear(2, 8), nn.ReLU()), nn.Linear(8, 2)], [nn.Linear(8, 2)]
    )


RECIPE = Recipe(build, epochs=3, batch_size=20)


@pytest.mark.parametrize(
    ("score", "seen"),
    [
        (lambda d, r: sample_scores.random(d, r), 0),
        (lambda d, r: sample_scores.el2n(d, r, networks=2), 2 * 4 * 60),
        (lambda d, r: sample_scores.forgetting(d, r, networks=2), 2 * 3 * 60),
        (lambda d, r: sample_scores.svp(d, r), 4 * 60),
        (lambda d, r: sample_scores.complexity_gap(d, r), 0),
        (lambda d, r: eeprune.scores(d, r), 4 * 60),
    ],
    ids=["random", "el2n", "forgetting", "svp", "complexity_gap", "eeprune"],
)
def test_one_signature(score, seen):
    state = torch.get_rng_state()
    first, again = score(DATA, RECIPE), score(DATA, RECIPE)
    assert torch.equal(state, torch.get_rng_state()), (
        "the random numbers of the caller stay untouched"
    )
    assert torch.equal(first.values, again.values), "the same seed, the same scores"
    assert first.values.dtype == torch.float64 and first.values.shape == (60,)
    assert torch.equal(first.labels, Y)
    assert first.samples_seen == seen
    assert first.seconds > 0
    assert len(select(first, 0.1).drop) == 6


def test_seeds_differ():
    for score in (sample_scores.random, sample_scores.svp, eeprune.scores):
        assert not torch.equal(
            score(DATA, RECIPE, seed=0).values, score(DATA, RECIPE, seed=1).values
        )


def test_el2n_is_the_mean_over_its_networks():
    parts = [sample_scores.el2n(DATA, RECIPE, seed=i, networks=1).values for i in (2, 3)]
    torch.testing.assert_close(
        sample_scores.el2n(DATA, RECIPE, seed=1, networks=2).values, (parts[0] + parts[1]) / 2
    )


def test_el2n_finds_a_wrong_label():
    y = Y.clone()
    y[7] = 1 - y[7]
    values = sample_scores.el2n(
        TensorDataset(X * 3, y), Recipe(build, epochs=10, batch_size=20), networks=2
    ).values
    assert values.argmax() == 7


def test_complexity_gap_finds_a_wrong_label():
    y = Y.clone()
    y[7] = 1 - y[7]
    x = torch.cat([X, torch.ones(60, 1)], 1)
    assert sample_scores.complexity_gap(TensorDataset(x, y)).values.argmax() == 7


def test_complexity_gap_of_large_classes_in_parts_and_of_equal_samples():
    values = sample_scores.complexity_gap(TensorDataset(X[:1].expand(60, 2), Y), largest=7).values
    assert values.isfinite().all()


def test_the_history_that_forgetting_counts():
    """The samples come in any order; the history is kept by their rows."""
    watch = sample_scores._History(3, 2)

    def model(x):
        return [torch.stack([-x[:, 0], x[:, 0]], 1).to(watch.right.device)]

    device = watch.right.device
    x, y = (
        torch.tensor([[1.0], [-1.0], [1.0]], device=device),
        torch.tensor([1, 1, 0], device=device),
    )
    for rows in ([2, 0], [1], [0, 1], [2]):
        rows = torch.tensor(rows, device=device)
        watch(model, (x[rows] if len(rows) > 1 else -x[rows], y[rows], rows))
    assert watch.right.tolist() == [[True, True, False], [True, False, True]]


@pytest.mark.parametrize("bad", [{"networks": 0}])
def test_no_networks(bad):
    for score in (sample_scores.el2n, sample_scores.forgetting):
        with pytest.raises(ValueError, match="networks=0"):
            score(DATA, RECIPE, **bad)


def test_complexity_gap_needs_two_classes_and_directions():
    with pytest.raises(ValueError, match="only one class"):
        sample_scores.complexity_gap(TensorDataset(X, torch.zeros(60, dtype=torch.int64)))
    with pytest.raises(ValueError, match="zero everywhere"):
        sample_scores.complexity_gap(TensorDataset(torch.cat([X[:-1], torch.zeros(1, 2)]), Y))


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


@pytest.mark.parametrize("dataset", [Shuffling(), Augmenting()])
@pytest.mark.parametrize("score", [sample_scores.random, sample_scores.forgetting, eeprune.scores])
def test_a_data_set_that_changes_between_epochs(dataset, score):
    with pytest.raises(ValueError, match="rows changed between two readings"):
        score(dataset, RECIPE)


@pytest.mark.parametrize("dataset", [DataLoader(DATA, 10, shuffle=True), Stream(), iter(DATA)])
def test_no_data_set(dataset):
    with pytest.raises(TypeError, match="a loader's order changes"):
        sample_scores.el2n(dataset, RECIPE)


def test_an_empty_data_set():
    with pytest.raises(ValueError, match="empty"):
        sample_scores.random(TensorDataset(X[:0], Y[:0]))


def test_samples_that_are_not_finite():
    x = X.clone()
    x[3] = math.nan
    for dataset in (TensorDataset(x, Y), list(zip(x, Y, strict=True))):
        with pytest.raises(
            ValueError, match=r"1 samples hold NaN or infinite values \(first: row 3\)"
        ):
            sample_scores.random(dataset)


def test_a_ratio_that_leaves_nothing():
    scores = sample_selection.Scores(
        "mine", torch.arange(10.0), torch.zeros(10, dtype=torch.int64), 0, 0.0
    )
    with pytest.raises(ValueError, match="would leave none"):
        sample_selection.select(scores, 0.96)


def test_error_norm_takes_labels_of_every_whole_type():
    wanted = sample_scores.error_norm(torch.eye(3), torch.tensor([0, 1, 0]))
    assert wanted.tolist() == pytest.approx([0, 0, math.sqrt(2)])
    assert torch.equal(
        sample_scores.error_norm(torch.eye(3), torch.tensor([0, 1, 0], dtype=torch.uint8)), wanted
    )


def test_labels_that_are_none():
    with pytest.raises(ValueError, match="whole number"):
        sample_scores.random(TensorDataset(X, X[:, 0]))


def test_any_data_set_with_rows():
    torch.testing.assert_close(
        sample_scores.svp(Plain(), RECIPE).values, sample_scores.svp(DATA, RECIPE).values
    )


def test_measuring_in_training_mode():
    with pytest.raises(ValueError, match="training mode"):
        sample_scores.measure(build(0).train(), DATA, lambda logits, y: y)
