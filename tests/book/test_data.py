"""The book's images: embedded digits, and torchvision's files, found, refused or mended."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from eenotes_book.data import vision

# --- digits


def keys(dataset):
    """The images as bytes: which they are, whatever their order."""
    return {image.numpy().tobytes() for image in dataset.tensors[0]}


def test_digits_are_scaled_and_come_with_their_labels():
    data, raw = vision.load("digits", seed=3), load_digits()
    assert data.counts == {"train": 1294, "val": 143, "test": 360}
    assert data.shape == (1, 8, 8) and data.classes == tuple("0123456789")
    pictures = (raw.images * 255 / 16).round().astype("uint8")
    label_of = {image.tobytes(): label for image, label in zip(pictures, raw.target, strict=True)}
    for part in (data.train, data.val, data.test):
        images, labels = part.tensors
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.isfinite().all() and set(labels.tolist()) == set(range(10))
        for image, label in part:
            picture = (data.picture(image) * 255).round().numpy().astype("uint8")
            assert label_of[picture.tobytes()] == label
    images = data.train.tensors[0]
    assert [images.mean(), images.std()] == pytest.approx([0, 1], abs=1e-4)


def test_splits_are_disjoint_and_lose_nothing():
    data = vision.load("digits")
    train, val, test = (keys(part) for part in (data.train, data.val, data.test))
    assert not train & val and not (train | val) & test
    assert len(train | val | test) == len({image.tobytes() for image in load_digits().images})


def test_the_seed_draws_the_images_and_nothing_from_the_generator_outside():
    state, counts = torch.get_rng_state(), {"train": 50, "val": 20, "test": 30}
    first, again, other = (vision.load("digits", seed=seed, **counts) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state) and first.counts == counts
    for part in counts:
        a, b, c = (getattr(data, part).tensors for data in (first, again, other))
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and not torch.equal(a[0], c[0])


def test_scaling_comes_from_the_training_split_alone():
    small, large = vision.load("digits", train=10), vision.load("digits", train=1000)
    assert not torch.equal(small.mean, large.mean)
    image = large.picture(large.test.tensors[0][0])
    assert torch.allclose(small.picture(small.test.tensors[0][0]), image, atol=1e-6)


@pytest.mark.parametrize(
    "train, val, test",
    [(1300, 143, 9), (1438, 0, 9), (1, 1437, 9), (1, 1438, 9), (1, 1, 361), (-1, 1, 1), (0, 1, 1)],
)
def test_too_many_or_no_images(train, val, test):
    with pytest.raises(ValueError, match="digits has .* asked for"):
        vision.load("digits", train=train, val=val, test=test)


def test_unknown_data_set():
    names = "choose one of digits, MNIST, FashionMNIST, KMNIST, CIFAR10, CIFAR100"
    with pytest.raises(ValueError, match=rf"unknown data set 'mnist'; {names}"):
        vision.load("mnist")


# --- pictures, batches


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_undoes_the_scaling(channels):
    images = torch.rand(4, channels, 5, 4, generator=torch.Generator().manual_seed(0))
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    scaled = TensorDataset((images - mean[:, None, None]) / std[:, None, None], torch.arange(4))
    data = vision.Vision("x", scaled, scaled, scaled, ("a",), mean, std)
    picture = data.picture(data.train.tensors[0][1])
    assert picture.shape == ((5, 4) if channels == 1 else (5, 4, 3))
    assert torch.allclose(picture, images[1].permute(1, 2, 0).squeeze(-1), atol=1e-6)
    assert data.picture(torch.full((channels, 5, 4), 1e3)).max() == 1


@given(st.integers(1, 20), st.integers(1, 25))
def test_batches_are_the_samples_in_order_however_often(count, size):
    dataset = TensorDataset(torch.arange(count).float()[:, None], torch.arange(count))
    loader = vision.batches(dataset, size=size)
    for _ in range(2):
        found = list(loader)
        assert len(found) == len(loader) and {len(y) for _, y in found[:-1]} <= {size}
        for part in (torch.cat([x[:, 0] for x, _ in found]), torch.cat([y for _, y in found])):
            assert part.tolist() == list(range(count))


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
    mirrored = (out[:, 0, 2, 1] > out[:, 0, 2, 3]).float().mean().item()
    inside = (out != 0).all((1, 2, 3)).float().mean().item()
    assert sorted(out[:, 0, 2, 2].unique().tolist()) == list(range(1, 26))
    assert (mirrored, inside) == (pytest.approx(0.5, abs=0.05), pytest.approx(1 / 25, abs=0.02))


# --- torchvision's files


def write_idx(folder, *, name="MNIST", train=60_000, test=10_000, labels=None, cut=0):
    """MNIST's files with images of one pixel, as many as the real ones have: 70 kilobytes."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("t10k", test)):
        pixels = rng.integers(0, 256, count, dtype=np.uint8).tobytes()
        images = struct.pack(">iiii", 2051, count, 1, 1) + pixels
        (raw / f"{split}-images-idx3-ubyte").write_bytes(images[: len(images) - cut])
        classes = (np.arange(count if labels is None else labels) % 10).astype(np.uint8)
        header = struct.pack(">ii", 2049, len(classes))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(header + classes.tobytes())


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
    command = f"EENOTES_DOWNLOAD=1 EENOTES_DATA={folder}"
    assert all(part in message for part in (name, command, f"vision.load('{name}')"))
    return message


