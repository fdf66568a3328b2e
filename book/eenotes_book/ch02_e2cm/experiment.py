"""Chapter 2, with labels: E²CM against trained exits under a budget, and without one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes.costs import count_macs
from eenotes.cutting import split
from eenotes.inference import collect
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Entropy, ScoreRule
from eenotes.thresholds import evaluate, sweep, thresholds_for_budgets
from eenotes_book import networks
from eenotes_book.ch02_e2cm import trained_exits
from eenotes_book.ch02_e2cm.settings import Backbone
from eenotes_book.data import vision
from eenotes_book.models.resnet import CifarResNet
from eenotes_book.random_thresholds import draw_thresholds

WHITENED = "E²CM, whitened"


@dataclass
class Bench:
    """A data set, a backbone trained on it, its stages, and the recipe it was trained by."""

    data: vision.Vision
    backbone: CifarResNet
    stages: nn.ModuleList
    s: Backbone
    seed: int

    @cached_property
    def class_means(self) -> EarlyExitNetwork:
        """E²CM on the trained backbone: two passes over the training set, no gradient."""
        return e2cm.fit(
            self.stages, vision.batches(self.data.train), num_classes=len(self.data.classes)
        )

    @cached_property
    def whitened(self) -> EarlyExitNetwork:
        """E²CM on whitened features: one pass, no gradient, and exits of SDN's form."""
        return e2cm.fit_whitened(
            self.stages, vision.batches(self.data.train), num_classes=len(self.data.classes)
        )

    @cached_property
    def accuracy(self) -> float:
        """The backbone's on the test split."""
        plain = EarlyExitNetwork([self.backbone], [])
        logits, labels = collect(plain, vision.batches(self.data.test))
        return (logits[0].argmax(1) == labels).cpu().double().mean().item()


def bench(name: str, s: Backbone, *, seed: int = 0) -> Bench:
    """Load a data set and train its backbone, or take it from the cache."""
    data = vision.load(name, train=s.train, val=s.val, test=s.test)
    backbone = networks.trained_resnet(data, s, seed=seed)
    return Bench(data, backbone, split(backbone, at=backbone.exit_points), s, seed)


def shallow_deep_network(b: Bench, *, epochs: int = 1) -> EarlyExitNetwork:
    """SDN on the bench's backbone, trained or from the cache."""
    return trained_exits.shallow_deep_network(
        b.stages,
        b.data.train,
        num_classes=len(b.data.classes),
        seed=b.seed,
        epochs=epochs,
        **networks.options(b.data, b.s),
        checkpoint=networks.checkpoint(f"sdn{epochs}", b.data, b.s, seed=b.seed),
        title=f"{b.data.name}: SDN",
    )


def branchy_network(b: Bench) -> EarlyExitNetwork:
    """BranchyNet with a new backbone, trained for one epoch or from the cache."""
    backbone = networks.untrained_resnet(b.data, b.s, seed=b.seed)
    return trained_exits.branchy_network(
        split(backbone, at=backbone.exit_points),
        b.data.train,
        num_classes=len(b.data.classes),
        seed=b.seed,
        epochs=1,
        **networks.options(b.data, b.s),
        checkpoint=networks.checkpoint("branchy1", b.data, b.s, seed=b.seed),
        title=f"{b.data.name}: BranchyNet",
    )


def rule_of(method: str, net: EarlyExitNetwork) -> ScoreRule:
    """The rule that the method's authors use, its thresholds still open."""
    return Entropy(0.0) if method == "BranchyNet" else e2cm.rule(net)


def operating_points(
    method: str, net: EarlyExitNetwork, data: vision.Vision, *, starts: Sequence = ()
) -> pd.DataFrame:
    """Thresholds chosen on validation for each budget, and what they give on test.

    ``starts`` are vectors for the search to start from, beside its own.

    Returns:
        One row per budget that the method can keep: ``budget``, ``thresholds``, ``val_accuracy``,
        and on test ``accuracy``, ``relative_cost``, ``overhead``, ``left``.
    """
    rule, costs = rule_of(method, net), count_macs(net, _sample(net, data))
    chosen = thresholds_for_budgets(
        *collect(net, vision.batches(data.val)), rule, costs, starts=starts
    )
    logits, labels = collect(net, vision.batches(data.test))
    found = [
        evaluate(logits, labels, replace(rule, thresholds=vector), costs)
        for vector in chosen.thresholds
    ]
    return (
        chosen[["budget", "thresholds"]]
        .assign(val_accuracy=chosen.accuracy)
        .join(pd.DataFrame(found))
    )


