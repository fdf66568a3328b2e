"""Chapter 3's study: the comparison with its control, and the sweep, with several seeds."""

from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch03_pruning import CHAPTER, REVISION
from eenotes_book.ch03_pruning.claims import claim_all
from eenotes_book.ch03_pruning.experiment import (
    CONTROL,
    SEPARATELY,
    TOGETHER,
    bench,
    by_approach,
    run,
    sweep,
)
from eenotes_book.ch03_pruning.settings import StudySettings


def study() -> Path:
    """Run it, or go on where an earlier run was cut off: every step is kept as it finishes."""
    s = settings.load(CHAPTER, "study")
    runs, sweeps = [], []
    for seed in range(s.seeds):
        facts = {"revision": REVISION, "seed": seed, "recipe": s}
        runs.append(cache.step(f"pruning-{seed}", partial(_main, s, seed), **facts))
        swept = cache.step(f"pruning-sweep-{seed}", partial(_sweep, s, seed), **facts)
        sweeps.append(swept["rows"])
    data = {runs[0]["data"]: runs[0]["counts"]}
    record = records.Record(CHAPTER, at="study", data=data, seeds=list(range(s.seeds)))
    record.numbers = {"runs": runs, "sweeps": sweeps}
    claim_all(record, record.numbers)
    return record.save()


def _main(s: StudySettings, seed: int) -> dict:
    b = bench(s, seed=seed)
    return run(b, {name: by_approach(b, name) for name in (TOGETHER, SEPARATELY, CONTROL)})


def _sweep(s: StudySettings, seed: int) -> dict:
    return {"rows": sweep(bench(s, seed=seed))}
