"""Verdicts: paired differences per seed, a 95 % t-interval, and one rule for every chapter.

A claim is tested on one difference per seed (the data redrawn with the seed), and a margin that is
named beforehand says which differences matter.  The rule:

==================  ==================================================================
holds               the whole interval lies where the claim puts it
fails               the whole interval lies where the claim cannot be true
undecided           neither, or fewer than `SEEDS` seeds: then only the interval is shown
one run             a single seed: a number, and no verdict
not testable here   the claim's gate is closed: this experiment could not decide
==================  ==================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

SEEDS = 5  # the fewest differences on which a verdict is given
LEVEL = 0.95  # of every interval
Wanted = Literal["ahead", "not behind", "equal"]


@dataclass(frozen=True)
class Gate:
    """A condition without which an experiment cannot decide its claim.

    Args:
        condition: in words, with the number it asks for.
        passed: whether it is met here.
    """

    condition: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What a claim's differences say."""

    word: str  #: holds, fails, undecided, one run, not testable here
    mean: float  #: of the differences
    low: float | None  #: lower end of the interval; ``None`` for one run
    high: float | None  #: upper end
    n: int  #: differences
    reason: str  #: a sentence: why this word


def judge(
    differences: Sequence[float],
    *,
    wanted: Wanted,
    margin: float = 0.0,
    gate: Gate | None = None,
    over: str = "seeds",
) -> Verdict:
    """The verdict on a claim about paired differences.

    Args:
        differences: one per seed, in the claim's direction: positive where the claim is right.
        wanted: ``"ahead"``: the mean difference is above 0, and a lead below ``margin`` counts as
            none.  ``"not behind"``: it is above ``-margin``.  ``"equal"``: it lies within
            ``±margin``.
        margin: the smallest difference that matters, in the units of the differences.
        gate: the condition under which the experiment can decide, if it has one.
        over: what there is one difference of: groups of test images where nothing is drawn.

    Raises:
        ValueError: no differences, one that is not finite, a negative margin, or another
            ``wanted``.
    """
    values = np.asarray(list(differences), dtype=float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"need finite differences, and at least one, got {list(differences)}")
    if margin < 0:
        raise ValueError(f"margin={margin} must not be negative")
    if wanted not in ("ahead", "not behind", "equal"):
        raise ValueError(f"wanted={wanted!r} must be 'ahead', 'not behind' or 'equal'")
    mean = float(values.mean())
    low, high = interval(values) if len(values) > 1 else (None, None)

    def verdict(word: str, reason: str) -> Verdict:
        return Verdict(word, mean, low, high, len(values), reason)

    if gate is not None and not gate.passed:
        return verdict("not testable here", f"the gate is closed: {gate.condition}")
    if len(values) == 1:
        return verdict("one run", "one seed gives a number and no verdict")
    if len(values) < SEEDS:
        return verdict(
            "undecided", f"{len(values)} {over} give an interval; a verdict needs {SEEDS}"
        )
    inside, outside = _regions(low, high, wanted, margin)
    if inside:
        return verdict("holds", f"the interval over {len(values)} {over} lies inside the claim")
    if outside:
        return verdict("fails", f"the interval over {len(values)} {over} lies outside the claim")
    return verdict("undecided", f"the interval over {len(values)} {over} lies on both sides")


def interval(values: Sequence[float], *, level: float = LEVEL) -> tuple[float, float]:
    """The t-interval of a mean, from at least two values.

    Raises:
        ValueError: for fewer than two values.
    """
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        raise ValueError(f"an interval needs at least two values, got {len(values)}")
    reach = (
        stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    )
    return float(values.mean() - reach), float(values.mean() + reach)


def band(curves: Sequence[Sequence[float]], *, level: float = LEVEL) -> pd.DataFrame:
    """Mean and simultaneous band of curves over common points, one curve per seed.

    With probability ``level`` the whole true curve lies inside: every point gets a t-interval at
    ``1 - (1 - level) / points`` (Bonferroni).

    Returns:
        One row per point: ``mean``, ``low``, ``high``.

    Raises:
        ValueError: for fewer than two curves, or curves of different lengths.
    """
    if len({len(curve) for curve in curves}) != 1:
        raise ValueError(f"curves must share their points, got {[len(c) for c in curves]} of them")
    table = np.asarray([list(curve) for curve in curves], dtype=float)
    each = 1 - (1 - level) / table.shape[1]
    ends = [interval(column, level=each) for column in table.T]
    low, high = zip(*ends, strict=True)
    return pd.DataFrame({"mean": table.mean(0), "low": low, "high": high})


def mean(values: Sequence[float]) -> float:
    """The mean over the seeds."""
    return float(np.mean(list(values)))


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation over the seeds; ``None`` for one seed."""
    values = list(values)
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def reach(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval; NaN for one value."""
    if len(values) < 2:
        return math.nan
    low, high = interval(values)
    return (high - low) / 2


def _regions(low: float, high: float, wanted: Wanted, margin: float) -> tuple[bool, bool]:
    """Whether an interval lies wholly inside a claim, and wholly outside it."""
    if wanted == "equal":
        return -margin <= low and high <= margin, high < -margin or low > margin
    if wanted == "not behind":
        return low > -margin, high < -margin
    return low > 0, high < margin and not low > 0
