"""Checks of arguments that several parts of the package share: modes and labels."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def require_eval(modules: Iterable[nn.Module], *, what: str, before: str) -> None:
    """Refuse modules in training mode; the message says ``what`` they are, and what follows.

    Raises:
        ValueError: any of them is in training mode.
    """
    if any(module.training for module in modules):
        raise ValueError(f"the {what} is in training mode: call eval() before {before}")


def require_whole(labels: Tensor) -> None:
    """Refuse labels that are not whole numbers.

    Raises:
        TypeError: floats or booleans.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be whole numbers, got {labels.dtype}")


def pair(batch: object) -> tuple[Tensor, Tensor]:
    """A batch as inputs and labels, both tensors.

    Raises:
        TypeError: something else, such as a dictionary, a triple or NumPy arrays.
    """
    fine = isinstance(batch, tuple | list) and len(batch) == 2
    if not fine or not all(isinstance(part, Tensor) for part in batch):
        parts = batch if isinstance(batch, tuple | list) else [batch]
        found = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(
            f"a batch must be a pair of tensors (inputs, labels), got {found}: take the two out of "
            "each item, for example with the collate_fn of a data loader"
        )
    return batch[0], batch[1]
