"""The book's images: embedded digits, and torchvision's files, found, refused or mended."""

import gzip
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from eenotes_book.data import vision

# --- digits


def keys(dataset):
    """The images as bytes: which they are, whatever their order."""
    return [image.numpy().tobytes() for image in dataset.tensors[0]]


def test_digits():
    data = vision.load("digits")
    assert data.counts == {"train": 1294, "val": 143, "test": 360}
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    for part in (data.train, data.val, data.test):
        images, labels = part.tensors
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.isfinite().all()
        assert set(labels.tolist()) == set(range(10))
    images = data.train.tensors[0]
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_splits_are_disjoint_and_lose_nothing():
    from sklearn.datasets import load_digits

    data = vision.load("digits")
    train, val, test = (set(keys(part)) for part in (data.train, data.val, data.test))
    assert not train & val
    assert not (train | val) & test
    assert len(train | val | test) == len({image.tobytes() for image in load_digits().images})


def test_labels_belong_to_their_images():
    from sklearn.datasets import load_digits

    raw = load_digits()
    label_of = {
        image.tobytes(): label
        for image, label in zip(
            (raw.images * 255 / 16).round().astype("uint8"), raw.target, strict=True
        )
    }
    data = vision.load("digits", seed=3)
    for part in (data.train, data.val, data.test):
        for image, label in part:
            picture = (data.picture(image) * 255).round().numpy().astype("uint8")
            assert label_of[picture.tobytes()] == label


def test_the_same_seed_draws_the_same_images():
    first, again, other = (
        vision.load("digits", train=50, val=20, test=30, seed=seed) for seed in (0, 0, 1)
    )
    assert first.counts == {"train": 50, "val": 20, "test": 30}
    for part in ("train", "val", "test"):
        a, b, c = (getattr(data, part).tensors for data in (first, again, other))
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
        assert not torch.equal(a[0], c[0])


def test_loading_draws_nothing_from_the_generator_outside():
    state = torch.get_rng_state()
    vision.load("digits")
    assert torch.equal(torch.get_rng_state(), state)


def test_scaling_comes_from_the_training_split_alone():
    small, large = vision.load("digits", train=10), vision.load("digits", train=1000)
    assert not torch.equal(small.mean, large.mean)
    image = large.picture(large.test.tensors[0][0])
    assert torch.allclose(small.picture(small.test.tensors[0][0]), image, atol=1e-6)


@pytest.mark.parametrize(
    "asked",
    [
        {"train": 1300, "val": 143},
        {"train": 1438, "val": 0},
        {"val": 1437},
        {"val": 1438},
        {"test": 361},
        {"train": -1},
        {"train": 0},
    ],
)
def test_too_many_or_no_images(asked):
    with pytest.raises(ValueError, match="digits has .* asked for"):
        vision.load("digits", **asked)


def test_unknown_data_set():
    with pytest.raises(
        ValueError,
        match=r"unknown data set 'mnist'; choose one of digits, MNIST, FashionMNIST, CIFAR10",
    ):
        vision.load("mnist")


# --- pictures, batches


def of_shape(*shape, count=4):
    images = (
        torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(0)).float()
        / 255
    )
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    scaled = TensorDataset((images - mean[:, None, None]) / std[:, None, None], torch.arange(count))
    return images, vision.Vision("x", scaled, scaled, scaled, ("a",), mean, std)


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_undoes_the_scaling(channels):
    images, data = of_shape(channels, 5, 4)
    picture = data.picture(data.train.tensors[0][1])
    assert picture.shape == ((5, 4) if channels == 1 else (5, 4, 3))
    assert torch.allclose(picture, images[1].permute(1, 2, 0).squeeze(-1), atol=1e-6)
    assert data.picture(torch.full((channels, 5, 4), 1e3)).max() == 1


@given(st.integers(1, 20), st.integers(1, 25))
def test_batches_are_the_samples_in_order(count, size):
    dataset = TensorDataset(torch.arange(count).float()[:, None], torch.arange(count))
    found = list(vision.batches(dataset, size=size))
    assert [len(y) for _, y in found] == [size] * (count // size) + [count % size] * (
        count % size > 0
    )
    assert (
        torch.cat([x for x, _ in found])[:, 0].tolist()
        == torch.cat([y for _, y in found]).tolist()
        == list(range(count))
    )


def test_batches_can_be_asked_again():
    loader = vision.batches(TensorDataset(torch.zeros(5, 1), torch.arange(5)), size=2)
    assert (
        [y.tolist() for _, y in loader] == [y.tolist() for _, y in loader] == [[0, 1], [2, 3], [4]]
    )
    assert len(loader) == 3


def slow_crop_and_flip(images, shift, flip, padding):
    count, channels, height, width = images.shape
    out = torch.zeros_like(images)
    for i in range(count):
        for row in range(height):
            for column in range(width):
                y = row + int(shift[0, i]) - padding
                x = (width - 1 - column if flip[i] else column) + int(shift[1, i]) - padding
                if 0 <= y < height and 0 <= x < width:
                    out[i, :, row, column] = images[i, :, y, x]
    return out


