"""A promise put to the test: many calibration samples drawn from images whose risk is known.

The recorded images are the population.  A calibration sample is drawn from them with replacement:
so its images are independent of each other, and the risk that a threshold really has is known
without error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eenotes.risk_tests import Risk
from eenotes_book.ch07_trust.rival_tests import SIGNED, TESTS
from eenotes_book.data.recorded import Recorded

Chooser = Literal[
    "naive", "in expectation", "Learn then Test",
    "binomial", "Hoeffding-Bentkus", "two coins", "betting",
]  # fmt: skip
GRID = 100  # thresholds that Learn then Test tries, each at delta / GRID


@dataclass(frozen=True)
class Seen:
    """What the exits of a network say of N images."""

    prediction: Tensor  #: ``(J, N)``
    score: Tensor  #: ``(J-1, N)`` float64; samples leave above a threshold
    labels: Tensor  #: ``(N,)``
    relative_cost: Tensor  #: ``(J,)``, of a sample that exits at j past open exits

    @classmethod
    def of(cls, run: Recorded) -> "Seen":
        """The recorded exits, with the rule of their method."""
        said = [run.rule.score(j, logits) for j, logits in enumerate(run.logits)]
        sign = 1 if run.rule.leaves_above else -1
        return cls(
            torch.stack([each.prediction for each in said]),
            sign * torch.stack([each.score for each in said[:-1]]).double(),
            run.labels,
            run.costs.cumulative / run.costs.backbone,
        )

    def losses(self, risk: Risk) -> Tensor:
        """The loss of each sample at each exit, ``(J, N)``, as `eenotes.guarantees.losses_of`."""
        if risk == "disagreement":
            return (self.prediction != self.prediction[-1]).long()
        wrong = (self.prediction != self.labels).long()
        return wrong - wrong[-1] if risk == "lost accuracy" else wrong


class Walk:
    """One threshold for all exits, from closed to open: falling, it moves image after image.

    After a step, an image exits one exit earlier.  M steps move all images to the first exit.

    Args:
        seen: the images.
        risk: of `eenotes.guarantees.with_guarantee`.
        monotone: a loss never becomes less along the walk, as conformal risk control needs it.
    """

    def __init__(self, seen: Seen, risk: Risk, *, monotone: bool = False):
        best, losses = seen.score.cummax(0).values, seen.losses(risk)
        if monotone:  # a sample stops only where its score is a new best one
            new = torch.cat([best[:1] > -torch.inf, best[1:] > best[:-1]])
            possible = torch.cat([torch.where(new, losses[:-1], -1), losses[-1:]])
            losses = possible.flip(0).cummax(0).values.flip(0)
        level, order = best.flatten().sort(descending=True)
        exits, count = order // best.shape[1], best.shape[1]
        kinds = torch.stack([losses == -1, losses == 1]).int()
        change = (kinds[:, :-1] - kinds[:, 1:]).flatten(1)[:, order]
        cost = seen.relative_cost
        self.better = (losses == -1).any(0).numpy()  #: ``(N,)``, a loss of -1 is possible
        self.level = level.numpy()  #: ``(M,)``, what the threshold falls below at each step
        self.image = (order % count).numpy()  #: ``(M,)``, which image is moved
        self.closed = kinds[:, -1].numpy()  #: ``(2, N)``, losses of -1 and 1 at the last exit
        self.change = change.numpy()  #: ``(2, M)``, by how many they become more
        self.saving = (cost[1:] - cost[:-1])[exits].numpy()  #: ``(M,)``
        self.open_cost = cost[-1].item()  #: of an image that goes to the end past open exits
        starts = np.concatenate([[True], self.level[1:] < self.level[:-1]])
        #: ``(M,)``, the first step with the same level
        self.first = np.maximum.accumulate(np.where(starts, np.arange(len(level)), 0))

    @cached_property
    def turning(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The steps that change a loss, their images, and which are the last of their level."""
        steps = np.flatnonzero(self.change.any(0))
        level = self.level[steps]
        return steps, self.image[steps], np.append(level[1:] < level[:-1], True)

    def risk(self, weights: np.ndarray) -> np.ndarray:
        """The risk after 0 to M steps, ``(M + 1,)``, of images weighted by ``(N,)``."""
        loss, change = self.closed[1] - self.closed[0], self.change[1] - self.change[0]
        moved = np.cumsum(weights[self.image] * change)
        return (weights @ loss + np.append(0, moved)) / weights.sum()

    def cost(self, weights: np.ndarray) -> np.ndarray:
        """The mean relative cost after 0 to M steps, ``(M + 1,)``; 1 for closed exits."""
        saved = np.cumsum(weights[self.image] * self.saving) / weights.sum()
        return np.append(1.0, self.open_cost - saved)

    def oracle(self, weights: np.ndarray, level: float) -> int:
        """The steps to the cheapest threshold whose risk on all images is within a level."""
        ends = np.append(True, np.append(self.level[1:] < self.level[:-1], True))
        fits = np.flatnonzero(ends & (self.risk(weights) <= level))
        return int(fits[self.cost(weights)[fits].argmin()])

    def threshold(self, steps: int) -> float:
        """The threshold after some steps: images with a higher score have left."""
        return self.level[steps] if steps < len(self.level) else -np.inf

    def steps(self, threshold: float) -> int:
        """How many steps lead to a threshold."""
        return int(np.searchsorted(-self.level, -threshold))


