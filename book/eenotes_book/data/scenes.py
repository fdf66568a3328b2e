"""Street scenes with a class for every pixel: three data sets behind one function, `load`.

They are drawn scenes (`eenotes_book.data.drawn_scenes`), CamVid (`eenotes_book.data.camvid`) and
Cityscapes (`eenotes_book.data.cityscapes`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from eenotes_book.data import IGNORE, camvid, cityscapes, drawn_scenes, vision

__all__ = ["IGNORE", "NAMES", "Scenes", "at_places", "batches", "load"]

NAMES = ("drawn", "CamVid", "Cityscapes")
_SIZES = {"drawn": drawn_scenes.SIZE, "CamVid": camvid.SIZE, "Cityscapes": cityscapes.SIZE}
_DRAWN_COUNTS = {"train": 96, "val": 32, "test": 48}


@dataclass(frozen=True)
class Scenes:
    """Three splits of one data set, as data sets of (image, labels).

    Images are float32 ``(3, H, W)`` with mean 0 and standard deviation 1 per channel over the
    training split; labels are uint8 ``(H, W)``, a class or `IGNORE`.  ``mean`` and ``std``,
    ``(3,)``, undo the scaling.
    """

    name: str
    train: Dataset
    val: Dataset
    test: Dataset
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    @property
    def counts(self) -> dict[str, int]:
        """Split → number of images."""
        return {split: len(getattr(self, split)) for split in ("train", "val", "test")}

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return _SIZES[self.name]

    def picture(self, image: Tensor) -> Tensor:
        """An image ``(3, H, W)`` as it was: ``(H, W, 3)`` in [0, 1], for plotting."""
        original = image.cpu() * self.std[:, None, None] + self.mean[:, None, None]
        return original.permute(1, 2, 0).clamp(0, 1)


def load(
    name: str,
    *,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> Scenes:
    """Load a data set of street scenes.

    ``drawn``: made here from the seed, no file needed.  ``CamVid``: 11 classes at 180 × 240, from
    the folder ``EENOTES_DATA``, or downloaded when ``EENOTES_DOWNLOAD=1``.  ``Cityscapes``: 19
    classes at 512 × 1024 through torchvision, which cannot download it; its public validation
    images are the test split here, and validation is taken out of training.

    Args:
        name: one of `NAMES`.
        train: how many training images; by default all there are (``drawn``: 96).
        val: how many validation images (``drawn``: 32; Cityscapes: 300).
        test: how many test images (``drawn``: 48).
        seed: of the drawn scenes, and of which images a part of a data set consists of.

    Raises:
        ValueError: an unknown name, or more images than there are.
        FileNotFoundError: data that are missing or damaged; it names the folder, what was found
            there, and what mends it.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(NAMES)}")
    wanted = {"train": train, "val": val, "test": test}
    if any(count is not None and count < 1 for count in wanted.values()):
        raise ValueError(f"every split needs at least one image, got {wanted}")
    if name == "drawn":
        return _scaled(name, _drawn(wanted, seed), drawn_scenes.CLASSES)
    if name == "CamVid":
        whole = camvid.read()
        parts = {split: _part(whole[split], wanted[split], seed, split) for split in wanted}
        return _scaled(name, parts, camvid.CLASSES)
    splits, classes = cityscapes.read(wanted, seed=seed)
    return Scenes(name, **splits, classes=classes, mean=cityscapes.MEAN, std=cityscapes.STD)


def batches(dataset: Dataset, *, size: int = 16) -> DataLoader:
    """A loader of ``(images, labels)`` in order, for passes over a split without training."""
    if isinstance(dataset, TensorDataset):
        return vision.batches(dataset, size=size)
    return DataLoader(dataset, size)


def at_places(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps ``(B, H, W)`` at a coarser grid ``(B, h, w)``.

    A cell has the label of the pixel nearest to its middle.
    """
    rows, columns = (
        ((torch.arange(count) + 0.5) * full / count).long().to(labels.device)
        for count, full in zip(size, labels.shape[1:], strict=True)
    )
    return labels[:, rows[:, None], columns]


def _drawn(wanted: Mapping[str, int | None], seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Every split from a seed of its own."""
    return {
        split: drawn_scenes.draw(
            _DRAWN_COUNTS[split] if count is None else count, seed=1000 * seed + i
        )
        for i, (split, count) in enumerate(wanted.items())
    }


def _part(
    whole: tuple[Tensor, Tensor], count: int | None, seed: int, split: str
) -> tuple[Tensor, Tensor]:
    """A number of CamVid's images, chosen by the seed and kept in order."""
    images, labels = whole
    if count is None:
        return whole
    if count > len(images):
        raise ValueError(f"CamVid {split} has {len(images)} images, not {count}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rows = order[:count].sort().values
    return images[rows], labels[rows]


def _scaled(
    name: str, splits: Mapping[str, tuple[Tensor, Tensor]], classes: tuple[str, ...]
) -> Scenes:
    """The splits with images scaled by mean and standard deviation of the training split."""
    images = splits["train"][0].float() / 255
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    scaled = {
        split: TensorDataset((x.float() / 255 - mean[:, None, None]) / std[:, None, None], y)
        for split, (x, y) in splits.items()
    }
    return Scenes(name, **scaled, classes=classes, mean=mean, std=std)
