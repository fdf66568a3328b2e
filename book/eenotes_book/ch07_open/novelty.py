"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes.class_statistics import ClassMeans
from eenotes.costs import count_macs
from eenotes.exits import ClassMeanExit, pool
from eenotes.inference import collect, first_exit, simulate
from eenotes_book.ch07_open.compact import rule_for_budget
from eenotes_book.ch07_open.networks import Bench, bench, device_of, features, last_features
from eenotes_book.data import vision

MEASURES = ("softmax", "E²CM confidence", "distance", "whitened distance")


def auroc(unknown: Tensor, known: Tensor) -> float:
    """The probability that a random unknown sample gets a higher score than a random known one;
    ties count half (7.2).

    Args:
        unknown: ``(M,)`` scores of novelty.
        known: ``(N,)`` scores.

    Raises:
        ValueError: no sample on one side, scores of more than one dimension, or NaN.
    """
    if unknown.ndim != 1 or known.ndim != 1 or not len(unknown) or not len(known):
        raise ValueError(
            f"need one score per sample and at least one sample each, got {tuple(unknown.shape)} and {tuple(known.shape)}"
        )
    if unknown.isnan().any() or known.isnan().any():
        raise ValueError("a score is NaN: it can be neither higher nor lower than another")
    order = known.sort().values
    below, up_to = (
        torch.searchsorted(order, unknown.to(order), right=right).double()
        for right in (False, True)
    )
    return ((below + up_to) / 2).mean().item() / len(known)


def hold_out(data: vision.Vision, unknown: Sequence[int]) -> tuple[vision.Vision, TensorDataset]:
    """A data set without some classes, the others numbered anew from 0; and the test images of the
    classes left out.

    Raises:
        ValueError: a class that does not exist, or fewer than two that stay.
    """
    unknown = sorted(set(unknown))
    known = [k for k in range(len(data.classes)) if k not in unknown]
    if not unknown or unknown[0] < 0 or unknown[-1] >= len(data.classes) or len(known) < 2:
        raise ValueError(
            f"unknown={unknown} must be classes in 0..{len(data.classes) - 1}, and two at least must stay known"
        )
    number = torch.full((len(data.classes),), -1)
    number[known] = torch.arange(len(known))

    def part(split: TensorDataset) -> TensorDataset:
        x, y = split.tensors
        keep = number[y] >= 0
        return TensorDataset(x[keep], number[y[keep]])

    x, y = data.test.tensors
    strangers = number[y] < 0
    names = tuple(data.classes[k] for k in known)
    smaller = replace(
        data, train=part(data.train), val=part(data.val), test=part(data.test), classes=names
    )
    return smaller, TensorDataset(x[strangers], y[strangers])


@dataclass
class Novelty:
    """Four scores of how new an image looks, at every early exit of one network, the distance (7.1)
    among them; higher is newer.
    """

    b: Bench

    @cached_property
    def whitened(self) -> list[tuple[Tensor, ClassMeanExit]]:
        """Per early exit a whitening matrix ``(C, C)`` and class means of the whitened channel
        averages.
        """
        return [whiten(pool(x), self._train[1]) for x in self._train[0]]

    @cached_property
    def _train(self) -> tuple[list[Tensor], Tensor]:
        x, y = self.b.data.train.tensors
        return features(self.b.net, x), y.to(device_of(self.b.net))

    @torch.no_grad()
    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """Measure → ``(J-1, N)`` for images ``(N, C, H, W)``."""
        seen, means = features(self.b.net, x), self.b.class_means
        softmax = [
            1 - head(f).softmax(1).amax(1) for f, head in zip(seen, self.b.net.exits, strict=True)
        ]
        scaled = [head(f) / head.mean_distance for f, head in zip(seen, means.exits, strict=True)]
        white = [
            -head(pool(f) @ matrix).amax(1)
            for f, (matrix, head) in zip(seen, self.whitened, strict=True)
        ]
        rows = (
            softmax,
            [1 - z.softmax(1).amax(1) for z in scaled],
            [-z.amax(1) for z in scaled],
            white,
        )
        return {name: torch.stack(values) for name, values in zip(MEASURES, rows, strict=True)}


