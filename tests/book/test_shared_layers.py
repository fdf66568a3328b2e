"""Layers in several places, and networks that lose no channels."""

import pytest
import torch
from torch import nn
from torchvision import models

from eenotes import EarlyExitNetwork, linear_exits, split
from eenotes.methods import pruning
from eenotes_book import cbt_budgets
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


def small_vit(num_classes):
    return models.VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=num_classes)


def small_swin(num_classes):
    shape = {"patch_size": [4, 4], "depths": [1, 1], "num_heads": [2, 2], "window_size": [4, 4]}
    return models.SwinTransformer(embed_dim=16, num_classes=num_classes, **shape)


@pytest.mark.parametrize(
    ("build", "at", "words"),
    [
        (models.convnext_tiny, "features.1", r"stages\.0\.features\.0\.1"),
        (models.shufflenet_v2_x0_5, "stage2", "stages.0"),
        (small_vit, "encoder.layers.encoder_layer_0", r"stages\.0\.class_token"),
        (small_swin, "features.1", r"stages\.0\..*attn\.relative_position"),
    ],
)
def test_networks_that_lose_no_channels_name_a_layer(build, at, words):
    pytest.importorskip("torch_pruning")
    x = torch.randn(2, 3, 64, 64)
    stages = split(build(num_classes=4).eval(), at=[at], example=x)
    net = EarlyExitNetwork(stages, linear_exits(stages, x, num_classes=4)).eval()
    with pytest.raises(ValueError, match=words):
        prune_channels(net, x, ratio=0.5)


def test_mean_iou_names_an_ignored_label():
    with pytest.raises(ValueError, match=r"0\.\.2, got 0\.\.255; leave out ignored ones"):
        cbt_budgets.mean_iou(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 255]), 3)
    assert cbt_budgets.mean_iou(
        torch.tensor([0, 2, 1, 1]), torch.tensor([0, 0, 1, 1]), 4
    ) == pytest.approx((1 / 2 + 1 + 0) / 3)
