"""Question 4, the data and the networks: drawn streets as images and as depth maps."""

from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.costs import Costs, count_macs
from eenotes_book import cache
from eenotes_book.ch08_open.networks import device_of
from eenotes_book.ch08_open.settings import Streets
from eenotes_book.data import drawn_scenes, scenes
from eenotes_book.models import segmentation_training
from eenotes_book.models.segmentation import SegmentationNetwork

CLASSES = drawn_scenes.CLASSES
MODALITIES = ("image", "depth")


class _MeasuredScene(drawn_scenes.DrawnScene):
    """A drawn scene that also notes how near everything is, as a stereo camera would.

    Nearness is 0 at the horizon and 1 at the camera's feet.  On a flat road inverse distance grows
    linearly from the horizon downwards; what stands upright is as near as its feet.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        super().__init__(rng, size)
        self.nearness = np.zeros(size)

    def on_painted(self, name: str, where: np.ndarray) -> None:
        """Note how near the painted pixels are."""
        if where.any() and name != "sky":
            row = self.y[where] if name == "road" else self.y[where].max() + 1
            nearness = (row - self.horizon + 2) / (self.H - self.horizon + 2)
            self.nearness[where] = np.clip(nearness, 0.02, 1)


def draw_measured(count: int, *, seed: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """The street scenes of `drawn_scenes.draw`, pixel for pixel, each with a depth map.

    Args:
        count: scenes.
        seed: as there.
        noise: standard deviation of the depth map's own noise.

    Returns:
        Images ``(count, 3, H, W)`` uint8, inverse depth ``(count, H, W)`` float32 (0 infinitely
        far, 1 nearest), labels ``(count, H, W)``.

    Raises:
        ValueError: no scene, or a negative noise.
    """
    if count < 1 or noise < 0:
        raise ValueError(
            f"need at least one scene and a noise of at least 0, got {count} and {noise}"
        )
    images, depths, labels = [], [], []
    for i in range(count):
        scene = _MeasuredScene(np.random.default_rng([seed, i]), drawn_scenes.SIZE)
        image, label = scene.draw()
        images.append(image)
        labels.append(label)
        error = np.random.default_rng([seed, i, 1]).normal(size=drawn_scenes.SIZE)
        depths.append(scene.nearness + noise * error)
    stacked = [torch.from_numpy(np.stack(parts)) for parts in (images, depths, labels)]
    return stacked[0].permute(0, 3, 1, 2).contiguous(), stacked[1].float(), stacked[2]


@dataclass
class Senses:
    """Drawn streets in two modalities, and a network with three exits for each of them."""

    data: dict[str, dict[str, TensorDataset]]  #: modality → split → (picture, labels)
    nets: dict[str, SegmentationNetwork]
    seed: int
    _seen: dict[str, tuple[dict[str, Tensor], Tensor]] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """Scenes of each split."""
        return {split: len(part) for split, part in self.data["image"].items()}

    @cached_property
    def costs(self) -> dict[str, Costs]:
        """Of one picture, per modality."""
        return {
            m: count_macs(net, self.data[m]["test"].tensors[0][:1].to(device_of(net)))
            for m, net in self.nets.items()
        }

    def seen(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        """What all exits say of every place that has a class; computed once.

        Returns:
            Modality → log-probabilities ``(J, N, K)``; and the classes ``(N,)``.
        """
        if split not in self._seen:
            self._seen[split] = self._look(split)
        return self._seen[split]

    @torch.inference_mode()
    def _look(self, split: str) -> tuple[dict[str, Tensor], Tensor]:
        found = {}
        for m, net in self.nets.items():
            logits = [
                torch.stack(net(x.to(device_of(net)))).float().log_softmax(2)
                for x, _ in scenes.batches(self.data[m][split])
            ]
            labels = scenes.at_places(self.data[m][split].tensors[1], logits[0].shape[3:])
            labels = labels.flatten().long()
            known = labels != scenes.IGNORE
            found[m] = torch.cat(logits, 1).movedim(2, -1).flatten(1, 3)[:, known]
        return found, labels[known].to(device_of(net))


def senses(s: Streets, *, seed: int = 0) -> Senses:
    """Draw the streets, and train one network per modality or take it from the cache."""
    data = _drawn(s, seed=seed)
    labels = data["image"]["train"].tensors[1]
    weights = segmentation_training.class_weights([labels], num_classes=len(CLASSES))
    counts = {"train": s.train, "val": s.val, "test": s.test}
    nets = {}
    for m in MODALITIES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets[m] = SegmentationNetwork(
                len(CLASSES), channels=getattr(s.channels, m), blocks=s.blocks
            )
        training.fit(
            nets[m],
            data[m]["train"],
            loss=partial(segmentation_training.exits_loss, weights=weights),
            epochs=s.epochs,
            batch_size=s.batch_size,
            optimizer=partial(training.adamw, lr=s.learning_rate),
            seed=seed,
            checkpoint=cache.network(f"streets-{m}", seed=seed, counts=counts, recipe=s),
            title=f"streets: {m}",
        )
    return Senses(data, nets, seed)


def _drawn(s: Streets, *, seed: int) -> dict[str, dict[str, TensorDataset]]:
    """Modality → split → pictures ``(N, 3, H, W)``, standardised by the training split, labels."""
    data: dict[str, dict[str, TensorDataset]] = {m: {} for m in MODALITIES}
    for i, split in enumerate(("train", "val", "test")):
        count = getattr(s, split)
        images, depths, labels = draw_measured(count, seed=1000 * seed + i, noise=s.noise)
        pixels = images.float() / 255
        if split == "train":
            colour_mean = pixels.mean((0, 2, 3))[:, None, None]
            colour_std = pixels.std((0, 2, 3))[:, None, None]
            depth_mean, depth_std = depths.mean(), depths.std()
        pixels = (pixels - colour_mean) / colour_std
        depths = ((depths - depth_mean) / depth_std)[:, None].expand(-1, 3, -1, -1)
        data["image"][split] = TensorDataset(pixels.contiguous(), labels)
        data["depth"][split] = TensorDataset(depths.contiguous(), labels)
    return data
