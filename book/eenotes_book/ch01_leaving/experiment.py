"""Experiment of chapter 1: what exits answer, where images leave, and what leaving saves."""

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from eenotes.costs import Costs
from eenotes.inference import simulate
from eenotes.rules import Confidence, Entropy, Patience, Rule
from eenotes.thresholds import evaluate, thresholds_for_budgets
from eenotes_book.random_thresholds import pareto_front

BUDGETS = [0.05 * step for step in range(2, 21)]  # relative costs of the fronts
TARGETS = (0.3, 0.5, 0.7)  # relative costs to be timed


def by_margin(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """Accuracy of one classifier, logits ``(N, K)``, among images sorted by its margin.

    The margin is the best minus the second-best logit.

    Returns:
        Ten rows, of groups of equal size, most clear-cut first: ``group`` (from 1), ``accuracy``.
    """
    best = logits.topk(2, dim=1).values
    order = (best[:, 0] - best[:, 1]).argsort(descending=True)
    right = (logits.argmax(1) == labels)[order].cpu().double()
    return pd.DataFrame(
        {"group": range(1, 11), "accuracy": [part.mean().item() for part in right.tensor_split(10)]}
    )


def per_exit(logits: Tensor, labels: Tensor, costs: Costs) -> pd.DataFrame:
    """Each exit on all images, logits ``(J, N, K)``.

    Returns:
        One row per exit: ``exit`` (from 1), ``accuracy``, ``relative_cost``, ``exit_macs``.
    """
    return pd.DataFrame({
        "exit": range(1, len(logits) + 1),
        "accuracy": is_right(logits, labels).cpu().double().mean(1).tolist(),
        "relative_cost": (costs.cumulative / costs.backbone).tolist(),
        "exit_macs": [*costs.exits, 0],
    })  # fmt: skip


def overthinking(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """What the rest of the network does to the prediction of each early exit, in images.

    Returns:
        One row per early exit: ``exit`` (from 1), ``spoiled`` (right here, wrong at the end),
        ``repaired`` (wrong here, right at the end).
    """
    right = is_right(logits, labels)
    early, end = right[:-1], right[-1]
    spoiled, repaired = (early & ~end).sum(1), (~early & end).sum(1)
    return pd.DataFrame(
        {"exit": range(1, len(logits)), "spoiled": spoiled.tolist(), "repaired": repaired.tolist()}
    )


def overthought(logits: Tensor, labels: Tensor) -> Tensor:
    """``(N,)`` bool: right at some early exit, wrong at the end."""
    right = is_right(logits, labels)
    return right[:-1].any(0) & ~right[-1]


def oracle_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The accuracy if the right exit were known for every image: right wherever any exit is."""
    return is_right(logits, labels).any(0).cpu().double().mean().item()


def of_truth(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability of the true class at each exit, ``(J, N)``."""
    return logits.softmax(2).gather(2, labels.expand(len(logits), -1)[..., None]).squeeze(2)


def falls(logits: Tensor, labels: Tensor, *, count: int) -> pd.DataFrame:
    """The images whose true class loses most probability between its best early exit and the end.

    Returns:
        ``row``, ``exit`` (from 1, the best early one), ``before`` and ``after`` (probabilities of
        the true class), ``answer`` (the last exit's prediction).
    """
    probability = of_truth(logits, labels)
    before, exit_index = probability[:-1].max(0)
    rows = (before - probability[-1]).argsort(descending=True)[:count]
    columns = {
        "row": rows,
        "exit": exit_index[rows] + 1,
        "before": before[rows],
        "after": probability[-1][rows],
    }
    return pd.DataFrame(
        {name: values.tolist() for name, values in columns.items()}
        | {"answer": logits[-1].argmax(1)[rows].tolist()}
    )


def single_threshold(logits: Tensor, labels: Tensor, costs: Costs) -> pd.DataFrame:
    """One confidence threshold for all exits, and what it gives.

    The thresholds are 91, evenly spaced from 0.1 to 1, and as many quantiles of the confidences
    besides: those crowd near 1.

    Returns:
        One row per threshold: ``threshold`` and the numbers of `eenotes.thresholds.evaluate`.
    """
    grid = torch.linspace(0.1, 1, 91, dtype=torch.float64)
    confidences = logits[:-1].softmax(2).amax(2).flatten().cpu().double().sort().values
    quantiles = confidences[torch.linspace(0, len(confidences) - 1, 91).long()]
    thresholds = torch.cat([grid, quantiles[quantiles >= 0.1]]).unique().tolist()
    return pd.DataFrame(
        [{"threshold": t, **evaluate(logits, labels, Confidence(t), costs)} for t in thresholds]
    )


def rules_at_costs(table: pd.DataFrame) -> dict[str, Rule]:
    """The rules that the clock runs: those of `single_threshold` nearest to `TARGETS`.

    Returns:
        threshold, in words → rule.
    """
    thresholds = [
        table.threshold[(table.relative_cost - target).abs().idxmin()] for target in TARGETS
    ]
    return {f"{threshold:.3f}": Confidence(threshold) for threshold in thresholds}


def validation_fronts(logits: Tensor, labels: Tensor, costs: Costs) -> dict[str, pd.DataFrame]:
    """The Pareto front of each rule on the split that thresholds are chosen on.

    Thresholds are searched for `BUDGETS`; patience has every patience there is.

    Args:
        logits: of all exits, ``(J, N, K)``.
        labels: ``(N,)``.
        costs: of the network.

    Returns:
        rule → table with ``rule`` (ready to use), ``accuracy``, ``relative_cost``.
    """
    fronts = {}
    for name, rule in {"confidence": Confidence(1.0), "entropy": Entropy(0.0)}.items():
        table = thresholds_for_budgets(logits, labels, rule, costs, budgets=BUDGETS)
        fronts[name] = pareto_front(
            table.assign(rule=[replace(rule, thresholds=t) for t in table.thresholds])
        )
    patient = [Patience(patience) for patience in range(1, len(logits))]
    fronts["patience"] = pareto_front(
        pd.DataFrame([{"rule": r, **evaluate(logits, labels, r, costs)} for r in patient])
    )
    return fronts


def on_test(front: pd.DataFrame, logits: Tensor, labels: Tensor, costs: Costs) -> pd.DataFrame:
    """What the rules of a front, chosen on other images, give on these."""
    return pd.DataFrame(
        [{"rule": rule, **evaluate(logits, labels, rule, costs)} for rule in front["rule"]]
    )


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """``(J, N)`` bool: which exit is right on which image."""
    return logits.argmax(2) == labels


def measured(
    logits: Tensor, labels: Tensor, costs: Costs, *, chosen: Rule, times: pd.DataFrame
) -> dict[str, Any]:
    """The numbers that a record stores, and that claims are made of.

    Args:
        logits: of the test split, ``(J, N, K)``.
        labels: ``(N,)``.
        costs: of the network.
        chosen: the cheapest rule that is as accurate as the last exit on the validation split.
        times: from `clock.relative_times`.
    """
    found, outcome = evaluate(logits, labels, chosen, costs), simulate(logits, chosen)
    last = is_right(logits, labels)[-1].double()
    right = (outcome.prediction == labels).double()
    early = outcome.exit_index < len(logits) - 1
    lost = gap = 0.0  # where there is nothing to compare
    if early.any():
        lost = (last[early].mean() - right[early].mean()).item()
    if early.any() and not early.all():
        gap = (last[early].mean() - last[~early].mean()).item()
    return {
        "accuracy per exit": per_exit(logits, labels, costs).round(4).to_dict("list"),
        "accuracy": round(found["accuracy"], 4),
        "relative cost": found["relative_cost"],
        "lost by exiting early": lost,
        "last exit, early minus late": gap,
        "overthought images": int(overthought(logits, labels).sum()),
        "relative times": times.round(3).to_dict("list"),
    }
