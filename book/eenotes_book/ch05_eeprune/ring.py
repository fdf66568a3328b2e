"""The ring of chapter 5: points of six classes, and what EEPrune drops after some epochs."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.methods import eeprune
from eenotes.methods.sample_selection import SelectionWarning
from eenotes.network import EarlyExitNetwork
from eenotes_book.models.four_stages import four_stages


@dataclass(frozen=True)
class Ring:
    """Points of a two-dimensional ring in six classes by angle, and EEPrune's decisions."""

    data: TensorDataset
    pruned: dict[int, eeprune.Pruned]  # epoch → decision
    net: EarlyExitNetwork  # after the last epoch

    @cached_property
    def to_boundary(self) -> Tensor:
        """``(N,)``: the angle, in degrees, to the nearest boundary between two classes."""
        x, y = self.data.tensors[0].T
        within = torch.rad2deg(torch.atan2(y, x)) % 60
        return torch.minimum(within, 60 - within)


def learn_ring(*, points: int, epochs: Sequence[int], ratio: float, seed: int = 0) -> Ring:
    """Train a small early exit network on the ring; EEPrune decides after each of the epochs."""
    generator = torch.Generator().manual_seed(seed)
    angle = 360 * torch.rand(points, generator=generator)
    radius = 1 + torch.rand(points, generator=generator)
    radians = torch.deg2rad(angle)
    x = torch.stack([radius * radians.cos(), radius * radians.sin()], 1)
    data = TensorDataset(x, (angle / 60).long().clamp_max(5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = four_stages("mlp", (2,), num_classes=6, width=32)

    pruned = {}

    def decide(epoch: int) -> None:
        with warnings.catch_warnings(action="ignore", category=SelectionWarning):
            pruned[epoch] = eeprune.prune(net, data, ratio=ratio)

    training.fit(
        net,
        data,
        loss=training.joint_loss,
        epochs=max(epochs),
        batch_size=32,
        optimizer=partial(training.sgd, lr=0.05),
        on_samples={epoch * points: partial(decide, epoch) for epoch in epochs},
        seed=seed,
        title="ring",
    )
    return Ring(data, pruned, net)
