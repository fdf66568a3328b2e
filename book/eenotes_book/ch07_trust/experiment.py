"""Calibration of the exits of trained networks, and what it is worth.

Everything is fitted to one half of the recorded images and reported on the other, in turn.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from eenotes.rules import ScoreRule
from eenotes_book import at_budgets
from eenotes_book.ch07_trust import scores
from eenotes_book.data.recorded import Recorded

BINS = 15  # of equal width, as Guo et al. (2017)
RULES: dict[str, Callable[[Recorded], ScoreRule]] = {
    "confidence": lambda half: half.rule,
    "calibrated": scores.calibrated_rule,
    "failure prediction": scores.failure_rule,
}
_DRAWS = 20  # of answers from calibrated confidences


def reliability(confidence: Tensor, right: Tensor) -> pd.DataFrame:
    """How often the answers of one exit are right, by its confidence (7.1).

    Args:
        confidence: ``(N,)``.
        right: ``(N,)`` bool.

    Returns:
        A row per bin that has samples: ``confidence``, ``accuracy``, ``share``.
    """
    place = (confidence * BINS).ceil().clamp(1, BINS)
    table = pd.DataFrame({"bin": place, "confidence": confidence, "accuracy": right.double()})
    bins = table.groupby("bin")
    return bins.mean().assign(share=bins.size() / len(table)).reset_index(drop=True)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The expected calibration error (7.2) of one exit, from ``(N,)`` and ``(N,)`` bool."""
    return binary_calibration_error(confidence, right.long(), n_bins=BINS, norm="l1").item()


def error_of_the_calibrated(confidence: Tensor, *, seed: int = 0) -> float:
    """What (7.2) gives where an exit *is* calibrated, on average over drawn answers: its bias.

    Args:
        confidence: ``(N,)``; each answer is right with that probability.
        seed: of the answers.
    """
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(_DRAWS, len(confidence), generator=generator, dtype=torch.float64)
    return float(np.mean([calibration_error(confidence, row < confidence) for row in chance]))


def logits_for(run: Recorded, name: str) -> Recorded:
    """The recorded exits as a rule of `RULES` sees them."""
    return run if name == "confidence" else scores.evidence(run)


def fitted(run: Recorded) -> dict[str, list[ScoreRule]]:
    """The rules of `RULES`, each fitted to the first half of the images and to the second."""
    halves = scores.evidence(run).halves()
    calibrated = [scores.calibrated_rule(half) for half in halves]
    pairs = zip(halves, calibrated, strict=True)
    failure = [scores.failure_rule(half, rule.temperatures) for half, rule in pairs]
    return dict(zip(RULES, ([run.rule] * 2, calibrated, failure), strict=True))


def scores_of(run: Recorded, rules: Sequence[ScoreRule]) -> Tensor:
    """The scores of every exit, ``(J, N)`` float64, each half with the rule of the other one."""
    parts = []
    for half, rule in zip(run.halves(), reversed(rules), strict=True):
        seen = [rule.score(j, logits.double()).score for j, logits in enumerate(half.logits)]
        parts.append(torch.stack(seen))
    return torch.cat(parts, 1)


def per_exit(run: Recorded, rules: Mapping[str, Sequence[ScoreRule]]) -> pd.DataFrame:
    """Calibration of every exit, with what was fitted to the other half of the images.

    Args:
        run: the recorded exits.
        rules: from `fitted`.

    Returns:
        A row per exit: ``accuracy``, mean ``confidence``, ``error`` (7.2) and ``error after``
        calibration, ``bias`` of that number, ``temperature``; and for every rule of `RULES` the
        AUROC (7.4) of its score for what `scores.may_stop` says.
    """
    found = {name: scores_of(logits_for(run, name), pair) for name, pair in rules.items()}
    temperatures = np.mean([rule.temperatures for rule in rules["calibrated"]], axis=0)
    right, stop, rows = run.logits.argmax(2) == run.labels, scores.may_stop(run), []
    for j, (before, after) in enumerate(zip(found["confidence"], found["calibrated"], strict=True)):
        row = {
            "accuracy": right[j].double().mean().item(),
            "confidence": before.mean().item(),
            "error": calibration_error(before, right[j]),
            "error after": calibration_error(after, right[j]),
            "bias": error_of_the_calibrated(after, seed=j),
            "temperature": float(temperatures[j]),
        }
        if j < len(right) - 1:
            row |= {name: roc_auc_score(stop[j], score[j]) for name, score in found.items()}
        rows.append(row)
    return pd.DataFrame(rows, index=range(1, len(rows) + 1))


def fronts(
    run: Recorded, rules: Mapping[str, Sequence[ScoreRule]]
) -> dict[str, at_budgets.Reported]:
    """Accuracy within budgets by the rules of `fitted`, one threshold per exit."""
    found = {}
    for name, pair in rules.items():
        each = iter(pair)
        found[name] = at_budgets.report(
            logits_for(run, name), rule_of=lambda half, each=each: next(each)
        )
    return found
