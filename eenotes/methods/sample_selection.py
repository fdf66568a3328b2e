"""Selection of training samples by their scores, with or without a quota for each class."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from eenotes._checks import require_range


class SelectionWarning(UserWarning):
    """Fewer samples can be dropped than the ratio asks for."""


@dataclass(frozen=True)
class Scores:
    """A method's value for every sample of a data set, in the data set's order.

    Raises:
        ValueError: not one value per label, no sample, NaN, or labels not whole numbers from 0.
    """

    method: str
    values: Tensor  #: ``(N,)``, float64; the lowest are dropped first, and those with ``inf`` never
    labels: Tensor  #: ``(N,)``, int64
    samples_seen: int = 0  #: how often a network was shown a sample to find the values
    seconds: float = 0.0  #: what that took

    def __post_init__(self):
        if self.values.ndim != 1 or self.values.shape != self.labels.shape or not len(self.values):
            shapes = f"{tuple(self.values.shape)} values and {tuple(self.labels.shape)} labels"
            raise ValueError(f"need one value per label, got {shapes}")
        if self.values.isnan().any():
            count = int(self.values.isnan().sum())
            raise ValueError(f"{count} of {len(self.values)} values of {self.method} are NaN")
        if self.labels.is_floating_point() or self.labels.min() < 0:
            raise ValueError(f"labels must be whole numbers from 0, got {self.labels}")


@dataclass(frozen=True)
class Selection:
    """Rows of a data set to keep and to drop, ascending; ``wanted`` is how many were to go."""

    keep: Tensor
    drop: Tensor
    wanted: int


def select(scores: Scores, ratio: float, balanced: bool = False, *, seed: int = 0) -> Selection:
    """Drop the share ``ratio``, in [0, 1), of the samples that has the lowest scores.

    ``balanced`` drops the same share of every class, as nearly as whole samples allow.  Equal
    scores come in a random order, drawn from ``seed``, which favours no class.

    Raises:
        ValueError: a ratio that leaves nothing of so few samples, or outside [0, 1).

    Warns:
        SelectionWarning: if fewer samples could be dropped; those that can are.
    """
    require_range(0, 1, ends="[)", ratio=ratio)
    count = len(scores.values)
    wanted = round(ratio * count)
    if wanted == count:
        raise ValueError(f"ratio={ratio} of {count} samples would leave none")
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    order = shuffled[scores.values[shuffled].sort(stable=True).indices]
    droppable = order[scores.values[order] < math.inf]
    labels = scores.labels if balanced else torch.zeros_like(scores.labels)
    quotas = enumerate(_quotas(labels, wanted).tolist())
    drop = torch.cat([droppable[labels[droppable] == k][:quota] for k, quota in quotas])
    if len(drop) < wanted:
        what = f"{wanted} of {count} samples were to be dropped ({ratio:.0%}"
        what += ", per class)" if balanced else ")"
        message = f"{scores.method}: {what}, but only {len(drop)} qualify; those are dropped"
        warnings.warn(message, SelectionWarning, stacklevel=2)
    return split_rows(drop, count, wanted=wanted)


def _quotas(labels: Tensor, wanted: int) -> Tensor:
    """How many of ``wanted`` samples each class gives; the largest remainders are rounded up."""
    exact = labels.cpu().bincount().double() * wanted / len(labels)
    quotas = exact.floor().long()
    by_remainder = (exact - quotas).sort(descending=True, stable=True).indices
    quotas[by_remainder[: wanted - int(quotas.sum())]] += 1
    return quotas


def split_rows(drop: Tensor, count: int, *, wanted: int | None = None) -> Selection:
    """The rows to drop, numbers ``(n,)`` below ``count``, as a `Selection`."""
    kept = torch.ones(count, dtype=torch.bool).index_fill(0, drop, False)
    wanted = len(drop) if wanted is None else wanted
    return Selection(kept.nonzero().squeeze(1), (~kept).nonzero().squeeze(1), wanted)
