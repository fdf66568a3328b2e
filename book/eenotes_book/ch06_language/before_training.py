"""Exits before any training: the accuracy of every initialisation, and what it depends on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor

from eenotes import gaussian
from eenotes.language import evaluation, exits, initialisation, token_statistics
from eenotes.language.exits import Linear
from eenotes_book import language_models, scale
from eenotes_book.ch06_language.settings import Settings
from eenotes_book.data.text import Text
from eenotes_book.language_models import LanguageModel

_ALPHAS = (0.0, *initialisation.ALPHAS, 1.0)  # of the curve; the ends are no mixtures


@dataclass
class MeasuredExit:
    """An exit whose features are at hand, so that any head is scored without running the model.

    N₀ and α are chosen on validation text, each once.
    """

    exit: exits.ExitModel
    found: token_statistics.Statistics
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def accuracy(self, head: Linear, split: str = "test") -> float:
        """Next-token accuracy of a head on ``"val"`` or ``"test"``."""
        return evaluation.accuracy(*getattr(self, split), head)

    @cached_property
    def copied(self) -> Linear:
        """The final head."""
        return initialisation.copied_head(self.exit.model)

    @cached_property
    def random(self) -> Linear:
        """A random head."""
        return initialisation.random_head(self.exit.model, seed=0)

    @cached_property
    def n0(self) -> tuple[float, dict[float, float]]:
        """N₀ chosen on validation, and the validation accuracy of every candidate."""
        return initialisation.choose_n0(self.found, *self.val, unseen=self.copied[0])

    @cached_property
    def n0_whitened(self) -> tuple[float, dict[float, float]]:
        """The same for the whitened head."""
        return initialisation.choose_n0(self.found, *self.val, unseen=self.copied[0], whiten=True)

    def class_mean(self, n0: float | None = None, *, scale: bool = False) -> Linear:
        """The MAP head at an N₀, by default the plug-in one."""
        return initialisation.class_mean_head(self.found, n0=n0, scale=scale, unseen=self.copied[0])

    def chosen(self, *, scale: bool = False) -> Linear:
        """`class_mean` at the N₀ chosen on validation."""
        return self.class_mean(self.n0[0], scale=scale)

    def whitened(self, n0: float | None = None) -> Linear:
        """The MAP head for noise of any shape, by default at the N₀ chosen on validation."""
        n0 = n0 or self.n0_whitened[0]
        return initialisation.class_mean_head(self.found, n0=n0, whiten=True, unseen=self.copied[0])

    def mixture(self, other: Linear) -> tuple[float, Linear]:
        """α chosen on validation, and that mixture of another head with the class means."""
        alpha, _ = initialisation.choose_mixture(self.chosen(), other, *self.val)
        return alpha, initialisation.mix(self.chosen(), other, alpha=alpha)

    @cached_property
    def five(self) -> dict[str, Linear]:
        """The thesis's five initialisations."""
        return {
            "random": self.random,
            "copy": self.copied,
            "class mean": self.chosen(),
            "class mean + random": self.mixture(self.random)[1],
            "class mean + copy": self.mixture(self.copied)[1],
        }


def measured_exit(
    lm: LanguageModel, *, at: int | None = None, norm: bool = False, target: str = "next"
) -> MeasuredExit:
    """Class statistics of an exit from training text, and its features on the other splits."""
    exited = lm.exited(at=at, norm=norm)
    rows = lm.text.train[: lm.settings.statistics].split(32)
    found = token_statistics.statistics(exited, rows, target=target, covariance=True)
    val, test = (evaluation.collect(exited, part.split(32)) for part in (lm.text.val, lm.text.test))
    return MeasuredExit(exited, found, val, test)


