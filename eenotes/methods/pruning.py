"""Magnitude pruning: which weights of an early exit network go, and what is zero afterwards.

Masks are those of ``torch.nn.utils.prune``.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from eenotes._checks import require_one_of, require_range
from eenotes._wrapping import refresh, remove_masks
from eenotes.network import EarlyExitNetwork
from eenotes.stages import WEIGHTED

Part = Literal["all", "backbone", "exits"]
Scope = Literal["global", "layer"]
PARTS, SCOPES = get_args(Part), get_args(Scope)


def layers(net: EarlyExitNetwork, *, part: Part = "all") -> dict[str, nn.Module]:
    """The linear and convolution layers by name, in the order of execution.

    The classifier at the end belongs to the backbone.  Only weight matrices are pruned, and none in
    `torch.nn.MultiheadAttention` or a recurrent layer, which would not see the masks.

    Raises:
        ValueError: an unknown part, or one without such a layer, as exits that have no weights.
    """
    require_one_of(PARTS, part=part)
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
    """Set the smallest of the **remaining** weights to zero permanently (3.1); in place.

    The modules have a ``weight``, such as the values of `layers`.  ``rate`` is the fraction of
    their remaining weights to remove: of all together (``"global"``), or of each (``"layer"``).
    `eenotes.training.fit` keeps the zeros, also where ``forward`` reads ``layer.weight`` itself.

    Raises:
        ValueError: a bad rate or scope, no modules, weights that are not finite, or nothing left.
    """
    modules = list(modules)
    require_range(0, 1, rate=rate)
    require_one_of(SCOPES, scope=scope)
    weights = [getattr(module, "weight", None) for module in modules]
    if not weights or not all(isinstance(weight, Tensor) for weight in weights):
        raise ValueError("prune_smallest needs at least one layer, each with a weight")
    refresh(modules)
    if not all(module.weight.isfinite().all() for module in modules):
        raise ValueError("a weight is not finite: its magnitude cannot be compared")
    left = [int(getattr(m, "weight_mask", torch.ones_like(m.weight)).sum()) for m in modules]
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
    remove_masks(twin)
    return twin


def _weighted(root: nn.Module) -> list[nn.Module]:
    inside = {m.out_proj for m in root.modules() if isinstance(m, nn.MultiheadAttention)}
    return [m for m in root.modules() if isinstance(m, WEIGHTED) and m not in inside]
