"""Trained exits of trained networks: Shallow-Deep Networks and BranchyNet, for many seeds.

A frozen backbone shows the same features to every seed.  So the features of a few augmented views
of the training images are computed once, and SDN's exits are trained on them in seconds.

``python -m eenotes_book.ch02_e2cm.published_exits resnet20 sdn1 5`` trains with five seeds, and
keeps what the exits say of the test images in the cache.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, TensorDataset

from eenotes import collect, split, training
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache
from eenotes_book.ch02_e2cm import imagenet_stem, trained_exits
from eenotes_book.data import pretrained, vision
from eenotes_book.models import imagenet_resnet
from eenotes_book.models.resnet import CifarResNet

_EVERY = {"resnet20": 1, "resnet56": 3, "resnet50": 3}  # blocks between two exits
METHODS = ("sdn1", "sdn", "branchynet1", "branchynet")  # "1": after one epoch


@dataclass(frozen=True)
class Recipe:
    """How the exits of a published network are trained."""

    views: int = 2  # augmented views of the training images
    passes: int = 4  # over all views, for exits that are trained to the end
    batch_size: int = 128
    learning_rate: float = 0.1  # the peak, for exits alone and for a new backbone
    joint_epochs: int = 2  # of the published backbone together with new exits
    joint_rate: float = 0.05  # the peak


def thinned(name: str, points: Sequence[str]) -> list[str]:
    """Of the places after the stem and after every block: the stem's and those with an exit."""
    stem, *blocks = points
    return [stem, *blocks[_EVERY[name] - 1 :: _EVERY[name]]]


class PooledExits(nn.Module):
    """The early exits of a network, as functions of all their pooled features side by side."""

    def __init__(self, net: EarlyExitNetwork):
        super().__init__()
        self.linear = nn.ModuleList(head.linear for head in net.exits)

    def forward(self, features: Tensor) -> list[Tensor]:
        """``(B, D)`` → the logits ``(B, K)`` of each early exit."""
        parts = features.split([linear.in_features for linear in self.linear], dim=1)
        return [linear(part) for linear, part in zip(self.linear, parts, strict=True)]


