"""The probe of chapter 6: a small OPT learns a drawn text, and its early exit gets every head.

It runs the study's comparison, its training, its decoding and its AWGN channel, all in miniature.
The text is drawn here, and lies where WikiText-2 would: the manual of Python changes with Python.
What depends on the covariance within the classes has "whitened" in its name.
"""

import torch

from eenotes.costs import Costs
from eenotes.exits import ClassMeanExit
from eenotes.language import decoding, evaluation, initialisation
from eenotes.language import exits as language_exits
from eenotes.rules import Confidence
from eenotes_book import language_models, probes, slider
from eenotes_book.ch06_language import before_training, experiment, writing
from eenotes_book.ch06_language.before_training import MeasuredExit
from eenotes_book.ch06_language.probe_of_race import of_race
from eenotes_book.ch06_language.probe_of_study import of_study
from eenotes_book.ch06_language.probe_of_text import (
    SEED,
    Numbers,
    drawn_text,
    of_channel,
    of_manual,
    of_texts,
    quick_collections,
)
from eenotes_book.ch06_language.settings import Settings
from eenotes_book.data import text as data_text
from eenotes_book.language_models import LanguageModel

SETTINGS = {
    "data": "WikiText-2", "hub": "", "vocabulary": 300, "length": 16,
    "train": 2048, "val": 336, "test": 640,
    "layers": 3, "width": 16, "heads": 2, "at": 2, "phases": [1, 1], "widths": [8],
    "batch_size": 8, "learning_rate": 0.02, "statistics": 100,
    "tune": 24, "epochs": 2, "head_rate": 0.01, "tune_rate": 0.001, "prompts": 2, "prompt": 6,
}  # fmt: skip


def probe() -> Numbers:
    """The numbers of the chapter by name."""
    s = Settings(**SETTINGS)
    with quick_collections(), drawn_text():
        data = language_models.load_text(s)
        benches = _benches(s, data)
        b = benches["tied"]
        p = _exit(b)
        return (
            of_channel()
            | of_manual()
            | of_texts(data)
            | _models(benches)
            | _statistics(b, p)
            | _heads(b, p)
            | _curves(b, p)
            | _depths(b, p)
            | _histories(b, p)
            | _decoding(benches["untied"])
            | _leaving(b)
            | of_race()
            | of_study(benches, Settings(**SETTINGS | {"epochs": 0}))
        )


# -------------------------------------------------------------------------------- the model


def _benches(s: Settings, data: data_text.Text) -> dict[str, LanguageModel]:
    """The four models of the comparison, trained in double precision."""
    return {
        "tied": language_models.trained(s, data=data, seed=SEED),
        "short": language_models.trained(s, data=data, seed=SEED, phases=1),
        "untied": language_models.trained(s, data=data, seed=SEED, tied=False),
        "narrow": language_models.trained(s, data=data, seed=SEED, width=8),
    }


def _exit(b: LanguageModel, **options) -> MeasuredExit:
    """Class statistics and features of an exit."""
    with probes.default_dtype(torch.float32):
        return before_training.measured_exit(b, **options)


def _models(benches: dict[str, LanguageModel]) -> Numbers:
    """What each of the models has learned."""
    numbers = {}
    for name, b in benches.items():
        weights = torch.cat([weight.detach().flatten() for weight in b.model.parameters()])
        numbers[f"model_{name}"] = [b.final["accuracy"], b.final["perplexity"], weights.norm()]
    with torch.no_grad():
        logits = benches["tied"].model(input_ids=benches["tied"].text.test[:4]).logits
    return numbers | {"model_logits": [logits.mean(), logits.std(), logits[0, -1].amax()]}


