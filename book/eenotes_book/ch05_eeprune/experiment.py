"""Chapter 5's experiment: six ways to score training samples, judged by what a fresh network learns
from those they keep.

The harness is the same for everybody: a network from scratch, the same number of samples seen, the
same schedule, the same seeds; ``"no pruning"`` and ``"Random"`` always take part.  What a score has
cost is kept with it.
"""

import gc
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from eenotes import checkpoints, training
from eenotes.baselines import complexity_gap, sample_scores
from eenotes.inference import collect
from eenotes.methods import eeprune, sample_selection
from eenotes.methods.sample_selection import Scores, Selection, SelectionWarning
from eenotes.methods.scoring import Recipe
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache
from eenotes_book.ch05_eeprune import REVISION
from eenotes_book.data import vision
from eenotes_book.data.passes import Passes
from eenotes_book.models.four_stages import four_stages

NONE = "no pruning"


METHODS = (
    "EEPrune", "Random", "EL2N", "Forgetting", "SVP", "Complexity gap", "EEPrune-Before", "EEPrune-After",
)  # the thesis's order  # fmt: skip


BALANCED = ("Complexity gap",)  # its authors select class by class


EXTRAS = ("EEPrune, quota", "EEPrune-Soft", "EEPrune-Loss", "EEPrune, no labels")


