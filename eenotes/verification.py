"""Comparing stages with the backbone that they were cut from."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eenotes._checks import as_input, entering
from eenotes._layout import check_batch_first
from eenotes.network import in_mode, kept_buffers, version_of
from eenotes.tracing import BY_HAND, kept_random_state, seed_everything

_SIDES = (32, 64, 224)  # of example images: some backbones need room for all their strides
_LENGTH = 16  # of example sequences
_FROZEN = f"a trace has frozen what forward decides, or a random number; {BY_HAND}"


def example_for(backbone: nn.Module) -> Tensor:
    """An input ``(2, ...)`` of two samples, made to fit the backbone's first layers.

    Raises:
        ValueError: none of the usual shapes fits.
    """
    with kept_random_state(), in_mode(backbone), torch.no_grad():
        torch.manual_seed(0)
        for candidate in _candidates(backbone):
            x = as_input(candidate, backbone)
            try:
                answer = pytree.tree_leaves(backbone(x.clone()))
            except Exception:  # whatever a foreign forward raises for a shape that it does not take
                continue
            leaves = [leaf for leaf in answer if isinstance(leaf, Tensor) and leaf.ndim]
            if all(len(leaf) == len(x) for leaf in leaves):
                return x
    name = type(backbone).__name__
    raise ValueError(f"no example input for {name} was found: give one, split(..., example=x)")


def check_stages(backbone: nn.Module, stages: nn.ModuleList, x: Tensor) -> None:
    """Refuse stages that give other answers than the backbone on an example ``x`` ``(B, ...)``.

    Both run in both modes, at two batch sizes, with the same random numbers; buffers are put back.

    Raises:
        ValueError: an answer differs, or a stage does not keep the batch first.
    """
    if not isinstance(x, Tensor) or x.ndim < 1 or len(x) == 0:
        raise ValueError(f"the example must be a batch (B, ...) of at least one sample, got {x!r}")
    with entering(x, backbone) as x:
        check_batch_first(stages, x)
    if len(x) == 1:
        x = torch.cat([x, x])  # batch normalisation cannot train on one sample
    batches = (x, torch.cat([x, x[:1]]))
    with kept_random_state(), torch.no_grad():
        for training, seeds in ((False, (1,)), (True, (1, 2))):  # a trace has seen 0
            # a stage compiles its graph anew in each mode: the mode changes twice, not six times
            with in_mode(backbone, stages, training=training):
                for batch, seed in product(batches, seeds):
                    _compare(backbone, stages, batch, training=training, seed=seed)
                _check_kept(stages, x.clone())


def _compare(
    backbone: nn.Module, stages: nn.ModuleList, x: Tensor, *, training: bool, seed: int
) -> None:
    name, mode = type(backbone).__name__, "training" if training else "evaluation"
    expected = _answer([backbone], x, seed)
    try:
        found = _answer(stages, x, seed)
    except Exception as error:
        raise ValueError(
            f"the stages of {name} fail in {mode} mode on an input {tuple(x.shape)} that the "
            f"backbone takes ({error}): {_FROZEN}"
        ) from error
    for one, other in zip(expected, found, strict=True):
        same = one.shape == other.shape
        if not same or not torch.allclose(one, other, 1e-3, 1e-5, equal_nan=True):
            distance = f"{(one - other).abs().max():.2g}" if same else "another shape"
            raise ValueError(
                f"the stages of {name} give other answers than the backbone in {mode} mode (by up "
                f"to {distance}): {_FROZEN}"
            )


def _check_kept(stages: nn.ModuleList, x: Tensor) -> None:
    """Refuse a stage that overwrites its input, which the exit before may still need."""
    with kept_buffers(stages):
        for j, stage in enumerate(stages):
            version, given = version_of(x), x
            x = stage(x)
            if version_of(given) != version:
                raise ValueError(
                    f"no cut is possible before stage {j}, which overwrites its input in place: the"
                    f" exit there would see, or keep, other values; cut elsewhere, or {BY_HAND}"
                )


def _answer(modules: Sequence[nn.Module], x: Tensor, seed: int) -> list[Tensor]:
    """The output tensors of modules in a row; buffers are put back."""
    seed_everything(seed)
    x = x.clone()  # forward may overwrite it
    with kept_buffers(modules):
        for module in modules:
            x = module(x)
    return [leaf.float() for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]


def _candidates(backbone: nn.Module) -> Iterator[Tensor]:
    """Inputs that the first layer with weights suggests, then the usual ones."""
    for layer in backbone.modules():
        shapes = []
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            dimensions = int(type(layer).__name__[4])
            sides = _SIDES if dimensions < 3 else _SIDES[:1]
            shapes = [(layer.in_channels, *[side] * dimensions) for side in sides]
        elif isinstance(layer, nn.Linear):
            width, side = layer.in_features, math.isqrt(layer.in_features)
            shapes = [(width,), (_LENGTH, width), (1, side, side)]
        elif isinstance(layer, nn.RNNBase | nn.MultiheadAttention):
            shapes = [(_LENGTH, getattr(layer, "input_size", None) or layer.embed_dim)]
        elif isinstance(layer, nn.Embedding):
            yield torch.randint(layer.num_embeddings, (2, _LENGTH))
            break
        if shapes:
            yield from (torch.randn(2, *shape) for shape in shapes)
            break
    for shape in ((2, 4), (2, 8), (2, 3, 32, 32), (2, 1, 28, 28), (2, 3, 224, 224), (2, 3, 8, 8)):
        yield torch.randn(shape)
