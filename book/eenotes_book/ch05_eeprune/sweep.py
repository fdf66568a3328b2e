"""The sweep of chapter 5: easy, hard or any samples kept, of data sets of growing size."""

from dataclasses import asdict
from functools import partial

import torch

from eenotes_book import cache
from eenotes_book.ch05_eeprune import REVISION, sample_scores
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.ch05_eeprune.harness import fit_and_measure
from eenotes_book.ch05_eeprune.settings import SweepSettings, TrainingSettings
from eenotes_book.data import vision
from eenotes_book.data.passes import Passes

_KEEP = ("easy", "hard", "random", "all")


def sweep(name: str, s: SweepSettings, *, seed: int = 0) -> list[dict]:
    """Keep samples of data sets of growing size, ranked by EEPrune-Soft, which scores them all.

    Returns:
        One row per size and choice: ``data``, ``seed``, ``size``, ``keep`` (easy, hard, random,
            all), ``accuracy``.
    """
    rows = []
    for size in s.sizes:
        training = TrainingSettings(
            train=size,
            val=0,
            test=s.test,
            kind="mlp",
            width=s.width,
            batch_size=s.batch_size,
            learning_rate=s.learning_rate,
            # at small sizes as many steps as at large ones
            budget=max(s.budget, -(-s.least // size)),
        )
        facts = asdict(training) | {"data": name, "seed": seed}
        facts |= {"ratio": s.ratio, "score_epochs": s.score_epochs}
        step = partial(_step, name, training, s, seed)
        found = cache.step(f"sweep-{name}-{size}", step, revision=REVISION, **facts)
        common = {"data": name, "seed": seed, "size": size}
        rows += [common | {"keep": keep, "accuracy": found[keep]} for keep in _KEEP]
    return rows


def _step(name: str, training: TrainingSettings, s: SweepSettings, seed: int) -> dict[str, float]:
    # other images for other seeds: at small sizes the draw matters more than the weights
    data = vision.load(name, train=training.train, val=0, test=training.test, seed=seed)
    b = Bench(data, training, seed)
    # as many steps as at large sizes, or the scores would be those of an untrained network
    recipe = b.recipe(max(s.score_epochs, training.budget // 4), exits=True)
    values = sample_scores.eeprune(data.train, recipe, seed=seed, variant="soft").values
    order = values.argsort()
    kept = round((1 - s.ratio) * len(values))
    shuffled = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    keep = {"easy": order[:kept], "hard": order[-kept:], "random": shuffled[:kept], "all": order}
    length = training.budget * len(values)
    found = {}
    for side, rows in keep.items():
        net, dataset = b.recipe(1).network(seed), Passes(data.train, rows, length)
        title = f"{side}, {len(values)}"
        (found[side],) = fit_and_measure(net, b, dataset, [length], title=title)
    return found
