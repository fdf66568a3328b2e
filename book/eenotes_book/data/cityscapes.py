"""Cityscapes: street scenes with 19 classes, read through torchvision at 512 × 1024."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from eenotes_book.data import IGNORE

SIZE = (512, 1024)  # height and width of an image here
MEAN = torch.tensor([0.287, 0.325, 0.284])  # per channel, of the training images
STD = torch.tensor([0.187, 0.190, 0.187])
_VAL = 300  # validation images, unless another number is wanted


def read(
    wanted: Mapping[str, int | None], *, seed: int
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """The three splits, and the names of the classes.

    Args:
        wanted: split → how many images; ``None``: all there are.
        seed: which of the training images are the validation images.

    Returns:
        Split → images, float32 ``(3, H, W)``, with labels, uint8 ``(H, W)``; the names.

    Raises:
        FileNotFoundError: data that are missing; it says where they must lie.
        ValueError: if a split has fewer images than wanted.
    """
    train, test = _files("train"), _files("val")
    kinds = [kind for kind in train.classes if not kind.ignore_in_eval]
    classes = torch.full((256,), IGNORE, dtype=torch.uint8)
    for kind in kinds:
        classes[kind.id] = kind.train_id
    rows = _rows(wanted, len(train), len(test), seed)
    splits = {
        split: _Images(test if split == "test" else train, rows[split], classes) for split in wanted
    }
    names = tuple(kind.name for kind in sorted(kinds, key=lambda kind: kind.train_id))
    return splits, names


def _files(split: str) -> Dataset:
    import torchvision

    root = Path(os.environ.get("EENOTES_DATA", "data")) / "cityscapes"
    try:
        return torchvision.datasets.Cityscapes(str(root), split=split, target_type="semantic")
    except (RuntimeError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"Cityscapes could not be read from {root.resolve()} ({error}). It needs an account "
            "at www.cityscapes-dataset.com: put leftImg8bit and gtFine there "
            "(torchvision.datasets.Cityscapes), and set EENOTES_DATA to the folder above"
        ) from error


def _rows(
    wanted: Mapping[str, int | None], train: int, test: int, seed: int
) -> dict[str, Sequence[int]]:
    """Split → which of the files it consists of."""
    order = torch.randperm(train, generator=torch.Generator().manual_seed(seed)).tolist()
    held = wanted["val"] or _VAL
    rows = {
        "val": order[:held],
        "train": order[held:][: wanted["train"]],
        "test": list(range(test))[: wanted["test"]],
    }
    for split, count in wanted.items():
        if (count is not None and len(rows[split]) < count) or not rows[split]:
            raise ValueError(
                f"Cityscapes has {len(rows[split])} images left for {split}, not {count}"
            )
    return rows


class _Images(Dataset):
    """Images that are read one at a time: Cityscapes does not fit into memory."""

    def __init__(self, files: Dataset, rows: Sequence[int], classes: Tensor):
        self.files, self.rows, self.classes = files, rows, classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        image, answer = self.files[self.rows[i]]
        size = SIZE[::-1]  # PIL names the width first
        pixels = np.array(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        labels = np.array(answer.resize(size, Image.Resampling.NEAREST))
        scaled = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        scaled = (scaled - MEAN[:, None, None]) / STD[:, None, None]
        return scaled, self.classes[torch.from_numpy(labels).long()]
