"""Rules: from the logits of one exit, which samples exit there.

A rule is called as ``rule(j, logits, state)`` with exit ``j`` counted from 0, the logits ``(B, K)``
of the samples that are still in the batch, and what the rule itself remembered of each of them
(``None`` at the first exit).  It returns a `Decision`; at the last exit all samples exit anyhow.
Most rules are a `ScoreRule`: one score per sample against one threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


class Decision(NamedTuple):
    """A rule's decision about B samples."""

    prediction: Tensor  #: ``(B,)`` int64, a class
    confidence: Tensor  #: ``(B,)`` float, in [0, 1]
    leave: Tensor  #: ``(B,)`` bool
    state: Tensor | None = None  #: ``(B, ...)``, what the rule remembers of each sample


class Rule(Protocol):
    """The interface of a rule, as inference calls it."""

    def check(self, num_exits: int) -> None:
        """Raise a ValueError if the rule does not fit ``num_exits`` exits, the last included."""

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision: ...


def open_exits(rule: Rule, num_exits: int) -> list[bool]:
    """Which exits of ``num_exits`` are run: the last one, and the early ones that can be taken.

    A rule says it with ``is_open(j)``; one without that method sees every exit.
    """
    is_open = getattr(rule, "is_open", lambda j: True)
    return [bool(is_open(j)) for j in range(num_exits - 1)] + [True]


class Score(NamedTuple):
    """What a `ScoreRule` sees in the logits of B samples."""

    prediction: Tensor  #: ``(B,)`` int64, a class
    confidence: Tensor  #: ``(B,)`` float, in [0, 1]
    score: Tensor  #: ``(B,)`` float, what is compared with the threshold


@dataclass(frozen=True)
class ScoreRule:
    """A rule that compares one number per sample, its score, with a threshold.

    A subclass is a frozen dataclass with `score`, `leaves_above` and `limits`; inference, sweeps,
    budgets and sliders follow from these.  The field ``thresholds`` is one number for all early
    exits, J-1 numbers, or a table ``(J-1, K)`` from which the predicted class picks its own.

    Raises:
        ValueError: thresholds outside `limits` or in more than two dimensions; in `check`, for
            another number of early exits.
    """

    thresholds: float | Sequence[float] | Sequence[Sequence[float]] | Tensor

    leaves_above: ClassVar[bool] = True  #: samples exit above the threshold; else below it
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)  #: smallest and largest threshold

    def score(self, j: int, logits: Tensor) -> Score:
        """The scores of B samples at exit ``j`` (from 0), from its logits ``(B, K)``."""
        raise NotImplementedError

    def __post_init__(self):
        given = self.thresholds.cpu() if isinstance(self.thresholds, Tensor) else self.thresholds
        thresholds = torch.as_tensor(given, dtype=torch.float64)
        low, high = self.limits
        if thresholds.ndim > 2 or not ((thresholds >= low) & (thresholds <= high)).all():
            raise ValueError(
                f"{type(self).__name__}: thresholds must be one number, one per early exit, or one "
                f"per early exit and class, in [{low:g}, {high:g}], got {self.thresholds}"
            )
        rows = thresholds.tolist()
        rows = map(tuple, rows) if thresholds.ndim == 2 else rows
        object.__setattr__(self, "thresholds", tuple(rows) if thresholds.ndim else rows)

    def check(self, num_exits: int) -> None:
        """Raise a ValueError unless each of ``num_exits - 1`` early exits has a threshold."""
        if isinstance(self.thresholds, tuple) and len(self.thresholds) != num_exits - 1:
            what = f"{type(self).__name__} has {len(self.thresholds)} thresholds"
            raise ValueError(f"{what} for a network with {num_exits - 1} early exits")

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision:
        prediction, confidence, score = self.score(j, logits)
        threshold = self._threshold(j, prediction, logits.shape[1], score.dtype)
        return Decision(prediction, confidence, self.leaves(score, threshold))

    def leaves(self, score: Tensor, threshold: Tensor | float) -> Tensor:
        """Which samples exit, ``(...)`` bool: those on the right side of the threshold."""
        return score > threshold if self.leaves_above else score < threshold

    @property
    def closed(self) -> float:
        """The threshold at which no sample exits."""
        return self.limits[1] if self.leaves_above else self.limits[0]

    def is_open(self, j: int) -> bool:
        """Whether a sample can exit at ``j``: the test of a closed exit is not run."""
        row = self.thresholds if isinstance(self.thresholds, float) else self.thresholds[j]
        return any(limit != self.closed for limit in (row if isinstance(row, tuple) else [row]))

    def _threshold(
        self, j: int, prediction: Tensor, num_classes: int, dtype: torch.dtype
    ) -> Tensor | float:
        row = self.thresholds
        if isinstance(row, tuple):
            row = row[j] if j < len(row) else self.closed  # the last exit needs none
        if isinstance(row, float):
            return row
        _check_classes(self, len(row), num_classes)
        return torch.tensor(row, dtype=dtype, device=prediction.device)[prediction]


class Confidence(ScoreRule):
    r"""Exit when the largest softmax probability exceeds the threshold (1.1).

    $\max_k \mathrm{softmax}_k(z) > T_j$ with $T_j \in [0, 1]$.
    """

    def score(self, j: int, logits: Tensor) -> Score:
        confidence, prediction = logits.softmax(1).max(1)
        return Score(prediction, confidence, confidence)


