"""An early exit of a causal language model: after some decoder, one linear layer over the tokens.

It works on any causal language model of `transformers` that keeps its decoders in one list; nothing
here imports `transformers` itself.  Equation numbers are those of chapter 6.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

IGNORED = -100  # the label that transformers' losses leave out

Linear = tuple[Tensor, Tensor]  # weight (V, D), bias (V,)


@dataclass(frozen=True)
class Anatomy:
    """Where a causal language model keeps what an exit needs.

    Attributes:
        owner: the module with the list of decoders.
        name: of that list in it.
        final_norm: between the last decoder and the head; ``None`` if the model has none
            (OPT-350m).
        projection: from the decoders' width to the head's; ``None`` if they are equal.
        head: the final head.
    """

    owner: nn.Module
    name: str
    final_norm: nn.Module | None
    projection: nn.Module | None
    head: nn.Linear

    @property
    def decoders(self) -> nn.ModuleList:
        return getattr(self.owner, self.name)


def anatomy(model: nn.Module) -> Anatomy:
    """Find decoders, final norm, projection and head of a causal language model.

    OPT, Llama, GPT-NeoX, GPT-2 and their kin.

    Raises:
        TypeError: no single list of decoders, or no linear head.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [
        (owner, name)
        for owner in model.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if len(found) != 1 or not isinstance(head, nn.Linear):
        raise TypeError(
            f"{type(model).__name__} is not a causal language model with one list of "
            "config.num_hidden_layers decoders and a linear head"
        )
    owner, name = found[0]
    norms = (
        getattr(owner, key, None) for key in ("final_layer_norm", "norm", "ln_f", "final_layernorm")
    )
    final_norm = next((norm for norm in norms if norm is not None), None)
    return Anatomy(owner, name, final_norm, getattr(owner, "project_out", None), head)


class _ExitHead(nn.Module):
    """The head of an exit: optionally a norm, then one linear layer.

    ``(..., D)`` → ``(..., V)``, the logits of equation (6.8).
    """

    def __init__(self, width: int, vocabulary: int, *, norm: nn.Module | None = None):
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(width, vocabulary)

    def features(self, hidden: Tensor) -> Tensor:
        """What the linear layer sees, ``(..., D)``."""
        return hidden if self.norm is None else self.norm(hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(self.features(hidden))


class ExitModel(nn.Module):
    """A causal language model with one early exit, made by `attach`.

    ``ids (B, T)`` → logits of the exit and of the final head, both ``(B, T, V)``.  The language
    model is the very one that was given, not a copy.
    """

    def __init__(self, model: nn.Module, exit_head: _ExitHead, at: int):
        super().__init__()
        self.model, self.exit_head, self.at = model, exit_head, at

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        with _recorded_hidden_states(self.model, self.at) as seen:
            final = self.model(input_ids=ids, use_cache=False).logits
        return self.exit_head(seen[0]), final

    def exit_logits(self, ids: Tensor) -> Tensor:
        """The exit alone, ``ids (B, T)`` → ``(B, T, V)``: only the first decoders run."""
        return self.exit_head(hidden_states(self.model, ids, at=self.at))

    def features(self, ids: Tensor) -> Tensor:
        """What the exit's linear layer sees, ``(B, T, D)``."""
        return self.exit_head.features(hidden_states(self.model, ids, at=self.at))


def attach(model: nn.Module, *, at: int, norm: bool = False) -> ExitModel:
    """Attach an exit after the first ``at`` decoders.

    Its linear layer has a bias, and PyTorch's own random weights.

    Args:
        model: a causal language model of `transformers`.
        at: how many decoders run before the exit, from 1 to all but one.
        norm: put a copy of the model's final norm before the linear layer, instead of giving it the
            raw output of the decoder.

    Raises:
        TypeError: see `anatomy`.
        ValueError: an exit out of range, or ``norm`` on a model without a final norm.
    """
    parts = anatomy(model)
    last = len(parts.decoders) - 1
    if isinstance(at, bool) or not isinstance(at, int) or not 1 <= at <= last:
        raise ValueError(
            f"an early exit of this model comes after decoder 1..{last}, got at={at!r}"
        )
    if norm and parts.final_norm is None:
        raise ValueError("this model has no final norm to copy: attach with norm=False")
    own_norm = copy.deepcopy(parts.final_norm) if norm else None
    exit_head = _ExitHead(model.config.hidden_size, parts.head.out_features, norm=own_norm)
    weight = parts.head.weight
    return ExitModel(model, exit_head.to(weight.device, weight.dtype), at)


def hidden_states(model: nn.Module, ids: Tensor, *, at: int, **inputs) -> Tensor:
    """The raw output of decoder number ``at`` (from 1): ``ids (B, T)`` → ``(B, T, D)``.

    The decoders after it do not run.

    Args:
        model: a causal language model.
        ids: token numbers.
        at: from 1 to the number of decoders.
        inputs: more of the model's own arguments, for example ``past_key_values``.

    Raises:
        TypeError: see `anatomy`.
        ValueError: ``at`` out of range.
    """
    parts = anatomy(model)
    depth = len(parts.decoders)
    if not 1 <= at <= depth:
        raise ValueError(f"the model has {depth} decoders; at={at} must lie in 1..{depth}")
    inputs.setdefault("use_cache", "past_key_values" in inputs)
    with _recorded_hidden_states(model, at) as seen, only(parts, slice(0, at)):
        parts.owner(input_ids=ids, **inputs)
    return seen[0]


@contextmanager
def only(parts: Anatomy, which: slice) -> Iterator[None]:
    """Within it the model runs a part of its decoders; its key-value cache stays as it is."""
    everything = parts.decoders
    setattr(parts.owner, parts.name, everything[which])
    try:
        yield
    finally:
        setattr(parts.owner, parts.name, everything)


@torch.no_grad()
def load(model: ExitModel, head: Linear) -> ExitModel:
    """Write weight and bias into the exit, in place; the model is returned.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    linear = model.exit_head.linear
    if head[0].shape != linear.weight.shape or head[1].shape != linear.bias.shape:
        raise ValueError(
            f"the exit's weight is {tuple(linear.weight.shape)}, "
            f"the head given {tuple(head[0].shape)}"
        )
    if not all(tensor.isfinite().all() for tensor in head):
        raise ValueError("the head given holds NaN or infinite values")
    linear.weight.copy_(head[0])
    linear.bias.copy_(head[1])
    return model


class FullPrecision(nn.Module):
    """A module without autocast on the CPU.

    There, converting a small model's numbers to bfloat16 takes longer than multiplying them.
    """

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs, **named):
        if next(self.inner.parameters()).device.type != "cpu":
            return self.inner(*inputs, **named)
        with torch.autocast("cpu", enabled=False):
            return self.inner(*inputs, **named)


def align(values: Tensor, labels: Tensor, *, target: str = "next") -> tuple[Tensor, Tensor]:
    """Positions and their classes as one long list, `IGNORED` ones left out.

    Args:
        values: ``(B, T, D)``, one vector per position.
        labels: ``(B, T)``, token numbers.
        target: ``"next"``: the class of a position is the token after it; ``"input"``: its own.

    Returns:
        ``(N, D)``, ``(N,)``.
    """
    if target == "next":
        values, labels = values[:, :-1], labels[:, 1:]
    kept = labels != IGNORED
    return values[kept], labels[kept]


def check_ids(ids: Tensor, vocabulary: int) -> None:
    """Check token numbers.

    Raises:
        ValueError: unless ``ids`` are whole numbers ``(B, T)`` below the size of the head.
    """
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(
            f"token numbers must be whole numbers (B, T), got {ids.dtype} {tuple(ids.shape)}"
        )
    if ids.numel() and (ids.min() < 0 or ids.max() >= vocabulary):
        raise ValueError(
            f"the text has token numbers {int(ids.min())}..{int(ids.max())}, "
            f"the head {vocabulary} tokens: another tokenizer?"
        )


@contextmanager
def _recorded_hidden_states(model: nn.Module, at: int) -> Iterator[list[Tensor]]:
    """The outputs ``(B, T, D)`` of decoder number ``at`` (from 1), one per call within it."""
    seen: list[Tensor] = []

    def note(_, __, output) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = anatomy(model).decoders[at - 1].register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
