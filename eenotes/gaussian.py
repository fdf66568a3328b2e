r"""The optimal detector of messages in Gaussian noise, which is a linear layer.

One theory for class-mean exits (E²CM) and for class-aware heads of language models.  One of M
messages is sent as a point $s_m$; what arrives is $r = s_m + n$ with independent Gaussian noise of
variance $N_0/2$ in each of D dimensions.  Equation numbers are those of chapter 6.
"""

import math

import torch
from torch import Tensor

from eenotes.class_statistics import Moments


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
        prior: ``(M,)``, $P_m$, of sum 1; ``None``: all equal, and $N_0$ does not matter.

    Returns:
        weight ``(M, D)`` and bias ``(M,)``.  Logits times $2/N_0$ are log posteriors up to a
        constant (6.10).

    Raises:
        ValueError: signals that are no finite matrix, ``n0`` that is not positive, or a bad prior.
    """
    check_signals(signals)
    check_n0(n0)
    bias = -0.5 * signals.square().sum(1)
    if prior is not None:
        bias = bias + 0.5 * n0 * _checked_prior(prior, len(signals)).to(bias).log()
    return signals.clone(), bias


def minimum_distance(signals: Tensor) -> tuple[Tensor, Tensor]:
    """The equal-prior case (6.11) of `map_detector`: the nearest of the signals ``(M, D)`` wins."""
    return map_detector(signals, n0=1.0)


def linear_discriminant(
    means: Tensor, covariance: Tensor, *, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""The same detector in coloured noise (6.14): linear discriminant analysis.

    $w_m = \Sigma^{-1} s_m$, $b_m = \ln P_m - \frac12 s_m^{\mathsf T} \Sigma^{-1} s_m$ for means
    ``(M, D)`` and one covariance ``(D, D)``; with $\Sigma = \frac{N_0}{2} I$ it is `map_detector`
    times $2/N_0$.  Weight and bias are ``(M, D)`` and ``(M,)``.

    Raises:
        ValueError: shapes that do not fit, or a covariance that is not symmetric and positive
            definite.
    """
    check_signals(means)
    D = means.shape[1]
    if covariance.shape != (D, D):
        raise ValueError(f"the covariance must be {D} × {D}, got {tuple(covariance.shape)}")
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise ValueError("the covariance is not symmetric, or holds NaN")
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info:
        raise ValueError("the covariance is not positive definite: add a multiple of the identity")
    weight = torch.cholesky_solve(means.T, factor).T
    bias = -0.5 * (weight * means).sum(1)
    if prior is not None:
        bias = bias + _checked_prior(prior, len(means)).to(bias).log()
    return weight, bias


def whitened_discriminant(
    moments: Moments, *, shrinkage: float, prior: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`linear_discriminant` of estimated class means and their shrunken covariance (6.14).

    The means are taken from their centre, because what all features share costs digits.  Weight
    ``(K, D)`` and bias ``(K,)`` are in double precision; ``shrinkage`` is λ of `Moments.shrunk`.

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


def check_signals(signals: Tensor) -> None:
    """Refuse signals that are no finite matrix ``(M, D)``.

    Raises:
        ValueError: another shape or type, or values that are not finite.
    """
    matrix = signals.ndim == 2 and signals.is_floating_point() and len(signals)
    if not matrix or not signals.isfinite().all():
        raise ValueError(
            f"signals must be a finite matrix (M, D), got {signals.dtype} {tuple(signals.shape)}"
        )


def check_n0(n0: float) -> None:
    """Refuse a noise that is not positive.

    Raises:
        ValueError: $N_0$ that is not a positive number.
    """
    if not (n0 > 0 and math.isfinite(n0)):
        raise ValueError(f"n0 must be a positive number, twice the variance of the noise, got {n0}")


def _checked_prior(prior: Tensor, count: int) -> Tensor:
    total = prior.sum().item()
    if prior.shape != (count,) or not (prior >= 0).all() or abs(total - 1) > 1e-3:
        raise ValueError(
            f"the prior must hold {count} probabilities of sum 1, got {prior} of sum {total:.4g}"
        )
    return prior
