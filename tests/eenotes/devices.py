"""On a device without double precision everything gives what it gives on the CPU, and no tensor of
one meets a tensor of the other.
"""

from collections.abc import Callable

import pandas as pd
import pytest
import standin_device
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.data import TensorDataset

import eenotes
from eenotes import (
    Confidence,
    EarlyExitNetwork,
    Entropy,
    Patience,
    PerClass,
    collect,
    count_macs,
    linear_exits,
    predict,
    predict_stream,
    simulate,
    split,
    thresholds,
    training,
)
from eenotes.costs import Costs
from eenotes.methods import cbt, e2cm, eeprune, pruning, pruning_schedule
from eenotes_book import cbt_budgets

standin_device.register()
COSTS = Costs((10, 10, 10), (1, 1))


@pytest.fixture
def both() -> Callable:
    """``both(function)``: the numbers that it gives on the CPU and on the device are equal."""

    def check(function: Callable) -> None:
        torch.manual_seed(0)
        expected = function(torch.device("cpu"))
        with standin_device.device() as device:
            torch.manual_seed(0)
            found = pytree.tree_map_only(torch.Tensor, lambda t: t.cpu(), function(device))
        for one, other in zip(*map(_leaves, (found, expected)), strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5), (found, expected)

    return check


def _leaves(value) -> list:
    if isinstance(value, pd.DataFrame):
        return _leaves(value.to_dict("list"))
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    return [] if value is None else [value]


def test_the_stand_in_is_strict():
    with standin_device.device() as device:
        x = torch.ones(3, device=device)
        assert x.device == device and torch.equal((x + 1).cpu(), torch.full((3,), 2.0))
        with pytest.raises(TypeError, match="no double precision"):
            x.double()
        with pytest.raises(TypeError, match="no bfloat16"):
            x.bfloat16()
        with pytest.raises(RuntimeError, match="do not mix"):
            x + torch.ones(3)


def test_the_stand_in_counts_where_python_waits():
    with standin_device.device() as device, standin_device.waits() as waited:
        x = torch.arange(4, device=device)
        x + 1, x.amax(), x[x.new_zeros(1)]
        assert waited == []
        bool((x > 1).any()), x.cpu(), x[x > 1], (x > 1).nonzero(), x.sum().item()
    kinds = ["_local_scalar_dense", "_to_copy", "index", "nonzero", "_local_scalar_dense"]
    assert waited == kinds


def data(device):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(60, 2, 6, 6, generator=generator) + y[:, None, None, None]
    return x.to(device), y.to(device)


def backbone():
    first = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()


def stages(device):
    return split(backbone().to(device), at=["2", "3"])


def network(device):
    x, _ = data(device)
    pieces = stages(device)
    return EarlyExitNetwork(pieces, linear_exits(pieces, x, num_classes=3)).eval()


@pytest.mark.parametrize(
    "rule",
    [
        lambda device: Confidence(torch.tensor([0.4, 0.5], device=device)),
        lambda device: Entropy(1.0),
        lambda device: Patience(1),
        lambda device: PerClass(torch.tensor([0.4, 0.5, 0.6], device=device)),
    ],
)
def test_inference(both, rule):
    def run(device):
        net, (x, y), by = network(device), data(device), rule(device)
        logits, labels = collect(net, [(x, y)])
        outcomes = [predict(net, x, by), simulate(logits, by), simulate([*logits], by)]
        outcomes.append(predict_stream(net, x.split(7), by, batch_size=5))
        costs = count_macs(net, x[:2])
        paid = [f(outcomes[0].exit_index) for f in (costs.relative_cost, costs.overhead)]
        found = thresholds.evaluate(logits, labels, by, costs)
        return [[*map(vars, outcomes)], found, paid, thresholds.summarise(outcomes[3], y, costs)]

    both(run)


@pytest.mark.parametrize("rule", [Confidence(0.5), Entropy(0.9), Patience(2), Confidence(0.0)])
def test_a_batch_waits_once_a_stage_for_who_stays_and_once_at_the_end(rule):
    """The number that stays is a shape; whether a confidence is NaN is asked once for all."""
    with standin_device.device() as device:
        net, (x, _) = network(device), data(device)
        with standin_device.waits() as waited:
            taken = predict(net, x, rule)
        run = int(taken.exit_index.cpu().max()) + 1
    early = min(run, net.num_exits - 1)
    assert waited == ["nonzero"] * early + ["_to_copy"]


