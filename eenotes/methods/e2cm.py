"""E²CM: early exit by class means (Görmez, Dasari and Koyuncu, 2022).

No gradient and no added layer.  One pass over the training set gives the class means $M_{j,k}$ of
every stage's output; a sample exits at the first stage where it is close enough to one of them.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from eenotes._checks import (
    as_input,
    entering,
    pairs_on,
    require_eval,
    require_one_of,
    require_range,
)
from eenotes._layout import check_batch_first
from eenotes._processes import gathered
from eenotes.class_statistics import ClassMeans, ClassMoments
from eenotes.exits import ClassMeanExit, linear_exits
from eenotes.gaussian import whitened_discriminant
from eenotes.network import EarlyExitNetwork
from eenotes.rules import ClassMeanConfidence

Stages = Sequence[nn.Module]
Batches = Iterable[tuple[Tensor, Tensor]]
Normaliser = Literal["mean", "rms"]


@torch.no_grad()
def fit(
    stages: Stages, batches: Batches, *, num_classes: int, normaliser: Normaliser = "mean"
) -> EarlyExitNetwork:
    r"""Put a class-mean exit after every stage but the last; the stages stay as they are.

    They are in evaluation mode.  Batches ``(x, y)`` over the whole training set are iterable more
    than once.  The distances in the confidence are divided by the normaliser $\mu_{j,k}$ (2.4).
    ``"mean"``, the paper's: the mean distance of **all** training samples to $M_{j,k}$, from a
    second pass; ``"rms"``: its root mean square, which the first pass already gives.

    Raises:
        ValueError: stages in training mode, no batches, a class without samples, labels out of
            range, features that are not finite, inputs that the stages do not take.
        TypeError: batches that are no pairs of tensors, labels that are no whole numbers.
    """
    require_one_of(get_args(Normaliser), normaliser=normaliser)
    early = _checked(stages, before="fit")[:-1]
    means = [ClassMeans(num_classes) for _ in early]
    count = 0
    for x, y in pairs_on(early, batches):
        if not count and len(x):
            with entering(x, early):
                check_batch_first(early, x)
        count += len(y)
        for stage, mean in zip(early, means, strict=True):
            x = stage(x)
            mean.update(x, y)
    if normaliser == "rms":
        distances = [mean.root_mean_square_distance() for mean in means]
    else:
        exits = [ClassMeanExit(mean.compute()) for mean in means]
        distances = _mean_distances(early, exits, batches, count=sum(gathered(count)))
    for j, distance in enumerate(distances):
        if not distance.all():
            what = f"the features of stage {j} are the same for every sample, to float32's digits"
            raise ValueError(f"{what}: an exit there cannot tell classes apart, so cut elsewhere")
    pairs = zip(means, distances, strict=True)
    return _network(stages, [ClassMeanExit(mean.compute(), distance) for mean, distance in pairs])


@torch.no_grad()
def fit_whitened(
    stages: Stages, batches: Batches, *, num_classes: int, grid: int = 4, shrinkage: float = 0.01
) -> EarlyExitNetwork:
    r"""Exits from class means of **whitened** features, in one pass and without a gradient.

    Beyond the paper.  With $\Sigma_j$ the covariance of stage j's features within the classes, the
    distance is $d_{j,k}^2(x) = (x - M_{j,k})^{\mathsf T} \Sigma_j^{-1} (x - M_{j,k})$ (2.7).  What
    all classes share cancels, and a linear exit is left: the discriminant of (6.14).  Its softmax
    is a posterior, if the features of a class are Gaussian and the classes equally likely, so the
    plain `eenotes.Confidence` is its rule.

    Feature maps are averaged to grid × grid cells first; memory: one D × D array in double
    precision per exit, with D = C·grid².  ``shrinkage`` is λ of
    `eenotes.class_statistics.Moments.shrunk`.

    Raises:
        ValueError: another shrinkage, features that do not vary within the classes, or as `fit`.
    """
    require_range(0, 1, ends="(]", shrinkage=shrinkage)
    stages, exits, sample = _checked(stages, before="fit_whitened"), None, None
    moments = [ClassMoments(num_classes) for _ in stages[:-1]]
    for x, y in pairs_on(stages, batches):
        if exits is None:
            sample = x[:1]
            with entering(x, stages):
                exits = linear_exits(stages, sample, num_classes=num_classes, grid=grid)
        for stage, head, moment in zip(stages, exits, moments, strict=False):
            x = stage(x)
            moment.update(head.pooled(x), y)
    samples = [x for x in gathered(sample if sample is None else sample.cpu()) if x is not None]
    if not samples:
        raise ValueError("the loader gave no batch: there is nothing to average")
    if exits is None:  # in a process without samples
        sample = as_input(samples[0], stages)
        exits = linear_exits(stages, sample, num_classes=num_classes, grid=grid)
    for head, moment in zip(exits, moments, strict=True):
        weight, bias = whitened_discriminant(moment.compute(), shrinkage=shrinkage)
        # large weights nearly cancel: half precision would not keep the difference
        head.to(torch.promote_types(head.linear.weight.dtype, torch.float32))
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
    return _network(stages, exits)


def rule(net: EarlyExitNetwork, thresholds: float | Sequence[float] = 1.0) -> ClassMeanConfidence:
    r"""The E²CM rule (2.5): exit where $\max_k \mathrm{softmax}_k(-d_{j,k} / \mu_{j,k}) > T_j$.

    The network is from `fit` or `combine`; logits of trained exits are taken as they are.
    """
    normaliser = tuple(getattr(head, "mean_distance", None) for head in net.exits)
    return ClassMeanConfidence(thresholds, normaliser)


def combine(class_means: EarlyExitNetwork, trained: EarlyExitNetwork) -> EarlyExitNetwork:
    """E²CM + SDN: a sample exits after a stage when either of its two exits lets it leave.

    The class-mean exit comes first; the trained one decides about the samples that stay.

    Raises:
        ValueError: the two networks do not share their stages.
    """
    pairs = zip(class_means.stages, trained.stages, strict=False)
    if class_means.num_exits != trained.num_exits or any(a is not b for a, b in pairs):
        raise ValueError("combine needs two networks over the same stages, those of one split()")
    stages = [part for stage in trained.stages[:-1] for part in (stage, nn.Identity())]
    exits = [head for pair in zip(class_means.exits, trained.exits, strict=True) for head in pair]
    return EarlyExitNetwork([*stages, trained.stages[-1]], exits).eval()


def _checked(stages: Stages, *, before: str) -> nn.ModuleList:
    """The stages, all of them in evaluation mode."""
    stages = nn.ModuleList(stages)
    parts = [part for stage in stages for part in stage.modules()]
    require_eval(parts, what="network", before=f"{before}, or the statistics would move")
    return stages


def _network(stages: Stages, exits: Iterable[nn.Module]) -> EarlyExitNetwork:
    net = EarlyExitNetwork(stages, exits)
    return net.to(next((p.device for p in net.stages.parameters()), "cpu")).eval()


def _mean_distances(
    stages: Stages, exits: Sequence[ClassMeanExit], batches: Batches, *, count: int
) -> list[Tensor]:
    """The mean distance of all samples to every class mean (2.4), ``(K,)`` for each exit."""
    totals = [torch.zeros(len(head.means), dtype=torch.float64) for head in exits]
    again = 0
    for x, y in pairs_on(stages, batches):
        again += len(y)
        for stage, head, total in zip(stages, exits, totals, strict=True):
            x = stage(x)
            total -= head(x).cpu().double().sum(0)
    parts = gathered((again, totals))
    again = sum(samples for samples, _ in parts)
    if again != count:
        counts = f"{count} samples in the first pass, {again} in the second"
        raise ValueError(f"{counts}: give a loader or a list, no iterator")
    return [sum(of_all) / count for of_all in zip(*(own for _, own in parts), strict=True)]
