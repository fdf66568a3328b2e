"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

import copy
import importlib
import inspect
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import gaussian, training
from eenotes.language import evaluation, exits, fine_tuning, initialisation, token_statistics
from eenotes.network import in_mode
from eenotes_book.ch07_open.networks import device_of
from eenotes_book.language_models import LanguageModel, next_token_loss

FRESH = "re-estimated"


SOURCES = (
    "argparse",
    "ast",
    "calendar",
    "csv",
    "dataclasses",
    "difflib",
    "enum",
    "inspect",
    "random",
    "shutil",
)


def other_text(b: LanguageModel, *, train: int, test: int) -> tuple[Tensor, Tensor]:
    """Rows of another text in the first one's tokens: the source code of some modules of Python's
    standard library.

    It comes with every Python, and differs between versions as the manual does.

    Raises:
        ValueError: fewer rows than asked for.
    """
    whole = "\n".join(inspect.getsource(importlib.import_module(name)) for name in SOURCES)
    length = b.text.train.shape[1]
    ids = b.text.encode(whole[: 10 * (train + test) * length])
    rows = ids[: len(ids) // length * length].view(-1, length)
    if min(train, test) < 1 or len(rows) < train + test:
        raise ValueError(
            f"the source code gives {len(rows)} rows of {length} tokens, asked for {train} + {test}"
        )
    return rows[:train], rows[train : train + test]


class CarriedMeans:
    r"""Class means that move along with a model (7.9):

    $M_v \leftarrow M_v + \frac{n}{n + h_v}(\bar r_v - M_v)$ for n vectors of a batch.

    A batch that is trained on has its hidden vectors computed anyway, so carrying the means along
    costs no pass.  $h_v$, how many vectors the mean so far stands for, is their count, at most
    ``memory``.

    Args:
        found: where they begin.
        memory: positions; a small number forgets quickly.

    Raises:
        ValueError: a memory that is not positive.
    """

    def __init__(self, found: token_statistics.Statistics, *, memory: float):
        if not memory > 0:
            raise ValueError(f"memory must be a positive number of positions, got {memory}")
        self.means, self.counts, self.memory = (
            found.class_means.clone(),
            found.counts.clone().float(),
            memory,
        )

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features ``(N, D)`` of classes ``(N,)``."""
        new = torch.bincount(labels, minlength=len(self.counts)).to(self.means)
        sums = torch.zeros_like(self.means).index_add_(0, labels, features.to(self.means))
        weight = new / (new + self.counts.clamp_max(self.memory)).clamp_min(1e-9)
        self.means += weight[:, None] * (sums / new.clamp_min(1)[:, None] - self.means)
        self.counts += new


@dataclass
class Exits:
    """Ways to set the exit of a model that changes; each gives a linear head for the model as it is
    now.
    """

    exited: exits.ExitModel
    old: token_statistics.Statistics  # of the first text, before
    new: token_statistics.Statistics  # of the other text, before
    carried: CarriedMeans
    factor: float  # N₀ in units of the plug-in value, chosen on the first text's validation split

    def heads(self, fresh: token_statistics.Statistics) -> dict[str, exits.Linear]:
        """``fresh``: statistics of the other text with the model as it is now."""
        copied = initialisation.copied_head(self.exited.model)
        seen = {"old text, before": self.old, "new text, before": self.new, FRESH: fresh}
        heads = {
            name: initialisation.class_mean_head(
                f, n0=self.factor * f.plug_in_n0(), unseen=copied[0]
            )
            for name, f in seen.items()
        }
        weight, bias = gaussian.map_detector(
            self.carried.means,
            n0=self.factor * self.new.plug_in_n0(),
            prior=self.new.prior.to(self.carried.means),
        )
        unseen = (self.carried.counts == 0)[:, None]
        carried = (torch.where(unseen, copied[0].to(weight), weight), bias)
        return {"copied head": copied, **heads, "carried along": carried}


def exits_of(
    model: nn.Module, b: LanguageModel, rows: Tensor, *, factor: float, memory: float
) -> Exits:
    """Statistics of both texts before anything is fine-tuned."""
    exited = exits.attach(model, at=b.s.at).eval()
    old, new = (
        token_statistics.statistics(exited, part.split(32))
        for part in (b.text.train[: b.s.statistics], rows)
    )
    return Exits(exited, old, new, CarriedMeans(new, memory=memory), factor)


def n0_factor(b: LanguageModel) -> float:
    """$N_0$ over its plug-in value, chosen on validation as in chapter 6."""
    exited = b.exited()
    found = token_statistics.statistics(exited, b.text.train[: b.s.statistics].split(32))
    validation = evaluation.collect(exited, b.text.val.split(32))
    copied, _ = initialisation.copied_head(b.model)
    return initialisation.choose_n0(found, *validation, unseen=copied)[0] / found.plug_in_n0()


def moved(now: token_statistics.Statistics, before: token_statistics.Statistics) -> float:
    r"""How far the class means have moved, in units of the spread within the classes (7.8); 0 is
    fresh.

    $\sqrt{\sum_v n_v \lVert M_v' - M_v\rVert^2 / \sum_v n_v} \big/ \sqrt{D \hat\sigma^2}$ over the
    tokens that both have seen.
    """
    both = now.seen & before.seen
    weight = now.counts.double() * both
    squared = (now.class_means - before.class_means).double().square().sum(1)
    spread = before.plug_in_n0() / 2 * now.class_means.shape[1]
    return ((weight * squared).sum() / weight.sum() / spread).sqrt().item()


def tuning_run(b: LanguageModel, s: SimpleNamespace, *, factor: float, seed: int) -> pd.DataFrame:
    """Fine-tune the whole model on the other text by its final head only, and look at the exit
    while it does.

    Returns:
        One row per look and way of setting the exit: ``samples`` seen, ``head``, ``accuracy`` of
        the exit on unseen rows of the other text, ``final`` (of the final head), ``moved``.
    """
    model, (train, test), rows = (
        copy.deepcopy(b.model),
        other_text(b, train=s.train, test=s.test),
        [],
    )
    ways = exits_of(model, b, train, factor=factor, memory=s.memory)

    def loss(wrapped: nn.Module, batch: tuple[Tensor]) -> Tensor:
        out = wrapped(input_ids=batch[0], use_cache=False, output_hidden_states=True)
        hidden = out.hidden_states[b.s.at][:, :-1].detach().float()
        ways.carried.update(hidden.flatten(0, 1), batch[0][:, 1:].flatten())
        return fine_tuning.lm_loss(out.logits, batch[0])

    found = {}

    def measure(samples: int) -> None:
        fresh = token_statistics.statistics(ways.exited.eval(), train.split(32))
        x, y = evaluation.collect(ways.exited, test.split(32))
        final = evaluation.evaluate(ways.exited, test.split(32))["final_accuracy"]
        heads = ways.heads(fresh)
        found[samples] = {
            "moved": moved(fresh, ways.new),
            "final": final,
            "exit": {k: evaluation.accuracy(x, y, h) for k, h in heads.items()},
        }

    looks = [round(share * s.epochs * len(train)) for share in s.looks]
    wrapped = exits.FullPrecision(model)
    training.fit(
        wrapped,
        TensorDataset(train),
        loss=loss,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=partial(training.adamw, lr=s.learning_rate),
        seed=seed,
        on_samples={count: partial(measure, count) for count in looks},
        title="fine-tuning on source code",
    )
    for samples, seen in found.items():
        common = {"seed": seed, "samples": samples, "final": seen["final"], "moved": seen["moved"]}
        rows += [
            common | {"head": name, "accuracy": accuracy} for name, accuracy in seen["exit"].items()
        ]
    return pd.DataFrame(rows)


def word_reward(b: LanguageModel) -> Tensor:
    """``(V,)``: 1 for tokens that are a space and letters, the beginning of a plain word, else 0."""
    pieces = [b.text.decode([v]) for v in range(b.text.vocabulary)]
    return torch.tensor([float(piece.startswith(" ") and piece[1:].isalpha()) for piece in pieces])


@torch.no_grad()
def sample(model: nn.Module, prompts: Tensor, *, new: int, generator: torch.Generator) -> Tensor:
    """Continue prompts ``(N, T)`` by ``new`` tokens each, drawn from the model:

    ``(N, T + new)``.
    """
    ids = prompts
    with in_mode(model):
        for _ in range(new):
            chances = model(input_ids=ids, use_cache=False).logits[:, -1].float().softmax(1).cpu()
            ids = torch.cat(
                [ids, torch.multinomial(chances, 1, generator=generator).to(ids.device)], 1
            )
    return ids


def reward_run(b: LanguageModel, s: SimpleNamespace, *, factor: float, seed: int) -> pd.DataFrame:
    """Reward-ranked fine-tuning (Dong et al., 2023) in its smallest form, and what it does to an
    exit that was set before.

    In each round the model continues prompts, the continuations with the largest share of plain
    words are kept, and it is trained on them.

    Returns:
        One row per round (0: before) and way of setting the exit: ``round``, ``head``,
        ``agreement`` of the exit with the final head on
        what the model of that round writes, ``reward`` of what it writes, ``moved``.
    """
    model, generator = copy.deepcopy(b.model), torch.Generator().manual_seed(seed)
    exited, good, device = exits.attach(model, at=b.s.at).eval(), word_reward(b), device_of(model)
    prompts = b.text.train[: s.samples, : s.prompt].to(device)
    rows, start = [], None
    for number in range(s.rounds + 1):
        written = sample(model, prompts, new=s.new, generator=generator)
        reward = good[written[:, s.prompt :].cpu()].mean(1)
        fresh = token_statistics.statistics(exited, written.split(64))
        start = fresh if start is None else start
        copied = initialisation.copied_head(model)
        heads = {"copied head": copied}
        for name, found in (("before", start), (FRESH, fresh)):
            heads[name] = initialisation.class_mean_head(
                found, n0=factor * found.plug_in_n0(), unseen=copied[0]
            )
        for name, head in heads.items():
            same = torch.cat([_same(exits.load(exited, head), part) for part in written.split(64)])
            numbers = {
                "agreement": same.double().mean().item(),
                "reward": reward.mean().item(),
                "moved": moved(fresh, start),
            }
            rows.append({"seed": seed, "round": number, "head": name, **numbers})
        if number < s.rounds:
            best = written[reward.argsort(descending=True)[: s.keep].to(device)].cpu()
            training.fit(
                exits.FullPrecision(model),
                TensorDataset(best),
                loss=next_token_loss,
                epochs=s.epochs,
                batch_size=s.batch_size,
                optimizer=partial(training.adamw, lr=s.learning_rate),
                seed=seed + number,
                title=f"round {number + 1}",
            )
    return pd.DataFrame(rows)


@torch.no_grad()
def _same(exited: exits.ExitModel, ids: Tensor) -> Tensor:
    """Where early exit and final head name the same next token."""
    early, final = exited(ids)
    return (early.argmax(2) == final.argmax(2)).flatten()
