"""SDN and BranchyNet: what is trained, what stays, and what a seed repeats."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from eenotes import collect, split
from eenotes_book.ch02_e2cm.trained_exits import (
    branchy_network,
    shallow_deep_network,
    with_linear_exits,
)
from eenotes_book.models.resnet import CifarResNet

Y = torch.arange(60) % 3
X = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + Y[:, None, None, None]
DATA = TensorDataset(X, Y)


def stages():
    torch.manual_seed(0)
    backbone = CifarResNet(8, width=4, num_classes=3, in_channels=1).eval()
    return split(backbone, at=["stem", "group2"])


def trained(build, *, seed=1):
    return build(stages(), DATA, num_classes=3, seed=seed, epochs=6, batch_size=20)


def moved(net):
    """Which stages differ from those of the start."""
    now, start = (
        [list(stage.state_dict().values()) for stage in found] for found in (net.stages, stages())
    )
    pairs = zip(now, start, strict=True)
    return [not all(map(torch.equal, mine, other)) for mine, other in pairs]


@pytest.mark.parametrize(
    ("build", "moves"), [(shallow_deep_network, False), (branchy_network, True)]
)
def test_what_is_trained_and_what_stays(build, moves):
    before = torch.random.get_rng_state()
    stages()  # seeds the generators itself
    expected = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    net = trained(build)
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert moved(net) == [moves] * 3
    assert not any(part.training for part in net.modules())
    assert [head.grid for head in net.exits] == [4, 4]

    logits, labels = collect(net, [(X, Y)])
    untrained, _ = collect(
        with_linear_exits(stages(), DATA, num_classes=3, seed=1).eval(), [(X, Y)]
    )
    losses = [
        torch.stack([nn.functional.cross_entropy(z, labels) for z in each[:-1]])
        for each in (logits, untrained)
    ]
    assert (losses[0] < losses[1]).all()


def test_a_seed_repeats_the_exits():
    first, again, other = (trained(shallow_deep_network, seed=seed) for seed in (1, 1, 2))
    weights = [net.exits[0].linear.weight for net in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
