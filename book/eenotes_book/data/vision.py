"""Small images: the digits of scikit-learn; through torchvision MNIST, Fashion-MNIST, KMNIST,
CIFAR-10 and CIFAR-100.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

NAMES = ("digits", "MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")


_DIGITS = tuple(str(digit) for digit in range(10))


_CLASSES = {  # of the others torchvision knows the names
    "MNIST": _DIGITS,
    "FashionMNIST": (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    "CIFAR10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
}


_TEST_SIZE = 10_000


@dataclass(frozen=True)
class Vision:
    """Three splits of one data set, as data sets of (image, label).

    Images are float32 ``(C, H, W)``, shifted and scaled to mean 0 and standard deviation 1 per
    channel of the training split; labels are int64.  ``mean`` and ``std``, ``(C,)``, undo it.
    """

    name: str
    train: TensorDataset
    val: TensorDataset
    test: TensorDataset
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return tuple(self.train.tensors[0].shape[1:])

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(getattr(self, split)) for split in ("train", "val", "test")}

    def picture(self, image: Tensor) -> Tensor:
        """An image ``(C, H, W)`` as it was: values in [0, 1], ``(H, W)`` or ``(H, W, 3)``, for
        plotting.
        """
        image = image.cpu() * self.std[:, None, None] + self.mean[:, None, None]
        return image.permute(1, 2, 0).clamp(0, 1).squeeze(-1)


def load(
    name: str,
    *,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> Vision:
    """Load a data set; the validation split is taken out of the training images.

    ``digits`` is embedded in scikit-learn.  The others come from the folder ``EENOTES_DATA``, in
    torchvision's own layout, or are downloaded there by torchvision when ``EENOTES_DOWNLOAD=1``.

    Args:
        name: one of `NAMES`.
        train: how many training images; ``None``: all that validation leaves.
        val: how many validation images; ``None``: a tenth of the training images.
        test: how many test images; ``None``: all.
        seed: of the drawing, which is stratified by nothing: the first images of one fixed random
            order.

    Raises:
        ValueError: an unknown name, or more images asked for than there are.
        FileNotFoundError: data that are missing or damaged; it names the folder, what was found
            there, and what mends it.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(NAMES)}")
    found = _digits() if name == "digits" else _torchvision(name)
    (images, labels, test_images, test_labels), classes = found
    generator = torch.Generator().manual_seed(seed)
    order, test_order = (torch.randperm(len(y), generator=generator) for y in (labels, test_labels))
    val = len(labels) // 10 if val is None else val
    train = len(labels) - val if train is None else train
    test = len(test_labels) if test is None else test
    for wanted, found, what in [
        (train + val, len(labels), "train + val"),
        (test, len(test_labels), "test"),
    ]:
        if wanted > found or train < 1 or min(val, test) < 0:
            raise ValueError(
                f"{name} has {found} images for {what}, asked for {wanted} "
                f"(train={train}, val={val}, test={test})"
            )
    rows, val_rows, test_rows = order[val : val + train], order[:val], test_order[:test]
    pixels = images[rows].float() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))

    def scaled(x: Tensor, y: Tensor) -> TensorDataset:
        return TensorDataset((x.float() / 255 - mean[:, None, None]) / std[:, None, None], y)

    splits = scaled(images[rows], labels[rows]), scaled(images[val_rows], labels[val_rows])
    return Vision(
        name, *splits, scaled(test_images[test_rows], test_labels[test_rows]), classes, mean, std
    )


def batches(dataset: TensorDataset, *, size: int = 256) -> DataLoader:
    """The samples of a data set in order, for passes without training: a loader of ``(x, y)``."""
    slices = [slice(start, start + size) for start in range(0, len(dataset), size)]
    return DataLoader(_Slices(dataset.tensors, slices), batch_size=None)


class _Slices(torch.utils.data.Dataset):
    def __init__(self, tensors: tuple[Tensor, ...], slices: list[slice]):
        self.tensors, self.slices = tensors, slices

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[self.slices[index]] for tensor in self.tensors)


def crop_and_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Shift each image ``(B, C, H, W)`` by up to ``padding`` pixels and mirror half of them: the
    usual CIFAR augmentation.
    """
    count, _, height, width = images.shape
    shift = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=images.device)
    flip = torch.rand(count, generator=generator, device=images.device) < 0.5
    rows = shift[0][:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = shift[1][:, None] + torch.where(flip[:, None], columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, [padding] * 4).permute(0, 2, 3, 1)
    picked = padded[
        torch.arange(count, device=images.device)[:, None, None],
        rows[:, :, None],
        columns[:, None, :],
    ]
    return picked.permute(0, 3, 1, 2).contiguous()


def _digits() -> tuple[list[Tensor], tuple[str, ...]]:
    """1,797 digits of 8×8 pixels; the last 360 are the test images (other writers than the first
    ones).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    return [images[:-360], labels[:-360], images[-360:], labels[-360:]], _DIGITS


def _torchvision(name: str) -> tuple[list[Tensor], tuple[str, ...]]:
    """Images and labels to train on, images and labels to test on, and the names of the classes."""
    import torchvision

    kind = getattr(torchvision.datasets, name)
    sizes = {True: 50_000 if name.startswith("CIFAR") else 60_000, False: _TEST_SIZE}
    download = os.environ.get("EENOTES_DOWNLOAD") == "1"
    root = Path(os.environ.get("EENOTES_DATA", "data"))
    tensors: list[Tensor] = []
    for train, size in sizes.items():
        try:
            found = kind(root, train=train, download=download)
        except (RuntimeError, OSError, EOFError, ValueError, AssertionError) as error:
            raise FileNotFoundError(
                _how_to_mend(name, root, f"{type(error).__name__}: {error}")
            ) from error
        images = torch.as_tensor(found.data)
        images = images.permute(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
        labels = torch.as_tensor(found.targets)
        if len(images) != size or len(labels) != size:
            raise FileNotFoundError(
                _how_to_mend(
                    name, root, f"{len(images)} images and {len(labels)} labels, not {size}"
                )
            )
        tensors += [images, labels]
    return tensors, _CLASSES.get(name) or tuple(found.classes)


def _how_to_mend(name: str, root: Path, what: str) -> str:
    return (
        f"{name} could not be read from {root.resolve()} ({what}). What lies there: "
        f"{', '.join(_listing(root)) or 'nothing'}. Set EENOTES_DATA to a folder that holds {name} "
        "in torchvision's layout, or let torchvision download it:\n"
        f"  EENOTES_DOWNLOAD=1 EENOTES_DATA={root} python -c "
        f"\"from eenotes_book.data import vision; vision.load('{name}')\""
    )


def _listing(root: Path) -> Iterator[str]:
    if root.is_dir():
        for path in sorted(root.iterdir())[:12]:
            yield (
                f"{path.name}/ ({sum(1 for _ in path.rglob('*'))} entries)"
                if path.is_dir()
                else path.name
            )
