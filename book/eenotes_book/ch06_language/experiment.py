"""Chapter 6: a small OPT, five initialisations of its early exit, and what the exit is good for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes import gaussian
from eenotes.inference import Outcome, simulate
from eenotes.language import decoding as language_decoding
from eenotes.language import evaluation, exits, fine_tuning, initialisation, token_statistics
from eenotes.language.exits import Linear
from eenotes.language.token_statistics import Statistics
from eenotes.rules import Confidence
from eenotes_book import language_models
from eenotes_book import scale as book_scale
from eenotes_book.data import text as data_text
from eenotes_book.language_models import LanguageModel

ALPHAS = (0.0, *initialisation.ALPHAS, 1.0)


@dataclass
class Probe:
    """An exit whose features are at hand: any linear head can be scored without running the model
    again.
    """

    exit: exits.ExitModel
    found: Statistics
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @cached_property
    def copied(self) -> Linear:
        return initialisation.copied_head(self.exit.model)

    def random(self, seed: int = 0) -> Linear:
        return initialisation.random_head(self.exit.model, seed=seed)

    @cached_property
    def n0(self) -> tuple[float, dict[float, float]]:
        """N₀ chosen on validation, and the validation accuracy of every candidate."""
        return initialisation.choose_n0(self.found, *self.val, unseen=self.copied[0])

    @cached_property
    def n0_whitened(self) -> tuple[float, dict[float, float]]:
        """The same for the whitened head."""
        return initialisation.choose_n0(self.found, *self.val, unseen=self.copied[0], whiten=True)

    def class_mean(self, n0: float | None = None, *, scale: bool = False) -> Linear:
        """The MAP head; unseen tokens take the copied head's weight."""
        return initialisation.class_mean_head(self.found, n0=n0, scale=scale, unseen=self.copied[0])

    def chosen(self, *, scale: bool = False) -> Linear:
        """`class_mean` at the N₀ chosen on validation."""
        return self.class_mean(self.n0[0], scale=scale)

    def whitened(self, n0: float | None = None) -> Linear:
        """The MAP head for noise of any shape; its strength chosen on validation."""
        return initialisation.class_mean_head(
            self.found, n0=n0 or self.n0_whitened[0], whiten=True, unseen=self.copied[0]
        )

    def accuracy(self, head: Linear, split: str = "test") -> float:
        return evaluation.accuracy(*getattr(self, split), head)

    def mixture(self, other: Linear) -> tuple[float, Linear]:
        """α chosen on validation, and that mixture with the class means."""
        alpha, _ = initialisation.choose_mixture(self.chosen(), other, *self.val)
        return alpha, initialisation.mix(self.chosen(), other, alpha=alpha)

    @cached_property
    def five(self) -> dict[str, Linear]:
        """The thesis's five initialisations, N₀ and both α chosen on validation."""
        return {
            "random": self.random(),
            "copy": self.copied,
            "class mean": self.chosen(),
            "class mean + random": self.mixture(self.random())[1],
            "class mean + copy": self.mixture(self.copied)[1],
        }


def probe(
    b: LanguageModel, *, at: int | None = None, norm: bool = False, target: str = "next"
) -> Probe:
    """Class statistics of an exit from the training split, and its features on validation and test."""
    exited, rows = b.exited(at=at, norm=norm), b.s.statistics
    found = token_statistics.statistics(
        exited, b.text.train[:rows].split(32), target=target, covariance=True
    )
    return Probe(
        exited,
        found,
        *(evaluation.collect(exited, split.split(32)) for split in (b.text.val, b.text.test)),
    )


