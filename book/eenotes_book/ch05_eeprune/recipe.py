"""A recipe for the networks that score training samples: how they are made and trained."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from eenotes.network import EarlyExitNetwork
from eenotes.training import Loss, fit, joint_loss, sgd


@dataclass(frozen=True)
class Recipe:
    """How a network for scoring is made and trained.

    ``build`` makes an untrained `EarlyExitNetwork` from a seed; one without early exits is a plain
    classifier.  The rest is as in `eenotes.training.fit`.
    """

    build: Callable[[int], EarlyExitNetwork]
    epochs: int
    batch_size: int = 128
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = sgd
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def network(self, seed: int) -> EarlyExitNetwork:
        """An untrained network; the generators outside stay as they were."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(seed)

    def train(
        self, dataset: Dataset, *, seed: int, loss: Loss = joint_loss, title: str = "scoring"
    ) -> EarlyExitNetwork:
        """A network trained on the data set."""
        net = self.network(seed)
        how = {name: value for name, value in vars(self).items() if name != "build"}
        fit(net, dataset, loss=loss, seed=seed, title=title, **how)
        return net
