"""Checks of arguments that several parts of the package share: modes, batches, labels, words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn


def require_eval(modules: Iterable[nn.Module], *, what: str, before: str) -> None:
    """Refuse modules in training mode; the message says ``what`` they are, and what follows."""
    if any(module.training for module in modules):
        raise ValueError(f"the {what} is in training mode: call eval() before {before}")


def require_whole(labels: Tensor) -> None:
    """Refuse labels that are not whole numbers: floats, booleans, or no tensor."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor of whole numbers, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be whole numbers, got {labels.dtype}")


def require_one_of(allowed: Sequence[str], **named: str) -> None:
    """Refuse an option, given by its name, that is none of those allowed."""
    ((name, value),) = named.items()
    if value not in allowed:
        *most, last = map(repr, allowed)
        raise ValueError(f"{name}={value!r} must be {', '.join(most)} or {last}")


def require_at_least(least: int, **named: int) -> None:
    """Refuse a number, given by its name, that is smaller."""
    ((name, value),) = named.items()
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_range(low: float, high: float, *, ends: str = "()", **named: float) -> None:
    """Refuse what is no number from ``low`` to ``high``; the ends in round brackets are outside."""
    ((name, value),) = named.items()
    number = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
    if not number or (ends[0] == "(" and value == low) or (ends[1] == ")" and value == high):
        raise ValueError(f"{name}={value!r} must be in {ends[0]}{low}, {high}{ends[1]}")


def require_seen(counts: Tensor) -> None:
    """Refuse classes without samples, by their counts ``(K,)``."""
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"no sample of class {missing} was seen: its mean is not defined")


def require_answers(j: int, values: Tensor) -> None:
    """Refuse NaN in the logits of exit ``j``, or in what follows from them, ``(...)``."""
    if values.isnan().any():
        raise ValueError(f"exit {j} gave NaN logits: look at the features or at the head's weights")


def require_matrix(signals: Tensor) -> None:
    """Refuse signals that are no finite matrix ``(M, D)``."""
    matrix = signals.ndim == 2 and signals.is_floating_point() and len(signals)
    if not matrix or not signals.isfinite().all():
        kind = f"{signals.dtype} {tuple(signals.shape)}"
        raise ValueError(f"signals must be a finite matrix (M, D), got {kind}")


def pair(batch: object) -> tuple[Tensor, Tensor]:
    """A batch as inputs and labels, or as ``pixel_values`` and ``labels`` by name; else refused."""
    batch = by_name(batch)
    parts = batch if isinstance(batch, tuple | list) else [batch]
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        found = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(
            f"a batch must be a pair of tensors (inputs, labels), got {found}: take the two out of "
            "each item, for example with the collate_fn of a data loader"
        )
    return tuple(parts)


def by_name(batch: object) -> object:
    """The pair in a dictionary with ``pixel_values`` and ``labels``; anything else as it is."""
    if isinstance(batch, Mapping) and batch.keys() >= {"pixel_values", "labels"}:
        return batch["pixel_values"], batch["labels"]
    return batch


def require_classes(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that are not whole numbers in 0..K-1."""
    require_whole(labels)
    if labels.numel():
        extremes = torch.stack([labels.min(), labels.max()]).tolist()
        require_between(*extremes, num_classes=num_classes)


def require_between(least: int, largest: int, *, num_classes: int) -> None:
    """Refuse labels, of which these are the extremes, outside 0..K-1."""
    if not 0 <= least <= largest < num_classes:
        found = f"{least}..{largest}; leave out ignored ones"
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, got {found}")


def pairs_on(net: nn.Module, batches: Iterable) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as inputs and labels where a network is, inputs in its precision."""
    for batch in batches:
        x, y = pair(batch)
        x = as_input(x, net)
        yield x, y.to(x.device)


def as_input(x: Tensor, net: nn.Module) -> Tensor:
    """Inputs ``(B, ...)`` on the device of a network, and floats in its precision."""
    held = next((p for p in net.parameters() if p.is_floating_point()), None)
    if held is None:
        return x
    return x.to(held.device, held.dtype if x.is_floating_point() else x.dtype)


@contextmanager
def entering(x: object, net: nn.Module) -> Iterator:
    """A user's batch as `as_input` gives it, and a sentence if the network fails on its kind."""
    if not isinstance(x, Tensor):
        yield x
        return
    try:
        yield as_input(x, net)
    except (RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError) or (why := _unlike(x, net, error)) is None:
            raise
        kind, what = why
        raise kind(f"the network fails on inputs {what} ({error})") from error


def _unlike(x: Tensor, net: nn.Module, error: Exception) -> tuple[type[Exception], str] | None:
    """What about a batch ``(B, ...)`` a network cannot have been made for, if that is known."""
    tables = [module.num_embeddings for module in net.modules() if isinstance(module, nn.Embedding)]
    if tables and isinstance(error, IndexError):
        known = f"its embedding knows 0..{min(tables) - 1}"
        return ValueError, f"from {x.min()} to {x.max()}: {known}"
    if tables and "'indices'" in str(error):
        return TypeError, f"of {x.dtype}: its embedding takes whole numbers, as ids.long()"
    if not x.is_floating_point() and not tables:
        return TypeError, f"of {x.dtype}: make floats of them, as images.float() / 255"
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        advice = "put the channels first, as images.permute(0, 3, 1, 2)"
        return ValueError, f"{tuple(x.shape)}: {advice}"
    return None
