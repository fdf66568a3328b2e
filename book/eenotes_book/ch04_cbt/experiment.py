"""Chapter 4: one threshold for all classes or one for each, measured on street scenes.

A convolutional network and a transformer skip what is finished; both are in
`eenotes_book.ch04_cbt.bench`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torchmetrics.classification import MulticlassJaccardIndex, MulticlassRecall

from eenotes.rules import Confidence, Rule
from eenotes_book import cbt_budgets, scale
from eenotes_book.ch04_cbt.bench import Bench
from eenotes_book.data import scenes

SINGLE = 0.998  # ADP-C's one threshold
PAIRS = ((0.99, 0.998), (0.9, 0.998), (0.8, 0.998), (0.7, 0.998))  # the thesis's [alpha, beta]
NAMED = PAIRS[1]  # the pair that the chapter looks at most closely
TOKEN_PAIRS = ((0.85, 0.9), (0.9, 0.95))  # the thesis's, with DToP
NOBODY = "nobody stops"
BUDGET_METHODS = ("one threshold", "one per exit", "CBT", "CBT-ns", "one per exit and class")


@dataclass(frozen=True)
class Score:
    """The result of a rule on a split.

    Args:
        miou: mean IoU of the pixels of the whole split, one number per exit that is looked at (the
            last only, or all).
        cost: MACs really needed up to those exits, relative to the backbone without exits.
        iou: per class, at the last exit; ``None`` for a class that does not occur.
        recall: per class, the share of its pixels that are right; ``None`` likewise.
        left: the share of places that finish at each exit.
    """

    miou: list[float]
    cost: list[float]
    iou: list[float | None]
    recall: list[float | None]
    left: list[float]

    @property
    def plain(self) -> dict:
        """The same at the last exit, as plain numbers."""
        return vars(self) | {"miou": self.miou[-1], "cost": self.cost[-1]}


def evaluate(bench: Bench, rule: Rule, *, split: str = "test", every_exit: bool = False) -> Score:
    """Segment a split with inference that really skips, and score it at full resolution."""
    num_exits, device = bench.net.num_exits, scale.device()
    exits = range(num_exits) if every_exit else [num_exits - 1]
    kept = {"num_classes": bench.num_classes, "ignore_index": scenes.IGNORE, "validate_args": False}
    miou = [MulticlassJaccardIndex(**kept).to(device) for _ in exits]
    iou = MulticlassJaccardIndex(**kept, average="none").to(device)
    recall = MulticlassRecall(**kept, average="none").to(device)
    left = torch.zeros(num_exits, dtype=torch.float64)
    macs, count = 0.0, 0
    for images, labels in scenes.batches(getattr(bench.data, split), size=4):
        out, truth = bench.net.segment(images.to(device), rule), labels.to(device).long()
        for metric, j in zip(miou, exits, strict=True):
            predicted = out.labels(truth.shape[1:], exit_index=j)
            metric.update(predicted, truth)
        iou.update(predicted, truth)  # the last exit's
        recall.update(predicted, truth)
        macs, count = macs + out.macs * len(images), count + len(images)
        left += torch.bincount(out.exit_index.flatten(), minlength=num_exits).cpu()
    cost = macs / count / bench.costs.backbone
    in_truth = recall.tp + recall.fn > 0
    return Score(
        miou=[metric.compute().item() for metric in miou],
        cost=[cost[j].item() for j in exits],
        iou=_where(in_truth | (recall.fp > 0), iou.compute()),
        recall=_where(in_truth, recall.compute()),
        left=(left / left.sum()).tolist(),
    )


def single(threshold: float = SINGLE) -> str:
    """The name of one threshold for all classes."""
    return f"single {threshold}"


def cbt_of(pair: Sequence[float], *, shared: bool = True) -> str:
    """The name of CBT with [alpha, beta], or of CBT-ns."""
    return f"CBT{'' if shared else '-ns'} [{pair[0]}, {pair[1]}]"


def named_rules(bench: Bench) -> dict[str, Rule]:
    """No rule, one threshold, CBT with the thesis's [alpha, beta], CBT without sharing."""
    rules: dict[str, Rule] = {NOBODY: Confidence(1.0), single(): Confidence(SINGLE)}
    for alpha, beta in PAIRS:
        rules[cbt_of((alpha, beta))] = bench.statistics.rule(alpha=alpha, beta=beta)
    alpha, beta = NAMED
    apart = bench.statistics.rule(alpha=alpha, beta=beta, shared=False)
    return rules | {cbt_of(NAMED, shared=False): apart}


