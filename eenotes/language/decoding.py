"""Decoding with an early exit, inside `generate` of `transformers`: alone, or as a draft."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eenotes._checks import require_at_least, require_eval
from eenotes.language.batches import IGNORED, read
from eenotes.language.decoders import TwoParts, decoders
from eenotes.language.exits import ExitHead, ExitModel

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


@torch.no_grad()
def greedy(model: ExitModel, ids: Prompt, *, max_new_tokens: int) -> Generated:
    """Plain greedy decoding by ``transformers``' own `generate`; the exit is not used.

    The prompt is ``(T,)``, pads left out.  ``max_new_tokens`` come, whatever the end of text.

    Raises:
        ValueError: an empty prompt, no new token, token numbers that the model does not know, more
            positions than it has, a model in training mode, or settings of another way of decoding.
    """
    ids = _checked(model, ids, max_new_tokens)
    out, seconds = _generate(model, ids, max_new_tokens)
    depth, read = len(decoders(model.model)), ids.shape[1] + max_new_tokens - 1
    work = depth * max_new_tokens, depth * read
    return Generated(out, ids.shape[1], [False] * max_new_tokens, [], *work, 0, seconds)


@torch.no_grad()
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
    work = parts.layer_passes, parts.token_layers
    return Generated(out, ids.shape[1], early, confidence, *work, 0, seconds)


@torch.no_grad()
def self_speculative(
    model: ExitModel,
    ids: Prompt,
    *,
    max_new_tokens: int,
    draft: int = 4,
    threshold: float = 0.0,
    vocabulary: Tensor | None = None,
) -> Generated:
    """Greedy decoding where the exit drafts and the whole model verifies; the prompt is ``(T,)``.

    The decoders below the exit run once per token: verification goes on from their hidden states
    and their keys and values (Elhoushi et al., 2024, *LayerSkip*).  A token that is not accepted is
    taken out of both caches.  The text is `greedy`'s; in half precision the rounding of several
    tokens at once can decide close calls otherwise.

    Args:
        model, ids, max_new_tokens: as in `greedy`.
        draft: the most tokens of one draft.
        threshold: a draft ends where the exit's largest probability is below it.
        vocabulary: numbers ``(M,)`` of the tokens that are drafted; by default all.

    Raises:
        ValueError: as `greedy`, and for a draft of no token.
    """
    require_at_least(1, draft=draft)
    ids = _checked(model, ids, max_new_tokens)
    parts, exit_scores = TwoParts(model.model, model.at), _scores(model.exit_head, vocabulary)
    accepted, drafted = [], 0

    def loop(_, text: Tensor, logits_processor, **__) -> Tensor:
        nonlocal drafted
        last, end = text, text.shape[1] + max_new_tokens
        while (start := text.shape[1]) < end:
            for _ in range(min(draft, end - start - 1)):
                scores = exit_scores(parts.below(last)[:, -1])
                best = logits_processor(text, scores).softmax(-1).max(-1)
                if threshold and best.values.item() < threshold:
                    break
                last = best.indices[None]
                text = torch.cat([text, last], 1)
            else:
                parts.below(last)
            count = text.shape[1] - start
            scores = parts.above()[0, -count - 1 :].float()
            rows = (logits_processor(text[:, : start + i], z[None]) for i, z in enumerate(scores))
            best = torch.cat(list(rows)).argmax(1)
            right = int((best[:-1] == text[0, start:]).long().cumprod(0).sum())
            parts.forget(count - right)
            last = best[None, right : right + 1]
            text = torch.cat([text[:, : start + right], last], 1)
            accepted.extend([True] * right + [False])
            drafted += count
        return text

    out, seconds = _generate(model, ids, max_new_tokens, custom_generate=loop)
    work = parts.layer_passes, parts.token_layers
    return Generated(out, ids.shape[1], accepted, [], *work, drafted, seconds)


def _scores(exit_head: ExitHead, vocabulary: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The exit's logits ``(1, V)`` of features ``(1, D)``; minus infinity outside a vocabulary."""
    linear = exit_head.linear
    if vocabulary is None:
        return lambda hidden: exit_head(hidden).float()
    vocabulary = vocabulary.to(linear.weight.device)
    weight, bias = linear.weight[vocabulary], linear.bias[vocabulary]

    def scores(hidden: Tensor) -> Tensor:
        found = torch.full((1, linear.out_features), -torch.inf, device=hidden.device)
        logits = nn.functional.linear(exit_head.features(hidden), weight, bias)
        return found.index_copy_(1, vocabulary, logits.float())

    return scores


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
