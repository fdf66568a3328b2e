"""The study of chapter 6: a pretrained model before training, and small models for every seed."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch06_language import (
    CHAPTER,
    REVISION,
    calm,
    drafting,
    drafting_clock,
    epoch_zero,
    features,
    frozen_training,
    lens,
)
from eenotes_book.ch06_language.claims import claim_all
from eenotes_book.ch06_language.experiment import comparison
from eenotes_book.ch06_language.settings import Settings, StudySettings
from eenotes_book.data import pretrained_language


def study() -> Path:
    """Run what is missing, the clock last, and write the record."""
    s = settings.load(CHAPTER, "study")
    for part in (pretrained, drafted, runs_of, trained, left_early, clocked):
        part(s)
    return record()


def record() -> Path:
    """Make the record; training, calibration and clock may be unfinished, the rest is run."""
    s = settings.load(CHAPTER, "study")
    numbers = {"pretrained": pretrained(s), "drafting": drafted(s), "runs": runs_of(s)}
    numbers |= {"training": trained(s, missing=False), "clock": clocked(s, missing=False)}
    numbers["leaving"] = left_early(s, missing=False)
    splits = ("train", "val", "test")
    rows = {split: features.DRAWS * getattr(s.pretrained, split) for split in splits}
    data = {
        f"{s.data}, {s.pretrained.model}": {
            split: count * s.pretrained.length for split, count in rows.items()
        },
        f"{s.data}, small models": numbers["runs"][0]["counts"],
    }
    made = records.Record(CHAPTER, data=data, seeds=list(range(s.seeds)), at="study")
    made.numbers = numbers
    claim_all(made, numbers)
    return made.save()


def runs_of(s: StudySettings) -> list[dict]:
    """The comparison on small models, a step per seed."""
    own = Settings(**{field.name: getattr(s, field.name) for field in dataclasses.fields(Settings)})
    return [
        cache.step(
            f"lm-comparison-{seed}",
            partial(comparison, own, seed=seed),
            revision=REVISION,
            seed=seed,
            s=own,
        )
        for seed in range(s.seeds)
    ]


def pretrained(study: StudySettings) -> dict:
    """Epoch 0 of the pretrained model at every exit, a step each; the curve at the first one.

    The model is loaded for the first step that is not finished.
    """
    s = study.pretrained

    def facts(*names: str) -> dict:
        return {name: getattr(s, name) for name in ("model", "precision", "length", *names)}

    about = facts("val", "test", "few")
    taught = facts("test", "lens_rows", "lens_epochs", "lens_rate")

    @functools.cache
    def ready() -> features.Pretrained:
        return features.load(s)

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
        rows = s.train if curve else s.others
        return step(
            "epoch-0", epoch_zero.measured, about, at=at, norm=norm, train=rows, curve=curve
        )

    found = {"whole": step("whole", epoch_zero.whole_model, facts("few"), at=s.exits[0])}
    found |= {"normed": [], "raw": [], "lens": []}
    for at in s.exits:
        found["normed"].append(race(at, norm=True))
        if at in s.raw:
            found["raw"].append(race(at, norm=False))
        if at in s.lens:
            found["lens"].append(step("lens", lens.measured, taught, at=at))
    return found


def trained(s: StudySettings, *, missing: bool = True) -> list[dict]:
    """The exit from every start at every rate; without ``missing`` of those that have finished."""
    own = {name: value for name, value in vars(s.training).items() if name != "rates"}
    rows = {split: getattr(s.training, split) for split in ("train", "val", "test")}
    less = dataclasses.replace(s.pretrained, exits=[s.training.at], **rows)
    facts = {name: getattr(less, name) for name in ("model", "precision", "length")}

    @functools.cache
    def ready() -> frozen_training.Frozen:
        return frozen_training.Frozen(features.load(less), s.training)

    found = []
    for rate, start in itertools.product(s.training.rates, frozen_training.STARTS):
        name = (
            f"lm-training-{start.replace(',', '').replace(' + ', ' ').replace(' ', '-')}-{rate:g}"
        )
        which = {"start": start, "rate": rate}
        known = facts | which | {"revision": REVISION, "s": own}
        if missing:
            compute = partial(lambda which: frozen_training.measured(ready(), **which), which)
            found.append(cache.step(name, compute, **known))
        elif (done := cache.kept(name, **known)) is not None:
            found.append(done)
    return found


def drafted(s: StudySettings) -> list[dict]:
    """What each exit of the pretrained model foresees of the texts that it writes, by exit."""
    facts, ready = _drafting(s)

    def texts() -> dict:
        return {split: ready().written(split) for split in ("val", "test")}

    found = cache.step("lm-texts", texts, **facts)
    return [
        cache.step(
            f"lm-drafting-{at}",
            lambda at=at: drafting.measured(ready(), found, at=at),
            at=at,
            **facts,
        )
        for at in s.drafting.exits
    ]


def left_early(s: StudySettings, *, missing: bool = True) -> dict | None:
    """A promised threshold for leaving early; without ``missing`` ``None`` if it has not run."""
    facts, ready = _drafting(s, at=s.calm.at)
    facts |= {"calm": vars(s.calm)}
    if not missing:
        return cache.kept("lm-calm", **facts)
    return cache.step("lm-calm", lambda: calm.measured(ready(), s.calm), **facts)


def clocked(s: StudySettings, *, missing: bool = True) -> list[dict]:
    """The seconds of drafting at some exits; without ``missing`` of those that have been measured.

    They are of use only from a machine that does nothing else.
    """
    facts, ready = _drafting(s)
    texts, done = cache.kept("lm-texts", **facts), []
    for one in drafted(s):
        if (at := one["at"]) not in s.drafting.clock:
            continue
        known = facts | {"at": at}
        if missing:
            compute = partial(
                lambda at, one: drafting_clock.measured(
                    ready(), texts["test"], one["heads"], at=at
                ),
                at,
                one,
            )
            done.append(cache.step(f"lm-clock-{at}", compute, **known))
        elif (found := cache.kept(f"lm-clock-{at}", **known)) is not None:
            done.append(found)
    return done


def _drafting(
    s: StudySettings, *, at: int | None = None
) -> tuple[dict, Callable[[], drafting.Drafting]]:
    """The facts of every step of drafting, and the model and its texts, loaded when called.

    With ``at`` for that exit alone.
    """
    depth = pretrained_language.MODELS[s.pretrained.model].decoders
    exits = s.drafting.exits if at is None else [at]
    wider = dataclasses.replace(s.pretrained, exits=sorted({*exits, depth}), train=s.drafting.rows)
    own = {
        name: value for name, value in vars(s.drafting).items() if name not in ("exits", "clock")
    }
    facts = {"revision": REVISION, "model": wider.model, "length": wider.length, "s": own}

    @functools.cache
    def ready() -> drafting.Drafting:
        return drafting.Drafting(features.load(wider), dataclasses.replace(s.drafting, exits=exits))

    return facts, ready