def _statistics(b: LanguageModel, p: MeasuredExit) -> Numbers:
    """Class means, priors and N₀ of the exit, and of exits of other kinds."""
    found, prior = p.found, p.found.prior
    samples = found.counts.sum()
    degrees = samples - found.seen.sum()
    others = {
        "input": _exit(b, target="input"),
        "normed": _exit(b, norm=True),
        "first": _exit(b, at=1),
    }
    numbers = {
        "statistics_counts": [found.counts.sum(), found.seen.sum(), found.counts.max()],
        "statistics_means": found.class_means.norm(),
        "statistics_direction": found.class_means[found.seen].mean(0)[:4],
        "statistics_prior": [prior.amin(), prior.amax()],
        "statistics_n0": found.plug_in_n0(),
        "whitened_covariance": found.covariance.diagonal()[:4] * samples / degrees,
    }
    for name, other in others.items():
        chosen = other.accuracy(other.chosen())
        numbers[f"statistics_{name}"] = [other.found.plug_in_n0(), other.n0[0], chosen]
    return numbers


# --------------------------------------------------------------------------- before training


def _heads(b: LanguageModel, p: MeasuredExit) -> Numbers:
    """Every head: its size, its bias, and what it does on test."""
    heads = p.five | {"plug-in": p.class_mean(), "scaled": p.chosen(scale=True)}
    heads |= {"whitened": p.whitened(), "whitened plug-in": p.whitened(p.found.plug_in_n0())}
    numbers = {f"head_{_plain(name)}": _head(b, head) for name, head in heads.items()}
    # float32 products make the size of a whitened head uncertain in the fourth digit
    return {name: head[2:] if "whitened" in name else head for name, head in numbers.items()}


def _plain(name: str) -> str:
    """The name of a head, fit for the name of a number."""
    return name.replace(",", "").replace(" + ", "_and_").replace(" ", "_")


def _head(b: LanguageModel, head: language_exits.Linear) -> list[float]:
    """The size of weight and bias, and accuracy and perplexity on test."""
    weight, bias = (part.double() for part in head)
    found = evaluation.evaluate(language_exits.load(b.exited(), head), b.text.test.split(32))
    sizes = [weight.norm().item(), bias.norm().item()]
    return [*sizes, found["exit_accuracy"], found["exit_perplexity"]]


def _curves(b: LanguageModel, p: MeasuredExit) -> Numbers:
    """Accuracy at epoch 0: every head, against N₀, against α, and after an offset."""
    zero = before_training.epoch_zero(p)
    noise = before_training.n0_curve(p)
    white = noise["head"].str.contains("whitened")
    mixed = before_training.alpha_curve(p)
    offset = torch.linspace(-3, 3, b.settings.width)
    features, labels = p.test
    weight, bias = before_training.offset_head(p, offset)
    seen = p.found.seen
    nearest = ClassMeanExit(p.found.class_means[seen])(features)
    return {
        "epoch_zero": [zero[name] for name in p.five],
        "epoch_zero_plug_in": zero["class mean, plug-in N₀"],
        "epoch_zero_whitened": zero["whitened class mean"],
        "n0_val": noise[~white].val.mean(),
        "n0_test": noise[~white].test.tolist(),
        "n0_chosen": p.n0[0],
        "whitened_n0_val": noise[white].val.mean(),
        "whitened_n0_test": noise[white].test.tolist(),
        "whitened_n0_chosen": p.n0_whitened[0],
        "alpha_val": mixed.groupby("other").val.mean().tolist(),
        "alpha_test": mixed.test.tolist(),
        "moved_accuracy": evaluation.accuracy(features + offset, labels, (weight, bias)),
        "moved_bias": [bias[seen].mean(), bias[seen].std()],
        "nearest_distance": -nearest.double().amax(1).mean(),
    }


def _depths(b: LanguageModel, p: MeasuredExit) -> Numbers:
    """Accuracy at epoch 0 after each decoder."""
    table = before_training.depth_table(b, {1: _exit(b, at=1), 2: p})
    white = table["whitened class mean"]
    rest = table.drop(columns="whitened class mean")
    return {"depth": rest.to_numpy().copy(), "depth_whitened": white.tolist()}


# ------------------------------------------------------------------------------------ training