def n0_curve(p: Probe) -> pd.DataFrame:
    """Accuracy at epoch 0 against N₀ for both kinds of class means:

    ``head``, ``factor`` (times plug-in), ``val``, ``test``.
    """
    plug_in, rows = p.found.plug_in_n0(), []
    for name, (_, scores), head in (
        ("class mean", p.n0, p.class_mean),
        ("whitened class mean", p.n0_whitened, p.whitened),
    ):
        rows += [
            {"head": name, "factor": n0 / plug_in, "val": val, "test": p.accuracy(head(n0))}
            for n0, val in scores.items()
        ]
    return pd.DataFrame(rows)


def alpha_curve(p: Probe) -> pd.DataFrame:
    """Accuracy at epoch 0 against α for both mixtures: ``alpha``, ``other``, ``val``, ``test``."""
    rows = []
    for name, other in {"random": p.random(), "copy": p.copied}.items():
        for alpha in ALPHAS:
            head = initialisation.mix(p.chosen(), other, alpha=alpha)
            rows.append(
                {
                    "alpha": alpha,
                    "other": name,
                    "val": p.accuracy(head, "val"),
                    "test": p.accuracy(head),
                }
            )
    return pd.DataFrame(rows)


def epoch_zero(p: Probe) -> dict[str, float]:
    """Test accuracy of every head that needs no training."""
    heads = p.five | {"class mean, plug-in N₀": p.class_mean(), "whitened class mean": p.whitened()}
    return {name: p.accuracy(head) for name, head in heads.items()}


