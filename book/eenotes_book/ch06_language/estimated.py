r"""A simulated channel whose receiver estimates the class means: what it costs, and what helps.

The tokens of a Zipf prior are sent as points $M_v \sim N(0, \tau^2 \Sigma)$ in noise of the
covariance Σ.  The receiver knows neither: it has n transmissions whose tokens it was told.
"""

import pandas as pd
import torch
from torch import Tensor

from eenotes.class_statistics import ClassMoments
from eenotes_book.ch06_language.epoch_zero import as_statistics
from eenotes_book.ch06_language.race import FACTORS, KINDS, Racer, class_mean, count_right

_FACTORS = (0.5, *FACTORS)


def race(
    *,
    coloured: bool,
    n: int = 4000,
    tokens: int = 400,
    width: int = 64,
    strength: float = 0.25,
    count: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of right answers of every class-mean receiver, for every factor on the plug-in N₀.

    Args:
        coloured: variances 1, 1/2, 1/3, ... of the directions (scaled to mean 1); else all 1.
        n: transmissions behind the statistics.
        tokens: V.
        width: D.
        strength: τ².
        count: transmissions that the receivers are tested on.
        seed: of all draws.

    Returns:
        Columns ``metric``, ``kind``, ``factor``, ``accuracy``.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = torch.ones(width)
    if coloured:
        scale = 1 / torch.arange(1.0, width + 1)
        scale = (scale / scale.mean()).sqrt()
    points = strength**0.5 * scale * torch.randn(tokens, width, generator=generator)
    prior = 1 / torch.arange(1.0, tokens + 1)

    def sent(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.multinomial(prior, count, replacement=True, generator=generator)
        noise = scale * torch.randn(count, width, generator=generator)
        return points[labels] + noise, labels

    sums = ClassMoments(tokens)
    sums.update(*sent(n))
    heads = [
        class_mean(metric, kind, factor)
        for metric, kinds in KINDS.items()
        for kind in kinds
        for factor in _FACTORS
    ]
    features, labels = sent(count)
    found = count_right(
        features,
        labels,
        torch.ones(count, 1, dtype=torch.bool),
        copied_weight=torch.zeros(tokens, width),
        racers={"all": (Racer(as_statistics(sums)), heads)},
    )["all"]
    rows = [(*head[:3], int(right) / count) for head, right in found.items()]
    return pd.DataFrame(rows, columns=["metric", "kind", "factor", "accuracy"])
