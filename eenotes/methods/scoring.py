"""What scores of training samples share: a recipe for a network, and samples in a fixed order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eenotes import training
from eenotes._checks import require_eval
from eenotes.network import EarlyExitNetwork


@dataclass(frozen=True)
class Recipe:
    """How a network for scoring is made and trained.

    Args:
        build: from a seed to an untrained `EarlyExitNetwork`.  One without early exits,
            ``EarlyExitNetwork([backbone], [])``, is a plain classifier.
        epochs, batch_size, optimizer, augment: as in `eenotes.training.fit`.
    """

    build: Callable[[int], EarlyExitNetwork]
    epochs: int
    batch_size: int = 128
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = training.sgd
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def network(self, seed: int) -> EarlyExitNetwork:
        """An untrained network; the generators outside stay as they were."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(seed)

    def train(
        self,
        dataset: Dataset,
        *,
        seed: int,
        loss: training.Loss = training.joint_loss,
        title: str = "scoring",
    ) -> EarlyExitNetwork:
        """A network trained on the data set."""
        net = self.network(seed)
        training.fit(
            net,
            dataset,
            loss=loss,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            augment=self.augment,
            seed=seed,
            title=title,
        )
        return net


def stable_labels(dataset: Dataset) -> Tensor:
    """The labels ``(N,)``, after a check that ``dataset[i]`` is always the same sample.

    A data set other than a `TensorDataset` is read twice for that.

    Raises:
        TypeError: a loader or an iterable data set, which have no rows.
        ValueError: no samples, samples that are not finite, labels that are no whole numbers, or
            samples that differ between the two readings.
    """
    if isinstance(dataset, DataLoader | IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    ):
        raise TypeError(
            "need a data set with rows, dataset[i] and len(dataset), "
            f"got {type(dataset).__name__}; a loader's order changes"
        )
    if not len(dataset):
        raise ValueError("the data set is empty: there is nothing to score")
    labels, sums = _fingerprint(dataset)
    bad = (~sums.isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} samples hold NaN or infinite values (first: row {int(bad[0])}): "
            "there is nothing to score them by"
        )
    if not isinstance(dataset, TensorDataset):
        again = _fingerprint(dataset)
        changed = (labels != again[0]) | (sums != again[1])
        if changed.any():
            raise ValueError(
                f"{int(changed.sum())} of {len(labels)} rows changed between two readings "
                f"(first: row {int(changed.nonzero()[0])}); dataset[i] must always be the same "
                "sample: fix the order, and give random transforms to the recipe's augment"
            )
    if labels.is_floating_point() or labels.ndim != 1 or labels.min() < 0:
        raise ValueError(
            "labels must be one whole number per sample, from 0; "
            f"got {labels.dtype} of the shape {tuple(labels.shape)}"
        )
    return labels


def in_order(dataset: Dataset, *, batch_size: int = 256) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches ``(x, y)`` in the order of the data set."""
    if isinstance(dataset, TensorDataset):
        return zip(*(tensor.split(batch_size) for tensor in dataset.tensors[:2]), strict=True)
    return DataLoader(dataset, batch_size)


@torch.no_grad()
def measure(
    net: EarlyExitNetwork,
    dataset: Dataset,
    function: Callable[[list[Tensor], Tensor], Tensor],
    *,
    batch_size: int = 256,
) -> Tensor:
    """``function(logits of all exits, labels)`` for every sample, ``(N, ...)``, in order.

    The function takes J tensors ``(B, K)``, float64, and labels ``(B,)`` to ``(B, ...)``.  The
    result is in float64 on the CPU; the network is in evaluation mode.
    """
    require_eval(net.modules(), what="network", before="measure")
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    found = [
        function([z.double() for z in net(x.to(device))], y.to(device))
        for x, y in in_order(dataset, batch_size=batch_size)
    ]
    return torch.cat(found).double().cpu()


def _fingerprint(dataset: Dataset) -> tuple[Tensor, Tensor]:
    pairs = [(y, x.flatten(1).double().sum(1)) for x, y in in_order(dataset)]
    labels, sums = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
    return labels, sums
