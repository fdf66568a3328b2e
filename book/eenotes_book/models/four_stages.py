"""A small network of four stages, convolutional or of plain layers."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from eenotes.exits import linear_exits
from eenotes.network import EarlyExitNetwork


def four_stages(
    kind: str, shape: Sequence[int], *, num_classes: int, width: int, exits: bool = True
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
    """
    if kind == "conv":
        widths = [shape[0], width, 2 * width, 2 * width, 4 * width]
        blocks = [
            _convolution(a, b, stride=2 if j == 0 else 1)
            for j, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        blocks[2:] = [nn.Sequential(nn.MaxPool2d(2), block) for block in blocks[2:]]
        last = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)
        )
        stages = [*blocks[:3], nn.Sequential(blocks[3], last)]
    else:
        inputs = math.prod(shape)
        stages = [nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU())]
        stages += [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)]
        stages.append(nn.Linear(width, num_classes))
    if not exits:
        return EarlyExitNetwork([nn.Sequential(*stages)], [])
    return EarlyExitNetwork(
        stages, linear_exits(stages, torch.zeros(2, *shape), num_classes=num_classes)
    )


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
