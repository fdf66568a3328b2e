"""Exits: trained linear layers and class means, each one call from features to logits."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eenotes._checks import entering
from eenotes._layout import channel_axis, check_batch_first
from eenotes.network import in_mode


def pool(features: Tensor, *, grid: int = 1, channels_last: bool | None = None) -> Tensor:
    """Average features over space, length or tokens, images to grid × grid cells.

    ``(B, C, *space)`` or, with ``channels_last``, ``(B, *space, C)`` → ``(B, C)``; ``(B, C, H, W)``
    → ``(B, C·grid·grid)``; ``(B, C)`` unchanged.

    Raises:
        ValueError: three axes, ``(B, C, L)`` or ``(B, T, C)``, without ``channels_last``.
    """
    if features.ndim == 3 and channels_last is None:
        shape = tuple(features.shape)
        raise ValueError(f"features {shape} (B, C, L) or (B, T, C)? give channels_last")
    if channels_last and features.ndim > 2:
        features = features.movedim(-1, 1)
    if features.ndim == 4 and grid > 1:
        return nn.functional.adaptive_avg_pool2d(features, grid).flatten(1)
    return features.flatten(2).mean(-1) if features.ndim > 2 else features


class LinearExit(nn.Module):
    """A trained exit: average pooling, then one linear layer.

    Args:
        inputs: how many numbers the pooling leaves: the C channels of the features, or C·grid².
        grid, channels_last: as in `pool`; Shallow-Deep Networks have a grid of 4.
    """

    def __init__(
        self, inputs: int, num_classes: int, *, grid: int = 1, channels_last: bool | None = None
    ):
        super().__init__()
        self.linear = nn.Linear(inputs, num_classes)
        self.grid, self.channels_last = grid, channels_last

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.pooled(features))

    def pooled(self, features: Tensor) -> Tensor:
        """What the linear layer sees, ``(B, inputs)``, in its precision."""
        pooled = pool(features, grid=self.grid, channels_last=self.channels_last)
        return pooled.to(self.linear.weight.dtype)


def linear_exits(
    stages: Iterable[nn.Module],
    x: Tensor,
    *,
    num_classes: int,
    grid: int = 1,
    channels_last: bool | None = None,
) -> nn.ModuleList:
    """A `LinearExit` for every stage but the last, for features like those of ``x`` ``(B, ...)``.

    A feature map smaller than the grid keeps its size.  Without ``channels_last`` the layers tell.

    Raises:
        ValueError: the batch is not first, or nothing says which of three axes are channels.
    """
    stages = list(stages)
    with entering(x, nn.ModuleList(stages)) as x:
        check_batch_first(stages[:-1], x)
    exits = nn.ModuleList()
    features, first = x, x[:1]
    # in evaluation mode: the sample must not move any running statistics
    with in_mode(*stages), torch.no_grad():
        for j, stage in enumerate(stages[:-1]):
            features, last = stage(features), channels_last
            if last is None and features.ndim > 2:
                axis = channel_axis(stages[: j + 1], first)
                last = None if axis is None else axis == -1
            sides = features.shape[1:-1] if last else features.shape[2:]
            cells = min(grid, *sides) if features.ndim == 4 else 1
            width = pool(features, grid=cells, channels_last=last).shape[1]
            head = LinearExit(width, num_classes, grid=cells, channels_last=last)
            exits.append(head.to(features if features.is_floating_point() else features.device))
    return exits


class ClassMeanExit(nn.Module):
    r"""An exit without training: the logits are the negative distances to the class means (E²CM).

    $z_k = -d_k = -\lVert x - M_k \rVert_2$ (2.3), written as $\lVert x\rVert^2 - 2\,x \cdot M_k +
    \lVert M_k\rVert^2$ (2.6): one matrix product, fast, and seen by the FLOP counter.  Everything
    is taken from the centre of the class means: what all features share costs digits.

    Args:
        means: ``(K, *shape)``, one mean feature per class.
        mean_distance: ``(K,)``, the normaliser μ of the confidence (`eenotes.methods.e2cm.rule`).

    Raises:
        ValueError: a mean or a normaliser is not finite, or a normaliser is not positive.
    """

    def __init__(self, means: Tensor, mean_distance: Tensor | None = None):
        super().__init__()
        means = means.detach().flatten(1).float()
        mean_distance = means.new_ones(len(means)) if mean_distance is None else mean_distance
        mean_distance = mean_distance.detach().float()
        if bad := (~means.isfinite().all(1)).nonzero().flatten().tolist():
            raise ValueError(f"the means of classes {bad} are not finite")
        positive = mean_distance.isfinite() & (mean_distance > 0)
        if mean_distance.shape != (len(means),) or not positive.all():
            raise ValueError(f"mean_distance: {len(means)} positive numbers, got {mean_distance}")
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
            own, given = len(self.centre), features.shape[1]
            raise ValueError(f"the class means have {own} numbers each, the features {given}")
        # squares of thousands of numbers are subtracted: too much for half precision
        with torch.autocast(features.device.type, enabled=False):
            x, offsets = features.float() - self.centre.float(), self.offsets.float()
            norms = self.squared_norms if offsets is self.offsets else offsets.square().sum(1)
            squared = torch.addmm(norms, x, offsets.T, alpha=-2) + x.square().sum(1, keepdim=True)
        return -squared.clamp_min(0).sqrt()
