"""A small network of four stages, convolutional or of plain layers."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from eenotes.exits import linear_exits
from eenotes.network import EarlyExitNetwork


def four_stages(
    kind: str,
    shape: Sequence[int],
    *,
    num_classes: int,
    width: int,
    exits: bool = True,
    grid: int = 1,
) -> EarlyExitNetwork:
    """An untrained network of four stages with a linear exit after each of the first three.

    It is small enough for hundreds of trainings.

    Args:
        kind: ``"conv"``: four 3×3 convolutions with batch normalisation; ``"mlp"``: three hidden
            layers.
        shape: of one sample.
        num_classes: K.
        width: channels of the first convolution (then twice, twice, four times as many), or units
            of each hidden layer.
        exits: without them the network is a plain classifier of one stage.
        grid: cells a side to which the early exits pool feature maps.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("conv", "mlp"):
        raise ValueError(f"kind={kind!r} must be 'conv' or 'mlp'")
    build = _convolutions if kind == "conv" else _layers
    stages = build(shape, num_classes, width)
    if not exits:
        return EarlyExitNetwork([nn.Sequential(*stages)], [])
    example = torch.zeros(2, *shape)
    return EarlyExitNetwork(
        stages, linear_exits(stages, example, num_classes=num_classes, grid=grid)
    )


def _convolutions(shape: Sequence[int], num_classes: int, width: int) -> list[nn.Module]:
    widths = [shape[0], width, 2 * width, 2 * width, 4 * width]
    blocks = [
        _convolution(inputs, outputs, stride=2 if j == 0 else 1)
        for j, (inputs, outputs) in enumerate(pairwise(widths))
    ]
    blocks[2:] = [nn.Sequential(nn.MaxPool2d(2), block) for block in blocks[2:]]
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))
    return [*blocks[:3], nn.Sequential(blocks[3], last)]


def _layers(shape: Sequence[int], num_classes: int, width: int) -> list[nn.Module]:
    first = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU())
    hidden = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)]
    return [first, *hidden, nn.Linear(width, num_classes)]


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
