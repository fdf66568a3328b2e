"""The study of chapter 6: a pretrained model before training, and small models for every seed."""

from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch06_language import CHAPTER, REVISION, epoch_zero, features
from eenotes_book.ch06_language.claims import claim_all
from eenotes_book.ch06_language.experiment import comparison
from eenotes_book.ch06_language.settings import PretrainedSettings


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


def pretrained(s: PretrainedSettings) -> dict:
    """Epoch 0 of the pretrained model at every exit, a step each; the curve at the first one."""
    p = features.load(s)
    about = {"text": p.text.digest} | {
        name: getattr(s, name)
        for name in ("model", "precision", "length", "train", "val", "test", "few")
    }
    for start in range(0, s.train, features.ROWS):
        for draw in range(features.DRAWS):  # all draws grow alike: what is there can be used
            p.file("train", draw, start)

    def case(at: int, *, norm: bool) -> dict:
        which = {"at": at, "norm": norm, "curve": norm and at == s.exits[0]}
        name = f"lm-epoch-0-{at}-{'normed' if norm else 'raw'}"
        compute = partial(epoch_zero.measured, p, **which)
        return cache.step(name, compute, revision=REVISION, **about, **which)

    normed = [case(at, norm=True) for at in s.exits]
    return {"normed": normed, "raw": [case(at, norm=False) for at in s.exits]}
