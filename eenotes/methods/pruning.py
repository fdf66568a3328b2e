"""Magnitude pruning: which weights of an early exit network go, and what is zero afterwards.

Masks are those of ``torch.nn.utils.prune``.  When weights go, and what is trained in between, says
`eenotes.methods.pruning_schedule`.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from eenotes.network import EarlyExitNetwork

Part = Literal["all", "backbone", "exits"]
Scope = Literal["global", "layer"]
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # layers that are pruned


def layers(net: EarlyExitNetwork, *, part: Part = "all") -> dict[str, nn.Module]:
    """The linear and convolution layers by name, in the order of execution.

    The classifier at the end belongs to the backbone.  Only weight matrices are pruned: no biases,
    no batch normalisation.

    Raises:
        ValueError: an unknown part, or a part without such a layer: a network without exits, or
            with exits that have no weights.
    """
    if part not in ("all", "backbone", "exits"):
        raise ValueError(f"part={part!r} must be 'all', 'backbone' or 'exits'")
    # a shared layer: its first name
    names = {id(module): name for name, module in reversed(list(net.named_modules()))}
    found: dict[str, nn.Module] = {}
    for j, stage in enumerate(net.stages):
        roots = [] if part == "exits" else [stage]
        roots += [] if part == "backbone" else list(net.exits[j : j + 1])
        found |= {names[id(m)]: m for root in roots for m in _weighted(root)}
    if part != "backbone" and not _weighted(net.exits):
        raise ValueError(f"no exit to prune: {len(net.exits)} early exits without weights")
    if not found:
        raise ValueError(f"no linear or convolution layer in part {part!r} of the network")
    return found


def prune_smallest(modules: Iterable[nn.Module], *, rate: float, scope: Scope = "global") -> None:
    """Set the smallest of the **remaining** weights to zero for good (3.1); in place.

    Args:
        modules: layers with a ``weight``, such as the values of `layers`; a layer already pruned
            keeps its zeros.
        rate: fraction of the remaining weights to remove, strictly between 0 and 1.
        scope: ``"global"`` compares the weights of all modules with each other, ``"layer"`` takes
            the fraction from each layer.

    Raises:
        ValueError: a bad rate or scope, no modules, weights that are not finite, or nothing left.
    """
    modules = list(modules)
    check_rate(rate)
    check_scope(scope)
    if not modules or not all(
        isinstance(getattr(module, "weight", None), Tensor) for module in modules
    ):
        raise ValueError("prune_smallest needs at least one layer, each with a weight")
    refresh(modules)
    if not all(module.weight.isfinite().all() for module in modules):
        raise ValueError("a weight is not finite: its magnitude cannot be compared")
    left = [_remaining(module) for module in modules]
    pools = [sum(left)] if scope == "global" else left
    if not sum(round(rate * count) for count in pools):
        raise ValueError(f"nothing left to prune: {rate=} takes none of {sum(left)} weights")
    if scope == "global":
        pairs = [(module, "weight") for module in modules]
        prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=float(rate))
    else:
        for module in modules:
            prune.l1_unstructured(module, "weight", amount=float(rate))
    refresh(modules)


def sparsity(modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """The share of each layer's weights that are zero, in [0, 1]."""
    refresh(modules.values())
    weights = {name: module.weight for name, module in modules.items()}
    return {name: (weight == 0).sum().item() / weight.numel() for name, weight in weights.items()}


def permanent(net: EarlyExitNetwork) -> EarlyExitNetwork:
    """An independent copy with the same outputs, whose pruned weights are plain zeros: no masks."""
    refresh(net.modules())
    twin = copy.deepcopy(net)
    for module in twin.modules():
        for hook in _masks(module):
            prune.remove(module, hook._tensor_name)
    return twin


@torch.no_grad()
def refresh(modules: Iterable[nn.Module]) -> None:
    """Recompute pruned weights from their masks.

    After an optimizer step ``weight`` is still what the last forward pass used.
    """
    for module in modules:
        for hook in _masks(module):
            hook(module, None)


def check_rate(rate: float) -> None:
    """Check a rate.

    Raises:
        ValueError: unless it lies strictly between 0 and 1.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
        raise ValueError(f"rate={rate!r} must be a share of the weights, strictly between 0 and 1")


def check_scope(scope: str) -> None:
    """Check a scope.

    Raises:
        ValueError: unless it is ``"global"`` or ``"layer"``.
    """
    if scope not in ("global", "layer"):
        raise ValueError(f"scope={scope!r} must be 'global' or 'layer'")


def _weighted(root: nn.Module) -> list[nn.Module]:
    return [module for module in root.modules() if isinstance(module, WEIGHTED)]


def _masks(module: nn.Module) -> list[prune.BasePruningMethod]:
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, prune.BasePruningMethod)]


def _remaining(module: nn.Module) -> int:
    mask = getattr(module, "weight_mask", None)
    return module.weight.numel() if mask is None else int(mask.sum())
