"""The probe of chapter 6, its surroundings: a drawn text, the manual of Python, the channel."""

import gc
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor

from eenotes import gaussian
from eenotes_book.ch06_language import channel
from eenotes_book.data import text as data_text

SEED = 13  # not 0, so that a seed that gets lost on the way is seen
WORDS = [
    *("exit", "token", "layer", "model", "word", "head", "mean", "noise"),
    *("early", "text", "sure", "prior", "cost", "mask", "norm", "row"),
]

Numbers = dict[str, float | list[float] | Tensor]


@contextmanager
def quick_collections() -> Iterator[None]:
    """Accelerate collects garbage after each training: leave out what is there already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def drawn_text() -> Iterator[None]:
    """A text that is the same on every machine, in the files of WikiText-2."""
    before = os.environ.get("EENOTES_DATA")
    with tempfile.TemporaryDirectory() as folder:
        parts = {"train": (1600, 0), "valid": (300, 1), "test": (520, 5)}
        for name, (words, seed) in parts.items():
            path = Path(folder) / "wikitext-2" / f"wiki.{name}.tokens"
            path.parent.mkdir(exist_ok=True)
            path.write_text(_passage(words, seed=seed), encoding="utf-8")
        os.environ["EENOTES_DATA"] = folder
        try:
            yield
        finally:
            os.environ.pop("EENOTES_DATA")
            if before is not None:
                os.environ["EENOTES_DATA"] = before


def _passage(words: int, *, seed: int) -> str:
    """Words of which each leads to one of three others, to the first of them mostly."""
    generator, at, written = torch.Generator().manual_seed(seed), 0, []
    for step in torch.randint(6, (words,), generator=generator).tolist():
        at = (3 * at + (1, 1, 1, 1, 2, 3)[step]) % len(WORDS)
        written.append(WORDS[at])
    return " ".join(written)


def of_channel() -> Numbers:
    """The AWGN channel, its detectors, and their error rates."""
    prior = torch.tensor([0.7, 0.15, 0.1, 0.05])
    sent = channel.transmissions(channel.constellation(), prior, n0=0.5, count=200, seed=SEED)
    signals, received = sent["signals"], sent["received"]
    covariance = torch.tensor([[0.4, 0.1], [0.1, 0.3]])
    coloured = gaussian.linear_discriminant(signals, covariance, prior=prior)
    curves = channel.error_curves(decibels=[-3, 3], count=500, seed=SEED)
    decided = channel.detect(received, sent["weight"], sent["bias"])
    density = torch.distributions.Normal(signals, 0.5)  # N₀ = 0.5: a variance of 0.25
    return {
        "channel_sent": sent["messages"].double().mean(),
        "channel_received": received.abs().mean(0),
        "channel_bias": sent["bias"],
        "channel_decided": (decided == sent["messages"]).double().mean(),
        "channel_density": density.log_prob(received[:, None]).sum(-1).mean(),
        "channel_nearest_bias": channel.minimum_distance(signals)[1].mean(),
        "channel_coloured": torch.cat([coloured[0][:2].flatten(), coloured[1]]),
        "channel_simulated": curves["simulated"].tolist(),
        "channel_theory": curves["theory"].tolist(),
        "channel_wrong": curves["wrong"].tolist(),
    }


class _Bytes:
    """A tokenizer whose tokens are bytes."""

    def encode(self, text: str, **_) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


def of_manual() -> Numbers:
    """The manual of Python: what every version of it has in common."""
    manual = data_text.load("python-manual", tokenizer=_Bytes())
    first = min(topics, key=lambda topic: hashlib.sha256(topic.encode()).digest())
    begun = manual.decode(manual.train[0])
    total = sum(manual.counts.values())
    return {
        "manual_shares": [round(count / total, 2) for count in manual.counts.values()],
        "manual_row": manual.train.shape[1],
        "manual_order": float(topics[first].startswith(begun)),
    }


def of_texts(data: data_text.Text) -> Numbers:
    """Tokens per split, and which."""
    places = torch.arange(1, data.train.shape[1] + 1).double()
    splits = (data.train, data.val, data.test)
    return {
        "text_tokens": list(data.counts.values()),
        "text_vocabulary": data.vocabulary,
        "text_ids": [(ids.double() @ places).mean() for ids in splits],
        "text_first_ids": data.train[0].double() @ places,
        "text_encoded": data.encode("early exit").double().mean(),
    }