def whiten(x: Tensor, labels: Tensor) -> tuple[Tensor, ClassMeanExit]:
    r"""Make the spread within the classes a unit sphere: a matrix $A$ ``(C, C)`` and class means of
    $xA$, for features ``(N, C)``.

    $A A^{\mathsf T}$ is the inverse of the pooled covariance within the classes, plus a thousandth
    of its mean variance in every direction.  The distance to a class mean is then the Mahalanobis
    distance (Lee et al., 2018).

    Raises:
        ValueError: as many classes as samples, or more: there is no spread to measure.
    """
    means = ClassMeans(int(labels.max()) + 1).to(x.device)
    means.update(x, labels)
    classes, left = means.compute(), x - means.compute()[labels]
    if len(x) <= len(classes):
        raise ValueError(
            f"{len(x)} samples of {len(classes)} classes leave no spread within the classes: give more samples"
        )
    covariance = left.double().T @ left.double() / (len(x) - len(classes))
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    matrix = torch.linalg.cholesky(torch.linalg.inv(covariance)).to(x)
    return matrix, ClassMeanExit(classes @ matrix)


def novelty_run(data: vision.Vision, s: SimpleNamespace, *, seed: int) -> dict:
    """Leave some classes out, train on the rest, and ask at every exit which test images are of the
    classes left out.

    Returns:
        ``auroc``: measure → one number per early exit; ``final``: that of the last exit's softmax;
        ``gate``: what rejecting at the exits does under a budget, see `gate`.
    """
    unknown = torch.randperm(len(data.classes), generator=torch.Generator().manual_seed(seed))[
        : s.novelty.unknown
    ].tolist()
    known, strangers = hold_out(data, unknown)
    n = Novelty(bench(known, s, seed=seed))
    inside, outside = (n.scores(part.tensors[0]) for part in (known.test, strangers))
    last = [
        1 - last_features(n.b.net, part.tensors[0]).softmax(1).amax(1)
        for part in (strangers, known.test)
    ]
    found = {
        name: [auroc(o, i) for o, i in zip(outside[name], inside[name], strict=True)]
        for name in MEASURES
    }
    gates = {
        name: gate(n, strangers, name, keep=s.novelty.keep, budget=s.budget)
        for name in ("softmax", "distance")
    }
    return {
        "seed": seed,
        "unknown": [data.classes[k] for k in sorted(unknown)],
        "auroc": found,
        "final": auroc(*last),
        "gate": gates,
    }


def gate(
    n: Novelty, strangers: TensorDataset, measure: str, *, keep: float, budget: float
) -> dict[str, float]:
    """An E²CM cascade that may also say "none of these": at each early exit an image is rejected if
    its score is too high.

    The limit of an exit lets the share ``keep`` of the validation images pass; thresholds for
    leaving are chosen on validation for the budget, without the gate.

    Returns:
        Of known test images the ``accuracy`` (a refused one is wrong) and the share ``refused``, of
        unknown ones the share ``rejected``;
        mean relative costs ``known`` and ``unknown``; and ``accuracy_open``, ``known_open``,
        ``unknown_open``, without a gate.
    """
    net, costs = (
        n.b.class_means,
        count_macs(n.b.class_means, n.b.data.test.tensors[0][:1].to(device_of(n.b.net))),
    )
    rule = rule_for_budget(net, n.b.data, budget=budget)
    limits = n.scores(n.b.data.val.tensors[0])[measure].double().quantile(keep, dim=1, keepdim=True)
    told = {}
    for name, split in (("known", n.b.data.test), ("unknown", strangers)):
        logits, labels = collect(net, vision.batches(split))
        outcome = simulate(logits, rule)
        first = first_exit(n.scores(split.tensors[0])[measure] > limits)
        stopped = (first <= outcome.exit_index) & (first < len(logits) - 1)
        at = torch.where(stopped, first, outcome.exit_index)
        told[name] = (
            stopped,
            costs.relative_cost(at).mean().item(),
            costs.relative_cost(outcome.exit_index).mean().item(),
        )
        if name == "known":
            right = outcome.prediction == labels
            plain, accuracy = (
                right.double().mean().item(),
                (right & ~stopped).double().mean().item(),
            )
    (refused, known, known_open), (rejected, unknown, unknown_open) = told["known"], told["unknown"]
    shares = {
        "refused": refused.double().mean().item(),
        "rejected": rejected.double().mean().item(),
    }
    costs = {
        "known": known,
        "known_open": known_open,
        "unknown": unknown,
        "unknown_open": unknown_open,
    }
    return {"accuracy": accuracy, "accuracy_open": plain, **shares, **costs}
