"""Question 1, an open world: scores of novelty at every exit, and a gate that rejects.

Some classes are left out of training; the test images of these classes are the unknown ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes.class_statistics import ClassMoments
from eenotes.costs import count_macs
from eenotes.exits import ClassMeanExit, pool
from eenotes.inference import collect, first_exit, simulate
from eenotes_book.ch08_open.compact import rule_for_budget
from eenotes_book.ch08_open.networks import (
    TrainedNetwork,
    device_of,
    features,
    last_logits,
    trained,
)
from eenotes_book.ch08_open.settings import Settings
from eenotes_book.data import vision

MEASURES = ("softmax", "E²CM confidence", "distance", "whitened distance")
GATED = ("softmax", "distance")  # the scores that a gate is tried with
_SHRINKAGE = 1e-3  # of the covariance within the classes


def auroc(unknown: Tensor, known: Tensor) -> float:
    """The probability that an unknown sample has a higher score than a known one (8.2).

    Ties count half.

    Args:
        unknown: ``(M,)`` scores of novelty.
        known: ``(N,)`` scores.

    Raises:
        ValueError: no sample on one side, scores of more than one dimension, or NaN.
    """
    if unknown.ndim != 1 or known.ndim != 1 or not len(unknown) or not len(known):
        raise ValueError(
            "need one score per sample and at least one sample each, "
            f"got {tuple(unknown.shape)} and {tuple(known.shape)}"
        )
    if unknown.isnan().any() or known.isnan().any():
        raise ValueError("a score is NaN: it can be neither higher nor lower than another")
    is_unknown = torch.cat([torch.ones(len(unknown)), torch.zeros(len(known))])
    return float(roc_auc_score(is_unknown.numpy(), torch.cat([unknown, known]).cpu().numpy()))


def hold_out(data: vision.Vision, unknown: Sequence[int]) -> tuple[vision.Vision, TensorDataset]:
    """A data set without some classes, and the test images of the classes left out.

    The classes that stay are numbered anew from 0.

    Raises:
        ValueError: a class that does not exist, or fewer than two that stay.
    """
    unknown = sorted(set(unknown))
    known = [k for k in range(len(data.classes)) if k not in unknown]
    if not unknown or unknown[0] < 0 or unknown[-1] >= len(data.classes) or len(known) < 2:
        raise ValueError(
            f"unknown={unknown} must be classes in 0..{len(data.classes) - 1}, "
            "and two at least must stay known"
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
    """Scores of how new an image looks, at every early exit of one network; higher is newer."""

    network: TrainedNetwork

    @cached_property
    def whitened(self) -> list[tuple[Tensor, ClassMeanExit]]:
        """Per early exit the `whiten` of its channel averages."""
        seen = self.network.seen("train")
        return [whiten(pool(x), seen.labels) for x in seen.features]

    @torch.no_grad()
    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """One of `MEASURES` → ``(J-1, N)`` for images ``(N, C, H, W)``; (8.1) is the distance."""
        found: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
        net, means = self.network.net, self.network.class_means
        seen = features(net, x)
        for f, trained_exit, mean_exit, (matrix, white_exit) in zip(
            seen, net.exits, means.exits, self.whitened, strict=True
        ):
            scaled = mean_exit(f) / mean_exit.mean_distance
            found["softmax"].append(1 - trained_exit(f).softmax(1).amax(1))
            found["E²CM confidence"].append(1 - scaled.softmax(1).amax(1))
            found["distance"].append(-scaled.amax(1))
            found["whitened distance"].append(-white_exit(pool(f) @ matrix).amax(1))
        return {name: torch.stack(rows) for name, rows in found.items()}


def whiten(x: Tensor, labels: Tensor) -> tuple[Tensor, ClassMeanExit]:
    r"""Make the spread within the classes a unit sphere, for features ``(N, C)``.

    $A A^{\mathsf T}$ is the inverse of the covariance within the classes, shrunk by a thousandth
    towards its mean variance.  The distance to a class mean of $xA$ is then the Mahalanobis
    distance (Lee et al., 2018).

    Returns:
        The matrix $A$ ``(C, C)``, and an exit with the class means of $xA$.

    Raises:
        ValueError: features that do not vary within the classes.
    """
    moments = ClassMoments(int(labels.max()) + 1)
    moments.update(x, labels)
    found = moments.compute()
    matrix = torch.linalg.cholesky(torch.linalg.inv(found.shrunk(_SHRINKAGE)))
    return matrix.to(x), ClassMeanExit((found.means @ matrix).to(x))


def novelty_run(data: vision.Vision, s: Settings, *, seed: int) -> dict:
    """Leave classes out, train on the rest, and score the test images of both at every exit.

    Returns:
        ``seed``; ``unknown``, the names of the classes left out; ``auroc``: measure → one number
        per early exit; ``final``: that of the last exit's softmax; ``gate``: measure → `gate`.
    """
    generator = torch.Generator().manual_seed(seed)
    unknown = torch.randperm(len(data.classes), generator=generator)[: s.novelty.unknown].tolist()
    known, strangers = hold_out(data, unknown)
    novelty = Novelty(trained(known, s, seed=seed))
    inside, outside = (novelty.scores(part.tensors[0]) for part in (known.test, strangers))
    last = [
        1 - last_logits(novelty.network.net, part.tensors[0]).softmax(1).amax(1)
        for part in (strangers, known.test)
    ]
    return {
        "seed": seed,
        "unknown": [data.classes[k] for k in sorted(unknown)],
        "auroc": {
            name: [auroc(new, old) for new, old in zip(outside[name], inside[name], strict=True)]
            for name in MEASURES
        },
        "final": auroc(*last),
        "gate": {
            name: gate(novelty, strangers, name, keep=s.novelty.keep, budget=s.budget)
            for name in GATED
        },
    }


def gate(
    novelty: Novelty, strangers: TensorDataset, measure: str, *, keep: float, budget: float
) -> dict[str, float]:
    """An E²CM cascade that may also say "none of these", at each early exit.

    Args:
        novelty: the network and its scores.
        strangers: images of unknown classes.
        measure: an image whose score is too high is rejected.
        keep: the share of the validation images that the limit of each exit lets pass.
        budget: the thresholds for exiting keep it on validation, without the gate.

    Returns:
        ``accuracy`` on known test images (a refused one is wrong), the share of them that is
        ``refused``, the share of the unknown ones that is ``rejected``; mean relative costs
        ``known`` and ``unknown``; and ``accuracy_open``, ``known_open``, ``unknown_open``, without
        a gate.
    """
    data, net = novelty.network.data, novelty.network.class_means
    costs = count_macs(net, data.test.tensors[0][:1].to(device_of(net)))
    rule = rule_for_budget(net, data, budget=budget)
    passing = novelty.scores(data.val.tensors[0])[measure].double()
    limits = passing.quantile(keep, dim=1, keepdim=True)
    found = {}
    for name, split in (("known", data.test), ("unknown", strangers)):
        logits, labels = collect(net, vision.batches(split))
        outcome = simulate(logits, rule)
        rejecting = first_exit(novelty.scores(split.tensors[0])[measure] > limits)
        stopped = (rejecting <= outcome.exit_index) & (rejecting < len(logits) - 1)
        at = torch.where(stopped, rejecting, outcome.exit_index)
        found[name] = costs.relative_cost(at).mean().item()
        found[f"{name}_open"] = costs.under(rule).relative_cost(outcome.exit_index).mean().item()
        found["refused" if name == "known" else "rejected"] = stopped.cpu().double().mean().item()
        if name == "known":
            right = outcome.prediction == labels
            found["accuracy"] = (right & ~stopped).cpu().double().mean().item()
            found["accuracy_open"] = right.cpu().double().mean().item()
    return found
