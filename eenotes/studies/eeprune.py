"""Chapter 5's experiment: six ways to score training samples, judged by what a fresh network learns from those they keep.

The harness is the same for everybody: a network from scratch, the same number of samples seen, the same schedule, the same seeds;
``"no pruning"`` and ``"Random"`` always take part.  What a score has cost is kept with it.
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

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from eenotes import eeprune, experiment, selection, training
from eenotes.data import vision
from eenotes.heads import linear_exits
from eenotes.inference import collect
from eenotes.network import EarlyExitNetwork, in_mode
from eenotes.selection import Recipe, Scores, Selection, SelectionWarning

CHAPTER, STUDY = "05-eeprune", "eenotes.studies.eeprune"
NONE = "no pruning"
METHODS = (
    "EEPrune", "Random", "EL2N", "Forgetting", "SVP", "Complexity gap", "EEPrune-Before", "EEPrune-After",
)  # the thesis's order  # fmt: skip
BALANCED = ("Complexity gap",)  # its authors select class by class
EXTRAS = ("EEPrune, quota", "EEPrune-Soft", "EEPrune-Loss", "EEPrune, no labels")
LOOKS = (0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the budget at which the test accuracy is measured
_RUNS_DEPEND_ON = ("train", "val", "test", "kind", "width", "batch_size", "learning_rate", "budget")
_SCORES_DEPEND_ON = ("train", "val", "kind", "width", "batch_size", "learning_rate")


# ------------------------------------------------------------------------------------------------------------- networks


def network(kind: str, shape: Sequence[int], *, num_classes: int, width: int, exits: bool = True) -> EarlyExitNetwork:
    """Four stages, small enough for hundreds of trainings, with a linear exit after each of the first three, or without exits.

    Args:
        kind: ``"conv"``: four 3×3 convolutions with batch normalisation; ``"mlp"``: three hidden layers.
        shape: of one sample.
        num_classes: K.
        width: channels of the first convolution (then twice, twice, four times as many), or units of each hidden layer.
        exits: without them the network is a plain classifier.
    """
    if kind == "conv":
        widths = [shape[0], width, 2 * width, 2 * width, 4 * width]
        blocks = [_convolution(a, b, stride=2 if j == 0 else 1) for j, (a, b) in enumerate(zip(widths, widths[1:], strict=False))]
        blocks[2:] = [nn.Sequential(nn.MaxPool2d(2), block) for block in blocks[2:]]
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))
        stages = [*blocks[:3], nn.Sequential(blocks[3], last)]
    else:
        inputs = math.prod(shape)
        stages = [nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU())]
        stages += [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)]
        stages.append(nn.Linear(width, num_classes))
    if not exits:
        return EarlyExitNetwork([nn.Sequential(*stages)], [])
    return EarlyExitNetwork(stages, linear_exits(stages, torch.zeros(2, *shape), num_classes=num_classes))


def _convolution(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Watch:
    """A loss that stops for a look whenever the training has seen so many samples; ``found`` holds what the looks returned."""

    def __init__(self, loss: training.Loss, at: Sequence[int], look: Callable[[], Any]):
        self.loss, self.waiting, self.look = loss, sorted(at), look
        self.seen, self.found = 0, {}

    def __call__(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        self.catch_up(model)
        self.seen += len(batch[0])
        return self.loss(model, batch)

    def catch_up(self, model: nn.Module) -> None:
        """Look if it is time; call it once more when the training is over."""
        while self.waiting and self.waiting[0] <= self.seen:
            with in_mode(model), torch.no_grad():
                self.found[self.waiting.pop(0)] = self.look()


class Passes(Dataset):
    """``length`` samples: some rows of a data set, over and over, so that trainings on few and on many rows see equally many samples."""

    def __init__(self, dataset: Dataset, rows: Tensor, length: int):
        self.dataset, self.rows, self.length = dataset, rows.tolist(), length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return self.dataset[self.rows[i % len(self.rows)]]


# ------------------------------------------------------------------------------------------------------------- the ring


@dataclass(frozen=True)
class Ring:
    """Points of a two-dimensional ring, six classes by angle, and what EEPrune would drop after some epochs."""

    data: TensorDataset
    pruned: dict[int, eeprune.Pruned]  # epoch → decision
    net: EarlyExitNetwork  # after the last epoch

    @cached_property
    def to_boundary(self) -> Tensor:
        """``(N,)``: the angle, in degrees, to the nearest boundary between two classes."""
        x, y = self.data.tensors[0].T
        within = torch.rad2deg(torch.atan2(y, x)) % 60
        return torch.minimum(within, 60 - within)


def ring(*, points: int, epochs: Sequence[int], ratio: float, seed: int = 0) -> Ring:
    """Train a small early exit network on the ring and ask for EEPrune's decision after each of the epochs named."""
    generator = torch.Generator().manual_seed(seed)
    angle, radius = 360 * torch.rand(points, generator=generator), 1 + torch.rand(points, generator=generator)
    x = torch.stack([radius * torch.deg2rad(angle).cos(), radius * torch.deg2rad(angle).sin()], 1)
    data = TensorDataset(x, (angle / 60).long().clamp_max(5))
    recipe = Recipe(lambda seed: network("mlp", (2,), num_classes=6, width=32), epochs=max(epochs), batch_size=32)
    net = recipe.network(seed)

    def look() -> eeprune.Pruned:
        with _quiet():
            return eeprune.prune(net, data, ratio=ratio)

    watch = Watch(training.joint_loss, [epoch * points for epoch in epochs], look)
    options = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "optimizer": partial(training.sgd, lr=0.05), "seed": seed}
    training.fit(net, data, loss=watch, title="ring", **options)
    watch.catch_up(net)
    return Ring(data, {epoch: watch.found[epoch * points] for epoch in epochs}, net)


