"""Accuracy within a cost, on recorded logits, so that every image is reported once.

Thresholds are chosen on one half of the images and reported on the other, and then the halves are
swapped: so every image is reported once, with thresholds that have not seen it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from eenotes.inference import simulate
from eenotes.rules import Rule, ScoreRule
from eenotes.thresholds import thresholds_for_budgets
from eenotes_book.data.recorded import Recorded

BUDGETS = (0.24, 0.3, 0.36, 0.5, 0.6, 0.7)  # the first three are those of the thesis's figure
_TENTHS = 10  # groups of test images
_NORMAL = 1.96  # of a 95 % interval over thousands of images


@dataclass(frozen=True)
class Reported:
    """What became of every test image, for every budget, with thresholds of the other half."""

    right: Tensor  #: ``(B, N)`` float64, 1 where the answer is right
    cost: Tensor  #: ``(B, N)`` relative cost
    thresholds: tuple[list, list]  #: of each half, one vector for each budget, if searched

    def table(self) -> pd.DataFrame:
        """A row per budget: ``budget``, ``accuracy``, ``reach`` and ``relative_cost``.

        ``reach`` is half the 95 % interval of the accuracy over the test images.
        """
        spread = self.right.std(1) / self.right.shape[1] ** 0.5
        return pd.DataFrame({
            "budget": BUDGETS,
            "accuracy": self.right.mean(1),
            "reach": _NORMAL * spread,
            "relative_cost": self.cost.mean(1),
        })  # fmt: skip


def report(
    run: Recorded,
    *,
    starts: tuple[Sequence, Sequence] = ((), ()),
    rule_of: Callable[[Recorded], ScoreRule] = lambda half: half.rule,
) -> Reported:
    """Choose thresholds on each half of the images for `BUDGETS`, and report on the other.

    Args:
        run: the recorded logits.
        starts: for each half, threshold vectors to start the search from.
        rule_of: the rule, its thresholds still open, from the half that they are chosen on.

    Raises:
        ValueError: a budget that no thresholds keep.
    """
    chosen, rules = [], []
    for half, start in zip(run.halves(), starts, strict=True):
        rule = rule_of(half)
        table = thresholds_for_budgets(
            half.logits, half.labels, rule, run.costs, budgets=BUDGETS, starts=start
        )
        if len(table) < len(BUDGETS):
            raise ValueError(f"{run.facts['method']} keeps only the budgets {list(table.budget)}")
        chosen.append(list(table.thresholds))
        rules.append([replace(rule, thresholds=vector) for vector in table.thresholds])
    return replace(report_rules(run, rules), thresholds=tuple(chosen))


def report_rules(run: Recorded, rules: Sequence[Sequence[Rule]]) -> Reported:
    """What became of every image with rules that were chosen on the other half.

    Args:
        run: the recorded logits.
        rules: chosen on the first half and on the second, one for each budget.
    """
    found = [
        [_outcome(other, rule) for rule in chosen]
        for chosen, other in zip(rules, reversed(run.halves()), strict=True)
    ]
    right, cost = (
        torch.cat([torch.stack([each[i] for each in part]) for part in reversed(found)], 1)
        for i in (0, 1)
    )
    return Reported(right, cost, ([], []))


def _outcome(run: Recorded, rule: Rule) -> tuple[Tensor, Tensor]:
    outcome = simulate(run.logits, rule)
    right = (outcome.prediction == run.labels).double()
    return right, run.costs.under(rule).relative_cost(outcome.exit_index)


def lead(of: Reported, over: Reported, budget: float | None = None) -> list[float]:
    """By how much one method is more accurate than another, for each tenth of the test images.

    It is the lead at one budget, or on average over the budgets.
    """
    difference = of.right - over.right
    one = difference.mean(0) if budget is None else difference[BUDGETS.index(budget)]
    return [tenth.mean().item() for tenth in one.tensor_split(_TENTHS)]
