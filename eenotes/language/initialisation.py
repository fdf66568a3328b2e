"""Class-aware initialisation of early exits in language models (Görmez's thesis, 2024).

An exit has to name the next token from a hidden vector: a detector in a noisy channel with one
message per token.  Its weights follow from class means and token counts, without a gradient.  The
thesis leaves $N_0$ and the mixture's α open.  Equation numbers are those of chapter 6.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eenotes._checks import require_one_of, require_range
from eenotes.gaussian import linear_discriminant, map_detector
from eenotes.language.evaluation import accuracy
from eenotes.language.exits import ExitModel, Linear, anatomy, load
from eenotes.language.token_statistics import Statistics

INITIALISATIONS = ("random", "copy", "class mean", "class mean + random", "class mean + copy")
N0_FACTORS = (0.01, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # times the plug-in N₀
ALPHAS = (0.2, 0.4, 0.6, 0.8)  # shares of the class means in a mixture
_SHRINKAGE = 1e-4  # enough for features that never vary; the strength of the noise is N₀'s part


def class_mean_head(
    found: Statistics,
    *,
    n0: float | None = None,
    scale: bool = False,
    unseen: Tensor | None = None,
    whiten: bool = False,
) -> Linear:
    r"""Weight ``(V, D)``, bias ``(V,)``: the MAP detector (6.9) of tokens as messages.

    $w_v = M_v$, $b_v = \frac{N_0}{2}\ln P_v - \frac12\lVert M_v\rVert^2$.

    Args:
        n0: $N_0$, for example from `choose_n0`; ``None``: `Statistics.plug_in_n0`.
        scale: multiply both by $2/N_0$ (6.10).  The decision stays; the logits become log
            posteriors, as a cross-entropy expects them.
        unseen: ``(V, D)``, weights for tokens that never occurred, usually the copied head's, as of
            log posteriors.  Their bias keeps the smoothed prior's part.  ``None``: weight 0.
        whiten: use the covariance within the classes, with mean eigenvalue $N_0/2$, instead of
            $\frac{N_0}{2} I$ (6.14).  The logits are log posteriors, whatever ``scale``.

    Raises:
        ValueError: ``n0`` not positive; ``unseen`` of another shape; ``whiten`` without covariance.
    """
    means, prior = found.class_means, found.prior
    if unseen is not None and unseen.shape != means.shape:
        raise ValueError(f"unseen must be like the class means, {means.shape}: {unseen.shape}")
    n0 = found.plug_in_n0() if n0 is None else n0
    require_range(0, math.inf, n0=n0)
    if whiten:
        covariance = found.noise_covariance(n0, shrinkage=_SHRINKAGE)
        weight, bias = linear_discriminant(means.cpu().double(), covariance, prior=prior.cpu())
        weight, bias, unit = weight.to(means), bias.to(means), 1
    else:
        weight, bias = map_detector(means, n0=n0, prior=prior)
        unit = 1 if scale else n0 / 2  # of a log posterior
        if scale:
            weight, bias = 2 / n0 * weight, 2 / n0 * bias
    if unseen is not None:
        weight = torch.where(found.seen[:, None], weight, unit * unseen.to(weight))
    return weight, torch.where(found.seen, bias, (unit * prior.log()).to(bias))


def copied_head(model: nn.Module) -> Linear:
    """The final head as an exit's weight ``(V, D)`` and bias (0 without one).

    OPT-350m's projection and the scale of Cohere's and Granite's logits are multiplied into it.

    Raises:
        ValueError: a model that caps its logits, or changes them in another way than by a scale.
    """
    parts = anatomy(model)
    if parts.scale is None:
        raise ValueError(
            f"{type(model).__name__} caps or changes the logits of its head, which a linear exit "
            "cannot copy: set final_logit_softcapping in its config to None, or begin at random"
        )
    weight = parts.scale * parts.head.weight.detach()
    own = parts.head.bias
    bias = weight.new_zeros(len(weight)) if own is None else parts.scale * own.detach()
    if parts.projection is None:
        return weight, bias
    if parts.projection.bias is not None:
        bias = bias + weight @ parts.projection.bias.detach()
    return weight @ parts.projection.weight.detach(), bias


def random_head(model: nn.Module, *, seed: int) -> Linear:
    r"""Uniform weights and biases within $\pm 1/\sqrt D$, as `torch.nn.Linear` begins."""
    parts, width = anatomy(model), model.config.hidden_size
    generator, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(width)
    drawn = (2 * torch.rand(parts.head.out_features, width + 1, generator=generator) - 1) * bound
    return drawn[:, :width].to(parts.head.weight), drawn[:, width].to(parts.head.weight)


def mix(first: Linear, other: Linear, *, alpha: float) -> Linear:
    r"""$\alpha$ times the first head plus $1-\alpha$ times the other (6.18), weight and bias alike.

    Raises:
        ValueError: $\alpha$ outside [0, 1], or heads of different shapes.
    """
    require_range(0, 1, ends="[]", alpha=alpha)
    if first[0].shape != other[0].shape:
        raise ValueError(f"the heads differ in shape: {first[0].shape} and {other[0].shape}")
    return tuple(alpha * a + (1 - alpha) * b.to(a) for a, b in zip(first, other, strict=True))


def initialise(
    model: ExitModel,
    how: str,
    *,
    found: Statistics | None = None,
    alpha: float = 0.5,
    n0: float | None = None,
    scale: bool = False,
) -> ExitModel:
    """Initialise the exit in place, one of five ways (`INITIALISATIONS`).

    Those with class means need ``found``; tokens it has not seen get the copied head's weight.
    ``alpha`` is the share of the class means in a mixture; the rest is as in `class_mean_head`.

    Raises:
        ValueError: another word, or missing statistics.
    """
    require_one_of(INITIALISATIONS, how=how)
    if "class mean" in how and found is None:
        raise ValueError(f"{how!r} needs found=statistics(...)")
    copied = copied_head(model.model)
    other = random_head(model.model, seed=0) if "random" in how else copied
    if "class mean" not in how:
        return load(model, other)
    head = class_mean_head(found, n0=n0, scale=scale, unseen=copied[0])
    return load(model, head if how == "class mean" else mix(head, other, alpha=alpha))


def choose_n0(
    found: Statistics,
    features: Tensor,
    labels: Tensor,
    *,
    unseen: Tensor | None = None,
    whiten: bool = False,
) -> tuple[float, dict[float, float]]:
    """The $N_0$ whose class-mean head names most tokens of validation text, and all accuracies.

    Candidates are `N0_FACTORS` times the plug-in value; of equals the smallest is chosen.  Features
    ``(N, D)`` and next tokens ``(N,)`` are from `eenotes.language.evaluation.collect`.
    """
    candidates = [factor * found.plug_in_n0() for factor in N0_FACTORS]
    options = {"unseen": unseen, "whiten": whiten}
    heads = ((n0, class_mean_head(found, n0=n0, **options)) for n0 in candidates)
    return _best(heads, features, labels)


def choose_mixture(
    first: Linear, other: Linear, features: Tensor, labels: Tensor
) -> tuple[float, dict[float, float]]:
    """The share α in `ALPHAS` of the ``first`` head whose mixture (6.18) names most tokens.

    Features ``(N, D)``, labels ``(N,)`` and what is returned are as in `choose_n0`.
    """
    heads = ((alpha, mix(first, other, alpha=alpha)) for alpha in ALPHAS)
    return _best(heads, features, labels)


def _best(
    heads: Iterable[tuple[float, Linear]], features: Tensor, labels: Tensor
) -> tuple[float, dict[float, float]]:
    """The value with the most accurate head, the first of equals, and all accuracies."""
    scores = {value: accuracy(features, labels, head) for value, head in heads}
    return max(scores, key=scores.get), scores
