"""What scores of training samples share: samples in a fixed order, each measured once."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from eenotes._checks import entering, pair, pairs_on, require_classes, require_eval, require_whole
from eenotes.network import EarlyExitNetwork

Function = Callable[[list[Tensor], Tensor], Tensor]  # of the logits of all exits and the labels


def stable_labels(dataset: Dataset) -> Tensor:
    """The labels ``(N,)``, after a check that ``dataset[i]`` is always the same sample.

    A data set other than a `TensorDataset` is read twice for that.

    Raises:
        TypeError: no rows, items that are no pairs of tensors, labels that are no whole numbers.
        ValueError: no samples, not finite ones or changing ones, or not one label from 0 for each.
    """
    rows = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, DataLoader | IterableDataset) or not rows:
        kind = type(dataset).__name__
        raise TypeError(f"need dataset[i] and len(dataset), got {kind}; a loader's order changes")
    if not len(dataset):
        raise ValueError("the data set is empty: there is nothing to score")
    labels, sums = _fingerprint(dataset)
    bad = (~sums.isfinite()).nonzero().flatten()
    if len(bad):
        what = f"{len(bad)} samples hold NaN or infinite values (first: row {int(bad[0])})"
        raise ValueError(f"{what}: there is nothing to score them by")
    if not isinstance(dataset, TensorDataset):
        again = _fingerprint(dataset)
        changed = (labels != again[0]) | (sums != again[1])
        if changed.any():
            raise ValueError(
                f"{int(changed.sum())} of {len(labels)} rows changed between two readings (first: "
                f"{int(changed.nonzero()[0])}): give random transforms to the recipe's augment"
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
    net: EarlyExitNetwork, dataset: Dataset, function: Function, *, batch_size: int = 256
) -> Tensor:
    """``function(logits, labels)`` for every sample, ``(N, ...)``, in order, in float64.

    The function takes J tensors ``(B, K)``, float64, and labels ``(B,)`` to ``(B, ...)``.

    Raises:
        ValueError: a network in training mode, labels outside 0..K-1, or inputs it does not take.
    """
    require_eval(net.modules(), what="network", before="measure")
    found = []
    for x, y in pairs_on(net, in_order(dataset, batch_size=batch_size)):
        with entering(x, net) as x:
            logits = [z.cpu().double() for z in net(x)]
        require_classes(y.cpu(), logits[0].shape[1])
        found.append(function(logits, y.cpu().long()))
    return torch.cat(found).double()


def _fingerprint(dataset: Dataset) -> tuple[Tensor, Tensor]:
    pairs = []
    for x, y in in_order(dataset):
        require_whole(y)
        if y.shape != (len(x),):
            shape = tuple(y.shape)
            raise ValueError(f"labels must be one whole number per sample, {len(x)}, got {shape}")
        pairs.append((y.cpu(), x.cpu().reshape(len(x), -1).double().sum(1)))
    return tuple(map(torch.cat, zip(*pairs, strict=True)))