def pretrained_exit(s: Settings, *, rows: int) -> MeasuredExit:
    """The exit of SmolLM2-135M behind a copy of its norm, after 15 of 30 decoders, measured now.

    Args:
        s: the settings, which name the text.
        rows: of 256 tokens behind the statistics; a sixth and a third of them choose and report.
    """
    tokens = {"train": 256 * rows, "val": 256 * rows // 6, "test": 256 * rows // 3}
    few = replace(s, hub="smollm2-135m", at=15, length=256, statistics=rows, **tokens)
    return measured_exit(language_models.trained(few), norm=True)


def epoch_zero(measured: MeasuredExit) -> dict[str, float]:
    """Test accuracy of every head that needs no training."""
    heads = measured.five | {
        "class mean, plug-in N₀": measured.class_mean(),
        "whitened class mean": measured.whitened(),
    }
    return {name: measured.accuracy(head) for name, head in heads.items()}


def n0_curve(measured: MeasuredExit) -> pd.DataFrame:
    """Accuracy at epoch 0 against N₀ for both kinds of class means.

    Returns:
        Columns ``head``, ``factor`` (times the plug-in N₀), ``val``, ``test``.
    """
    plug_in, rows = measured.found.plug_in_n0(), []
    for name, (_, scores), head in (
        ("class mean", measured.n0, measured.class_mean),
        ("whitened class mean", measured.n0_whitened, measured.whitened),
    ):
        for n0, val in scores.items():
            numbers = {"val": val, "test": measured.accuracy(head(n0))}
            rows.append({"head": name, "factor": n0 / plug_in} | numbers)
    return pd.DataFrame(rows)


def alpha_curve(measured: MeasuredExit) -> pd.DataFrame:
    """Accuracy at epoch 0 against α for both mixtures.

    Returns:
        Columns ``alpha``, ``other`` (random or copy), ``val``, ``test``.
    """
    rows = []
    for name, other in {"random": measured.random, "copy": measured.copied}.items():
        for alpha in _ALPHAS:
            head = initialisation.mix(measured.chosen(), other, alpha=alpha)
            numbers = {split: measured.accuracy(head, split) for split in ("val", "test")}
            rows.append({"alpha": alpha, "other": name} | numbers)
    return pd.DataFrame(rows)


def depth_table(lm: LanguageModel, measured: dict[int, MeasuredExit]) -> pd.DataFrame:
    """Test accuracy at epoch 0 against the exit layer, one column per kind of head."""
    rows = {}
    for at, one in measured.items():
        features, labels = one.test
        norm = lm.exited(at=at, norm=True).exit_head.features
        normed = norm(features.to(scale.device())).detach().cpu()
        rows[at] = {
            "copy": one.accuracy(one.copied),
            "copy, after the final norm": evaluation.accuracy(normed, labels, one.copied),
            "class mean, plug-in N₀": one.accuracy(one.class_mean()),
            "class mean": one.accuracy(one.chosen()),
            "whitened class mean": one.accuracy(one.whitened()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoders before the exit")


def suspected_causes(s: Settings, data: Text, *, seed: int = 0) -> list[dict]:
    """Copied head against class means under each suspected cause.

    How long the model was trained, a tied or an untied head, its width, raw or normalised features.

    Returns:
        One row per model and kind of features, with the accuracies ``copy``, ``plug_in``,
        ``chosen``, ``whitened`` and ``final``.
    """
    variants = [{"phases": 1}, {}, {"tied": False}, *({"width": width} for width in s.widths)]
    rows = []
    for variant in [{}] if s.hub else variants:
        lm = language_models.trained(s, data=data, seed=seed, **variant)
        model = _described(lm, s.phases[: variant.get("phases")], tied=variant.get("tied", True))
        for norm in (False, True):
            one = measured_exit(lm, norm=norm)
            numbers = {
                "features": "normalised" if norm else "raw",
                "copy": one.accuracy(one.copied),
                "plug_in": one.accuracy(one.class_mean()),
                "chosen": one.accuracy(one.chosen()),
                "whitened": one.accuracy(one.whitened()),
            }
            rows.append(model | numbers)
    return rows


def _described(lm: LanguageModel, phases: Sequence[int], *, tied: bool) -> dict:
    width, epochs = lm.model.config.hidden_size, sum(phases)
    kind = "tied" if tied else "untied"
    words = f"{width} wide, {kind}, {epochs} epoch{'s' * (epochs != 1)}"
    return {
        "model": lm.settings.hub or words,
        "tied": tied,
        "width": width,
        "epochs": epochs,
        "final": lm.final["accuracy"],
    }


def offset_head(measured: MeasuredExit, offset: Tensor) -> Linear:
    """The class-mean head of features that all have the same vector added; seen tokens only.

    Args:
        measured: the exit.
        offset: ``(D,)``.

    Returns:
        weight and bias in double precision.
    """
    found, seen = measured.found, measured.found.seen.cpu()
    means = found.class_means.cpu().double() + offset.double()
    weight, bias = gaussian.map_detector(means, n0=measured.n0[0], prior=found.prior.cpu())
    return weight, bias.masked_fill(~seen, -torch.inf)
