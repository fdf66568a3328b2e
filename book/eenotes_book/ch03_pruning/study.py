"""Chapter 3: exits pruned together with the backbone, or separately after it; what zeros save, and
what they do not.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

from eenotes_book import cache, records, settings
from eenotes_book.ch03_pruning import CHAPTER, REVISION
from eenotes_book.ch03_pruning.claims import claim_all, claim_sweep
from eenotes_book.ch03_pruning.experiment import (
    CONTROL,
    SEPARATELY,
    TOGETHER,
    bench,
    both,
    run,
    sweep,
)


def study() -> Path:
    """The main comparison with its control, and the sweep, with several seeds; every step is kept
    as it finishes.
    """
    s = settings.load(CHAPTER, "study")
    runs, sweeps = [], []
    for seed in range(s.seeds):
        facts = {"revision": REVISION, "seed": seed, "recipe": s}
        runs.append(cache.step(f"pruning-{seed}", partial(_main, s, seed), **facts))
        sweeps.append(
            cache.step(f"pruning-sweep-{seed}", partial(_sweep, s, seed), **facts)["rows"]
        )
    record = records.Record(
        CHAPTER, at="study", data={runs[0]["data"]: runs[0]["counts"]}, seeds=list(range(s.seeds))
    )
    claim_all(record, runs)
    claim_sweep(record, sweeps)
    record.numbers |= {"runs": runs, "sweeps": sweeps}
    return record.save()


def _main(s: SimpleNamespace, seed: int) -> dict:
    b = bench(s, seed=seed)
    return run(b, {name: both(b, name) for name in (TOGETHER, SEPARATELY, CONTROL)})


def _sweep(s: SimpleNamespace, seed: int) -> dict:
    return {"rows": sweep(bench(s, seed=seed))}
