r"""The vector AWGN channel and its optimal detector.

One theory for class-mean exits (E²CM) and for class-aware heads of language models.  One of M
messages is sent as a point $s_m$; what arrives is $r = s_m + n$ with independent Gaussian noise of
variance $N_0/2$ in each of D dimensions.  The detector that errs least turns out to be a linear
layer.  Equation numbers are those of chapter 6.
"""

import math

import torch
from torch import Tensor

from eenotes.class_statistics import Moments


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
    _check_signals(signals)
    _check_n0(n0)
    whole = not (messages.is_floating_point() or messages.dtype == torch.bool)
    inside = ((messages >= 0) & (messages < len(signals))).all()
    if messages.ndim != 1 or not whole or not inside:
        raise ValueError(f"messages must be a vector of whole numbers in 0..{len(signals) - 1}")
    shape, like = (len(messages), signals.shape[1]), signals
    noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    return signals[messages.long()] + math.sqrt(n0 / 2) * noise


def map_detector(
    signals: Tensor, *, n0: float, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""The detector with the smallest error probability, as a linear layer (6.9).

    It decides for ``argmax(r @ weight.T + bias)`` with $w_m = s_m$ and $b_m = \frac{N_0}{2} \ln P_m
    - \frac12 \lVert s_m\rVert^2$.  The errors (6.2) are fewest where prior times density (6.4) is
    largest (6.3); that is (6.5), multiplied out (6.6) and without what all messages share (6.7).

    Args:
        signals: ``(M, D)``.
        n0: $N_0 > 0$.
        prior: ``(M,)``, $P_m$, at least 0 and of sum 1; a message of probability 0 is never
            decided.  ``None``: all equal, and then the detector is the one of minimum distance,
            whatever $N_0$ is.

    Returns:
        weight ``(M, D)`` and bias ``(M,)``.  Logits times $2/N_0$ are log posteriors up to a
        constant (6.10).

    Raises:
        ValueError: signals that are no finite matrix, ``n0`` that is not positive, or a prior that
            is none.
    """
    _check_signals(signals)
    _check_n0(n0)
    bias = -0.5 * signals.square().sum(1)
    if prior is not None:
        bias = bias + 0.5 * n0 * _checked_prior(prior, len(signals)).to(bias).log()
    return signals.clone(), bias


def minimum_distance(signals: Tensor) -> tuple[Tensor, Tensor]:
    """The equal-prior case (6.11): the nearest signal wins, and $N_0$ has dropped out.

    Args:
        signals: ``(M, D)``.

    Returns:
        weight ``(M, D)`` and bias ``(M,)``.

    Raises:
        ValueError: signals that are no finite matrix.
    """
    return map_detector(signals, n0=1.0)


def linear_discriminant(
    means: Tensor, covariance: Tensor, *, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""The same detector in coloured noise (6.14): linear discriminant analysis.

    $w_m = \Sigma^{-1} s_m$, $b_m = \ln P_m - \frac12 s_m^{\mathsf T} \Sigma^{-1} s_m$; with $\Sigma
    = \frac{N_0}{2} I$ it is `map_detector` times $2/N_0$.

    Args:
        means: ``(M, D)``.
        covariance: ``(D, D)``, symmetric and positive definite, shared by all classes.
        prior: as in `map_detector`.

    Returns:
        weight ``(M, D)`` and bias ``(M,)``.

    Raises:
        ValueError: shapes that do not fit, or a covariance that is not symmetric and positive
            definite.
    """
    _check_signals(means)
    D = means.shape[1]
    if covariance.shape != (D, D):
        raise ValueError(f"the covariance must be {D} × {D}, got {tuple(covariance.shape)}")
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise ValueError(
            "the covariance is not symmetric, or holds NaN: "
            "the factorisation would read one half of it only"
        )
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info:
        raise ValueError(
            "the covariance is not positive definite: add a small multiple of the identity to it"
        )
    weight = torch.cholesky_solve(means.T, factor).T
    bias = -0.5 * (weight * means).sum(1)
    if prior is not None:
        bias = bias + _checked_prior(prior, len(means)).to(bias).log()
    return weight, bias


def whitened_discriminant(
    moments: Moments, *, shrinkage: float, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""`linear_discriminant` of estimated class means and their shrunken covariance (6.14).

    The means are taken from their centre, because what all features share costs digits.

    Args:
        moments: from `eenotes.class_statistics.ClassMoments`; every class has samples.
        shrinkage: λ in (0, 1], see `Moments.shrunk`.
        prior: as in `map_detector`.

    Returns:
        weight ``(K, D)`` and bias ``(K,)`` in double precision.

    Raises:
        ValueError: a class without samples; otherwise as `Moments.shrunk`.
    """
    missing = (moments.counts == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"no sample of class {missing} was seen: its mean is not defined")
    centre = moments.means.mean(0)
    covariance = moments.shrunk(shrinkage)
    weight, bias = linear_discriminant(moments.means - centre, covariance, prior=prior)
    return weight, bias - weight @ centre


def detect(received: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The message with the largest logit of a linear detector (6.8): ``(N, D)`` → ``(N,)``.

    Raises:
        ValueError: received vectors of another width than the weights, or with NaN.
    """
    _check_received(received, weight.shape[1])
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
    _check_signals(signals)
    _check_n0(n0)
    count = len(signals)
    prior = torch.full((count,), 1 / count) if prior is None else _checked_prior(prior, count)
    prior, signals = prior.double().cpu(), signals.double().cpu()
    distance = (signals[:, None] - signals).norm(dim=-1)
    others = ~torch.eye(count, dtype=torch.bool)
    if (distance[others] == 0).any() or (prior == 0).any():
        raise ValueError(
            "the union bound needs signals at different places and priors above 0: "
            "leave out the message in question"
        )
    distance.fill_diagonal_(1.0)  # left out below
    shift = n0 * (prior[:, None] / prior).log()
    errors = q((distance.square() + shift) / (distance * math.sqrt(2 * n0)))
    return float((prior * errors.masked_fill(~others, 0).sum(1)).sum())


def _check_signals(signals: Tensor) -> None:
    matrix = signals.ndim == 2 and signals.is_floating_point() and len(signals)
    if not matrix or not signals.isfinite().all():
        raise ValueError(
            "signals must be a finite matrix (M, D) of floats, "
            f"got {signals.dtype} {tuple(signals.shape)}"
        )


def _check_received(received: Tensor, width: int) -> None:
    if received.ndim != 2 or received.shape[1] != width or received.isnan().any():
        raise ValueError(
            f"what arrives must be (N, {width}), without NaN, got {tuple(received.shape)}"
        )


def _check_n0(n0: float) -> None:
    if not (n0 > 0 and math.isfinite(n0)):
        raise ValueError(
            f"n0 must be a positive number, twice the noise variance per dimension, got {n0}"
        )


def _checked_prior(prior: Tensor, count: int) -> Tensor:
    total = prior.double().sum().item()
    if prior.shape != (count,) or not (prior >= 0).all() or abs(total - 1) > 1e-3:
        raise ValueError(
            f"the prior must hold {count} probabilities of sum 1, "
            f"got {tuple(prior.shape)} of sum {total:.4g}"
        )
    return prior
