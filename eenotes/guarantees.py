"""Thresholds with a guarantee: a bound on a risk that holds with a chosen probability.

`with_guarantee` tests thresholds from the safest to the cheapest on a calibration split, and keeps
the last one whose risk is proved to be small enough.  `in_expectation` bounds the risk on average
over calibration splits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor

from eenotes._checks import require_classes
from eenotes.costs import Costs
from eenotes.rules import ScoreRule
from eenotes.thresholds import Answers

Risk = Literal["disagreement", "error", "lost accuracy"]
Method = Literal["binomial", "Hoeffding-Bentkus", "betting"]

_BETS = 60  # constant bets whose capital is averaged
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
    method: Method,
    candidates: Tensor | Sequence | None = None,
) -> Guarantee:
    """The cheapest thresholds whose risk is at most ``level`` with probability 1 - ``delta``.

    Fixed-sequence testing (7.6): thresholds are tested from the safest on, and the first whose
    risk is not proved to be small ends the sequence, so that no correction for many tests is due
    (Angelopoulos et al., 2021, *Learn then Test*).  The promise is about the draw of the
    calibration samples.  They come from where the network will work; neither the network, nor its
    exits, nor the candidates have been fitted to them.

    Args:
        logits: of the calibration split, ``(J, N, K)``.
        labels, rule, costs: as in `eenotes.thresholds.Answers`.
        risk: ``"disagreement"`` with the last exit, ``"error"`` against the labels, or ``"lost
            accuracy"``, the error less that of the last exit.
        level: the largest risk, in (0, 1).
        delta: the largest probability of a broken promise, in (0, 1).
        method: ``"binomial"`` is exact for errors and disagreement; for the others see `p_values`.
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
    failed = (p_values(counts, level=level, method=method) > delta).nonzero()[:, 0]
    passed = int(failed[0]) if len(failed) else len(path)
    if not passed:
        raise ValueError(_refusal(counts[0], level=level, delta=delta, method=method))
    chosen = counts[passed - 1]
    return _guarantee(answers, path[passed - 1], chosen, _bound(chosen, delta, method))


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
    if risk == "disagreement":
        return (answers.prediction != answers.prediction[-1]).long()
    wrong = (answers.prediction != answers.labels).long()
    if risk == "error":
        return wrong
    if risk == "lost accuracy":
        return wrong - wrong[-1]
    raise ValueError(f"risk must be 'disagreement', 'error' or 'lost accuracy', got {risk!r}")


def p_values(counts: Tensor, *, level: float, method: Method) -> Tensor:
    r"""How likely so small losses are if the risk is above ``level``, at most: ``(M,)``.

    ``"binomial"``: the tail (7.5), $P(\mathrm{Bin}(N, \varepsilon) \le \sum_i L_i)$, exact for
    losses of 0 and 1 (Clopper and Pearson, 1934).  ``"Hoeffding-Bentkus"``: a bound for losses in
    [0, 1] (Bates et al., 2021).  ``"betting"``: a bound for losses in [-1, 1] (7.7).  A gambler who
    stakes a share $\nu$ on each loss being small ends with $\prod_i (1 - \nu (L_i -
    \varepsilon))$, in expectation at most 1 if the risk is above $\varepsilon$; one over its mean
    over many $\nu$ is a p-value (Waudby-Smith and Ramdas, 2024).

    Args:
        counts: how many of N samples have a loss of -1, 0 and 1, under M thresholds: ``(M, 3)``.
        level: the risk that is to be ruled out, in (0, 1).
        method: see above.

    Raises:
        ValueError: an unknown method, or negative losses for one that does not take them.
    """
    if method == "betting":
        return _by_betting(counts, level)
    if method not in ("binomial", "Hoeffding-Bentkus") or counts[:, 0].any():
        raise ValueError(
            f"method {method!r} must be 'binomial' or 'Hoeffding-Bentkus', for losses of 0 and 1, "
            "or 'betting', which takes losses of -1, too"
        )
    N, total = int(counts[0].sum()), counts[:, 2].cpu().numpy()
    if method == "binomial":
        return torch.from_numpy(special.bdtr(total.astype(float), N, level))
    mean = np.minimum(total / N, level)
    entropy = special.rel_entr(mean, level) + special.rel_entr(1 - mean, 1 - level)
    bentkus = math.e * special.bdtr(total.astype(float), N, level)
    return torch.from_numpy(np.minimum(np.exp(-N * entropy), np.minimum(bentkus, 1)))


def _by_betting(counts: Tensor, level: float) -> Tensor:
    """The p-values from the mean capital of many constant bets."""
    largest = 1 / (1 - level)  # at a loss of 1, nothing is left
    # The best bet against losses of deviation s is near 1 / (s sqrt(N)).
    lowest = -math.log10(max(int(counts[0].sum()), 10)) / 2
    bets = largest * torch.logspace(lowest, 0, _BETS + 1, dtype=torch.float64)[:-1]
    gains = torch.log1p(-bets * (torch.tensor([[-1.0], [0.0], [1.0]]) - level))
    return torch.exp(math.log(_BETS) - (counts.double().cpu() @ gains).logsumexp(1)).clamp_max(1)


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


def _bound(counts: Tensor, delta: float, method: Method) -> float:
    """The smallest level that these counts ``(3,)`` rule out."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ruled_out = p_values(counts[None], level=middle, method=method) <= delta
        low, high = (low, middle) if ruled_out else (middle, high)
    return high


def _guarantee(answers: Answers, vector: Tensor, counts: Tensor, bound: float) -> Guarantee:
    risk = (_total(counts[None]) / counts.sum()).item()
    return Guarantee(tuple(vector.tolist()), bound=bound, risk=risk, cost=answers.cost(vector))


def _refusal(counts: Tensor, *, level: float, delta: float, method: Method) -> str:
    """Why not even the safest thresholds can be promised."""
    risk, N = (_total(counts[None]) / counts.sum()).item(), int(counts.sum())
    found = f"nothing can be promised: the safest thresholds have a risk of {risk:.4f}"
    if risk >= level:
        return f"{found} on {N} samples, and it must be below {level}"
    for step in range(1, _GROWTHS):
        more = (counts * _GROWTH**step).round()[None]
        if p_values(more, level=level, method=method) <= delta:
            return f"{found}, but on {N} samples only; about {int(more.sum())} would do"
    return f"{found}, and even a hundred times {N} samples would not prove it"


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {share}")
