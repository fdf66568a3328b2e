r"""Class-aware initialisation of early exits in language models (Görmez and Koyuncu; Görmez's
thesis, 2024).

An exit after some decoder sees a hidden vector and has to name the next token: a detector in a
noisy channel with one message per token of the vocabulary.  Its weights follow from class means and
token counts, without a gradient: `eenotes.detection.map_detector`. Works on any causal language
model of `transformers` that keeps its decoders in one list; nothing here imports `transformers`
itself. Equation numbers are those of chapter 6.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eenotes.class_statistics import ClassMeans
from eenotes.gaussian import linear_discriminant, map_detector
from eenotes.language.exits import IGNORED, ExitModel, Linear, anatomy, check_ids, load

INITIALISATIONS = ("random", "copy", "class mean", "class mean + random", "class mean + copy")


@torch.no_grad()
def statistics(
    model: ExitModel,
    batches: Iterable[Tensor],
    *,
    target: Literal["next", "input"] = "next",
    covariance: bool = False,
) -> "Statistics":
    r"""Class means of the exit's features in one pass (6.15):

    $M_v = \frac{1}{|S_v|}\sum_{i \in S_v} r_i$.

    Memory: one V × D array, V counts and one number, however long the text (and D × D with
    ``covariance``).

    Args:
        model: from `attach`, in evaluation mode.
        batches: token numbers ``(B, T)``, from any iterator; or pairs of them and labels ``(B, T)``
            in the manner of transformers, where -100 marks positions to leave out.  Positions
            belong to the same text only within a row.
        target: whose class a position belongs to: the token that comes ``"next"``, which is what
            the exit shall detect, or the one that was put in.
        covariance: also add up the products of the features, for `class_mean_head` with
            ``whiten=True``.

    Raises:
        ValueError: an empty corpus, token numbers that the head does not know, another ``target``,
            a model in training mode.
    """
    if target not in ("next", "input"):
        raise ValueError(f"target={target!r} must be 'next' or 'input'")
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model is in training mode: call eval(), or dropout would be averaged into the class means"
        )
    head = model.exit_head.linear
    found = Statistics(
        ClassMeans(head.out_features).to(head.weight.device),
        torch.zeros(head.in_features, head.in_features).double(),
    )
    for batch in batches:
        ids, labels = batch if isinstance(batch, tuple | list) else (batch, batch)
        check_ids(ids, head.out_features)
        ids, labels = ids.to(head.weight.device), labels.to(head.weight.device)
        features, labels = align(model.features(ids), labels, target)
        if len(labels):
            found.means.update(features, labels)
            if covariance:
                found.products.add_((features.float().T @ features.float()).cpu())
    return found.summed()


@dataclass
class Statistics:
    """What one pass over a text has added up, summed over the processes of ``torch.distributed``.

    Attributes:
        means: the shared part of the package, with V classes; unseen tokens allowed.
        products: ``(D, D)``, sum of $r r^T$; zeros unless it was asked for.
    """

    means: ClassMeans
    products: Tensor

    @property
    def counts(self) -> Tensor:
        """``(V,)``: how often each token was the class of a position."""
        return self.means.counts

    @property
    def seen(self) -> Tensor:
        """``(V,)``: whether it occurred at all."""
        return self.counts > 0

    @property
    def class_means(self) -> Tensor:
        """``(V, D)``; zeros for tokens that were never seen."""
        return self.means.sums / self.counts.clamp_min(1)[:, None]

    def prior(self, *, smoothing: float = 0.5) -> Tensor:
        r"""``(V,)``, in double precision:

        $P_v = (n_v + \lambda) / (n + \lambda V)$ (6.16); above 0 for unseen tokens, too.

        Raises:
            ValueError: a ``smoothing`` that is not positive.
        """
        if not smoothing > 0:
            raise ValueError(
                f"smoothing must be positive, got {smoothing}: a token of probability 0 could never be decided"
            )
        counts = self.counts.double() + smoothing
        return counts / counts.sum()

    def plug_in_n0(self) -> float:
        r"""$\hat N_0 = 2\hat\sigma^2$ (6.17), the pooled variance within the classes, per
        dimension.

        $\hat\sigma^2 = \bigl(\sum_i \lVert r_i\rVert^2 - \sum_v n_v \lVert M_v\rVert^2\bigr) /
        \bigl((n - V_{\text{seen}}) D\bigr)$.

        Raises:
            ValueError: if no token occurs twice: there is no variance within a class then.
        """
        return 2 * self._within() / self.means.sums.shape[1]

    def within_covariance(self) -> Tensor:
        """``(D, D)``, pooled within the classes, in double precision; its mean eigenvalue is half
        of `plug_in_n0`.

        Raises:
            ValueError: if `statistics` was not asked for it.
        """
        if not self.products.any():
            raise ValueError(
                "the products were not added up: call statistics(..., covariance=True)"
            )
        self._within()  # raises if undefined
        means = self.class_means.double().cpu()
        between = (means * self.counts.cpu()[:, None]).T @ means
        return (self.products - between) / (self.counts.sum() - self.seen.sum()).item()

    def summed(self) -> "Statistics":
        """Add up over all processes; alone, nothing happens.

        Raises:
            ValueError: if nothing was seen at all.
        """
        if int(self.counts.sum()) == 0:
            raise ValueError(
                "no position to learn from: the corpus (in this process) is empty, or every label is ignored"
            )
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.means.sync()
            device = self.means.device  # gloo sums on the CPU, nccl on the GPU
            products = self.products.to(device)
            torch.distributed.all_reduce(products)
            self.products = products.cpu()
        return self

    def _within(self) -> float:
        counts, degrees = self.counts.double(), int(self.counts.sum() - self.seen.sum())
        if degrees < 1:
            raise ValueError(
                "no token occurs twice: the noise cannot be estimated; give more text, or n0 yourself"
            )
        explained = (counts * self.class_means.double().square().sum(1)).sum()
        return max(float(self.means.squares - explained) / degrees, 1e-12)


def class_mean_head(
    found: Statistics,
    *,
    n0: float | None = None,
    smoothing: float = 0.5,
    scale: bool = False,
    unseen: Tensor | None = None,
    whiten: bool = False,
) -> Linear:
    r"""Weight and bias of an exit from class means: the MAP detector (6.9) with the tokens as
    messages.

    $w_v = M_v$, $b_v = \frac{N_0}{2}\ln P_v - \frac12\lVert M_v\rVert^2$.

    Args:
        found: from `statistics`.
        n0: $N_0$; ``None``: `Statistics.plug_in_n0`.
        smoothing: of the prior.
        scale: multiply both by $2/N_0$ (6.10).  The decision stays; the logits become log
            posteriors, as a cross-entropy wants them.
        unseen: ``(V, D)``, weights for tokens that never occurred, usually the copied head's, whose
            logits are log probabilities up to a constant; without ``scale`` they are multiplied by
            $N_0/2$ like everything else, so that the decision stays.  Their bias keeps the smoothed
            prior's part.  ``None``: weight 0.
        whiten: use the covariance within the classes instead of $\frac{N_0}{2} I$ (6.14): linear
            discriminant analysis.  It is multiplied so that its mean eigenvalue is $N_0/2$, and the
            logits are log posteriors, whatever ``scale``.

    Raises:
        ValueError: ``n0`` or ``smoothing`` not positive; ``unseen`` of another shape.
    """
    means, prior = found.class_means, found.prior(smoothing=smoothing)
    if unseen is not None and unseen.shape != means.shape:
        raise ValueError(
            f"unseen must have the shape of the class means, {tuple(means.shape)}, got {tuple(unseen.shape)}"
        )
    n0 = found.plug_in_n0() if n0 is None else n0
    if not (n0 > 0 and math.isfinite(n0)):
        raise ValueError(
            f"n0 must be a positive number, twice the noise variance per dimension, got {n0}"
        )
    if whiten:
        covariance = found.within_covariance() * n0 / found.plug_in_n0()
        covariance += (
            1e-4 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
        )
        weight, bias = linear_discriminant(means.double().cpu(), covariance, prior=prior.cpu())
        weight, bias, floor = weight.to(means), bias.to(means), prior.log()
    else:
        weight, bias = map_detector(means, n0=n0, prior=prior)
        if scale:
            weight, bias = 2 / n0 * weight, 2 / n0 * bias
        unit = 1 if scale else n0 / 2
        floor, unseen = unit * prior.log(), None if unseen is None else unit * unseen
    missing = ~found.seen[:, None]
    if unseen is not None:
        weight = torch.where(missing, unseen.to(weight), weight)
    return weight, torch.where(missing[:, 0], floor.to(bias), bias)


def copied_head(model: nn.Module) -> Linear:
    """The final head as an exit's weight ``(V, D)`` and bias (0 without one); with OPT-350m's
    projection multiplied into it.
    """
    parts = anatomy(model)
    weight = parts.head.weight.detach()
    bias = (
        torch.zeros(len(weight)).to(weight)
        if parts.head.bias is None
        else parts.head.bias.detach().clone()
    )
    if parts.projection is None:
        return weight.clone(), bias
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
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if first[0].shape != other[0].shape:
        raise ValueError(
            f"the heads differ in shape: {tuple(first[0].shape)} and {tuple(other[0].shape)}"
        )
    return tuple(alpha * a + (1 - alpha) * b.to(a) for a, b in zip(first, other, strict=True))


def initialise(
    model: ExitModel,
    how: str,
    *,
    found: Statistics | None = None,
    alpha: float = 0.5,
    n0: float | None = None,
    scale: bool = False,
    seed: int = 0,
) -> ExitModel:
    r"""Initialise the exit one of five ways (`INITIALISATIONS`), in place.

    Args:
        model: from `attach`.
        how: ``"random"``, ``"copy"``, ``"class mean"``, ``"class mean + random"`` or ``"class mean
            + copy"``.
        found: from `statistics`, for those with class means.  Tokens it has not seen get the copied
            head's weight.
        alpha: share of the class means in a mixture.
        n0: as in `class_mean_head`.
        scale: as in `class_mean_head`.
        seed: of the random weights.

    Raises:
        ValueError: another word, missing statistics, or what the parts raise.
    """
    if how not in INITIALISATIONS:
        raise ValueError(f"how={how!r} must be one of {', '.join(INITIALISATIONS)}")
    if "class mean" in how and found is None:
        raise ValueError(f"{how!r} needs found=statistics(...)")
    copied = copied_head(model.model)
    other = random_head(model.model, seed=seed) if "random" in how else copied
    if "class mean" not in how:
        return load(model, other)
    head = class_mean_head(found, n0=n0, scale=scale, unseen=copied[0])
    return load(model, head if how == "class mean" else mix(head, other, alpha=alpha))


def choose(
    candidates: Iterable[float], score: Callable[[float], float]
) -> tuple[float, dict[float, float]]:
    """The candidate with the highest score, the first of equals, and all scores: for $N_0$ and α on
    a validation split.

    Raises:
        ValueError: no candidate.
    """
    scores = {value: score(value) for value in candidates}
    if not scores:
        raise ValueError("no candidate to choose from")
    return max(scores, key=scores.get), scores


def align(values: Tensor, labels: Tensor, target: str) -> tuple[Tensor, Tensor]:
    """Positions and their classes as one long list, ignored ones left out:

    ``(B, T, D)``, ``(B, T)`` → ``(N, D)``, ``(N,)``.
    """
    if target == "next":
        values, labels = values[:, :-1], labels[:, 1:]
    kept = labels != IGNORED
    return values[kept], labels[kept]
