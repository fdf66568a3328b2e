"""Exact tests of a risk: how likely losses so few are, at most, if the risk is above a level.

Disagreement and error are losses of 0 and 1, whose sum is binomial.  Lost accuracy has losses of
-1, 0 and 1; each of them is the difference of two independent coins.
"""

import math
from typing import Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor

from eenotes._checks import require_one_of

Risk = Literal["disagreement", "error", "lost accuracy"]
RISKS: tuple[Risk, ...] = ("disagreement", "error", "lost accuracy")

_BETA = 1e-3  # chance that more losses differ from 0 than is assumed
_REACH = 8  # standard deviations of a coin's heads; what is beyond is counted as likely


def p_values(counts: Tensor, *, risk: Risk, level: float) -> Tensor:
    r"""How likely losses so small are if the risk is above ``level``, at most: ``(M,)``.

    For losses of 0 and 1, the tail (7.5), $P(\mathrm{Bin}(N, \varepsilon) \le \sum_i L_i)$, exact
    (Clopper and Pearson, 1934).  For lost accuracy, (7.7): a share q of the losses is not 0.  Each
    loss is the difference of two coins, $\sum_i L_i = B_1 - B_2$, and its tail grows with q as
    long as the sum is below its mean.  So q is replaced by its upper bound, which is too small with
    a probability of at most $\beta = .001$, and this is added (Berger and Boos, 1994).  No
    p-value is below that.

    Args:
        counts: how many of N samples have a loss of -1, 0 and 1, under M thresholds: ``(M, 3)``.
        risk: decides which losses are possible.
        level: the risk that is to be ruled out, in (0, 1).

    Raises:
        ValueError: an unknown risk, or negative losses for one that has none.
    """
    require_one_of(RISKS, risk=risk)
    found = counts.cpu().double().numpy()
    N = int(found[0].sum())
    if risk == "lost accuracy":
        rows, where = np.unique(found, axis=0, return_inverse=True)
        tails = np.array([_of_three_losses(minus, plus, N, level) for minus, _, plus in rows])
        return torch.from_numpy(tails[where.reshape(-1)])
    if found[:, 0].any():
        raise ValueError(f"losses of -1 are not possible for the risk {risk!r}")
    return torch.from_numpy(special.bdtr(found[:, 2], N, level))


def _of_three_losses(minus: float, plus: float, N: int, level: float) -> float:
    """The p-value (7.7) of one threshold; 1 where the proof does not hold."""
    other, total = minus + plus, plus - minus
    if total + 1 > (N - 1) * level:
        return 1.0
    q = special.betaincinv(other + 1, N - other, 1 - _BETA) if other < N else 1.0
    if q < level:  # so few losses differ from 0 that the risk cannot be above the level
        return _BETA
    if q > (1 + level**2) / 2:  # such losses are no coins
        return 1.0
    b = (1 + level - math.sqrt(1 + level**2 - 2 * q)) / 2  # heads of the coin that adds
    return min(1.0, _BETA + _difference_tail(total, N, b, max(b - level, 0.0)))


def _difference_tail(total: float, N: int, b: float, a: float) -> float:
    """P(B₁ - B₂ ≤ total) for B₁ ~ Bin(N, b) and B₂ ~ Bin(N, a), not too small."""
    reach = _REACH * (math.sqrt(N * a) + 1)
    heads = np.arange(max(0, math.floor(N * a - reach)), min(N, math.ceil(N * a + reach)) + 1)
    up_to = special.bdtr(heads, N, a)  # fewer heads are counted as the fewest, more as a sure loss
    below = np.where(heads + total >= 0, special.bdtr(np.maximum(heads + total, 0), N, b), 0.0)
    return float(np.diff(up_to, prepend=0) @ below + 1 - up_to[-1])