def largest_counts(
    chooser: Chooser, *, samples: int, level: float, delta: float, most: int
) -> np.ndarray:
    """How many losses of 1 a test lets pass, for 0 to ``most`` losses of -1: ``(most + 1,)``.

    -1 where even none is too many.
    """
    minus = np.arange(most + 1)
    if chooser == "naive":
        return np.floor(level * samples + minus + 1e-9)
    if chooser == "in expectation":
        return np.floor(level * (samples + 1) - 1 + minus + 1e-9)
    is_grid = chooser == "Learn then Test"
    test, share = TESTS["binomial" if is_grid else chooser], delta / (GRID if is_grid else 1)

    def passes(minus: int, plus: int) -> bool:
        counts = torch.tensor([[minus, samples - minus - plus, plus]])
        return plus < 0 or test(counts, level=level).item() <= share

    limit, found = -1, []
    for one in minus if chooser in SIGNED else minus[:1]:  # the limits of neighbours are close
        while passes(one, limit + 1):
            limit += 1
        while not passes(one, limit):
            limit -= 1
        found.append(limit)
    return np.array(found)


def chosen(walk: Walk, weights: np.ndarray, chooser: Chooser, limit: np.ndarray) -> int:
    """After how many steps a way of choosing stops; -1 where not even closed exits pass.

    Args:
        walk: the thresholds.
        weights: how often each image is among the calibration samples, ``(N,)``.
        chooser: the naive one and Learn then Test take the last threshold that passes; the others
            stop before the first that fails.
        limit: from `largest_counts`.
    """
    steps, image, is_end = walk.turning
    moved = weights[image]
    minus, plus = (
        np.append(weights @ closed, change).cumsum()
        for closed, change in zip(walk.closed, moved * walk.change[:, steps], strict=True)
    )
    passed = plus <= (limit[minus] if len(limit) > 1 else limit[0])
    is_end = np.append(True, is_end)
    if not passed[0] and chooser not in ("naive", "Learn then Test"):
        return -1
    after = np.append(walk.first[steps], len(walk.level))  # steps until the next loss changes
    if chooser == "naive":
        found = np.flatnonzero(passed & is_end)
        return int(after[found[-1]]) if len(found) else -1
    if chooser == "Learn then Test":  # a grid of steps that was fixed beforehand
        grid = walk.first[np.linspace(0, len(walk.level) - 1, GRID).astype(int)]
        found = grid[passed[np.searchsorted(after, grid)]]
        return int(found.max()) if len(found) else -1
    failed = np.flatnonzero(~passed & is_end)
    return int(after[failed[0] - 1]) if len(failed) else len(walk.level)


def draws(count: int, *, images: int, samples: int, seed: int = 0) -> list[np.ndarray]:
    """Calibration samples as weights ``(N,)``: how often each image has been drawn."""
    generator = np.random.default_rng(seed)
    return [
        np.bincount(generator.integers(images, size=samples), minlength=images)
        for _ in range(count)
    ]


def trial(
    seen: Seen,
    choosers: Sequence[Chooser],
    samples: Sequence[np.ndarray],
    *,
    risk: Risk,
    level: float,
    delta: float,
) -> pd.DataFrame:
    """What became of a promise, for many calibration samples.

    Args:
        seen: the population.
        choosers: ways of choosing a threshold.
        samples: from `draws`.
        risk, level, delta: of the promise.

    Returns:
        A row per chooser and calibration sample: ``chooser``, ``draw``, ``steps`` (-1 where
        nothing was promised), ``threshold``, the true ``risk`` and ``cost``, ``broken``, and
        ``above``, how much the cost is above that of the oracle.
    """
    walks = {monotone: Walk(seen, risk, monotone=monotone) for monotone in (False, True)}
    everyone, rows = np.ones(len(seen.labels), int), []
    true_risk, true_cost = walks[False].risk(everyone), walks[False].cost(everyone)
    best = true_cost[walks[False].oracle(everyone, level)]
    for chooser in choosers:
        walk = walks[chooser == "in expectation"]
        most = max(int(weights @ walk.better) for weights in samples)
        given = {"samples": int(samples[0].sum()), "level": level, "delta": delta, "most": most}
        limit = largest_counts(chooser, **given)
        for draw, weights in enumerate(samples):
            steps = chosen(walk, weights, chooser, limit)
            at = max(steps, 0)
            found = {"chooser": chooser, "draw": draw, "steps": steps}
            found |= {"threshold": walk.threshold(at), "risk": true_risk[at], "cost": true_cost[at]}
            found["broken"] = steps >= 0 and true_risk[at] > level
            rows.append(found | {"above": true_cost[at] - best})
    return pd.DataFrame(rows)


def elsewhere(
    found: pd.DataFrame, there: Walk, weights: np.ndarray, *, level: float
) -> pd.DataFrame:
    """What the thresholds of a `trial` do on other images, or on the same ones in other shares.

    Args:
        found: rows of `trial`.
        there: the walk on the other images.
        weights: how much each of them counts, ``(N,)``.
        level: of the risk that was promised.

    Returns:
        ``risk``, ``cost`` and ``broken`` there.
    """
    at = np.array([there.steps(threshold) for threshold in found.threshold])
    at = np.where(found.steps <= 0, 0, at)
    risk, cost = there.risk(weights)[at], there.cost(weights)[at]
    return pd.DataFrame({"risk": risk, "cost": cost, "broken": (risk > level) & (found.steps >= 0)})
