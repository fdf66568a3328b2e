"""The probe of chapter 1: a narrow residual network with three early exits learns a few digits.

All tables of the chapter are made from it, and the clock runs once without its seconds being read.
A second, shorter training has another seed, and the name CIFAR10, which brings augmentation with
it.
"""

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes.costs import Costs, count_macs
from eenotes.inference import Outcome, collect, predict, simulate
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Confidence, Patience, Rule
from eenotes.streaming import predict_stream
from eenotes.thresholds import cheapest_with_accuracy, evaluate
from eenotes_book import networks
from eenotes_book.ch01_leaving import experiment
from eenotes_book.ch01_leaving.probe_clock import clock, timed_images
from eenotes_book.ch01_leaving.probe_numbers import later_more, mean_of, summary
from eenotes_book.data import vision
from eenotes_book.probes import default_dtype

SETTINGS = SimpleNamespace(
    data="digits",
    train=500,
    val=150,
    test=300,
    depth=14,
    width=8,
    exits=["group1.0", "group2.0", "group3.0"],
    epochs=2,
    batch_size=16,
    learning_rate=0.09,
)
RULES = {"confidence": Confidence([0.17, 0.21, 0.8]), "patience": Patience(1)}

Numbers = float | list[float] | Tensor
Found = dict[str, Numbers]


def probe() -> Found:
    """The chapter's experiment in miniature: name → numbers."""
    s, data = SETTINGS, _images(SETTINGS)
    backbone, net = networks.resnet_with_exits(data, s)
    found = _splits(data) | {"build: weights": _together(net)}
    losses = networks.train_or_load(net, data, s)
    found |= {"train: losses": losses, "train: weights": _weights(net)} | _augmented(data)
    with default_dtype(torch.float32):
        found |= _studied(backbone, net, data, s)
    return found | {"timings: images": timed_images(data)}


def _studied(
    backbone: nn.Module, net: EarlyExitNetwork, data: vision.Vision, s: SimpleNamespace
) -> Found:
    """What the chapter computes with the trained network."""
    x = data.test.tensors[0]
    costs, val, test = count_macs(net, x[:1]), _logits(net, data.val), _logits(net, data.test)
    fronts = experiment.validation_fronts(*val, costs)
    every = experiment.single_threshold(*val, costs)
    rules = experiment.rules_at_costs(every)
    return (
        _costs(costs)
        | _exits("val", *val)
        | _exits("test", *test)
        | _tables(*test, costs)
        | _thresholds(every, rules)
        | _fronts(fronts, *test, costs)
        | _claims(fronts["confidence"], val, test, costs)
        | _at_work(net, x[:16])
        | clock(backbone, net, x, rules, costs)
    )


# ------------------------------------------------------------------------------------ the network


def _images(s: SimpleNamespace) -> vision.Vision:
    """The digits in float64: the package gives float32, whatever the default."""
    data = vision.load(s.data, train=s.train, val=s.val, test=s.test)
    splits = {name: getattr(data, name).tensors for name in ("train", "val", "test")}
    doubled = {name: TensorDataset(x.double(), y) for name, (x, y) in splits.items()}
    return replace(data, **doubled)


def _splits(data: vision.Vision) -> Found:
    """Which images are in which split, in which order, and how they are scaled."""
    found = {"load: mean, std": [data.mean.item(), data.std.item()]}
    for name in ("train", "val", "test"):
        x, y = getattr(data, name).tensors
        found[f"load: {name}"] = [len(y), later_more(y), later_more(x.square().mean((1, 2, 3)))]
    return found


def _weights(net: EarlyExitNetwork) -> list[float]:
    """The size of the weights of each stage, of each exit, and of the statistics of batch norm."""
    parts = [part.parameters() for part in (*net.stages, *net.exits)]
    return [_norm(part) for part in (*parts, _statistics(net))]


def _together(net: EarlyExitNetwork) -> list[float]:
    """The size of all weights, of those of the exits, and of the statistics of batch norm."""
    parts = (net.parameters(), net.exits.parameters(), _statistics(net))
    return [_norm(part) for part in parts]


def _statistics(net: EarlyExitNetwork) -> list[Tensor]:
    return [value for value in net.buffers() if value.is_floating_point()]


def _norm(tensors: Iterable[Tensor]) -> float:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).norm().item()


def _augmented(data: vision.Vision) -> Found:
    """A short training with augmentation, from another seed."""
    changed = {"data": "CIFAR10", "epochs": 1, "batch_size": 64}
    s, data = SimpleNamespace(**vars(SETTINGS) | changed), replace(data, name="CIFAR10")
    _, net = networks.resnet_with_exits(data, s, seed=3)
    losses = networks.train_or_load(net, data, s, seed=3)
    return {"augmented: losses": losses, "augmented: weights": _together(net)}


