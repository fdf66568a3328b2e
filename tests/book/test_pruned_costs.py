"""What pruning saves: effective MACs by hand, and channels that are really gone."""

import sys

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from eenotes import EarlyExitNetwork, LinearExit, count_macs, linear_exits, split, training
from eenotes.identity import fingerprint
from eenotes.methods.pruning import layers
from eenotes_book.ch03_pruning.pruned_costs import effective_costs, prune_channels
from eenotes_book.models.resnet import CifarResNet


def small():
    """A convolutional network with batch normalisation and two exits, and data for it."""
    torch.manual_seed(0)
    backbone = CifarResNet(8, width=4, num_classes=3, in_channels=1)
    stages = split(backbone, at=["group1", "group2"])
    x, y = torch.randn(24, 1, 8, 8), torch.arange(24) % 3
    net = EarlyExitNetwork(stages, linear_exits(stages, x, num_classes=3))
    return net.eval(), TensorDataset(x, y)


# --- MACs


def test_effective_macs_without_zeros_are_the_counted_ones():
    net, data = small()
    assert effective_costs(net, data.tensors[0]) == count_macs(net, data.tensors[0])


def test_effective_macs_by_hand():
    """A convolution's weight works once per output position: 2 zeros at 16 positions save 32 of 1 *
    2 * 9 * 16 MACs.
    """
    conv, classifier = nn.Conv2d(1, 2, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    net = EarlyExitNetwork([conv, classifier], [LinearExit(2, 3)])
    with torch.no_grad():
        conv.weight[0, 0, 0, :2] = 0
        net.exits[0].linear.weight[1] = 0
        classifier[1].weight[:, 0] = 0
    costs = effective_costs(net, torch.randn(5, 1, 4, 4))
    assert costs.stages == (288 - 32, 96 - 3) and costs.exits == (6 - 2,)
    assert net.training  # modes are left alone


def test_two_digits_of_a_stage_are_not_confused():
    """Stage 1 and stage 10 begin with the same letters."""
    stages = [nn.Linear(2, 2) for _ in range(11)]
    net = EarlyExitNetwork(stages, [LinearExit(2, 2) for _ in range(10)])
    with torch.no_grad():
        stages[10].weight[0] = 0
        net.exits[1].linear.weight.zero_()
    costs = effective_costs(net, torch.randn(1, 2))
    assert costs.stages == (4,) * 10 + (2,) and costs.exits == (4, 0) + (4,) * 8


# --- channels, really gone


@pytest.fixture
def torch_pruning():
    return pytest.importorskip("torch_pruning")


def test_channels_are_gone_from_backbone_and_exits(torch_pruning, unchanged):
    net, data = small()
    x = data.tensors[0]
    with unchanged(net):
        thin = prune_channels(net, x, ratio=0.5)
    shapes = {name: tuple(m.weight.shape) for name, m in layers(thin).items()}
    assert shapes["stages.0.stem.0"] == (2, 1, 3, 3)
    assert shapes["exits.0.linear"] == (3, 2) and shapes["exits.1.linear"] == (3, 4)
    assert shapes["stages.2.classifier"] == (3, 8)
    assert [tuple(z.shape) for z in thin(x)] == [(24, 3)] * 3
    dense, after = count_macs(net, x), count_macs(thin, x)
    assert after.backbone < 0.3 * dense.backbone and all(
        a < d for a, d in zip(after.exits, dense.exits, strict=True)
    )
    assert not any(part.training for part in thin.modules())


def test_a_thin_network_can_be_trained(torch_pruning):
    net, data = small()
    thin = prune_channels(net, data.tensors[0], ratio=0.5)
    before = fingerprint(thin)
    training.fit(thin, data, loss=training.joint_loss, epochs=1, batch_size=12)
    assert fingerprint(thin) != before


def test_the_least_important_channel_goes():
    """One hidden channel is nearly zero on both sides; it is the one that disappears."""
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    first, last = nn.Linear(3, 2), nn.Linear(2, 3)
    with torch.no_grad():
        first.weight[0], last.weight[:, 0] = 1e-3, 1e-3
    net = EarlyExitNetwork([first, last], [LinearExit(2, 3)])
    with torch.no_grad():
        net.exits[0].linear.weight[:, 0] = 1e-3
    thin = prune_channels(net, torch.randn(2, 3), ratio=0.5)
    assert torch.equal(thin.stages[0].weight, first.weight[1:]) and torch.equal(
        thin.stages[1].weight, last.weight[:, 1:]
    )


def test_without_torch_pruning_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    net, data = small()
    with pytest.raises(ImportError, match=r"eenotes\[pruning\]"):
        prune_channels(net, data.tensors[0], ratio=0.5)


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan"), True, "half", None])
def test_a_ratio_outside_0_and_1(ratio, unchanged):
    net, data = small()
    with unchanged(net), pytest.raises(ValueError, match=r"must be in \(0, 1\)"):
        prune_channels(net, data.tensors[0], ratio=ratio)
