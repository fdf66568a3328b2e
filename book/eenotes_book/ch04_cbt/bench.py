"""The networks of chapter 4: a data set of street scenes, and what is trained on it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from eenotes import training
from eenotes.costs import Costs, count_macs
from eenotes.methods import cbt
from eenotes.thresholds import Answers
from eenotes_book import cache, cbt_budgets, scale
from eenotes_book.ch04_cbt.settings import Convolutional, Settings, Transformer
from eenotes_book.data import scenes
from eenotes_book.models import segmentation_training
from eenotes_book.models.segmentation import SegmentationNetwork
from eenotes_book.models.token_vit import TokenViT

Net = SegmentationNetwork | TokenViT


@dataclass
class Bench:
    """A data set, a segmentation network trained on it, and the answers of its exits."""

    data: scenes.Scenes
    net: Net
    settings: Settings
    seed: int

    @cached_property
    def num_classes(self) -> int:
        """K."""
        return len(self.data.classes)

    @cached_property
    def sample(self) -> Tensor:
        """One test image, ``(1, 3, H, W)``."""
        return self.data.test[0][0][None].to(scale.device())

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(h, w), the places of one image."""
        with torch.inference_mode():
            return tuple(self.net(self.sample)[0].shape[2:])

    @cached_property
    def costs(self) -> Costs:
        """MACs of one image."""
        return count_macs(self.net, self.sample)

    @cached_property
    def statistics(self) -> cbt.Statistics:
        """Over all training images, streamed; a place counts for the pixel in its middle."""
        return cbt.statistics(
            self.answers(self.data.train), num_classes=self.num_classes, ignore_index=scenes.IGNORE
        )

    @cached_property
    def validation(self) -> Answers:
        """The exits' answers at the places of the validation images that have a class."""
        batches = [(torch.stack(logits), labels) for logits, labels in self.answers(self.data.val)]
        logits = torch.cat([part for part, _ in batches], 1).movedim(2, -1).flatten(1, -2)
        labels = torch.cat([part for _, part in batches]).flatten().long()
        keep = labels != scenes.IGNORE
        return cbt_budgets.validation(logits[:, keep], labels[keep], self.costs)

    @torch.inference_mode()
    def answers(self, split) -> Iterable[tuple[list[Tensor], Tensor]]:
        """The logits of all exits with nothing left out, and the labels at the places, by batch."""
        for images, labels in scenes.batches(split, size=8):
            logits = self.net(images.to(scale.device()))
            yield logits, scenes.at_places(labels.to(scale.device()), logits[0].shape[2:])


def data_of(s: Settings) -> scenes.Scenes:
    """The data set that the settings name."""
    return scenes.load(s.data, train=s.train, val=s.val, test=s.test)


def conv_bench(data: scenes.Scenes, s: Settings, *, seed: int = 0) -> Bench:
    """The convolutional network, trained with masks or taken from the cache."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SegmentationNetwork(
            len(data.classes),
            channels=s.conv.channels,
            blocks=s.conv.blocks,
            dilations=s.conv.dilations,
        )
    _train_or_load(net, "segmentation", data, s.conv, seed)
    return Bench(data, net, s, seed)


def vit_bench(data: scenes.Scenes, s: Settings, *, seed: int = 0) -> Bench:
    """The transformer, trained with tokens that leave or taken from the cache."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TokenViT(
            len(data.classes),
            size=data.size,
            channels=s.vit.channels,
            layers=s.vit.layers,
            heads=s.vit.heads,
        )
    _train_or_load(net, "token-vit", data, s.vit, seed)
    return Bench(data, net, s, seed)


def _train_or_load(
    net: Net, name: str, data: scenes.Scenes, recipe: Convolutional | Transformer, seed: int
) -> None:
    labels = (labels for _, labels in scenes.batches(data.train))
    weights = segmentation_training.class_weights(labels, num_classes=len(data.classes))
    training.fit(
        net,
        data.train,
        loss=partial(segmentation_training.masked_loss, weights=weights),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=partial(training.adamw, lr=recipe.learning_rate),
        seed=seed,
        checkpoint=cache.network(
            name, seed=seed, data=data.name, counts=data.counts, recipe=recipe
        ),
        title=f"{data.name}: {name}",
    )
