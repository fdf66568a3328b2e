"""The bench of chapter 5: a data set, its settings and a seed, with every method's scores.

All scores are found under the same conditions, and what they have cost is kept with them.
"""

import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.methods import eeprune
from eenotes.methods.sample_selection import Scores
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache, networks
from eenotes_book.ch05_eeprune import REVISION, sample_scores
from eenotes_book.ch05_eeprune.complexity_gap import complexity_gap
from eenotes_book.ch05_eeprune.energy import Cost, Stopwatch
from eenotes_book.ch05_eeprune.recipe import Recipe
from eenotes_book.ch05_eeprune.settings import RaceSettings
from eenotes_book.data import vision
from eenotes_book.models import by_name
from eenotes_book.models.four_stages import four_stages

# Options of `eeprune.observe` and `eeprune.importance`: exits and formulas of one trained network.
_EARLY_EXIT_SCORES = {
    "EEPrune": ({}, {}),
    "EEPrune-Before": ({"exit_index": 0}, {}),
    "EEPrune-After": ({"exit_index": 2}, {}),
    "EEPrune-Soft": ({}, {"variant": "soft"}),
    "EEPrune-Loss": ({}, {"variant": "loss"}),
}
_TRAINING = ("train", "val", "kind", "width", "exit_grid", "batch_size", "learning_rate")
_LENGTHS = {  # settings that the scores of a method depend on beside those
    "Random": (),
    "EL2N": ("el2n_epochs", "el2n_networks"),
    "Forgetting": ("forgetting_epochs",),
    "SVP": ("svp_epochs",),
    "Complexity gap": (),
}


class Scored(NamedTuple):
    """Scores, and the joules that they have cost; NaN where no meter is readable."""

    scores: Scores
    joules: float


@dataclass
class Bench:
    """A data set, its settings and a seed, the same for every method; data are drawn by the seed.

    What takes long is made when it is asked for first, or read from the cache.
    """

    name: str  # of the data set
    s: RaceSettings
    seed: int = 0
    _scored: dict[str, Scored] = field(default_factory=dict)

    @cached_property
    def data(self) -> vision.Vision:
        """The images; other seeds have other ones."""
        # accelerate collects garbage after every training: exempt what stays loaded
        gc.freeze()
        counts = {"train": self.s.train, "val": self.s.val, "test": self.s.test}
        return vision.load(self.name, **counts, seed=self.seed)

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

    @cached_property
    def scoring(self) -> tuple[EarlyExitNetwork, Cost]:
        """EEPrune's network after its few epochs, and what they have cost."""
        watch = Stopwatch()
        recipe = self.recipe(self.s.score_epochs, exits=True)
        return recipe.train(self.data.train, seed=self.seed, title="EEPrune"), watch.read()

    def recipe(self, epochs: int, *, exits: bool = False, proxy: bool = False) -> Recipe:
        """How the networks of this bench are built and trained.

        Args:
            epochs: passes over the data set.
            exits: with early exits, or a plain classifier.
            proxy: half as wide; of a network with a name, the small convolutional one.
        """
        named = self.s.kind in by_name.NAMES
        build = partial(
            _build,
            kind="conv" if named and proxy else self.s.kind,
            shape=self.data.shape,
            num_classes=len(self.data.classes),
            width=self.s.width // 2 if proxy else self.s.width,
            exits=exits,
            grid=self.s.exit_grid,
        )
        return Recipe(
            build,
            epochs=epochs,
            batch_size=self.s.batch_size,
            optimizer=partial(training.sgd, lr=self.s.learning_rate),
            augment=networks.augmentation(self.data),
        )

    def scores(self, method: str) -> Scores:
        """A method's scores of the training images."""
        return self.scored(method).scores

    def scored(self, method: str) -> Scored:
        """A method's scores with their joules."""
        if method not in self._scored:
            self._scored[method] = self._load_or_score(method)
        return self._scored[method]

    def score_facts(self, method: str) -> dict:
        """The settings that the scores of a method follow from."""
        names = (*_TRAINING, *_LENGTHS.get(method, ("score_epochs",)))
        return {name: getattr(self.s, name) for name in names} | {"seed": self.seed}

    def _load_or_score(self, method: str) -> Scored:
        facts = self.score_facts(method) | {"revision": REVISION}
        on_clusters = method == "EEPrune, no labels"
        shared = method in _EARLY_EXIT_SCORES

        def tensors() -> dict[str, Tensor]:
            before = self.scoring[1] if shared else Cost()
            watch = Stopwatch()
            scores = self._score(method)
            cost = before + watch.read()
            numbers = [scores.samples_seen, cost.seconds, cost.joules]
            return {"values": scores.values, "cost": torch.tensor(numbers, dtype=torch.float64)}

        kept = cache.remember(_file(f"{self.name}-{method}", facts), tensors, **facts)
        samples_seen, seconds, joules = kept["cost"].tolist()
        labels = self.clusters if on_clusters else self.labels
        return Scored(Scores(method, kept["values"], labels, int(samples_seen), seconds), joules)

    def _score(self, method: str) -> Scores:
        s, train, seed = self.s, self.data.train, self.seed
        if method in _EARLY_EXIT_SCORES:
            where, formula = _EARLY_EXIT_SCORES[method]
            values = eeprune.importance(eeprune.observe(self.scoring[0], train, **where), **formula)
            return Scores(method, values, self.labels, (s.score_epochs + 1) * len(train))
        makers: dict[str, Callable[[], Scores]] = {
            "Random": lambda: sample_scores.random(train, seed=seed),
            "EL2N": lambda: sample_scores.el2n(
                train, self.recipe(s.el2n_epochs), seed=seed, networks=s.el2n_networks
            ),
            "Forgetting": lambda: sample_scores.forgetting(
                train, self.recipe(s.forgetting_epochs), seed=seed
            ),
            "SVP": lambda: sample_scores.svp(
                train, self.recipe(s.svp_epochs, proxy=True), seed=seed
            ),
            "Complexity gap": lambda: complexity_gap(train, seed=seed),
            "EEPrune, no labels": lambda: sample_scores.eeprune(
                TensorDataset(train.tensors[0], self.clusters),
                self.recipe(s.score_epochs, exits=True),
                seed=seed,
            ),
        }
        return makers[method]()


def _build(
    seed: int, *, kind: str, shape: tuple[int, ...], width: int, **options
) -> EarlyExitNetwork:
    if kind in by_name.NAMES:
        net = by_name.by_name(kind, shape, **options)
    else:
        net = four_stages(kind, shape, width=width, **options)
    # convolutions of so few channels are half as fast again with the channels last
    return net.to(memory_format=torch.channels_last)


def _file(name: str, facts: dict) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    name = name.replace(" ", "-").replace(",", "")
    return cache.folder() / "scores" / f"{name}-{key}.safetensors"
