"""Chapter 6: a small OPT, five initialisations of its early exit, and what the exit is good for."""

from functools import partial

from eenotes_book import cache, records, settings
from eenotes_book.ch06_language import CHAPTER, REVISION
from eenotes_book.ch06_language.claims import claim_all
from eenotes_book.ch06_language.experiment import comparison


def study():
    """The comparison for every seed; resumable.  Returns the path of the record."""
    s = settings.load(CHAPTER, "study")
    one = "lm-comparison-{}".format
    runs = [
        cache.step(one(seed), partial(comparison, s, seed=seed), revision=REVISION, seed=seed, s=s)
        for seed in range(s.seeds)
    ]
    record = records.Record(
        CHAPTER, data={s.data: runs[0]["counts"]}, seeds=list(range(s.seeds)), at="study"
    )
    record.numbers = {"runs": runs}
    claim_all(record, runs)
    return record.save()
