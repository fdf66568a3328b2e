"""The study of chapter 5: the whole race with many seeds."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch05_eeprune import CHAPTER
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.ch05_eeprune.claims import claim_all
from eenotes_book.ch05_eeprune.experiment import NONE, Step, comparison, finished, run, scores_of
from eenotes_book.ch05_eeprune.settings import StudySettings
from eenotes_book.ch05_eeprune.sweep import sweep

_CORE = (NONE, "Random", "EEPrune")


def study() -> Path:
    """Run with many seeds and write the record.

    Every training is kept as it finishes, so a study that was cut off goes on where it was.  What
    decides most comes first: the ratio at which all methods take part, seed by seed.
    """
    s = settings.load(CHAPTER, "study")
    for work in _works(s):
        work()
    return record()


def record() -> Path:
    """Make the record from the steps that have finished, however many those are.

    Raises:
        ValueError: if none has.
    """
    s = settings.load(CHAPTER, "study")
    numbers = run_all(s, finished)
    groups = numbers["comparison"]
    if not groups:
        raise ValueError("no step of the race has finished: make study N=5")
    data = {name: runs[0]["counts"] for name, runs in groups.items()}
    seeds = sorted({one["seed"] for runs in groups.values() for one in runs})
    made = records.Record(CHAPTER, at="study", data=data, seeds=seeds)
    made.numbers = numbers
    claim_all(made, numbers)
    return made.save()


def run_all(s: StudySettings, step: Step = cache.step) -> dict:
    """``comparison``: a run per seed and data set, of which something is there; ``sweep``: rows."""
    groups = {}
    for name in s.names:
        runs = [comparison(Bench(name, s.race(name), seed), step) for seed in range(s.seeds)]
        groups[name] = [one for one in runs if one["none"] or one["runs"]]
    rows = [
        row
        for name in s.sweep.names
        for seed in range(s.sweep.seeds)
        for row in sweep(name, s.race(name), s.sweep, seed=seed, step=step)
    ]
    return {"comparison": {name: runs for name, runs in groups.items() if runs}, "sweep": rows}


def _works(s: StudySettings) -> Iterator[Callable[[], object]]:
    """The study in pieces, the most telling first: the first ratio, the sweep, the other ratios."""
    for name in s.names:
        race = s.race(name)
        first, *others = race.runners.items()
        yield from _of_ratio(s, name, *first)
        if name in s.sweep.names:
            for seed in range(s.sweep.seeds):
                yield partial(sweep, name, race, s.sweep, seed=seed)
        for ratio, methods in others:
            yield from _of_ratio(s, name, ratio, methods)
        for seed in range(s.seeds):
            yield partial(comparison, Bench(name, race, seed))


def _of_ratio(
    s: StudySettings, name: str, ratio: str, methods: Sequence[str]
) -> Iterator[Callable[[], object]]:
    """The race at one ratio, seeds before methods."""
    rest = [method for method in methods if method not in _CORE]
    for some in (_CORE, rest):
        for seed in range(s.seeds):
            b = Bench(name, s.race(name), seed)
            for method in some:
                yield partial(run, b, method, 0 if method == NONE else float(ratio))
            yield partial(scores_of, b, some)
