"""The benchmarks run and measure what they say, on networks too small to judge anything."""

import pytest
import torch

from benchmarks import __main__ as benchmarks
from eenotes import EarlyExitNetwork, collect, count_macs, linear_exits, simulate, split
from eenotes.models import CifarResNet


@pytest.mark.parametrize("target", benchmarks.COSTS)
def test_rule_at_cost_comes_near_its_target(target):
    torch.manual_seed(0)
    backbone, x = CifarResNet(14, width=4).eval(), torch.randn(200, 3, 8, 8)
    stages = split(backbone, at=backbone.exit_points)
    net = EarlyExitNetwork(stages, linear_exits(stages, x[:2], num_classes=10)).eval()
    logits, costs = collect(net, [(x, torch.zeros(200))])[0], count_macs(net, x[:1])
    exit_index = simulate(logits, benchmarks.rule_at_cost(logits, costs, target)).exit_index
    assert costs.relative_cost(exit_index).mean().item() == pytest.approx(target, abs=0.03)
    assert len(exit_index.unique()) > 3  # spread over the exits, not all at one


def test_class_mean_fitting_gives_ratios():
    ratios = benchmarks.class_mean_fitting(8, rounds=1, images=40, size=20)
    assert set(ratios) == {"rms", "mean"} and all(0 < ratio < 100 for ratio in ratios.values())


def test_token_means_give_a_ratio():
    pytest.importorskip("transformers")
    assert 0 < benchmarks.token_means(rounds=1, rows=4, vocabulary=50, width=16) < 100
