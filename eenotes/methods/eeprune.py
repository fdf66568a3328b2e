"""EEPrune: dataset pruning with an early exit network (Görmez and Koyuncu, 2023 and 2026).

After a few epochs a training sample is dropped if an early exit classifies it correctly with a
confidence above a threshold, and the final exit, too, is right.
"""

import math
import time
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from eenotes._checks import require_one_of, require_range
from eenotes.methods.sample_selection import Scores, Selection, select, split_rows
from eenotes.methods.scoring import measure, stable_labels
from eenotes.network import EarlyExitNetwork

Variant = Literal["hard", "soft", "loss"]
NAMES = {"hard": "EEPrune", "soft": "EEPrune-Soft", "loss": "EEPrune-Loss"}


@dataclass(frozen=True)
class Observation:
    """The two exits' answers to N samples, in the data set's order; all ``(N,)``, on the CPU."""

    labels: Tensor  #: int64
    confidence: Tensor  #: float64, of the early exit: its largest softmax probability
    early_right: Tensor  #: bool: condition 1
    final_right: Tensor  #: bool: condition 2
    early_truth: Tensor  #: float64, the early exit's probability of the true class
    final_truth: Tensor  #: float64, the final exit's


@dataclass(frozen=True)
class Report:
    """How many samples met each condition."""

    samples: int
    early_right: int  #: condition 1
    both_right: int  #: conditions 1 and 2
    wanted: int
    dropped: int
    threshold: float  #: the smallest confidence among the dropped, or the one that was given

    def __str__(self) -> str:
        limit = f", at an early confidence from {self.threshold:.4f}" if self.dropped else ""
        return (
            f"{self.samples} samples: {self.early_right} right at the early exit, "
            f"{self.early_right - self.both_right} of them wrong at the end, {self.both_right} "
            f"right at both; {self.wanted} to be dropped, {self.dropped} dropped{limit}"
        )


@dataclass(frozen=True)
class Pruned:
    """Rows to keep and to drop, ascending, with the scores they follow from and the report."""

    keep: Tensor
    drop: Tensor
    scores: Scores
    report: Report


def middle(net: EarlyExitNetwork) -> int:
    """The index of the middle early exit, from 0."""
    return (len(net.exits) - 1) // 2


def observe(
    net: EarlyExitNetwork, dataset: Dataset, *, exit_index: int | None = None, batch_size: int = 256
) -> Observation:
    """Show a network in evaluation mode every sample ``(x, y)`` of a data set once.

    Item ``dataset[i]`` must always be the same sample.  The early exit is ``exit_index``, from 0;
    by default the middle one.

    Raises:
        ValueError: no such exit, a network in training mode, or a data set that changes.
    """
    count = len(net.exits)
    if not count:
        raise ValueError("EEPrune needs an early exit, and this network has none: split it")
    exit_index = middle(net) if exit_index is None else exit_index
    if not 0 <= exit_index < count:
        raise ValueError(f"exit_index={exit_index} does not exist: exits are 0 to {count - 1}")
    labels = stable_labels(dataset)

    def look(logits: list[Tensor], y: Tensor) -> Tensor:
        first, last = logits[exit_index].softmax(1), logits[-1].softmax(1)
        confidence, prediction = first.max(1)
        truth = [p.gather(1, y[:, None]).squeeze(1) for p in (first, last)]
        return torch.stack([confidence, prediction == y, last.argmax(1) == y, *truth], 1)

    confidence, early, final, *truth = measure(net, dataset, look, batch_size=batch_size).T
    return Observation(labels, confidence, early.bool(), final.bool(), *truth)


def importance(seen: Observation, *, variant: Variant = "hard") -> Tensor:
    """How much each sample is worth keeping (5.2), ``(N,)``, float64; the lowest go first.

    ``"hard"`` is the paper's rule: $1 - c$, with c the early exit's confidence, where both exits
    are right, and ``inf`` elsewhere.  Two more of the workshop paper are **our reading**:
    ``"soft"`` is one minus the probability of the true class, and ``"loss"`` the cross-entropy,
    both averaged over the two exits.

    Raises:
        ValueError: another variant.
    """
    require_one_of(get_args(Variant), variant=variant)
    if variant == "hard":
        return torch.where(seen.early_right & seen.final_right, 1 - seen.confidence, math.inf)
    if variant == "soft":
        return 1 - (seen.early_truth + seen.final_truth) / 2
    # a probability of 0 would give inf, which means "never drop"
    early, final = (p.clamp_min(1e-300).log() for p in (seen.early_truth, seen.final_truth))
    return -(early + final) / 2


def prune(
    net: EarlyExitNetwork,
    dataset: Dataset,
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    exit_index: int | None = None,
    variant: Variant = "hard",
    balanced: bool = False,
    batch_size: int = 256,
) -> Pruned:
    """Decide which samples a trained early exit network can do without (5.1).

    Either a share, the ``ratio`` in [0, 1), of the samples goes: the surest of those that both
    exits get right, or of each class, if ``balanced``.  If too few qualify, those go and a
    `SelectionWarning` says how many.  Or all go that both exits get right with an early confidence
    above the ``threshold``.  An earlier exit than the middle one makes EEPrune-Before, a later one
    EEPrune-After.

    Raises:
        ValueError: not exactly one of ratio and threshold, one out of range, a threshold with
            balance or another variant than ``"hard"``, or as `observe`.
    """
    if (ratio is None) == (threshold is None):
        raise ValueError(f"give either a ratio or a threshold, got {ratio=} and {threshold=}")
    if ratio is not None:
        require_range(0, 1, ends="[)", ratio=ratio)
    elif not 0 <= threshold <= 1 or variant != "hard" or balanced:
        given = f"{threshold}, {variant!r}, {balanced}"
        raise ValueError(f"a threshold, in [0, 1], is for 'hard' without balance; got {given}")
    start = time.perf_counter()
    seen = observe(net, dataset, exit_index=exit_index, batch_size=batch_size)
    values = importance(seen, variant=variant)
    seconds = time.perf_counter() - start
    scores = Scores(NAMES[variant], values, seen.labels, len(values), seconds)
    if threshold is None:
        chosen = select(scores, ratio, balanced)
    else:
        drop = seen.early_right & seen.final_right & (seen.confidence > threshold)
        chosen = split_rows(drop.nonzero().squeeze(1), len(drop))
    return Pruned(chosen.keep, chosen.drop, scores, report(seen, chosen, threshold))


def report(seen: Observation, chosen: Selection, threshold: float | None = None) -> Report:
    """Count the samples that meet each condition."""
    if threshold is None:
        threshold = seen.confidence[chosen.drop].min().item() if len(chosen.drop) else math.nan
    early, both = seen.early_right.sum(), (seen.early_right & seen.final_right).sum()
    wanted, dropped = chosen.wanted, len(chosen.drop)
    return Report(len(seen.labels), int(early), int(both), wanted, dropped, threshold)
