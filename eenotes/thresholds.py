"""Choosing thresholds: from cached exit logits of one split to an operating point for another."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eenotes import threshold_search
from eenotes._checks import require_answers, require_classes
from eenotes.costs import Costs
from eenotes.inference import Outcome, first_exit, simulate
from eenotes.network import for_doubles, full_precision
from eenotes.rules import Rule, ScoreRule

if TYPE_CHECKING:
    import pandas as pd

BUDGETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # relative costs


def evaluate(
    logits: Tensor, labels: Tensor, rule: Rule, costs: Costs
) -> dict[str, float | list[float]]:
    """Accuracy and cost of a rule on cached logits ``(J, N, K)`` with labels ``(N,)``.

    Returns:
        ``accuracy``, ``relative_cost`` and ``overhead`` (in units of the backbone without exits)
        and ``left``, the share of the samples that exits at each exit.

    Raises:
        ValueError: what `eenotes.simulate` raises, or labels or costs that do not fit.
    """
    _check_split(logits, labels, costs)
    return summarise(simulate(logits, rule), labels, costs.under(rule))


def summarise(outcome: Outcome, labels: Tensor, costs: Costs) -> dict[str, float | list[float]]:
    """The numbers of `evaluate` for the outcome of any run, given its labels ``(N,)``.

    The costs are those with the run's rule, from `Costs.under`.

    Raises:
        ValueError: labels that are not ``(N,)``, or an exit that the costs do not have.
    """
    _check_labels(labels, len(outcome.prediction))
    left = torch.bincount(outcome.exit_index, minlength=len(costs.stages)) / len(labels)
    return {
        "accuracy": (outcome.prediction == labels).sum().item() / len(labels),
        "relative_cost": costs.relative_cost(outcome.exit_index).mean().item(),
        "overhead": costs.overhead(outcome.exit_index).mean().item(),
        "left": left.tolist(),
    }


class Answers:
    """The answers and scores of all exits on one split, on which many thresholds can be tried.

    Args:
        logits: of all exits, ``(J, N, K)``.
        labels: ``(N,)``.
        rule: of the kind that gets the thresholds; its own do not matter.
        costs: of one sample, from `eenotes.count_macs`.

    Raises:
        ValueError: no samples, NaN logits, or labels or costs that do not fit.
    """

    def __init__(self, logits: Tensor, labels: Tensor, rule: ScoreRule, costs: Costs):
        _check_split(logits, labels, costs)
        if len(labels) == 0:
            raise ValueError("need at least one sample to try thresholds on")
        logits, labels = [for_doubles(z) for z in logits], for_doubles(labels)
        seen = [rule.score(j, full_precision(z)) for j, z in enumerate(logits)]
        for j, answer in enumerate(seen):
            require_answers(j, answer.score)
        self.rule, self.costs, self.labels = rule, costs, labels
        self.num_classes = logits[0].shape[-1]
        self.prediction = torch.stack([answer.prediction for answer in seen])  #: ``(J, N)``
        self.score = torch.stack([answer.score for answer in seen])  #: ``(J, N)``
        #: ``(J,)`` relative cost of a sample that exits at exit j, where every exit is open
        self.relative_cost = (costs.cumulative / costs.backbone).to(labels.device)

    def vectors(self, thresholds: Tensor | Sequence) -> Tensor:
        """M vectors ``(M, J-1)`` or tables ``(M, J-1, K)`` as float64, once they fit the rule.

        Raises:
            ValueError: none, thresholds of another shape, or values that the rule does not take.
        """
        thresholds = thresholds.cpu() if isinstance(thresholds, Tensor) else thresholds
        thresholds = torch.as_tensor(thresholds, dtype=torch.float64)
        if not len(thresholds):
            raise ValueError("a sweep needs at least one threshold vector")
        self._check_shape(thresholds, thresholds.shape[1:])
        for extreme in (thresholds.amin(0), thresholds.amax(0)):  # NaN wins both
            replace(self.rule, thresholds=extreme.tolist()).check(len(self.score))
        return thresholds

    def _check_shape(self, thresholds: Tensor, own: torch.Size) -> None:
        early, K = len(self.score) - 1, self.num_classes
        if own not in ((early,), (early, K)):
            shapes = f"(M, {early}), or tables (M, {early}, {K}), got {tuple(thresholds.shape)}"
            raise ValueError(f"threshold vectors for {early} early exits must be {shapes}")

    def exit_index(self, thresholds: Tensor) -> Tensor:
        """Where each sample exits, ``(N,)``, with thresholds ``(J-1,)`` or ``(J-1, K)``.

        In a table the predicted class picks its own threshold.

        Raises:
            ValueError: thresholds of another shape.
        """
        thresholds = torch.as_tensor(thresholds).to(self.score)
        self._check_shape(thresholds, thresholds.shape)
        table = thresholds if thresholds.ndim == 2 else thresholds[:, None]
        table = table.expand(-1, self.num_classes)
        return first_exit(self.rule.leaves(self.score[:-1], table.gather(1, self.prediction[:-1])))

    def cost(self, thresholds: Tensor) -> float:
        """The mean relative cost with these thresholds; closed exits are not tested."""
        costs = self.costs.under(replace(self.rule, thresholds=thresholds))
        return costs.relative_cost(self.exit_index(thresholds)).mean().item()

    def outcome(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions ``(N,)`` and exit indices ``(N,)`` with these thresholds."""
        exit_index = self.exit_index(thresholds)
        return self.prediction.gather(0, exit_index[None])[0], exit_index


