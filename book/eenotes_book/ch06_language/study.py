"""The study of chapter 6: the comparison for every seed."""

from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch06_language import CHAPTER, REVISION
from eenotes_book.ch06_language.claims import claim_all
from eenotes_book.ch06_language.experiment import comparison


def study() -> Path:
    """Run what is missing, and write the record."""
    s = settings.load(CHAPTER, "study")
    runs = [
        cache.step(
            f"lm-comparison-{seed}",
            partial(comparison, s, seed=seed),
            revision=REVISION,
            seed=seed,
            s=s,
        )
        for seed in range(s.seeds)
    ]
    data, seeds = {s.data: runs[0]["counts"]}, list(range(s.seeds))
    record = records.Record(CHAPTER, data=data, seeds=seeds, at="study")
    record.numbers = {"runs": runs}
    claim_all(record, record.numbers)
    return record.save()
