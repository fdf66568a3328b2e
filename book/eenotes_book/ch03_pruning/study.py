"""The study of chapter 3: published networks, pruned in every way, with several seeds."""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

from eenotes import training
from eenotes_book import cache, records, settings
from eenotes_book.ch03_pruning import CHAPTER, REVISION, published
from eenotes_book.ch03_pruning.claims import claim_all
from eenotes_book.ch03_pruning.experiment import (
    SEPARATELY,
    TOGETHER,
    UNPRUNED,
    described,
    joined,
    judged,
    pools,
)
from eenotes_book.ch03_pruning.settings import Published
from eenotes_book.ch03_pruning.tables import having

MAIN = "resnet20"  # the network with the seeds for a verdict


def study() -> Path:
    """Run it, or go on where an earlier run was cut off: every step is kept as it finishes.

    The record is renewed after every seed, from the steps that are there.
    """
    for name, recipe in _networks().items():
        for seed in range(recipe.seeds):
            for approach in (UNPRUNED, *recipe.approaches):
                compute = partial(_computed, name, seed, approach)
                cache.step(_name(name, seed, approach), compute, **_facts(recipe, seed, approach))
            record()
    return record()


def record() -> Path:
    """Make the record from the steps that have finished.

    Raises:
        ValueError: if no ResNet-20 has been pruned both together and separately yet.
    """
    runs = {name: list(_runs(name, recipe)) for name, recipe in _networks().items()}
    if not having(runs[MAIN], TOGETHER, SEPARATELY):
        raise ValueError("no ResNet-20 has been pruned together and separately: make study N=3")
    data = {run["data"]: run["counts"] for run in runs[MAIN]}
    made = records.Record(CHAPTER, at="study", data=data, seeds=[r["seed"] for r in runs[MAIN]])
    made.numbers = {"runs": runs.pop(MAIN)} | {name: found for name, found in runs.items() if found}
    claim_all(made, made.numbers)
    return made.save()


def _networks() -> dict[str, Published]:
    return settings.load(CHAPTER, "study").networks


@lru_cache(maxsize=1)
def _bench(name: str, seed: int) -> published.Bench:
    return published.bench(_networks()[name], seed=seed)


def _computed(name: str, seed: int, approach: str) -> dict:
    """The numbers of one approach; with those of the unpruned network, what the run is about."""
    b = _bench(name, seed)
    if approach == UNPRUNED:
        magnitudes = pools(b.net, sparsity=1 - (1 - b.s.rate) ** b.s.rounds)
        about = described(b) | {"precision": training.precision(), "magnitudes": magnitudes}
        return {"about": about, "found": judged(b, b.net)}
    return {"found": judged(b, *published.variant(b, approach))}


def _runs(name: str, recipe: Published) -> Iterator[dict]:
    """The run of each seed of which at least one approach has finished."""
    for seed in range(recipe.seeds):
        steps = {
            approach: cache.kept(_name(name, seed, approach), **_facts(recipe, seed, approach))
            for approach in (UNPRUNED, *recipe.approaches)
        }
        steps = {approach: step for approach, step in steps.items() if step is not None}
        if UNPRUNED in steps and len(steps) > 1:
            found = {approach: step["found"] for approach, step in steps.items()}
            seconds = {approach: step["seconds"] for approach, step in steps.items()}
            yield joined(steps[UNPRUNED]["about"], found) | {"seconds": seconds}


def _name(name: str, seed: int, approach: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in approach).split()
    return f"pruning-{name}-{seed}-{'-'.join(words)}"


def _facts(recipe: Published, seed: int, approach: str) -> dict:
    """What a step follows from: not how many seeds and approaches there are beside it."""
    known = {
        key: value for key, value in vars(recipe).items() if key not in ("seeds", "approaches")
    }
    return {"revision": REVISION, "seed": seed, "approach": approach, "recipe": known}
