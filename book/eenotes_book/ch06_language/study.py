"""The study of chapter 6: a pretrained model before training, and small models for every seed."""

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch06_language import CHAPTER, REVISION, epoch_zero, features, lens
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
    """Epoch 0 of the pretrained model at every exit, a step each; the curve at the first one.

    The model is loaded for the first step that is not finished.
    """
    about = {
        name: getattr(s, name)
        for name in ("model", "precision", "length", "train", "val", "test", "few")
    }
    taught = about | {"epochs": s.lens_epochs, "rate": s.lens_rate}

    @functools.cache
    def ready() -> features.Pretrained:
        p = features.load(s)
        for start in range(0, s.train, features.ROWS):
            for draw in range(features.DRAWS):
                p.file("train", draw, start)
        return p

    def step(name: str, compute: Callable[..., dict], about: dict, **which) -> dict:
        words = "-".join(str(value) for value in which.values())
        return cache.step(
            f"lm-{name}-{words}",
            lambda: compute(ready(), **which),
            revision=REVISION,
            **about,
            **which,
        )

    def race(at: int, *, norm: bool) -> dict:
        curve = norm and at == s.exits[0]
        return step("epoch-0", epoch_zero.measured, about, at=at, norm=norm, curve=curve)

    first = s.exits[0]
    whole = step("whole", epoch_zero.whole_model, about, at=first)
    found = {"whole": whole, "normed": [race(first, norm=True)]}
    found["lens"] = [step("lens", lens.measured, taught, at=at) for at in s.lens]
    found["normed"] += [race(at, norm=True) for at in s.exits[1:]]
    return found | {"raw": [race(at, norm=False) for at in s.exits]}
