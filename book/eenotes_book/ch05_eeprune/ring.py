"""Chapter 5's experiment: six ways to score training samples, judged by what a fresh network learns
from those they keep.

The harness is the same for everybody: a network from scratch, the same number of samples seen, the
same schedule, the same seeds; ``"no pruning"`` and ``"Random"`` always take part.  What a score has
cost is kept with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.methods import eeprune
from eenotes.network import EarlyExitNetwork
from eenotes_book.ch05_eeprune.experiment import quiet
from eenotes_book.models.four_stages import four_stages


@dataclass(frozen=True)
class Ring:
    """Points of a two-dimensional ring, six classes by angle, and what EEPrune would drop after
    some epochs.
    """

    data: TensorDataset
    pruned: dict[int, eeprune.Pruned]  # epoch → decision
    net: EarlyExitNetwork  # after the last epoch

    @cached_property
    def to_boundary(self) -> Tensor:
        """``(N,)``: the angle, in degrees, to the nearest boundary between two classes."""
        x, y = self.data.tensors[0].T
        within = torch.rad2deg(torch.atan2(y, x)) % 60
        return torch.minimum(within, 60 - within)


def ring(*, points: int, epochs: Sequence[int], ratio: float, seed: int = 0) -> Ring:
    """Train a small early exit network on the ring and ask for EEPrune's decision after each of the
    epochs named.
    """
    generator = torch.Generator().manual_seed(seed)
    angle, radius = (
        360 * torch.rand(points, generator=generator),
        1 + torch.rand(points, generator=generator),
    )
    x = torch.stack([radius * torch.deg2rad(angle).cos(), radius * torch.deg2rad(angle).sin()], 1)
    data = TensorDataset(x, (angle / 60).long().clamp_max(5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = four_stages("mlp", (2,), num_classes=6, width=32)

    pruned = {}

    def decide(epoch: int) -> None:
        with quiet():
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
