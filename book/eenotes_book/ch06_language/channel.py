"""The AWGN channel: transmissions, and how often its detector errs, simulated and in theory."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from eenotes._checks import require_matrix, require_range
from eenotes.gaussian import Linear, map_detector


def awgn(
    signals: Tensor, messages: Tensor, *, n0: float, generator: torch.Generator | None = None
) -> Tensor:
    r"""Send messages over the channel (6.1): $r = s_m + n$, $n_i \sim \mathcal N(0, N_0/2)$.

    Args:
        signals: ``(M, D)``, one point per message.
        messages: ``(N,)`` whole numbers in 0..M-1, what is sent.
        n0: $N_0 > 0$; the noise variance per dimension is half of it.
        generator: of the noise, on the signals' device.

    Returns:
        ``(N, D)``, what arrives.

    Raises:
        ValueError: signals that are no finite matrix, ``n0`` that is not positive, messages out of
            range.
    """
    require_matrix(signals)
    require_range(0, math.inf, n0=n0)
    whole = not (messages.is_floating_point() or messages.dtype == torch.bool)
    inside = ((messages >= 0) & (messages < len(signals))).all()
    if messages.ndim != 1 or not whole or not inside:
        raise ValueError(f"messages must be a vector of whole numbers in 0..{len(signals) - 1}")
    shape, kind = (len(messages), signals.shape[1]), {"dtype": signals.dtype}
    noise = torch.randn(shape, generator=generator, device=signals.device, **kind)
    return signals[messages.long()] + math.sqrt(n0 / 2) * noise


def minimum_distance(signals: Tensor) -> Linear:
    """The detector for equal priors (6.11): the nearest of the signals ``(M, D)`` wins."""
    return map_detector(signals, n0=1.0)


def detect(received: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The message with the largest logit of a linear detector (6.8): ``(N, D)`` → ``(N,)``.

    Raises:
        ValueError: received vectors of another width than the weights, or with NaN.
    """
    width = weight.shape[1]
    if received.ndim != 2 or received.shape[1] != width or received.isnan().any():
        raise ValueError(
            f"what arrives must be (N, {width}), without NaN, got {tuple(received.shape)}"
        )
    return torch.addmm(bias, received, weight.T).argmax(1)


def q(x: float | Tensor) -> Tensor:
    r"""The Gaussian tail $Q(x) = P(\mathcal N(0,1) > x)$ (6.12), in double precision.

    The shape is that of ``x``, ``(...)`` → ``(...)``.  For two signals at distance d and equal
    priors ``q(d / math.sqrt(2 * n0))`` is the error probability.
    """
    return 0.5 * torch.erfc(torch.as_tensor(x, dtype=torch.float64) / math.sqrt(2))


def union_bound(signals: Tensor, *, n0: float, prior: Tensor | None = None) -> float:
    r"""An upper bound of the MAP detector's error probability (6.13); exact for two signals.

    $\sum_i P_i \sum_{j \ne i} Q\bigl((d_{ij}^2 + N_0 \ln(P_i/P_j)) / (d_{ij}\sqrt{2N_0})\bigr)$
    with the distances $d_{ij} = \lVert s_i - s_j\rVert$: each summand is the probability that i was
    sent and j scores higher.

    Args:
        signals: ``(M, D)``.
        n0: $N_0 > 0$.
        prior: ``(M,)``; ``None``: all equal.

    Raises:
        ValueError: as `map_detector`, and for two signals at the same place or a prior with a zero,
            where the probability of a confusion is not defined.
    """
    signals = signals.cpu().double()
    weight, bias = map_detector(signals, n0=n0, prior=prior)
    count = len(signals)
    prior = torch.full((count,), 1 / count) if prior is None else prior
    distance = (signals[:, None] - signals).norm(dim=-1)
    others = ~torch.eye(count, dtype=torch.bool)
    if (distance[others] == 0).any() or (prior == 0).any():
        raise ValueError(
            "the union bound needs signals at different places and priors above 0: "
            "leave out the message in question"
        )
    logits = signals @ weight.T + bias  # of every signal without noise
    lead = logits.diagonal()[:, None] - logits  # of the message sent
    distance.fill_diagonal_(1.0)  # left out below
    errors = q(lead / (distance * math.sqrt(n0 / 2)))
    return float((prior.cpu().double() * errors.masked_fill(~others, 0).sum(1)).sum())


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
    received = awgn(signals, messages, n0=n0, generator=generator)
    weight, bias = map_detector(signals, n0=n0, prior=prior)
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
    received = awgn(signals, messages, n0=n0, generator=generator)
    detector = map_detector(signals, n0=n0, prior=None if assume_equal else prior)
    return (detect(received, *detector) != messages).cpu().double().mean().item()


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
                    "theory": union_bound(signals, n0=n0, prior=chances),
                    "wrong": error_rate(signals, assume_equal=True, **options),
                }
            )
    return pd.DataFrame(rows)