@pytest.mark.parametrize(("name", "first"), [("MNIST", "0"), ("KMNIST", "o")])
def test_files_in_torchvisions_layout(folder, name, first):
    write_idx(folder, name=name)
    data = vision.load(name, train=100, val=50)
    assert data.counts == {"train": 100, "val": 50, "test": 10_000} and data.shape == (1, 1, 1)
    assert data.classes[0] == first and len(data.classes) == 10
    too_many = rf"{name} has 60000 images for train \+ val, asked for 60001"
    with pytest.raises(ValueError, match=too_many):
        vision.load(name, train=60_000, val=1)


def test_a_hundred_classes_in_torchvisions_layout(folder, monkeypatch):
    kind = torchvision.datasets.CIFAR100
    monkeypatch.setattr(kind, "train_list", [["train", None]])  # no checksum
    monkeypatch.setattr(kind, "test_list", [["test", None]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    names, raw = [f"class {i}" for i in range(100)], folder / "cifar-100-python"
    raw.mkdir()
    (raw / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    for split, count in (("train", 50_000), ("test", 10_000)):
        pixels = np.zeros((count, 3072), dtype=np.uint8)
        pixels[:, 0] = labels = np.arange(count) % 100
        found = {"data": pixels, "fine_labels": labels.tolist()}
        (raw / split).write_bytes(pickle.dumps(found, protocol=5))
    data = vision.load("CIFAR100", train=200, val=10, test=20)
    assert data.shape == (3, 32, 32) and data.classes == tuple(names)
    image, label = data.test[0]
    assert round(data.picture(image)[0, 0, 0].item() * 255) == label


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100"])
def test_missing_data(folder, name, monkeypatch):
    assert "What lies there: nothing" in refused(name, folder)
    (folder / "CamVid").mkdir()
    (folder / "CamVid" / "a.png").touch()
    (folder / "README").touch()
    assert "What lies there: CamVid/ (1 entries), README" in refused(name, folder)
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["CamVid", "README"], "nothing was downloaded or created"
    monkeypatch.setenv("EENOTES_DATA", str(folder / "none"))
    assert "nothing" in refused(name, folder / "none")


@pytest.mark.parametrize(
    "files, words",
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
    assert words in message and "MNIST/ (5 entries)" in message


def test_an_archive_that_is_none(folder):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"nothing")[:-4])
    refused("MNIST", folder)


REAL = [("MNIST", (1, 28, 28), 60_000), ("FashionMNIST", (1, 28, 28), 60_000)]
REAL += [("CIFAR10", (3, 32, 32), 50_000)]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("EENOTES_DATA"), reason="real data: set EENOTES_DATA")
@pytest.mark.parametrize("name, shape, count", REAL)
def test_real_data(name, shape, count):
    data = vision.load(name, train=2000, val=500, test=500)
    assert data.shape == shape and len(data.classes) == 10
    assert torch.bincount(data.train.tensors[1], minlength=10).min() > 100
    with pytest.raises(ValueError, match=f"{name} has {count} images"):
        vision.load(name, train=count, val=1)