def token_rules(bench: Bench) -> dict[str, Rule]:
    """No rule, and for each of the thesis's pairs with DToP its one threshold and CBT."""
    rules: dict[str, Rule] = {NOBODY: Confidence(1.0)}
    for alpha, beta in TOKEN_PAIRS:
        rules[single(beta)] = Confidence(beta)
        rules[cbt_of((alpha, beta))] = bench.statistics.rule(alpha=alpha, beta=beta)
    return rules


def anytime(bench: Bench) -> dict[str, Score]:
    """The paper's comparison: every named rule, at every exit."""
    return {
        name: evaluate(bench, rule, every_exit=True) for name, rule in named_rules(bench).items()
    }


def singles(bench: Bench, thresholds: Sequence[float]) -> pd.DataFrame:
    """One threshold for everything, several values: ``threshold``, ``cost``, ``miou`` on test."""
    scores = [evaluate(bench, Confidence(threshold)).plain for threshold in thresholds]
    table = pd.DataFrame(scores)[["cost", "miou"]]
    return table.assign(threshold=list(thresholds))[["threshold", "cost", "miou"]]


def choices(bench: Bench, budget: float) -> dict[str, cbt_budgets.Choice]:
    """Five ways to spend a budget, each chosen on the validation images."""
    found, averages = bench.validation, bench.statistics
    return {
        "one threshold": cbt_budgets.single_for_budget(found, budget=budget),
        "one per exit": cbt_budgets.priced_for_budget(found, budget=budget, per_class=False),
        "CBT": cbt_budgets.scale_for_budget(averages, found, budget=budget),
        "CBT-ns": cbt_budgets.scale_for_budget(averages, found, budget=budget, shared=False),
        "one per exit and class": cbt_budgets.priced_for_budget(found, budget=budget),
    }


def affordable(bench: Bench, budgets: Sequence[float]) -> list[float]:
    """The budgets that thresholds of one half and more can keep on validation.

    If there are none: one budget halfway between the least cost and 1.
    """
    least = cbt_budgets.cost(bench.validation, torch.full((bench.num_classes,), 0.5))
    return [budget for budget in budgets if budget >= least] or [(least + max(1.0, least)) / 2]


def at_budgets(bench: Bench, budgets: Sequence[float]) -> dict[str, list[dict]]:
    """Method → the result on test of its choice for each budget.

    A result is a `Score.plain` with ``budget``, and with ``val_miou`` of the choice.
    """
    found: dict[str, list[dict]] = {name: [] for name in BUDGET_METHODS}
    for budget in affordable(bench, budgets):
        for name, choice in choices(bench, budget).items():
            chosen = {"budget": budget, "val_miou": choice.score}
            found[name].append(chosen | evaluate(bench, choice.rule).plain)
    return found


def conv_run(
    bench: Bench, budgets: Sequence[float], scores: dict[str, Score], curve: pd.DataFrame
) -> dict:
    """One seed of the convolutional network, as plain numbers.

    Args:
        bench: from `eenotes_book.ch04_cbt.bench.conv_bench`.
        budgets: relative costs.
        scores: from `anytime`.
        curve: from `singles`.
    """
    counts, margins = bench.statistics.counts, bench.statistics.margins()
    table = pd.DataFrame({"pixels": counts.tolist(), "margin": margins.tolist()})
    rank = table[table.pixels > 0].corr(method="spearman").loc["pixels", "margin"]
    return {
        "seed": bench.seed,
        "counts": bench.data.counts,
        "anytime": {name: dict(vars(score)) for name, score in scores.items()},
        "singles": curve.to_dict("list"),
        "budgets": at_budgets(bench, budgets),
        "confused": [bench.data.classes[k] for k in bench.statistics.confused],
        "rank": float(rank),
    }


def vit_run(bench: Bench) -> dict:
    """One seed of the transformer, as plain numbers."""
    scores = {
        name: evaluate(bench, rule, every_exit=True) for name, rule in token_rules(bench).items()
    }
    kept = ("miou", "cost", "iou", "left")
    return {
        "seed": bench.seed,
        "anytime": {
            name: {key: getattr(score, key) for key in kept} for name, score in scores.items()
        },
    }


def _where(present: torch.Tensor, values: torch.Tensor) -> list[float | None]:
    """Numbers of the classes that occur, ``None`` for the others."""
    pairs = zip(present.tolist(), values.tolist(), strict=True)
    return [value if there else None for there, value in pairs]
