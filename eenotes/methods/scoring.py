"""What scores of training samples share: a recipe for a network, and samples in a fixed order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eenotes import training
from eenotes._checks import as_input, explained, pair, require_classes, require_eval, require_whole
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
        TypeError: a loader or an iterable data set, which have no rows; items that are no pairs
            of tensors; labels that are no whole numbers.
        ValueError: no samples, samples that are not finite, not one label per sample, labels below
            0, or samples that differ between the two readings.
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
    if labels.min() < 0:
        raise ValueError(f"labels must be whole numbers from 0, got {int(labels.min())}")
    return labels.long()


def in_order(dataset: Dataset, *, batch_size: int = 256) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches ``(x, y)`` in the order of the data set."""
    batches = DataLoader(dataset, batch_size)
    if isinstance(dataset, TensorDataset):
        batches = zip(*(tensor.split(batch_size) for tensor in dataset.tensors), strict=True)
    return map(pair, batches)


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

    Raises:
        ValueError: a network in training mode, labels outside 0..K-1, or inputs that the network
            does not take.
    """
    require_eval(net.modules(), what="network", before="measure")
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    found = []
    for x, y in in_order(dataset, batch_size=batch_size):
        with explained(x, net):
            logits = [z.cpu().double() for z in net(as_input(x.to(device), net))]
        require_classes(y.cpu(), logits[0].shape[1])
        found.append(function(logits, y.cpu().long()))
    return torch.cat(found).double()


def _fingerprint(dataset: Dataset) -> tuple[Tensor, Tensor]:
    pairs = []
    for x, y in in_order(dataset):
        require_whole(y)
        if y.shape != (len(x),):
            raise ValueError(
                f"labels must be one whole number per sample, got the shape {tuple(y.shape)} "
                f"for {len(x)} samples"
            )
        pairs.append((y.cpu(), x.cpu().reshape(len(x), -1).double().sum(1)))
    labels, sums = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return labels, sums
