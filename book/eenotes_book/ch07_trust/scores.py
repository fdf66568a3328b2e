"""Other scores for the exits of a trained network: calibrated confidence, and failure prediction.

Both are fitted to a half of the recorded images, from the logits of `evidence`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from eenotes.calibration import temperature
from eenotes.rules import ClassMeanConfidence, Confidence, Score, ScoreRule
from eenotes_book.data.recorded import Recorded

_SMALLEST = 1e-7  # probability whose logarithm is taken


def evidence(run: Recorded) -> Recorded:
    r"""The exits with logits that a temperature can turn into probabilities, and the plain rule.

    Only those of plain class means change: into $-d_k^2$, for which the temperature is the $N_0$ of
    the posterior (6.10).
    """
    squared = [
        -logits.square() if _is_distance(run.rule, j) else logits
        for j, logits in enumerate(run.logits)
    ]
    return replace(run, logits=torch.stack(squared), rule=Confidence(1.0))


def _is_distance(rule: ScoreRule, j: int) -> bool:
    return isinstance(rule, ClassMeanConfidence) and j < len(rule.normaliser)


@dataclass(frozen=True)
class Calibrated(ScoreRule):
    """The confidence of logits that are divided by the temperature of their exit (7.3)."""

    thresholds: float | Sequence[float]
    temperatures: Sequence[float]

    def score(self, j: int, logits: Tensor) -> Score:
        """The confidence after calibration, for ``(B, K)``."""
        confidence, prediction = (logits / self.temperatures[j]).softmax(1).max(1)
        return Score(prediction, confidence, confidence)


def calibrated_rule(half: Recorded) -> Calibrated:
    """The temperatures that fit one half."""
    return Calibrated(1.0, tuple(temperature(half.logits, half.labels).tolist()))


@dataclass(frozen=True)
class FailurePrediction(ScoreRule):
    """A regression's guess that going on would not help.

    After Kubaty et al. (2026): an exit should stop a sample that it answers rightly, and one that
    no later exit will answer rightly.  ``weights`` has a row per early exit, its intercept last.
    """

    thresholds: float | Sequence[float]
    temperatures: Sequence[float]
    weights: Sequence[Sequence[float]]

    def score(self, j: int, logits: Tensor) -> Score:
        """The regression's probability, for ``(B, K)``; at the last exit the confidence."""
        logits = logits / self.temperatures[j]
        confidence, prediction = logits.softmax(1).max(1)
        if j < len(self.weights):
            *slope, intercept = self.weights[j]
            features = features_of(logits)
            confidence = (features @ features.new_tensor(slope) + intercept).sigmoid()
        return Score(prediction, confidence, confidence)


def features_of(logits: Tensor) -> Tensor:
    """What the regression sees of logits ``(N, K)``: ``(N, 3 + K)``.

    The logarithms of one minus the confidence and of the second largest probability, the entropy,
    and which class is predicted.
    """
    p = logits.softmax(1)
    top = p.topk(2, 1).values
    logs = torch.cat([1 - top[:, :1], top[:, 1:]], 1).clamp_min(_SMALLEST).log()
    entropy = torch.special.entr(p).sum(1, keepdim=True)
    named = torch.nn.functional.one_hot(p.argmax(1), p.shape[1]).to(p)
    return torch.cat([logs, entropy, named], 1)


def may_stop(run: Recorded) -> Tensor:
    """Whether going on would not help, ``(J, N)`` bool: right here, or wrong at all later exits."""
    right = run.logits.argmax(2) == run.labels
    later = right.flip(0).cummax(0).values.flip(0)
    return right | ~torch.cat([later[1:], torch.zeros_like(later[:1])])


def failure_rule(half: Recorded, temperatures: Sequence[float] | None = None) -> FailurePrediction:
    """The logistic regressions that fit one half; its temperatures, if they are not given."""
    temperatures, weights = temperatures or calibrated_rule(half).temperatures, []
    early = zip(half.logits[:-1], temperatures, may_stop(half)[:-1], strict=False)
    for logits, t, stop in early:
        model = LogisticRegression(max_iter=1000)
        model.fit(features_of(logits.double() / t).numpy(), stop.numpy())
        weights.append((*model.coef_[0].tolist(), float(model.intercept_[0])))
    return FailurePrediction(1.0, temperatures, tuple(weights))
