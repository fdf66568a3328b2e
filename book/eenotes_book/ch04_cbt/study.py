"""The study of chapter 4: both networks with many seeds, and the clock."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch04_cbt import CHAPTER, REVISION, clock
from eenotes_book.ch04_cbt.bench import conv_bench, data_of, vit_bench
from eenotes_book.ch04_cbt.claims import claim_all
from eenotes_book.ch04_cbt.experiment import NAMED, TOKEN_PAIRS, anytime, conv_run, singles, vit_run
from eenotes_book.ch04_cbt.settings import StudySettings

_DATA = ("data", "train", "val", "test")
_FOLLOWS_FROM = {  # what the numbers of a step follow from
    "conv": (*_DATA, "conv", "thresholds", "budgets"),
    "vit": (*_DATA, "vit"),
    "clock": (*_DATA, "conv", "vit", "shares", "timing_batch", "timing_threads"),
}


def study() -> Path:
    """Run it, or go on where an earlier run was cut off: every step is kept as it finishes.

    Networks keep a checkpoint of every epoch.  The record is renewed after every seed.  The clock
    comes last: run it again on an idle machine, and only the clock is left to do.
    """
    s = settings.load(CHAPTER, "study")
    for seed in range(s.seeds):
        _step(s, "conv", seed, _conv_step)
        _step(s, "vit", seed, _vit_step)
        record()
    for seed in range(s.seeds):
        _step(s, "clock", seed, _clock_step)
    return record()


def record() -> Path:
    """Make the record from the steps that have finished.

    Raises:
        ValueError: if neither network has finished with any seed.
    """
    s = settings.load(CHAPTER, "study")
    numbers = {
        name: [run for seed in range(s.seeds) if (run := cache.kept(**_named(s, name, seed)))]
        for name in _FOLLOWS_FROM
    }
    if not numbers["conv"] or not numbers["vit"]:
        raise ValueError("need one seed of both networks: make study N=4")
    seeds = sorted({run["seed"] for name in ("conv", "vit") for run in numbers[name]})
    data = {s.data: numbers["conv"][0]["counts"]}
    made = records.Record(CHAPTER, at="study", data=data, seeds=seeds)
    made.numbers = numbers
    claim_all(made, made.numbers)
    return made.save()


def _step(s: StudySettings, name: str, seed: int, compute: Callable[[StudySettings, int], dict]):
    named = _named(s, name, seed)
    return cache.step(named.pop("name"), partial(compute, s, seed), **named)


def _named(s: StudySettings, name: str, seed: int) -> dict:
    facts = {key: getattr(s, key) for key in _FOLLOWS_FROM[name]}
    return {"name": f"cbt-{name}-{seed}", "revision": REVISION, "seed": seed, "recipe": facts}


def _conv_step(s: StudySettings, seed: int) -> dict:
    bench = conv_bench(data_of(s), s, seed=seed)
    return conv_run(bench, s.budgets, anytime(bench), singles(bench, s.thresholds))


def _vit_step(s: StudySettings, seed: int) -> dict:
    return vit_run(vit_bench(data_of(s), s, seed=seed))


def _clock_step(s: StudySettings, seed: int) -> dict:
    """Both networks against their plain backbones, and the share below which skipping pays."""
    data = data_of(s)
    bench, tokens = conv_bench(data, s, seed=seed), vit_bench(data, s, seed=seed)
    table = clock.crossover(bench, s.shares, batch=s.timing_batch)
    bench.net.crossover = clock.crossing(table)
    rule, token_rule = (
        one.statistics.rule(alpha=alpha, beta=beta)
        for one, (alpha, beta) in ((bench, NAMED), (tokens, TOKEN_PAIRS[0]))
    )
    larger = clock.larger(bench, rule, batches=(1, s.timing_batch), threads=s.timing_threads)
    return {
        "seed": seed,
        "conv": clock.speed(bench, rule, batch=s.timing_batch),
        "vit": clock.speed(tokens, token_rule, batch=s.timing_batch),
        "crossover": bench.net.crossover,
        "shares": table.to_dict("list"),
        "larger": larger.to_dict("list"),
    }
