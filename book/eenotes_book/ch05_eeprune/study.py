"""Chapter 5's experiment: six ways to score training samples, judged by what a fresh network learns
from those they keep.

The harness is the same for everybody: a network from scratch, the same number of samples seen, the
same schedule, the same seeds; ``"no pruning"`` and ``"Random"`` always take part.  What a score has
cost is kept with it.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from eenotes_book import records, settings
from eenotes_book.ch05_eeprune import CHAPTER
from eenotes_book.ch05_eeprune.claims import claim_all
from eenotes_book.ch05_eeprune.experiment import bench, comparison, extras, sweep


def run_all(s: SimpleNamespace, seeds: Sequence[int]) -> tuple[dict, dict, list[dict]]:
    """Comparison and extras per data set, one run per seed, and the sweep's rows; what is finished
    is not repeated.
    """
    groups, more, rows = {}, {}, []
    for name in s.names:
        benches = [bench(name, getattr(s, name), seed=seed) for seed in seeds]
        groups[name] = [comparison(b, s.ratios) for b in benches]
        more[name] = [extras(b, ratio=s.extra_ratio) for b in benches]
    for name in s.sweep.names:
        rows += [row for seed in range(s.sweep.seeds) for row in sweep(name, s.sweep, seed=seed)]
    return groups, more, rows


def study() -> Path:
    """The whole comparison with many seeds; every training is kept as it finishes, so a study that
    was cut off goes on where it was.
    """
    s = settings.load(CHAPTER, "study")
    groups, more, rows = run_all(s, range(s.seeds))
    data = {name: runs[0]["counts"] for name, runs in groups.items()}
    record = records.Record(CHAPTER, at="study", data=data, seeds=list(range(s.seeds)))
    record.numbers = {"comparison": groups, "extras": more, "sweep": rows}
    claim_all(record, groups, more)
    return record.save()
