"""Chapter 5's experiment: six scores of training samples, judged by what a fresh network learns.

Every method runs the race of `eenotes_book.ch05_eeprune.harness`; `NONE` and ``"Random"`` always
take part.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from eenotes.methods import sample_selection
from eenotes.methods.sample_selection import Selection, SelectionWarning
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
BALANCED = ("Complexity gap",)  # its authors select class by class
EXTRAS = ("EEPrune, quota", "EEPrune-Soft", "EEPrune-Loss", "EEPrune, no labels")
HALF = 0.5  # dropped, where a network is trained on what was dropped


def choose(b: Bench, method: str, ratio: float) -> Selection:
    """What a method keeps; a method that finds too few to drop drops those.

    How many those are is in the numbers, so there is no warning.
    """
    with warnings.catch_warnings(action="ignore", category=SelectionWarning):
        if method == "EEPrune, quota":
            return sample_selection.select(b.scores["EEPrune"], ratio, True)
        return sample_selection.select(b.scores[method], ratio, method in BALANCED)


def imbalance(selection: Selection, labels: Tensor) -> float:
    r"""How far the kept samples are from the class shares of all labels ``(N,)``.

    $\frac12 \sum_k |\text{kept share}_k - \text{share}_k|$.  At 0 the shares are as they were;
    at 0.1 one in ten of the kept samples would have to be of another class for that.
    """
    everything = labels.bincount().double()
    kept = labels[selection.keep].bincount(minlength=len(everything)).double()
    return 0.5 * (kept / kept.sum() - everything / everything.sum()).abs().sum().item()


def comparison(b: Bench, ratios: Sequence[float]) -> dict:
    """One run on one data set, as plain numbers.

    Every method at every ratio, no pruning, and what scoring has cost.
    """
    runs, dropped, imbalances = {}, {}, {}
    classes = len(b.data.classes)
    for ratio in ratios:
        key = f"{ratio:g}"
        chosen = {method: choose(b, method, ratio) for method in METHODS}
        runs[key] = {
            method: train_on(b, c.keep, what=f"{method} {key}") for method, c in chosen.items()
        }
        dropped[key] = {
            method: b.labels[c.drop].bincount(minlength=classes).tolist()
            for method, c in chosen.items()
        }
        imbalances[key] = {method: imbalance(c, b.labels) for method, c in chosen.items()}
    return {
        "data": b.data.name,
        "counts": b.data.counts,
        "seed": b.seed,
        "none": train_on(b, None, what=NONE),
        "runs": runs,
        "dropped": dropped,
        "imbalance": imbalances,
        "scoring": {name: _cost(b, name) for name in METHODS},
        "candidates": float(b.scores["EEPrune"].values.isfinite().double().mean()),
    }


def _cost(b: Bench, name: str) -> dict:
    scores, joules = b.scored[name]
    joules = None if math.isnan(joules) else joules
    return {"samples": scores.samples_seen, "seconds": scores.seconds, "joules": joules}


def extras(b: Bench, *, ratio: float) -> dict:
    """Beyond the comparison, as plain numbers.

    Training on what was dropped, a quota per class, the variants, and no labels.
    """
    found = {method: choose(b, method, ratio) for method in EXTRAS}
    runs = {method: train_on(b, c.keep, what=f"{method} {ratio:g}") for method, c in found.items()}
    # As many of the rest as were dropped: fewer than half may qualify, and more data would win by
    # being more.
    parts = choose(b, "EEPrune", HALF)
    size = min(len(parts.drop), len(parts.keep))
    draw = torch.Generator().manual_seed(b.seed)
    sides = {"dropped": parts.drop, "kept": parts.keep}
    sides = {
        name: rows[torch.randperm(len(rows), generator=draw)[:size]] for name, rows in sides.items()
    }
    return {
        "data": b.data.name,
        "seed": b.seed,
        "ratio": ratio,
        "runs": runs,
        "imbalance": {method: imbalance(c, b.labels) for method, c in found.items()},
        "halves": {name: train_on(b, rows, what=f"{name} half") for name, rows in sides.items()},
    }
