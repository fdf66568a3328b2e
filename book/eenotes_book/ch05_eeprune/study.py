"""The study of chapter 5: the whole comparison with many seeds."""

from collections.abc import Sequence
from pathlib import Path

from eenotes_book import records, settings
from eenotes_book.ch05_eeprune import CHAPTER
from eenotes_book.ch05_eeprune.bench import bench
from eenotes_book.ch05_eeprune.claims import claim_all
from eenotes_book.ch05_eeprune.experiment import comparison, extras
from eenotes_book.ch05_eeprune.settings import StudySettings
from eenotes_book.ch05_eeprune.sweep import sweep


def run_all(s: StudySettings, seeds: Sequence[int]) -> dict:
    """Comparison and extras per data set, one run per seed, and the sweep's rows.

    What is finished is not repeated.
    """
    groups, more, rows = {}, {}, []
    for name in s.names:
        benches = [bench(name, s.race(name), seed=seed) for seed in seeds]
        groups[name] = [comparison(b, s.ratios) for b in benches]
        more[name] = [extras(b, ratio=s.extra_ratio) for b in benches]
    for name in s.sweep.names:
        rows += [row for seed in range(s.sweep.seeds) for row in sweep(name, s.sweep, seed=seed)]
    return {"comparison": groups, "extras": more, "sweep": rows}


def study() -> Path:
    """Run with many seeds and write the record.

    Every training is kept as it finishes, so a study that was cut off goes on where it was.
    """
    s = settings.load(CHAPTER, "study")
    seeds = list(range(s.seeds))
    numbers = run_all(s, seeds)
    data = {name: runs[0]["counts"] for name, runs in numbers["comparison"].items()}
    record = records.Record(CHAPTER, at="study", data=data, seeds=seeds)
    record.numbers = numbers
    claim_all(record, numbers)
    return record.save()
