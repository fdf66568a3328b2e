"""Selection of training samples by their scores, with or without a quota for each class."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


class SelectionWarning(UserWarning):
    """Fewer samples can be dropped than the ratio wants."""


@dataclass(frozen=True)
class Scores:
    """A method's value for every sample of a data set, in the data set's order.

    Raises:
        ValueError: not one value per label, no sample, values that are NaN, or labels that are no
            whole numbers from 0.
    """

    method: str
    values: Tensor  #: ``(N,)``, float64; the lowest are dropped first, and those with ``inf`` never
    labels: Tensor  #: ``(N,)``, int64
    samples_seen: int = 0  #: how often a network was shown a sample to find the values
    seconds: float = 0.0  #: what that took

    def __post_init__(self):
        if self.values.ndim != 1 or self.values.shape != self.labels.shape or not len(self.values):
            raise ValueError(
                f"need one value per label, got {tuple(self.values.shape)} values "
                f"and {tuple(self.labels.shape)} labels"
            )
        if self.values.isnan().any():
            count = int(self.values.isnan().sum())
            raise ValueError(f"{count} of {len(self.values)} values of {self.method} are NaN")
        if self.labels.is_floating_point() or self.labels.min() < 0:
            raise ValueError(
                "labels must be whole numbers from 0, "
                f"got {self.labels.dtype} from {self.labels.min().item()}"
            )


@dataclass(frozen=True)
class Selection:
    """Rows of a data set to keep and to drop, ascending; ``wanted`` is how many were to go."""

    keep: Tensor
    drop: Tensor
    wanted: int


def select(scores: Scores, ratio: float, balanced: bool = False, *, seed: int = 0) -> Selection:
    """Drop the share ``ratio`` of the samples that has the lowest scores.

    Args:
        scores: of the whole data set.
        ratio: in [0, 1).
        balanced: drop the same share of every class, as nearly as whole samples allow.
        seed: equal scores come in a random order, drawn from it, which favours no class.

    Raises:
        ValueError: a ratio that leaves nothing of so few samples, or outside [0, 1).

    Warns:
        SelectionWarning: if fewer samples could be dropped; those that can are.
    """
    check_ratio(ratio)
    count = len(scores.values)
    wanted = round(ratio * count)
    if wanted == count:
        raise ValueError(f"ratio={ratio} of {count} samples would leave none")
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    order = shuffled[scores.values[shuffled].sort(stable=True).indices]
    droppable = order[scores.values[order] < math.inf]
    if balanced:
        quotas = class_quotas(scores.labels, wanted)
        classes = scores.labels[droppable]
        parts = [droppable[classes == k][:quota] for k, quota in enumerate(quotas.tolist())]
        drop = torch.cat(parts)
    else:
        drop = droppable[:wanted]
    if len(drop) < wanted:
        warnings.warn(
            f"{scores.method}: {wanted} of {count} samples were to be dropped ({ratio:.0%}"
            f"{', per class' if balanced else ''}), but only {len(drop)} qualify; "
            "those are dropped",
            SelectionWarning,
            stacklevel=2,
        )
    return split_rows(drop, count, wanted=wanted)


def class_quotas(labels: Tensor, wanted: int) -> Tensor:
    """``(K,)``: how many of ``wanted`` samples each class gives, in proportion to its size.

    The largest remainders are rounded up.
    """
    exact = labels.cpu().bincount().double() * wanted / len(labels)
    quotas = exact.floor().long()
    by_remainder = (exact - quotas).sort(descending=True, stable=True).indices
    quotas[by_remainder[: wanted - int(quotas.sum())]] += 1
    return quotas


def split_rows(drop: Tensor, count: int, *, wanted: int | None = None) -> Selection:
    """The rows to drop, numbers ``(n,)`` below ``count``, as a `Selection`."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[drop] = False
    return Selection(
        kept.nonzero().squeeze(1),
        (~kept).nonzero().squeeze(1),
        len(drop) if wanted is None else wanted,
    )


def check_ratio(ratio: float) -> None:
    """Refuse a share of samples to drop that is not in [0, 1).

    Raises:
        ValueError: for such a share.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio={ratio} must be in [0, 1): the share of the samples to drop")
