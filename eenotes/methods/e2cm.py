"""E²CM: early exit by class means (Görmez, Dasari and Koyuncu, 2022).

No gradient and no added layer.  One pass over the training set gives the class means $M_{j,k}$ of
every stage's output; a sample exits at the first stage where it is close enough to one of them.
Beyond the paper, `fit_whitened` measures distance in units of the spread within the classes.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from eenotes._checks import as_input, explained, pair, require_eval
from eenotes._layout import check_batch_first
from eenotes._processes import gathered
from eenotes.class_statistics import ClassMeans, ClassMoments
from eenotes.exits import ClassMeanExit, linear_exits
from eenotes.gaussian import whitened_discriminant
from eenotes.network import EarlyExitNetwork
from eenotes.rules import ClassMeanConfidence

_NO_BATCH = "the loader gave no batch: there is nothing to average"


@torch.no_grad()
def fit(
    stages: Sequence[nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    normaliser: Literal["mean", "rms"] = "mean",
) -> EarlyExitNetwork:
    r"""Put a class-mean exit after every stage but the last; the stages stay as they are.

    Args:
        stages: from `eenotes.split`, in evaluation mode.
        batches: ``(x, y)`` over the whole training set, iterable more than once.
        num_classes: K.
        normaliser: $\mu_{j,k}$ (2.4), which divides the distances in the confidence.  ``"mean"``,
            the paper's: the mean distance of **all** training samples to $M_{j,k}$, from a second
            pass; ``"rms"``: its root mean square, which the first pass already gives.

    Raises:
        ValueError: stages in training mode, no batches, a class without samples, labels out of
            range, features that are not finite, inputs that the stages do not take.
        TypeError: batches that are no pairs of tensors, labels that are no whole numbers.
    """
    if normaliser not in ("mean", "rms"):
        raise ValueError(f"normaliser={normaliser!r} must be 'mean' or 'rms'")
    device = _device_of(stages, before="fit")
    early = nn.ModuleList(list(stages)[:-1])
    means = [ClassMeans(num_classes).to(device) for _ in early]
    count = 0
    for x, y in _on(early, batches, device):
        if not count and len(x):
            with explained(x, early):
                check_batch_first(early, x)
        count += len(y)
        for stage, mean in zip(early, means, strict=True):
            x = stage(x)
            mean.update(x, y)
    count = sum(gathered(count))
    if not count:
        raise ValueError(_NO_BATCH)
    if normaliser == "rms":
        distances = [mean.root_mean_square_distance() for mean in means]
    else:
        exits = [ClassMeanExit(mean.compute()) for mean in means]
        distances = _mean_distances(early, exits, batches, count=count, device=device)
    exits = [
        ClassMeanExit(mean.compute(), distance)
        for mean, distance in zip(means, distances, strict=True)
    ]
    return EarlyExitNetwork(stages, exits).to(device).eval()


@torch.no_grad()
def fit_whitened(
    stages: Sequence[nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_classes: int,
    grid: int = 4,
    shrinkage: float = 0.01,
) -> EarlyExitNetwork:
    r"""Exits from class means of **whitened** features, in one pass and without a gradient.

    With $\Sigma_j$ the covariance of stage j's features within the classes, the distance is
    $d_{j,k}^2(x) = (x - M_{j,k})^{\mathsf T} \Sigma_j^{-1} (x - M_{j,k})$ (2.8).  What all classes
    share cancels, and a linear exit is left: the discriminant of (6.14).  Its softmax is a
    posterior, if the features of a class are Gaussian and the classes equally likely, so the plain
    `eenotes.Confidence` is its rule.

    Args:
        stages: from `eenotes.split`, in evaluation mode; they stay as they are.
        batches: ``(x, y)`` over the whole training set; one pass.
        num_classes: K.
        grid: average feature maps to grid × grid cells first.  Memory: one D × D array in double
            precision per exit, with D = C·grid².
        shrinkage: λ in (0, 1], see `eenotes.class_statistics.Moments.shrunk`.

    Raises:
        ValueError: another shrinkage, features that do not vary within the classes, or as `fit`.
    """
    if not 0 < shrinkage <= 1:
        raise ValueError(
            f"shrinkage={shrinkage} must be in (0, 1]: without any, features that never vary "
            "would be divided by zero"
        )
    device = _device_of(stages, before="fit_whitened")
    exits, sample = None, None
    moments = [ClassMoments(num_classes) for _ in list(stages)[:-1]]
    for x, y in _on(nn.ModuleList(stages), batches, device):
        if exits is None:
            sample = x[:1]
            with explained(x, nn.ModuleList(stages)):
                exits = linear_exits(stages, sample, num_classes=num_classes, grid=grid)
        for stage, head, moment in zip(stages, exits, moments, strict=False):
            x = stage(x)
            moment.update(head.pooled(x), y)
    samples = [x for x in gathered(sample if sample is None else sample.cpu()) if x is not None]
    if not samples:
        raise ValueError(_NO_BATCH)
    if exits is None:  # in a process without samples
        exits = linear_exits(stages, samples[0].to(device), num_classes=num_classes, grid=grid)
    for head, moment in zip(exits, moments, strict=True):
        weight, bias = whitened_discriminant(moment.compute(), shrinkage=shrinkage)
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
    return EarlyExitNetwork(stages, exits).to(device).eval()


def rule(net: EarlyExitNetwork, thresholds: float | Sequence[float] = 1.0) -> ClassMeanConfidence:
    r"""The E²CM rule (2.5): exit where $\max_k \mathrm{softmax}_k(-d_{j,k} / \mu_{j,k}) > T_j$.

    The network is from `fit` or `combine`; logits of trained exits in between are taken as they
    are.
    """
    normaliser = tuple(
        head.mean_distance if isinstance(head, ClassMeanExit) else None for head in net.exits
    )
    return ClassMeanConfidence(thresholds, normaliser)


def combine(class_means: EarlyExitNetwork, trained: EarlyExitNetwork) -> EarlyExitNetwork:
    """E²CM + SDN: a sample exits after a stage when either of its two exits lets it go.

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


def _device_of(stages: Sequence[nn.Module], *, before: str) -> torch.device:
    """The device of stages that are all in evaluation mode."""
    parts = [part for stage in stages for part in stage.modules()]
    require_eval(parts, what="network", before=f"{before}, or the statistics would move")
    return next((p.device for stage in stages for p in stage.parameters()), torch.device("cpu"))


def _on(
    stages: nn.ModuleList, batches: Iterable, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    """Pairs of inputs and labels where the stages are, and in their precision."""
    for batch in batches:
        x, y = pair(batch)
        yield as_input(x.to(device), stages), y.to(device)


def _mean_distances(
    stages: nn.ModuleList,
    exits: Sequence[ClassMeanExit],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    count: int,
    device: torch.device,
) -> list[Tensor]:
    """The mean distance of all samples to every class mean (2.4), ``(K,)`` for each exit."""
    totals = [torch.zeros(len(head.means), dtype=torch.float64) for head in exits]
    again = 0
    for x, y in _on(stages, batches, device):
        again += len(y)
        for stage, head, total in zip(stages, exits, totals, strict=True):
            x = stage(x)
            total -= head(x).cpu().double().sum(0)
    parts = gathered((again, totals))
    again = sum(samples for samples, _ in parts)
    if again != count:
        raise ValueError(
            f"the first pass over the batches gave {count} samples, the second {again}: "
            "give a loader or a list, no iterator"
        )
    return [sum(of_all) / count for of_all in zip(*(own for _, own in parts), strict=True)]
