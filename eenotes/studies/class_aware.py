"""Chapter 6: a small OPT, five initialisations of its early exit, and what the exit is good for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes import class_aware, detection, drafting, experiment, training
from eenotes.class_aware import Linear, Statistics
from eenotes.data import text

FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # N₀ is searched among these multiples of the plug-in value
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_CODE = ["eenotes.class_aware", "eenotes.data.text", "eenotes.detection", "eenotes.means", "eenotes.training"]


# --------------------------------------------------------------------------------------------------------- the model


@dataclass
class Bench:
    """A text, a language model trained on it, and where its early exit sits."""

    text: text.Text
    model: nn.Module
    s: SimpleNamespace
    seed: int

    def exited(self, *, at: int | None = None, norm: bool = False) -> class_aware.ExitModel:
        """A fresh exit on the model itself."""
        return class_aware.attach(self.model, at=at or self.s.at, norm=norm).eval()

    def copy(self) -> "Bench":
        """The same with a model of its own, to be trained on."""
        twin = language_model(self.text, self.s, tied=self.model.config.tie_word_embeddings, width=self.model.config.hidden_size)
        twin.load_state_dict(self.model.state_dict())
        return Bench(self.text, twin.to(experiment.device()).eval(), self.s, self.seed)

    @cached_property
    def final(self) -> dict[str, float]:
        """Accuracy and perplexity of the final head on test."""
        found = class_aware.evaluate(self.exited(), self.text.test.split(32))
        return {"accuracy": found["final_accuracy"], "perplexity": found["final_perplexity"]}


def load_text(s: SimpleNamespace) -> text.Text:
    """The text of a scale's settings."""
    if s.hub:
        from transformers import AutoTokenizer

        ready = AutoTokenizer.from_pretrained(s.hub)
        return text.load(s.data, length=s.length, train=s.train, val=s.val, test=s.test, tokenizer=ready)
    return text.load(s.data, vocabulary=s.vocabulary, length=s.length, train=s.train, val=s.val, test=s.test)


def language_model(data: text.Text, s: SimpleNamespace, *, tied: bool = True, width: int | None = None) -> nn.Module:
    """An OPT as small as the settings say, not trained; dropout 0, because it sees little text and never twice the same order."""
    from transformers import OPTConfig, OPTForCausalLM

    width = width or s.width
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=data.vocabulary, hidden_size=width, word_embed_proj_dim=width, ffn_dim=4 * width, num_hidden_layers=s.layers,
            num_attention_heads=s.heads, max_position_embeddings=s.length, dropout=0.0, tie_word_embeddings=tied,
            pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def bench(s: SimpleNamespace, *, data: text.Text | None = None, tied: bool = True, width: int | None = None, seed: int = 0,
          phases: int | None = None) -> Bench:  # fmt: skip
    """Pre-train the small OPT, or take it from the cache; with ``s.hub`` set, take a pre-trained model from the hub.

    Args:
        s: the settings of a scale.
        data: the text, if it is at hand.
        tied: whether the final head is the embedding.
        width: D, other than the settings'.
        seed: of weights and order.
        phases: how many of the settings' phases to train; each is some epochs under one falling learning rate.
    """
    data = load_text(s) if data is None else data
    if s.hub:
        from transformers import AutoModelForCausalLM

        return Bench(data, AutoModelForCausalLM.from_pretrained(s.hub).to(experiment.device()).eval(), s, seed)
    torch.manual_seed(seed)
    model = language_model(data, s, tied=tied, width=width)
    facts = {"text": data.digest, "counts": data.counts, "config": model.config.to_diff_dict(), "code": experiment.code_hash(_CODE)}
    for phase, epochs in enumerate(s.phases[:phases]):
        training.fit(
            model,
            torch.utils.data.TensorDataset(data.train),
            loss=_next_token_loss,
            epochs=epochs,
            batch_size=s.batch_size,
            optimizer=partial(training.adamw, lr=s.learning_rate),
            seed=seed + 1000 * phase,
            checkpoint=experiment.cached(
                f"{data.name}-opt{s.layers}x{model.config.hidden_size}-{'tied' if tied else 'untied'}-phase{phase + 1}",
                seed=seed, phases=s.phases[: phase + 1], batch_size=s.batch_size, learning_rate=s.learning_rate, **facts,
            ),
            title=f"{data.name}: OPT {s.layers} × {model.config.hidden_size}, {'tied' if tied else 'untied'}, phase {phase + 1}",
        )  # fmt: skip
    return Bench(data, model.eval(), s, seed)


def _next_token_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    return class_aware.lm_loss(model(input_ids=batch[0], use_cache=False).logits, batch[0])
