"""Calibration: temperatures of the exits, and thresholds from the price of a wrong answer."""

import math

import torch
from torch import Tensor

from eenotes._checks import require_answers, require_classes
from eenotes.costs import Costs
from eenotes.rules import ScoreRule
from eenotes.thresholds import Answers

_HALVINGS = 60
_INVERSE_TEMPERATURES = (1e-6, 1e6)


def temperature(logits: Tensor, labels: Tensor) -> Tensor:
    r"""The temperature $T_j$ of every exit, ``(J,)``: softmax(z / T) has the smallest loss (7.3).

    The cross-entropy is convex in $1/T$; its slope, the mean of $\mathbb{E}_p[z] - z_y$, changes
    its sign once (Guo et al., 2017).

    Args:
        logits: of samples that nothing was fitted to, ``(J, N, K)``.
        labels: ``(N,)``.

    Raises:
        ValueError: NaN logits, labels that do not fit, or an exit without a finite temperature:
            all its answers are right, or they are no better than chance.
    """
    for j, exit_logits in enumerate(logits):
        require_answers(j, exit_logits)
    require_classes(labels, logits.shape[2])
    if labels.shape != logits.shape[1:2]:
        raise ValueError(f"need labels ({logits.shape[1]},), got {tuple(labels.shape)}")
    z, own = logits.double(), labels.expand(len(logits), -1)[..., None]
    low, high = (torch.full((len(z), 1, 1), end, dtype=z.dtype) for end in _INVERSE_TEMPERATURES)

    def slope(inverse: Tensor) -> Tensor:
        expected = ((inverse * z).softmax(2) * z).sum(2, keepdim=True)
        return (expected - z.gather(2, own)).mean(1, keepdim=True)

    lost = ((slope(low) >= 0) | (slope(high) <= 0)).flatten()
    if lost.any():
        raise ValueError(
            f"exit {int(lost.nonzero()[0])} has no finite temperature: all its answers are right, "
            "or no better than chance"
        )
    for _ in range(_HALVINGS):
        middle = (low * high).sqrt()
        rising = slope(middle) > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return 1 / (low * high).sqrt().flatten()


def expected_stopping(
    logits: Tensor, labels: Tensor, rule: ScoreRule, costs: Costs, *, price: float
) -> tuple[float, ...]:
    """The thresholds, J-1 numbers, with the smallest mean of cost plus price of wrong answers.

    Backward induction (7.10): the last exit but one is weighed against going on to the end; each
    exit before it against what the exits behind it make of the sample.

    Args:
        logits: of a split to choose on, ``(J, N, K)``.
        labels, rule, costs: as in `eenotes.thresholds.Answers`.
        price: of a wrong answer, in units of relative cost, above 0.

    Raises:
        ValueError: a price that is not above 0, NaN logits, or labels or costs that do not fit.
    """
    if not 0 < price < math.inf:
        raise ValueError(f"the price of a wrong answer must be above 0 and finite, got {price}")
    answers = Answers(logits, labels, rule, costs)
    wrong = price * (answers.prediction != answers.labels).double()
    stages, tests = (
        torch.tensor(macs, dtype=torch.float64, device=wrong.device) / costs.backbone
        for macs in (costs.stages, costs.exits)
    )
    ahead, thresholds = wrong[-1] + stages[-1], []  # of a sample that goes on
    for j in reversed(range(len(tests))):
        score = answers.score[j].double()
        order = score.argsort(descending=rule.leaves_above)
        levels = torch.cat([score[order], score.new_tensor([_open_end(rule)])])
        gain = (wrong[j] - ahead)[order].cumsum(0) + len(score) * tests[j]
        gain = gain.masked_fill(levels.diff() == 0, math.inf)  # of one score: all exit, or none
        best, threshold = int(gain.argmin()), rule.closed
        if gain[best] < 0:
            threshold = levels[best : best + 2].mean().item()
            ahead = torch.where(rule.leaves(score, threshold), wrong[j], ahead) + tests[j]
        thresholds.insert(0, threshold)
        ahead = ahead + stages[j]
    return tuple(thresholds)


def _open_end(rule: ScoreRule) -> float:
    """The threshold at which all samples exit."""
    return rule.limits[0] if rule.leaves_above else rule.limits[1]
