"""Networks of the chapters on images: build one, then train it or load what was trained before."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from eenotes import training
from eenotes.cutting import split
from eenotes.exits import linear_exits
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache
from eenotes_book.data import vision
from eenotes_book.models.resnet import CifarResNet


class ResNetSettings(Protocol):
    """The settings that say which network is trained, and how."""

    data: str
    train: int  # images
    val: int  # images; the training images are what is left of them
    depth: int
    width: int  # channels of the first group
    exits: list[str]  # the modules with an early exit after them
    epochs: int
    batch_size: int
    learning_rate: float


def resnet_with_exits(
    data: vision.Vision, s: ResNetSettings, *, seed: int = 0
) -> tuple[CifarResNet, EarlyExitNetwork]:
    """An untrained backbone, and the network of its stages with a linear exit after ``s.exits``.

    Both share their parameters.
    """
    torch.manual_seed(seed)
    backbone = CifarResNet(
        s.depth, num_classes=len(data.classes), in_channels=data.shape[0], width=s.width
    )
    stages = split(backbone, at=s.exits)
    exits = linear_exits(stages, data.train.tensors[0][:2], num_classes=len(data.classes))
    return backbone, EarlyExitNetwork(stages, exits)


def train_or_load(
    net: EarlyExitNetwork, data: vision.Vision, s: ResNetSettings, *, seed: int = 0
) -> list[float]:
    """Train all exits and the backbone together, in place, or load what an earlier run has trained.

    Returns:
        The mean loss of each epoch.
    """
    return training.fit(
        net,
        data.train,
        loss=training.joint_loss,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=partial(training.sgd, lr=s.learning_rate),
        augment=augmentation(data),
        seed=seed,
        checkpoint=cache.network("early-exits", seed=seed, **facts(s)),
        title=f"{data.name}: {net.num_exits} exits",
    )


def facts(s: ResNetSettings) -> dict[str, Any]:
    """The settings that a trained network follows from: by them it is found in the cache."""
    return {name: getattr(s, name) for name in ResNetSettings.__annotations__}


def augmentation(data: vision.Vision) -> Callable[[Tensor, torch.Generator], Tensor] | None:
    """What augments training images ``(B, C, H, W)``: `crop_and_flip` for CIFAR-10, else none."""
    return vision.crop_and_flip if data.name == "CIFAR10" else None
