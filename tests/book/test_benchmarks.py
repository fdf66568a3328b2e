"""The benchmarks run and measure what they say, on networks too small to judge anything."""

import pandas as pd
import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks import engine, fitting
from eenotes import Confidence, EarlyExitNetwork, collect, count_macs, linear_exits, simulate, split
from eenotes_book import timing
from eenotes_book.models.resnet import CifarResNet


def network(depth: int, count: int):
    torch.manual_seed(0)
    backbone, x = CifarResNet(depth, width=4).eval(), torch.randn(count, 3, 8, 8)
    stages = split(backbone, at=backbone.exit_points)
    net = EarlyExitNetwork(stages, linear_exits(stages, x[:2], num_classes=10)).eval()
    return backbone, net, x, count_macs(net, x[:1])


@pytest.mark.parametrize("target", engine.COSTS)
def test_rule_at_cost_comes_near_its_target(target):
    _, net, x, costs = network(14, 200)
    logits, _ = collect(net, [(x, torch.zeros(200))])
    exit_index = simulate(logits, engine.rule_at_cost(logits, costs, target)).exit_index
    assert costs.relative_cost(exit_index).mean().item() == pytest.approx(target, abs=0.03)
    assert len(exit_index.unique()) > 3  # spread over the exits, not all at one


def test_speed_up_is_measured_over_what_stages_and_macs_promise(monkeypatch):
    monkeypatch.setitem(engine.STREAMS, 8, 24)
    backbone, net, x, costs = network(8, 16)
    rules = [Confidence(0.0), Confidence(1.0)]  # all samples exit at once, or none early
    table = engine._at_batch_size(backbone, net, x, rules, costs, size=8, rounds=1)
    promised = costs.cumulative[[0, -1]] / costs.backbone
    assert table["relative cost"].tolist() == pytest.approx(promised.tolist())
    speed_up = table["speed-up"] * table["relative cost"]
    assert table["(b)"].tolist() == pytest.approx(speed_up.tolist())
    assert (table["(a)"] > 0).all() and (table["(a) rebatched"] < 10).all()


@pytest.fixture
def takes(monkeypatch):
    """Modules that take so many seconds a batch, by a clock that only they move."""
    now = [0.0]
    monkeypatch.setattr(timing.benchmark, "timer", lambda: now[0])

    class Takes(torch.nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self, x):
            now[0] += self.seconds
            return x

    return Takes


def test_stage_seconds_count_every_batch(takes):
    """One second, three, and a quarter for the exit test, on each of three batches."""
    net = EarlyExitNetwork([takes(1.0), takes(3.0)], [takes(0.25)])
    measured = engine.stage_seconds(net, [torch.zeros(1, 2)] * 3)
    assert measured.stages == (3.0, 9.0) and measured.exits == (0.75,)


def test_a_round_by_hand(takes):
    """Of two samples in a batch one leaves, but here half a batch takes as long as a whole one;
    survivors of two batches share one.
    """
    net = EarlyExitNetwork([takes(1.0), takes(3.0)], [takes(0.25)]).eval()
    batches, exits = [torch.tensor([[5.0, 0.0], [0.0, 0.0]])] * 2, [torch.tensor([0, 1, 0, 1])]
    row = engine._round(takes(4.0), net, batches, [Confidence(0.9)], exits, size=2).iloc[0]
    assert row["speed-up"] == pytest.approx(8 / 8.5)  # 2 · (1 + .25 + 3)
    assert row["rebatched"] == pytest.approx(8 / 5.5)  # 2 · (1 + .25) + 3
    assert row["(a)"] == pytest.approx(5.5 / 8.5)  # promised: 1.25 for all, 3 for half of them
    assert row["(a) rebatched"] == pytest.approx(1.0)


def test_a_ratio_follows_the_pace_of_the_machine(monkeypatch):
    """By a clock of which every tick is longer than the one before: a statement of one tick between
    two references of one tick.
    """
    now, tick = [0.0], [0.0]
    monkeypatch.setattr(timing.benchmark, "timer", lambda: now[0])

    def work():
        tick[0] += 1
        now[0] += tick[0]

    # 2 / ((1 + 3) / 2), 4 / ((3 + 5) / 2), ...
    assert fitting._ratio(work, work, rounds=3) == 1.0


def test_class_mean_fitting_gives_ratios():
    ratios = fitting.class_mean_fitting(8, rounds=1, images=40, size=20)
    assert set(ratios) == {"rms", "mean"} and all(0 < ratio < 100 for ratio in ratios.values())


def test_token_means_give_a_ratio():
    pytest.importorskip("transformers")
    assert 0 < fitting.token_means(rounds=1, rows=4, vocabulary=50, width=16) < 100


@pytest.mark.parametrize(("lowest", "met"), [(0.95, True), (0.85, False)])
def test_the_summary_judges_each_network_by_its_lowest_ratio(monkeypatch, capsys, lowest, met):
    def table(depth, every, *, rounds):
        # batch 1 has no goal; where predict is slow, the stream is not
        alone = [0.1, 0.5, 0.97 if depth == 20 else lowest]
        return pd.DataFrame(
            {"batch": [1, 64, 256], "(a)": alone, "(a) rebatched": [0.1, 0.99, 0.2]}
        )

    for module, name, found in (
        (fitting, "class_mean_fitting", {"rms": 1.1, "mean": 1.1}),
        (fitting, "token_means", 1.1),
        (fitting, "import_time", {"alone": 1.1, "every name": 3.0}),
    ):
        monkeypatch.setattr(module, name, lambda *_, found=found, **__: found)
    monkeypatch.setattr(engine, "speed_up", table)
    monkeypatch.setattr(benchmarks.sys, "argv", ["benchmarks", "--check"])
    assert benchmarks.main() == 1  # predict alone misses at batch 64
    lines = capsys.readouterr().out.splitlines()
    verdicts = {line[:66].strip(): line[66:] for line in lines}
    lowest_of = "(a) at batch 64 and 256, ResNet-56, lowest: "
    assert ("met" in verdicts[lowest_of + "the better of the two"]) is met
    assert "MISSED" in verdicts[lowest_of + "predict"]
