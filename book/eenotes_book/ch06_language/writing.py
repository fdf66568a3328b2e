"""Uses of the exit: texts that it drafts, or that are written with its help."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes.inference import Outcome, simulate
from eenotes.language import decoding, evaluation, exits
from eenotes.language.exits import Linear
from eenotes.rules import Confidence
from eenotes_book import scale
from eenotes_book.ch06_language.before_training import MeasuredExit
from eenotes_book.language_models import LanguageModel

_DRAFT = 3  # tokens per draft
_LOSS = 0.02  # of accuracy, that a common threshold may cost


def drafted(lm: LanguageModel, measured: MeasuredExit, heads: dict[str, Linear]) -> pd.DataFrame:
    """Self-speculative decoding with each head beside plain greedy decoding.

    The settings say how many prompts from the test split are continued, and how long they are.

    Returns:
        Indexed by head: ``acceptance``, ``layer_passes`` and ``token_layers`` (both per new
        token), ``tokens_per_second``, ``identical``.
    """
    prompts, new = _prompts(lm)
    plain = [decoding.greedy(measured.exit, prompt, max_new_tokens=new) for prompt in prompts]
    runs = {"greedy": plain}
    for name, head in heads.items():
        model = exits.load(measured.exit, head)
        runs[name] = [
            decoding.self_speculative(model, prompt, max_new_tokens=new, draft=_DRAFT)
            for prompt in prompts
        ]
    rows = {}
    for name, texts in runs.items():
        count = sum(text.drafted for text in texts)
        accepted = sum(sum(text.early) for text in texts)
        same = all(torch.equal(a.ids, b.ids) for a, b in zip(texts, plain, strict=True))
        work = {"acceptance": accepted / count if count else float("nan")} | _work(texts)
        rows[name] = work | {"identical": same}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("drafting by")


def written(
    lm: LanguageModel, measured: MeasuredExit, head: Linear, *, thresholds: Sequence[float]
) -> pd.DataFrame:
    """Greedy decoding with an early exit at several thresholds.

    Returns:
        Indexed by threshold: ``early`` (share of the new tokens), ``layer_passes``,
        ``token_layers``, ``tokens_per_second``, and the ``perplexity`` of what was written, as the
        whole model sees it.
    """
    prompts, new = _prompts(lm)
    exits.load(measured.exit, head)
    rows = {}
    for threshold in thresholds:
        texts = [
            decoding.early_exit(measured.exit, prompt, max_new_tokens=new, threshold=threshold)
            for prompt in prompts
        ]
        early = sum(sum(text.early) for text in texts) / sum(len(text.new) for text in texts)
        ids = torch.stack([text.ids for text in texts])
        perplexity = _perplexity(measured.exit.model, ids, lm.settings.prompt)
        rows[threshold] = {"early": early} | _work(texts) | {"perplexity": perplexity}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("threshold")


@torch.no_grad()
def exit_logits(lm: LanguageModel, heads: dict[int, Linear], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of exits after some decoders, and of the final head.

    Args:
        lm: the language model.
        heads: by the number of decoders before the exit.
        ids: token numbers ``(B, T)``.

    Returns:
        Logits ``(J, N, V)`` and the next tokens ``(N,)``, on the CPU.
    """
    rows = []
    for at, (weight, bias) in heads.items():
        features, _ = evaluation.collect(lm.exited(at=at), [ids])
        rows.append(features @ weight.cpu().T + bias.cpu())
    final = lm.model(input_ids=ids.to(scale.device()), use_cache=False).logits[:, :-1]
    return torch.stack([*rows, final.flatten(0, 1).float().cpu()]), ids[:, 1:].flatten()


def _common_threshold(logits: Tensor, labels: Tensor) -> float:
    """The lowest of 50 common thresholds that costs at most two points of accuracy.

    1 if none does.  The arguments are those that `exit_logits` returns.
    """
    goal = (logits[-1].argmax(1) == labels).cpu().double().mean() - _LOSS
    best = 1.0
    for threshold in torch.linspace(0.98, 0, 50).tolist():
        outcome = simulate(logits, Confidence(threshold))
        if (outcome.prediction == labels).cpu().double().mean() < goal:
            break
        best = threshold
    return best


def leaving(
    lm: LanguageModel, heads: dict[int, Linear], ids: Tensor
) -> tuple[Outcome, Tensor, float]:
    """Where each next token of ``ids`` exits, at a common threshold.

    Returns:
        The outcome, the next tokens, and the threshold, chosen on rows of validation text.
    """
    threshold = _common_threshold(*exit_logits(lm, heads, lm.text.val[:30]))
    logits, labels = exit_logits(lm, heads, ids)
    return simulate(logits, Confidence(threshold)), labels, threshold


def _prompts(lm: LanguageModel) -> tuple[Tensor, int]:
    """Prompts ``(N, T)``, and how many tokens come to each."""
    return lm.text.test[
        : lm.settings.prompts, : lm.settings.prompt
    ], lm.settings.length - lm.settings.prompt


def _work(texts: Sequence[decoding.Generated]) -> dict[str, float]:
    """Decoders run per new token, and tokens per second."""
    count = sum(len(text.new) for text in texts)
    return {
        "layer_passes": sum(text.layer_passes for text in texts) / count,
        "token_layers": sum(text.token_layers for text in texts) / count,
        "tokens_per_second": count / sum(text.seconds for text in texts),
    }


@torch.no_grad()
def _perplexity(model: nn.Module, ids: Tensor, prompt: int) -> float:
    """Of the tokens after the prompt."""
    ids = ids.to(scale.device())
    logits = model(input_ids=ids, use_cache=False).logits[:, prompt - 1 : -1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, prompt:].flatten())
    return loss.exp().item()
