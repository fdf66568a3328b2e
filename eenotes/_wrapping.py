"""What `training.fit` changes around a model while it trains, and puts back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.data import DataLoader

# what accelerate puts into a module that it prepares
_ATTRIBUTES = ("forward", "_original_forward", "_is_accelerate_prepared")


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers that follow from the seed alone; the generators outside stay as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 10_007)  # accelerate's sampler starts from it
        yield


@contextmanager
def prepared(
    accelerator,
    model: nn.Module,
    part: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
) -> Iterator[tuple]:
    """What accelerate makes of model, optimizer and loader; no gradients outside ``part``."""
    inside = set(map(id, part.parameters()))
    frozen = [p for p in model.parameters() if id(p) not in inside and p.requires_grad]
    before = _attributes(model)
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield accelerator.prepare(model, optimizer, loader)
    finally:
        for p in frozen:
            p.requires_grad_(True)
        _put_back(model, before)
        accelerator.free_memory()


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[None]:
    """A prepared model without accelerate's autocast around ``model.forward``."""
    wrapped = _attributes(model)
    original = {"forward": wrapped["_original_forward"]} if "_original_forward" in wrapped else {}
    _put_back(model, original)
    try:
        yield
    finally:
        _put_back(model, wrapped)


def _attributes(model: nn.Module) -> dict[str, object]:
    return {name: vars(model)[name] for name in _ATTRIBUTES if name in vars(model)}


def _put_back(model: nn.Module, attributes: dict[str, object]) -> None:
    # The autocast wrapper leaves forward(), too: stages that run one by one would not have it.
    for name in _ATTRIBUTES:
        vars(model).pop(name, None)
    vars(model).update(attributes)
