"""The thesis's kind of network: a ResNet-50 with the stem of ImageNet, trained on CIFAR-10.

``python -m eenotes_book.ch02_e2cm.imagenet_stem`` trains it (two hours on one core with bfloat16);
a run that was cut off goes on after its last whole epoch.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes_book import cache
from eenotes_book.data import pretrained, vision
from eenotes_book.models import imagenet_resnet

GATE = 0.85  # test accuracy from which the network counts as trained


@dataclass(frozen=True)
class Trapezoid:
    """A learning rate that rises in a line, stays, and falls in a line to 0; in epochs."""

    epochs: int
    warm_up: int
    decay: int

    def __call__(self, progress: float) -> float:
        """The share of the peak at ``progress`` in [0, 1]."""
        epoch = progress * self.epochs
        return max(0.0, min(epoch / self.warm_up, 1.0, (self.epochs - epoch) / self.decay))


@dataclass(frozen=True)
class Recipe:
    """How the network is trained."""

    schedule: Trapezoid = Trapezoid(epochs=18, warm_up=2, decay=7)
    batch_size: int = 256
    learning_rate: float = 0.2  # the peak
    weight_decay: float = 5e-4
    smoothing: float = 0.1  # of the labels


def smoothed_loss(model: nn.Module, batch: tuple[Tensor, Tensor], *, smoothing: float) -> Tensor:
    """Cross-entropy of a plain classifier's logits ``(B, K)`` with smoothed labels."""
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, label_smoothing=smoothing)


def trained(dataset: TensorDataset, *, recipe: Recipe, seed: int = 0) -> nn.Module:
    """The network, trained now or loaded from the cache, in evaluation mode.

    Args:
        dataset: of normalised images ``(3, 32, 32)`` and labels.
        recipe: how it is trained.
        seed: of weights, order and augmentation.
    """
    own = imagenet_resnet.as_products(imagenet_resnet.resnet50(seed=seed))
    training.fit(
        own.to(memory_format=torch.channels_last),
        dataset,
        loss=partial(smoothed_loss, smoothing=recipe.smoothing),
        epochs=recipe.schedule.epochs,
        batch_size=recipe.batch_size,
        optimizer=partial(
            training.sgd, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        ),
        augment=vision.crop_and_flip,
        schedule=recipe.schedule,
        seed=seed,
        checkpoint=cache.network("imagenet-stem", seed=seed, recipe=recipe, samples=len(dataset)),
        title="ResNet-50 with the stem of ImageNet",
    )
    backbone = imagenet_resnet.resnet50()
    backbone.load_state_dict(own.state_dict())
    return backbone.to(next(own.parameters()).device).eval()


def backbone(name: str, data: vision.Vision) -> tuple[nn.Module, list[str]]:
    """A trained network and its exit points: ``"resnet50"``, or a published network's name.

    Raises:
        ValueError, FileNotFoundError: as `eenotes_book.data.pretrained.load`.
    """
    if name != "resnet50":
        found = pretrained.load(name)
        return found, found.exit_points
    found = trained(data.train, recipe=Recipe())
    return found, imagenet_resnet.exit_points(found)


if __name__ == "__main__":
    data = pretrained.normalised(vision.load("CIFAR10", val=0))
    trained(data.train, recipe=Recipe())
