"""Chapter 4: one threshold for all classes, or one for each; a convolutional network and a
transformer that skip what is finished.
"""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

from eenotes_book import cache, records, settings
from eenotes_book.ch04_cbt import CHAPTER, REVISION
from eenotes_book.ch04_cbt.claims import claim_all
from eenotes_book.ch04_cbt.clock import crossing, crossover, speed
from eenotes_book.ch04_cbt.experiment import (
    PAIRS,
    anytime,
    conv_bench,
    conv_run,
    data_of,
    singles,
    vit_bench,
    vit_run,
)


def study() -> Path:
    """Both hosts with many seeds; every run is kept as it finishes.

    The clock comes last: time it on an idle machine.
    """
    s = settings.load(CHAPTER, "study")
    conv, vit, clocks = (
        [step(name, s, seed) for seed in range(s.seeds)] for name in ("conv", "vit", "clock")
    )
    record = records.Record(
        CHAPTER, at="study", data={s.data: conv[0]["counts"]}, seeds=list(range(s.seeds))
    )
    record.numbers = {"conv": conv, "vit": vit, "clock": clocks}
    claim_all(record, conv, vit, clocks)
    return record.save()


def step(name: str, s: SimpleNamespace, seed: int) -> dict:
    """One step of the study, ``"conv"``, ``"vit"`` or ``"clock"``, computed or taken from before."""
    compute = {"conv": _conv_step, "vit": _vit_step, "clock": _clock_step}[name]
    return cache.step(
        f"cbt-{name}-{seed}", partial(compute, s, seed), revision=REVISION, seed=seed, recipe=s
    )


def _conv_step(s: SimpleNamespace, seed: int) -> dict:
    b = conv_bench(data_of(s), s, seed=seed)
    return conv_run(b, s.budgets, anytime(b), singles(b, s.thresholds))


def _vit_step(s: SimpleNamespace, seed: int) -> dict:
    return vit_run(vit_bench(data_of(s), s, seed=seed))


def _clock_step(s: SimpleNamespace, seed: int) -> dict:
    """Both hosts against their plain backbones, and the shares of active places at which skipping
    pays.
    """
    data = data_of(s)
    b, v = conv_bench(data, s, seed=seed), vit_bench(data, s, seed=seed)
    table = crossover(b, s.shares, batch=s.timing_batch)
    b.net.crossover = crossing(table)
    alpha, beta = PAIRS[0]
    conv = speed(b, b.statistics.rule(alpha=alpha, beta=beta), batch=s.timing_batch)
    vit = speed(v, v.statistics.rule(alpha=s.vit.alphas[-1], beta=s.vit.beta), batch=s.timing_batch)
    return {"conv": conv, "vit": vit, "crossover": b.net.crossover, "shares": table.to_dict("list")}
