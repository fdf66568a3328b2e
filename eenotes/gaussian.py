r"""The vector AWGN channel and its optimal detector: one theory for class-mean exits (E²CM) and
class-aware language-model heads.

One of M messages is sent as a point $s_m$; what arrives is $r = s_m + n$ with independent Gaussian
noise of variance $N_0/2$ in each of D dimensions.  The detector that errs least turns out to be a
linear layer.  Equation numbers are those of chapter 6.
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
    if (
        messages.ndim != 1
        or not whole
        or (len(messages) and not 0 <= messages.min() <= messages.max() < len(signals))
    ):
        raise ValueError(f"messages must be a vector of whole numbers in 0..{len(signals) - 1}")
    noise = torch.randn(
        len(messages),
        signals.shape[1],
        generator=generator,
        dtype=signals.dtype,
        device=signals.device,
    )
    return signals[messages.long()] + math.sqrt(n0 / 2) * noise


def log_density(received: Tensor, signals: Tensor, *, n0: float) -> Tensor:
    r"""$\ln p(r \mid s_m) = -\frac{D}{2}\ln(\pi N_0) - \lVert r - s_m\rVert^2 / N_0$ (6.4):

    ``(N, D)`` and ``(M, D)`` to ``(N, M)``.

    With the logarithm of the prior added, its largest entry is the decision of (6.3), which errs
    least (6.2), and so that of (6.5).

    Raises:
        ValueError: signals that are no finite matrix, ``n0`` that is not positive, or received
            vectors of another width or with NaN.
    """
    _check_signals(signals)
    _check_n0(n0)
    _check_received(received, signals.shape[1])
    squared = (received[:, None] - signals).square().sum(-1)
    return -0.5 * signals.shape[1] * math.log(math.pi * n0) - squared / n0


def map_detector(
    signals: Tensor, *, n0: float, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""The detector with the smallest error probability (6.3), as a linear layer (6.9):

    ``argmax(r @ weight.T + bias)``.

    $w_m = s_m$ and $b_m = \frac{N_0}{2} \ln P_m - \frac12 \lVert s_m\rVert^2$: what (6.5) compares,
    multiplied out (6.6) and without what all messages share (6.7).

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

    Raises:
        ValueError: shapes that do not fit, or a covariance that is not symmetric and positive
            definite.
    """
    _check_signals(means)
    if covariance.shape != (means.shape[1], means.shape[1]):
        raise ValueError(
            f"the covariance must be {means.shape[1]} × {means.shape[1]}, got {tuple(covariance.shape)}"
        )
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise ValueError(
            "the covariance is not symmetric, or holds NaN: the factorisation would read one half of it only"
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
    """Which message a linear detector decides for, by its largest logit (6.8):

    ``(N, D)`` → ``(N,)``.

    Raises:
        ValueError: received vectors of another width than the weights, or with NaN.
    """
    _check_received(received, weight.shape[1])
    return torch.addmm(bias, received, weight.T).argmax(1)


def q(x: float | Tensor) -> Tensor:
    r"""The Gaussian tail $Q(x) = P(\mathcal N(0,1) > x)$ (6.12), in double precision; of ``x``'s
    shape, ``(...)`` → ``(...)``.
    """
    return 0.5 * torch.erfc(torch.as_tensor(x, dtype=torch.float64) / math.sqrt(2))


def pairwise_error(
    distance: float | Tensor, *, n0: float, prior_ratio: float | Tensor = 1.0
) -> Tensor:
    r"""Probability that i was sent and j scores higher (6.13):

    $Q\bigl((d^2 + N_0 \ln(P_i/P_j)) / (d\sqrt{2N_0})\bigr)$.

    Args:
        distance: $d = \lVert s_i - s_j\rVert > 0$.
        n0: $N_0 > 0$.
        prior_ratio: $P_i/P_j$, sent over confused with.  1 gives $Q(d/\sqrt{2N_0})$, which is
            (6.12) for antipodal signals.

    Returns:
        In double precision, of the arguments' shape: numbers, or ``(...)`` tensors that broadcast.

    Raises:
        ValueError: a distance, ``n0`` or a ratio that is not positive.
    """
    _check_n0(n0)
    distance, ratio = (
        torch.as_tensor(value, dtype=torch.float64) for value in (distance, prior_ratio)
    )
    if not ((distance > 0).all() and (ratio > 0).all()):
        raise ValueError(
            f"distances and ratios of priors must be positive, got {distance} and {ratio}"
        )
    return q((distance.square() + n0 * ratio.log()) / (distance * math.sqrt(2 * n0)))


def union_bound(signals: Tensor, *, n0: float, prior: Tensor | None = None) -> float:
    r"""An upper bound of the MAP detector's error probability (6.13):

    $\sum_i P_i \sum_{j \ne i}$ of `pairwise_error`.

    Args:
        signals: ``(M, D)``.
        n0: $N_0 > 0$.
        prior: ``(M,)``; ``None``: all equal.

    Raises:
        ValueError: as `map_detector`, and for two signals at the same place or a prior with a zero,
            where the pairwise error is undefined.
    """
    _check_signals(signals)
    count = len(signals)
    prior = torch.full((count,), 1 / count) if prior is None else _checked_prior(prior, count)
    prior, signals = prior.double().cpu(), signals.double().cpu()
    distance = (signals[:, None] - signals).norm(dim=-1)
    others = ~torch.eye(count, dtype=torch.bool)
    if (distance[others] == 0).any() or (prior == 0).any():
        raise ValueError(
            "the union bound needs signals at different places and priors above 0: leave out the message in question"
        )
    errors = pairwise_error(distance.fill_diagonal_(1.0), n0=n0, prior_ratio=prior[:, None] / prior)
    return float((prior * errors.masked_fill(~others, 0).sum(1)).sum())


def _check_signals(signals: Tensor) -> None:
    if (
        signals.ndim != 2
        or not signals.is_floating_point()
        or not len(signals)
        or not signals.isfinite().all()
    ):
        raise ValueError(
            f"signals must be a finite matrix (M, D) of floats, got {signals.dtype} {tuple(signals.shape)}"
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
    if (
        prior.shape != (count,)
        or not (prior >= 0).all()
        or abs(prior.double().sum().item() - 1) > 1e-3
    ):
        raise ValueError(
            f"the prior must hold {count} probabilities of sum 1, got {tuple(prior.shape)} of sum {prior.sum().item():.4g}"
        )
    return prior
