"""What a threshold slider looks up: one `Row` per position, computed by `simulate`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eenotes.costs import Costs
from eenotes.inference import simulate
from eenotes.rules import ScoreRule
from eenotes.thresholds import summarise


@dataclass(frozen=True)
class Row:
    """One position of a slider."""

    threshold: float
    score: float  #: in [0, 1]: accuracy, or what else the slider calls it
    relative_cost: float
    left: Sequence[float]  #: J shares of the samples, one per exit; together 1
    exits: Tensor | None = None  #: from 0, of the shown samples: ``(S,)``, or ``(h, w)`` of a scene
    answers: Tensor | None = None  #: ``(S,)``, the answers of the shown samples


def positions(confidences: Tensor, *, count: int = 24) -> list[float]:
    """Thresholds worth a position, from "all leave at exit 1" to "none leaves early".

    Between them lie quantiles of the confidences, so that every step moves some samples, whether
    confidences crowd near 1 (a trained softmax) or just above 1/K (E²CM).  All are rounded, to a
    hundredth of their range or finer, but to six digits at most.

    Args:
        confidences: ``(J-1, N)`` in [0, 1], of the early exits.
        count: at most so many.

    Raises:
        ValueError: no early exit, no samples, numbers outside [0, 1], or a count below 2.
    """
    values = torch.as_tensor(confidences).cpu().double()
    if values.ndim != 2 or not values.numel() or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            "need confidences (J-1, N) in [0, 1] of at least one early exit and one sample, "
            f"got {tuple(values.shape)}"
        )
    if count < 2:
        raise ValueError(f"a slider has at least two positions, got count={count}")
    ordered = values.flatten().sort().values
    low, high = values[0].min().item(), ordered[-1].item()
    # float32 confidences have no more than six digits
    digits = min(max(4, 2 - math.floor(math.log10(max(high - low, 1e-6)))), 6)
    # of the rounded numbers the next below every confidence of exit 1
    below = math.ceil(low * 10**digits - 1e-3) - 1
    first = max(0.0, below / 10**digits)
    last = min(1.0, math.ceil(high * 10**digits) / 10**digits)
    quantiles = ordered[torch.linspace(0, len(ordered) - 1, count)[1:-1].long()].tolist()
    between = {min(max(round(value, digits), first), last) for value in quantiles}
    return sorted({first, last} | between)


def rows(
    logits: Tensor,
    labels: Tensor,
    rule: ScoreRule,
    costs: Costs,
    *,
    shown: Sequence[int] = (),
    thresholds: Sequence[float] | None = None,
) -> list[Row]:
    """One `Row` per threshold, from cached logits, by `simulate`.

    Args:
        logits: ``(J, N, K)``.
        labels: ``(N,)``.
        rule: its thresholds are replaced by one number for all exits.
        costs: of one sample.
        shown: rows of the samples to look at.
        thresholds: by default the `positions` of these logits, and the rule's own threshold if that
            is one number below 1.

    Raises:
        TypeError: a rule without thresholds in [0, 1] above which samples exit.
        ValueError: labels that do not fit, a threshold outside [0, 1], or a sample that is not
            there.
    """
    if getattr(rule, "limits", None) != (0.0, 1.0) or not rule.leaves_above:
        raise TypeError(
            "the slider moves a threshold in [0, 1] above which samples exit, as of Confidence, "
            f"got {type(rule).__name__}"
        )
    if len(logits) < 2:
        raise ValueError("with a single exit there is no threshold to move")
    if len(labels) != len(logits[0]):
        raise ValueError(
            f"there are logits for {len(logits[0])} samples and labels for {len(labels)}"
        )
    missing = [i for i in shown if not 0 <= i < len(labels)]
    if missing:
        raise ValueError(f"cannot show samples {missing}: there are {len(labels)}, counted from 0")
    if thresholds is None:
        thresholds = positions(
            torch.stack([rule.score(j, z).confidence for j, z in enumerate(logits[:-1])])
        )
        if isinstance(rule.thresholds, float) and rule.thresholds < 1:  # 1 closes every exit
            thresholds.append(rule.thresholds)
    index = torch.as_tensor(list(shown), dtype=torch.int64)
    return [
        _row(logits, labels, replace(rule, thresholds=threshold), costs, index)
        for threshold in sorted({float(t) for t in thresholds})
    ]


def _row(logits: Tensor, labels: Tensor, rule: ScoreRule, costs: Costs, shown: Tensor) -> Row:
    outcome = simulate(logits, rule)
    numbers = summarise(outcome, labels, costs.under(rule))
    return Row(
        rule.thresholds,
        numbers["accuracy"],
        numbers["relative_cost"],
        numbers["left"],
        outcome.exit_index.cpu()[shown],
        outcome.prediction.cpu()[shown],
    )
