"""Comparing stages with the backbone that they were cut from."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eenotes._layout import check_batch_first
from eenotes.network import in_mode
from eenotes.tracing import BY_HAND, kept_random_state, seed_everything

_SIDES = (32, 64, 224)  # of example images: some backbones need room for all their strides
_LENGTH = 16  # of example sequences


def example_for(backbone: nn.Module) -> Tensor:
    """An input ``(2, ...)`` of two samples, made to fit the backbone's first layers.

    Raises:
        ValueError: if none of the usual shapes fits.
    """
    parameter = next(backbone.parameters(), torch.zeros(()))
    with kept_random_state(), in_mode(backbone), torch.no_grad():
        torch.manual_seed(0)
        for candidate in _candidates(backbone):
            x = candidate.to(parameter.device)
            x = x.to(parameter.dtype) if x.is_floating_point() else x
            try:
                answer = pytree.tree_leaves(backbone(x))
            except Exception:  # whatever a foreign forward raises for a shape that it does not take
                continue
            if all(
                len(leaf) == len(x) for leaf in answer if isinstance(leaf, Tensor) and leaf.ndim
            ):
                return x
    raise ValueError(
        f"no example input for {type(backbone).__name__} could be made to compare the stages with: "
        "give one, split(backbone, at=..., example=x)"
    )


def check_stages(backbone: nn.Module, stages: nn.ModuleList, x: Tensor) -> None:
    """Refuse stages that give other answers than the backbone on an example ``x`` ``(B, ...)``.

    Both run in evaluation and in training mode, at the example's batch size and at another one,
    with the same random numbers.  Running statistics are put back.

    Raises:
        ValueError: an answer differs, or a stage does not keep the batch first.
    """
    if not isinstance(x, Tensor) or x.ndim < 1 or len(x) == 0:
        raise ValueError(f"the example must be a batch (B, ...) of at least one sample, got {x!r}")
    check_batch_first(stages, x)
    if len(x) == 1:
        x = torch.cat([x, x])  # batch normalisation cannot train on one sample
    with kept_random_state(), torch.no_grad():
        for training in (False, True):
            for batch in (x, torch.cat([x, x[:1]])):
                for seed in range(2 if training else 1):
                    _compare(backbone, stages, batch, training=training, seed=seed)


def _compare(
    backbone: nn.Module, stages: nn.ModuleList, x: Tensor, *, training: bool, seed: int
) -> None:
    mode = "training" if training else "evaluation"
    with in_mode(backbone, stages, training=training):
        expected = _answer([backbone], x, seed)
        try:
            found = _answer(stages, x, seed)
        except Exception as error:
            raise ValueError(
                f"the stages of {type(backbone).__name__} fail in {mode} mode on an input of shape "
                f"{tuple(x.shape)} that the backbone takes ({error}): a trace has frozen a size or "
                f"a decision; {BY_HAND}"
            ) from error
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape or not torch.allclose(one, other, 1e-3, 1e-5, equal_nan=True):
            same = one.shape == other.shape
            distance = f"{(one - other).abs().max():.2g}" if same else "another shape"
            raise ValueError(
                f"the stages of {type(backbone).__name__} give other answers than the backbone "
                f"in {mode} mode (largest difference: {distance}): a trace has frozen what forward "
                f"decides; {BY_HAND}"
            )


def _answer(modules: Sequence[nn.Module], x: Tensor, seed: int) -> list[Tensor]:
    """The output tensors of modules in a row; buffers are put back."""
    kept = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    seed_everything(seed)
    try:
        for module in modules:
            x = module(x)
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
    return [leaf.float() for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]


def _candidates(backbone: nn.Module) -> Iterator[Tensor]:
    """Inputs that the first layer with weights suggests, then the usual ones."""
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            dimensions = int(type(layer).__name__[4])
            for side in _SIDES if dimensions < 3 else _SIDES[:1]:
                yield torch.randn(2, layer.in_channels, *[side] * dimensions)
            break
        if isinstance(layer, nn.Linear):
            side = math.isqrt(layer.in_features)
            yield torch.randn(2, layer.in_features)
            yield torch.randn(2, _LENGTH, layer.in_features)
            yield torch.randn(2, 1, side, side)
            break
        if isinstance(layer, nn.Embedding):
            yield torch.randint(layer.num_embeddings, (2, _LENGTH))
            break
        if isinstance(layer, nn.RNNBase):
            yield torch.randn(2, _LENGTH, layer.input_size)
            break
        if isinstance(layer, nn.TransformerEncoderLayer | nn.MultiheadAttention):
            width = getattr(layer, "embed_dim", None) or layer.self_attn.embed_dim
            yield torch.randn(2, _LENGTH, width)
            break
    for shape in ((2, 4), (2, 8), (2, 3, 32, 32), (2, 1, 28, 28), (2, 3, 224, 224), (2, 3, 8, 8)):
        yield torch.randn(shape)
