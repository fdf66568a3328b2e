"""Tests of a risk for losses of any size in an interval, beside the package's exact ones."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import special
from torch import Tensor

from eenotes import risk_tests

_BETS = 60  # constant bets whose capital is averaged


def hoeffding_bentkus(counts: Tensor, *, level: float) -> Tensor:
    """P-values for losses in [0, 1] (Bates et al., 2021), as `eenotes.risk_tests.p_values`."""
    N, total = int(counts[0].sum()), counts[:, 2].double().numpy()
    mean = np.minimum(total / N, level)
    entropy = special.rel_entr(mean, level) + special.rel_entr(1 - mean, 1 - level)
    bentkus = math.e * special.bdtr(total, N, level)
    return torch.from_numpy(np.minimum(np.exp(-N * entropy), np.minimum(bentkus, 1)))


def betting(counts: Tensor, *, level: float) -> Tensor:
    r"""P-values for losses in [-1, 1] (Waudby-Smith and Ramdas, 2024).

    A gambler who stakes a share $\nu$ on each loss being small ends with $\prod_i (1 - \nu (L_i -
    \varepsilon))$, in expectation at most 1 if the risk is above $\varepsilon$.  One over its mean
    over many $\nu$ is a p-value.

    Args:
        counts, level: as in `eenotes.risk_tests.p_values`.
    """
    largest = 1 / (1 - level)  # at a loss of 1, nothing is left
    # The best bet against losses of deviation s is near 1 / (s sqrt(N)).
    lowest = -math.log10(max(int(counts[0].sum()), 10)) / 2
    bets = largest * torch.logspace(lowest, 0, _BETS + 1, dtype=torch.float64)[:-1]
    gains = torch.log1p(-bets * (torch.tensor([[-1.0], [0.0], [1.0]]) - level))
    return torch.exp(math.log(_BETS) - (counts.double() @ gains).logsumexp(1)).clamp_max(1)


TESTS: dict[str, Callable[..., Tensor]] = {
    "binomial": partial(risk_tests.p_values, risk="disagreement"),
    "Hoeffding-Bentkus": hoeffding_bentkus,
    "two coins": partial(risk_tests.p_values, risk="lost accuracy"),
    "betting": betting,
}
SIGNED = ("two coins", "betting")  # they take losses of -1
