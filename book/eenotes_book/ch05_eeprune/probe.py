"""The probe of chapter 5: the ring, all scores, the race, the extras and the sweep, on digits.

The digits take the places, and the names, of Fashion-MNIST and CIFAR-10; the networks are the
chapter's own, only narrower, and see some hundred samples.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes.methods import eeprune
from eenotes.methods.eeprune import Pruned
from eenotes_book import statistics
from eenotes_book.ch05_eeprune import bench as benches
from eenotes_book.ch05_eeprune import experiment, sample_scores, tables
from eenotes_book.ch05_eeprune import sweep as ch05_sweep
from eenotes_book.ch05_eeprune.bench import Bench
from eenotes_book.ch05_eeprune.complexity_gap import complexity_gap
from eenotes_book.ch05_eeprune.harness import fit_and_measure
from eenotes_book.ch05_eeprune.ring import learn_ring
from eenotes_book.ch05_eeprune.settings import RaceSettings, SweepSettings
from eenotes_book.data.passes import Passes
from eenotes_book.probes import Doubles

SEED = 1  # not 0: a product with a seed of 0 hides what it is multiplied with
RATIOS = (0.3, 0.6)  # EEPrune finds enough to drop for the first of them only
Numbers = dict[str, float | list[float] | Tensor]


def probe() -> Numbers:
    """The numbers of all parts."""
    parts = [ring(), augmented(), sweep(), large_classes()]
    # Last, for its speed: a bench frees the garbage collector of all that was loaded before.
    b = bench("FashionMNIST", "conv")
    runs = [experiment.comparison(b, RATIOS)]
    more = [experiment.extras(b, ratio=RATIOS[0])]
    parts += [scores(b), observation(b), race(runs), who(runs, b), beyond(runs, more), harness(b)]
    return {name: value for part in parts for name, value in part.items()}


def settings(kind: str) -> RaceSettings:
    """What the study expects of a data set, in miniature."""
    return RaceSettings(
        train=200,
        val=20,
        test=150,
        kind=kind,
        width=12,
        batch_size=16,
        learning_rate=0.12,
        budget=2,
        score_epochs=3,
        el2n_networks=2,
        forgetting_epochs=3,
        svp_epochs=1,
    )


def bench(name: str, kind: str) -> Bench:
    """A bench of digits in float64 under another data set's name."""
    with Doubles():
        made = benches.bench("digits", settings(kind), seed=SEED)
    return replace(made, data=replace(made.data, name=name))


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
    found = {f"score_{name}": summary(each.values) for name, each in b.scores.items()}
    return found | {"clusters": b.clusters.double().mean()}


def observation(b: Bench) -> Numbers:
    """What two exits say of the training samples, as the chapter's scatter plot has it."""
    net = b.recipe(b.s.score_epochs, exits=True).train(b.data.train, seed=b.seed)
    seen = eeprune.observe(net, b.data.train)
    report = eeprune.report(seen, experiment.choose(b, "EEPrune", RATIOS[0]))
    means = [seen.confidence, seen.early_truth, seen.final_truth]
    return {
        "observed": [values.mean() for values in means],
        "report": [report.early_right, report.both_right, report.dropped, report.threshold],
    }


def race(runs: list[dict]) -> Numbers:
    """Accuracies of all methods, and the leads of which the claims are made."""
    found = {
        "candidates": runs[0]["candidates"],
        "passes": tables.scoring_table(runs).passes.tolist(),
    }
    for ratio in runs[0]["runs"]:
        finals = [
            tables.final(runs[0], method, ratio)
            for method in (experiment.NONE, *experiment.METHODS)
        ]
        rivals = ("Random", experiment.NONE, "EEPrune-Before", "EEPrune-After")
        curves = tables.curve_table(runs, float(ratio))
        found |= {
            f"final_{ratio}": finals,
            f"lead_{ratio}": [tables.lead(runs, "EEPrune", rival, ratio)[0] for rival in rivals],
            f"kept_{ratio}": runs[0]["runs"][ratio]["EEPrune"]["kept"],
            f"curve_{ratio}": curves[["training", "total", "accuracy"]].mean().tolist(),
            f"spread_{ratio}": statistics.spread(finals),
        }
    return found


def who(runs: list[dict], b: Bench) -> Numbers:
    """The mean class of what each method drops, and the imbalance that it causes."""
    panels, imbalances = tables.dropped_tables({"": runs}, {"": b.data.classes})
    found = {}
    for (_, ratio), panel in panels.items():
        means = panel.mul(range(len(panel)), axis=0).sum() / panel.sum()
        found[f"class_{ratio}"] = means.tolist()
        found[f"imbalance_{ratio}"] = imbalances["", ratio].tolist()
    return found


def beyond(runs: list[dict], more: list[dict]) -> Numbers:
    """Dropped against kept samples, the quota, the variants, and no labels."""
    table = (
        tables.extras_table({"": runs}, {"": more}).set_index("method").loc[list(experiment.EXTRAS)]
    )
    halves = tables.halves_table({"": more}).loc[""]
    sides = [more[0]["halves"][side] for side in ("dropped", "kept")]
    return {
        "halves": [halves.dropped, halves.kept],
        "halves_way": [
            n for side in sides for n in (side["kept"], statistics.mean(side["accuracy"]))
        ],
        "extras": table[["mean", "kept", "imbalance"]].to_numpy(dtype=float),
    }


def harness(b: Bench) -> Numbers:
    """What a network says of the test images after the training that everybody gets."""
    net = b.recipe(1).network(b.seed)
    dataset = Passes(b.data.train, torch.arange(0, 200, 2), 300)
    found = fit_and_measure(net, b, dataset, [120, 300], title="probe")
    return {f"harness_{b.data.name}": [*found, *answers(net, b)]}


def augmented() -> Numbers:
    """The same for CIFAR-10, whose images are shifted and mirrored; and its scores."""
    b = bench("CIFAR10", "conv")
    found = sample_scores.eeprune(
        b.data.train, b.recipe(1, exits=True), seed=b.seed, variant="loss"
    )
    return harness(b) | {"score_CIFAR10": [*summary(found.values), found.samples_seen]}


def large_classes() -> Numbers:
    """The complexity gap of a class so large that it is handled in parts."""
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(1008, 32, generator=draw)
    labels = (torch.arange(len(x)) >= 1002).long()
    return {"large_classes": summary(complexity_gap(TensorDataset(x, labels)).values)}


def sweep() -> Numbers:
    """Easy, hard, any and all samples of two small data sets."""
    s = SweepSettings(
        names=["digits"],
        seeds=1,
        sizes=[40, 120],
        ratio=0.6,
        test=150,
        width=16,
        batch_size=20,
        learning_rate=0.08,
        budget=3,
        least=320,
        score_epochs=1,
    )
    with Doubles():
        rows = ch05_sweep.sweep("digits", s, seed=SEED)
    return {"sweep": [row["accuracy"] for row in rows]}


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