# --------------------------------------------------------------------------------------------------------------- scoring


@dataclass
class Bench:
    """A data set, a recipe and a seed: what everybody is given."""

    data: vision.Vision
    s: SimpleNamespace
    seed: int
    joules: dict[str, float] = field(default_factory=dict)  # of scoring; NaN where no meter is readable

    def recipe(self, epochs: int, *, exits: bool = False, width: int | None = None) -> Recipe:
        """How the networks of this bench are trained, for scoring."""
        return Recipe(
            partial(_build, self.s.kind, self.data.shape, len(self.data.classes), width or self.s.width, exits),
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
        """Every method's scores, in the thesis's order, and behind them those of the variants; from the cache if they are there."""
        s, train = self.s, self.data.train
        found = self._early_exit_scores()
        found["Random"] = selection.random(train, seed=self.seed)
        plain = {
            "EL2N": (selection.el2n, self.recipe(s.score_epochs), {"networks": s.el2n_networks}),
            "Forgetting": (selection.forgetting, self.recipe(s.forgetting_epochs), {}),
            "SVP": (selection.svp, self.recipe(s.svp_epochs, width=s.width // 2), {}),
            "Complexity gap": (selection.complexity_gap, None, {}),
        }
        for name, (function, recipe, options) in plain.items():
            facts = options | {"epochs": recipe and recipe.epochs}
            found[name] = self._kept(name, lambda f=function, r=recipe, o=options: f(train, r, seed=self.seed, **o), **facts)
        return {name: found[name] for name in (*METHODS, *EXTRAS[1:])}

    def _early_exit_scores(self) -> dict[str, Scores]:
        """One network, read at three exits and in three variants: what differs is the exit and the formula, never the training."""
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
                shared["net"] = self.recipe(s.score_epochs, exits=True).train(train, seed=self.seed, title="EEPrune")
                shared["joules"], shared["seconds"], start = joules_since(before), time.perf_counter() - start, time.perf_counter()
            options = dict(ways[name])
            variant = options.pop("variant", "hard")
            values = eeprune.importance(eeprune.observe(shared["net"], train, **options), variant=variant)
            seen = (s.score_epochs + 1) * len(train)
            return Scores(name, values, self.labels, seen, shared["seconds"] + time.perf_counter() - start)

        found = {name: self._kept(name, partial(score, name), shared=shared, epochs=s.score_epochs) for name in ways}
        clustered = TensorDataset(train.tensors[0], self.clusters)
        recipe = self.recipe(s.score_epochs, exits=True)
        blind = self._kept(
            "EEPrune, no labels", lambda: eeprune.scores(clustered, recipe, seed=self.seed), epochs=s.score_epochs, labels=self.clusters
        )
        return found | {"EEPrune, no labels": blind}

    @cached_property
    def clusters(self) -> Tensor:
        """``(N,)``: k-means on the pixels, as many clusters as there are classes."""
        from sklearn.cluster import KMeans

        pixels = self.data.train.tensors[0].flatten(1).numpy()
        return torch.from_numpy(KMeans(len(self.data.classes), n_init=3, random_state=self.seed).fit_predict(pixels)).long()

    def _kept(
        self, name: str, compute: Callable[[], Scores], *, labels: Tensor | None = None, shared: dict | None = None, **facts
    ) -> Scores:
        def tensors() -> dict[str, Tensor]:
            paid, before = (shared or {}).get("joules", 0.0), meter()  # what an earlier call has trained belongs to this score, too
            scores = compute()
            joules = paid + joules_since(before)
            return {"values": scores.values, "cost": torch.tensor([scores.samples_seen, scores.seconds, joules], dtype=torch.float64)}

        facts |= {name: getattr(self.s, name) for name in _SCORES_DEPEND_ON} | {"seed": self.seed, "code": _code()}
        kept = training.remember(_file(f"{self.data.name}-{name}", facts), tensors, **facts)
        seen, seconds, self.joules[name] = kept["cost"].tolist()
        return Scores(name, kept["values"], self.labels if labels is None else labels, int(seen), seconds)


def bench(name: str, s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """Load a data set; the same images for every seed."""
    gc.freeze()  # accelerate collects garbage after every training: spare it everything that is loaded for good
    return Bench(vision.load(name, train=s.train, val=s.val, test=s.test), s, seed)


def choose(b: Bench, method: str, ratio: float) -> Selection:
    """What a method keeps; a method that finds too few to drop drops those."""
    with _quiet():
        if method == "EEPrune, quota":
            return selection.select(b.scores["EEPrune"], ratio, True)
        return selection.select(b.scores[method], ratio, method in BALANCED)


# ----------------------------------------------------------------------------------------------------- the fair harness


def train_on(b: Bench, rows: Tensor | None, *, what: str) -> dict:
    """Train a plain network from scratch on some rows for the bench's budget of samples; what the test split says on the way.

    Returns:
        ``kept``, ``seen`` (training samples) and ``accuracy`` at each look, ``seconds``.
    """
    rows = torch.arange(len(b.labels)) if rows is None else rows
    facts = {name: getattr(b.s, name) for name in _RUNS_DEPEND_ON} | {"data": b.data.name, "seed": b.seed, "what": what}
    facts["rows"] = _digest(rows)
    return experiment.resumable(f"{b.data.name}-{what}", partial(_train_on, b, rows, what), study=STUDY, **facts)


def _train_on(b: Bench, rows: Tensor, what: str) -> dict:
    length = b.s.budget * len(b.labels)
    at = [round(share * length) for share in LOOKS]
    net = b.recipe(1).network(b.seed)
    return {"kept": len(rows), "seen": at, "accuracy": fit_and_look(net, b, Passes(b.data.train, rows, length), at, title=what)}


def fit_and_look(net: EarlyExitNetwork, b: Bench, dataset: Dataset, at: Sequence[int], *, title: str) -> list[float]:
    """Train once through ``dataset``; the test accuracy after each of ``at`` samples."""
    watch = Watch(training.joint_loss, at, lambda: _accuracy(net, b.data.test))
    options = {"batch_size": b.s.batch_size, "optimizer": partial(training.sgd, lr=b.s.learning_rate), "augment": b.augment}
    training.fit(net, dataset, loss=watch, epochs=1, seed=b.seed, title=title, **options)
    watch.catch_up(net)
    return [watch.found[seen] for seen in at]


def comparison(b: Bench, ratios: Sequence[float]) -> dict:
    """One run on one data set, as plain numbers: every method at every ratio, no pruning, and what scoring has cost."""
    runs, dropped, imbalances = {}, {}, {}
    for ratio in ratios:
        key = f"{ratio:g}"
        chosen = {method: choose(b, method, ratio) for method in METHODS}
        runs[key] = {method: train_on(b, c.keep, what=f"{method} {key}") for method, c in chosen.items()}
        classes = len(b.data.classes)
        dropped[key] = {method: b.labels[c.drop].bincount(minlength=classes).tolist() for method, c in chosen.items()}
        imbalances[key] = {method: selection.imbalance(c, b.labels) for method, c in chosen.items()}
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
    """Beyond the comparison: training on what was dropped, a quota per class, the variants, and no labels."""
    found = {method: choose(b, method, ratio) for method in EXTRAS}
    runs = {method: train_on(b, c.keep, what=f"{method} {ratio:g}") for method, c in found.items()}
    # As many of the rest as were dropped: fewer than half may qualify, and more data would win by being more.
    parts = choose(b, "EEPrune", half)
    size = min(len(parts.drop), len(parts.keep))
    draw = torch.Generator().manual_seed(b.seed)
    sides = {"dropped": parts.drop, "kept": parts.keep}
    sides = {name: rows[torch.randperm(len(rows), generator=draw)[:size]] for name, rows in sides.items()}
    return {
        "data": b.data.name,
        "seed": b.seed,
        "ratio": ratio,
        "runs": runs,
        "imbalance": {method: selection.imbalance(c, b.labels) for method, c in found.items()},
        "halves": {name: train_on(b, rows, what=f"{name} half") for name, rows in sides.items()},
    }


# ------------------------------------------------------------------------------------------------- the amount of data


def sweep(name: str, s: SimpleNamespace, *, seed: int = 0) -> list[dict]:
    """Keep the easy, the hard or any samples of data sets of growing size, with the scores of EEPrune-Soft, which ranks all samples.

    Returns:
        One row per size and strategy: ``size``, ``keep`` (``"easy"``, ``"hard"``, ``"random"``, ``"all"``), ``accuracy``.
    """
    rows = []
    for size in s.sizes:
        recipe = {"train": size, "val": 0, "test": s.test, "kind": "mlp", "width": s.width, "batch_size": s.batch_size}
        recipe |= {"learning_rate": s.learning_rate, "budget": max(s.budget, -(-s.least // size))}
        step = partial(_sweep_step, name, SimpleNamespace(**recipe), s.score_epochs, s.ratio, seed)
        facts = recipe | {"data": name, "seed": seed, "ratio": s.ratio, "score_epochs": s.score_epochs}
        found = experiment.resumable(f"sweep-{name}-{size}", step, study=STUDY, **facts)
        rows += [{"data": name, "seed": seed, "size": size, "keep": keep, "accuracy": found[keep]} for keep in SIDES]
    return rows


SIDES = ("easy", "hard", "random", "all")


def _sweep_step(name: str, s: SimpleNamespace, score_epochs: int, ratio: float, seed: int) -> dict[str, float]:
    # other images for other seeds: at small sizes the draw matters more than the weights
    b = Bench(vision.load(name, train=s.train, val=s.val, test=s.test, seed=seed), s, seed)
    # at small sizes as many steps as at large ones, or the scores would be those of an untrained network
    epochs = max(score_epochs, s.budget // 4)
    values = eeprune.scores(b.data.train, b.recipe(epochs, exits=True), seed=seed, variant="soft").values
    order, kept = values.argsort(), round((1 - ratio) * len(values))
    anyone = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    keep = {"easy": order[:kept], "hard": order[-kept:], "random": anyone[:kept], "all": order}
    length = s.budget * len(values)
    return {
        side: fit_and_look(b.recipe(1).network(seed), b, Passes(b.data.train, rows, length), [length], title=f"{side}, {len(values)}")[0]
        for side, rows in keep.items()
    }


def turning_verdict(rows: Sequence[dict]) -> str:
    """A sentence per data set: from which size on keeping the hard samples beats keeping the easy ones, and random."""
    table = pd.DataFrame(rows).pivot_table(index=["data", "size"], columns="keep", values="accuracy")
    sentences = []
    for name, part in table.groupby(level=0):
        part = part.droplevel(0)
        beats = {other: part.index[part["hard"] > part[other]].tolist() for other in ("easy", "random")}
        words = {other: f"at {', '.join(f'{n:,}' for n in sizes)}" if sizes else "at none of the sizes" for other, sizes in beats.items()}
        sentences.append(f"{name}: the hard samples beat the easy ones {words['easy']}, and random ones {words['random']}.")
    return " ".join(sentences)


# ------------------------------------------------------------------------------------------------------------- the tables


def curve_table(runs: Sequence[dict], ratio: float) -> pd.DataFrame:
    """Test accuracy on the way: ``method``, ``training`` and ``total`` (samples seen, scoring included), ``accuracy``, ``spread``."""
    rows = []
    for run in runs:
        for method, part in ({NONE: run["none"]} | run["runs"][f"{ratio:g}"]).items():
            cost = run["scoring"][method]["samples"] if method != NONE else 0
            rows += [
                {"method": method, "training": seen, "total": seen + cost, "accuracy": accuracy}
                for seen, accuracy in zip(part["seen"], part["accuracy"], strict=True)
            ]
    groups = pd.DataFrame(rows).groupby(["method", "training", "total"], sort=False)["accuracy"]
    return groups.agg(accuracy="mean", spread="std").reset_index()


def final_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Test accuracy at the end of the budget, mean ± standard deviation over the runs: rows = methods, columns = ratios."""
    columns = {}
    for ratio in runs[0]["runs"]:
        finals = {method: [final(run, method, ratio) for run in runs] for method in (NONE, *METHODS)}
        columns[f"{float(ratio):.0%} dropped"] = {method: _plus_minus(values) for method, values in finals.items()}
    return pd.DataFrame(columns)


def final(run: dict, method: str, ratio: str) -> float:
    """The accuracy at the end of the budget."""
    return (run["none"] if method == NONE else run["runs"][ratio][method])["accuracy"][-1]


def lead(runs: Sequence[dict], method: str, other: str, ratio: str) -> list[float]:
    """Accuracy of one method minus that of another, run by run."""
    return [final(run, method, ratio) - final(run, other, ratio) for run in runs]


def lead_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Accuracy at the end minus that of random with the same seed: ``method``, ``ratio``, ``lead``, ``spread``."""
    rows = []
    for ratio in runs[0]["runs"]:
        for method in (NONE, *METHODS):
            values = lead(runs, method, "Random", ratio)
            rows.append({"method": method, "ratio": float(ratio), "lead": mean(values), "spread": spread(values)})
    return pd.DataFrame(rows).astype({"spread": float})


def scoring_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Per method, averaged over the runs: ``passes`` (samples seen while scoring, in units of the data set), ``seconds``, and ``joules``
    where a meter was readable in every run."""
    rows = {}
    for method in METHODS:
        found = [run["scoring"][method] for run in runs]
        passes = mean([part["samples"] / run["counts"]["train"] for part, run in zip(found, runs, strict=True)])
        joules = [part["joules"] for part in found]
        rows[method] = {"passes": passes, "seconds": mean([part["seconds"] for part in found])}
        rows[method]["joules"] = math.nan if None in joules else mean(joules)
    return pd.DataFrame(rows).T.dropna(axis="columns")


def location_table(groups: dict[str, Sequence[dict]]) -> pd.DataFrame:
    """Where the early exit sits: accuracy for before, middle and after at each ratio, the thesis's numbers last."""
    names = {"before": "EEPrune-Before", "middle": "EEPrune", "after": "EEPrune-After"}
    columns = {}
    for data, runs in groups.items():
        for ratio in runs[0]["runs"]:
            cells = {place: _plus_minus([final(run, method, ratio) for run in runs]) for place, method in names.items()}
            columns[data, f"{float(ratio):.0%}"] = cells
    thesis = {"10%": (".680", ".734", ".656"), "30%": (".677", ".723", ".670"), "60%": (".676", ".685", ".676")}
    columns |= {("thesis, CIFAR-100", ratio): dict(zip(names, values, strict=True)) for ratio, values in thesis.items()}
    return pd.DataFrame(columns)


def extras_table(groups: dict[str, Sequence[dict]], more: dict[str, Sequence[dict]]) -> pd.DataFrame:
    """The experiments beyond the thesis beside EEPrune and random at the same ratio: accuracy, kept samples, imbalance."""
    rows = []
    for name, runs in groups.items():
        ratio = f"{more[name][0]['ratio']:g}"
        for method in ("EEPrune", *EXTRAS, "Random"):
            source = more[name] if method in EXTRAS else runs
            parts = [(run["runs"] if method in EXTRAS else run["runs"][ratio])[method] for run in source]
            skew = [(run["imbalance"] if method in EXTRAS else run["imbalance"][ratio])[method] for run in source]
            accuracy = [part["accuracy"][-1] for part in parts]
            rows.append({"data": name, "method": method, "accuracy": _plus_minus(accuracy), "mean": mean(accuracy),
                         "kept": round(mean([part["kept"] for part in parts])), "imbalance": mean(skew)})  # fmt: skip
    return pd.DataFrame(rows)


def extras_verdict(table: pd.DataFrame) -> str:
    """From `extras_table`: what the quota does to balance and accuracy, and what is left of EEPrune without labels."""
    sentences = []
    for name, part in table.groupby("data", sort=False):
        part = part.set_index("method")
        gain = {method: 100 * (part["mean"][method] - part["mean"]["EEPrune"]) for method in part.index}
        blind = 100 * (part["mean"]["EEPrune, no labels"] - part["mean"]["Random"])
        sentences.append(
            f"{name}: the quota takes the imbalance from {part.imbalance['EEPrune']:.2f} to {part.imbalance['EEPrune, quota']:.2f} and "
            f"changes accuracy by {gain['EEPrune, quota']:+.1f} points; without labels EEPrune is {blind:+.1f} points from random."
        )
    return " ".join(sentences)


def halves_table(more: dict[str, Sequence[dict]]) -> pd.DataFrame:
    """Accuracy after training on dropped samples and on as many kept ones, per data set, with the spread over the runs."""
    rows = {}
    for name, runs in more.items():
        found = {side: [run["halves"][side]["accuracy"][-1] for run in runs] for side in ("dropped", "kept")}
        rows[name] = {side: mean(values) for side, values in found.items()}
        rows[name] |= {f"{side}_spread": spread(values) for side, values in found.items()}
    return pd.DataFrame(rows, dtype=float).T


def dropped_tables(groups: dict[str, Sequence[dict]], classes: dict[str, Sequence[str]]) -> tuple[dict, dict]:
    """Discarded samples per class and method, averaged over the runs, and the imbalances, both by (data set, ratio)."""
    panels, imbalances = {}, {}
    for name, runs in groups.items():
        for ratio in runs[0]["runs"]:
            key = name, f"{float(ratio):.0%}"
            panels[key] = sum(pd.DataFrame(run["dropped"][ratio], index=list(classes[name])) for run in runs) / len(runs)
            imbalances[key] = pd.DataFrame([run["imbalance"][ratio] for run in runs]).mean()
    return panels, imbalances


# ------------------------------------------------------------------------------------------------------------ the claims


def claim_all(record: experiment.Record, groups: dict[str, Sequence[dict]], more: dict[str, Sequence[dict]]) -> None:
    """The thesis's claims beside ours, for runs by data set name."""
    for name, runs in groups.items():
        ratios = list(runs[0]["runs"])
        leads = {ratio: lead(runs, "EEPrune", "Random", ratio) for ratio in ratios}
        worst = min(ratios, key=lambda ratio: mean(leads[ratio]))
        _claim(record, f"{name}: EEPrune is at least as accurate as random pruning; ours: smallest lead, at {float(worst):.0%}",
               "73.6 against 71.2 at 20 %, CIFAR-100 (figure)", leads[worst], mean(leads[worst]) >= 0, "race")  # fmt: skip
        leads = {ratio: lead(runs, "EEPrune", NONE, ratio) for ratio in ratios}
        best = max(ratios, key=lambda ratio: mean(leads[ratio]))
        _claim(record, f"{name}: at equal training samples EEPrune beats no pruning; ours: best lead, at {float(best):.0%}",
               "73.6 against 72.3 at 20 %, CIFAR-100 (figure)", leads[best], mean(leads[best]) > 0, "race")  # fmt: skip
        gaps = [run["halves"]["dropped"]["accuracy"][-1] - run["halves"]["kept"]["accuracy"][-1] for run in more[name]]
        _claim(record, f"{name}: training on what EEPrune drops is worse than training on as many of the rest; ours: difference",
               "50.56 against 70.86, CIFAR-100, 50 %", gaps, mean(gaps) < 0, "halves")  # fmt: skip
        others = ("EEPrune-Before", "EEPrune-After")
        edges = [mean([min(lead([run], "EEPrune", other, ratio)[0] for other in others) for ratio in ratios]) for run in runs]
        _claim(record, f"{name}: the middle exit is the best one; ours: lead over the better of the others, mean over the ratios",
               "73.39 against 67.98 and 65.57 at 10 %, CIFAR-100", edges, mean(edges) > 0, "location")  # fmt: skip
        ratio = ratios[-1]
        table = pd.DataFrame([run["imbalance"][ratio] for run in runs])
        skewed = table.mean().idxmax()
        _claim(record, f"{name}: some methods unbalance the classes; ours: imbalance of {skewed} at {float(ratio):.0%}"
               f" (random: {table['Random'].mean():.3f})", "visible in the heat map", table[skewed].tolist(),
               bool(table[skewed].mean() > 2 * table["Random"].mean()), "classes")  # fmt: skip
        costs = scoring_table(runs).passes
        _claim(record, f"{name}: scoring by EEPrune sees at most a tenth of the samples that Forgetting does; ours: ratio",
               "≈ .05 of its energy (figure)", [float(costs["EEPrune"] / costs["Forgetting"])],
               bool(costs["EEPrune"] <= costs["Forgetting"] / 10), "scoring")  # fmt: skip


def _claim(record: experiment.Record, statement: str, thesis: str, values: Sequence[float], holds: bool, where: str) -> None:
    record.claim(statement, thesis=thesis, ours=mean(values), spread=spread(values), holds=bool(holds), where=where)


def verdict(groups: dict[str, Sequence[dict]]) -> str:
    """A sentence per data set: who is first at each ratio, and how EEPrune stands to random."""
    sentences = []
    for name, runs in groups.items():
        parts = []
        for ratio in runs[0]["runs"]:
            means = {method: mean([final(run, method, ratio) for run in runs]) for method in METHODS}
            gap = mean(lead(runs, "EEPrune", "Random", ratio))
            first = max(means, key=means.get)
            parts.append(f"{float(ratio):.0%}: {first} first of the pruned, EEPrune {100 * gap:+.1f} points against random")
        sentences.append(f"{name}, {'; '.join(parts)}.")
    return " ".join(sentences)


# --------------------------------------------------------------------------------------------------------------- the rest


def meter() -> float | None:
    """Joules from a meter that this machine lets us read (the GPU's, through NVML, or the processor's RAPL), else ``None``."""
    if torch.cuda.is_available():
        try:
            import pynvml

            pynvml.nvmlInit()
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1000
        except Exception:  # no NVML, no such counter, no permission: there is no meter then
            return None
    try:
        return int(Path("/sys/class/powercap/intel-rapl:0/energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None


def joules_since(before: float | None) -> float:
    """Joules since an earlier reading; NaN without a meter."""
    return math.nan if before is None else meter() - before


def run_all(s: SimpleNamespace, seeds: Sequence[int]) -> tuple[dict, dict, list[dict]]:
    """Comparison and extras per data set, one run per seed, and the sweep's rows; what is finished is not repeated."""
    groups, more, rows = {}, {}, []
    for name in s.names:
        benches = [bench(name, getattr(s, name), seed=seed) for seed in seeds]
        groups[name] = [comparison(b, s.ratios) for b in benches]
        more[name] = [extras(b, ratio=s.extra_ratio) for b in benches]
    for name in s.sweep.names:
        rows += [row for seed in range(s.sweep.seeds) for row in sweep(name, s.sweep, seed=seed)]
    return groups, more, rows


def study() -> Path:
    """The whole comparison with many seeds; every training is kept as it finishes, so a study that was cut off goes on where it was."""
    s = experiment.settings(CHAPTER, "study")
    groups, more, rows = run_all(s, range(s.seeds))
    data = {name: runs[0]["counts"] for name, runs in groups.items()}
    record = experiment.Record(CHAPTER, study=STUDY, at="study", data=data, seeds=list(range(s.seeds)))
    record.numbers = {"comparison": groups, "extras": more, "sweep": rows}
    claim_all(record, groups, more)
    return record.save()


def mean(values: Sequence[float]) -> float:
    return float(pd.Series(list(values), dtype=float).mean())


def spread(values: Sequence[float]) -> float | None:
    value = pd.Series(list(values), dtype=float).std()
    return None if pd.isna(value) else float(value)


def _plus_minus(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {spread(values):.3f}" if len(values) > 1 else "")


def _build(kind: str, shape: Sequence[int], num_classes: int, width: int, exits: bool, seed: int) -> EarlyExitNetwork:
    # convolutions of so few channels are half as fast again with the channels last
    return network(kind, shape, num_classes=num_classes, width=width, exits=exits).to(memory_format=torch.channels_last)


def _accuracy(net: EarlyExitNetwork, dataset: TensorDataset) -> float:
    logits, labels = collect(net, vision.batches(dataset, size=500))
    return (logits[-1].argmax(1) == labels).double().mean().item()


def _quiet() -> warnings.catch_warnings:
    """How many could be dropped is in the numbers; the warning is for those who call the package themselves."""
    return warnings.catch_warnings(action="ignore", category=SelectionWarning)


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.sort().values.numpy().tobytes()).hexdigest()[:12]


def _code() -> str:
    return experiment.code_hash(experiment.imported_by(STUDY))


def _file(name: str, facts: dict) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return experiment.cache_dir() / "scores" / f"{name.replace(' ', '-').replace(',', '')}-{key}.safetensors"
