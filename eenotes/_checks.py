"""Checks of arguments that several parts of the package share: modes, batches and labels."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

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
        TypeError: floats, booleans, or no tensor.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor of whole numbers, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be whole numbers, got {labels.dtype}")


def pair(batch: object) -> tuple[Tensor, Tensor]:
    """A batch as inputs and labels, both tensors; also ``pixel_values`` and ``labels`` by name.

    Raises:
        TypeError: something else, such as another dictionary, a triple or NumPy arrays.
    """
    if isinstance(batch, Mapping) and batch.keys() >= {"pixel_values", "labels"}:
        batch = batch["pixel_values"], batch["labels"]
    fine = isinstance(batch, tuple | list) and len(batch) == 2
    if not fine or not all(isinstance(part, Tensor) for part in batch):
        parts = batch if isinstance(batch, tuple | list) else [batch]
        found = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(
            f"a batch must be a pair of tensors (inputs, labels), got {found}: take the two out of "
            "each item, for example with the collate_fn of a data loader"
        )
    return batch[0], batch[1]


def require_classes(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that are not whole numbers in 0..K-1.

    Raises:
        TypeError: as `require_whole`.
        ValueError: a label outside.
    """
    require_whole(labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, got {int(labels.min())}.."
            f"{int(labels.max())}; leave out ignored ones"
        )


def as_input(x: Tensor, net: nn.Module) -> Tensor:
    """Inputs ``(B, ...)`` on the device of a network, and floats in its precision."""
    held = next((p for p in net.parameters() if p.is_floating_point()), None)
    if held is None:
        return x
    return x.to(held.device, held.dtype if x.is_floating_point() else x.dtype)


@contextmanager
def explained(x: object, net: nn.Module) -> Iterator[None]:
    """Say why a network fails on integers, or on images ``(B, H, W, C)``.

    Raises:
        TypeError: it failed, and the inputs are integers that no embedding takes.
        ValueError: it failed, and the last axis looks like that of the colours.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not isinstance(x, Tensor):
            raise
        embeds = any(isinstance(module, nn.Embedding) for module in net.modules())
        if not x.is_floating_point() and not embeds:
            raise TypeError(
                f"the network fails on inputs of {x.dtype}: make floats of them, as "
                f"images.float() / 255 ({error})"
            ) from error
        if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
            raise ValueError(
                f"the network fails on inputs {tuple(x.shape)}: put the channels first, as "
                f"images.permute(0, 3, 1, 2) ({error})"
            ) from error
        raise
