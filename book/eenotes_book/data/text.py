"""Text in rows of tokens: the manual that comes with Python, and WikiText-2."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES = ("python-manual", "WikiText-2")
_SPLITS = ("train", "val", "test")
_WIKITEXT = {"train": "train", "val": "valid", "test": "test"}
_NATURAL = (  # how the word-level file of WikiText-2 becomes the text that it was made from
    (r" @([-.,])@ ", r"\1"),
    (r" ([,.;:!?%)\]}]|'(?:s|t|re|ve|ll|d|m)\b)", r"\1"),
    (r"([(\[{$£€]) ", r"\1"),
    (r'" ([^"\n]*?) "', r'"\1"'),
    (r" ' ([^'\n]*?) '", r" '\1'"),
    (r"(?m)^ (.*?) $", r"\1"),
)


@dataclass(frozen=True)
class Text:
    """Three splits of one text as rows of token numbers, ``(N, T)`` int64, and their tokenizer.

    ``digest`` is a hash of the characters: the manual differs between versions of Python.
    """

    name: str
    train: Tensor
    val: Tensor
    test: Tensor
    tokenizer: Any
    digest: str

    @property
    def vocabulary(self) -> int:
        """V, how many tokens there are."""
        if hasattr(self.tokenizer, "get_vocab_size"):
            return self.tokenizer.get_vocab_size()
        return len(self.tokenizer)

    @property
    def counts(self) -> dict[str, int]:
        """Tokens per split."""
        return {split: getattr(self, split).numel() for split in _SPLITS}

    def decode(self, ids: Iterable[int]) -> str:
        """The characters of token numbers."""
        return self.tokenizer.decode([int(i) for i in ids])

    def encode(self, text: str) -> Tensor:
        """``(T,)`` int64."""
        return torch.tensor(_encode(self.tokenizer, text), dtype=torch.int64)


def load(
    name: str,
    *,
    vocabulary: int = 1024,
    length: int = 64,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    tokenizer: Any = None,
) -> Text:
    """Load a text in tokens of its own: byte-level BPE, as GPT-2's and OPT's.

    The tokenizer is trained on the training split.  ``python-manual`` is `pydoc_data.topics`, part
    of every CPython.  ``WikiText-2`` comes from ``EENOTES_DATA/wikitext-2/wiki.*.tokens``, or from
    the Hugging Face hub when ``EENOTES_DOWNLOAD=1``.

    Args:
        name: one of `NAMES`.
        vocabulary: V, tokens of the tokenizer to train.
        length: T, tokens per row.
        train: how many tokens at most; ``None``: all.
        val: the same.
        test: the same.
        tokenizer: a ready one, of `tokenizers` or `transformers`, instead; it gets `natural` text.

    Raises:
        ValueError: an unknown name, a vocabulary below the 256 bytes, rows shorter than 2, or less
            text than one row.
        FileNotFoundError: WikiText-2 is not there.
    """
    if name not in NAMES:
        raise ValueError(f"unknown text {name!r}; choose one of {', '.join(NAMES)}")
    if vocabulary < 257 or length < 2:
        raise ValueError(
            "need a vocabulary above 256 and rows of at least 2 tokens, "
            f"got {vocabulary} and {length}"
        )
    if any(limit is not None and limit < 1 for limit in (train, val, test)):
        raise ValueError(
            f"every split needs at least one token, got train={train}, val={val}, test={test}"
        )
    texts = _manual() if name == "python-manual" else {split: _wikitext(split) for split in _SPLITS}
    if tokenizer is None:
        tokenizer = train_tokenizer(texts["train"], vocabulary=vocabulary)
    elif name == "WikiText-2":
        texts = {split: natural(words) for split, words in texts.items()}
    rows = {}
    for split, limit in zip(_SPLITS, (train, val, test), strict=True):
        # Ten characters are at least one token of a natural text: what a limit does not need is not
        # cut into tokens.
        characters = len(texts[split]) if limit is None else 10 * limit
        ids = torch.tensor(_encode(tokenizer, texts[split][:characters])[:limit], dtype=torch.int64)
        if len(ids) < length:
            raise ValueError(
                f"{name}: {split} has {len(ids)} tokens, fewer than one row of {length}"
            )
        rows[split] = ids[: len(ids) // length * length].reshape(-1, length)
    digest = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()[:16]
    return Text(name, **rows, tokenizer=tokenizer, digest=digest)


def natural(words: str) -> str:
    """The word-level file of WikiText-2 as people write: ``1 @,@ 000 ( m )`` becomes 1,000 (m).

    A pretrained model has seen ordinary text.  What the file has lost (``<unk>``) stays lost.
    """
    for pattern, replacement in _NATURAL:
        words = re.sub(pattern, replacement, words)
    return words


def train_tokenizer(text: str, *, vocabulary: int):
    """Byte-level BPE: the most frequent pair is merged until there are ``vocabulary`` tokens.

    It begins with the 256 bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def _encode(tokenizer, text: str) -> list[int]:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids if hasattr(encoding, "ids") else encoding


def _manual() -> dict[str, str]:
    """Topics in a fixed order that is not the alphabet's, cut at eight and at nine tenths."""
    from pydoc_data.topics import topics

    order = sorted(topics, key=lambda topic: hashlib.sha256(topic.encode()).digest())
    whole = "\n\n".join(topics[topic] for topic in order)
    cuts = [0, len(whole) * 8 // 10, len(whole) * 9 // 10, len(whole)]
    return {
        split: whole[start:end] for split, start, end in zip(_SPLITS, cuts, cuts[1:], strict=False)
    }


def _wikitext(split: str) -> str:
    root = Path(os.environ.get("EENOTES_DATA", "data"))
    path = root / "wikitext-2" / f"wiki.{_WIKITEXT[split]}.tokens"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if os.environ.get("EENOTES_DOWNLOAD") == "1":
        return _download(split)
    raise FileNotFoundError(
        f"WikiText-2 is not there: {path.resolve()} does not exist. Put wiki.train.tokens, "
        f"wiki.valid.tokens and wiki.test.tokens into {path.parent.resolve()}, set EENOTES_DATA to "
        "the folder above it, or set EENOTES_DOWNLOAD=1"
    )


def _download(split: str) -> str:
    import pandas as pd
    from huggingface_hub import hf_hub_download

    name = "validation" if split == "val" else split
    file = hf_hub_download(
        "Salesforce/wikitext", f"wikitext-2-v1/{name}-00000-of-00001.parquet", repo_type="dataset"
    )
    return "".join(pd.read_parquet(file).text)
