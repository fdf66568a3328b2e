"""Thresholds with a guarantee: a bound on a risk that holds with a chosen probability.

`with_guarantee` tests thresholds from the safest to the cheapest on a calibration split, and keeps
the last one whose risk is proved to be small enough.  `in_expectation` bounds the risk on average
over calibration splits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eenotes._checks import require_classes, require_one_of
from eenotes.costs import Costs
from eenotes.risk_tests import RISKS, Risk, p_values
from eenotes.rules import ScoreRule
from eenotes.thresholds import Answers

_HALVINGS = 50  # of the interval that holds a bound
_GROWTH, _GROWTHS = 1.1, 49  # up to a hundred times as many samples


@dataclass(frozen=True)
class Guarantee:
    """Thresholds, and the promise about them."""

    thresholds: tuple[float, ...]  #: J-1 numbers, for a rule of the kind that was given
    bound: float  #: of the risk
    risk: float  #: on the calibration samples
    cost: float  #: mean relative cost on the calibration samples


def with_guarantee(
    logits: Tensor,
    labels: Tensor,
    rule: ScoreRule,
    costs: Costs,
    *,
    risk: Risk,
    level: float,
    delta: float,
    candidates: Tensor | Sequence | None = None,
) -> Guarantee:
    """The cheapest thresholds whose risk is at most ``level`` with probability 1 - ``delta``.

    Fixed-sequence testing (7.6): thresholds are tested from the safest on, and the first whose
    risk is not proved to be small ends the sequence, so that no correction for many tests is due
    (Angelopoulos et al., 2021, *Learn then Test*).  `eenotes.risk_tests` has the exact tests.

    The promise is about the draw of the calibration samples.  They come from where the network will
    work; neither the network, nor its exits, nor the candidates have been fitted to them.

    Args:
        logits: of the calibration split, ``(J, N, K)``.
        labels, rule, costs: as in `eenotes.thresholds.Answers`.
        risk: ``"disagreement"`` with the last exit, ``"error"`` against the labels, or ``"lost
            accuracy"``, the error less that of the last exit.
        level: the largest risk, in (0, 1).
        delta: the largest probability of a broken promise, in (0, 1).
        candidates: vectors ``(M, J-1)``, safest first, chosen on other samples; by default every
            number as one threshold for all exits.

    Raises:
        ValueError: a level or delta outside (0, 1), NaN logits, labels or candidates that do not
            fit, candidates that open no exit, or too few samples to promise anything; it says how
            many would do.
    """
    _check_shares(level=level, delta=delta)
    answers = _answers(logits, labels, rule, costs)
    losses = losses_of(answers, risk=risk)
    if candidates is None:
        path, counts = _every_threshold(answers, losses)
    else:
        path, counts = _along(answers, losses, candidates)
    failed = (p_values(counts, risk=risk, level=level) > delta).nonzero()[:, 0]
    passed = int(failed[0]) if len(failed) else len(path)
    if not passed:
        raise ValueError(_refusal(counts[0], risk, level=level, delta=delta))
    chosen = counts[passed - 1]
    return _guarantee(answers, path[passed - 1], chosen, _bound(chosen, risk, delta))


def in_expectation(
    logits: Tensor, labels: Tensor, rule: ScoreRule, costs: Costs, *, risk: Risk, level: float
) -> Guarantee:
    r"""The cheapest threshold for all exits whose risk, on average over splits, is within a level.

    Conformal risk control (Angelopoulos et al., 2024): the last threshold with (7.8), $(N \hat{R} +
    1) / (N + 1) \le \varepsilon$.  The proof asks for losses that rise along the thresholds, so a
    sample counts with the largest loss that it has had from the closed exit on.

    Args:
        logits: of the calibration split, ``(J, N, K)``.
        labels, rule, costs, risk, level: as in `with_guarantee`.

    Raises:
        ValueError: as `with_guarantee`.
    """
    _check_shares(level=level)
    answers = _answers(logits, labels, rule, costs)
    losses = losses_of(answers, risk=risk)
    highest = _best_so_far(answers)
    new = torch.cat([highest[:1] > -math.inf, highest[1:] > highest[:-1]])  # samples stop here
    possible = torch.cat([torch.where(new, losses[:-1], -1), losses[-1:]])
    path, counts = _every_threshold(answers, possible.flip(0).cummax(0).values.flip(0))
    bounds = (_total(counts) + 1) / (len(labels) + 1)
    if bounds[0] > level:
        raise ValueError(
            f"nothing can be promised: the bound of closed exits is {bounds[0]:.4f} with "
            f"{len(labels)} samples, and it must be at most {level}"
        )
    passed = int((bounds > level).int().argmax()) if (bounds > level).any() else len(path)
    return _guarantee(answers, path[passed - 1], counts[passed - 1], bounds[passed - 1].item())


def losses_of(answers: Answers, *, risk: Risk) -> Tensor:
    """The loss of each sample if it exits at each exit, ``(J, N)`` int64.

    Disagreement with the last exit and error are 0 or 1; lost accuracy is 1 where only the last
    exit is right, and -1 where only the last exit is wrong.

    Raises:
        ValueError: another risk.
    """
    require_one_of(RISKS, risk=risk)
    if risk == "disagreement":
        return (answers.prediction != answers.prediction[-1]).long()
    wrong = (answers.prediction != answers.labels).long()
    return wrong - wrong[-1] if risk == "lost accuracy" else wrong


def _answers(logits: Tensor, labels: Tensor, rule: ScoreRule, costs: Costs) -> Answers:
    require_classes(labels, logits[0].shape[-1])
    if len(logits) < 2:
        raise ValueError("with a single exit there is no threshold to choose")
    return Answers(logits, labels, rule, costs)


def _best_so_far(answers: Answers) -> Tensor:
    """The score nearest to the closed end up to each early exit, ``(J-1, N)``, larger is nearer."""
    score = answers.score[:-1].double()
    return (score if answers.rule.leaves_above else -score).cummax(0).values


def _every_threshold(answers: Answers, losses: Tensor) -> tuple[Tensor, Tensor]:
    """Every number as one threshold for all exits, from closed on: vectors, and counts ``(M, 3)``.

    A sample exits at j or before where its best score so far is above the threshold.  So a falling
    threshold moves one sample after the other, and running sums tell the losses.
    """
    early, sign = len(losses) - 1, 1 if answers.rule.leaves_above else -1
    one_hot = torch.nn.functional.one_hot(losses + 1, 3)  # (J, N, 3)
    level, order = _best_so_far(answers).flatten().sort(descending=True)
    moved = (one_hot[:-1] - one_hot[1:]).flatten(0, 1)[order].cumsum(0)
    counts = one_hot[-1].sum(0) + torch.cat([moved.new_zeros(1, 3), moved])
    # between two different scores nothing changes; at the open end all samples have exited
    last = sign * answers.rule.limits[not answers.rule.leaves_above]
    level = torch.cat([level.new_tensor([sign * answers.rule.closed]), level])
    below = torch.cat([level[1:], level.new_tensor([last])])
    kept = (level > below).nonzero()[:, 0]
    thresholds = torch.cat([level[:1], below[kept[kept > 0]]])
    counts = torch.cat([counts[:1], counts[kept[kept > 0]]])
    return (sign * thresholds)[:, None].expand(-1, early), counts


def _along(
    answers: Answers, losses: Tensor, candidates: Tensor | Sequence
) -> tuple[Tensor, Tensor]:
    """The candidates ``(M, J-1)``, and the counts of their losses ``(M, 3)``."""
    path = answers.vectors(candidates)
    if (path == answers.rule.closed).all():
        raise ValueError("no candidate opens an exit: there is nothing to promise")
    found = [losses.gather(0, answers.exit_index(vector)[None])[0] for vector in path]
    return path, torch.stack([torch.bincount(one + 1, minlength=3) for one in found])


def _total(counts: Tensor) -> Tensor:
    """The sum of the losses, ``(M,)``."""
    return counts[:, 2] - counts[:, 0]


def _bound(counts: Tensor, risk: Risk, delta: float) -> float:
    """The smallest level that these counts ``(3,)`` rule out."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ruled_out = p_values(counts[None], risk=risk, level=middle) <= delta
        low, high = (low, middle) if ruled_out else (middle, high)
    return high


def _guarantee(answers: Answers, vector: Tensor, counts: Tensor, bound: float) -> Guarantee:
    risk = (_total(counts[None]) / counts.sum()).item()
    return Guarantee(tuple(vector.tolist()), bound=bound, risk=risk, cost=answers.cost(vector))


def _refusal(counts: Tensor, risk: Risk, *, level: float, delta: float) -> str:
    """Why not even the safest thresholds can be promised."""
    mean, N = (_total(counts[None]) / counts.sum()).item(), int(counts.sum())
    found = f"nothing can be promised: the safest thresholds have a risk of {mean:.4f}"
    if mean >= level:
        return f"{found} on {N} samples, and it must be below {level}"
    for step in range(1, _GROWTHS):
        more = (counts * _GROWTH**step).round()[None]
        if p_values(more, risk=risk, level=level) <= delta:
            return f"{found}, but on {N} samples only; about {int(more.sum())} would do"
    return f"{found}, and even a hundred times {N} samples would not prove it"


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {share}")
