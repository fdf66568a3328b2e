"""Chapter 5's experiment: scores of training samples, judged by what a fresh network learns.

Every training is one step: finished ones are kept, and a run that was cut off goes on after them.
`finished` in place of `cache.step` only looks for what is there.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from eenotes.methods import eeprune, sample_selection
from eenotes.methods.sample_selection import Scores, Selection, SelectionWarning
from eenotes_book import cache
from eenotes_book.ch05_eeprune import REVISION
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.ch05_eeprune.harness import train_on

NONE = "no pruning"
METHODS = (  # in the thesis's order
    "EEPrune",
    "Random",
    "EL2N",
    "Forgetting",
    "SVP",
    "Complexity gap",
    "EEPrune-Before",
    "EEPrune-After",
)
QUOTA = "EEPrune, quota"
EASY = "EEPrune, reversed"  # keeps what EEPrune drops first
EXTRAS = (QUOTA, "EEPrune-Soft", "EEPrune-Loss", "EEPrune, no labels")
BALANCED = ("Complexity gap", QUOTA)  # selected class by class
HALF = 0.5  # dropped, where a network is trained on what was dropped
SIDES = ("kept", "dropped")  # of the halves
_SOURCES = {QUOTA: "EEPrune", EASY: "EEPrune"}  # whose scores a method selects by
_RUN = ("train", "val", "test", "kind", "width", "batch_size", "learning_rate", "budget")
_POINTS = 1500  # training samples of which a record keeps what the exits say
Step = Callable[..., dict | None]


def finished(
    name: str, compute: Callable[[], dict] | None = None, *, revision: int, **facts
) -> dict | None:
    """The numbers of a step that has run, or ``None``: it takes the place of `cache.step`."""
    return cache.kept(name, revision=revision, **facts)


def choose(b: Bench, method: str, ratio: float) -> Selection:
    """What a method keeps; a method that finds too few to drop drops those.

    How many those are is in the numbers, so there is no warning.
    """
    if method == NONE:
        everything = torch.arange(len(b.labels))
        return Selection(everything, everything[:0], 0)
    scores = b.scores(_SOURCES.get(method, method))
    if method == EASY:
        scores = Scores(method, -scores.values, scores.labels)
    with warnings.catch_warnings(action="ignore", category=SelectionWarning):
        return sample_selection.select(scores, ratio, method in BALANCED)


def imbalance(selection: Selection, labels: Tensor) -> float:
    r"""How far the kept samples are from the class shares of all labels ``(N,)``.

    $\frac12 \sum_k |\text{kept share}_k - \text{share}_k|$.  At 0 the shares are as they were;
    at 0.1 one in ten of the kept samples would have to be of another class for that.
    """
    everything = labels.bincount().double()
    kept = labels[selection.keep].bincount(minlength=len(everything)).double()
    return 0.5 * (kept / kept.sum() - everything / everything.sum()).abs().sum().item()


def run(b: Bench, method: str, ratio: float, step: Step = cache.step) -> dict | None:
    """One method at one ratio: what it keeps, and what a fresh network learns from that.

    Returns:
        As `train_on`, and ``dropped`` (samples by class), ``imbalance``, ``seconds``.
    """
    return _step(b, step, f"{ratio:g}-{method}", partial(_run, b, method, ratio), method, ratio)


def half(b: Bench, side: str, step: Step = cache.step) -> dict | None:
    """What is learned from what EEPrune drops of half the data, or from as many of the rest."""
    return _step(b, step, f"half-{side}", partial(_half, b, side), "EEPrune", side)


def scoring(b: Bench, method: str, step: Step = cache.step) -> dict | None:
    """What a method's scores have cost: ``samples``, ``seconds``, ``joules``.

    And ``candidates``, the share of the samples that a method can drop.
    """
    compute = partial(_scoring, b, method)
    facts = b.score_facts(method) | {"data": b.name, "method": method}
    return step(_name(b, f"score-{method}"), compute, revision=REVISION, **facts)


def seen_by_exits(b: Bench, step: Step = cache.step) -> dict | None:
    """What two exits of EEPrune's network say of some training samples.

    Returns:
        ``early`` and ``final`` (probability of the true class), ``candidate`` and ``confidence``,
        a number per sample; ``early_right``, ``both_right`` (shares of all samples).
    """
    facts = b.score_facts("EEPrune") | {"data": b.name}
    return step(_name(b, "exits"), partial(_seen_by_exits, b), revision=REVISION, **facts)


def comparison(b: Bench, step: Step = cache.step) -> dict:
    """One run on one data set, as plain numbers; what is not there yet is left out.

    Returns:
        ``data``, ``counts``, ``seed``; ``none``, a training on all; ``runs``, by ratio and method;
        ``halves``, by side; ``scoring``, by method; ``exits``.
    """
    runs = {
        ratio: _there({method: run(b, method, float(ratio), step) for method in methods})
        for ratio, methods in b.s.runners.items()
    }
    return {
        "data": b.name,
        "counts": {"train": b.s.train, "val": b.s.val, "test": b.s.test},
        "seed": b.seed,
        "none": run(b, NONE, 0, step),
        "runs": {ratio: found for ratio, found in runs.items() if found},
        "halves": _there({side: half(b, side, step) for side in SIDES}) if b.s.halves else {},
    } | scores_of(b, [method for methods in b.s.runners.values() for method in methods], step)


def scores_of(b: Bench, methods: Iterable[str], step: Step = cache.step) -> dict:
    """``scoring``, by method, and ``exits``, for the first seed, if EEPrune is among them."""
    sources = dict.fromkeys(_SOURCES.get(method, method) for method in methods if method != NONE)
    return {
        "scoring": _there({method: scoring(b, method, step) for method in sources}),
        "exits": seen_by_exits(b, step) if b.seed == 0 and "EEPrune" in sources else None,
    }


def extras(b: Bench, *, ratio: float) -> dict:
    """Beyond the comparison: a quota per class, the variants, and no labels, as plain numbers."""
    runs = {method: run(b, method, ratio) for method in EXTRAS}
    return {"data": b.name, "seed": b.seed, "ratio": ratio, "runs": runs}


def _there(found: Mapping[str, dict | None]) -> dict[str, dict]:
    return {name: each for name, each in found.items() if each is not None}


def _step(
    b: Bench, step: Step, name: str, compute: Callable[[], dict], method: str, what: float | str
) -> dict | None:
    facts = {setting: getattr(b.s, setting) for setting in _RUN}
    if method != NONE:
        facts |= b.score_facts(_SOURCES.get(method, method))
    facts |= {"data": b.name, "seed": b.seed, "method": method, "what": what}
    return step(_name(b, name), compute, revision=REVISION, **facts)


def _name(b: Bench, what: str) -> str:
    return f"{b.name}-{b.s.train}-seed{b.seed}-{what}".replace(", ", "-").replace(" ", "-")


def _run(b: Bench, method: str, ratio: float) -> dict:
    chosen = choose(b, method, ratio)
    counts = b.labels[chosen.drop].bincount(minlength=len(b.data.classes)).tolist()
    dropped = dict(zip(b.data.classes, counts, strict=True))
    skew = {"dropped": dropped, "imbalance": imbalance(chosen, b.labels)}
    return train_on(b, chosen.keep, title=f"{method} {ratio:g}") | skew


def _half(b: Bench, side: str) -> dict:
    # As many of the rest as were dropped: fewer than half may qualify, and more data would win by
    # being more.
    parts = choose(b, "EEPrune", HALF)
    rows = {"kept": parts.keep, "dropped": parts.drop}[side]
    draw = torch.Generator().manual_seed(b.seed)
    size = min(len(parts.drop), len(parts.keep))
    return train_on(b, rows[torch.randperm(len(rows), generator=draw)[:size]], title=side)


def _scoring(b: Bench, method: str) -> dict:
    scores, joules = b.scored(method)
    return {
        "samples": scores.samples_seen,
        "scoring_seconds": scores.seconds,
        "joules": None if math.isnan(joules) else joules,
        "candidates": scores.values.isfinite().cpu().double().mean().item(),
    }


def _seen_by_exits(b: Bench) -> dict:
    seen = eeprune.observe(b.scoring[0], b.data.train)
    both = seen.early_right & seen.final_right
    rows = slice(0, _POINTS)  # the images are in a random order
    parts = {"early": seen.early_truth, "final": seen.final_truth, "confidence": seen.confidence}
    return {
        name: [round(p, 4) for p in values[rows].tolist()] for name, values in parts.items()
    } | {
        "candidate": both[rows].int().tolist(),
        "early_right": seen.early_right.cpu().double().mean().item(),
        "both_right": both.cpu().double().mean().item(),
    }
