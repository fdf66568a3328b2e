"""Decoding with an early exit, inside `generate` of `transformers`: alone, or as a draft."""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eenotes._checks import require_at_least, require_eval
from eenotes.language.batches import IGNORED, read
from eenotes.language.decoders import TwoParts, decoders
from eenotes.language.drafting import draft_model
from eenotes.language.exits import ExitModel

Prompt = Tensor | Mapping[str, Tensor]  # (T,), or a tokenizer's input_ids and attention_mask


@dataclass(frozen=True)
class Generated:
    """A text and the work it took."""

    ids: Tensor  #: ``(T,)``, prompt and new tokens
    prompt: int  #: how many of them are the prompt
    early: list[bool]  #: is a new token the exit's; for drafting: was it drafted and accepted
    confidence: list[float]  #: the exit's largest probability, per new token; none for drafting
    layer_passes: int  #: runs of one decoder, which count where reading weights takes the time
    token_layers: int  #: the same, times the tokens: counts where arithmetic takes the time
    drafted: int  #: how many tokens were drafted
    seconds: float  #: wall-clock time

    @property
    def new(self) -> Tensor:
        """The new tokens."""
        return self.ids[self.prompt :]

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that the whole model accepted; NaN without drafting."""
        return sum(self.early) / self.drafted if self.drafted else float("nan")


@torch.inference_mode()
def greedy(model: ExitModel, ids: Prompt, *, max_new_tokens: int) -> Generated:
    """Plain greedy decoding by ``transformers``' own `generate`; the exit is not used.

    The prompt is ``(T,)``, pads left out.  ``max_new_tokens`` come, whatever the end of text.

    Raises:
        ValueError: an empty prompt, no new token, token numbers that the model does not know, more
            positions than it has, a model in training mode, or settings of another way of decoding.
    """
    ids = _checked(model, ids, max_new_tokens)
    with _counted(model.model) as runs:
        out, seconds = _generate(model, ids, max_new_tokens)
    early, depth = [False] * max_new_tokens, len(decoders(model.model))
    passes, work = depth * len(runs), depth * sum(runs)
    return Generated(out, ids.shape[1], early, [], passes, work, 0, seconds)


@torch.inference_mode()
def early_exit(
    model: ExitModel, ids: Prompt, *, max_new_tokens: int, threshold: float
) -> Generated:
    """Greedy decoding; a token is the exit's where its largest probability exceeds the threshold.

    A token that exits early has no keys and values above the exit, which later tokens attend to.
    So its hidden state waits, and the next token that goes all the way takes the waiting ones along
    in one batch: nothing is approximated.  With the threshold at 1 every token goes all the way, as
    the prompt ``(T,)`` always does, and the text is that of `greedy`.
    """
    ids = _checked(model, ids, max_new_tokens)
    parts, early, confidence = TwoParts(model.model, model.at), [], []

    def loop(_, text: Tensor, logits_processor, **__) -> Tensor:
        tokens = text
        for i in range(max_new_tokens):
            logits = model.exit_head(parts.below(tokens)[:, -1])
            best = logits_processor(text, logits.float()).softmax(-1).max(-1)
            tokens = best.indices[None]
            early.append(i > 0 and best.values.item() > threshold)
            confidence.append(best.values.item())
            if not early[-1]:
                scores = logits_processor(text, parts.above()[:, -1].float())
                tokens = scores.argmax(-1)[None]
            text = torch.cat([text, tokens], 1)
        return text

    out, seconds = _generate(model, ids, max_new_tokens, custom_generate=loop)
    at, rest = model.at, len(decoders(model.model)) - model.at
    below = ids.shape[1] + len(early) - 1  # tokens that ran there
    above = below - early[::-1].index(False)  # the last early ones still wait
    passes, work = at * len(early) + rest * early.count(False), at * below + rest * above
    return Generated(out, ids.shape[1], early, confidence, passes, work, 0, seconds)


@torch.inference_mode()
def self_speculative(
    model: ExitModel,
    ids: Prompt,
    *,
    max_new_tokens: int,
    draft: int = 4,
    helper: nn.Module | None = None,
) -> Generated:
    """Greedy decoding where the exit drafts and the whole model verifies; the prompt is ``(T,)``.

    The text is `greedy`'s; the loop is ``transformers``' assisted generation with ``draft`` tokens
    per draft and a ``helper``, by default `eenotes.language.drafting.draft_model`.  In half
    precision the rounding of several tokens at once can decide close calls otherwise.
    """
    ids = _checked(model, ids, max_new_tokens)
    helper = draft_model(model) if helper is None else helper
    # transformers would adapt the length
    fixed = {"num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}
    helper.generation_config.update(num_assistant_tokens=draft, **fixed)
    with _counted(model.model) as verified, _counted(helper) as drafted:
        out, seconds = _generate(model, ids, max_new_tokens, assistant_model=helper)
    new, depth = len(out) - ids.shape[1], len(decoders(model.model))
    # Each verification hands in the drafted tokens and the one before them (the first: the prompt),
    # and yields one token of its own.
    count = sum(verified) - ids.shape[1] - (len(verified) - 1)
    accepted = min(new - len(verified), count)
    early = [True] * accepted + [False] * (new - accepted)  # how many, not which
    passes = depth * len(verified) + model.at * len(drafted)
    work = depth * sum(verified) + model.at * sum(drafted)
    return Generated(out, ids.shape[1], early, [], passes, work, count, seconds)


@contextmanager
def _counted(model: nn.Module) -> Iterator[list[int]]:
    """The number of tokens of each call of the model."""
    runs: list[int] = []

    def note(_, args, kwargs) -> None:
        hidden = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        runs.append(hidden.shape[1])

    with decoders(model)[0].register_forward_pre_hook(note, with_kwargs=True):
        yield runs


def _generate(model: ExitModel, ids: Tensor, count: int, **options) -> tuple[Tensor, float]:
    """The text ``(T,)``, to the last new token whatever the end of text, and what it took."""
    options |= {"attention_mask": torch.ones_like(ids), "max_new_tokens": count}
    start = time.perf_counter()
    out = model.model.generate(ids, **options, **_GREEDY)[0].cpu()
    return out, time.perf_counter() - start


_GREEDY = {
    "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "use_cache": True,
    "cache_implementation": None, "return_dict_in_generate": False, "eos_token_id": None,
    "pad_token_id": 0, "max_time": None, "stop_strings": None,
}  # fmt: skip


def _checked(model: ExitModel, ids: Prompt, max_new_tokens: int) -> Tensor:
    """The prompt without pads, ``(1, T)``, on the model's device."""
    head = model.exit_head.linear
    prompt = ids if isinstance(ids, Mapping) else {"input_ids": ids}
    parts = {name: part for name, part in prompt.items() if name in ("input_ids", "attention_mask")}
    rows = {n: p[None] if isinstance(p, Tensor) and p.ndim == 1 else p for n, p in parts.items()}
    require_at_least(1, max_new_tokens=max_new_tokens)
    require_eval(model.modules(), what="model", before="generating")
    tokens, labels = read(rows, model.model, vocabulary=head.out_features)
    if len(tokens) != 1:
        raise ValueError(f"one prompt (T,) at a time is continued, got {tuple(tokens.shape)}")
    tokens = tokens[labels != IGNORED][None]
    if not tokens.numel():
        raise ValueError("the prompt must hold at least one token number that is no padding")
    longest = getattr(model.model.config, "max_position_embeddings", None)
    total = tokens.shape[1] + max_new_tokens
    if longest is not None and total > longest:
        raise ValueError(f"prompt and new tokens are {total}; the model has {longest} positions")
    _check_settings(model.model.generation_config)
    return tokens.to(head.weight.device)


def _check_settings(settings) -> None:
    """Refuse settings that ask for more than one token after the other, each from its logits."""
    tried = copy.deepcopy(settings)
    tried.update(**_GREEDY)
    mode = tried.get_generation_mode().value
    refused = [n for n, fine in _REFUSED.items() if getattr(settings, n, None) not in (None, fine)]
    if mode != "greedy_search" or refused:
        raise ValueError(
            f"the model's generation settings hold {', '.join(refused) or mode}, which decoding "
            "with an exit does not do: set it to None in model.generation_config"
        )


# with what they do no harm; the first needs another pass of the model, the others an end of text,
# and no text ends here
_REFUSED = {
    "guidance_scale": 1, "min_length": 0, "min_new_tokens": 0,
    "exponential_decay_length_penalty": None,
}  # fmt: skip
