"""Networks by their own names, from torchvision: the thesis's MobileNetV3-large and ResNet-50."""

from collections.abc import Sequence

import torch
from torch import nn

from eenotes.cutting import split
from eenotes.exits import linear_exits
from eenotes.network import EarlyExitNetwork

_EXITS = {  # about a quarter, half and three quarters of the way
    "mobilenet_v3_large": ("features.4", "features.8", "features.12"),
    "resnet50": ("layer1", "layer2", "layer3"),
}
NAMES = tuple(_EXITS)


def by_name(
    name: str, shape: Sequence[int], *, num_classes: int, exits: bool = True, grid: int = 1
) -> EarlyExitNetwork:
    """An untrained network of torchvision with three linear exits, or as a plain classifier.

    They were drawn for 224 pixels a side.  For small images the first convolution keeps the
    resolution and ResNet-50's first pooling goes; torchvision's widths and blocks stay.

    Args:
        name: one of `NAMES`.
        shape: of one image, ``(C, H, W)``.
        num_classes: K.
        exits: without them the network is a plain classifier of one stage.
        grid: cells a side to which the early exits pool feature maps.

    Raises:
        ValueError: another name.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r} must be one of {', '.join(NAMES)}")
    from torchvision.models import get_model

    backbone = get_model(name, weights=None, num_classes=num_classes)
    _keep_resolution(backbone, channels=shape[0])
    if not exits:
        return EarlyExitNetwork([backbone], [])
    example = torch.zeros(2, *shape)
    stages = split(backbone, at=list(_EXITS[name]))
    return EarlyExitNetwork(
        stages, linear_exits(stages, example, num_classes=num_classes, grid=grid)
    )


def _keep_resolution(backbone: nn.Module, *, channels: int) -> None:
    """Give the first convolution stride 1 and the data's channels, in place."""
    path, first = next((p, m) for p, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    like = {"kernel_size": first.kernel_size, "padding": first.padding, "bias": False}
    backbone.set_submodule(path, nn.Conv2d(channels, first.out_channels, **like))
    if hasattr(backbone, "maxpool"):
        backbone.maxpool = nn.Identity()
