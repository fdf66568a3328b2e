"""Networks with trained exits, the rivals of E²CM: Shallow-Deep Networks and BranchyNet.

Both put a linear exit on grid × grid averages after every stage but the last.  They differ in what
is trained: the exits alone, or everything.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import Dataset

from eenotes import training
from eenotes.exits import linear_exits
from eenotes.network import EarlyExitNetwork

_GRID = 4  # the exits of SDN's authors see each feature map as 4 × 4 averages


def with_linear_exits(
    stages: Sequence[nn.Module], dataset: Dataset, *, num_classes: int, seed: int
) -> EarlyExitNetwork:
    """The stages with an untrained linear exit after each but the last.

    Args:
        stages: from `eenotes.split`; shared, not copied.
        dataset: of ``(x, y)``; the first sample says how wide the features are.
        num_classes: K.
        seed: of the weights; the generators outside stay as they were.
    """
    device = next((p.device for stage in stages for p in stage.parameters()), torch.device("cpu"))
    sample = dataset[0][0][None].to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        exits = linear_exits(stages, sample, num_classes=num_classes, grid=_GRID)
    return EarlyExitNetwork(stages, exits)


def shallow_deep_network(
    stages: Sequence[nn.Module], dataset: Dataset, *, num_classes: int, seed: int = 0, **options
) -> EarlyExitNetwork:
    """SDN (Kaya et al., 2019): linear exits trained on a frozen backbone.

    Args:
        stages: of a trained backbone, from `eenotes.split`; they stay as they are.
        dataset: of ``(x, y)``, to train on.
        num_classes: K.
        seed: of the exits' weights and of the training.
        options: of `eenotes.training.fit`: ``epochs`` and ``batch_size``, and if wanted
            ``optimizer``, ``augment``, ``checkpoint``, ``title``.
    """
    net = with_linear_exits(stages, dataset, num_classes=num_classes, seed=seed)
    training.fit(net, dataset, part=net.exits, loss=training.exits_loss, seed=seed, **options)
    return net


def branchy_network(
    stages: Sequence[nn.Module], dataset: Dataset, *, num_classes: int, seed: int = 0, **options
) -> EarlyExitNetwork:
    """BranchyNet (Teerapittayanon et al., 2016): backbone and linear exits trained together.

    Args:
        stages: of an untrained backbone, from `eenotes.split`; trained in place.
        dataset: of ``(x, y)``, to train on.
        num_classes: K.
        seed: of the exits' weights and of the training.
        options: as in `shallow_deep_network`.
    """
    net = with_linear_exits(stages, dataset, num_classes=num_classes, seed=seed)
    training.fit(net, dataset, loss=training.joint_loss, seed=seed, **options)
    return net
