"""Question 6, class means of a language model that is trained on a reward."""

import copy
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.language import exits, initialisation, token_statistics
from eenotes.network import in_mode
from eenotes_book import fine_tuning
from eenotes_book.ch08_open.networks import device_of
from eenotes_book.ch08_open.settings import Reward
from eenotes_book.ch08_open.stale import FRESH, moved
from eenotes_book.language_models import LanguageModel, next_token_loss


def word_reward(b: LanguageModel) -> Tensor:
    """The reward of every token, ``(V,)``: 1 for a space and letters, else 0.

    Such a token begins a plain word.
    """
    pieces = [b.text.decode([v]) for v in range(b.text.vocabulary)]
    return torch.tensor([float(piece.startswith(" ") and piece[1:].isalpha()) for piece in pieces])


@torch.no_grad()
def sample(model: nn.Module, prompts: Tensor, *, new: int, generator: torch.Generator) -> Tensor:
    """Continue prompts ``(N, T)`` by ``new`` tokens drawn from the model: ``(N, T + new)``."""
    ids = prompts
    with in_mode(model):
        for _ in range(new):
            logits = model(input_ids=ids, use_cache=False).logits[:, -1]
            drawn = torch.multinomial(logits.float().softmax(1).cpu(), 1, generator=generator)
            ids = torch.cat([ids, drawn.to(ids.device)], 1)
    return ids


def reward_run(b: LanguageModel, s: Reward, *, factor: float, seed: int) -> pd.DataFrame:
    """Reward-ranked fine-tuning (Dong et al., 2023), and the exit that was set before it.

    In each round the model continues prompts, the continuations with the largest share of plain
    words are kept, and it is trained on them.

    Returns:
        One row per round (0: before) and way of setting the exit: ``seed``, ``round``, ``head``,
        ``agreement`` of the exit with the final head on what the model of that round writes,
        ``reward`` of what it writes, ``moved``.
    """
    model, generator = copy.deepcopy(b.model), torch.Generator().manual_seed(seed)
    exited, rewards = exits.attach(model, at=b.settings.at).eval(), word_reward(b)
    prompts = b.text.train[: s.samples, : s.prompt].to(device_of(model))
    rows, before = [], None
    for number in range(s.rounds + 1):
        written = sample(model, prompts, new=s.new, generator=generator)
        reward = rewards[written[:, s.prompt :].cpu()].mean(1)
        fresh = token_statistics.statistics(exited, written.split(64))
        before = fresh if before is None else before
        common = {"seed": seed, "round": number, "reward": reward.mean().item()}
        common |= {"moved": moved(fresh, before)}
        for name, head in _heads(model, before, fresh, factor).items():
            agreement = _agreement(exits.load(exited, head), written)
            rows.append(common | {"head": name, "agreement": agreement})
        if number < s.rounds:
            best = reward.argsort(descending=True)[: s.keep]
            _train(model, written.cpu()[best], s, seed=seed + number, title=f"round {number + 1}")
    return pd.DataFrame(rows)


def _heads(
    model: nn.Module,
    before: token_statistics.Statistics,
    fresh: token_statistics.Statistics,
    factor: float,
) -> dict[str, exits.Linear]:
    copied = initialisation.copied_head(model)
    heads = {"copied head": copied}
    for name, found in (("before", before), (FRESH, fresh)):
        heads[name] = initialisation.class_mean_head(
            found, n0=factor * found.plug_in_n0(), unseen=copied[0]
        )
    return heads


def _train(model: nn.Module, rows: Tensor, s: Reward, *, seed: int, title: str) -> None:
    training.fit(
        fine_tuning.FullPrecision(model),
        TensorDataset(rows),
        loss=next_token_loss,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=partial(training.adamw, lr=s.learning_rate),
        seed=seed,
        title=title,
    )


@torch.no_grad()
def _agreement(exited: exits.ExitModel, ids: Tensor) -> float:
    """The share of tokens at which early exit and final head name the same next token."""
    same = []
    for part in ids.split(64):
        early, final = exited(part)
        same.append((early.argmax(2) == final.argmax(2)).flatten())
    return torch.cat(same).cpu().double().mean().item()
