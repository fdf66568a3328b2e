"""Exits: trained linear layers and class means, each one call from features to logits."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eenotes.network import in_mode


def pool(features: Tensor, *, grid: int = 1) -> Tensor:
    """Average features over space or over tokens.

    ``(B, C, H, W)`` → ``(B, C·grid·grid)``, ``(B, T, C)`` → ``(B, C)``, ``(B, C)`` unchanged.
    """
    if features.ndim == 3:
        return features.mean(1)
    if features.ndim == 4 and grid > 1:
        return nn.functional.adaptive_avg_pool2d(features, grid).flatten(1)
    return features.flatten(2).mean(-1) if features.ndim > 3 else features


class LinearExit(nn.Module):
    """A trained exit: average pooling, then one linear layer.

    Args:
        inputs: how many numbers the pooling leaves: the C channels of the features ``(B, C,
            *space)``, ``(B, T, C)`` or ``(B, C)``, or C·grid² for a grid.
        num_classes: K.
        grid: average each feature map ``(B, C, H, W)`` to grid × grid cells instead of one.
            Shallow-Deep Networks use 4 (and mix the average with the maximum, which is left out
            here).
    """

    def __init__(self, inputs: int, num_classes: int, *, grid: int = 1):
        super().__init__()
        self.linear = nn.Linear(inputs, num_classes)
        self.grid = grid

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(pool(features, grid=self.grid))


def linear_exits(
    stages: Iterable[nn.Module], x: Tensor, *, num_classes: int, grid: int = 1
) -> nn.ModuleList:
    """A `LinearExit` for every stage but the last.

    A sample batch ``x``, ``(B, ...)``, says how wide the features are there.  A feature map smaller
    than the grid keeps its own size.
    """
    stages = list(stages)
    exits = nn.ModuleList()
    # in evaluation mode: the sample must not move any running statistics
    with in_mode(*stages), torch.no_grad():
        for stage in stages[:-1]:
            x = stage(x)
            cells = min(grid, *x.shape[2:]) if x.ndim == 4 else 1
            width = pool(x, grid=cells).shape[1]
            exits.append(LinearExit(width, num_classes, grid=cells).to(x.device))
    return exits


class ClassMeanExit(nn.Module):
    r"""An exit without training: the logits are the negative distances to the class means (E²CM).

    $z_k = -d_k = -\lVert x - M_k \rVert_2$ (2.3), written as $\lVert x\rVert^2 - 2\,x \cdot M_k +
    \lVert M_k\rVert^2$ (2.6), so that the work is one matrix product: fast, and seen by the FLOP
    counter.  Everything is taken from the centre of the class means, because what all features have
    in common cancels from the distance but costs it digits.  Its argmax is the nearest class mean.

    Args:
        means: ``(K, *shape)``, one mean feature per class.
        mean_distance: ``(K,)``, the normaliser μ of the confidence, in units of distance; kept here
            so that it travels with the means (`eenotes.methods.e2cm.rule` reads it).

    Raises:
        ValueError: if a mean or a normaliser is not finite, or a normaliser is not positive.
    """

    def __init__(self, means: Tensor, mean_distance: Tensor | None = None):
        super().__init__()
        means = means.detach().flatten(1).float()
        if mean_distance is None:
            mean_distance = means.new_ones(len(means))
        mean_distance = mean_distance.detach().float()
        if not means.isfinite().all():
            bad = (~means.isfinite().all(1)).nonzero().flatten().tolist()
            raise ValueError(f"the means of classes {bad} are not finite")
        positive = mean_distance.isfinite() & (mean_distance > 0)
        if mean_distance.shape != (len(means),) or not positive.all():
            raise ValueError(
                f"mean_distance must hold {len(means)} positive numbers, "
                f"got {mean_distance.tolist()}"
            )
        self.register_buffer("centre", means.mean(0))
        self.register_buffer("offsets", means - self.centre)
        self.register_buffer("squared_norms", self.offsets.square().sum(1))
        self.register_buffer("mean_distance", mean_distance)

    @property
    def means(self) -> Tensor:
        """The class means, flattened: ``(K, D)``."""
        return self.centre + self.offsets

    def forward(self, features: Tensor) -> Tensor:
        """``(B, *shape)`` → ``(B, K)``, float32, whatever the precision of features and network.

        Raises:
            ValueError: features of another size than the class means.
        """
        features = features.flatten(1)
        if features.shape[1] != len(self.centre):
            raise ValueError(
                f"the class means have {len(self.centre)} numbers each, "
                f"the features {features.shape[1]}"
            )
        # Squares of thousands of numbers are subtracted from each other: too much for half
        # precision.
        with torch.autocast(features.device.type, enabled=False):
            x, offsets = features.float() - self.centre.float(), self.offsets.float()
            norms = self.squared_norms if offsets is self.offsets else offsets.square().sum(1)
            squared = torch.addmm(norms, x, offsets.T, alpha=-2) + x.square().sum(1, keepdim=True)
        return -squared.clamp_min(0).sqrt()
