"""The probe of chapter 2: both halves of the study in miniature, on digits.

With labels: E²CM, whitened E²CM, SDN and BranchyNet on a ResNet-14 of width 4.
Without labels: two clusterings by small encoders, with class-mean exits.
Also what the notebook shows on the way: separability, confidences, costs of tests, exercises.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eenotes.inference import collect
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Confidence, Entropy
from eenotes_book import clustering
from eenotes_book.ch02_e2cm import at_costs, experiment, unlabelled
from eenotes_book.ch02_e2cm.separability import separability
from eenotes_book.ch02_e2cm.settings import Backbone, Clusters
from eenotes_book.data import recorded, vision
from eenotes_book.probes import Doubles, default_dtype

EPOCHS, SEED = 2, 1  # of SDN without a budget; no default seed
IMAGES = 400  # of the recorded ones
Numbers = dict[str, Tensor | float | list[float]]

BACKBONE = Backbone(
    train=300, val=80, test=120, depth=14, width=4, epochs=6, batch_size=30, learning_rate=0.1
)
WITH_DEFAULTS = Clusters(  # the rest as in a `deep_clustering.Recipe`
    train=400, val=100, test=150, widths=[20, 20, 80, 5], epochs=40, steps=110, distortion=0.1
)
WITH_OPTIONS = Clusters(
    train=300,
    val=100,
    test=150,
    widths=[20, 20, 80, 5],
    epochs=60,
    steps=60,
    batch_size=100,
    learning_rate=0.01,
    refine_rate=0.0003,
    update_interval=1,  # few samples change cluster: refinement ends at the default tolerance
)


def probe() -> Numbers:
    """The numbers of the experiment, by name."""
    with Doubles():
        b = experiment.bench("digits", BACKBONE, seed=SEED)
        found = {"backbone: accuracy": b.accuracy} | _networks(b) | _on_the_way(b) | _exercises(b)
        for title, s in {"clusters": WITH_DEFAULTS, "other clusters": WITH_OPTIONS}.items():
            c = unlabelled.cluster_bench("digits", s, seed=SEED)
            found |= {f"{title}: {name}": value for name, value in _clustering(c).items()}
    with default_dtype(torch.float32):
        return found | _published()


def _published() -> Numbers:
    """What the claims on published networks are made of, on few of the recorded images."""
    plain, whitened = (recorded.load("resnet20", method) for method in ("e2cm", "whitened"))
    plain, whitened = (
        replace(run, logits=run.logits[:, :IMAGES], labels=run.labels[:IMAGES])
        for run in (plain, whitened)
    )
    results = {
        "plain": at_costs.report(plain),
        "posterior": at_costs.report(plain, rule_of=at_costs.posterior_rule),
        "whitened": at_costs.report(whitened),
    }
    parts = (results["plain"], results["whitened"])
    results["both"] = at_costs.report_combined(plain, whitened, parts=parts)
    found = {}
    for name, result in results.items():
        found[f"published: {name}"] = [*result.right.mean(1), result.cost.mean()]
        found[f"published: {name}, lead"] = at_costs.lead(result, results["plain"], 0.3)
    return found


def _networks(b: experiment.Bench) -> Numbers:
    """What the exits of every method say on test, and the thresholds that it chooses."""
    one_epoch = experiment.one_epoch(b)
    trained = experiment.shallow_deep_network(b, epochs=EPOCHS)
    unlimited = {"SDN": trained, "E²CM + SDN": e2cm.combine(b.class_means, trained)}
    like_cifar = replace(b, data=replace(b.data, name="CIFAR10"))  # digits are not augmented
    nets = one_epoch | {f"{name}, unlimited": net for name, net in unlimited.items()}
    nets["BranchyNet, cropped"] = experiment.branchy_network(like_cifar)
    found = {}
    for name, net in nets.items():
        rule = experiment.rule_of(name.split(",")[0], net)
        statistic = _statistic(net, rule, b.data)
        logits, labels = collect(net, vision.batches(b.data.test))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))
        found[f"{name}: exits"] = [statistic.mean(), logits.square().mean(), loss]
    for name in ("E²CM", experiment.WHITENED):
        rule = experiment.rule_of(name, one_epoch[name])
        found[f"{name}: confidence by exit"] = _statistic(one_epoch[name], rule, b.data)
    for name, net in one_epoch.items():
        points = experiment.operating_points(name, net, b.data)
        found[f"{name}: thresholds"] = _chosen(points["thresholds"], points["left"])
        found[f"{name}: accuracy on validation"] = points["val_accuracy"].mean()
    return found


def _chosen(thresholds: Sequence[list[float]], left: Sequence[list[float]]) -> list[Tensor]:
    """The mean threshold, and the mean exit, of the points chosen for the budgets."""
    left = torch.tensor([list(shares) for shares in left])
    mean_exit = (left * torch.arange(left.shape[1])).sum(1).mean()
    return [torch.tensor([list(vector) for vector in thresholds]).mean(), mean_exit]


def _statistic(net: EarlyExitNetwork, rule: Confidence | Entropy, data: vision.Vision) -> Tensor:
    """What a rule compares with its thresholds, on average over the test images, by exit."""
    logits, _ = collect(net, vision.batches(data.test))
    return torch.stack([rule.score(j, z).score.mean() for j, z in enumerate(logits)])


def _on_the_way(b: experiment.Bench) -> Numbers:
    """What the notebook shows beside the comparison."""
    net = b.class_means
    rule = experiment.rule_of("E²CM", net)
    logits, labels = collect(net, vision.batches(b.data.val))
    bands = experiment.confidence_table(logits, rule, names=b.backbone.exit_points)
    cost = experiment.mean_cost_of_draws(net, b.data, logits, labels, rule)
    steps = experiment.walk(net, b.data.test.tensors[0][0], exits=[0, 3]).groupby("exit")
    macs = experiment.overhead_table(b)
    return {
        "separability by layer": separability(b).mean().tolist(),
        "confidence bands": bands.mean().tolist(),
        "cost of drawn thresholds": [cost["uniform"], cost["quantile"]],
        "walk": [*steps["distance"].min(), *steps["softmax"].max()],
        "MACs of stages": macs["stage"].tolist(),
        "MACs of tests": [macs["E²CM"].sum(), macs["SDN"].sum()],
    }


def _exercises(b: experiment.Bench) -> Numbers:
    """The other normaliser, the other prediction, and the other blend."""
    train, num_classes = vision.batches(b.data.train), len(b.data.classes)
    rms = e2cm.fit(b.stages, train, num_classes=num_classes, normaliser="rms")
    round_ = e2cm.fit_whitened(b.stages, train, num_classes=num_classes, shrinkage=1.0)
    pairs = zip(rms.exits, b.class_means.exits, strict=True)
    logits, _ = collect(b.class_means, vision.batches(b.data.test))
    normalised = e2cm.rule(b.class_means).probabilities(0, logits[0]).argmax(1)
    return {
        "rms / mean": torch.stack([a.mean_distance / c.mean_distance for a, c in pairs]).mean(),
        "predictions that differ": (normalised != logits[0].argmax(1)).double().mean(),
        "round whitening: confidence": _statistic(round_, e2cm.rule(round_), b.data).mean(),
    }


def _clustering(c: unlabelled.ClusterBench) -> Numbers:
    """What the claims without labels are made of, and the encoder's exits."""
    points = unlabelled.clustering_points(c)
    run = unlabelled.clustering_run(c, points)
    affordable = points[points["budget"] <= 0.6]
    logits, _ = collect(c.net, vision.batches(clustering.flat(c.data.test)))
    columns = points[["agreement", "relative_cost", "accuracy", "nmi"]]
    return {
        "whole encoder": [run["accuracy"], run["nmi"]],
        "loss at budget 0.6": run["accuracy"] - affordable["accuracy"].iloc[-1],
        "points": columns.mean().tolist(),
        "logits by exit": logits.mean((1, 2)),
        "normalisers": [head.mean_distance.mean() for head in c.net.exits],
    }
