"""The comparison on trained networks: what each method keeps at each budget.

``python -m eenotes_book.ch02_e2cm.published_study resnet20`` evaluates what
`eenotes_book.ch02_e2cm.published_exits` and `eenotes_book.ch02_e2cm.recording` have left of a
network, and writes it into ``published_study.json``.

Thresholds are chosen on one half of the test images and reported on the other, and the other way
round; the seed draws the halves.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from eenotes.costs import Costs, count_macs
from eenotes.rules import Confidence, Entropy, ScoreRule
from eenotes.thresholds import evaluate, thresholds_for_budgets
from eenotes_book.cache import write_json
from eenotes_book.ch02_e2cm import published_exits
from eenotes_book.data import recorded as logits_of

BUDGETS = (0.2, 0.24, 0.3, 0.36, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_PATH = Path(__file__).with_suffix(".json")


def recorded() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What has been measured: network → method → runs, one per seed, as `run` gives them."""
    return json.loads(_PATH.read_text(encoding="utf-8")) if _PATH.exists() else {}


def run(
    logits: Tensor,
    labels: Tensor,
    rule: ScoreRule,
    costs: Costs,
    *,
    seed: int,
    budgets: Sequence[float] = BUDGETS,
) -> dict[str, Any]:
    """The accuracy of every exit, and accuracy and cost at every budget.

    Args:
        logits: of all exits on the test images, ``(J, N, K)``.
        labels: ``(N,)``.
        rule: of the method, its thresholds open.
        costs: of one image.
        seed: draws the halves.
        budgets: relative costs.

    Returns:
        ``seed``, ``exits`` (accuracies), and ``points``: a row for every budget that both halves
        keep, with ``budget``, ``accuracy``, ``relative_cost`` and ``promised``, the accuracy where
        the thresholds were chosen.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    parts = [(logits[:, rows], labels[rows]) for rows in order.chunk(2)]
    tables = []
    for chosen_on, reported_on in (parts, parts[::-1]):
        chosen = thresholds_for_budgets(*chosen_on, rule, costs, budgets=budgets)
        found = [
            evaluate(*reported_on, replace(rule, thresholds=vector), costs)
            for vector in chosen.thresholds
        ]
        table = pd.DataFrame(found, index=chosen.budget)[["accuracy", "relative_cost"]]
        tables.append(table.assign(promised=chosen.accuracy.to_numpy()))
    mean = ((tables[0] + tables[1]) / 2).dropna().round(4)
    right = (logits.argmax(2) == labels).cpu().double().mean(1).numpy().round(4)
    return {
        "seed": seed,
        "exits": right.tolist(),
        "points": mean.rename_axis("budget").reset_index().to_dict("records"),
    }


def study(name: str, *, seeds: int = 5) -> None:
    """Evaluate what was trained and recorded of a network; what was evaluated before stays."""
    host, runs = published_exits.on_cifar(name), {}
    labels, sample = host.data.test.tensors[1], host.data.test.tensors[0][:1]
    costs = count_macs(host.with_exits(host.stages, 0).eval(), sample)
    for network, method in logits_of.names():
        if network == name and method not in published_exits.METHODS:
            kept = logits_of.load(name, method)
            runs[method] = [
                run(kept.logits, labels, kept.rule, kept.costs, seed=seed) for seed in range(seeds)
            ]
    for method in published_exits.METHODS:
        rule = Entropy(0.0) if method.startswith("branchynet") else Confidence(1.0)
        runs[method] = [
            run(published_exits.logits_of(host, method, seed), labels, rule, costs, seed=seed)
            for seed in range(seeds)
            if published_exits.is_kept(host, method, seed)
        ]
    before = recorded()
    runs = {method: found for method, found in runs.items() if found}
    write_json(_PATH, before | {name: before.get(name, {}) | runs})


if __name__ == "__main__":
    study(sys.argv[1])
