"""ClassMeans: one pass, one K × D array, the same however the samples arrive."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance, shrunk_covariance

from eenotes import ClassMeans, class_statistics
from eenotes.class_statistics import ClassMoments

X = torch.tensor([[1.0, 10], [3, 30], [5, 50], [7, 70]])
Y = torch.tensor([0, 1, 0, 1])


def samples(seed=0, count=60, shape=(3, 2), classes=4):
    """Every class at least once."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat(
        [torch.arange(classes), torch.randint(classes, (count - classes,), generator=generator)]
    )
    return torch.randn(count, *shape, generator=generator), labels


def fitted(x, y, classes=4, size=None):
    means = ClassMeans(classes)
    for part in range(0, len(x), size or len(x)):
        means.update(x[part : part + (size or len(x))], y[part : part + (size or len(x))])
    return means


def direct(x, y, classes=4):
    """(means, root mean square distance of all samples to each), in double precision."""
    x = x.double().flatten(1)
    means = torch.stack([x[y == k].mean(0) for k in range(classes)])
    return means, torch.stack([(x - mean).square().sum(1).mean().sqrt() for mean in means])


# --- by hand


def test_means_by_hand():
    means = fitted(X, Y, 2)
    assert means.compute().tolist() == [[3, 30], [5, 50]]
    assert means.counts.tolist() == [2, 2]


def test_root_mean_square_distance_by_hand():
    """Two numbers 0 and 2 of class 0, one number 4 of class 1: the means are 1 and 4, the squares
    (1+1+9)/3 and (16+4+0)/3.
    """
    means = fitted(torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([0, 0, 1]), 2)
    assert means.compute().tolist() == [[1], [4]]
    assert means.root_mean_square_distance().tolist() == pytest.approx(
        [(11 / 3) ** 0.5, (20 / 3) ** 0.5]
    )


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 3, 4), (2, 2, 2, 2)])
def test_features_of_any_shape_come_back_in_it(shape):
    x, y = samples(shape=shape)
    means = fitted(x, y, size=7)
    assert means.compute().shape == (4, *shape)
    expected, distance = direct(x[:, None], y)
    assert torch.allclose(means.compute().flatten().double(), expected.flatten(), atol=1e-5)
    assert torch.allclose(means.root_mean_square_distance().double(), distance, rtol=1e-4)


# --- the same however samples arrive


@given(st.integers(0, 99), st.lists(st.integers(1, 59), max_size=5), st.randoms())
def test_any_split_into_batches_in_any_order(seed, cuts, random):
    x, y = samples(seed)
    parts = list(
        zip(
            torch.tensor_split(x, sorted(set(cuts))),
            torch.tensor_split(y, sorted(set(cuts))),
            strict=True,
        )
    )
    random.shuffle(parts)
    means = ClassMeans(4)
    for part in parts:
        means.update(*part)
    expected, distance = direct(x, y)
    assert torch.allclose(means.compute().flatten(1).double(), expected, atol=1e-5)
    assert torch.allclose(means.root_mean_square_distance().double(), distance, rtol=1e-5)


@pytest.mark.parametrize("limit", [0, 256])
def test_both_ways_of_summing_agree(monkeypatch, limit):
    monkeypatch.setattr(class_statistics, "_ONE_HOT_CLASSES", limit)
    x, y = samples(shape=(5,))
    assert torch.allclose(fitted(x, y, size=7).compute().double(), direct(x, y)[0], atol=1e-5)


def test_many_classes():
    x, y = samples(count=900, shape=(3,), classes=300)
    assert torch.allclose(
        fitted(x, y, 300, size=100).compute().double(), direct(x, y, 300)[0], atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8])
def test_sums_are_float32_whatever_comes_in(dtype):
    """In half precision a sum of a thousand ones would stop long before it gets there."""
    x, y = torch.ones(4000, 2, dtype=dtype), torch.arange(4000) % 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        means = fitted(x, y, 2, size=1000)
    assert means.compute().dtype == torch.float32
    assert means.compute().tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_any_whole_type(dtype):
    assert fitted(X, Y.to(dtype), 2).compute().tolist() == [[3, 30], [5, 50]]


def test_a_large_common_offset_over_many_batches():
    """1,000 batches around 100 with standard deviation 1: the means keep five digits, the distances
    three.
    """
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(64_000, 8, generator=generator) + 100,
        torch.randint(3, (64_000,), generator=generator),
    )
    means, (expected, distance) = fitted(x, y, 3, size=64), direct(x, y, 3)
    assert torch.allclose(means.compute().double(), expected, rtol=1e-5)
    assert torch.allclose(means.root_mean_square_distance().double(), distance, rtol=2e-3)


# --- memory, copies


def test_memory_is_one_array_of_classes_by_features():
    x, y = samples(count=500, shape=(7, 3))
    kept = [part for part in vars(fitted(x, y, size=10)).values() if isinstance(part, torch.Tensor)]
    assert [tuple(part.shape) for part in kept] == [(4, 21), (4,)]


def test_the_features_are_not_kept():
    x = X.clone().requires_grad_()
    means = fitted(x * 2, Y, 2)
    assert not means.compute().requires_grad
    assert not means.root_mean_square_distance().requires_grad


def test_copies_are_independent_and_can_be_pickled():
    means = fitted(X, Y, 2)
    for twin in (copy.deepcopy(means), pickle.loads(pickle.dumps(means))):
        twin.update(X + 2, Y)
        assert twin.compute().tolist() == [[4, 31], [6, 51]]
    assert means.compute().tolist() == [[3, 30], [5, 50]]


