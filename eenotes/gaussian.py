"""The optimal detector of messages in Gaussian noise, which is a linear layer.

One theory for class-mean exits (E²CM) and heads of language models.  One of M messages is sent as a
point $s_m$; $r = s_m + n$ arrives, with independent noise of variance $N_0/2$ in each of D
dimensions.  Equation numbers are those of chapter 6.
"""

import math

import torch
from torch import Tensor

from eenotes._checks import require_matrix, require_range, require_seen
from eenotes.class_statistics import Moments

Linear = tuple[Tensor, Tensor]  # weight (M, D), bias (M,)


def map_detector(signals: Tensor, *, n0: float, prior: Tensor | None = None) -> Linear:
    r"""The detector with the smallest error probability, as a linear layer (6.9).

    It decides for ``argmax(r @ weight.T + bias)`` with $w_m = s_m$ and $b_m = \frac{N_0}{2} \ln P_m
    - \frac12 \lVert s_m\rVert^2$.  The errors (6.2) are fewest where prior times density (6.4) is
    largest (6.3); that is (6.5), multiplied out (6.6) and without what all messages share (6.7).

    Signals and weight are ``(M, D)``, bias and prior ``(M,)``; without a prior all $P_m$ are equal,
    and $N_0$ does not matter.  Logits times $2/N_0$ are log posteriors up to a constant (6.10).

    Raises:
        ValueError: signals that are no finite matrix, ``n0`` that is not positive, or a bad prior.
    """
    require_matrix(signals)
    require_range(0, math.inf, n0=n0)
    bias = -0.5 * signals.square().sum(1)
    return signals.clone(), bias + 0.5 * n0 * _log_prior(prior, bias)


def linear_discriminant(
    means: Tensor, covariance: Tensor, *, prior: Tensor | None = None
) -> Linear:
    r"""The detector `map_detector` for coloured noise (6.14): linear discriminant analysis.

    $w_m = \Sigma^{-1} s_m$, $b_m = \ln P_m - \frac12 s_m^{\mathsf T} \Sigma^{-1} s_m$ for means
    ``(M, D)`` and one covariance ``(D, D)``; with $\Sigma = \frac{N_0}{2} I$ it is `map_detector`
    times $2/N_0$.

    Raises:
        ValueError: shapes that do not fit, or a covariance that is not symmetric positive definite.
    """
    require_matrix(means)
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
    return weight, bias + _log_prior(prior, bias)


def whitened_discriminant(moments: Moments, *, shrinkage: float) -> Linear:
    """`linear_discriminant` of estimated class means and their shrunken covariance (6.14).

    Weight ``(K, D)`` and bias ``(K,)`` are in double precision; ``shrinkage`` is λ of
    `Moments.shrunk`.  What all means share is subtracted, because it costs digits.

    Raises:
        ValueError: a class without samples; otherwise as `Moments.shrunk`.
    """
    require_seen(moments.counts)
    centre = moments.means.mean(0)
    weight, bias = linear_discriminant(moments.means - centre, moments.shrunk(shrinkage))
    return weight, bias - weight @ centre


def _log_prior(prior: Tensor | None, bias: Tensor) -> Tensor | int:
    if prior is None:
        return 0
    total = prior.sum().item()
    if prior.shape != bias.shape or not (prior >= 0).all() or abs(total - 1) > 1e-3:
        raise ValueError(f"the prior must hold {len(bias)} probabilities of sum 1, got {prior}")
    return prior.to(bias).log()
