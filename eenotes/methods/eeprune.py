"""EEPrune: dataset pruning with an early exit network (Görmez and Koyuncu, 2023 and 2026).

After a few epochs of a network with early exits, a training sample is dropped if an early exit
classifies it correctly with a confidence above a threshold, and the final exit, too, is right.
"""

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from eenotes.methods.sample_selection import Scores, Selection, check_ratio, select, split_rows
from eenotes.methods.scoring import Recipe, measure, stable_labels
from eenotes.network import EarlyExitNetwork

Variant = Literal["hard", "soft", "loss"]


@dataclass(frozen=True)
class Observation:
    """What the two exits say of N samples, in the data set's order; all ``(N,)``, on the CPU."""

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

    @property
    def overthought(self) -> int:
        """Right at the early exit, wrong at the final one."""
        return self.early_right - self.both_right

    def __str__(self) -> str:
        limit = f", at an early confidence from {self.threshold:.4f}" if self.dropped else ""
        return (
            f"{self.samples} samples: {self.early_right} right at the early exit, "
            f"{self.overthought} of them wrong at the end, {self.both_right} right at both; "
            f"{self.wanted} to be dropped, {self.dropped} dropped{limit}"
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
    """Show a network every sample once.

    Args:
        net: trained for a few epochs, in evaluation mode.
        dataset: of ``(x, y)``; ``dataset[i]`` must always be the same sample.
        exit_index: of the early exit, from 0; by default the middle one.
        batch_size: samples per forward pass.

    Raises:
        ValueError: an exit that does not exist, a network in training mode, or a data set that
            changes.
    """
    early = len(net.exits)
    if not early:
        raise ValueError("EEPrune needs an early exit, and this network has none: split it")
    exit_index = middle(net) if exit_index is None else exit_index
    if not 0 <= exit_index < early:
        raise ValueError(
            f"exit_index={exit_index} does not exist: early exits are 0 to {early - 1}"
        )
    labels = stable_labels(dataset)

    def look(logits: list[Tensor], y: Tensor) -> Tensor:
        first, last = logits[exit_index].softmax(1), logits[-1].softmax(1)
        confidence, prediction = first.max(1)
        truth = [p.gather(1, y[:, None]).squeeze(1) for p in (first, last)]
        return torch.stack([confidence, prediction == y, last.argmax(1) == y, *truth], 1)

    confidence, first, last, early_truth, final_truth = measure(
        net, dataset, look, batch_size=batch_size
    ).T
    return Observation(labels, confidence, first.bool(), last.bool(), early_truth, final_truth)


def importance(seen: Observation, *, variant: Variant = "hard") -> Tensor:
    """How much each sample is worth keeping (5.2), ``(N,)``, float64; the lowest go first.

    ``"hard"`` is the paper's rule: $1 - c$, with c the early exit's confidence, where both exits
    are right, and ``inf`` elsewhere.  The workshop paper names two more; their definitions here are
    **our reading**: ``"soft"`` is one minus the probability of the true class, and ``"loss"`` the
    cross-entropy, both averaged over the two exits.  Both can drop any sample.

    Raises:
        ValueError: another variant.
    """
    if variant == "hard":
        return torch.where(seen.early_right & seen.final_right, 1 - seen.confidence, math.inf)
    if variant == "soft":
        return 1 - (seen.early_truth + seen.final_truth) / 2
    if variant == "loss":
        # a probability of 0 would give inf, which means "never drop"
        early, final = (p.clamp_min(1e-300).log() for p in (seen.early_truth, seen.final_truth))
        return -(early + final) / 2
    raise ValueError(f"variant={variant!r} must be 'hard', 'soft' or 'loss'")


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

    Args:
        net, dataset, exit_index, batch_size: as in `observe`; an earlier exit than the middle one
            makes EEPrune-Before, a later one EEPrune-After.
        ratio: drop this share of the samples, in [0, 1): the surest of those that both exits get
            right.  If too few qualify, those are dropped and a `SelectionWarning` says how many.
        threshold: or drop all that both exits get right with an early confidence above this, in [0,
            1].
        variant: see `importance`.  A threshold belongs to ``"hard"``.
        balanced: drop the same share of every class (with a ratio).

    Raises:
        ValueError: not exactly one of ratio and threshold, one of them out of range, or as
            `observe`.
    """
    if (ratio is None) == (threshold is None):
        raise ValueError(f"give either a ratio or a threshold, got {ratio=} and {threshold=}")
    if ratio is not None:
        check_ratio(ratio)
    elif not 0 <= threshold <= 1 or variant != "hard" or balanced:
        raise ValueError(
            "a threshold, in [0, 1], belongs to variant='hard' without balance; "
            f"got {threshold}, {variant!r}, {balanced}"
        )
    start = time.perf_counter()
    seen = observe(net, dataset, exit_index=exit_index, batch_size=batch_size)
    values = importance(seen, variant=variant)
    scores = Scores(_name(variant), values, seen.labels, len(values), time.perf_counter() - start)
    chosen = select(scores, ratio, balanced) if threshold is None else _above(seen, threshold)
    return Pruned(chosen.keep, chosen.drop, scores, report(seen, chosen, threshold))


def _above(seen: Observation, threshold: float) -> Selection:
    """Drop every sample that both exits get right, the early one above the threshold."""
    drop = seen.early_right & seen.final_right & (seen.confidence > threshold)
    return split_rows(drop.nonzero().squeeze(1), len(drop))


def report(seen: Observation, chosen: Selection, threshold: float | None = None) -> Report:
    """Count the samples that meet each condition."""
    if threshold is None:
        threshold = seen.confidence[chosen.drop].min().item() if len(chosen.drop) else math.nan
    return Report(
        samples=len(seen.labels),
        early_right=int(seen.early_right.sum()),
        both_right=int((seen.early_right & seen.final_right).sum()),
        wanted=chosen.wanted,
        dropped=len(chosen.drop),
        threshold=threshold,
    )


def scores(
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    exit_index: int | None = None,
    variant: Variant = "hard",
) -> Scores:
    """Train a network with early exits for a few epochs and score every sample of ``(x, y)``.

    The rivals of chapter 5 have the same signature; ``exit_index`` and ``variant`` are those of
    `prune`.
    """
    start = time.perf_counter()
    labels = stable_labels(dataset)
    net = recipe.train(dataset, seed=seed, title="EEPrune")
    seen = observe(net, dataset, exit_index=exit_index, batch_size=recipe.batch_size)
    values = importance(seen, variant=variant)
    samples_seen = (recipe.epochs + 1) * len(labels)
    return Scores(_name(variant), values, labels, samples_seen, time.perf_counter() - start)


def _name(variant: str) -> str:
    return "EEPrune" if variant == "hard" else f"EEPrune-{variant.capitalize()}"
