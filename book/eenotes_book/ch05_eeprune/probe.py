"""The probe of chapter 5: the ring, all scores, the race, the halves and the sweep, on digits.

The digits take the places, and the names, of Fashion-MNIST and CIFAR-10; the networks are the
chapter's own, only narrower, and see some hundred samples.
"""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes.methods import eeprune
from eenotes.methods.eeprune import Pruned
from eenotes_book import statistics
from eenotes_book.ch05_eeprune import experiment, tables, turning
from eenotes_book.ch05_eeprune import sweep as ch05_sweep
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.ch05_eeprune.complexity_gap import complexity_gap
from eenotes_book.ch05_eeprune.harness import train_on
from eenotes_book.ch05_eeprune.ring import learn_ring
from eenotes_book.ch05_eeprune.settings import RaceSettings, SweepSettings
from eenotes_book.probes import Doubles

SEED = 1  # not 0: a product with a seed of 0 hides what it is multiplied with
RATIOS = ("0.2", "0.6")  # EEPrune finds enough to drop for the first of them only
Numbers = dict[str, float | list[float] | Tensor]


def probe() -> Numbers:
    """The numbers of all parts."""
    parts = [ring(), augmented(), sweep(), model(), large_classes()]
    # Last, for its speed: a bench frees the garbage collector of all that was loaded before.
    b = bench("FashionMNIST", settings())
    runs = [experiment.comparison(b)]
    more = [experiment.extras(b, ratio=float(RATIOS[0]))]
    parts += [scores(b), observation(b), race(runs), who(runs), beyond(runs, more), harness(b)]
    return {name: value for part in parts for name, value in part.items()}


def settings(**changes) -> RaceSettings:
    """What the study expects of a data set, in miniature."""
    methods = [*experiment.METHODS, experiment.QUOTA]
    found = {
        "train": 200,
        "val": 20,
        "test": 150,
        "kind": "conv",
        "width": 12,
        "exit_grid": 1,
        "batch_size": 16,
        "learning_rate": 0.12,
        "budget": 2,
        "score_epochs": 5,
        "el2n_epochs": 3,
        "el2n_networks": 2,
        "forgetting_epochs": 3,
        "svp_epochs": 1,
        "runners": dict.fromkeys(RATIOS, methods),
        "sweep_ratio": 0.6,
        "halves": True,
    }
    return RaceSettings(**found | changes)


def bench(name: str, s: RaceSettings) -> Bench:
    """A bench of digits in float64 under another data set's name."""
    with Doubles():
        digits = Bench("digits", s, SEED).data
    made = Bench(name, s, SEED)
    made.data = replace(digits, name=name)
    return made


# The parts.


def ring() -> Numbers:
    """What is dropped of the ring after some epochs, and where it lies."""
    made = learn_ring(points=240, epochs=[2, 4, 6], ratio=0.3, seed=SEED)
    last = made.pruned[6]
    package = eeprune.prune(made.net, made.data, ratio=0.2)
    fixed = eeprune.prune(made.net, made.data, threshold=0.6)
    return {
        "ring_counts": [n for pruned in made.pruned.values() for n in counts(pruned)],
        "ring_thresholds": [pruned.report.threshold for pruned in made.pruned.values()],
        "ring_angles": [made.to_boundary[rows].mean() for rows in (last.drop, last.keep)],
        "ring_scores": [
            n for pruned in made.pruned.values() for n in summary(pruned.scores.values)
        ],
        "ring_again": [*counts(package), package.report.threshold, *counts(fixed)],
    }


def scores(b: Bench) -> Numbers:
    """Every method's scores."""
    names = [*experiment.METHODS, *(name for name in experiment.EXTRAS if name != experiment.QUOTA)]
    found = {f"score_{name}": summary(b.scores(name).values) for name in names}
    return found | {"clusters": b.clusters.double().mean()}


def observation(b: Bench) -> Numbers:
    """What two exits say of the training samples, as the chapter's scatter plot has it."""
    seen = experiment.seen_by_exits(b)
    values = {name: torch.tensor(seen[name]).double() for name in ("early", "final", "confidence")}
    report = eeprune.report(
        eeprune.observe(b.scoring[0], b.data.train),
        experiment.choose(b, "EEPrune", float(RATIOS[0])),
    )
    return {
        "observed": [*(value.mean() for value in values.values()), seen["both_right"]],
        "report": [report.early_right, report.both_right, report.dropped, report.threshold],
    }