@dataclass(frozen=True)
class ClassMeanConfidence(ScoreRule):
    r"""E²CM's rule (2.5): exit when the nearest class mean is clearly nearer than the others.

    $\max_k \mathrm{softmax}_k(-d_k / \mu_k) > T_j$ for exits whose logits are negative distances
    $-d_k$; the prediction is the nearest class mean.  The normaliser has one entry per exit, $\mu$
    ``(K,)``, or ``None`` where logits are taken as they are, as at exits without an entry.

    Raises:
        ValueError: a normaliser that is no sequence of positive vectors, or, in `check`, too long.
    """

    normaliser: Sequence[Tensor | None]

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.normaliser, Tensor) or not all(map(_fits, self.normaliser)):
            needed = "one entry per exit, None or a positive vector"
            raise ValueError(f"normaliser: {needed}, got {self.normaliser}")

    def check(self, num_exits: int) -> None:
        super().check(num_exits)
        if len(self.normaliser) > num_exits:
            raise ValueError(f"{len(self.normaliser)} normalisers for {num_exits} exits")

    def score(self, j: int, logits: Tensor) -> Score:
        confidence = self.probabilities(j, logits).max(1).values
        return Score(logits.argmax(1), confidence, confidence)

    def probabilities(self, j: int, logits: Tensor) -> Tensor:
        r"""$\mathrm{softmax}_k(-d_k / \mu_k)$, ``(B, K)``."""
        scale = self.normaliser[j] if j < len(self.normaliser) else None
        return (logits if scale is None else logits / scale.to(logits.device)).softmax(1)


def _fits(scale: object) -> bool:
    """Whether a normaliser is ``None`` or a vector of positive numbers."""
    if not isinstance(scale, Tensor):
        return scale is None
    return scale.ndim == 1 and bool(((scale > 0) & scale.isfinite()).all())


class Entropy(ScoreRule):
    r"""Exit when the entropy of the softmax, in nats, is below the threshold (BranchyNet).

    $-\sum_k p_k \ln p_k < T_j$ with $T_j \ge 0$.  The confidence is $1 - H / \ln K$, in [0, 1].
    """

    leaves_above = False
    limits = (0.0, math.inf)

    def score(self, j: int, logits: Tensor) -> Score:
        # 0 for a class of probability 0, as it should be
        entropy = torch.special.entr(logits.softmax(1)).sum(1)
        confidence = 1 - entropy / math.log(max(logits.shape[1], 2))
        return Score(logits.argmax(1), confidence, entropy)


@dataclass(frozen=True)
class Patience:
    """Exit when ``patience`` exits in a row have confirmed the prediction before them (PABEE).

    The state of a sample is its last prediction and how often in a row it was confirmed.  The
    earliest possible exit is number ``patience``, counted from 0.

    Raises:
        ValueError: a patience that is not a whole number of at least 1.
    """

    patience: int

    def __post_init__(self):
        if not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"patience must be a whole number, at least 1, got {self.patience!r}")

    def check(self, num_exits: int) -> None:
        """Any patience fits any network."""

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision:
        confidence, prediction = logits.softmax(1).max(1)
        last, count = (prediction, -1) if state is None else state.unbind(1)
        confirmed = torch.where(prediction == last, count + 1, 0)
        state = torch.stack([prediction, confirmed], 1)
        return Decision(prediction, confidence, confirmed >= self.patience, state)


@dataclass(frozen=True)
class PerClass:
    """Exit when the probability of any class exceeds the threshold of that class (CBT).

    Thresholds in [0, 1] are ``(K,)``, one per class, or ``(J-1, K)``, one per early exit and class.

    Raises:
        ValueError: other thresholds, or, in ``check`` or when called, those of another network.
    """

    thresholds: Tensor

    def __post_init__(self):
        thresholds = torch.as_tensor(self.thresholds, dtype=torch.float32)
        if thresholds.ndim not in (1, 2) or not ((thresholds >= 0) & (thresholds <= 1)).all():
            shapes = f"(K,) or (J-1, K), got {self.thresholds}"
            raise ValueError(f"PerClass: thresholds must be in [0, 1], {shapes}")
        object.__setattr__(self, "thresholds", thresholds)

    def check(self, num_exits: int) -> None:
        if self.thresholds.ndim == 2 and len(self.thresholds) != num_exits - 1:
            what = f"PerClass has thresholds for {len(self.thresholds)} exits"
            raise ValueError(f"{what}, the network has {num_exits - 1} early exits")

    def is_open(self, j: int) -> bool:
        """Whether a sample can exit at ``j``: the test of a closed exit is not run."""
        row = self.thresholds[j] if self.thresholds.ndim == 2 else self.thresholds
        return bool((row < 1).any())

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision:
        thresholds = self.thresholds
        if thresholds.ndim == 2:
            thresholds = thresholds[min(j, len(thresholds) - 1)]
        _check_classes(self, len(thresholds), logits.shape[1])
        # Classes along the rows, samples along the columns: a dozen classes are too short a row for
        # vector instructions (21,600 samples of 11 classes, the whole rule: 0.9 instead of 2.7 ms).
        probabilities = logits.t().softmax(0)
        confidence, prediction = probabilities.max(0)
        leave = (probabilities > thresholds.to(logits.device)[:, None]).any(0)
        return Decision(prediction, confidence, leave)


def _check_classes(rule: Rule, count: int, num_classes: int) -> None:
    if count != num_classes:
        what = f"{type(rule).__name__} has thresholds for {count} classes"
        raise ValueError(f"{what}, the logits have {num_classes}")
