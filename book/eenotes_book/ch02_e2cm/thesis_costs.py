"""The thesis's axis of cost: its code counts a 3 × 3 convolution about five times too dear."""

import pandas as pd
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

NETWORKS = {
    "ResNet-152": torchvision.models.resnet152,
    "Wide ResNet-101": torchvision.models.wide_resnet101_2,
}


def operations(kernel: int) -> int:
    """What the thesis's code counts for a k × k convolution, per pair of channels and place.

    It is $k^4 + k^2 - 1$; done are $k^2$ multiplications and $k^2 - 1$ additions.
    """
    return kernel**4 + kernel**2 - 1


def shares(name: str) -> pd.DataFrame:
    """The share of the whole backbone that is spent at the end of each block, counted twice.

    Args:
        name: one of `NETWORKS`, as torchvision builds it, on an image of 32 × 32.

    Returns:
        A row for the stem and one per residual block: ``block``, ``macs``, ``thesis``.
    """
    with torch.device("meta"):
        net = NETWORKS[name](num_classes=10).eval()
        image = torch.empty(1, 3, 32, 32)
    rows, spent = [], {"macs": 0, "thesis": 0}

    def spend(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        kernel = module.kernel_size[0] if isinstance(module, nn.Conv2d) else 1
        pairs = module.weight.numel() // kernel**2
        places = output[0, 0].numel() if output.ndim == 4 else 1
        spent["macs"] += pairs * places * kernel**2
        spent["thesis"] += pairs * places * operations(kernel)

    def end_of(block: str) -> RemovableHandle:
        return net.get_submodule(block).register_forward_hook(
            lambda *_: rows.append({"block": block, **spent})
        )

    blocks = [f"layer{i}.{j}" for i in range(1, 5) for j in range(len(getattr(net, f"layer{i}")))]
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(spend)
    for block in ["maxpool", *blocks]:
        end_of(block)
    net(image)
    table = pd.DataFrame(rows)
    table[["macs", "thesis"]] /= [spent["macs"], spent["thesis"]]
    return table.replace({"block": {"maxpool": "stem"}})
