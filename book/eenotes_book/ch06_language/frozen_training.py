"""Frozen training: an exit of a pretrained model learns from seven starts, on kept features.

The backbone stays as it is, so the features are computed once, and only a linear head is trained.
It distinguishes the tokens that occur a few times in its training text; a test position whose next
token is another counts as wrong for every head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from eenotes import training
from eenotes.language import initialisation
from eenotes.language.exits import Linear
from eenotes_book.ch06_language.epoch_zero import places, statistics_among
from eenotes_book.ch06_language.features import DRAWS, Pretrained, collected
from eenotes_book.ch06_language.settings import TrainingSettings

RANDOM, COPY = "random", "copy"
MEANS, SCALED, WHITENED = "class mean", "class mean, scaled", "whitened class mean"
WITH_RANDOM, WITH_COPY = "class mean + random", "class mean + copy"
STARTS = (RANDOM, MEANS, SCALED, COPY, WHITENED, WITH_COPY, WITH_RANDOM)  # the most telling first
_DECAY = 0.01  # of AdamW
_POSITIONS = 1024  # at once, when heads are counted


@dataclass
class Frozen:
    """The features of an exit behind the final norm, and the heads that training starts from."""

    p: Pretrained
    s: TrainingSettings

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Features ``(N, D)`` of all draws and next tokens ``(N,)``."""
        draws = [
            collected(self.p.features(name, draw, at=self.s.at, norm=True)) for draw in range(DRAWS)
        ]
        features, labels = zip(*draws, strict=True)
        return torch.cat(features), torch.cat(labels)

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        """`split` of the training text."""
        return self.split("train")

    @cached_property
    def test(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(N, D)``, places of the next tokens, and which are no piece of ``<unk>``."""
        features, labels = self.split("test")
        ordinary = [self.p.ordinary("test", draw).flatten() for draw in range(DRAWS)]
        return features, places(labels, self.words), torch.cat(ordinary)

    @cached_property
    def words(self) -> Tensor:
        """The tokens ``(M,)`` that the heads distinguish."""
        return frequent(self.train[1], least=self.s.least)

    @cached_property
    def heads(self) -> tuple[dict[str, Linear], dict[str, float]]:
        """The seven heads, and what validation text chose: factors on N₀, shares of class means."""
        found = statistics_among(*self.train, self.words)
        x, labels = self.split("val")
        val = x, places(labels, self.words)
        random = initialisation.random_head(self.p.model, seed=0)
        weight = self.p.anatomy.head.weight.detach()[self.words]
        others = {
            RANDOM: tuple(part[self.words] for part in random),
            COPY: (weight, torch.zeros(len(weight))),
        }
        head, plug_in = partial(initialisation.class_mean_head, found), found.plug_in_n0()
        n0, white = (
            initialisation.choose_n0(found, *val, whiten=whiten)[0] for whiten in (False, True)
        )
        heads = {
            MEANS: head(n0=n0),
            SCALED: head(n0=n0, scale=True),
            WHITENED: head(n0=white, whiten=True),
        }
        chosen = {"factor": n0 / plug_in, "whitened factor": white / plug_in}
        for name, mixed in ((RANDOM, WITH_RANDOM), (COPY, WITH_COPY)):
            alpha, _ = initialisation.choose_mixture(heads[MEANS], others[name], *val)
            heads[mixed] = initialisation.mix(heads[MEANS], others[name], alpha=alpha)
            chosen[f"share, {mixed}"] = alpha
        return others | heads, chosen


def frequent(labels: Tensor, *, least: int) -> Tensor:
    """The tokens ``(M,)``, ascending, that occur at least so often."""
    return (labels.bincount() >= least).nonzero().flatten()


def measured(f: Frozen, *, start: str, rate: float) -> dict:
    """A head before the first and after every epoch, on every draw of the test text."""
    heads, chosen = f.heads
    x, labels = f.train
    y = places(labels, f.words)
    known = y >= 0
    x_test, y_test, ordinary = f.test
    history = [
        counts(head, x_test, y_test, ordinary)
        for head in trained(heads[start], x[known], y[known], f.s, rate=rate)
    ]
    return {
        "start": start,
        "rate": rate,
        "history": history,
        "positions": [[len(part), int(part.sum())] for part in ordinary.chunk(DRAWS)],
        "known": int((y_test >= 0).sum()),
        "words": len(f.words),
        "tokens": int(known.sum()),
        "chosen": chosen,
    }


def trained(
    start: Linear, features: Tensor, labels: Tensor, s: TrainingSettings, *, rate: float
) -> Iterator[Linear]:
    """The head before the first epoch of AdamW and after each, ``epochs`` + 1 in all.

    Args:
        start: weight ``(M, D)``, bias ``(M,)``; not changed.
        features: ``(N, D)``.
        labels: ``(N,)``, all known.
        s: epochs and batch.
        rate: learning rate, constant.
    """
    generator = torch.Generator().manual_seed(0)
    head = tuple(part.clone() for part in start)
    optimizer = torch.optim.AdamW(head, lr=rate, weight_decay=_DECAY, fused=True)
    yield head
    for epoch in range(1, s.epochs + 1):
        order = torch.randperm(len(labels), generator=generator).split(s.batch)
        for batch in training.progress_bar(order, f"epoch {epoch} of {s.epochs}"):
            head[0].grad, head[1].grad = gradient(head, features[batch], labels[batch])
            optimizer.step()
        yield head


def gradient(head: Linear, features: Tensor, labels: Tensor) -> Linear:
    r"""Of the mean cross-entropy, for weight and bias: $(p - e_y)\,r$ and $p - e_y$, averaged."""
    weight, bias = head
    errors = torch.addmm(bias, features, weight.T).softmax(1)
    errors[torch.arange(len(labels)), labels] -= 1
    errors /= len(labels)
    return errors.T @ features, errors.sum(0)


def counts(head: Linear, features: Tensor, labels: Tensor, ordinary: Tensor) -> dict:
    """Right answers of every draw, in all and outside of ``<unk>``, and the mean cross-entropy.

    The entropy is over the positions whose label is known.
    """
    weight, bias = head
    parts = zip(features.split(_POSITIONS), labels.split(_POSITIONS), strict=True)
    marks, losses = [], []
    for x, y in parts:
        logits = torch.addmm(bias, x, weight.T)
        marks.append(logits.argmax(1) == y)
        known = y >= 0
        losses.append(torch.nn.functional.cross_entropy(logits[known], y[known], reduction="none"))
    every = zip(torch.cat(marks).chunk(DRAWS), ordinary.chunk(DRAWS), strict=True)
    return {
        "right": [[int(mark.sum()), int((mark & part).sum())] for mark, part in every],
        "loss": torch.cat(losses).double().mean().item(),
    }
