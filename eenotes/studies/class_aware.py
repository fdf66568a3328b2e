"""Chapter 6: a small OPT, five initialisations of its early exit, and what the exit is good for."""

import copy
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
from eenotes.inference import Outcome, simulate
from eenotes.rules import Confidence

CHAPTER, NAME = "06-class-aware-init", "eenotes.studies.class_aware"
FACTORS = (0.01, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # N₀ is searched among these multiples of the plug-in value
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_CODE = ["eenotes.data.text", "eenotes.training"]  # what a pre-trained model depends on, beside its settings


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
        return Bench(self.text, copy.deepcopy(self.model), self.s, self.seed)

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
    from transformers.utils import logging

    logging.set_verbosity_error()  # it would print generation settings whenever a model is copied
    data = load_text(s) if data is None else data
    if s.hub:
        from transformers import AutoModelForCausalLM

        return Bench(data, AutoModelForCausalLM.from_pretrained(s.hub).to(experiment.device()).eval(), s, seed)
    torch.manual_seed(seed)
    model = language_model(data, s, tied=tied, width=width)
    facts = {"text": data.digest, "rows": len(data.train), "config": model.config.to_diff_dict(), "code": experiment.code_hash(_CODE)}
    for phase, epochs in enumerate(s.phases[:phases]):
        training.fit(
            class_aware.FullPrecision(model),
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


# ---------------------------------------------------------------------------------------------------- the AWGN channel


def constellation(points: int = 4, *, energy: float = 1.0) -> Tensor:
    """Signals ``(M, 2)`` on a circle, as in phase-shift keying."""
    angle = 2 * torch.pi * torch.arange(points) / points + torch.pi / 4
    return energy**0.5 * torch.stack([angle.cos(), angle.sin()], 1)


def transmissions(signals: Tensor, prior: Tensor, *, n0: float, count: int, seed: int = 0) -> dict[str, Tensor]:
    """What is sent and received, and the MAP detector: ``signals``, ``messages``, ``received``, ``weight``, ``bias``."""
    generator = torch.Generator().manual_seed(seed)
    messages = torch.multinomial(prior, count, replacement=True, generator=generator)
    received = detection.awgn(signals, messages, n0=n0, generator=generator)
    weight, bias = detection.map_detector(signals, n0=n0, prior=prior)
    return {"signals": signals, "messages": messages, "received": received, "weight": weight, "bias": bias}


def error_rate(signals: Tensor, *, n0: float, prior: Tensor | None = None, assume_equal: bool = False, count: int, seed: int = 0) -> float:
    """How often the detector errs in ``count`` simulated transmissions."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(len(signals)) if prior is None else prior
    messages = torch.multinomial(weights, count, replacement=True, generator=generator)
    received = detection.awgn(signals, messages, n0=n0, generator=generator)
    detector = detection.map_detector(signals, n0=n0, prior=None if assume_equal else prior)
    return (detection.detect(received, *detector) != messages).double().mean().item()


def error_curves(*, decibels: Sequence[float], count: int, seed: int = 0) -> pd.DataFrame:
    """Simulated and theoretical error rates against E/N₀ in dB: two antipodal signals, with equal and unequal priors; eight on a circle.

    Returns:
        Columns ``db``, ``case``, ``simulated``, ``theory`` (exact for two signals, the union bound for eight), ``wrong`` (the detector
        that does not know the priors).
    """
    two, eight, prior = torch.tensor([[1.0], [-1.0]]), constellation(8), torch.tensor([0.9, 0.1])
    cases = {"two signals": (two, None), "two signals, priors .9 and .1": (two, prior), "eight on a circle": (eight, None)}
    rows = []
    for db in decibels:
        n0 = 10 ** (-db / 10)
        for case, (signals, chances) in cases.items():
            rows.append({
                "db": db,
                "case": case,
                "simulated": error_rate(signals, n0=n0, prior=chances, count=count, seed=seed),
                "theory": detection.union_bound(signals, n0=n0, prior=chances),
                "wrong": error_rate(signals, n0=n0, prior=chances, assume_equal=True, count=count, seed=seed),
            })  # fmt: skip
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------------ before training


@dataclass
class Probe:
    """An exit whose features are at hand: any linear head can be scored without running the model again."""

    exit: class_aware.ExitModel
    found: Statistics
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @cached_property
    def copied(self) -> Linear:
        return class_aware.copied_head(self.exit.model)

    def random(self, seed: int = 0) -> Linear:
        return class_aware.random_head(self.exit.model, seed=seed)

    @cached_property
    def n0(self) -> tuple[float, dict[float, float]]:
        """N₀ chosen on validation, and the validation accuracy of every candidate."""
        plug_in = self.found.plug_in_n0()
        return class_aware.choose([factor * plug_in for factor in FACTORS], lambda n0: self.accuracy(self.class_mean(n0), "val"))

    @cached_property
    def n0_whitened(self) -> tuple[float, dict[float, float]]:
        """The same for the whitened head."""
        plug_in = self.found.plug_in_n0()
        return class_aware.choose([factor * plug_in for factor in FACTORS], lambda n0: self.accuracy(self.whitened(n0), "val"))

    def class_mean(self, n0: float | None = None, *, scale: bool = False) -> Linear:
        """The MAP head; unseen tokens take the copied head's weight."""
        return class_aware.class_mean_head(self.found, n0=n0, scale=scale, unseen=self.copied[0])

    def chosen(self, *, scale: bool = False) -> Linear:
        """`class_mean` at the N₀ chosen on validation."""
        return self.class_mean(self.n0[0], scale=scale)

    def whitened(self, n0: float | None = None) -> Linear:
        """The MAP head for noise of any shape; its strength chosen on validation."""
        return class_aware.class_mean_head(self.found, n0=n0 or self.n0_whitened[0], whiten=True, unseen=self.copied[0])

    def accuracy(self, head: Linear, split: str = "test") -> float:
        return class_aware.accuracy(*getattr(self, split), head)

    def mixture(self, other: Linear) -> tuple[float, Linear]:
        """α chosen on validation, and that mixture with the class means."""
        alpha, _ = class_aware.choose(ALPHAS[1:-1], lambda a: self.accuracy(class_aware.mix(self.chosen(), other, alpha=a), "val"))
        return alpha, class_aware.mix(self.chosen(), other, alpha=alpha)

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


def probe(b: Bench, *, at: int | None = None, norm: bool = False, target: str = "next") -> Probe:
    """Class statistics of an exit from the training split, and its features on validation and test."""
    exited, rows = b.exited(at=at, norm=norm), b.s.statistics
    found = class_aware.statistics(exited, b.text.train[:rows].split(32), target=target, covariance=True)
    return Probe(exited, found, *(class_aware.collect(exited, split.split(32)) for split in (b.text.val, b.text.test)))


def n0_curve(p: Probe) -> pd.DataFrame:
    """Accuracy at epoch 0 against N₀ for both kinds of class means: ``head``, ``factor`` (times plug-in), ``val``, ``test``."""
    plug_in, rows = p.found.plug_in_n0(), []
    for name, (_, scores), head in (("class mean", p.n0, p.class_mean), ("whitened class mean", p.n0_whitened, p.whitened)):
        rows += [{"head": name, "factor": n0 / plug_in, "val": val, "test": p.accuracy(head(n0))} for n0, val in scores.items()]
    return pd.DataFrame(rows)


def alpha_curve(p: Probe) -> pd.DataFrame:
    """Accuracy at epoch 0 against α for both mixtures: ``alpha``, ``other``, ``val``, ``test``."""
    rows = []
    for name, other in {"random": p.random(), "copy": p.copied}.items():
        for alpha in ALPHAS:
            head = class_aware.mix(p.chosen(), other, alpha=alpha)
            rows.append({"alpha": alpha, "other": name, "val": p.accuracy(head, "val"), "test": p.accuracy(head)})
    return pd.DataFrame(rows)


def epoch_zero(p: Probe) -> dict[str, float]:
    """Test accuracy of every head that needs no training."""
    heads = p.five | {"class mean, plug-in N₀": p.class_mean(), "whitened class mean": p.whitened()}
    return {name: p.accuracy(head) for name, head in heads.items()}


def depth_table(b: Bench, probes: dict[int, Probe]) -> pd.DataFrame:
    """Test accuracy at epoch 0 against the exit layer, one column per kind of head."""
    rows = {}
    for at, p in probes.items():
        normed = b.exited(at=at, norm=True)
        features = [(normed.exit_head.features(x.to(experiment.device())).detach().cpu(), y) for x, y in [p.test]]
        rows[at] = {
            "copy": p.accuracy(p.copied),
            "copy, after the final norm": class_aware.accuracy(*features[0], p.copied),
            "class mean, plug-in N₀": p.accuracy(p.class_mean()),
            "class mean": p.accuracy(p.chosen()),
            "whitened class mean": p.accuracy(p.whitened()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoders before the exit")


def why(s: SimpleNamespace, data: text.Text, *, seed: int = 0) -> list[dict]:
    """Copy against class means under each suspected cause: how long the model was trained, tied or untied, its width, raw or normalised."""
    variants = [(True, None, 1), (True, None, None), (False, None, None), *((True, width, None) for width in s.widths)]
    variants, rows = variants[1:2] if s.hub else variants, []
    for tied, width, phases in variants:
        b = bench(s, data=data, tied=tied, width=width, seed=seed, phases=phases)
        head = {
            "model": s.hub or f"{b.model.config.hidden_size} wide, {'tied' if tied else 'untied'}, {_epochs(sum(s.phases[:phases]))}",
            "tied": tied, "width": b.model.config.hidden_size, "epochs": sum(s.phases[:phases]), "final": b.final["accuracy"],
        }
        for norm in (False, True):
            p = probe(b, norm=norm)
            numbers = {"copy": p.accuracy(p.copied), "plug_in": p.accuracy(p.class_mean()), "chosen": p.accuracy(p.chosen())}
            rows.append(head | {"features": "normalised" if norm else "raw"} | numbers | {"whitened": p.accuracy(p.whitened())})
    return rows


# ------------------------------------------------------------------------------------------------------------ training


def histories(b: Bench, p: Probe, *, freeze: bool) -> dict[str, list[dict]]:
    """The initialisations over the epochs, on test; without freezing each trains a copy of the whole model.

    Frozen, a sixth one is the class means scaled to log posteriors: what the cross-entropy expects.
    """
    heads, s = dict(p.five), b.s
    if freeze:
        heads["class mean, scaled"] = p.chosen(scale=True)
    rows = b.text.train[: s.tune]
    features = class_aware.collect(p.exit, rows.split(32)) if freeze else None
    options = {"freeze": freeze, "epochs": s.epochs, "batch_size": s.batch_size, "held_out": b.text.test, "seed": b.seed}
    found = {}
    for name, head in heads.items():
        start = b if freeze else b.copy()
        exited = class_aware.load(start.exited(), head)
        rate = s.head_rate if freeze else s.tune_rate
        found[name] = class_aware.train(exited, rows, learning_rate=rate, features=features, **options)
    return found


def as_table(found: dict[str, list[dict]], column: str = "exit_accuracy") -> pd.DataFrame:
    """Histories as a table: one row per epoch, one column per initialisation."""
    return pd.DataFrame({name: pd.DataFrame(rows).set_index("epoch")[column] for name, rows in found.items()})


# ------------------------------------------------------------------------------------------------------------ decoding


def decoding(b: Bench, p: Probe, heads: dict[str, Linear], *, draft: int = 3) -> pd.DataFrame:
    """Self-speculative decoding with each head beside plain greedy decoding, over the settings' prompts from the test split.

    Returns:
        Indexed by head: ``acceptance``, ``layer_passes`` and ``token_layers`` (both per new token), ``tokens_per_second``, ``identical``.
    """
    prompts = b.text.test[: b.s.prompts, : b.s.prompt]
    new = b.s.length - b.s.prompt
    plain = [drafting.greedy(p.exit, prompt, max_new_tokens=new) for prompt in prompts]
    runs = {"greedy": plain}
    for name, head in heads.items():
        helper = drafting.draft_model(class_aware.load(p.exit, head))
        runs[name] = [drafting.self_speculative(p.exit, prompt, max_new_tokens=new, draft=draft, helper=helper) for prompt in prompts]
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


def thresholds_tried(b: Bench, p: Probe, head: Linear, *, thresholds: Sequence[float]) -> pd.DataFrame:
    """Greedy decoding with an early exit at several thresholds: ``early``, ``layer_passes``, ``token_layers``, ``tokens_per_second`` and
    ``perplexity`` of what was written, as the whole model sees it."""
    prompts, new = b.text.test[: b.s.prompts, : b.s.prompt], b.s.length - b.s.prompt
    class_aware.load(p.exit, head)
    rows = []
    for threshold in thresholds:
        texts = [drafting.early_exit(p.exit, prompt, max_new_tokens=new, threshold=threshold) for prompt in prompts]
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
    ids = ids.to(experiment.device())
    logits = model(input_ids=ids, use_cache=False).logits[:, prompt - 1 : -1]
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, prompt:].flatten()).exp().item()


@torch.no_grad()
def exit_logits(b: Bench, heads: dict[int, Linear], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of an exit after each of some decoders and of the final head, ``(J, N, V)``, and the next tokens ``(N,)``; on the CPU."""
    rows, labels = [], ids[:, 1:].flatten()
    for at, (weight, bias) in heads.items():
        features, _ = class_aware.collect(b.exited(at=at), [ids])
        rows.append(features @ weight.cpu().T + bias.cpu())
    final = b.model(input_ids=ids.to(experiment.device()), use_cache=False).logits[:, :-1].flatten(0, 1)
    return torch.stack([*rows, final.float().cpu()]), labels


def confident_enough(logits: Tensor, labels: Tensor, *, loss: float = 0.02) -> float:
    """The lowest of 50 common thresholds that costs at most ``loss`` of the final head's accuracy; 1 if none does."""
    goal = (logits[-1].argmax(1) == labels).double().mean() - loss
    best = 1.0
    for threshold in torch.linspace(0.98, 0, 50).tolist():
        if (simulate(logits, Confidence(threshold)).prediction == labels).double().mean() < goal:
            break
        best = threshold
    return best


def leaving(b: Bench, heads: dict[int, Linear], ids: Tensor, *, rows: int = 30) -> tuple[Outcome, Tensor, float]:
    """Where each next token of ``ids`` leaves, those tokens, and the common threshold, chosen on some rows of validation text."""
    threshold = confident_enough(*exit_logits(b, heads, b.text.val[:rows]))
    logits, truth = exit_logits(b, heads, ids)
    return simulate(logits, Confidence(threshold)), truth, threshold


def moved(p: Probe, offset: Tensor) -> Linear:
    """The class-mean head, in double precision, of features that all have the same vector added, ``(D,)``; seen tokens only."""
    found, seen = p.found, p.found.seen.cpu()
    means, prior = found.class_means.double().cpu() + offset.double(), found.prior().cpu()
    weight, bias = detection.map_detector(means, n0=p.n0[0], prior=prior)
    return weight, bias.masked_fill(~seen, -torch.inf)


# ---------------------------------------------------------------------------------------------------- claims and study


def comparison(s: SimpleNamespace, *, seed: int = 0) -> dict:
    """One run of everything that a claim rests on, as plain numbers."""
    b = bench(s, seed=seed)
    p = probe(b)
    curves = {name: histories(b, p, freeze=freeze) for name, freeze in (("frozen", True), ("all weights", False))}
    run = as_run(b, p, training=curves, zero=epoch_zero(p), causes=why(s, b.text, seed=seed))
    heads = {name: head for name, head in p.five.items() if "+" not in name} | {"whitened class mean": p.whitened()}
    return run | {"decoding": plain(decoding(b, p, heads))}


def as_run(b: Bench, p: Probe, *, training: dict, zero: dict[str, float], causes: Sequence[dict]) -> dict:
    """What a chapter has measured, as plain numbers: `comparison`'s, but for ``"decoding"``."""
    n0 = {"factor": p.n0[0] / p.found.plug_in_n0(), "curve": n0_curve(p).to_dict("records")}
    alphas = {name: p.mixture(other)[0] for name, other in (("random", p.random()), ("copy", p.copied))}
    return {
        "seed": b.seed, "counts": b.text.counts, "digest": b.text.digest, "final": b.final, "epoch 0": zero, "alphas": alphas, "n0": n0,
        "curves": training, "why": list(causes),
    }  # fmt: skip


def best_sentence(zero: dict[str, float]) -> str:
    """What the accuracies at epoch 0 say about copy, class means and whitening."""
    copied, means, plug, white = (zero[n] for n in ("copy", "class mean", "class mean, plug-in N₀", "whitened class mean"))
    return (
        f"Without any training the class means reach {means:.3f} ({plug:.3f} with the plug-in N₀) and are {_order(means, copied)} the "
        f"copied head's {copied:.3f}; whitened they reach {white:.3f}, {_order(white, copied)} the copy"
    )


def why_sentences(rows: Sequence[dict]) -> str:
    """The lead of class means (N₀ chosen) over the copied head, in points, under each condition."""
    table = pd.DataFrame(rows).groupby(["model", "features"], sort=False).mean(numeric_only=True)
    lead, white = 100 * (table.chosen - table["copy"]), 100 * (table.whitened - table["copy"])
    parts = [f"{model}: {lead[model, 'raw']:+.1f} raw, {lead[model, 'normalised']:+.1f} normalised" for model in lead.index.unique(0)]
    return (
        f"Lead of class means over the copy in points: {'; '.join(parts)}. Whitened class means lead in {int((white > 0).sum())} of "
        f"{len(white)} cases, by {white.mean():+.1f} on average"
    )


def effects(rows: Sequence[dict]) -> str:
    """What each suspected cause does to the lead of class means over the copied head, in points."""
    table = pd.DataFrame(rows).groupby(["model", "features"], sort=False).mean(numeric_only=True).reset_index()
    table["lead"] = 100 * (table.chosen - table["copy"])
    raw, norm = (table[table.features == kind].set_index("model") for kind in ("raw", "normalised"))
    base = raw[(raw.tied == 1) & (raw.width == raw.width.max())].sort_values("epochs")
    first, last = base.lead.iloc[0], base.lead.iloc[-1]
    parts = [f"Training longer moves the lead of class means (raw features) from {first:+.1f} to {last:+.1f}"] if len(base) > 1 else []
    for what, other in (("untying", raw[raw.tied == 0]), ("halving the width", raw[raw.width < raw.width.max()])):
        parts += [f"{what} from {last:+.1f} to {lead:+.1f}" for lead in other.lead]
    moves = norm.lead - raw.lead
    return "; ".join([*parts, f"normalising by {moves.min():+.1f} to {moves.max():+.1f}"])


def training_sentences(tables: dict[str, pd.DataFrame]) -> str:
    """Who ends first in each setting, and what the first epoch does to frozen class means."""
    parts = []
    for setting, table in tables.items():
        last = table.iloc[-1].sort_values(ascending=False)
        parts.append(f"{setting}: {last.index[0]} ends first ({last.iloc[0]:.3f}), {last.index[-1]} last ({last.iloc[-1]:.3f})")
    frozen = tables["frozen"]
    dips = {name: 100 * (frozen[name][1] - frozen[name][0]) for name in ("class mean", "class mean, scaled")}
    moved = " and ".join(f"{value:+.1f} points for {name!r}" for name, value in dips.items())
    return f"{'; '.join(parts)}. The first frozen epoch brings {moved}"


def averaged(runs: Sequence[dict], setting: str, column: str = "exit_accuracy") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation over runs of `as_table`, one column per initialisation."""
    tables = pd.concat([as_table(run["curves"][setting], column) for run in runs]).groupby(level=0)
    return tables.mean(), tables.std()


def claim_all(record: experiment.Record, runs: Sequence[dict]) -> None:
    """The thesis's claims beside ours."""

    def claim(statement: str, thesis: str, values: Sequence[float], holds: Callable[[float], bool] | None, where: str) -> None:
        series = pd.Series(values, dtype=float)
        spread = None if len(series) < 2 else float(series.std())
        ours = float(series.mean())
        record.claim(statement, thesis=thesis, ours=ours, spread=spread, holds=None if holds is None else holds(ours), where=where)

    zero = [run["epoch 0"] for run in runs]
    frozen = [as_table(run["curves"]["frozen"]) for run in runs]
    free = [as_table(run["curves"]["all weights"]) for run in runs]
    claim(
        "Epoch 0: class means are better than the copied head; ours: ratio of the accuracies",
        "OPT-125m: .243 / .056 = 4.3", [z["class mean"] / max(z["copy"], 1e-9) for z in zero], lambda v: v > 1, "epoch-zero",
    )  # fmt: skip
    claim(
        "Epoch 0: whitened class means are better than the copied head; ours: difference",
        "not stated", [z["whitened class mean"] - z["copy"] for z in zero], lambda v: v > 0, "epoch-zero",
    )  # fmt: skip
    claim(
        "Epoch 0: a random head knows nothing, class means do; ours: difference",
        "OPT-125m: .243", [z["class mean"] - z["random"] for z in zero], lambda v: v > 0.01, "epoch-zero",
    )  # fmt: skip
    claim(
        "Epoch 0: mixing with random beats class means alone; ours: difference",
        "OPT-125m: .261 - .243", [z["class mean + random"] - z["class mean"] for z in zero], lambda v: v > 0, "epoch-zero",
    )  # fmt: skip
    claim(
        "Frozen: class means dip after the first epoch; ours: epoch 1 - epoch 0",
        "OPT-125m: .131 - .242", [t["class mean"][1] - t["class mean"][0] for t in frozen], lambda v: v < 0, "training",
    )  # fmt: skip
    claim(
        "Frozen, head scaled to log posteriors: no dip; ours: epoch 1 - epoch 0",
        "not stated", [t["class mean, scaled"][1] - t["class mean, scaled"][0] for t in frozen], lambda v: v >= 0, "training",
    )  # fmt: skip
    claim(
        "Frozen: class means end ahead of the copied head; ours: difference after the last epoch",
        "OPT-125m, 10 epochs: .222 - .187", [t["class mean"].iloc[-1] - t["copy"].iloc[-1] for t in frozen], lambda v: v > 0, "training",
    )  # fmt: skip
    claim(
        "Frozen: random ends far behind; ours: class means - random after the last epoch",
        "OPT-125m: .222 - ≈.019", [t["class mean"].iloc[-1] - t["random"].iloc[-1] for t in frozen], lambda v: v > 0.01, "training",
    )  # fmt: skip
    claim(
        "All weights: the copied head ends ahead of class means; ours: difference after the last epoch",
        "OPT-125m: .325 - .311", [t["copy"].iloc[-1] - t["class mean"].iloc[-1] for t in free], lambda v: v > 0, "training",
    )  # fmt: skip
    claim(
        "Drafting: the text is that of plain greedy decoding; ours: share of the heads for which it is",
        "not stated", [_share(row["identical"] for row in run["decoding"].values()) for run in runs], lambda v: v == 1, "decoding",
    )  # fmt: skip


def study():
    """The comparison for every seed; resumable.  Returns the path of the record."""
    s = experiment.settings(CHAPTER, "study")
    one = "lm-comparison-{}".format
    runs = [experiment.resumable(one(seed), partial(comparison, s, seed=seed), study=NAME, seed=seed, s=s) for seed in range(s.seeds)]
    record = experiment.Record(CHAPTER, study=NAME, data={s.data: runs[0]["counts"]}, seeds=list(range(s.seeds)), at="study")
    record.numbers = {"runs": runs}
    claim_all(record, runs)
    return record.save()


def plain(table: pd.DataFrame) -> dict[str, dict]:
    """A table as JSON knows it: a missing number is None."""
    rows = table.astype(object).where(table.notna(), None).to_dict("index")
    return {str(name): {key: getattr(value, "item", lambda v=value: v)() for key, value in row.items()} for name, row in rows.items()}


def _order(a: float, b: float) -> str:
    return "level with" if abs(a - b) < 5e-4 else "ahead of" if a > b else "behind"


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def _share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)
