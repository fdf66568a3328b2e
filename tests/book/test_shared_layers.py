"""Layers in several places, and networks that lose no channels."""

import pytest
import torch
import torchvision
from torch import nn

from eenotes import EarlyExitNetwork, linear_exits, split
from eenotes.methods import cbt, pruning
from eenotes_book.ch03_pruning.pruned_costs import effective_costs, prune_channels


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        for _ in range(3):  # one layer three times, as in ALBERT
            x = self.layer(x).relu()
        return self.last(x)


def test_a_layer_in_two_stages_saves_where_it_is_used():
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    stages = split(Repeated().eval(), at=["relu"])
    net = EarlyExitNetwork(stages, linear_exits(stages, x, num_classes=3)).eval()
    pruning.prune_smallest(pruning.layers(net).values(), rate=0.6)
    left = {name: int((m.weight != 0).sum()) for name, m in pruning.layers(net).items()}
    first, layer, last, head = (
        next(count for name, count in left.items() if name.endswith(end))
        for end in ("first", "layer", "last", "linear")
    )
    costs = effective_costs(net, x)
    assert costs.stages == (first + layer, 2 * layer + last)
    assert costs.exits == (head,)


@pytest.mark.parametrize(
    ("name", "at", "words"),
    [
        ("convnext_tiny", "features.1", r"stages\.0\.features\.0\.1"),
        ("shufflenet_v2_x0_5", "stage2", "stages.0"),
    ],
)
def test_networks_that_lose_no_channels_name_a_layer(name, at, words):
    pytest.importorskip("torch_pruning")
    x = torch.randn(2, 3, 64, 64)
    stages = split(getattr(torchvision.models, name)(num_classes=4).eval(), at=[at], example=x)
    net = EarlyExitNetwork(stages, linear_exits(stages, x, num_classes=4)).eval()
    with pytest.raises(ValueError, match=words):
        prune_channels(net, x, ratio=0.5)


def test_mean_iou_names_an_ignored_label():
    with pytest.raises(ValueError, match=r"0\.\.2, got 0\.\.255; leave out ignored ones"):
        cbt.mean_iou(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 255]), 3)
    assert cbt.mean_iou(torch.tensor([0, 2, 1, 1]), torch.tensor([0, 0, 1, 1]), 4) == pytest.approx(
        (1 / 2 + 1 + 0) / 3
    )
