"""Which axis of features holds the samples, and which the channels: tested, not guessed."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from eenotes.network import in_mode

_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)  # give (B, C, ...)
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


@torch.no_grad()
def check_batch_first(stages: Iterable[nn.Module], x: Tensor) -> None:
    """Refuse stages in which one sample of a batch ``x`` ``(B, ...)`` changes another.

    Then a layer takes statistics of the batch, or has it in another place, as recurrent and
    attention layers without ``batch_first=True``.
    """
    x = torch.cat([x[:1], x[-1:]])
    other = x.clone()
    other[0] = 0 if x[0].any() else 1
    stages = list(stages)
    with in_mode(*stages):
        for j, stage in enumerate(stages):
            x, other = stage(x), stage(other)
            if not isinstance(x, Tensor):
                return
            what = f"a batch of 2 becomes features of the shape {tuple(x.shape)}"
            if size := x.shape[:1] == (2,):
                what = "one sample changes the features of another"
            if not size or not torch.allclose(x[1], other[1], 1e-3, 1e-5, equal_nan=True):
                raise ValueError(f"stage {j}: {what}; the batch must stay first: batch_first=True")


@torch.no_grad()
def channel_axis(stages: Sequence[nn.Module], x: Tensor) -> int | None:
    """The axis of the channels in the features of stages in a row: 1, -1, or ``None`` if unknown.

    A change of one channel of the last layer with weights shows where it is in the features.
    """
    layers = [m for stage in stages for m in stage.modules() if isinstance(m, _FIRST + _LAST)]
    calls: list[tuple[nn.Module, int]] = []

    def note(layer: nn.Module, _: object, out: Tensor | tuple) -> None:
        out = out if isinstance(out, Tensor) else out[0]
        calls.append((layer, out.shape[1 if isinstance(layer, _FIRST) else -1]))

    before = _run(stages, layers, note, x)
    if not calls:
        return None
    last, width = len(calls) - 1, calls[-1][1]
    calls.clear()

    def change(layer: nn.Module, given: object, out: Tensor | tuple) -> Tensor | tuple | None:
        note(layer, given, out)
        return _raised(layer, out) if len(calls) - 1 == last else None

    changed = (_run(stages, layers, change, x) != before).any(0)
    ends = (0, changed.ndim - 1)
    touched = [changed.movedim(axis, 0).flatten(1).any(1).sum().item() for axis in ends]
    if (touched[0] == 1) != (touched[1] == 1):
        return 1 if touched[0] == 1 else -1
    fits = [changed.shape[axis] == width for axis in ends]
    return (1 if fits[0] else -1) if fits[0] != fits[1] else None


def _run(stages: Sequence[nn.Module], layers: list[nn.Module], hook: Callable, x: Tensor) -> Tensor:
    with ExitStack() as hooks, in_mode(*stages):
        for layer in dict.fromkeys(layers):
            hooks.enter_context(layer.register_forward_hook(hook))
        for stage in stages:
            x = stage(x)
    return x


def _raised(layer: nn.Module, out: Tensor | tuple) -> Tensor | tuple:
    """The output of a layer with a larger first channel."""
    first = out if isinstance(out, Tensor) else out[0]
    first = first.clone()
    channel = first.select(1 if isinstance(layer, _FIRST) else -1, 0)
    channel += 1 + first.abs().max()
    return first if isinstance(out, Tensor) else (first, *out[1:])
