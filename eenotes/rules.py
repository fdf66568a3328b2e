"""Decides: from the logits of one exit, who leaves now.

A rule is called as ``rule(j, logits, state)`` with exit ``j`` counted from 0, logits ``(B, K)`` of
the samples still there, and what the rule itself remembered of each of them (``None`` at the first
exit).  It returns a `Decision`.  At the last exit everybody leaves, whatever the rule says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor


class Decision(NamedTuple):
    """What a rule says of B samples."""

    prediction: Tensor  #: ``(B,)`` int64, a class
    confidence: Tensor  #: ``(B,)`` float, in [0, 1]
    leave: Tensor  #: ``(B,)`` bool
    # : ``(B, ...)``, what the rule remembers of each sample; compacted together with the batch
    state: Tensor | None = None


class Rule(Protocol):
    def check(self, num_exits: int) -> None:
        """Raise a ValueError if the rule does not fit a network with so many exits (the classifier
        included).
        """

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision: ...


class _ThresholdRule:
    """A rule that compares one number per sample, its statistic, with one threshold per exit."""

    thresholds: float | Sequence[float]

    def __post_init__(self):
        thresholds = torch.as_tensor(self.thresholds, dtype=torch.float64).cpu()
        if thresholds.ndim > 1 or not ((thresholds >= 0) & (thresholds <= self._largest)).all():
            raise ValueError(
                f"{type(self).__name__}: thresholds must be one number, or one per early exit, in [0, {self._largest}], "
                f"got {self.thresholds}"
            )
        object.__setattr__(
            self, "thresholds", tuple(thresholds.tolist()) if thresholds.ndim else float(thresholds)
        )

    def check(self, num_exits: int) -> None:
        if isinstance(self.thresholds, tuple) and len(self.thresholds) != num_exits - 1:
            raise ValueError(
                f"{type(self).__name__} has {len(self.thresholds)} thresholds for a network with {num_exits - 1} early exits; give "
                "one for each, or a single number for all"
            )

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision:
        prediction, confidence, statistic = self.observe(j, logits)
        return Decision(prediction, confidence, self.leaves(statistic, self._threshold(j)))

    def _threshold(self, j: int) -> float:
        if isinstance(self.thresholds, float):
            return self.thresholds
        # the last exit has none and needs none
        return self.thresholds[j] if j < len(self.thresholds) else 0.0


@dataclass(frozen=True)
class Confidence(_ThresholdRule):
    r"""Leave when the largest softmax probability (1.1) exceeds the threshold:

    $\max_k \mathrm{softmax}_k(z / \mu) > T_j$ (2.5).

    Args:
        thresholds: $T_j \in [0, 1]$; one number for all exits, or J-1.
        normaliser: for E²CM, one entry per exit: $\mu$ ``(K,)``, which divides the logits before
            the softmax, or ``None`` (no division).  It may be shorter than J, not longer: what is
            missing is ``None``.
        predict: the class with the largest logit as it is (``"raw"``: for a class-mean head the
            nearest mean) or after the division (``"normalised"``).

    Raises:
        ValueError: thresholds outside [0, 1] or in more than one dimension, a normaliser that is no
            sequence of positive vectors, or another ``predict``; in ``check``, another number of
            thresholds than the network has early exits, or too many normalisers.
    """

    thresholds: float | Sequence[float]
    normaliser: Sequence[Tensor | None] = ()
    predict: Literal["raw", "normalised"] = "raw"

    _largest = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.predict not in ("raw", "normalised"):
            raise ValueError(f"predict={self.predict!r} must be 'raw' or 'normalised'")
        given = (
            []
            if isinstance(self.normaliser, Tensor)
            else [scale for scale in self.normaliser if scale is not None]
        )
        if isinstance(self.normaliser, Tensor) or not all(
            _is_positive_vector(scale) for scale in given
        ):
            raise ValueError(
                f"normaliser must hold one entry per exit, None or a vector (K,) of positive numbers, got {self.normaliser}"
            )

    def check(self, num_exits: int) -> None:
        super().check(num_exits)
        if len(self.normaliser) > num_exits:
            raise ValueError(
                f"Confidence has {len(self.normaliser)} normalisers for a network with {num_exits} exits"
            )

    def observe(self, j: int, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale = self.normaliser[j] if j < len(self.normaliser) else None
        scaled = logits if scale is None else logits / scale
        confidence, likeliest = scaled.softmax(1).max(1)
        prediction = logits.argmax(1) if scale is not None and self.predict == "raw" else likeliest
        return prediction, confidence, confidence

    def leaves(self, statistic: Tensor, threshold: Tensor | float) -> Tensor:
        return statistic > threshold


def _is_positive_vector(scale: object) -> bool:
    return (
        isinstance(scale, Tensor)
        and scale.ndim == 1
        and bool((scale > 0).all() and scale.isfinite().all())
    )


@dataclass(frozen=True)
class Entropy(_ThresholdRule):
    r"""Leave when the entropy of the softmax, in nats, is below the threshold (BranchyNet):

    $-\sum_k p_k \ln p_k < T_j$.

    The reported confidence is $1 - H / \ln K$: 0 for the uniform distribution, 1 for certainty.

    Args:
        thresholds: $T_j \ge 0$ in nats; one number for all exits, or J-1.  At $\ln K$ (almost)
            everybody leaves.

    Raises:
        ValueError: thresholds below 0 or in more than one dimension; in ``check``, another number
            of thresholds than the network has early exits.
    """

    thresholds: float | Sequence[float]

    _largest = math.inf

    def observe(self, j: int, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # 0 for a class of probability 0, as it should be
        entropy = torch.special.entr(logits.softmax(1)).sum(1)
        return logits.argmax(1), 1 - entropy / math.log(max(logits.shape[1], 2)), entropy

    def leaves(self, statistic: Tensor, threshold: Tensor | float) -> Tensor:
        return statistic < threshold


@dataclass(frozen=True)
class Patience:
    """Leave when ``patience`` exits in a row have confirmed the prediction of the exit before them
    (PABEE).

    The state of a sample is its last prediction and how often in a row it was confirmed; the
    earliest possible exit is therefore number ``patience``, counted from 0.

    Args:
        patience: a whole number, at least 1; with J - 1 or more, nobody leaves early.

    Raises:
        ValueError: another patience.
    """

    patience: int

    def __post_init__(self):
        if not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(
                f"patience must be a whole number of at least 1, got {self.patience!r}"
            )

    def check(self, num_exits: int) -> None:
        """Any patience fits any network."""

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision:
        confidence, prediction = logits.softmax(1).max(1)
        confirmed = torch.zeros_like(prediction)
        if state is not None:
            last, count = state.unbind(1)
            confirmed = torch.where(prediction == last, count + 1, 0)
        return Decision(
            prediction,
            confidence,
            confirmed >= self.patience,
            torch.stack([prediction, confirmed], 1),
        )


@dataclass(frozen=True)
class PerClass:
    """Leave when the probability of any class exceeds the threshold of that class (class based
    thresholding).

    Args:
        thresholds: in [0, 1]; ``(K,)``, one per class, or ``(J-1, K)``, one per early exit and
            class.

    Raises:
        ValueError: thresholds outside [0, 1] or of another shape; in ``check`` or when called, if
            they do not fit the network's exits or classes.
    """

    thresholds: Tensor

    def __post_init__(self):
        thresholds = torch.as_tensor(self.thresholds, dtype=torch.float32)
        if thresholds.ndim not in (1, 2) or not ((thresholds >= 0) & (thresholds <= 1)).all():
            raise ValueError(
                f"PerClass: thresholds must be in [0, 1] and of shape (K,) or (J-1, K), got {self.thresholds}"
            )
        object.__setattr__(self, "thresholds", thresholds)

    def check(self, num_exits: int) -> None:
        if self.thresholds.ndim == 2 and len(self.thresholds) != num_exits - 1:
            raise ValueError(
                f"PerClass has thresholds for {len(self.thresholds)} exits, the network has {num_exits - 1} early exits"
            )

    def __call__(self, j: int, logits: Tensor, state: Tensor | None = None) -> Decision:
        thresholds = (
            self.thresholds
            if self.thresholds.ndim == 1
            else self.thresholds[min(j, len(self.thresholds) - 1)]
        )
        if thresholds.shape[-1] != logits.shape[1]:
            raise ValueError(
                f"PerClass has thresholds for {thresholds.shape[-1]} classes, the logits have {logits.shape[1]}"
            )
        # Classes along the rows, samples along the columns: a dozen classes are too short a row for
        # vector instructions (21,600 samples of 11 classes, the whole rule: 0.9 instead of 2.7 ms).
        probabilities = logits.t().softmax(0)
        confidence, prediction = probabilities.max(0)
        return Decision(
            prediction, confidence, (probabilities > thresholds.to(logits.device)[:, None]).any(0)
        )
