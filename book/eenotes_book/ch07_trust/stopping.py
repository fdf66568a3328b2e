"""Stopping as a sequential decision: the price of a wrong answer, and a test of two classes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from eenotes import threshold_search
from eenotes.calibration import expected_stopping
from eenotes.costs import Costs
from eenotes.inference import simulate
from eenotes.rules import Patience, Rule
from eenotes.thresholds import Answers, evaluate, sweep
from eenotes_book.data.recorded import Recorded

PRICES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of a wrong answer, in units of the whole backbone
_LEVELS = 200  # thresholds that are tried where all exits share one
_REACH, _CELLS = 12.0, 601  # of the grid of log-odds
_TENTHS = 10  # groups of test images


def one_threshold(half: Recorded, price: float) -> Rule:
    """The threshold that all exits share with the smallest loss (7.9) on one half."""
    early = len(half.logits) - 1
    seen = torch.cat([half.rule.score(j, half.logits[j]).score for j in range(early)]).double()
    tried = torch.quantile(seen, torch.linspace(0, 1, _LEVELS, dtype=torch.float64))
    vectors = torch.cat([tried, tried.new_tensor([half.rule.closed])])[:, None].expand(-1, early)
    table = sweep(half.logits, half.labels, half.rule, half.costs, thresholds=vectors)
    best = (table.relative_cost - price * table.accuracy).idxmin()
    return replace(half.rule, thresholds=table.thresholds[best])


def searched(half: Recorded, price: float) -> Rule:
    """One threshold per exit: the shared one, changed at one exit at a time."""
    answers, sign = Answers(half.logits, half.labels, half.rule, half.costs), 1
    sign = 1 if half.rule.leaves_above else -1
    start = torch.tensor(one_threshold(half, price).thresholds, dtype=torch.float64)
    split = threshold_search.Split.of(answers, sign)
    found, _ = threshold_search.improve(split, sign * start, price=1 / price)
    return replace(half.rule, thresholds=(sign * found).tolist())


def by_induction(half: Recorded, price: float) -> Rule:
    """One threshold per exit, from the last to the first (7.10)."""
    given = (half.logits, half.labels, half.rule, half.costs)
    return replace(half.rule, thresholds=expected_stopping(*given, price=price))


def patient(half: Recorded, price: float) -> Rule:
    """The patience with the smallest loss on one half."""

    def loss(rule: Rule) -> float:
        row = evaluate(half.logits, half.labels, rule, half.costs)
        return row["relative_cost"] - price * row["accuracy"]

    return min(map(Patience, range(1, len(half.logits))), key=loss)


WAYS: dict[str, Callable[[Recorded, float], Rule]] = {
    "one threshold": one_threshold,
    "one per exit, searched": searched,
    "one per exit, by induction": by_induction,
    "patience": patient,
}


def losses(run: Recorded, way: str) -> pd.DataFrame:
    """The loss (7.9) of every image for every price, with rules chosen on the other half.

    Returns:
        A row per price and tenth of the images: ``price``, ``tenth``, ``loss``, ``accuracy``,
        ``cost``.
    """
    halves, rows = run.halves(), []
    for price in PRICES:
        parts = []
        for half, other in zip(halves[::-1], halves, strict=True):
            rule = WAYS[way](half, price)
            outcome = simulate(other.logits, rule)
            cost = run.costs.under(rule).relative_cost(outcome.exit_index)
            parts.append(torch.stack([(outcome.prediction == other.labels).double(), cost]))
        right, cost = torch.cat(parts, 1)
        columns = {"accuracy": right, "cost": cost, "loss": cost + price * (1 - right)}
        for tenth, at in enumerate(torch.arange(len(right)).tensor_split(_TENTHS)):
            means = {name: values[at].mean().item() for name, values in columns.items()}
            rows.append({"price": price, "tenth": tenth} | means)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class TwoClasses:
    r"""Two classes seen through noise, look after look: $x_j = \pm a + \text{noise}$ of variance 1.

    After j looks the log-odds (7.11) are $S_j = 2a \sum_{i \le j} x_i$.
    """

    signal: float  #: a
    looks: int

    def draw(self, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Logits ``(looks, N, 2)`` whose softmax is the posterior, and labels ``(N,)``."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (count,), generator=generator)
        noise = torch.randn(self.looks, count, generator=generator, dtype=torch.float64)
        odds = 2 * self.signal * (noise + self.signal * (2 * labels - 1)).cumsum(0)
        return torch.stack([-odds / 2, odds / 2], 2), labels

    def costs(self) -> Costs:
        """Every look costs the same, and asking for the answer nothing."""
        return Costs((1,) * self.looks, (0,) * (self.looks - 1))

    def boundaries(self, price: float) -> np.ndarray:
        r"""The log-odds beyond which it is best to stop after each look, ``(looks - 1,)``.

        Backward induction (7.10) on a grid of log-odds; a wrong answer costs ``price`` times all
        looks.  The log-odds grow by a normal number of mean $\pm 2a^2$ and variance $4a^2$.
        """
        grid = np.linspace(-_REACH, _REACH, _CELLS)
        positive = 1 / (1 + np.exp(-grid))
        spread = 2 * self.signal
        steps = grid[None] - grid[:, None]
        density = sum(
            share[:, None] * np.exp(-((steps - mean) ** 2) / (2 * spread**2))
            for share, mean in ((positive, 2 * self.signal**2), (1 - positive, -2 * self.signal**2))
        )
        density /= density.sum(1, keepdims=True)
        stop = price * np.minimum(positive, 1 - positive)
        value, found = stop, []
        for _ in range(self.looks - 1):
            go_on = 1 / self.looks + density @ value
            outside = grid[(stop <= go_on) & (grid >= 0)]
            found.insert(0, float(outside[0]) if len(outside) else math.inf)
            value = np.minimum(stop, go_on)
        return np.array(found)

    def fixed(self) -> pd.DataFrame:
        """Errors of a test that always takes the same number of looks: ``looks``, ``error``."""
        looks = np.arange(1, self.looks + 1)
        error = [0.5 * math.erfc(self.signal * math.sqrt(n / 2)) for n in looks]
        return pd.DataFrame({"looks": looks, "error": error})
