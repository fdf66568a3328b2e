"""Language models of the chapters: a text, an OPT trained on it or loaded, and its early exit."""

import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.language import evaluation, exits
from eenotes_book import cache, fine_tuning, scale
from eenotes_book.data import pretrained_language, text


class Settings(Protocol):
    """What the settings of a chapter say about its text and its language model."""

    data: str  # one of eenotes_book.data.text.NAMES
    hub: str  # one of eenotes_book.data.pretrained_language.MODELS; "": an OPT of our own
    vocabulary: int  # tokens of the tokenizer that is trained
    length: int  # tokens per row
    train: int  # tokens
    val: int
    test: int
    layers: int  # decoders
    width: int
    heads: int  # of attention
    at: int  # decoders before the exit
    phases: list[int]  # epochs of each phase of the training, with one falling rate per phase
    batch_size: int  # rows
    learning_rate: float
    statistics: int  # training rows behind the class means


@dataclass
class LanguageModel:
    """A text, a language model trained on it, and where its early exit sits."""

    text: text.Text
    model: nn.Module
    settings: Settings
    seed: int

    def exited(self, *, at: int | None = None, norm: bool = False) -> exits.ExitModel:
        """A fresh exit on the model itself."""
        return exits.attach(self.model, at=at or self.settings.at, norm=norm).eval()

    def copy(self) -> "LanguageModel":
        """The same with a model of its own, to be trained on."""
        return LanguageModel(self.text, copy.deepcopy(self.model), self.settings, self.seed)

    @cached_property
    def final(self) -> dict[str, float]:
        """Accuracy and perplexity of the final head on test."""
        found = evaluation.evaluate(self.exited(), self.text.test.split(32))
        return {"accuracy": found["final_accuracy"], "perplexity": found["final_perplexity"]}


def load_text(s: Settings) -> text.Text:
    """The text that the settings name, in the tokens of the pretrained model if they name one."""
    tokens = {"length": s.length, "train": s.train, "val": s.val, "test": s.test}
    if not s.hub:
        return text.load(s.data, vocabulary=s.vocabulary, **tokens)
    return text.load(s.data, tokenizer=pretrained_language.tokenizer(s.hub), **tokens)


def untrained(
    data: text.Text, s: Settings, *, tied: bool = True, width: int | None = None
) -> nn.Module:
    """An OPT as small as the settings say, with random weights.

    Dropout is 0: the model sees little text, and never twice in the same order.

    Args:
        data: the text, which names the vocabulary.
        s: the settings.
        tied: whether the final head is the embedding.
        width: D, other than the settings'.
    """
    from transformers import OPTConfig, OPTForCausalLM

    width = width or s.width
    config = OPTConfig(
        vocab_size=data.vocabulary,
        hidden_size=width,
        word_embed_proj_dim=width,
        ffn_dim=4 * width,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        max_position_embeddings=s.length,
        dropout=0.0,
        tie_word_embeddings=tied,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return OPTForCausalLM(config)


def trained(
    s: Settings,
    *,
    data: text.Text | None = None,
    tied: bool = True,
    width: int | None = None,
    seed: int = 0,
    phases: int | None = None,
) -> LanguageModel:
    """Train the small OPT, or take it from the cache; with ``s.hub``, load that model instead.

    Args:
        s: the settings.
        data: the text, if it is at hand.
        tied: whether the final head is the embedding.
        width: D, other than the settings'.
        seed: of weights and order.
        phases: how many of the settings' phases to train; ``None``: all.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would print generation settings whenever a model is copied
    data = load_text(s) if data is None else data
    if s.hub:
        model, _ = pretrained_language.load(s.hub, context=s.length)
        return LanguageModel(data, model.to(scale.device()), s, seed)
    torch.manual_seed(seed)
    model = untrained(data, s, tied=tied, width=width)
    kind = "tied" if tied else "untied"
    name = f"{data.name}-opt{s.layers}x{model.config.hidden_size}-{kind}"
    for phase, epochs in enumerate(s.phases[:phases]):
        file = cache.network(
            f"{name}-phase{phase + 1}",
            seed=seed,
            phases=s.phases[: phase + 1],
            batch_size=s.batch_size,
            learning_rate=s.learning_rate,
            text=data.digest,
            rows=len(data.train),
            config=model.config.to_diff_dict(),
        )
        training.fit(
            fine_tuning.FullPrecision(model),
            TensorDataset(data.train),
            loss=next_token_loss,
            epochs=epochs,
            batch_size=s.batch_size,
            optimizer=partial(training.adamw, lr=s.learning_rate),
            seed=seed + 1000 * phase,
            checkpoint=file,
            title=f"{name}, phase {phase + 1}",
        )
    return LanguageModel(data, model.eval(), s, seed)


def next_token_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """The loss of a language model on rows ``(B, T)``, as `eenotes.training.fit` needs it."""
    return fine_tuning.lm_loss(model(input_ids=batch[0], use_cache=False).logits, batch[0])