def sweep(
    logits: Tensor, labels: Tensor, rule: ScoreRule, costs: Costs, *, thresholds: Tensor | Sequence
) -> "pd.DataFrame":
    """`evaluate` for many threshold vectors, one row each; scores are computed once.

    Args:
        logits, labels, rule, costs: as in `Answers`.
        thresholds: M vectors ``(M, J-1)``, or M tables ``(M, J-1, K)``.

    Returns:
        Columns ``thresholds`` (a tuple), ``accuracy``, ``relative_cost``, ``overhead``.

    Raises:
        ValueError: no thresholds, thresholds of another shape, or values that the rule does not
            take.
    """
    import pandas as pd

    answers, num_exits = Answers(logits, labels, rule, costs), len(logits)
    thresholds = answers.vectors(thresholds)
    correct = answers.prediction == answers.labels
    every_exit, rows = torch.arange(num_exits), []
    for one in thresholds:
        own = replace(rule, thresholds=one)
        paid = costs.under(own)
        per_exit = torch.stack([paid.relative_cost(every_exit), paid.overhead(every_exit)])
        exit_index = answers.exit_index(one)
        share = torch.bincount(exit_index, minlength=num_exits).double() / len(labels)
        accuracy = correct.gather(0, exit_index[None]).sum().item() / len(labels)
        rows.append((own.thresholds, accuracy, *(per_exit @ share.cpu()).tolist()))
    return pd.DataFrame(rows, columns=["thresholds", "accuracy", "relative_cost", "overhead"])


def thresholds_for_budgets(
    logits: Tensor,
    labels: Tensor,
    rule: ScoreRule,
    costs: Costs,
    *,
    budgets: Sequence[float] = BUDGETS,
    starts: Sequence | Tensor = (),
) -> "pd.DataFrame":
    """For every budget the most accurate thresholds found that cost no more.

    One threshold for all exits, and one quantile for all exits, are searched completely; the best
    of them are improved one exit at a time.  Choose on samples that the backbone was not trained
    on: thresholds chosen on training images promise up to eight points of accuracy too much.

    Args:
        logits, labels, rule, costs: as in `Answers`, of the split to choose on: ``(J, N, K)``.
        budgets: relative costs; one that no thresholds keep is left out.
        starts: further vectors ``(M, J-1)`` to start from, such as those of a method's parts.

    Returns:
        One row per budget that can be kept: ``budget`` and the columns of `sweep`.

    Raises:
        ValueError: if no budget can be kept; it says what the cheapest thresholds cost.
    """
    import pandas as pd

    answers, sign = Answers(logits, labels, rule, costs), 1 if rule.leaves_above else -1
    if len(logits) < 2:
        raise ValueError("with a single exit there is no threshold to choose")
    closed = torch.full((1, len(logits) - 1), rule.closed, dtype=torch.float64)
    starts = torch.cat([answers.vectors(starts), closed]) if len(starts) else closed
    split = threshold_search.Split.of(answers, sign)
    found, kept = threshold_search.search(split, sign * starts, budgets)
    best = sweep(logits, labels, rule, costs, thresholds=sign * found)
    return pd.DataFrame({"budget": kept}).join(best)


def best_within_budget(table: "pd.DataFrame", *, budget: float) -> "pd.Series":
    """The most accurate row whose relative cost is at most the budget; the cheapest of several.

    Raises:
        ValueError: no row is that cheap.
    """
    affordable = table[table.relative_cost <= budget]
    if affordable.empty:
        raise ValueError(
            f"no row costs at most {budget}; the cheapest: {table.relative_cost.min():.3f}"
        )
    return affordable.sort_values(["accuracy", "relative_cost"], ascending=[False, True]).iloc[0]


def cheapest_with_accuracy(table: "pd.DataFrame", *, accuracy: float) -> "pd.Series":
    """The cheapest row that is at least so accurate; the most accurate of several.

    Raises:
        ValueError: no row is that accurate.
    """
    good = table[table.accuracy >= accuracy]
    if good.empty:
        raise ValueError(
            f"no row reaches an accuracy of {accuracy}; the best reaches {table.accuracy.max():.3f}"
        )
    return good.sort_values(["relative_cost", "accuracy"], ascending=[True, False]).iloc[0]


def _check_labels(labels: Tensor, count: int) -> None:
    """Raise a ValueError unless there is one label per sample: other shapes would broadcast."""
    if labels.shape != (count,):
        raise ValueError(f"need labels of shape ({count},), not {tuple(labels.shape)}")


def _check_split(logits: Tensor, labels: Tensor, costs: Costs) -> None:
    """Raise a ValueError unless labels and costs fit logits ``(J, N, K)``."""
    if len(costs.stages) != len(logits):
        what = f"costs of {len(costs.stages)} stages do not fit logits of {len(logits)} exits"
        raise ValueError(what)
    _check_labels(labels, len(logits[0]))
    require_classes(labels, logits[0].shape[-1])
