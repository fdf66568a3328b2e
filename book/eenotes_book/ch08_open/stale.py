"""Question 6, class means of a language model that is fine-tuned on another text."""

import copy
import importlib
import inspect
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import gaussian, training
from eenotes.language import evaluation, exits, initialisation, token_statistics
from eenotes_book import fine_tuning
from eenotes_book.ch08_open.settings import Tuning
from eenotes_book.language_models import LanguageModel

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
    """Rows of another text in the first one's tokens: source code of Python's standard library.

    It comes with every Python, and differs between versions as the manual does.

    Raises:
        ValueError: more rows than the source code has.
    """
    whole = "\n".join(inspect.getsource(importlib.import_module(name)) for name in SOURCES)
    length = b.text.train.shape[1]
    ids = b.text.encode(whole[: 10 * (train + test) * length])
    rows = ids[: len(ids) // length * length].view(-1, length)
    if min(train, test) < 1 or len(rows) < train + test:
        raise ValueError(
            f"the source code gives {len(rows)} rows of {length} tokens; "
            f"{train} + {test} must be positive and no more"
        )
    return rows[:train], rows[train : train + test]


class CarriedMeans:
    r"""Class means that move along with a model (8.9).

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
        self.means = found.class_means.clone()
        self.counts = found.counts.clone().float()
        self.memory = memory

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
    """Ways to set the exit of a model that changes."""

    exited: exits.ExitModel
    old: token_statistics.Statistics  #: of the first text, before
    new: token_statistics.Statistics  #: of the other text, before
    carried: CarriedMeans
    factor: float  #: N₀ over its plug-in value, chosen on the first text's validation split

    def heads(self, fresh: token_statistics.Statistics) -> dict[str, exits.Linear]:
        """Way → linear head for the model as it is now.

        Args:
            fresh: statistics of the other text with the model as it is now.
        """
        copied = initialisation.copied_head(self.exited.model)
        seen = {"old text, before": self.old, "new text, before": self.new, FRESH: fresh}
        heads = {
            name: initialisation.class_mean_head(
                found, n0=self.factor * found.plug_in_n0(), unseen=copied[0]
            )
            for name, found in seen.items()
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
    exited = exits.attach(model, at=b.settings.at).eval()
    first = b.text.train[: b.settings.statistics]
    old, new = (token_statistics.statistics(exited, part.split(32)) for part in (first, rows))
    return Exits(exited, old, new, CarriedMeans(new, memory=memory), factor)


def n0_factor(b: LanguageModel) -> float:
    """$N_0$ over its plug-in value, chosen on validation as in chapter 6."""
    exited = b.exited()
    found = token_statistics.statistics(exited, b.text.train[: b.settings.statistics].split(32))
    validation = evaluation.collect(exited, b.text.val.split(32))
    copied, _ = initialisation.copied_head(b.model)
    return initialisation.choose_n0(found, *validation, unseen=copied)[0] / found.plug_in_n0()


def moved(now: token_statistics.Statistics, before: token_statistics.Statistics) -> float:
    r"""How far the class means have moved, in units of the spread within the classes (8.8).

    $\sqrt{\sum_v n_v \lVert M_v' - M_v\rVert^2 / \sum_v n_v} \big/ \sqrt{D \hat\sigma^2}$ over the
    tokens that both have seen; 0 is fresh.
    """
    both = now.seen & before.seen
    weight = now.counts.double() * both
    squared = (now.class_means - before.class_means).double().square().sum(1)
    spread = before.plug_in_n0() / 2 * now.class_means.shape[1]
    return ((weight * squared).sum() / weight.sum() / spread).sqrt().item()


def tuning_run(b: LanguageModel, s: Tuning, *, factor: float, seed: int) -> pd.DataFrame:
    """Fine-tune the whole model on the other text, and measure the exit on the way.

    Only the final head's loss is trained.

    Returns:
        One row per look and way of setting the exit: ``seed``, ``samples`` seen, ``head``,
        ``accuracy`` of the exit on unseen rows of the other text, ``final`` (of the final head),
        ``moved``.
    """
    model = copy.deepcopy(b.model)
    train, test = other_text(b, train=s.train, test=s.test)
    ways = exits_of(model, b, train, factor=factor, memory=s.memory)
    rows: list[dict] = []

    def loss(wrapped: nn.Module, batch: tuple[Tensor]) -> Tensor:
        out = wrapped(input_ids=batch[0], use_cache=False, output_hidden_states=True)
        hidden = out.hidden_states[b.settings.at][:, :-1].detach().float()
        ways.carried.update(hidden.flatten(0, 1), batch[0][:, 1:].flatten())
        return fine_tuning.lm_loss(out.logits, batch[0])

    def measure(samples: int) -> None:
        fresh = token_statistics.statistics(ways.exited.eval(), train.split(32))
        x, y = evaluation.collect(ways.exited, test.split(32))
        final = evaluation.evaluate(ways.exited, test.split(32))["final_accuracy"]
        common = {"seed": seed, "samples": samples, "final": final, "moved": moved(fresh, ways.new)}
        rows.extend(
            common | {"head": name, "accuracy": evaluation.accuracy(x, y, head)}
            for name, head in ways.heads(fresh).items()
        )

    looks = [round(share * s.epochs * len(train)) for share in s.looks]
    training.fit(
        fine_tuning.FullPrecision(model),
        TensorDataset(train),
        loss=loss,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=partial(training.adamw, lr=s.learning_rate),
        seed=seed,
        on_samples={count: partial(measure, count) for count in looks},
        title="fine-tuning on source code",
    )
    return pd.DataFrame(rows)
