"""Deep embedded clustering: Q, P and the matching by hand; digits found again; bad input."""

import math

import pytest
import torch

from eenotes import split
from eenotes_book import deep_clustering
from eenotes_book.data import vision

SMALL = {"epochs": 2, "steps": 5, "widths": [6, 2], "update_interval": 2}


def fit(x, *, num_clusters=3, seed=0, **options):
    recipe = deep_clustering.Recipe(**SMALL | options)
    return deep_clustering.fit(x, recipe, num_clusters=num_clusters, seed=seed)


def samples(count=30, width=4):
    return torch.rand(count, width, generator=torch.Generator().manual_seed(0))


def test_soft_assignment_and_target_by_hand():
    codes, centroids = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    q = deep_clustering.soft_assignment(codes, centroids)
    # Student's kernel 1 / (1 + d²): 1 and 1/10 for the first sample, 1/2 and 1/5 for the second
    torch.testing.assert_close(q, torch.tensor([[10 / 11, 1 / 11], [5 / 7, 2 / 7]]))
    # soft cluster sizes: 10/11 + 5/7 = 125/77 and 29/77; q² / size, up to a common factor: 100/125
    # : 1/29 and 25/125 : 4/29
    expected = torch.tensor(
        [
            [0.8 / (0.8 + 1 / 29), (1 / 29) / (0.8 + 1 / 29)],
            [0.2 / (0.2 + 4 / 29), (4 / 29) / (0.2 + 4 / 29)],
        ]
    )
    torch.testing.assert_close(deep_clustering.target_distribution(q), expected)


def test_soft_assignment_of_codes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not match"):
        deep_clustering.soft_assignment(torch.zeros(5, 3), torch.zeros(2, 4))


def test_refinement_of_one_cluster_moves_nothing():
    short, long = (fit(samples(), num_clusters=1, steps=steps) for steps in (1, 3))
    assert torch.equal(short.centroids, long.centroids)  # Q = P = 1
    assert torch.equal(short.encoder[1].weight, long.encoder[1].weight)
    assert (long.assignments == 0).all()


@pytest.mark.parametrize(
    ("assignments", "accuracy"),
    [
        ([2, 2, 0, 0, 1, 1], 1.0),
        ([1, 1, 1, 1, 1, 1], 1 / 3),
        ([2, 2, 0, 1, 1, 1], 5 / 6),
        ([0, 3, 1, 1, 2, 2], 5 / 6),  # more clusters than classes: the fourth has no partner
    ],
)
def test_accuracy_is_that_of_the_best_matching(assignments, accuracy):
    found = deep_clustering.clustering_accuracy(
        torch.tensor(assignments), torch.tensor([0, 0, 1, 1, 2, 2])
    )
    assert found == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("assignments", "labels", "error", "message"),
    [
        (torch.zeros(3).long(), torch.zeros(4).long(), ValueError, "one label per assignment"),
        (torch.zeros(0).long(), torch.zeros(0).long(), ValueError, "one label per assignment"),
        (torch.tensor([0, -1]), torch.tensor([0, 1]), ValueError, "negative"),
        (torch.zeros(2), torch.tensor([0, 1]), TypeError, "whole numbers"),
    ],
)
def test_accuracy_of_bad_input(assignments, labels, error, message):
    with pytest.raises(error, match=message):
        deep_clustering.clustering_accuracy(assignments, labels)


def test_codes_ignore_shift_and_scale_of_a_sample():
    encoder, _ = deep_clustering.autoencoder(4, [6, 2])
    torch.testing.assert_close(encoder(5 * samples() - 3), encoder(samples()))
    scaled = encoder[0](samples())
    torch.testing.assert_close(scaled.square().mean(1), torch.ones(len(scaled)))
    assert (scaled.amin(1) == 0).all()
    assert (encoder[0](torch.full((1, 4), 2.0)) == 0).all()


def test_distortion_moves_the_picture_within_its_bounds():
    picture = torch.zeros(50, 81)
    picture[:, 40] = 1.0  # the middle of 9 × 9

    def distorted(amount):
        return deep_clustering._distort(picture, torch.Generator().manual_seed(0), amount=amount)

    torch.testing.assert_close(distorted(0.0), picture, atol=1e-5, rtol=0)
    moved = distorted(0.2).view(50, 9, 9)
    assert not torch.equal(moved[0], moved[1])
    assert moved[:, 4, 4].min() < 0.9
    # Seen from the middle a shift by 0.2 of half the side is 0.9 pixels; zoom and slant can stretch
    # it to 1.5, and blur reaches 1 more.
    moved[:, 2:7, 2:7] = 0
    assert (moved == 0).all()


def test_a_seed_repeats_a_run_and_leaves_the_generators_outside_alone():
    x, before = samples(), torch.random.get_rng_state()
    first, second, other = (fit(x, distortion=0.2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.centroids, second.centroids)
    assert torch.equal(first.assignments, second.assignments)
    assert not torch.equal(first.centroids, other.centroids)


def test_what_comes_back_fits_together():
    x = samples()
    found = fit(x)
    assert found.centroids.shape == (3, 2)
    assert found.assignments.dtype == torch.int64
    # targets before the steps 0, 2 and 4; no change ends it early
    assert 1 <= len(found.changed) <= 2
    nearest = (found.encoder(x)[:, None] - found.centroids).norm(dim=2).argmin(1)
    assert torch.equal(nearest, found.assignments)
    early, last = split(found.encoder, at=["2"])
    torch.testing.assert_close(last(early(x)), found.encoder(x))
    assert (early(x) >= 0).all()


def test_refinement_stops_when_nothing_changes():
    found = fit(samples(), steps=50, update_interval=5, tolerance=1.0)
    assert len(found.changed) == 1  # any change is tolerated: the second target is the last


def test_digits_are_found_without_labels():
    x, labels = vision.load("digits", train=1100, val=337).train.tensors
    recipe = deep_clustering.Recipe(epochs=20, steps=100, widths=[100, 100, 400, 10], batch_size=64)
    found = deep_clustering.fit(x.flatten(1), recipe, num_clusters=10)
    # chance, with matching: about 0.17
    assert deep_clustering.clustering_accuracy(found.assignments, labels) > 0.6


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (samples()[0], {}, ValueError, r"must be \(N, D\)"),
        (samples(2), {}, ValueError, "3 clusters of 2 samples"),
        (samples().fill_(math.nan), {}, ValueError, "30 of 30 samples are not finite"),
        (samples().long(), {}, TypeError, "floats"),
        (samples(width=5), {"distortion": 0.1}, ValueError, "square images"),
        (samples(), {"distortion": 1.5}, ValueError, "amount"),
        (samples(), {"widths": [6, 0]}, ValueError, "at least one unit"),
        (samples(), {"epochs": 0}, ValueError, "epochs"),
        (samples(), {"update_interval": 0}, ValueError, "update_interval=0"),
        (samples(), {"steps": 0}, ValueError, "steps=0"),
        (
            samples(),
            {"refine_rate": 1e30, "steps": 3, "update_interval": 3},
            ValueError,
            "diverged before step 3",
        ),
    ],
)
def test_bad_samples_and_options(x, options, error, message):
    with pytest.raises(error, match=message):
        fit(x, **options)
