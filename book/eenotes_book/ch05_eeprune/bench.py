"""The bench of chapter 5: a data set, its settings and a seed, with every method's scores.

All scores are found under the same conditions, and what they have cost is kept with them.
"""

import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import checkpoints, training
from eenotes.methods import eeprune
from eenotes.methods.sample_selection import Scores
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache, networks
from eenotes_book.ch05_eeprune import sample_scores
from eenotes_book.ch05_eeprune.complexity_gap import complexity_gap
from eenotes_book.ch05_eeprune.energy import Cost, Stopwatch
from eenotes_book.ch05_eeprune.recipe import Recipe
from eenotes_book.ch05_eeprune.settings import RaceSettings, TrainingSettings
from eenotes_book.data import vision
from eenotes_book.models.four_stages import four_stages

# Options of `eeprune.observe` and `eeprune.importance`: exits and formulas of one trained network.
_EARLY_EXIT_SCORES = {
    "EEPrune": ({}, {}),
    "EEPrune-Before": ({"exit_index": 0}, {}),
    "EEPrune-After": ({"exit_index": 2}, {}),
    "EEPrune-Soft": ({}, {"variant": "soft"}),
    "EEPrune-Loss": ({}, {"variant": "loss"}),
}
_SCORES_DEPEND_ON = ("train", "val", "kind", "width", "batch_size", "learning_rate")


class Scored(NamedTuple):
    """Scores, and the joules that they have cost; NaN where no meter is readable."""

    scores: Scores
    joules: float


@dataclass
class Bench:
    """A data set, its settings and a seed, the same for every method.

    The scores need `RaceSettings`.
    """

    data: vision.Vision
    s: TrainingSettings
    seed: int

    def recipe(self, epochs: int, *, exits: bool = False, width: int | None = None) -> Recipe:
        """How the networks of this bench are built and trained.

        Args:
            epochs: passes over the data set.
            exits: with early exits, or a plain classifier.
            width: by default the settings'.
        """
        build = partial(
            _build,
            kind=self.s.kind,
            shape=self.data.shape,
            num_classes=len(self.data.classes),
            width=width or self.s.width,
            exits=exits,
        )
        return Recipe(
            build,
            epochs=epochs,
            batch_size=self.s.batch_size,
            optimizer=partial(training.sgd, lr=self.s.learning_rate),
            augment=networks.augmentation(self.data),
        )

    @property
    def labels(self) -> Tensor:
        """Of the training images, ``(N,)``."""
        return self.data.train.tensors[1]

    @cached_property
    def clusters(self) -> Tensor:
        """``(N,)``: k-means on the pixels, as many clusters as there are classes."""
        from sklearn.cluster import KMeans

        pixels = self.data.train.tensors[0].flatten(1).numpy()
        means = KMeans(len(self.data.classes), n_init=3, random_state=self.seed)
        return torch.from_numpy(means.fit_predict(pixels)).long()

    @property
    def scores(self) -> dict[str, Scores]:
        """Every method's scores, and those of the variants."""
        return {name: found.scores for name, found in self.scored.items()}

    @cached_property
    def scored(self) -> dict[str, Scored]:
        """Every method's scores with their joules, from the cache if they are there."""
        s, train, seed = self.s, self.data.train, self.seed
        brief, half = self.recipe(s.score_epochs), self.recipe(s.svp_epochs, width=s.width // 2)
        long = self.recipe(s.forgetting_epochs)
        el2n = partial(sample_scores.el2n, train, brief, seed=seed, networks=s.el2n_networks)
        forgetting = partial(sample_scores.forgetting, train, long, seed=seed)
        svp = partial(sample_scores.svp, train, half, seed=seed)
        gap = partial(complexity_gap, train, seed=seed)
        return self._early_exit_scores() | {
            "EEPrune, no labels": self._without_labels(),
            "Random": Scored(sample_scores.random(train, seed=seed), 0.0),
            "EL2N": self._kept("EL2N", el2n, epochs=s.score_epochs, networks=s.el2n_networks),
            "Forgetting": self._kept("Forgetting", forgetting, epochs=s.forgetting_epochs),
            "SVP": self._kept("SVP", svp, epochs=s.svp_epochs),
            "Complexity gap": self._kept("Complexity gap", gap, epochs=None),
        }

    def _early_exit_scores(self) -> dict[str, Scored]:
        """One network, read at three exits and by three formulas, never trained twice."""
        train, epochs = self.data.train, self.s.score_epochs
        trained: list[tuple[EarlyExitNetwork, Cost]] = []

        def shared() -> Cost:
            if not trained:
                watch = Stopwatch()
                recipe = self.recipe(epochs, exits=True)
                trained.append((recipe.train(train, seed=self.seed, title="EEPrune"), watch.read()))
            return trained[0][1]

        def score(name: str) -> Scores:
            where, formula = _EARLY_EXIT_SCORES[name]
            seen = eeprune.observe(trained[0][0], train, **where)
            values = eeprune.importance(seen, **formula)
            return Scores(name, values, self.labels, (epochs + 1) * len(train))

        return {
            name: self._kept(name, partial(score, name), shared=shared, epochs=epochs)
            for name in _EARLY_EXIT_SCORES
        }

    def _without_labels(self) -> Scored:
        epochs = self.s.score_epochs
        clustered = TensorDataset(self.data.train.tensors[0], self.clusters)
        recipe = self.recipe(epochs, exits=True)
        score = partial(sample_scores.eeprune, clustered, recipe, seed=self.seed)
        return self._kept("EEPrune, no labels", score, labels=self.clusters, epochs=epochs)

    def _kept(
        self,
        name: str,
        compute: Callable[[], Scores],
        *,
        labels: Tensor | None = None,
        shared: Callable[[], Cost] = Cost,
        **facts,
    ) -> Scored:
        """Scores from the cache, or computed; ``shared`` is the cost of what they rest on."""

        def tensors() -> dict[str, Tensor]:
            before = shared()
            watch = Stopwatch()
            scores = compute()
            cost = before + watch.read()
            numbers = [scores.samples_seen, cost.seconds, cost.joules]
            return {"values": scores.values, "cost": torch.tensor(numbers, dtype=torch.float64)}

        facts |= {name: getattr(self.s, name) for name in _SCORES_DEPEND_ON} | {"seed": self.seed}
        kept = checkpoints.remember(_file(f"{self.data.name}-{name}", facts), tensors, **facts)
        samples_seen, seconds, joules = kept["cost"].tolist()
        labels = self.labels if labels is None else labels
        return Scored(Scores(name, kept["values"], labels, int(samples_seen), seconds), joules)


def bench(name: str, s: RaceSettings, *, seed: int = 0) -> Bench:
    """Load a data set; the same images for every seed."""
    # accelerate collects garbage after every training: spare it everything that is loaded for good
    gc.freeze()
    return Bench(vision.load(name, train=s.train, val=s.val, test=s.test), s, seed)


def _build(seed: int, *, kind: str, shape: tuple[int, ...], **options) -> EarlyExitNetwork:
    # convolutions of so few channels are half as fast again with the channels last
    return four_stages(kind, shape, **options).to(memory_format=torch.channels_last)


def _file(name: str, facts: dict) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    name = name.replace(" ", "-").replace(",", "")
    return cache.folder() / "scores" / f"{name}-{key}.safetensors"