def _histories(b: LanguageModel, p: MeasuredExit) -> Numbers:
    """The initialisations over the epochs, the exit frozen to the model and all weights trained."""
    numbers = {}
    for setting, freeze in {"frozen": True, "all": False}.items():
        for name, rows in experiment.histories(b, p, freeze=freeze).items():
            accuracy = [row["exit_accuracy"] for row in rows[1:]]
            trained = [row["exit_perplexity"] for row in rows[1:]]
            final = [] if freeze else [rows[-1]["final_perplexity"]]
            numbers[f"{setting}_{_plain(name)}"] = accuracy + trained + final
    return numbers


# ------------------------------------------------------------------------------------ decoding


def _decoding(b: LanguageModel) -> Numbers:
    """Drafting, leaving while decoding, and what it costs."""
    p = _exit(b)
    heads = {"class_mean": p.chosen(), "whitened": p.whitened()}
    table = writing.drafted(b, p, heads)
    columns = ["acceptance", "layer_passes", "token_layers", "identical"]
    drafts = table[columns].astype(float)
    numbers = {f"drafting_{name}": drafts.loc[name].tolist() for name in heads}
    numbers["drafting_greedy"] = drafts.loc["greedy"].tolist()[1:]
    heads = {"written": p.chosen(scale=True), "written_whitened": p.whitened()}
    for name, head in heads.items():
        found = writing.written(b, p, head, thresholds=[1.0, 0.45, 0.2])
        numbers[name] = found.drop(columns="tokens_per_second").to_numpy()[1:].copy()
    return numbers | _written(b, p) | _drafted(b)


def _written(b: LanguageModel, p: MeasuredExit) -> Numbers:
    """One text with early exits: how sure the exit was of each token."""
    exited = language_exits.load(b.exited(), p.chosen(scale=True))
    prompt = b.text.test[5, :6]
    found = decoding.early_exit(exited, prompt, max_new_tokens=8, threshold=0.3)
    return {"written_confidence": found.confidence[::2], "written_early": sum(found.early)}


def _drafted(b: LanguageModel) -> Numbers:
    """Drafts of an exit with a norm, initialised by name."""
    exited = b.exited(norm=True)
    initialisation.initialise(exited, "copy")
    drafted = decoding.self_speculative(exited, b.text.test[7, :5], max_new_tokens=10)
    counts = [drafted.drafted, sum(drafted.early), drafted.layer_passes, drafted.token_layers]
    return {"drafted_normed": counts}


def _leaving(b: LanguageModel) -> Numbers:
    """Where the tokens of a text leave, with an exit after every decoder."""
    exits = {at: _exit(b, at=at) for at in (1, 2)}
    plain = {at: _double(p.copied) for at, p in exits.items()}
    white = {at: _double(p.whitened()) for at, p in exits.items()}
    numbers = _left(b, plain, "leaving") | _left(b, white, "leaving_whitened")
    del numbers["leaving_whitened_logits"]  # uncertain in the fourth digit, see `_heads`
    return numbers


def _double(head: language_exits.Linear) -> language_exits.Linear:
    """The head in the precision of the features."""
    return tuple(part.double() for part in head)


def _left(b: LanguageModel, heads: dict[int, language_exits.Linear], name: str) -> Numbers:
    """The common threshold, chosen on validation, and what follows from it."""
    passages = b.text.test[3:13]
    logits, labels = writing.exit_logits(b, heads, passages)
    costs = Costs(stages=(1,) * len(logits), exits=(0,) * len(heads))
    with probes.default_dtype(torch.float32):
        outcome, truth, threshold = writing.leaving(b, heads, passages)
        rule, tried = Confidence(threshold), [threshold, 0.2, 0.4]
        rows = slider.rows(logits, labels, rule, costs, thresholds=tried)
    return {
        f"{name}_threshold": threshold,
        f"{name}_right": (outcome.prediction == truth).double().mean(),
        f"{name}_exit": outcome.exit_index.double().mean(),
        f"{name}_confidence": outcome.confidence.double().mean(),
        f"{name}_logits": [logit.logsumexp(1).mean() for logit in logits.double()],
        f"{name}_cost": [row.relative_cost for row in rows],
        f"{name}_score": [row.score for row in rows],
    }