@given(st.integers(0, 999), st.integers(1, 3), st.integers(0, 3))
def test_crop_and_flip_is_the_slow_loop(seed, channels, padding):
    images = torch.randn(4, channels, 4, 5)
    found = vision.crop_and_flip(images, torch.Generator().manual_seed(seed), padding=padding)
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(0, 2 * padding + 1, (2, 4), generator=generator)
    flip = torch.rand(4, generator=generator) < 0.5
    assert torch.equal(found, slow_crop_and_flip(images, shift, flip, padding))


def test_half_of_the_images_are_mirrored_and_all_shifts_occur():
    image = torch.arange(1.0, 26).reshape(1, 1, 5, 5).expand(4000, 1, 5, 5)
    out = vision.crop_and_flip(image, torch.Generator().manual_seed(0), padding=2)
    mirrored = out[:, 0, 2, 1] > out[:, 0, 2, 3]
    centre = out[:, 0, 2, 2]
    inside = (out != 0).all((1, 2, 3))
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert sorted(centre.unique().tolist()) == list(range(1, 26))
    assert inside.float().mean().item() == pytest.approx(1 / 25, abs=0.02)


def test_no_padding_and_no_change_but_mirroring():
    images = torch.randn(50, 2, 3, 4)
    out = vision.crop_and_flip(images, torch.Generator().manual_seed(0), padding=0)
    mirrored = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(out, images, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(out, images, strict=True)])
    assert (mirrored ^ kept).all()
    assert mirrored.any()
    assert kept.any()


# --- torchvision's files


def write_idx(folder, *, train=60_000, test=10_000, labels=None, cut=0):
    """MNIST's files with images of one pixel: as many as the real ones have, in 70 kilobytes."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        images = (
            struct.pack(">iiii", 2051, count, 1, 1)
            + rng.integers(0, 256, count, dtype=np.uint8).tobytes()
        )
        (raw / f"{name}-images-idx3-ubyte").write_bytes(images[: len(images) - cut])
        classes = np.arange(count if labels is None else labels) % 10
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">ii", 2049, len(classes)) + classes.astype(np.uint8).tobytes()
        )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_DATA", str(tmp_path))
    monkeypatch.delenv("EENOTES_DOWNLOAD", raising=False)
    return tmp_path


def refused(name, folder):
    """The message, which names the folder and a command that mends it."""
    with pytest.raises(FileNotFoundError) as error:
        vision.load(name)
    message = str(error.value)
    assert name in message
    assert str(folder) in message
    assert f"EENOTES_DOWNLOAD=1 EENOTES_DATA={folder}" in message
    assert f"vision.load('{name}')" in message
    return message


def test_files_in_torchvisions_layout(folder):
    write_idx(folder)
    data = vision.load("MNIST", train=100, val=50)
    assert data.counts == {"train": 100, "val": 50, "test": 10_000}
    assert data.shape == (1, 1, 1)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10"])
def test_missing_data(folder, name):
    assert "What lies there: nothing" in refused(name, folder)
    assert "What lies there: nothing" in refused(name, folder)
    (folder / "CamVid").mkdir()
    (folder / "CamVid" / "a.png").touch()
    (folder / "README").touch()
    assert "What lies there: CamVid/ (1 entries), README" in refused(name, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["CamVid", "README"], (
        "nothing was downloaded or created"
    )


def test_a_missing_folder(folder, monkeypatch):
    monkeypatch.setenv("EENOTES_DATA", str(folder / "none"))
    assert "nothing" in refused("MNIST", folder / "none")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"cut": 1}, "Error"),
        ({"cut": 30_000}, "Error"),
        ({"train": 59_999}, "59999 images and 59999 labels, not 60000"),
        ({"test": 9_999}, "9999 images and 9999 labels, not 10000"),
        ({"labels": 5}, "5 labels"),
    ],
)
def test_data_cut_short_or_of_the_wrong_size(folder, files, words):
    write_idx(folder, **files)
    message = refused("MNIST", folder)
    assert words in message
    assert "MNIST/ (5 entries)" in message


def test_an_archive_that_is_none(folder):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"nothing")[:-4])
    refused("MNIST", folder)


def test_too_many_images_of_a_file(folder):
    write_idx(folder)
    with pytest.raises(
        ValueError, match=r"MNIST has 60000 images for train \+ val, asked for 60001"
    ):
        vision.load("MNIST", train=60_000, val=1)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("EENOTES_DATA"), reason="needs real data: EENOTES_DATA is not set"
)
@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("MNIST", (1, 28, 28), 60_000),
        ("FashionMNIST", (1, 28, 28), 60_000),
        ("CIFAR10", (3, 32, 32), 50_000),
    ],
)
def test_real_data(name, shape, count):
    data = vision.load(name, train=2000, val=500, test=500)
    assert data.shape == shape
    assert torch.bincount(data.train.tensors[1], minlength=10).min() > 100
    assert len(data.classes) == 10
    with pytest.raises(ValueError, match=f"{name} has {count} images"):
        vision.load(name, train=count, val=1)