def race(runs: list[dict]) -> Numbers:
    """Accuracies of all methods, and the leads of which the claims are made."""
    found = {
        "candidates": [each["candidates"] for each in runs[0]["scoring"].values()],
        "passes": tables.scoring_table(runs).passes.tolist(),
    }
    for ratio in RATIOS:
        methods = (experiment.NONE, *experiment.METHODS, experiment.QUOTA)
        finals = [tables.finals(runs, method, ratio)[0] for method in methods]
        rivals = ("Random", experiment.NONE, "EEPrune-Before", "EEPrune-After")
        curves = tables.curve_table(runs, ratio)
        found |= {
            f"final_{ratio}": finals,
            f"lead_{ratio}": [tables.lead(runs, "EEPrune", rival, ratio)[0] for rival in rivals],
            f"kept_{ratio}": runs[0]["runs"][ratio]["EEPrune"]["kept"],
            f"curve_{ratio}": curves[["training", "total", "accuracy"]].mean().tolist(),
            f"spread_{ratio}": statistics.spread(finals),
        }
    return found


def who(runs: list[dict]) -> Numbers:
    """The mean class of what each method drops, and the imbalance that it causes."""
    panels, imbalances = tables.dropped_tables({"": runs})
    found = {}
    for (_, ratio), panel in panels.items():
        means = panel.mul(pd.Series(range(len(panel)), panel.index), axis=0).sum() / panel.sum()
        found[f"class_{ratio}"] = means.tolist()
        found[f"imbalance_{ratio}"] = imbalances["", ratio].tolist()
    return found


def beyond(runs: list[dict], more: list[dict]) -> Numbers:
    """Dropped against kept samples, the quota, the variants, and no labels."""
    table = tables.extras_table(runs, more).set_index("method").loc[list(experiment.EXTRAS)]
    halves = tables.halves_table({"": runs}).loc[""]
    sides = [runs[0]["halves"][side] for side in ("dropped", "kept")]
    return {
        "halves": [halves.dropped, halves.kept],
        "halves_way": [
            n for side in sides for n in (side["kept"], statistics.mean(side["accuracy"]))
        ],
        "extras": table[["kept", "imbalance"]].to_numpy(dtype=float),
        "extra_finals": [more[0]["runs"][name]["accuracy"][-1] for name in experiment.EXTRAS],
    }


def harness(b: Bench) -> Numbers:
    """What a network says of the test images after the training that is the same for all."""
    found = train_on(b, torch.arange(0, 200, 2))["accuracy"]
    return {f"harness_{b.name}": [*found, *answers(b.scoring[0], b)]}


def augmented() -> Numbers:
    """The same for CIFAR-10, whose images are shifted and mirrored; and its scores."""
    b = bench("CIFAR10", settings(score_epochs=1, exit_grid=2))
    found = b.scores("EEPrune-Loss")
    return harness(b) | {"score_CIFAR10": [*summary(found.values), found.samples_seen]}


def large_classes() -> Numbers:
    """The complexity gap of a class so large that it is handled in parts."""
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(1008, 32, generator=draw)
    labels = (torch.arange(len(x)) >= 1002).long()
    return {"large_classes": summary(complexity_gap(TensorDataset(x, labels)).values)}


def sweep() -> Numbers:
    """EEPrune, its reverse, random and all samples of two small data sets and a larger one."""
    s = SweepSettings(names=["digits"], seeds=1, sizes=[40, 120], least=320)
    with Doubles():
        rows = ch05_sweep.sweep("digits", settings(kind="mlp", width=16), s, seed=SEED)
    leads = turning.leads_by_size(rows, "digits", "Random")
    return {"sweep": [row["accuracy"] for row in rows], "sweep_leads": leads.iloc[0].tolist()}


def model() -> Numbers:
    """Sorscher et al.'s perceptron."""
    table = turning.perceptron([2, 8], ratio=0.6, weights=10, seeds=2)
    return {"model": table.accuracy.tolist()}


# Tensors in few numbers.


def summary(values: Tensor) -> list[Tensor]:
    """The mean of what is finite, and the same weighted by the place in the data set."""
    finite = values.isfinite()
    weights = torch.linspace(0, 2, len(values))
    return [values[finite].mean(), (weights * values)[finite].mean()]


def counts(pruned: Pruned) -> list[int]:
    """How many samples met which condition."""
    return [pruned.report.early_right, pruned.report.both_right, pruned.report.dropped]


@torch.no_grad()
def answers(net: nn.Module, b: Bench) -> list[Tensor]:
    """The cross-entropy on the test images, and the size of the logits."""
    x, labels = b.data.test.tensors
    logits = net(x)[-1]
    return [nn.functional.cross_entropy(logits, labels), logits.abs().mean(), logits.std()]