@pytest.mark.parametrize("how", ["mean", "rms", "whitened", "combined"])
def test_class_means(both, how):
    def run(device):
        batches, pieces = [data(device)], stages(device)
        if how == "whitened":
            net = e2cm.fit_whitened(pieces, batches, num_classes=3, grid=1)
        else:
            normaliser = how if how == "rms" else "mean"
            net = e2cm.fit(pieces, batches, num_classes=3, normaliser=normaliser)
        if how == "combined":
            heads = linear_exits(pieces, batches[0][0], num_classes=3)
            net = e2cm.combine(net, EarlyExitNetwork(pieces, heads))
        rule = e2cm.rule(net, 0.4)
        outcome = predict(net, batches[0][0], rule)
        chosen = thresholds.thresholds_for_budgets(
            *collect(net, batches), rule, count_macs(net, batches[0][0]), budgets=(2.0,)
        )
        return [vars(outcome), [*net(batches[0][0])], chosen]

    both(run)


def test_thresholds_and_class_thresholds(both):
    def run(device):
        logits, y = collect(network(device), [data(device)])
        table = torch.rand(4, 2, 3).to(device)
        sweeps = [
            thresholds.sweep(logits, y, Confidence(1.0), COSTS, thresholds=t)
            for t in (table[..., 0], table)
        ]
        found = cbt.statistics([(logits, y)], num_classes=3)
        rule = found.rule(alpha=0.5, beta=0.9)
        v = cbt_budgets.validation(logits, y, COSTS)
        loss = torch.rand(3, 60).to(device)
        choices = [
            cbt_budgets.scale_for_budget(found, v, budget=1.0),
            cbt_budgets.single_for_budget(v, budget=1.0),
            cbt_budgets.priced_for_budget(v, budget=1.0),
        ]
        priced = cbt_budgets.priced(v, price=0.1, loss=loss)
        iou = cbt_budgets.mean_iou(logits[0].argmax(1), y, 3)
        stretched = cbt.stretch(torch.tensor([0.1, 0.4], device=device), alpha=0.2, beta=0.8)
        return [sweeps, rule.thresholds, [*map(vars, choices)], priced, iou, stretched]

    both(run)


def test_pruning(both):
    def run(device):
        net, x = network(device), data(device)[0]
        layers = pruning.layers(net)
        pruning.prune_smallest(layers.values(), rate=0.3)
        accuracy = pruning_schedule.accuracies(net, [data(device)])
        return [pruning.sparsity(layers), accuracy, [*pruning.permanent(net)(x)], [*net(x)]]

    both(run)


def test_selecting_samples(both):
    def run(device):
        dataset = TensorDataset(*data("cpu"))
        pruned = eeprune.prune(network(device), dataset, ratio=0.1, variant="soft", balanced=True)
        return [pruned.keep, pruned.scores.values]

    both(run)


def test_losses_and_saving(both, tmp_path):
    def run(device):
        net, batch = network(device), data(device)
        net.train()
        loss = training.joint_loss(net, batch)
        loss.backward()
        eenotes.save(net.eval(), tmp_path / "net", rule=e2cm.rule(net))
        again = eenotes.load(tmp_path / "net", backbone().to(device))
        return [loss.detach(), net.stages[0].get_parameter("0.weight").grad, [*again(batch[0])]]

    both(run)


@pytest.mark.parametrize("covariance", [False, True])
def test_language(both, made, text, covariance):
    from eenotes.language import decoding, evaluation, exits, initialisation, token_statistics

    def run(device):
        model = made("llama").to(device)
        exited = exits.attach(model, at=2)
        exited.eval()
        batches = text().to(device).split(3)
        found = token_statistics.statistics(exited, batches, covariance=covariance)
        collected = evaluation.collect(exited, batches)
        n0, scores = initialisation.choose_n0(found, *collected, whiten=covariance)
        initialisation.initialise(exited, "class mean", found=found, n0=n0)
        scored = evaluation.score(*collected, initialisation.copied_head(model))
        texts = [
            decoding.greedy(exited, text()[0].to(device), max_new_tokens=3),
            decoding.early_exit(exited, text()[0].to(device), threshold=0.1, max_new_tokens=3),
            decoding.self_speculative(exited, text()[0].to(device), max_new_tokens=3),
        ]
        evaluated = evaluation.evaluate(exited, batches)
        return [n0, [*scores.values()], found.prior, scored, evaluated, [t.ids for t in texts]]

    both(run)
