"""Deep embedded clustering: Q, P and the matching by hand; digits found again; bad input."""

import math

import pytest
import torch

from eenotes import clustering
from eenotes.data import vision

QUICK = {"widths": (16, 3), "epochs": 2, "steps": 3, "update_interval": 2, "batch_size": 8}


def test_soft_assignment_and_target_by_hand():
    codes, centroids = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    q = clustering.soft_assignment(codes, centroids)
    # kernels: 1 / (1 + 0), 1 / (1 + 9); 1 / (1 + 1), 1 / (1 + 4)
    expected = torch.tensor([[1 / 1.1, 0.1 / 1.1], [0.5 / 0.7, 0.2 / 0.7]])
    torch.testing.assert_close(q, expected)
    p = expected**2 / expected.sum(0)
    torch.testing.assert_close(clustering.target_distribution(q), p / p.sum(1, keepdim=True))


def test_the_target_is_sharper_than_the_assignment():
    q = torch.tensor([[0.7, 0.3], [0.4, 0.6]])
    assert (clustering.target_distribution(q).max(1).values > q.max(1).values).all()


def test_accuracy_is_that_of_the_best_matching():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert clustering.clustering_accuracy(torch.tensor([2, 2, 0, 0, 1, 1]), labels) == 1.0
    assert clustering.clustering_accuracy(torch.tensor([1, 1, 1, 1, 1, 1]), labels) == pytest.approx(1 / 3)
    assert clustering.clustering_accuracy(torch.tensor([2, 2, 0, 1, 1, 1]), labels) == pytest.approx(5 / 6)
    assert clustering.clustering_accuracy(torch.tensor([0, 0, 1, 1, 3, 4]), labels) == pytest.approx(5 / 6)  # five clusters


def test_unit_power_forgets_shift_and_scale():
    x = torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    unit = clustering.UnitPower()
    torch.testing.assert_close(unit(x)[0].square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(unit(3 * x - 7)[0], unit(x)[0])
    assert torch.equal(unit(x)[1], torch.zeros(3))  # nothing to scale


def test_a_distortion_of_zero_changes_nothing_and_a_large_one_something():
    x = torch.rand(4, 25)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(clustering.distort(x, generator, amount=0.0), x, atol=1e-5, rtol=0)
    assert not torch.allclose(clustering.distort(x, generator, amount=0.3), x, atol=1e-2)


def test_the_same_seed_gives_the_same_clusters_and_leaves_other_generators_alone():
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = clustering.fit(x, num_clusters=3, seed=1, **QUICK)
    assert torch.rand(1) == expected
    second = clustering.fit(x, num_clusters=3, seed=1, **QUICK)
    assert torch.equal(first.assignments, second.assignments)
    nearest = torch.cdist(clustering.embed(first.encoder, x), first.centroids).argmin(1)
    assert torch.equal(nearest, first.assignments)


def test_digits_are_found_far_better_than_chance():
    digits = vision.load("digits", train=800, val=100)
    x = digits.train.tensors[0].flatten(1)
    found = clustering.fit(x, num_clusters=10, widths=(100, 10), epochs=30, steps=20)
    assert clustering.clustering_accuracy(found.assignments, digits.train.tensors[1]) > 0.4


@pytest.mark.parametrize(
    ("x", "clusters", "error", "message"),
    [
        (torch.rand(2, 4), 3, ValueError, "3 clusters of 2"),
        (torch.rand(5, 2, 2), 2, ValueError, "flatten"),
        (torch.full((5, 4), math.nan), 2, ValueError, "5 of 5 samples are not finite"),
        (torch.zeros(5, 4, dtype=torch.int64), 2, TypeError, "floats"),
    ],
)
def test_bad_samples(x, clusters, error, message):
    with pytest.raises(error, match=message):
        clustering.fit(x, num_clusters=clusters, **QUICK)


def test_bad_assignments_and_images():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one label per assignment"):
        clustering.clustering_accuracy(torch.tensor([0]), labels)
    with pytest.raises(TypeError, match="integers"):
        clustering.clustering_accuracy(torch.tensor([0.0, 1.0]), labels)
    with pytest.raises(ValueError, match="square"):
        clustering.distort(torch.rand(2, 5), torch.Generator(), amount=0.1)
