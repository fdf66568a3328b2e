"""What `training.fit` changes around a model while it trains, and restores afterwards."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset, Subset

from eenotes.network import in_mode, kept_buffers


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers that follow from the seed alone; the generators outside stay as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 10_007)  # accelerate's sampler starts from it
        yield


@contextmanager
def prepared(
    accelerator, model: nn.Module, part: nn.Module, optimizer, loader: DataLoader
) -> Iterator[tuple]:
    """Model, optimizer and loader for all processes; no gradients outside ``part``."""
    from accelerate.utils import convert_to_fp32

    inside = set(map(id, part.parameters()))
    frozen = [p for p in model.parameters() if id(p) not in inside and p.requires_grad]
    masked = [part for part in model.modules() if masks(part)]
    for p in frozen:
        p.requires_grad_(False)
    try:
        with (
            # a forward may read layer.weight, whose mask only a call of the layer would see
            model.register_forward_pre_hook(partial(renew, masked)),
            # a loss is not in half precision; `accelerator.prepare` would change ``model.forward``
            model.register_forward_hook(
                lambda _, __, out: convert_to_fp32(out) if accelerator.native_amp else None
            ),
        ):
            several = accelerator.num_processes > 1
            net = nn.parallel.DistributedDataParallel(model) if several else model
            yield net, *accelerator.prepare(optimizer, loader)
    finally:
        for p in frozen:
            p.requires_grad_(True)
        refresh(model.modules())
        accelerator.free_memory()


def masks(module: nn.Module) -> list[prune.BasePruningMethod]:
    """The masks of pruning on the parameters of one module."""
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def renew(modules: Iterable[nn.Module], *_: object) -> None:
    """Compute weights anew from their masks, as PyTorch does where it calls their layer."""
    for module in modules:
        for mask in masks(module):
            mask(module, None)


@torch.no_grad()
def refresh(modules: Iterable[nn.Module]) -> None:
    """Compute weights anew without a gradient: an optimizer step moves what is under the masks."""
    renew(modules)


def remove_masks(net: nn.Module) -> None:
    """Make masks permanent, in place: the weights keep their zeros."""
    for module in net.modules():
        for mask in masks(module):
            prune.remove(module, mask._tensor_name)


def check_single_samples(
    model: nn.Module, part: nn.Module, dataset: Dataset, loss: Callable, *, batch_size: int
) -> None:
    """Refuse a last batch of one sample from which batch normalisation in ``part`` cannot learn.

    It needs more than one value per channel: a feature map, no vector.  The model is tried on the
    first sample, which changes nothing.
    """
    norms = any(isinstance(m, _BatchNorm) for m in part.modules())
    if not norms or not (batch_size == 1 or len(dataset) % batch_size == 1):
        return
    from accelerate.utils import send_to_device

    device = next(model.parameters()).device
    batch = send_to_device(next(iter(DataLoader(Subset(dataset, [0])))), device)
    with kept_buffers([model]), in_mode(model), torch.no_grad(), own_randomness(device, 0):
        part.train()
        try:
            loss(model, batch)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                what = f"the last batch would hold 1 of {len(dataset)} samples"
                what += f" at a batch size of {batch_size} ({error})"
                raise ValueError(f"{what}: choose another, or leave a sample out") from error
