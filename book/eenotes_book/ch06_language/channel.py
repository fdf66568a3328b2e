"""Transmissions over the AWGN channel, and how often its detector errs."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from eenotes import gaussian


def constellation(points: int = 4, *, energy: float = 1.0) -> Tensor:
    """Signals ``(M, 2)`` on a circle, as in phase-shift keying."""
    angle = 2 * torch.pi * torch.arange(points) / points + torch.pi / 4
    return energy**0.5 * torch.stack([angle.cos(), angle.sin()], 1)


def transmissions(
    signals: Tensor, prior: Tensor, *, n0: float, count: int, seed: int = 0
) -> dict[str, Tensor]:
    """What is sent and received, and the MAP detector.

    Returns:
        ``signals`` ``(M, 2)``, ``messages`` ``(N,)``, ``received`` ``(N, 2)``, ``weight``
        ``(M, 2)``, ``bias`` ``(M,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    messages = torch.multinomial(prior, count, replacement=True, generator=generator)
    received = gaussian.awgn(signals, messages, n0=n0, generator=generator)
    weight, bias = gaussian.map_detector(signals, n0=n0, prior=prior)
    return {
        "signals": signals,
        "messages": messages,
        "received": received,
        "weight": weight,
        "bias": bias,
    }


def error_rate(
    signals: Tensor,
    *,
    n0: float,
    prior: Tensor | None = None,
    assume_equal: bool = False,
    count: int,
    seed: int = 0,
) -> float:
    """How often the detector errs in ``count`` simulated transmissions."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(len(signals)) if prior is None else prior
    messages = torch.multinomial(weights, count, replacement=True, generator=generator)
    received = gaussian.awgn(signals, messages, n0=n0, generator=generator)
    detector = gaussian.map_detector(signals, n0=n0, prior=None if assume_equal else prior)
    return (gaussian.detect(received, *detector) != messages).double().mean().item()


def error_curves(*, decibels: Sequence[float], count: int, seed: int = 0) -> pd.DataFrame:
    """Simulated and theoretical error rates against E/N₀ in dB.

    The cases are two antipodal signals, with equal and unequal priors, and eight on a circle.

    Returns:
        Columns ``db``, ``case``, ``simulated``, ``theory`` (exact for two signals, the union bound
        for eight), ``wrong`` (the detector that does not know the priors).
    """
    two, eight, prior = torch.tensor([[1.0], [-1.0]]), constellation(8), torch.tensor([0.9, 0.1])
    cases = {
        "two signals": (two, None),
        "two signals, priors .9 and .1": (two, prior),
        "eight on a circle": (eight, None),
    }
    rows = []
    for db in decibels:
        n0 = 10 ** (-db / 10)
        for case, (signals, chances) in cases.items():
            options = {"n0": n0, "prior": chances, "count": count, "seed": seed}
            rows.append(
                {
                    "db": db,
                    "case": case,
                    "simulated": error_rate(signals, **options),
                    "theory": gaussian.union_bound(signals, n0=n0, prior=chances),
                    "wrong": error_rate(signals, assume_equal=True, **options),
                }
            )
    return pd.DataFrame(rows)
