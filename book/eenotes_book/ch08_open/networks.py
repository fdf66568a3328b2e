"""The image network of questions 1 to 3: four stages, trained or loaded, and what its exits see."""

import gc
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from eenotes import training
from eenotes.exits import linear_exits
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache
from eenotes_book.ch08_open.settings import Settings
from eenotes_book.data import vision
from eenotes_book.models.four_stages import four_stages

# A trained exit sees 4 × 4 averages of each feature map: as many numbers as the class means where
# the map is that small.
_GRID = 4


@dataclass
class Seen:
    """A split as the stages see it."""

    features: list[Tensor]  #: what stands before each early exit
    last: Tensor  #: logits of the last exit, ``(N, K)``
    labels: Tensor  #: ``(N,)``

    @torch.no_grad()
    def logits(self, net: EarlyExitNetwork) -> Tensor:
        """The logits of a network with the same stages and exits of its own, ``(J, N, K)``."""
        early = [head(x) for head, x in zip(net.exits, self.features, strict=True)]
        return torch.stack([*early, self.last])


@dataclass
class TrainedNetwork:
    """A data set, and a network trained on it with a linear exit after each of three stages."""

    data: vision.Vision
    net: EarlyExitNetwork
    seed: int
    _seen: dict[str, Seen] = field(default_factory=dict, repr=False)

    @cached_property
    def class_means(self) -> EarlyExitNetwork:
        """E²CM on the same stages."""
        batches = vision.batches(self.data.train)
        return e2cm.fit(self.net.stages, batches, num_classes=len(self.data.classes))

    def seen(self, split: str) -> Seen:
        """What the stages make of ``"train"``, ``"val"`` or ``"test"``; computed once."""
        if split not in self._seen:
            x, y = getattr(self.data, split).tensors
            labels = y.to(device_of(self.net))
            self._seen[split] = Seen(features(self.net, x), last_logits(self.net, x), labels)
        return self._seen[split]


def freeze_garbage() -> None:
    """Take all present objects out of the garbage collection that follows every training."""
    gc.freeze()


def load(s: Settings) -> vision.Vision:
    """The images that the settings name."""
    freeze_garbage()
    return vision.load(s.data, train=s.train, val=s.val, test=s.test)


def trained(data: vision.Vision, s: Settings, *, seed: int = 0) -> TrainedNetwork:
    """Train the network jointly with its exits, or take it from the cache."""
    num_classes = len(data.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = four_stages("conv", data.shape, num_classes=num_classes, width=s.width)
        example = torch.zeros(2, *data.shape)
        exits = linear_exits(whole.stages, example, num_classes=num_classes, grid=_GRID)
    net = EarlyExitNetwork(whole.stages, exits)
    recipe = [s.width, s.epochs, s.batch_size, s.learning_rate]
    facts = {"data": data.name, "classes": data.classes, "counts": data.counts, "recipe": recipe}
    training.fit(
        net,
        data.train,
        loss=training.joint_loss,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=partial(training.sgd, lr=s.learning_rate),
        seed=seed,
        checkpoint=cache.network("four-stages", seed=seed, **facts),
        title=f"{data.name}, {len(data.classes)} classes",
    )
    return TrainedNetwork(data, net, seed)


@torch.no_grad()
def features(net: EarlyExitNetwork, x: Tensor) -> list[Tensor]:
    """What every early exit sees of images ``(N, C, H, W)``."""
    return net.features(x.to(device_of(net)))


@torch.no_grad()
def last_logits(net: EarlyExitNetwork, x: Tensor) -> Tensor:
    """The logits of the last exit on images, ``(N, K)``."""
    return net(x.to(device_of(net)))[-1].float()


def device_of(net: nn.Module) -> torch.device:
    """Where the parameters of a network lie."""
    return next(net.parameters()).device
