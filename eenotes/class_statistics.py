"""Class statistics in one pass: class means, and the covariance within the classes.

`ClassMeans` keeps one running mean per class, for features (E²CM), probabilities (CBT) and token
vectors (LM heads) alike.  `ClassMoments` adds the covariance that all classes share.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from eenotes._checks import require_classes, require_whole
from eenotes._processes import gathered
from eenotes.network import for_doubles

# Up to here a GPU multiplies with a one-hot matrix: as fast as adding row by row, and with the same
# bits on every run.  A CPU adds in order anyway, in a third of the time that the product takes.
_ONE_HOT_CLASSES = 256


class ClassMeans(Metric):
    r"""Class means in one pass: $M_k = \frac{1}{n_k} \sum_{i: y_i = k} x_i$ (2.2), (4.1), (6.15).

    A torchmetrics metric, summed over the processes of ``torch.distributed``.  It keeps K × D sums,
    K counts and one sum of squares, whatever the number of samples.

    Raises:
        ValueError: fewer than one class.  In ``update``, which then changes nothing: an empty
            batch, labels outside 0..K-1 or of another length, values that are not finite, features
            of another shape than before.  In ``compute``: a class without samples.
        TypeError: in ``update``, labels that are not whole numbers.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    def __init__(self, num_classes: int, **metric_options):
        super().__init__(**metric_options)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.shape: tuple[int, ...] | None = None
        # The width D is known at the first batch; until then the sums broadcast.
        self.add_state("sums", torch.zeros(num_classes, 1), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        # A Python number has double precision, which some devices do not have.
        self.squares = self._own_squares = 0.0

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features ``(B, *shape)``, labels ``(B,)`` whole numbers in 0..K-1."""
        x = self._checked(features, labels)
        if x.device.type != "cpu" and self.num_classes <= _ONE_HOT_CLASSES:
            one_hot = torch.nn.functional.one_hot(labels.long(), self.num_classes).to(x.dtype)
            with torch.autocast(x.device.type, enabled=False):
                sums = one_hot.T @ x
        else:
            sums = torch.zeros(self.num_classes, x.shape[1], device=x.device)
            sums.index_add_(0, labels.long(), x)
        square = x.flatten().dot(x.flatten()).item()
        if not math.isfinite(square):  # a NaN anywhere ends up here, for the price of one number
            raise ValueError(
                "the features hold NaN or infinite values: the class means would be lost; "
                "nothing was added"
            )
        self.shape = tuple(features.shape[1:])
        self.sums = self.sums + sums
        self.counts = self.counts + torch.bincount(labels.long(), minlength=self.num_classes)
        self.squares += square

    def forward(self, features: Tensor, labels: Tensor) -> None:
        """The same as `update`: one batch rarely has every class, and so no means of its own."""
        self.update(features, labels)

    def merge_state(self, incoming_state: "ClassMeans") -> None:
        """Add what another `ClassMeans` of the same classes and features has seen."""
        mine, others = ((m.num_classes, m.shape) for m in (self, incoming_state))
        if mine[0] != others[0] or (None not in (mine[1], others[1]) and mine[1] != others[1]):
            raise ValueError(f"here classes and shape are {mine}, in what to merge {others}")
        self.shape = incoming_state.shape if self.shape is None else self.shape
        for name in self._defaults:
            setattr(self, name, getattr(self, name) + getattr(incoming_state, name))
        self.squares += incoming_state.squares
        self._update_count += incoming_state._update_count
        self._computed = None  # torchmetrics' own merge_state would keep the old result

    def reset(self) -> None:
        super().reset()
        self.shape, self.squares = None, 0.0

    def sync(self, *args, should_sync: bool = True, **kwargs) -> None:
        """Add up the processes; one that has seen no sample counts as zero.

        Raises:
            ValueError: processes with features of different shapes.
        """
        if should_sync and not self._is_synced:
            parts = gathered((self.shape, self.squares), self.process_group)
            shapes = {shape for shape, _ in parts if shape is not None}
            if len(shapes) > 1:
                raise ValueError(f"the processes have features of the shapes {sorted(shapes)}")
            if self.shape is None and shapes:
                self.shape = shapes.pop()
                self.sums = self.sums.repeat(1, math.prod(self.shape))
            self._own_squares, self.squares = self.squares, sum(square for _, square in parts)
        super().sync(*args, should_sync=should_sync, **kwargs)
        if not self._is_synced:
            self._own_squares = self.squares

    def unsync(self, should_unsync: bool = True) -> None:
        """Each process has its own sums again."""
        super().unsync(should_unsync)
        if should_unsync:
            self.squares = self._own_squares

    def compute(self) -> Tensor:
        """The class means, ``(K, *shape)``, over the samples of all processes."""
        return self._means()

    def _means(self) -> Tensor:
        missing = (self.counts == 0).nonzero().flatten().tolist()
        if missing:
            raise ValueError(f"no sample of class {missing} was seen: its mean is not defined")
        return (self.sums / self.counts[:, None]).reshape(
            self.num_classes, *((-1,) if self.shape is None else self.shape)
        )

    def root_mean_square_distance(self) -> Tensor:
        r"""The root mean square distance of **all** samples to every class mean, ``(K,)``.

        $\mathrm{E}\lVert x - M_k\rVert^2 = \mathrm{E}\lVert x\rVert^2 - 2\,\bar x \cdot M_k +
        \lVert M_k\rVert^2$ with the mean $\bar x$ of all samples needs no second pass.  The
        differences cost digits: features a hundred times as far from zero as from each other keep
        three, a thousand times none; subtract what they share.
        """
        with self.sync_context():
            means = self._means().reshape(self.num_classes, -1).cpu().double()
            total = self.counts.sum().item()
            overall = self.sums.cpu().double().sum(0) / total
            squared = self.squares / total - 2 * means @ overall + means.square().sum(1)
        return squared.clamp_min(0).sqrt().to(self.sums)

    def _checked(self, features: Tensor, labels: Tensor) -> Tensor:
        require_whole(labels)
        if features.device != self.device or labels.device != self.device:
            raise ValueError(
                f"features are on {features.device}, labels on {labels.device}, the means on "
                f"{self.device}: use one device"
            )
        _check_batch(features, labels, num_classes=self.num_classes, shape=self.shape)
        return features.detach().reshape(len(features), -1).float()


@dataclass(frozen=True)
class Moments:
    """What `ClassMoments` has seen, in double precision on the CPU."""

    means: Tensor  #: ``(K, D)``; zeros for a class without samples
    counts: Tensor  #: ``(K,)``
    covariance: Tensor  #: ``(D, D)``, within the classes, divided by the number of samples

    def shrunk(self, shrinkage: float) -> Tensor:
        r"""$(1-\lambda)\,\Sigma + \lambda\,\overline{\sigma^2}\,I$, ``(D, D)``, for λ in (0, 1].

        With the mean variance $\overline{\sigma^2}$, as scikit-learn's ``shrunk_covariance``:
        features that never vary have no variance of their own to divide by.

        Raises:
            ValueError: another shrinkage, or features that do not vary within the classes.
        """
        if not 0 < shrinkage <= 1:
            raise ValueError(
                f"shrinkage={shrinkage} must be in (0, 1]: without any, features that never vary "
                "would be divided by zero"
            )
        variance = self.covariance.diagonal().mean()
        if not variance > 0:
            raise ValueError(
                "the features do not vary within the classes: there is no spread to measure "
                "distances with"
            )
        identity = torch.eye(len(self.covariance), dtype=self.covariance.dtype)
        return (1 - shrinkage) * self.covariance + shrinkage * variance * identity


class ClassMoments:
    r"""Class means and the covariance within the classes, of features ``(B, D)``, in one pass.

    With class sums $s_k$ and products taken from a fixed pivot, the covariance is $\frac1n
    \bigl(\sum_i x_i x_i^{\mathsf T} - \sum_k s_k s_k^{\mathsf T} / n_k\bigr)$.  The pivot is the
    mean of the first batch: features far from zero would leave no digits in that difference.
    Products are in double precision, on the CPU where the device has none; ``dtype`` is that of the
    K × D sums.  `compute` adds up all processes of ``torch.distributed``.

    Raises:
        ValueError: fewer than one class; in ``update`` as `ClassMeans`; in ``compute`` if no
            process has seen a sample.
    """

    def __init__(self, num_classes: int, *, dtype: torch.dtype = torch.float64):
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.dtype = num_classes, dtype
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
        x = for_doubles(features.detach()).double()
        labels = labels.to(x.device).long()
        if self.pivot is None:
            self._start(x.mean(0))
        x = x - self.pivot
        self.counts += torch.bincount(labels, minlength=self.num_classes)
        self.sums.index_add_(0, labels, x.to(self.dtype))
        self.products.addmm_(x.T, x)

    def compute(self) -> Moments:
        """The moments of all samples of all processes."""
        pivot, counts, sums, products = self._summed()
        filled = counts.clamp_min(1).double()[:, None]
        means = sums.double() / filled
        scaled = sums.double() / filled.sqrt()
        covariance = (products - scaled.T @ scaled) / counts.sum()
        means = torch.where(counts[:, None] > 0, means + pivot, 0.0)
        return Moments(means.cpu(), counts.cpu(), covariance.cpu())

    def _start(self, pivot: Tensor) -> None:
        D, device = len(pivot), pivot.device
        self.pivot = pivot
        self.counts = torch.zeros(self.num_classes, dtype=torch.int64, device=device)
        self.sums = torch.zeros(self.num_classes, D, dtype=self.dtype, device=device)
        self.products = torch.zeros(D, D, dtype=torch.float64, device=device)

    def _summed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pivot, counts, sums and products over all processes, from one common pivot."""
        pivots = gathered(None if self.pivot is None else self.pivot.cpu())
        common = next((pivot for pivot in pivots if pivot is not None), None)
        if common is None:
            raise ValueError("no batch was added: there is nothing to average")
        if self.pivot is None:
            self._start(common)
        parts = gathered([part.cpu() for part in self._moved_to(common.to(self.pivot.device))])
        return common, *(sum(of_all) for of_all in zip(*parts, strict=True))

    def _moved_to(self, pivot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, sums and products as if they had been taken from another pivot."""
        shift, total = self.pivot - pivot, self.sums.double().sum(0)
        outer = torch.outer(total, shift)
        products = self.products + outer + outer.T + self.counts.sum() * torch.outer(shift, shift)
        sums = self.sums + (self.counts[:, None] * shift).to(self.dtype)
        return self.counts.clone(), sums, products


def _check_batch(
    features: Tensor, labels: Tensor, *, num_classes: int, shape: tuple[int, ...] | None
) -> None:
    """Refuse features and labels that are no batch of ``num_classes`` classes."""
    if len(features) == 0 or labels.shape != (len(features),):
        raise ValueError(
            "need as many labels as samples, and at least one: "
            f"got {tuple(features.shape)}, {tuple(labels.shape)}"
        )
    require_classes(labels, num_classes)
    if shape is not None and tuple(features.shape[1:]) != shape:
        raise ValueError(f"the features before were {shape}, these are {tuple(features.shape[1:])}")
