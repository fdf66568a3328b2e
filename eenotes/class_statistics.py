"""Class statistics in one pass: class means, and the covariance within the classes.

`ClassMeans` serves features (E²CM), probabilities (CBT) and token vectors (LM heads) alike.
`ClassMoments` adds the covariance that all classes share.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eenotes._checks import (
    require_at_least,
    require_classes,
    require_range,
    require_seen,
    require_whole,
)
from eenotes._processes import gathered
from eenotes.network import for_doubles

# Up to here a GPU multiplies with a one-hot matrix: as fast as adding row by row, and with the same
# bits on every run.  A CPU adds in order anyway, in a third of the time that the product takes.
_ONE_HOT_CLASSES = 256
_NOTHING = "no batch has a sample of a class, or every label is ignored: nothing to average"


class Summed(NamedTuple):
    """What `ClassMeans` of all processes have seen, on the CPU."""

    shape: tuple[int, ...]  #: of one sample's features, D numbers
    sums: Tensor  #: ``(K, D)``, float32
    counts: Tensor  #: ``(K,)``
    squares: float  #: summed squared norms


class ClassMeans:
    r"""Class means in one pass: $M_k = \frac{1}{n_k} \sum_{i: y_i = k} x_i$ (2.2), (4.1), (6.15).

    It keeps K × D sums, K counts and one sum of squares, whatever the number of samples.  What
    follows from them is that of all processes of ``torch.distributed`` together.

    Raises:
        ValueError: in ``update``, which then changes nothing: an empty batch, labels outside
            0..K-1, features not finite, or of another length, shape or device.  Later: a class
            without samples.
        TypeError: in ``update``, labels that are not whole numbers.
    """

    def __init__(self, num_classes: int):
        require_at_least(1, num_classes=num_classes)
        self.num_classes = num_classes
        self.shape: tuple[int, ...] | None = None  # known at the first batch
        self.sums = torch.zeros(num_classes, 1)
        self.counts = torch.zeros(num_classes, dtype=torch.int64)
        self.squares = 0.0  # a Python number has double precision, which some devices do not have

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features ``(B, *shape)``, labels ``(B,)`` whole numbers in 0..K-1."""
        require_whole(labels)
        device = features.device
        before = device if self.shape is None else self.sums.device
        if not device == labels.device == before:
            where = f"features are on {device}, labels on {labels.device}, the means on {before}"
            raise ValueError(f"{where}: use one device")
        _check_batch(features, labels, num_classes=self.num_classes, shape=self.shape)
        x, labels = features.reshape(len(features), -1).float(), labels.long()
        if device.type != "cpu" and self.num_classes <= _ONE_HOT_CLASSES:
            one_hot = torch.nn.functional.one_hot(labels, self.num_classes).to(x.dtype)
            with torch.autocast(device.type, enabled=False):
                sums = one_hot.T @ x
        else:
            sums = x.new_zeros(self.num_classes, x.shape[1]).index_add_(0, labels, x)
        square = x.flatten().dot(x.flatten()).item()
        if not math.isfinite(square):  # a NaN anywhere ends up here, for the price of one number
            raise ValueError("the features hold NaN or infinite values; nothing was added")
        self.shape = tuple(features.shape[1:])
        self.sums = self.sums.to(device) + sums
        self.counts = self.counts.to(device) + torch.bincount(labels, minlength=self.num_classes)
        self.squares += square

    def summed(self) -> Summed:
        """The sums over all processes; one that has seen no sample counts as zero.

        Raises:
            ValueError: no sample in any process, or features of different shapes.
        """
        own = self.shape, self.sums.cpu(), self.counts.cpu(), self.squares
        seen = [part for part in gathered(own) if part[0] is not None]
        shapes = sorted({shape for shape, *_ in seen})
        if not shapes:
            raise ValueError(_NOTHING)
        if len(shapes) > 1:
            raise ValueError(f"the processes have features of the shapes {shapes}")
        _, *columns = zip(*seen, strict=True)
        return Summed(shapes[0], *map(sum, columns))

    def compute(self) -> Tensor:
        """The class means, ``(K, *shape)``, where the features are."""
        found = self.summed()
        return _means(found).reshape(self.num_classes, *found.shape).to(self.sums.device)

    def root_mean_square_distance(self) -> Tensor:
        r"""The root mean square distance of **all** samples to every class mean, ``(K,)``.

        $\mathrm{E}\lVert x - M_k\rVert^2 = \mathrm{E}\lVert x\rVert^2 - 2\,\bar x \cdot M_k +
        \lVert M_k\rVert^2$ with the mean $\bar x$ of all samples needs no second pass.  The
        differences cost digits: features a hundred times as far from zero as from each other keep
        three, a thousand times none; subtract what they share.
        """
        found = self.summed()
        means, total = _means(found).double(), found.counts.sum().item()
        overall = found.sums.double().sum(0) / total
        squared = found.squares / total - 2 * means @ overall + means.square().sum(1)
        return squared.clamp_min(0).sqrt().to(self.sums)


