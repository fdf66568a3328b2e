"""The decoders of a causal language model, run in two parts: below an exit and above it.

The model's own forward runs both, with its whole list of decoders, so that masks, positions and
kinds of layers are the model's.  Below, it is left after the decoder before the exit; above, the
decoders below the exit hand on what they gave before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from eenotes.network import in_mode

Output = Tensor | tuple  # a decoder's: hidden states (B, T, D), alone or as the first of several


def decoders(model: nn.Module) -> nn.ModuleList:
    """The list of the model's decoders.

    Raises:
        TypeError: no single list of ``config.num_hidden_layers`` modules.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList))
    found = {name: module for name, module in lists if len(module) == depth}
    # a list inside of a decoder, such as experts, may happen to be as long
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        name = type(model).__name__
        raise TypeError(f"{name} is not a causal language model with one list of decoders")
    return found[outer[0]]


def hidden_of(output: Output) -> Tensor:
    """The hidden states in what a decoder returns, ``(B, T, D)``."""
    return output[0] if isinstance(output, tuple) else output


def run_below(model: nn.Module, ids: Tensor, *, at: int, **inputs) -> Output:
    """What decoder number ``at`` (from 1) returns on ``ids (B, T)``; those after it do not run.

    Raises:
        TypeError: the model does not run that decoder.
    """
    inputs.setdefault("use_cache", "past_key_values" in inputs)

    def leave(_, __, output) -> None:
        raise _Left(output)

    with decoders(model)[at - 1].register_forward_hook(leave):
        try:
            model(input_ids=ids, **inputs)
        except _Left as left:
            return left.output
    raise TypeError(f"{type(model).__name__} does not run its decoder {at}")


class _Left(Exception):
    """The forward ends here, with a decoder's output."""

    def __init__(self, output: Output):
        self.output = output


class TwoParts:
    """The two parts of a model on one growing text, each with its key-value cache.

    Tokens that ran below wait until `above` takes them along, in one batch.
    """

    layer_passes = 0  #: runs of one decoder so far
    token_layers = 0  #: the same, times the tokens

    def __init__(self, model: nn.Module, at: int):
        self._model, self._at, self._depth = model, at, len(decoders(model))
        self._store, self._waiting = _cache_class()(model.config, at), []
        self._store.activate_past_recording()  # a window keeps what `forget` may bring back

    def below(self, ids: Tensor) -> Tensor:
        """Hidden states of the next tokens ``(1, T)`` at the exit, ``(1, T, D)``."""
        if self._store.deep:
            self._store.crop(0)  # windows let go what lies outside of them
        self._store.deep = False
        output = run_below(self._model, ids, at=self._at, past_key_values=self._store)
        self._waiting.append((ids, output))
        self._count(self._at, ids.shape[1])
        return hidden_of(output)

    def above(self) -> Tensor:
        """The model's logits ``(1, T, V)`` of all tokens that waited."""
        ids, outputs = zip(*self._waiting, strict=True)
        hidden = torch.cat([hidden_of(output) for output in outputs], 1)
        output = (hidden, *outputs[-1][1:]) if isinstance(outputs[-1], tuple) else hidden
        self._store.deep, self._waiting = True, []
        self._count(self._depth - self._at, hidden.shape[1])
        with _skipped(decoders(self._model)[: self._at], output):
            inputs = {"input_ids": torch.cat(ids, 1), "past_key_values": self._store}
            return self._model(**inputs, use_cache=True).logits

    def forget(self, count: int) -> None:
        """Take back the last tokens, after `above`: the text goes on before them."""
        self._store.crop(-count)

    def _count(self, layers: int, tokens: int) -> None:
        self.layer_passes += layers
        self.token_layers += layers * tokens


def check_two_parts(model: nn.Module, at: int) -> None:
    """Compare the two parts with the whole model on six tokens.

    Raises:
        TypeError: a model with a recurrent state, or whose parts are not the whole.
    """
    name = type(model).__name__
    if getattr(model, "_is_stateful", False) or _cache_class()(model.config, at).recurrent:
        raise TypeError(
            f"{name} keeps a recurrent state, which a token that exits early would leave behind: "
            "use a model whose decoders all attend"
        )
    ids = torch.arange(6, device=next(model.parameters()).device)[None]

    def in_two_parts() -> Tensor:  # the third and fourth token wait for the fifth
        parts, logits = TwoParts(model, at), []
        for i, tokens in enumerate(ids.split([2, 1, 1, 1, 1], 1)):
            parts.below(tokens)
            logits += [] if i in (1, 2) else [parts.above()]
        parts.forget(1)
        parts.below(ids[:, -1:])
        return torch.cat([*logits[:-1], parts.above()], 1)

    with in_mode(model), torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        try:
            found = in_two_parts()
        except Exception as error:
            what = f"{name} does not run in two parts, below and above decoder {at}"
            raise TypeError(f"{what}: {error}") from error
    if not close(found, expected):
        raise TypeError(
            f"{name} in two parts, below and above decoder {at}, gives other logits than whole: it "
            "hands on more than one hidden state, keeps other caches, or attends to later tokens"
        )


def close(found: Tensor, expected: Tensor, *, least: float = 0.0) -> bool:
    """Whether logits ``(..., K)`` are equal up to rounding in their precision, or the ``least``."""
    tolerance = max(least, torch.finfo(expected.dtype).eps ** 0.5) * expected.abs().max()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerance)


@contextmanager
def _skipped(skipped: nn.ModuleList, output: Output) -> Iterator[None]:
    """Within it these decoders give ``output`` without running; the list keeps its length."""
    before = [dict(vars(decoder)) for decoder in skipped]
    for decoder in skipped:
        decoder.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for decoder, attributes in zip(skipped, before, strict=True):
            del decoder.forward
            vars(decoder).update(attributes)


@cache
def _cache_class() -> type:
    from transformers import DynamicCache

    class TwoDepthCache(DynamicCache):
        """A `DynamicCache` whose upper decoders are behind its lower ones.

        ``deep`` says whose length the model sees.
        """

        def __init__(self, config, at: int):
            super().__init__(config=config)
            self.at, self.deep = at, False

        @property
        def recurrent(self) -> bool:
            """Whether a layer keeps a state that every token changes."""
            kinds = {kind.__name__ for layer in self.layers for kind in type(layer).__mro__}
            return any(kind.startswith("LinearAttention") for kind in kinds)

        def _level(self, layer: int) -> int:
            """The layer to look at: above the exit, and of the same kind where there is one."""
            if not self.deep or layer >= self.at:
                return layer
            kinds = self.is_sliding
            alike = (i for i in range(self.at, len(kinds)) if kinds[i] == kinds[layer])
            return next(alike, self.at)

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return super().get_seq_length(self._level(layer_idx))

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
            return super().get_mask_sizes(query_length, self._level(layer_idx))

        def get_query_offset(self, layer_idx: int = 0) -> int:
            return super().get_query_offset(self._level(layer_idx))

    return TwoDepthCache