# --- bad input changes nothing


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (torch.zeros(0, 2), Y[:0], "at least one"),
        (X, Y[:3], "as many labels as samples"),
        (X, Y[:, None], "as many labels as samples"),
        (X, Y.float(), "whole numbers"),
        (X, torch.tensor([0, 1, 2, 0]), r"0\.\.1, got 0\.\.2"),
        (X, torch.tensor([0, 1, -1, 0]), r"0\.\.1, got -1\.\.1"),
        (X[:, :1], Y, r"were \(2,\), these are \(1,\)"),
        (X[:, :, None], Y, r"were \(2,\), these are \(2, 1\)"),
        (X.clone().index_fill_(0, torch.tensor(2), float("nan")), Y, "NaN"),
        (X.clone().index_fill_(0, torch.tensor(2), float("inf")), Y, "infinite"),
        (X.to("meta"), Y, "one device"),
        (X, Y.to("meta"), "one device"),
    ],
)
def test_bad_batches_are_refused_and_change_nothing(features, labels, words):
    means = fitted(X, Y, 2)
    before = copy.deepcopy(means)
    with pytest.raises((ValueError, TypeError), match=words):
        means.update(features, labels)
    assert means.summed().squares == before.squares
    assert means.compute().tolist() == [[3, 30], [5, 50]]


def test_a_bad_first_batch_does_not_fix_the_shape():
    means = ClassMeans(2)
    with pytest.raises(ValueError):
        means.update(torch.full((4, 5), float("nan")), Y)
    means.update(X, Y)
    assert means.compute().tolist() == [[3, 30], [5, 50]]


def test_a_class_without_samples():
    means = fitted(X, Y * 2, 4)
    for ask in (means.compute, means.root_mean_square_distance):
        with pytest.raises(ValueError, match=r"no sample of class \[1, 3\]"):
            ask()
    means.update(X, Y * 2 + 1)
    assert means.compute().shape == (4, 2)


def test_at_least_one_class():
    with pytest.raises(ValueError, match="at least 1"):
        ClassMeans(0)


# --- moments


def moments(x, y, *, size=16):
    found = ClassMoments(3)
    for part in range(0, len(x), size):
        found.update(x[part : part + size], y[part : part + size])
    return found


def coloured(count=200, *, offset=0.0):
    """Features of three classes whose noise has unequal and correlated components."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(count) % 3
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.0, 0.0, 0.1]], dtype=torch.float64)
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64) @ mixing
    return noise + y[:, None] + offset, y


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_covariance_within_the_classes_is_scikit_learn_s(offset):
    x, y = coloured(offset=offset)
    found = moments(x, y).compute()
    centred = (x - torch.stack([x[y == k].mean(0) for k in range(3)])[y]).numpy()
    expected = EmpiricalCovariance(assume_centered=True).fit(centred).covariance_
    assert torch.allclose(found.covariance, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    shrunk = shrunk_covariance(expected, shrinkage=0.3)
    assert torch.allclose(found.shrunk(0.3), torch.from_numpy(shrunk), rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.means[1], x[y == 1].mean(0))


def test_float32_features_far_from_zero_keep_a_covariance():
    """A thousand standard deviations away, float32 features are rounded to 1e-4, and no worse."""
    x, y = coloured(offset=1000.0)
    near, far = moments(x - 1000, y).compute(), moments(x.float(), y).compute()
    assert torch.allclose(far.covariance, near.covariance, atol=1e-3)
    assert torch.linalg.eigvalsh(far.covariance).min() > 0


def test_moments_refuse_what_cannot_be_averaged():
    x, y = coloured(12)
    with pytest.raises(ValueError, match="at least 1"):
        ClassMoments(0)
    for empty in (ClassMoments(3), ClassMeans(3)):
        with pytest.raises(ValueError, match="nothing to average"):
            empty.compute()
    found = moments(x, y)
    for bad, labels, words in [
        (x[:, :2], y, "features before were"),
        (x, y + 1, r"0\.\.2"),
        (x * torch.nan, y, "NaN"),
        (x[None].expand(12, 12, 3), y, "features before were"),
        (x, y[:3], "as many labels"),
    ]:
        with pytest.raises(ValueError, match=words):
            found.update(bad, labels)
    assert found.compute().counts.sum() == 12, "a refused batch changes nothing"
    for shrinkage in (0.0, 1.1):
        with pytest.raises(ValueError, match="shrinkage"):
            found.compute().shrunk(shrinkage)
    with pytest.raises(ValueError, match="do not vary"):
        moments(torch.ones(6, 3), torch.arange(6) % 3).compute().shrunk(0.5)


def _moments_of_a_part(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3
    )
    x, y = coloured(offset=100.0)
    part = {0: slice(0, 0), 1: slice(0, 150), 2: slice(150, 200)}[rank]  # rank 0 has no sample
    found = moments(x[part], y[part]).compute()
    torch.save((found.means, found.counts, found.covariance), f"{folder}/{rank}.pt")


def test_moments_of_uneven_and_empty_processes(tmp_path):
    torch.multiprocessing.start_processes(
        _moments_of_a_part, (str(tmp_path),), nprocs=3, start_method="fork"
    )
    whole = moments(*coloured(offset=100.0)).compute()
    for rank in range(3):
        means, counts, covariance = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(counts, whole.counts)
        assert torch.allclose(means, whole.means) and torch.allclose(covariance, whole.covariance)
