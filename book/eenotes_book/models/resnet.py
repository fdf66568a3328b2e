"""The CIFAR residual network of He et al. (2016), section 4.2: depth 6n + 2, in 3 groups."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut; where the width changes, the shortcut is a 1×1
    convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Option A of He et al.: every second pixel, and zero channels on both sides.

    Args:
        channels: how many zero channels there are in all; half of them come first.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.side = channels // 2

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.side, self.side))


class CifarResNet(nn.Module):
    """Images ``(B, C, H, W)`` → logits ``(B, K)``.

    Args:
        depth: 6n + 2: 8, 14, 20, ..., 56.
        num_classes: K.
        in_channels: C.
        width: channels of the first group; the second and third have two and four times as many.
        padded: shortcuts without weights where the width changes (`PaddedShortcut`), as published
            networks have them.

    Raises:
        ValueError: for a depth that is not 6n + 2.
    """

    def __init__(
        self,
        depth: int = 20,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        width: int = 16,
        padded: bool = False,
    ):
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ...), got {depth}")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.group1 = self._group(blocks, width, width, stride=1)
        self.group2 = self._group(blocks, width, 2 * width, stride=2)
        self.group3 = self._group(blocks, 2 * width, 4 * width, stride=2)
        self.classifier = nn.Linear(4 * width, num_classes)
        if padded:
            self.group2[0].shortcut = PaddedShortcut(width)
            self.group3[0].shortcut = PaddedShortcut(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group3(self.group2(self.group1(self.stem(x))))
        return self.classifier(x.mean((2, 3)))

    @property
    def exit_points(self) -> list[str]:
        """The thesis's exits: after the stem and after every residual block but the last."""
        groups = {"group1": self.group1, "group2": self.group2, "group3": self.group3}
        blocks = [f"{name}.{i}" for name, group in groups.items() for i in range(len(group))]
        return ["stem", *blocks[:-1]]

    @staticmethod
    def _group(blocks: int, channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
        first = Block(channels_in, channels, stride)
        return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1)))
