"""The study of chapter 4: both networks with many seeds."""

from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch04_cbt import CHAPTER, REVISION
from eenotes_book.ch04_cbt.bench import conv_bench, data_of, vit_bench
from eenotes_book.ch04_cbt.claims import claim_all
from eenotes_book.ch04_cbt.clock import crossing, crossover, speed
from eenotes_book.ch04_cbt.experiment import PAIRS, anytime, conv_run, singles, vit_run
from eenotes_book.ch04_cbt.settings import StudySettings


def study() -> Path:
    """Run both networks with many seeds; every run is kept as it finishes.

    The clock comes last: time it on an idle machine.
    """
    s = settings.load(CHAPTER, "study")
    seeds = range(s.seeds)
    steps = {"conv": _conv_step, "vit": _vit_step, "clock": _clock_step}
    numbers = {
        name: [
            cache.step(
                f"cbt-{name}-{seed}",
                partial(compute, s, seed),
                revision=REVISION,
                seed=seed,
                recipe=s,
            )
            for seed in seeds
        ]
        for name, compute in steps.items()
    }
    data = {s.data: numbers["conv"][0]["counts"]}
    record = records.Record(CHAPTER, at="study", data=data, seeds=list(seeds))
    record.numbers = numbers
    claim_all(record, record.numbers)
    return record.save()


def _conv_step(s: StudySettings, seed: int) -> dict:
    bench = conv_bench(data_of(s), s, seed=seed)
    return conv_run(bench, s.budgets, anytime(bench), singles(bench, s.thresholds))


def _vit_step(s: StudySettings, seed: int) -> dict:
    return vit_run(vit_bench(data_of(s), s, seed=seed))


def _clock_step(s: StudySettings, seed: int) -> dict:
    """Both networks against their plain backbones, and the share below which skipping pays."""
    data = data_of(s)
    bench, tokens = conv_bench(data, s, seed=seed), vit_bench(data, s, seed=seed)
    table = crossover(bench, s.shares, batch=s.timing_batch)
    bench.net.crossover = crossing(table)
    alpha, beta = PAIRS[0]
    rule = bench.statistics.rule(alpha=alpha, beta=beta)
    token_rule = tokens.statistics.rule(alpha=s.vit.alphas[-1], beta=s.vit.beta)
    return {
        "conv": speed(bench, rule, batch=s.timing_batch),
        "vit": speed(tokens, token_rule, batch=s.timing_batch),
        "crossover": bench.net.crossover,
        "shares": table.to_dict("list"),
    }
