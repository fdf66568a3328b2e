"""Decoding with an early exit: it gives a token alone, or drafts what the whole model verifies.

Both work with the generation loop and the key-value caches of `transformers`, which is imported
only when they are called.
"""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from eenotes._checks import require_eval
from eenotes.language.exits import Anatomy, ExitModel, anatomy, check_ids, hidden_states, only


@dataclass(frozen=True)
class Generated:
    """A text and the work it took.

    Attributes:
        ids: ``(T,)``, prompt and new tokens.
        prompt: how many of them are the prompt.
        early: for every new token, whether it is the exit's; for drafting, whether it was drafted
            and accepted.
        confidence: the exit's largest softmax probability for every new token; empty for drafting.
        layer_passes: how often one decoder was run, on one token or on several at once.  It counts
            where reading weights is the bottleneck, as it is for one sequence at a time.
        token_layers: the same, times the tokens it was run on.  It counts where arithmetic is the
            bottleneck.
        drafted: how many tokens were drafted.
        seconds: wall-clock time.
    """

    ids: Tensor
    prompt: int
    early: list[bool]
    confidence: list[float]
    layer_passes: int
    token_layers: int
    drafted: int
    seconds: float

    @property
    def new(self) -> Tensor:
        """The new tokens."""
        return self.ids[self.prompt :]

    @property
    def tokens_per_second(self) -> float:
        return len(self.new) / self.seconds

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that the whole model accepted; NaN without drafting."""
        return sum(self.early) / self.drafted if self.drafted else float("nan")


@torch.inference_mode()
def greedy(model: ExitModel, ids: Tensor, *, max_new_tokens: int) -> Generated:
    """Plain greedy decoding by ``transformers``' own `generate`; the exit is not used.

    Args:
        model: from `eenotes.language.exits.attach`, in evaluation mode.
        ids: the prompt, ``(T,)``.
        max_new_tokens: at least 1.

    Raises:
        ValueError: an empty prompt, no new token, token numbers that the model does not know, more
            positions than it has, or a model in training mode.
    """
    ids = _checked(model, ids, max_new_tokens)
    with _counted(model.model) as runs:
        start = time.perf_counter()
        out = model.model.generate(ids, **_plain(ids, max_new_tokens))[0]
        seconds = time.perf_counter() - start
    new, depth = len(out) - ids.shape[1], len(anatomy(model.model).decoders)
    return Generated(
        out.cpu(), ids.shape[1], [False] * new, [], depth * len(runs), depth * sum(runs), 0, seconds
    )


@torch.inference_mode()
def early_exit(
    model: ExitModel, ids: Tensor, *, max_new_tokens: int, threshold: float
) -> Generated:
    """Greedy decoding; a token is the exit's where its confidence exceeds the threshold.

    A token that exits early has no keys and values in the decoders above the exit, and later tokens
    attend to them.  So its hidden state waits, and the next token that goes all the way takes the
    waiting ones along in one batch: nothing is approximated.  With the threshold at 1 every token
    goes all the way, and the text is that of `greedy`.

    Args:
        model: from `eenotes.language.exits.attach`, in evaluation mode.
        ids: the prompt, ``(T,)``; it always goes all the way.
        max_new_tokens: at least 1.
        threshold: of the exit's largest softmax probability.

    Raises:
        ValueError: as `greedy`.
    """
    tokens = _checked(model, ids, max_new_tokens)
    parts, at = anatomy(model.model), model.at
    store, waiting = _cache_class()(model.model.config, at), []
    out, early, confidence, passes, work = [tokens], [], [], 0, 0
    above = len(parts.decoders) - at
    start = time.perf_counter()
    for i in range(max_new_tokens):
        store.deep = False
        hidden = hidden_states(model.model, tokens, at=at, past_key_values=store)
        waiting.append((tokens, hidden))
        best = model.exit_head(hidden[:, -1]).float().softmax(-1).max(-1)
        passes += at
        work += at * tokens.shape[1]
        leaves = i > 0 and best.values.item() > threshold
        if leaves:
            tokens = best.indices[None]
        else:
            store.deep = True
            behind = [torch.cat(tensors, 1) for tensors in zip(*waiting, strict=True)]
            tokens = _upper_half(parts, at, *behind, store)[:, -1:].argmax(-1)
            passes += above
            work += above * behind[0].shape[1]
            waiting = []
        out.append(tokens)
        early.append(leaves)
        confidence.append(best.values.item())
    seconds = time.perf_counter() - start
    return Generated(
        torch.cat(out, 1)[0].cpu(), out[0].shape[1], early, confidence, passes, work, 0, seconds
    )


@torch.inference_mode()
def self_speculative(
    model: ExitModel,
    ids: Tensor,
    *,
    max_new_tokens: int,
    draft: int = 4,
    helper: nn.Module | None = None,
) -> Generated:
    """Greedy decoding where the exit drafts and the whole model verifies.

    The text is `greedy`'s; the loop is ``transformers``' assisted generation.

    Args:
        model: from `eenotes.language.exits.attach`, in evaluation mode.
        ids: the prompt, ``(T,)``.
        max_new_tokens: at least 1.
        draft: tokens per draft.
        helper: from `draft_model`, if it was made before.

    Raises:
        ValueError: as `greedy`, and as `draft_model`.
    """
    ids = _checked(model, ids, max_new_tokens)
    helper = draft_model(model) if helper is None else helper
    # transformers would adapt the length
    fixed = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
    helper.generation_config.update(num_assistant_tokens=draft, **fixed)
    with _counted(model.model) as verified, _counted(helper) as drafted:
        start = time.perf_counter()
        out = model.model.generate(ids, assistant_model=helper, **_plain(ids, max_new_tokens))[0]
        seconds = time.perf_counter() - start
    new, depth = len(out) - ids.shape[1], len(anatomy(model.model).decoders)
    # Each verification hands in the drafted tokens and the one before them (the first: the prompt),
    # and yields one token of its own.
    count = sum(verified) - ids.shape[1] - (len(verified) - 1)
    accepted = min(new - len(verified), count)
    early = [True] * accepted + [False] * (new - accepted)  # how many, not which
    passes = depth * len(verified) + model.at * len(drafted)
    work = depth * sum(verified) + model.at * sum(drafted)
    return Generated(out.cpu(), ids.shape[1], early, [], passes, work, count, seconds)


def draft_model(model: ExitModel) -> nn.Module:
    """The decoders below the exit, and the exit, as a causal language model of the same class.

    It shares every weight.  Whatever takes a model takes it: ``generate(assistant_model=...)``, for
    example.

    Raises:
        ValueError: an exit with a norm on a model without a final norm, which has no place for it.
    """
    lm = model.model
    shared = {
        id(tensor): tensor
        for module in (lm, model.exit_head)
        for tensor in (*module.parameters(), *module.buffers())
    }
    small = copy.deepcopy(lm, memo=dict(shared))
    parts, exit_head = anatomy(small), copy.deepcopy(model.exit_head, memo=dict(shared))
    for name, child in parts.owner.named_children():
        if child is parts.final_norm:
            setattr(parts.owner, name, exit_head.norm or nn.Identity())
        elif child is parts.projection:
            setattr(parts.owner, name, None)
    if parts.final_norm is None and exit_head.norm is not None:
        raise ValueError("an exit with a norm needs a model with a final norm")
    setattr(parts.owner, parts.name, parts.decoders[: model.at])
    small.set_output_embeddings(exit_head.linear)
    small.config.num_hidden_layers = model.at
    return small.eval()


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

        def _level(self, layer: int) -> int:
            return max(layer, self.at) if self.deep else layer

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return super().get_seq_length(self._level(layer_idx))

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
            return super().get_mask_sizes(query_length, self._level(layer_idx))

        def get_query_offset(self, layer_idx: int = 0) -> int:
            return super().get_query_offset(self._level(layer_idx))

    return TwoDepthCache


def _upper_half(parts: Anatomy, at: int, ids: Tensor, hidden: Tensor, store) -> Tensor:
    """From hidden states before decoder ``at`` to the final logits, ``(B, T, V)``.

    The model itself finds positions and mask.
    """

    def replace(_, args, kwargs):
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    handle = parts.decoders[at].register_forward_pre_hook(replace, with_kwargs=True)
    try:
        with only(parts, slice(at, None)):
            last = parts.owner(
                input_ids=ids, past_key_values=store, use_cache=True
            ).last_hidden_state
    finally:
        handle.remove()
    return parts.head(last)


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """The number of tokens of each call of the model."""
    runs: list[int] = []

    def note(_, args, kwargs) -> None:
        runs.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    handle = anatomy(model).decoders[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield runs
    finally:
        handle.remove()


def _plain(ids: Tensor, max_new_tokens: int) -> dict:
    """Options of ``generate``: greedy, to the last new token, whatever the end of text."""
    return {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }


def _checked(model: ExitModel, ids: Tensor, max_new_tokens: int) -> Tensor:
    if ids.ndim != 1 or not len(ids):
        raise ValueError(
            f"the prompt must be a vector of at least one token number, got {tuple(ids.shape)}"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    require_eval(model.modules(), what="model", before="generating")
    check_ids(ids[None], model.exit_head.linear.out_features)
    longest = getattr(model.model.config, "max_position_embeddings", None)
    total = len(ids) + max_new_tokens
    if longest is not None and total > longest:
        raise ValueError(f"prompt and new tokens are {total}; the model has {longest} positions")
    return ids[None].to(model.exit_head.linear.weight.device)
