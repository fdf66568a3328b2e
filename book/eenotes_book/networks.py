"""Networks of the chapters on images: build one, then train it or load what was trained before."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
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


class ClassifierSettings(Protocol):
    """The settings that say which classifier is trained, and how."""

    train: int  # images
    val: int
    test: int
    depth: int
    width: int  # channels of the first group
    epochs: int
    batch_size: int
    learning_rate: float


class ResNetSettings(Protocol):
    """The settings that say which network with early exits is trained, and how."""

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
    backbone = untrained_resnet(data, s, seed=seed)
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
        **options(data, s),
        seed=seed,
        checkpoint=cache.network("early-exits", seed=seed, **facts(s)),
        title=f"{data.name}: {net.num_exits} exits",
    )


def untrained_resnet(
    data: vision.Vision, s: ClassifierSettings | ResNetSettings, *, seed: int = 0
) -> CifarResNet:
    """A plain classifier for a data set."""
    torch.manual_seed(seed)
    return CifarResNet(
        s.depth, num_classes=len(data.classes), in_channels=data.shape[0], width=s.width
    )


def trained_resnet(data: vision.Vision, s: ClassifierSettings, *, seed: int = 0) -> CifarResNet:
    """A plain classifier, trained now or loaded from the cache."""
    backbone = untrained_resnet(data, s, seed=seed)
    training.fit(
        backbone,
        data.train,
        loss=training.classification_loss,
        epochs=s.epochs,
        **options(data, s),
        seed=seed,
        checkpoint=checkpoint("backbone", data, s, seed=seed),
        title=f"{data.name}: backbone",
    )
    return backbone


def options(data: vision.Vision, s: ClassifierSettings | ResNetSettings) -> dict[str, Any]:
    """How a network is trained on a data set: options of `eenotes.training.fit`."""
    return {
        "batch_size": s.batch_size,
        "optimizer": partial(training.sgd, lr=s.learning_rate),
        "augment": augmentation(data),
    }


def checkpoint(name: str, data: vision.Vision, s: ClassifierSettings, *, seed: int) -> Path:
    """The file of a network that is trained by these settings.

    The number of test images is left out: the network does not follow from it.
    """
    known = {key: value for key, value in vars(s).items() if key != "test"}
    return cache.network(f"{data.name}-{name}", seed=seed, data=data.name, **known)


def facts(s: ResNetSettings) -> dict[str, Any]:
    """The settings that a trained network follows from: by them it is found in the cache."""
    return {name: getattr(s, name) for name in ResNetSettings.__annotations__}


def augmentation(data: vision.Vision) -> Callable[[Tensor, torch.Generator], Tensor] | None:
    """What augments training images ``(B, C, H, W)``: `crop_and_flip` if they are photographs."""
    return vision.crop_and_flip if data.name.startswith("CIFAR") else None