LOOKS = (0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the budget at which the test accuracy is measured


_RUNS_DEPEND_ON = ("train", "val", "test", "kind", "width", "batch_size", "learning_rate", "budget")


_SCORES_DEPEND_ON = ("train", "val", "kind", "width", "batch_size", "learning_rate")


@dataclass
class Bench:
    """A data set, a recipe and a seed: what everybody is given."""

    data: vision.Vision
    s: SimpleNamespace
    seed: int
    # of scoring; NaN where no meter is readable
    joules: dict[str, float] = field(default_factory=dict)

    def recipe(self, epochs: int, *, exits: bool = False, width: int | None = None) -> Recipe:
        """How the networks of this bench are trained, for scoring."""
        return Recipe(
            partial(
                _build,
                self.s.kind,
                self.data.shape,
                len(self.data.classes),
                width or self.s.width,
                exits,
            ),
            epochs=epochs,
            batch_size=self.s.batch_size,
            optimizer=partial(training.sgd, lr=self.s.learning_rate),
            augment=self.augment,
        )

    @property
    def augment(self) -> Callable | None:
        return vision.crop_and_flip if self.data.name == "CIFAR10" else None

    @property
    def labels(self) -> Tensor:
        return self.data.train.tensors[1]

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Every method's scores, in the thesis's order, and behind them those of the variants; from
        the cache if they are there.
        """
        s, train = self.s, self.data.train
        found = self._early_exit_scores()
        found["Random"] = sample_scores.random(train, seed=self.seed)
        plain = {
            "EL2N": (
                sample_scores.el2n,
                self.recipe(s.score_epochs),
                {"networks": s.el2n_networks},
            ),
            "Forgetting": (sample_scores.forgetting, self.recipe(s.forgetting_epochs), {}),
            "SVP": (sample_scores.svp, self.recipe(s.svp_epochs, width=s.width // 2), {}),
            "Complexity gap": (complexity_gap.complexity_gap, None, {}),
        }
        for name, (function, recipe, options) in plain.items():
            facts = options | {"epochs": recipe and recipe.epochs}
            found[name] = self._kept(
                name,
                lambda f=function, r=recipe, o=options: f(train, r, seed=self.seed, **o),
                **facts,
            )
        return {name: found[name] for name in (*METHODS, *EXTRAS[1:])}

    def _early_exit_scores(self) -> dict[str, Scores]:
        """One network, read at three exits and in three variants: what differs is the exit and the
        formula, never the training.
        """
        s, train = self.s, self.data.train
        ways = {
            "EEPrune": {}, "EEPrune-Before": {"exit_index": 0}, "EEPrune-After": {"exit_index": 2},
            "EEPrune-Soft": {"variant": "soft"}, "EEPrune-Loss": {"variant": "loss"},
        }  # fmt: skip
        shared: dict[str, Any] = {}

        def score(name: str) -> Scores:
            start = time.perf_counter()
            if not shared:
                before = meter()
                shared["net"] = self.recipe(s.score_epochs, exits=True).train(
                    train, seed=self.seed, title="EEPrune"
                )
                shared["joules"], shared["seconds"], start = (
                    joules_since(before),
                    time.perf_counter() - start,
                    time.perf_counter(),
                )
            options = dict(ways[name])
            variant = options.pop("variant", "hard")
            values = eeprune.importance(
                eeprune.observe(shared["net"], train, **options), variant=variant
            )
            seen = (s.score_epochs + 1) * len(train)
            return Scores(
                name, values, self.labels, seen, shared["seconds"] + time.perf_counter() - start
            )

        found = {
            name: self._kept(name, partial(score, name), shared=shared, epochs=s.score_epochs)
            for name in ways
        }
        clustered = TensorDataset(train.tensors[0], self.clusters)
        recipe = self.recipe(s.score_epochs, exits=True)
        blind = self._kept(
            "EEPrune, no labels",
            lambda: eeprune.scores(clustered, recipe, seed=self.seed),
            epochs=s.score_epochs,
            labels=self.clusters,
        )
        return found | {"EEPrune, no labels": blind}

    @cached_property
    def clusters(self) -> Tensor:
        """``(N,)``: k-means on the pixels, as many clusters as there are classes."""
        from sklearn.cluster import KMeans

        pixels = self.data.train.tensors[0].flatten(1).numpy()
        return torch.from_numpy(
            KMeans(len(self.data.classes), n_init=3, random_state=self.seed).fit_predict(pixels)
        ).long()

    def _kept(
        self,
        name: str,
        compute: Callable[[], Scores],
        *,
        labels: Tensor | None = None,
        shared: dict | None = None,
        **facts,
    ) -> Scores:
        def tensors() -> dict[str, Tensor]:
            # what an earlier call has trained belongs to this score, too
            paid, before = (shared or {}).get("joules", 0.0), meter()
            scores = compute()
            joules = paid + joules_since(before)
            return {
                "values": scores.values,
                "cost": torch.tensor(
                    [scores.samples_seen, scores.seconds, joules], dtype=torch.float64
                ),
            }

        facts |= {name: getattr(self.s, name) for name in _SCORES_DEPEND_ON} | {"seed": self.seed}
        kept = checkpoints.remember(_file(f"{self.data.name}-{name}", facts), tensors, **facts)
        seen, seconds, self.joules[name] = kept["cost"].tolist()
        return Scores(
            name, kept["values"], self.labels if labels is None else labels, int(seen), seconds
        )


def bench(name: str, s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """Load a data set; the same images for every seed."""
    # accelerate collects garbage after every training: spare it everything that is loaded for good
    gc.freeze()
    return Bench(vision.load(name, train=s.train, val=s.val, test=s.test), s, seed)


def choose(b: Bench, method: str, ratio: float) -> Selection:
    """What a method keeps; a method that finds too few to drop drops those."""
    with quiet():
        if method == "EEPrune, quota":
            return sample_selection.select(b.scores["EEPrune"], ratio, True)
        return sample_selection.select(b.scores[method], ratio, method in BALANCED)


def train_on(b: Bench, rows: Tensor | None, *, what: str) -> dict:
    """Train a plain network from scratch on some rows for the bench's budget of samples; what the
    test split says on the way.

    Returns:
        ``kept``, ``seen`` (training samples) and ``accuracy`` at each look, ``seconds``.
    """
    rows = torch.arange(len(b.labels)) if rows is None else rows
    facts = {name: getattr(b.s, name) for name in _RUNS_DEPEND_ON} | {
        "data": b.data.name,
        "seed": b.seed,
        "what": what,
    }
    facts["rows"] = _digest(rows)
    return cache.step(
        f"{b.data.name}-{what}", partial(_train_on, b, rows, what), revision=REVISION, **facts
    )


def _train_on(b: Bench, rows: Tensor, what: str) -> dict:
    length = b.s.budget * len(b.labels)
    at = [round(share * length) for share in LOOKS]
    net = b.recipe(1).network(b.seed)
    return {
        "kept": len(rows),
        "seen": at,
        "accuracy": fit_and_look(net, b, Passes(b.data.train, rows, length), at, title=what),
    }


def fit_and_look(
    net: EarlyExitNetwork, b: Bench, dataset: Dataset, at: Sequence[int], *, title: str
) -> list[float]:
    """Train once through ``dataset``; the test accuracy after each of ``at`` samples."""
    accuracies = []
    training.fit(
        net,
        dataset,
        loss=training.joint_loss,
        epochs=1,
        batch_size=b.s.batch_size,
        optimizer=partial(training.sgd, lr=b.s.learning_rate),
        augment=b.augment,
        on_samples={count: lambda: accuracies.append(_accuracy(net, b.data.test)) for count in at},
        seed=b.seed,
        title=title,
    )
    return accuracies


def comparison(b: Bench, ratios: Sequence[float]) -> dict:
    """One run on one data set, as plain numbers: every method at every ratio, no pruning, and what
    scoring has cost.
    """
    runs, dropped, imbalances = {}, {}, {}
    for ratio in ratios:
        key = f"{ratio:g}"
        chosen = {method: choose(b, method, ratio) for method in METHODS}
        runs[key] = {
            method: train_on(b, c.keep, what=f"{method} {key}") for method, c in chosen.items()
        }
        classes = len(b.data.classes)
        dropped[key] = {
            method: b.labels[c.drop].bincount(minlength=classes).tolist()
            for method, c in chosen.items()
        }
        imbalances[key] = {
            method: sample_selection.imbalance(c, b.labels) for method, c in chosen.items()
        }
    return {
        "data": b.data.name,
        "counts": b.data.counts,
        "seed": b.seed,
        "none": train_on(b, None, what=NONE),
        "runs": runs,
        "dropped": dropped,
        "imbalance": imbalances,
        "scoring": {name: _cost(b, name) for name in METHODS},
        "candidates": float(b.scores["EEPrune"].values.isfinite().double().mean()),
    }


def _cost(b: Bench, name: str) -> dict:
    joules = b.joules.get(name, 0.0)  # random has none
    seen, seconds = b.scores[name].samples_seen, b.scores[name].seconds
    return {"samples": seen, "seconds": seconds, "joules": None if math.isnan(joules) else joules}


def extras(b: Bench, *, ratio: float, half: float = 0.5) -> dict:
    """Beyond the comparison: training on what was dropped, a quota per class, the variants, and no
    labels.
    """
    found = {method: choose(b, method, ratio) for method in EXTRAS}
    runs = {method: train_on(b, c.keep, what=f"{method} {ratio:g}") for method, c in found.items()}
    # As many of the rest as were dropped: fewer than half may qualify, and more data would win by
    # being more.
    parts = choose(b, "EEPrune", half)
    size = min(len(parts.drop), len(parts.keep))
    draw = torch.Generator().manual_seed(b.seed)
    sides = {"dropped": parts.drop, "kept": parts.keep}
    sides = {
        name: rows[torch.randperm(len(rows), generator=draw)[:size]] for name, rows in sides.items()
    }
    return {
        "data": b.data.name,
        "seed": b.seed,
        "ratio": ratio,
        "runs": runs,
        "imbalance": {
            method: sample_selection.imbalance(c, b.labels) for method, c in found.items()
        },
        "halves": {name: train_on(b, rows, what=f"{name} half") for name, rows in sides.items()},
    }


def sweep(name: str, s: SimpleNamespace, *, seed: int = 0) -> list[dict]:
    """Keep the easy, the hard or any samples of data sets of growing size, with the scores of
    EEPrune-Soft, which ranks all samples.

    Returns:
        One row per size and strategy: ``size``, ``keep`` (``"easy"``, ``"hard"``, ``"random"``,
            ``"all"``), ``accuracy``.
    """
    rows = []
    for size in s.sizes:
        recipe = {
            "train": size,
            "val": 0,
            "test": s.test,
            "kind": "mlp",
            "width": s.width,
            "batch_size": s.batch_size,
        }
        recipe |= {"learning_rate": s.learning_rate, "budget": max(s.budget, -(-s.least // size))}
        step = partial(_sweep_step, name, SimpleNamespace(**recipe), s.score_epochs, s.ratio, seed)
        facts = recipe | {
            "data": name,
            "seed": seed,
            "ratio": s.ratio,
            "score_epochs": s.score_epochs,
        }
        found = cache.step(f"sweep-{name}-{size}", step, revision=REVISION, **facts)
        rows += [
            {"data": name, "seed": seed, "size": size, "keep": keep, "accuracy": found[keep]}
            for keep in SIDES
        ]
    return rows


SIDES = ("easy", "hard", "random", "all")


def _sweep_step(
    name: str, s: SimpleNamespace, score_epochs: int, ratio: float, seed: int
) -> dict[str, float]:
    # other images for other seeds: at small sizes the draw matters more than the weights
    b = Bench(vision.load(name, train=s.train, val=s.val, test=s.test, seed=seed), s, seed)
    # at small sizes as many steps as at large ones, or the scores would be those of an untrained
    # network
    epochs = max(score_epochs, s.budget // 4)
    values = eeprune.scores(
        b.data.train, b.recipe(epochs, exits=True), seed=seed, variant="soft"
    ).values
    order, kept = values.argsort(), round((1 - ratio) * len(values))
    anyone = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    keep = {"easy": order[:kept], "hard": order[-kept:], "random": anyone[:kept], "all": order}
    length = s.budget * len(values)
    return {
        side: fit_and_look(
            b.recipe(1).network(seed),
            b,
            Passes(b.data.train, rows, length),
            [length],
            title=f"{side}, {len(values)}",
        )[0]
        for side, rows in keep.items()
    }


def meter() -> float | None:
    """Joules from a meter that this machine lets us read (the GPU's, through NVML, or the
    processor's RAPL), else ``None``.
    """
    if torch.cuda.is_available():
        try:
            import pynvml

            pynvml.nvmlInit()
            return (
                pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))
                / 1000
            )
        except Exception:  # no NVML, no such counter, no permission: there is no meter then
            return None
    try:
        return int(Path("/sys/class/powercap/intel-rapl:0/energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None


def joules_since(before: float | None) -> float:
    """Joules since an earlier reading; NaN without a meter."""
    return math.nan if before is None else meter() - before


def _build(
    kind: str, shape: Sequence[int], num_classes: int, width: int, exits: bool, seed: int
) -> EarlyExitNetwork:
    # convolutions of so few channels are half as fast again with the channels last
    return four_stages(kind, shape, num_classes=num_classes, width=width, exits=exits).to(
        memory_format=torch.channels_last
    )


def _accuracy(net: EarlyExitNetwork, dataset: TensorDataset) -> float:
    logits, labels = collect(net, vision.batches(dataset, size=500))
    return (logits[-1].argmax(1) == labels).double().mean().item()


def quiet() -> warnings.catch_warnings:
    """How many could be dropped is in the numbers; the warning is for those who call the package
    themselves.
    """
    return warnings.catch_warnings(action="ignore", category=SelectionWarning)


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.sort().values.numpy().tobytes()).hexdigest()[:12]


def _file(name: str, facts: dict) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return (
        cache.folder() / "scores" / f"{name.replace(' ', '-').replace(',', '')}-{key}.safetensors"
    )
