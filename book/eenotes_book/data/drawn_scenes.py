"""Street scenes drawn from a seed, with a class for every pixel: no file is needed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eenotes_book.data import IGNORE

CLASSES = ("road", "sky", "building", "vegetation", "car", "person", "pole", "bus")
SIZE = (64, 96)  # height and width of an image


def draw(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draw street scenes, the same ones for the same seed.

    As in a real street road, sky and buildings cover most of the picture, people and poles little
    of it, and a bus is rare.  Colours overlap between classes, the light changes, and everything is
    noisy, so that shape and place matter.

    Args:
        count: how many scenes.
        seed: of all scenes; scene i is the same for every ``count``.

    Returns:
        Images ``(count, 3, H, W)`` and labels ``(count, H, W)``, both uint8.

    Raises:
        ValueError: fewer than one scene.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    pictures = [DrawnScene(np.random.default_rng([seed, i]), SIZE).draw() for i in range(count)]
    images, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*pictures, strict=True))
    return images.permute(0, 3, 1, 2).contiguous(), labels


class DrawnScene:
    """One picture: a canvas ``(H, W, 3)`` in [0, 1], its labels, and a random generator.

    A subclass that notes more about a scene than its labels overrides `on_painted`.

    Args:
        rng: every random choice of the scene comes from it.
        size: (H, W).
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng, (self.H, self.W) = rng, size
        self.image = np.zeros((self.H, self.W, 3))
        self.labels = np.full((self.H, self.W), IGNORE, np.uint8)
        self.y, self.x = np.mgrid[: self.H, : self.W]
        self.horizon = int(self.H * rng.uniform(0.42, 0.55))

    def on_painted(self, name: str, where: np.ndarray) -> None:
        """Called after each thing is painted, far things first; here it does nothing.

        Args:
            name: one of `CLASSES`.
            where: ``(H, W)`` bool, the pixels that the thing covers.
        """

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture ``(H, W, 3)`` and its labels ``(H, W)``, both uint8."""
        self._paint("sky", self.y < self.horizon, (0.55, 0.7, 0.9), noise=0.03)
        self._buildings()
        self._road()
        for _ in range(self.rng.integers(1, 4)):
            self._tree()
        self._things()
        self._hood()
        return self._lit(), self.labels

    def _road(self) -> None:
        below = self.y - self.horizon
        self._paint("road", below >= 0, (0.4, 0.4, 0.42), noise=0.05)
        middle = np.abs(self.x - self.W / 2) < 0.6 + below / 30
        self._tint(middle & (below > 0) & (self.y // 4 % 2 == 0), (0.8, 0.8, 0.75))

    def _things(self) -> None:
        """Cars, people, poles and now and then a bus, far ones first."""
        rng = self.rng
        things = [self._car] * rng.integers(1, 4)
        things += [self._person] * rng.integers(0, 3)
        things += [self._pole] * rng.integers(1, 4)
        things += [self._bus] * (rng.random() < 0.15)
        depths = np.sort(rng.uniform(0, 1, len(things)))
        for thing, depth in zip(rng.permutation(np.array(things, object)), depths, strict=True):
            thing(depth)

    def _hood(self) -> None:
        """The hood of the camera's own car, which has no class."""
        hood = ((self.x - self.W / 2) / (0.45 * self.W)) ** 2 + ((self.y - self.H) / 5.0) ** 2 < 1
        self.image[hood], self.labels[hood] = (0.1, 0.1, 0.12), IGNORE

    def _lit(self) -> np.ndarray:
        """The canvas in another light, brighter on one side, with noise; uint8."""
        strength = self.rng.uniform(0.6, 1.15)
        side = 1 + self.rng.uniform(-0.25, 0.25) * (self.x / self.W - 0.5)
        colour = self.rng.uniform(0.92, 1.08, 3)
        noise = self.rng.normal(0, 0.05, self.image.shape)
        image = self.image * (strength * side[..., None]) * colour + noise
        return (image.clip(0, 1) * 255).round().astype(np.uint8)

    def _paint(self, name: str, where: np.ndarray, color: Sequence[float], *, noise: float) -> None:
        """Cover pixels with a thing of a class: a colour with coarse and fine noise."""
        coarse = self.rng.normal(0, noise, (self.H // 4 + 1, self.W // 4 + 1, 1))
        coarse = coarse.repeat(4, 0).repeat(4, 1)[: self.H, : self.W]
        fine = self.rng.normal(0, noise, (self.H, self.W, 1))
        self.image[where] = (np.asarray(color) + coarse + fine)[where]
        self.labels[where] = CLASSES.index(name)
        self.on_painted(name, where)

    def _tint(self, where: np.ndarray, color: Sequence[float]) -> None:
        """Another colour on pixels that keep their class."""
        self.image[where] = color

    def _box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        return (self.x >= left) & (self.x < right) & (self.y >= top) & (self.y < bottom)

    def _buildings(self) -> None:
        rng = self.rng
        left = -rng.uniform(0, 10)
        while left < self.W:
            width, top = rng.uniform(10, 26), self.horizon * rng.uniform(0.05, 0.8)
            where = self._box(left, top, left + width, self.horizon)
            color = rng.uniform(0.3, 0.7) * np.array([1.0, rng.uniform(0.75, 1), 0.85])
            self._paint("building", where, color, noise=0.04)
            windows = where & ((self.x - int(left)) % 5 > 2) & ((self.y - int(top)) % 6 > 3)
            self._tint(windows, rng.uniform(0.1, 0.8) * np.ones(3))
            left += width + (rng.uniform(4, 14) if rng.random() < 0.3 else 0)

    def _tree(self) -> None:
        rng = self.rng
        x, y = rng.uniform(0, self.W), self.horizon - rng.uniform(2, 10)
        rough = rng.normal(0, 0.18, (self.H, self.W))
        wide, high = rng.uniform(5, 12), rng.uniform(4, 10)
        crown = ((self.x - x) / wide) ** 2 + ((self.y - y) / high) ** 2 + rough < 1
        trunk = self._box(x - 1, y, x + 1, self.horizon + 2)
        color = rng.uniform(0.25, 0.5) * np.array([0.75, 1.0, 0.5])
        self._paint("vegetation", crown | trunk, color, noise=0.09)

    def _place(self, depth: float, *, middle: bool = True) -> tuple[float, float, float]:
        """Where a thing stands: x, the y of its feet, its scale; depth from 0 (far) to 1 (near)."""
        bottom = self.horizon + 2 + depth * (self.H - self.horizon - 8)
        if middle:
            x = self.rng.uniform(0.1, 0.9) * self.W
        else:
            x = self.rng.choice([0.08, 0.92]) * self.W + self.rng.normal(0, 8)
        return x, bottom, 0.35 + 0.65 * depth

    def _car(self, depth: float) -> None:
        x, bottom, scale = self._place(depth)
        width, height, color = 22 * scale, 10 * scale, self.rng.uniform(0.05, 0.9, 3)
        shoulder = bottom - 0.6 * height
        body = self._box(x - width / 2, shoulder, x + width / 2, bottom)
        roof = self._box(x - width / 3, bottom - height, x + width / 3, shoulder)
        self._paint("car", body | roof, color, noise=0.02)
        window = self._box(x - width / 4, bottom - 0.9 * height, x + width / 4, shoulder)
        self._tint(window, (0.15, 0.18, 0.22))
        self._wheels(x, bottom, width, radius=1.2, height=1.5)

    def _bus(self, depth: float) -> None:
        x, bottom, scale = self._place(depth)
        width, height = 30 * scale, 22 * scale
        body = self._box(x - width / 2, bottom - height, x + width / 2, bottom)
        self._paint("bus", body, self.rng.uniform(0.3, 0.8, 3), noise=0.03)
        top, sill = bottom - 0.85 * height, bottom - 0.5 * height
        windows = self._box(x - 0.45 * width, top, x + 0.45 * width, sill) & (self.x % 5 > 0)
        self._tint(windows, (0.2, 0.22, 0.27))
        self._wheels(x, bottom, width, radius=2, height=2)

    def _wheels(
        self, x: float, bottom: float, width: float, *, radius: float, height: float
    ) -> None:
        for middle in (x - 0.3 * width, x + 0.3 * width):
            wheel = self._box(middle - radius, bottom - height, middle + radius, bottom)
            self._tint(wheel, (0.05, 0.05, 0.05))

    def _person(self, depth: float) -> None:
        x, bottom, scale = self._place(depth, middle=self.rng.random() < 0.3)
        width, height = 3.6 * scale + 1, 13 * scale
        body = self._box(x - width / 2, bottom - 0.8 * height, x + width / 2, bottom)
        head = (self.x - x) ** 2 + (self.y - bottom + 0.9 * height) ** 2 < (0.14 * height) ** 2
        self._paint("person", body | head, self.rng.uniform(0.05, 0.7, 3), noise=0.04)
        self._tint(head, (0.75, 0.6, 0.5))

    def _pole(self, depth: float) -> None:
        x, bottom, scale = self._place(depth, middle=False)
        where = self._box(x, bottom - 34 * scale, x + max(1.0, 2 * scale), bottom)
        self._paint("pole", where, self.rng.uniform(0.25, 0.55) * np.ones(3), noise=0.02)