def one_epoch(b: Bench) -> dict[str, EarlyExitNetwork]:
    """E²CM plain and whitened, SDN and BranchyNet, each given one epoch over the training set.

    For E²CM an epoch is forward passes and nothing else.
    """
    return {
        "E²CM": b.class_means,
        WHITENED: b.whitened,
        "SDN": shallow_deep_network(b),
        "BranchyNet": branchy_network(b),
    }


def beside(first: Sequence, second: Sequence) -> Tensor:
    """Threshold vectors of E²CM ``(M, J-1)`` and of SDN ``(L, J-1)``, for the two combined.

    Returns:
        ``(M + L, 2J-2)``: E²CM's with all exits of SDN closed, and SDN's with those of E²CM closed.
    """
    first, second = (torch.tensor([list(vector) for vector in part]) for part in (first, second))
    found = torch.ones(len(first) + len(second), 2 * first.shape[1])
    found[: len(first), ::2], found[len(first) :, 1::2] = first, second
    return found


def overhead_table(b: Bench) -> pd.DataFrame:
    """MACs per image of each stage, and of both kinds of exit test after it, by exit point."""
    linear = trained_exits.with_linear_exits(
        b.stages, b.data.train, num_classes=len(b.data.classes), seed=b.seed
    ).eval()
    sample = _sample(b.class_means, b.data)
    averages, trained = count_macs(b.class_means, sample), count_macs(linear, sample)
    columns = {"stage": averages.stages[:-1], "E²CM": averages.exits, "SDN": trained.exits}
    return pd.DataFrame(columns, index=b.backbone.exit_points)


def mean_cost_of_draws(
    net: EarlyExitNetwork,
    data: vision.Vision,
    logits: Tensor,
    labels: Tensor,
    rule: ScoreRule,
    *,
    count: int = 300,
) -> dict[str, float]:
    """Mean relative cost over random threshold vectors, for both ways of drawing them."""
    costs = count_macs(net, _sample(net, data))
    ways = {
        how: draw_thresholds(logits, rule, count=count, how=how) for how in ("uniform", "quantile")
    }
    return {
        how: float(sweep(logits, labels, rule, costs, thresholds=drawn).relative_cost.mean())
        for how, drawn in ways.items()
    }


@torch.no_grad()
def walk(net: EarlyExitNetwork, image: Tensor, *, exits: Sequence[int]) -> pd.DataFrame:
    """What the class-mean exits see of one image ``(C, H, W)``.

    Returns:
        A row per exit and class: ``distance`` (d/μ) and ``softmax``.
    """
    logits, rule = net(image[None]), e2cm.rule(net)
    rows = []
    for j in exits:
        distance = -logits[j][0] / net.exits[j].mean_distance
        softmax = rule.probabilities(j, logits[j])[0]
        rows += [
            {"exit": j, "class": k, "distance": d.item(), "softmax": softmax[k].item()}
            for k, d in enumerate(distance)
        ]
    return pd.DataFrame(rows)


def confidence_table(logits: Tensor, rule: ScoreRule, *, names: Sequence[str]) -> pd.DataFrame:
    """Spread of the confidences of every early exit.

    Returns:
        A row per exit: ``min``, ``low`` (5 %), ``median``, ``high`` (95 %), ``max``.
    """
    levels = {"min": 0.0, "low": 0.05, "median": 0.5, "high": 0.95, "max": 1.0}
    rows = []
    for j in range(len(logits) - 1):
        confidence = rule.score(j, logits[j]).confidence.cpu().double()
        rows.append(confidence.quantile(confidence.new_tensor(list(levels.values()))).tolist())
    return pd.DataFrame(rows, index=list(names), columns=list(levels))


def _sample(net: EarlyExitNetwork, data: vision.Vision) -> Tensor:
    return data.test.tensors[0][:1].to(next(net.parameters()).device)