def _means(found: Summed) -> Tensor:
    require_seen(found.counts)
    return found.sums / found.counts[:, None]


@dataclass(frozen=True)
class Moments:
    """What `ClassMoments` has seen, in double precision on the CPU."""

    means: Tensor  #: ``(K, D)``; zeros for a class without samples
    counts: Tensor  #: ``(K,)``
    covariance: Tensor  #: ``(D, D)``, within the classes, divided by the number of samples

    def shrunk(self, shrinkage: float) -> Tensor:
        r"""$(1-\lambda)\,\Sigma + \lambda\,\overline{\sigma^2}\,I$, ``(D, D)``, for λ in (0, 1].

        $\overline{\sigma^2}$ is the mean variance, as in scikit-learn's ``shrunk_covariance``.

        Raises:
            ValueError: another shrinkage, or features that do not vary within the classes.
        """
        require_range(0, 1, ends="(]", shrinkage=shrinkage)
        variance = self.covariance.diagonal().mean()
        if not variance > 0:
            raise ValueError("the features do not vary within the classes: nothing to measure by")
        identity = torch.eye(len(self.covariance), dtype=self.covariance.dtype)
        return (1 - shrinkage) * self.covariance + shrinkage * variance * identity


class ClassMoments:
    r"""Class means and the covariance within the classes, of features ``(B, D)``, in one pass.

    With class sums $s_k$ and products from a fixed pivot, the covariance is $\frac1n \bigl(\sum_i
    x_i x_i^{\mathsf T} - \sum_k s_k s_k^{\mathsf T} / n_k\bigr)$.  The pivot, the mean of the first
    batch, saves the digits of features far from zero.  All is in double precision, on the CPU where
    the device has none; `compute` adds up all processes of ``torch.distributed``.

    Raises:
        ValueError: fewer than one class, no sample in ``compute``, or as `ClassMeans.update`.
    """

    def __init__(self, num_classes: int):
        require_at_least(1, num_classes=num_classes)
        self.num_classes = num_classes
        self.pivot: Tensor | None = None

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features ``(B, D)``, labels ``(B,)`` whole numbers in 0..K-1."""
        known = None if self.pivot is None else tuple(self.pivot.shape)
        _check_batch(features, labels, num_classes=self.num_classes, shape=known)
        if features.ndim != 2:
            raise ValueError(f"features must be (B, D), got {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError("the features hold NaN or infinite values; nothing was added")
        x = for_doubles(features).double()
        labels = labels.to(x.device).long()
        if self.pivot is None:
            self.pivot = x.mean(0)
            self.counts = labels.new_zeros(self.num_classes)
            self.sums = x.new_zeros(self.num_classes, x.shape[1])
            self.products = x.new_zeros(x.shape[1], x.shape[1])
        x = x - self.pivot
        self.counts += torch.bincount(labels, minlength=self.num_classes)
        self.sums.index_add_(0, labels, x)
        self.products.addmm_(x.T, x)

    def compute(self) -> Moments:
        """The moments of all samples of all processes."""
        own = [] if self.pivot is None else [self.pivot, self.counts, self.sums, self.products]
        seen = [parts for parts in gathered([part.cpu() for part in own]) if parts]
        if not seen:
            raise ValueError(_NOTHING)
        pivot = seen[0][0]
        moved = [_moved_to(pivot, *parts) for parts in seen]
        counts, sums, products = map(sum, zip(*moved, strict=True))
        filled = counts.clamp_min(1).double()[:, None]
        scaled = sums / filled.sqrt()
        covariance = (products - scaled.T @ scaled) / counts.sum()
        means = torch.where(counts[:, None] > 0, sums / filled + pivot, 0.0)
        return Moments(means, counts, covariance)


def _moved_to(
    pivot: Tensor, old: Tensor, counts: Tensor, sums: Tensor, products: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, sums and products as if they had been taken from another pivot than the old one."""
    shift = old - pivot
    outer = torch.outer(sums.sum(0), shift)
    products = products + outer + outer.T + counts.sum() * torch.outer(shift, shift)
    return counts, sums + counts[:, None] * shift, products


def _check_batch(
    features: Tensor, labels: Tensor, *, num_classes: int, shape: tuple[int, ...] | None
) -> None:
    """Refuse features and labels that are no batch of ``num_classes`` classes."""
    require_classes(labels, num_classes)
    if len(features) == 0 or labels.shape != (len(features),):
        shapes = f"{tuple(features.shape)}, {tuple(labels.shape)}"
        raise ValueError(f"need as many labels as samples, and at least one: got {shapes}")
    if shape is not None and tuple(features.shape[1:]) != shape:
        raise ValueError(f"the features before were {shape}, these are {tuple(features.shape[1:])}")
