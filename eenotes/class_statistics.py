"""Class statistics: one running mean per class, for features (E²CM), probabilities (CBT) and token
vectors (LM heads) alike.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

# Up to here a GPU multiplies with a one-hot matrix: as fast as adding row by row, and with the same
# bits on every run.  A CPU adds in order anyway, in a third of the time that the product takes.
_ONE_HOT_CLASSES = 256


class ClassMeans(Metric):
    r"""Class-conditional means in one pass:

    $M_k = \frac{1}{n_k} \sum_{i: y_i = k} x_i$; equations (2.2), (4.1) and (6.15).

    A torchmetrics metric: ``update`` per batch, ``compute`` at the end, summed over the processes
    of ``torch.distributed``.  It keeps one ``K × D`` array of sums, K counts and one sum of
    squares, whatever the number of samples.

    Args:
        num_classes: K.

    Raises:
        ValueError: for fewer than one class.  In ``update`` for an empty batch, labels outside
            0..K-1 or of another length, values that are not finite, or features of another shape
            than before; nothing is changed then.  In ``compute`` for a class without samples.
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
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features ``(B, *shape)``, labels ``(B,)`` whole numbers in 0..K-1."""
        x = self._checked(features, labels)
        if x.device.type != "cpu" and self.num_classes <= _ONE_HOT_CLASSES:
            one_hot = torch.nn.functional.one_hot(labels.long(), self.num_classes).to(x.dtype)
            with torch.autocast(x.device.type, enabled=False):
                sums = one_hot.T @ x
        else:
            sums = torch.zeros(self.num_classes, x.shape[1], device=x.device).index_add_(
                0, labels.long(), x
            )
        square = x.flatten().dot(x.flatten()).double()
        if not square.isfinite():  # a NaN anywhere ends up here, for the price of one number
            raise ValueError(
                "the features hold NaN or infinite values: the class means would be lost; nothing was added"
            )
        self.shape = tuple(features.shape[1:])
        self.sums = self.sums + sums
        self.counts = self.counts + torch.bincount(labels.long(), minlength=self.num_classes)
        self.squares = self.squares + square

    def forward(self, features: Tensor, labels: Tensor) -> None:
        """The same as `update`: one batch alone rarely has every class, and so no means of its own."""
        self.update(features, labels)

    def merge_state(self, incoming_state: "ClassMeans") -> None:
        """Add what another `ClassMeans` has seen.

        Raises:
            ValueError: if it has other classes, or features of another shape.
        """
        mine, others = ((m.num_classes, m.shape) for m in (self, incoming_state))
        if mine[0] != others[0] or (None not in (mine[1], others[1]) and mine[1] != others[1]):
            raise ValueError(
                f"the means here have classes and shape {mine}, those to merge {others}"
            )
        self.shape = incoming_state.shape if self.shape is None else self.shape
        for name in self._defaults:
            setattr(self, name, getattr(self, name) + getattr(incoming_state, name))
        self._update_count += incoming_state._update_count
        self._computed = None  # torchmetrics' own merge_state would keep the old result

    def reset(self) -> None:
        super().reset()
        self.shape = None

    def compute(self) -> Tensor:
        """The class means, ``(K, *shape)``."""
        missing = (self.counts == 0).nonzero().flatten().tolist()
        if missing:
            raise ValueError(f"no sample of class {missing} was seen: its mean is not defined")
        return (self.sums / self.counts[:, None]).reshape(
            self.num_classes, *((-1,) if self.shape is None else self.shape)
        )

    def root_mean_square_distance(self) -> Tensor:
        r"""$\sqrt{\mathrm{E}\lVert x - M_k\rVert^2}$ over **all** samples, ``(K,)``: known after
        the same single pass.

        $\mathrm{E}\lVert x\rVert^2 - 2\,\bar x \cdot M_k + \lVert M_k\rVert^2$ with $\bar x$ the
        mean of all samples.  The differences cost digits: features a hundred times as far from zero
        as from each other keep three, a thousand times none; subtract what they share.
        """
        means, total = self.compute().reshape(self.num_classes, -1).double(), self.counts.sum()
        overall = self.sums.double().sum(0) / total
        squared = self.squares / total - 2 * means @ overall + means.square().sum(1)
        return squared.clamp_min(0).sqrt().to(self.sums.dtype)

    def _checked(self, features: Tensor, labels: Tensor) -> Tensor:
        if len(features) == 0 or labels.shape != (len(features),):
            raise ValueError(
                f"need as many labels as samples, and at least one: got {tuple(features.shape)}, {tuple(labels.shape)}"
            )
        if features.device != self.device or labels.device != self.device:
            raise ValueError(
                f"features are on {features.device}, labels on {labels.device}, the means on {self.device}: use one device"
            )
        if labels.is_floating_point():
            raise ValueError(f"labels must be whole numbers, got {labels.dtype}")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"labels must lie in 0..{self.num_classes - 1}, got {int(labels.min())}..{int(labels.max())}; leave out ignored ones"
            )
        if self.shape is not None and tuple(features.shape[1:]) != self.shape:
            raise ValueError(
                f"the features before had shape {self.shape}, these have {tuple(features.shape[1:])}"
            )
        return features.detach().reshape(len(features), -1).float()
