"""The sweep of chapter 5: the same race on data sets of growing size."""

import math
from dataclasses import replace

from eenotes_book import cache
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.ch05_eeprune.experiment import EASY, NONE, Step, run, scoring
from eenotes_book.ch05_eeprune.settings import RaceSettings, SweepSettings

KEPT = ("EEPrune", EASY, "Random", NONE)


def sweep(
    name: str, race: RaceSettings, s: SweepSettings, *, seed: int, step: Step = cache.step
) -> list[dict]:
    """Keep samples of data sets of growing size, up to that of the race.

    Returns:
        One row per size and method, as far as they are there: ``data``, ``seed``, ``size``,
            ``ratio``, ``keep`` (one of `KEPT`), ``accuracy``, ``candidates``.
    """
    rows = []
    for size in (*s.sizes, race.train):
        b = Bench(name, at_size(race, size, least=s.least), seed)
        found = {
            keep: run(b, keep, 0 if keep == NONE else race.sweep_ratio, step)
            for keep in reversed(KEPT)
        }
        scored = scoring(b, "EEPrune", step)
        common = {"data": name, "seed": seed, "size": size, "ratio": race.sweep_ratio}
        rows += [
            common
            | {"keep": keep, "accuracy": each["accuracy"][-1], "candidates": scored["candidates"]}
            for keep, each in found.items()
            if each and scored
        ]
    return rows


def at_size(race: RaceSettings, size: int, *, least: int) -> RaceSettings:
    """The race's settings for fewer images.

    Where ``race.budget`` passes are fewer samples than ``least``, there are more passes, and as
    many times more of EEPrune's scoring: else the networks of small data sets are untrained.
    """
    more = max(1, least / (size * race.budget))
    budget, epochs = (math.ceil(more * passes) for passes in (race.budget, race.score_epochs))
    return replace(race, train=size, budget=budget, score_epochs=epochs)