def depth_table(b: LanguageModel, probes: dict[int, Probe]) -> pd.DataFrame:
    """Test accuracy at epoch 0 against the exit layer, one column per kind of head."""
    rows = {}
    for at, p in probes.items():
        normed = b.exited(at=at, norm=True)
        features = [
            (normed.exit_head.features(x.to(book_scale.device())).detach().cpu(), y)
            for x, y in [p.test]
        ]
        rows[at] = {
            "copy": p.accuracy(p.copied),
            "copy, after the final norm": evaluation.accuracy(*features[0], p.copied),
            "class mean, plug-in N₀": p.accuracy(p.class_mean()),
            "class mean": p.accuracy(p.chosen()),
            "whitened class mean": p.accuracy(p.whitened()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoders before the exit")


def why(s: SimpleNamespace, data: data_text.Text, *, seed: int = 0) -> list[dict]:
    """Copy against class means under each suspected cause: how long the model was trained, tied or
    untied, its width, raw or normalised.
    """
    variants = [
        (True, None, 1),
        (True, None, None),
        (False, None, None),
        *((True, width, None) for width in s.widths),
    ]
    variants, rows = variants[1:2] if s.hub else variants, []
    for tied, width, phases in variants:
        b = language_models.trained(s, data=data, tied=tied, width=width, seed=seed, phases=phases)
        head = {
            "model": s.hub
            or f"{b.model.config.hidden_size} wide, {'tied' if tied else 'untied'}, {epochs_in_words(sum(s.phases[:phases]))}",
            "tied": tied,
            "width": b.model.config.hidden_size,
            "epochs": sum(s.phases[:phases]),
            "final": b.final["accuracy"],
        }
        for norm in (False, True):
            p = probe(b, norm=norm)
            numbers = {
                "copy": p.accuracy(p.copied),
                "plug_in": p.accuracy(p.class_mean()),
                "chosen": p.accuracy(p.chosen()),
            }
            rows.append(
                head
                | {"features": "normalised" if norm else "raw"}
                | numbers
                | {"whitened": p.accuracy(p.whitened())}
            )
    return rows


def histories(b: LanguageModel, p: Probe, *, freeze: bool) -> dict[str, list[dict]]:
    """The initialisations over the epochs, on test; without freezing each trains a copy of the
    whole model.

    Frozen, a sixth one is the class means scaled to log posteriors: what the cross-entropy expects.
    """
    heads, s = dict(p.five), b.s
    if freeze:
        heads["class mean, scaled"] = p.chosen(scale=True)
    rows = b.text.train[: s.tune]
    features = evaluation.collect(p.exit, rows.split(32)) if freeze else None
    options = {
        "freeze": freeze,
        "epochs": s.epochs,
        "batch_size": s.batch_size,
        "held_out": b.text.test,
        "seed": b.seed,
    }
    found = {}
    for name, head in heads.items():
        start = b if freeze else b.copy()
        exited = exits.load(start.exited(), head)
        rate = s.head_rate if freeze else s.tune_rate
        found[name] = fine_tuning.train(
            exited, rows, learning_rate=rate, features=features, **options
        )
    return found


def as_table(found: dict[str, list[dict]], column: str = "exit_accuracy") -> pd.DataFrame:
    """Histories as a table: one row per epoch, one column per initialisation."""
    return pd.DataFrame(
        {name: pd.DataFrame(rows).set_index("epoch")[column] for name, rows in found.items()}
    )


def decoding(
    b: LanguageModel, p: Probe, heads: dict[str, Linear], *, draft: int = 3
) -> pd.DataFrame:
    """Self-speculative decoding with each head beside plain greedy decoding, over the settings'
    prompts from the test split.

    Returns:
        Indexed by head: ``acceptance``, ``layer_passes`` and ``token_layers`` (both per new token),
            ``tokens_per_second``, ``identical``.
    """
    prompts = b.text.test[: b.s.prompts, : b.s.prompt]
    new = b.s.length - b.s.prompt
    plain = [language_decoding.greedy(p.exit, prompt, max_new_tokens=new) for prompt in prompts]
    runs = {"greedy": plain}
    for name, head in heads.items():
        helper = language_decoding.draft_model(exits.load(p.exit, head))
        runs[name] = [
            language_decoding.self_speculative(
                p.exit, prompt, max_new_tokens=new, draft=draft, helper=helper
            )
            for prompt in prompts
        ]
    rows = {}
    for name, texts in runs.items():
        count = sum(len(t.new) for t in texts)
        drafted = sum(t.drafted for t in texts)
        rows[name] = {
            "acceptance": sum(sum(t.early) for t in texts) / drafted if drafted else float("nan"),
            "layer_passes": sum(t.layer_passes for t in texts) / count,
            "token_layers": sum(t.token_layers for t in texts) / count,
            "tokens_per_second": count / sum(t.seconds for t in texts),
            "identical": all(torch.equal(a.ids, c.ids) for a, c in zip(texts, plain, strict=True)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("drafting by")


def thresholds_tried(
    b: LanguageModel, p: Probe, head: Linear, *, thresholds: Sequence[float]
) -> pd.DataFrame:
    """Greedy decoding with an early exit at several thresholds: ``early``, ``layer_passes``, ``token_layers``, ``tokens_per_second`` and
    ``perplexity`` of what was written, as the whole model sees it."""
    prompts, new = b.text.test[: b.s.prompts, : b.s.prompt], b.s.length - b.s.prompt
    exits.load(p.exit, head)
    rows = []
    for threshold in thresholds:
        texts = [
            language_decoding.early_exit(p.exit, prompt, max_new_tokens=new, threshold=threshold)
            for prompt in prompts
        ]
        count = sum(len(t.new) for t in texts)
        rows.append({
            "threshold": threshold,
            "early": sum(sum(t.early) for t in texts) / count,
            "layer_passes": sum(t.layer_passes for t in texts) / count,
            "token_layers": sum(t.token_layers for t in texts) / count,
            "tokens_per_second": count / sum(t.seconds for t in texts),
            "perplexity": _perplexity_of(p.exit.model, torch.stack([t.ids for t in texts]), b.s.prompt),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("threshold")


@torch.no_grad()
def _perplexity_of(model: nn.Module, ids: Tensor, prompt: int) -> float:
    ids = ids.to(book_scale.device())
    logits = model(input_ids=ids, use_cache=False).logits[:, prompt - 1 : -1]
    return (
        nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, prompt:].flatten())
        .exp()
        .item()
    )


@torch.no_grad()
def exit_logits(b: LanguageModel, heads: dict[int, Linear], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of an exit after each of some decoders and of the final head, ``(J, N, V)``, and the
    next tokens ``(N,)``; on the CPU.
    """
    rows, labels = [], ids[:, 1:].flatten()
    for at, (weight, bias) in heads.items():
        features, _ = evaluation.collect(b.exited(at=at), [ids])
        rows.append(features @ weight.cpu().T + bias.cpu())
    final = (
        b.model(input_ids=ids.to(book_scale.device()), use_cache=False).logits[:, :-1].flatten(0, 1)
    )
    return torch.stack([*rows, final.float().cpu()]), labels


def confident_enough(logits: Tensor, labels: Tensor, *, loss: float = 0.02) -> float:
    """The lowest of 50 common thresholds that costs at most ``loss`` of the final head's accuracy;
    1 if none does.
    """
    goal = (logits[-1].argmax(1) == labels).double().mean() - loss
    best = 1.0
    for threshold in torch.linspace(0.98, 0, 50).tolist():
        if (simulate(logits, Confidence(threshold)).prediction == labels).double().mean() < goal:
            break
        best = threshold
    return best


def leaving(
    b: LanguageModel, heads: dict[int, Linear], ids: Tensor, *, rows: int = 30
) -> tuple[Outcome, Tensor, float]:
    """Where each next token of ``ids`` leaves, those tokens, and the common threshold, chosen on
    some rows of validation text.
    """
    threshold = confident_enough(*exit_logits(b, heads, b.text.val[:rows]))
    logits, truth = exit_logits(b, heads, ids)
    return simulate(logits, Confidence(threshold)), truth, threshold


def moved(p: Probe, offset: Tensor) -> Linear:
    """The class-mean head, in double precision, of features that all have the same vector added,
    ``(D,)``; seen tokens only.
    """
    found, seen = p.found, p.found.seen.cpu()
    means, prior = found.class_means.double().cpu() + offset.double(), found.prior.cpu()
    weight, bias = gaussian.map_detector(means, n0=p.n0[0], prior=prior)
    return weight, bias.masked_fill(~seen, -torch.inf)


def comparison(s: SimpleNamespace, *, seed: int = 0) -> dict:
    """One run of everything that a claim rests on, as plain numbers."""
    b = language_models.trained(s, seed=seed)
    p = probe(b)
    curves = {
        name: histories(b, p, freeze=freeze)
        for name, freeze in (("frozen", True), ("all weights", False))
    }
    run = as_run(b, p, training=curves, zero=epoch_zero(p), causes=why(s, b.text, seed=seed))
    heads = {name: head for name, head in p.five.items() if "+" not in name} | {
        "whitened class mean": p.whitened()
    }
    return run | {"decoding": plain(decoding(b, p, heads))}


def as_run(
    b: LanguageModel, p: Probe, *, training: dict, zero: dict[str, float], causes: Sequence[dict]
) -> dict:
    """What a chapter has measured, as plain numbers: `comparison`'s, but for ``"decoding"``."""
    n0 = {"factor": p.n0[0] / p.found.plug_in_n0(), "curve": n0_curve(p).to_dict("records")}
    alphas = {
        name: p.mixture(other)[0] for name, other in (("random", p.random()), ("copy", p.copied))
    }
    return {
        "seed": b.seed, "counts": b.text.counts, "digest": b.text.digest, "final": b.final, "epoch 0": zero, "alphas": alphas, "n0": n0,
        "curves": training, "why": list(causes),
    }  # fmt: skip


def plain(table: pd.DataFrame) -> dict[str, dict]:
    """A table as JSON knows it: a missing number is None."""
    rows = table.astype(object).where(table.notna(), None).to_dict("index")
    return {
        str(name): {key: getattr(value, "item", lambda v=value: v)() for key, value in row.items()}
        for name, row in rows.items()
    }


def epochs_in_words(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"
