"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

import gc
import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from eenotes import training
from eenotes.exits import linear_exits
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache
from eenotes_book.data import vision
from eenotes_book.models.four_stages import four_stages

# a trained exit sees 4 × 4 averages of each feature map, as many numbers as the class means where
# the map is that small
GRID = 4


@dataclass
class Bench:
    """A data set, and a small network trained on it with a linear exit after each of its first
    three stages.
    """

    data: vision.Vision
    net: EarlyExitNetwork
    s: SimpleNamespace
    seed: int

    @cached_property
    def class_means(self) -> EarlyExitNetwork:
        """E²CM on the same stages."""
        return e2cm.fit(
            self.net.stages, vision.batches(self.data.train), num_classes=len(self.data.classes)
        )


def spare_garbage() -> None:
    """Accelerate collects garbage after every training: spare it everything that is there for good.

    For the beginning of many.
    """
    gc.freeze()


def load(s: SimpleNamespace) -> vision.Vision:
    spare_garbage()
    return vision.load(s.data, train=s.train, val=s.val, test=s.test)


def bench(data: vision.Vision, s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """Train the network jointly with its exits, or take it from the cache."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stages = four_stages(
            "conv", data.shape, num_classes=len(data.classes), width=s.width
        ).stages
        exits = linear_exits(
            stages, torch.zeros(2, *data.shape), num_classes=len(data.classes), grid=GRID
        )
    net = EarlyExitNetwork(stages, exits)
    recipe = [s.width, s.epochs, s.batch_size, s.learning_rate]
    facts = {"data": data.name, "classes": data.classes, "counts": data.counts, "recipe": recipe}
    training.fit(
        net,
        data.train,
        loss=training.joint_loss,
        epochs=s.epochs,
        **training_options(s, seed),
        checkpoint=cache.network("four-stages", seed=seed, **facts),
        title=f"{data.name}, {len(data.classes)} classes",
    )
    return Bench(data, net, s, seed)


def benches(s: SimpleNamespace) -> list[Bench]:
    """One network per seed, on all classes."""
    data = load(s)
    return [bench(data, s, seed=seed) for seed in range(s.seeds)]


@torch.no_grad()
def features(net: EarlyExitNetwork, x: Tensor) -> list[Tensor]:
    """What every early exit sees of images ``(N, ...)``."""
    return net.features(x.to(device_of(net)))


@torch.no_grad()
def last_features(net: EarlyExitNetwork, x: Tensor) -> Tensor:
    return net(x.to(device_of(net)))[-1].float()


def device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def digest(values: Tensor) -> str:
    return hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).hexdigest()[:12]


def training_options(s: SimpleNamespace, seed: int) -> dict:
    return {
        "batch_size": s.batch_size,
        "optimizer": partial(training.sgd, lr=s.learning_rate),
        "seed": seed,
    }