def _logits(net: EarlyExitNetwork, split: TensorDataset) -> tuple[Tensor, Tensor]:
    """The logits of all exits in float64, and the labels."""
    logits, labels = collect(net, vision.batches(split))
    return logits.double(), labels


# ------------------------------------------------------------------------- what each image meets


def _costs(costs: Costs) -> Found:
    """Multiply-accumulate operations: of stages, of exit tests, and up to each exit."""
    exits = torch.arange(len(costs.stages))
    return {
        "costs: stages": costs.stages,
        "costs: exits": costs.exits,
        "costs: relative": costs.relative_cost(exits),
        "costs: overhead in MACs": costs.overhead(exits) * costs.backbone,
    }


def _exits(split: str, logits: Tensor, labels: Tensor) -> Found:
    """What the exits say: cross-entropy, spread of the logits, mean confidence."""
    losses = [nn.functional.cross_entropy(of_exit, labels).item() for of_exit in logits]
    return {
        f"{split}: loss": losses,
        f"{split}: spread": [logits.std().item()],
        f"{split}: confidence": logits.softmax(2).amax(2).mean(1),
    }


def _tables(logits: Tensor, labels: Tensor, costs: Costs) -> Found:
    """The tables on difficulty and on overthinking."""
    overthought = experiment.overthought(logits, labels)
    return {
        "by_margin": summary(experiment.by_margin(logits[-1], labels)),
        "per_exit": summary(experiment.per_exit(logits, labels, costs)),
        "overthinking": summary(experiment.overthinking(logits, labels)),
        "overthought": [overthought.sum().item(), later_more(overthought)],
        "falls": summary(experiment.falls(logits, labels, count=4)),
    }


# ---------------------------------------------------------------------- what a threshold trades


def _thresholds(every: pd.DataFrame, rules: dict[str, Rule]) -> Found:
    """One threshold for all exits, and those that are timed."""
    return {
        "single_threshold": summary(every),
        "single_threshold: left": mean_of(every["left"]),
        "claim 5: rules_at_costs": [rule.thresholds for rule in rules.values()],
    }


def _fronts(fronts: dict[str, pd.DataFrame], logits: Tensor, labels: Tensor, costs: Costs) -> Found:
    """The Pareto fronts of the three rules on validation, and the same rules on test."""
    found = {}
    for name, front in fronts.items():
        found[f"front of {name}"] = summary(front[["accuracy", "relative_cost"]])
        found[f"front of {name}: rules"] = mean_of(_limits(rule) for rule in front["rule"])
        on_test = experiment.on_test(front, logits, labels, costs)
        found[f"on_test: {name}"] = summary(on_test[["accuracy", "relative_cost"]])
    return found


def _limits(rule: Rule) -> tuple[float, ...]:
    """What a rule is set to."""
    return (rule.patience,) if isinstance(rule, Patience) else rule.thresholds


def _claims(
    front: pd.DataFrame, val: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], costs: Costs
) -> Found:
    """What the claims on accuracy and cost are made of."""
    logits, labels = test
    enough = (val[0][-1].argmax(1) == val[1]).double().mean().item()
    chosen = cheapest_with_accuracy(front, accuracy=enough)["rule"]
    found, outcome = evaluate(logits, labels, chosen, costs), simulate(logits, chosen)
    last = (logits[-1].argmax(1) == labels).double()
    right = (outcome.prediction == labels).double()
    numbers = experiment.measured(logits, labels, costs, chosen=chosen, times=pd.DataFrame())
    return {
        "claim 1: thresholds": chosen.thresholds,
        "claim 1: relative cost": [numbers["relative cost"]],
        "claim 1: accuracy, loss": [found["accuracy"], (last.mean() - right.mean()).item()],
        "claim 1: overhead in MACs": [found["overhead"] * costs.backbone],
        "claim 1: left": found["left"],
        "claim 1: outcome": _outcome(outcome),
        "claim 2: lost": [numbers["lost by exiting early"]],
        "claim 3: gap": [numbers["last exit, early minus late"]],
        "claim 4: gain": [experiment.oracle_accuracy(logits, labels) - last.mean().item()],
    }


def _at_work(net: EarlyExitNetwork, x: Tensor) -> Found:
    """Every rule with the network at work, on a batch and on a stream."""
    found = {}
    for name, rule in RULES.items():
        found[f"predict: {name}"] = _outcome(predict(net, x, rule))
        stream = predict_stream(net, x.split(6), rule, batch_size=4)
        found[f"predict_stream: {name}"] = _outcome(stream)
    return found


def _outcome(outcome: Outcome) -> list[float]:
    """Where samples left, with which answers, and how sure the rule was."""
    columns = (outcome.exit_index, outcome.prediction, outcome.confidence)
    return [later_more(column) for column in columns]