@dataclass
class Host:
    """A trained network with its images."""

    name: str  # "resnet20", "resnet56" or "resnet50", see `imagenet_stem.backbone`
    data: vision.Vision
    recipe: Recipe

    @cached_property
    def stages(self) -> nn.ModuleList:
        """The stages of the trained backbone, which stay as they are."""
        backbone, points = imagenet_stem.backbone(self.name, self.data)
        backbone = backbone.to(memory_format=torch.channels_last)
        return split(backbone, at=thinned(self.name, points))

    def copied(self) -> nn.ModuleList:
        """Stages of their own, with the trained weights, to train further."""
        return copy.deepcopy(self.stages)

    def untrained(self, seed: int) -> nn.ModuleList:
        """The stages of the backbone before any training."""
        if self.name == "resnet50":
            backbone = imagenet_resnet.as_products(imagenet_resnet.resnet50(seed=seed))
            points = imagenet_resnet.exit_points(backbone)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                backbone = CifarResNet(pretrained.NETWORKS[self.name].depth, padded=True)
            points = backbone.exit_points
        backbone = backbone.to(memory_format=torch.channels_last)
        return split(backbone, at=thinned(self.name, points))

    @cached_property
    def test(self) -> tuple[Tensor, Tensor]:
        """What the exits see of the test images, ``(N, D)``, and the backbone's logits."""
        kept = self._pooled("test", self.data.test.tensors[0], precise=True)
        return kept["features"].float(), kept["logits"].float()

    def view(self, seed: int) -> TensorDataset:
        """What the exits see of an augmented view of the training images, with the labels."""
        images, labels = self.data.train.tensors
        augment = partial(vision.crop_and_flip, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(self._pooled(f"view{seed}", images, augment)["features"], labels)

    def with_exits(self, stages: Sequence[nn.Module], seed: int) -> EarlyExitNetwork:
        """Stages with untrained linear exits on 4 × 4 averages."""
        return trained_exits.with_linear_exits(
            stages, self.data.train, num_classes=len(self.data.classes), seed=seed
        )

    def _pooled(
        self, name: str, images: Tensor, augment: Callable | None = None, precise: bool = False
    ) -> dict[str, Tensor]:
        net = self.with_exits(self.stages, 0).eval()

        @torch.no_grad()
        def compute() -> dict[str, Tensor]:
            features, logits = [], []
            for x in images.split(256):
                x = x if augment is None else augment(x)
                with torch.autocast(x.device.type, torch.bfloat16, enabled=not precise):
                    seen = net.features(x)
                    logits.append(net.stages[-1](seen[-1]))
                    pooled = [h.pooled(z) for h, z in zip(net.exits, seen, strict=True)]
                features.append(torch.cat(pooled, 1))
            return {"features": torch.cat(features), "logits": torch.cat(logits)}

        path = cache.folder() / f"{self.name}-{name}.safetensors"
        return cache.remember(path, compute, network=self.name, samples=len(images))


def logits_of(host: Host, method: str, seed: int) -> Tensor:
    """What every exit says of the test images, ``(J, N, K)``, with exits trained by a method.

    Args:
        host: the network.
        method: one of `METHODS`.
        seed: of the exits' weights and of the training.

    Raises:
        ValueError: another method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    train = _of_frozen if method.startswith("sdn") else _of_joint
    path, facts = _kept(host, method, seed)
    return cache.remember(path, lambda: {"logits": train(host, method, seed)}, **facts)["logits"]


def is_kept(host: Host, method: str, seed: int) -> bool:
    """Whether `logits_of` has been trained before."""
    return _kept(host, method, seed)[0].exists()


def _kept(host: Host, method: str, seed: int) -> tuple[Path, dict[str, Any]]:
    facts = {"seed": seed, "recipe": host.recipe, "samples": len(host.data.train)}
    return cache.network(f"logits-{host.name}-{method}", **facts), facts


def on_cifar(name: str) -> Host:
    """A trained network with all images of CIFAR-10."""
    return Host(name, pretrained.normalised(vision.load("CIFAR10", val=0)), Recipe())


def _of_frozen(host: Host, method: str, seed: int) -> Tensor:
    """SDN: one view of the images, or all of them several times."""
    recipe, once = host.recipe, method == "sdn1"
    if host.name == "resnet50":
        return _of_wide(host, seed)
    chosen = [seed % recipe.views] if once else range(recipe.views)
    exits = PooledExits(host.with_exits(host.stages, seed))
    training.fit(
        exits,
        ConcatDataset([host.view(view) for view in chosen]),
        loss=training.joint_loss,
        epochs=1 if once else recipe.passes,
        batch_size=recipe.batch_size,
        optimizer=partial(training.sgd, lr=recipe.learning_rate),
        seed=seed,
    )
    features, last = host.test
    with torch.no_grad():
        return torch.stack([*exits(features), last])


def _of_joint(host: Host, method: str, seed: int) -> Tensor:
    """BranchyNet: one epoch from scratch, or some epochs from the trained weights."""
    recipe, once = host.recipe, method == "branchynet1"
    net = host.with_exits(host.untrained(seed) if once else host.copied(), seed)
    training.fit(
        net,
        host.data.train,
        loss=training.joint_loss,
        epochs=1 if once else recipe.joint_epochs,
        batch_size=recipe.batch_size,
        optimizer=partial(
            training.sgd, lr=recipe.learning_rate if once else recipe.joint_rate, fused=True
        ),
        augment=vision.crop_and_flip,
        seed=seed,
        checkpoint=cache.network(f"{host.name}-{method}", seed=seed, recipe=recipe),
    )
    return collect(net, vision.batches(host.data.test))[0].cpu()


def _of_wide(host: Host, seed: int) -> Tensor:
    """SDN after one epoch where the features of all exits are too many to be kept."""
    net = trained_exits.shallow_deep_network(
        host.stages,
        host.data.train,
        num_classes=len(host.data.classes),
        seed=seed,
        epochs=1,
        batch_size=host.recipe.batch_size,
        optimizer=partial(training.sgd, lr=host.recipe.learning_rate),
        augment=vision.crop_and_flip,
    )
    return collect(net, vision.batches(host.data.test))[0].cpu()


if __name__ == "__main__":
    network, method, seeds = sys.argv[1:4]
    host = on_cifar(network)
    for seed in range(int(seeds)):
        logits = logits_of(host, method, seed)
        accuracy = (logits.argmax(2) == host.data.test.tensors[1]).double().mean(1)
        print(network, method, seed, [round(value, 3) for value in accuracy.tolist()], flush=True)
