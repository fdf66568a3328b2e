"""Chapter 2, with labels: E²CM against trained exits under a budget, and without one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor

from eenotes import training
from eenotes.class_statistics import ClassMeans
from eenotes.costs import count_macs
from eenotes.cutting import split
from eenotes.exits import ClassMeanExit, linear_exits
from eenotes.inference import collect
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Entropy, ScoreRule
from eenotes.thresholds import draw_thresholds, evaluate, sweep, thresholds_for_budgets
from eenotes_book import cache, scale
from eenotes_book.data import vision
from eenotes_book.models.resnet import CifarResNet

SDN_GRID = 4  # the authors' exits see each feature map as 4 × 4 averages


WHITENED = "E²CM, whitened"


@dataclass
class Bench:
    """A data set, a backbone trained on it, its stages, and the recipe it was trained by."""

    data: vision.Vision
    backbone: CifarResNet
    stages: torch.nn.ModuleList
    s: SimpleNamespace
    seed: int

    @cached_property
    def class_means(self) -> EarlyExitNetwork:
        """E²CM on the trained backbone: two passes over the training set, no gradient."""
        return e2cm.fit(
            self.stages, vision.batches(self.data.train), num_classes=len(self.data.classes)
        )

    @cached_property
    def whitened(self) -> EarlyExitNetwork:
        """E²CM on whitened features: one pass over the training set, no gradient, and exits of
        SDN's form.
        """
        return e2cm.fit_whitened(
            self.stages,
            vision.batches(self.data.train),
            num_classes=len(self.data.classes),
            grid=SDN_GRID,
        )

    @cached_property
    def accuracy(self) -> float:
        """The backbone's on the test split."""
        logits, labels = collect(
            EarlyExitNetwork([self.backbone], []), vision.batches(self.data.test)
        )
        return (logits[0].argmax(1) == labels).double().mean().item()


def bench(name: str, s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """Load a data set and train its backbone, or take it from the cache."""
    data = vision.load(name, train=s.train, val=s.val, test=s.test)
    backbone = _resnet(data, s, seed)
    training.fit(
        backbone,
        data.train,
        loss=training.classification_loss,
        **_recipe(data, s, seed),
        epochs=s.epochs,
        checkpoint=cache.network(f"{name}-backbone", seed=seed, data=name, **_facts(s)),
        title=f"{name}: backbone",
    )
    return Bench(data, backbone, split(backbone, at=backbone.exit_points), s, seed)


def shallow_deep_network(b: Bench, *, epochs: int = 1, grid: int = SDN_GRID) -> EarlyExitNetwork:
    """SDN (Kaya et al., 2019): linear exits, on grid × grid averages of each feature map, trained
    on the frozen backbone.
    """
    net = _with_linear_exits(b.stages, b, grid=grid)
    training.fit(
        net,
        b.data.train,
        part=net.exits,
        loss=training.exits_loss,
        **_recipe(b.data, b.s, b.seed),
        epochs=epochs,
        checkpoint=cache.network(
            f"{b.data.name}-sdn{epochs}-grid{grid}", seed=b.seed, data=b.data.name, **_facts(b.s)
        ),
        title=f"{b.data.name}: SDN",
    )
    return net


def branchy_network(b: Bench, *, epochs: int = 1) -> EarlyExitNetwork:
    """BranchyNet (Teerapittayanon et al., 2016): a new backbone and linear exits, trained jointly
    from scratch.
    """
    backbone = _resnet(b.data, b.s, b.seed)
    net = _with_linear_exits(split(backbone, at=backbone.exit_points), b)
    training.fit(
        net,
        b.data.train,
        loss=training.joint_loss,
        **_recipe(b.data, b.s, b.seed),
        epochs=epochs,
        checkpoint=cache.network(
            f"{b.data.name}-branchy{epochs}", seed=b.seed, data=b.data.name, **_facts(b.s)
        ),
        title=f"{b.data.name}: BranchyNet",
    )
    return net


def rule_of(method: str, net: EarlyExitNetwork) -> ScoreRule:
    """The rule that the method's authors use, its thresholds still open."""
    return Entropy(0.0) if method == "BranchyNet" else e2cm.rule(net)


def operating_points(
    method: str, net: EarlyExitNetwork, data: vision.Vision, *, draws: int, seed: int = 0
) -> pd.DataFrame:
    """Thresholds chosen on validation for each budget, and what they give on test.

    Returns:
        One row per budget that the method can keep: ``budget``, ``thresholds``, ``val_accuracy``,
        and on test ``accuracy``, ``relative_cost``, ``overhead``, ``left``.
    """
    rule, costs = rule_of(method, net), count_macs(net, _sample(net, data))
    chosen = thresholds_for_budgets(
        *collect(net, vision.batches(data.val)), rule, costs, draws=draws, seed=seed
    )
    logits, labels = collect(net, vision.batches(data.test))
    found = [
        evaluate(logits, labels, replace(rule, thresholds=vector), costs)
        for vector in chosen.thresholds
    ]
    return (
        chosen[["budget", "thresholds"]]
        .assign(val_accuracy=chosen.accuracy)
        .join(pd.DataFrame(found))
    )


def one_epoch(b: Bench) -> dict[str, EarlyExitNetwork]:
    """E²CM plain and whitened, SDN and BranchyNet, each given one epoch over the training set
    (E²CM: forward passes and nothing else).
    """
    return {
        "E²CM": b.class_means,
        WHITENED: b.whitened,
        "SDN": shallow_deep_network(b),
        "BranchyNet": branchy_network(b),
    }


def unlimited(b: Bench, *, epochs: int) -> dict[str, EarlyExitNetwork]:
    """SDN trained for several epochs, alone and together with E²CM."""
    trained = shallow_deep_network(b, epochs=epochs)
    return {"SDN": trained, "E²CM + SDN": e2cm.combine(b.class_means, trained)}


def curves(b: Bench, nets: dict[str, EarlyExitNetwork], *, draws: int) -> dict[str, pd.DataFrame]:
    """The `operating_points` of several methods on one data set."""
    return {
        name: operating_points(name, net, b.data, draws=draws, seed=b.seed)
        for name, net in nets.items()
    }


def comparison(b: Bench, *, draws: int, epochs: int) -> dict:
    """One run of both comparisons on one data set, as plain numbers: what a chapter draws and a
    study repeats.
    """
    results = {"one epoch": curves(b, one_epoch(b), draws=draws)}
    # whitened class means need no training, and are the same without a budget
    results["unlimited"] = curves(b, unlimited(b, epochs=epochs), draws=draws) | {
        WHITENED: results["one epoch"][WHITENED]
    }
    points = {
        kind: {name: _plain(table) for name, table in tables.items()}
        for kind, tables in results.items()
    }
    return {
        "data": b.data.name,
        "counts": b.data.counts,
        "seed": b.seed,
        "backbone": b.accuracy,
        **points,
    }


def table_of(runs: Sequence[dict], kind: str, method: str) -> pd.DataFrame:
    """Mean and standard deviation over runs of one method's operating points, one row per budget
    that every run keeps.
    """
    rows = pd.concat(pd.DataFrame(run[kind][method]) for run in runs).groupby("budget")
    table = (
        rows[["accuracy", "relative_cost", "overhead"]]
        .mean()
        .join(rows["accuracy"].std().rename("spread"))
    )
    return table[rows.size() == len(runs)].reset_index()


def tables(runs: Sequence[dict], kind: str) -> dict[str, pd.DataFrame]:
    """`table_of` for every method of one comparison."""
    return {method: table_of(runs, kind, method) for method in runs[0][kind]}


def overhead_table(b: Bench) -> pd.DataFrame:
    """MACs per image of each stage, and of the two kinds of exit test after it; indexed by exit
    point.
    """
    sample, linear = _sample(b.class_means, b.data), _with_linear_exits(b.stages, b).eval()
    averages, trained = count_macs(b.class_means, sample), count_macs(linear, sample)
    columns = {"stage": averages.stages[:-1], "E²CM": averages.exits, "SDN": trained.exits}
    return pd.DataFrame(columns, index=b.backbone.exit_points)


@torch.no_grad()
def separability(b: Bench) -> pd.DataFrame:
    r"""How far apart the class means lie at every layer, measured against the spread within the
    classes.

    Equation (2.1), $\delta / (\delta + \sigma)$, with $\delta$ the distance from a class's mean to
    the nearest other one and $\sigma$ the root mean square distance of its training samples to
    their own mean.  0: the means coincide; 1: the classes are points.

    Returns:
        One row per class (its name), one column per exit point; the last column is the classifier's
        output.
    """
    net = b.class_means
    logits, labels = collect(net, vision.batches(b.data.train))
    heads = [*net.exits, _means_of(logits[-1], labels)]
    distances = [*logits[:-1], heads[-1](logits[-1])]
    columns = {}
    for name, head, negative in zip(
        [*b.backbone.exit_points, "classifier"], heads, distances, strict=True
    ):
        own = negative.gather(1, labels[:, None]).squeeze(1).square()
        within = torch.stack([own[labels == k].mean() for k in range(len(head.means))]).sqrt()
        between = torch.cdist(head.means, head.means).fill_diagonal_(torch.inf).min(1).values
        columns[name] = (between / (between + within)).tolist()
    return pd.DataFrame(columns, index=list(b.data.classes))


def mean_cost_of_draws(
    net: EarlyExitNetwork,
    data: vision.Vision,
    logits: Tensor,
    labels: Tensor,
    rule: ScoreRule,
    *,
    count: int = 300,
) -> dict[str, float]:
    """Mean relative cost over random threshold vectors, for both ways of drawing them."""
    costs = count_macs(net, _sample(net, data))
    ways = {
        how: draw_thresholds(logits, rule, count=count, how=how) for how in ("uniform", "quantile")
    }
    return {
        how: float(sweep(logits, labels, rule, costs, thresholds=drawn).relative_cost.mean())
        for how, drawn in ways.items()
    }


@torch.no_grad()
def walk(net: EarlyExitNetwork, image: Tensor, *, exits: Sequence[int]) -> pd.DataFrame:
    """What the class-mean exits see of one image ``(C, H, W)``: a row per exit and class,
    ``distance`` (d/μ) and ``softmax``.
    """
    logits, rows, rule = net(image[None]), [], e2cm.rule(net)
    for j in exits:
        distance = -logits[j][0] / net.exits[j].mean_distance
        softmax = rule.probabilities(j, logits[j])[0]
        rows += [
            {"exit": j, "class": k, "distance": d.item(), "softmax": softmax[k].item()}
            for k, d in enumerate(distance)
        ]
    return pd.DataFrame(rows)


def confidence_table(logits: Tensor, rule: ScoreRule, *, names: Sequence[str]) -> pd.DataFrame:
    """Spread of the confidences of every early exit:

    ``min``, ``low`` (5 %), ``median``, ``high`` (95 %), ``max``.
    """
    levels = {"min": 0.0, "low": 0.05, "median": 0.5, "high": 0.95, "max": 1.0}
    rows = []
    for j in range(len(logits) - 1):
        confidence = rule.score(j, logits[j]).confidence.double()
        rows.append(
            dict(
                zip(
                    levels,
                    confidence.quantile(confidence.new_tensor(list(levels.values()))).tolist(),
                    strict=True,
                )
            )
        )
    return pd.DataFrame(rows, index=list(names))


def _means_of(features: Tensor, labels: Tensor) -> ClassMeanExit:
    means = ClassMeans(int(labels.max()) + 1).to(features.device)
    means.update(features, labels)
    return ClassMeanExit(means.compute())


def _resnet(data: vision.Vision, s: SimpleNamespace, seed: int) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(
        s.depth, num_classes=len(data.classes), in_channels=data.shape[0], width=s.width
    )


def _with_linear_exits(
    stages: torch.nn.ModuleList, b: Bench, *, grid: int = SDN_GRID
) -> EarlyExitNetwork:
    device = scale.device()
    torch.manual_seed(b.seed)
    exits = linear_exits(
        stages.to(device),
        b.data.train.tensors[0][:2].to(device),
        num_classes=len(b.data.classes),
        grid=grid,
    )
    return EarlyExitNetwork(stages, exits)


def _recipe(data: vision.Vision, s: SimpleNamespace, seed: int) -> dict:
    return {
        "batch_size": s.batch_size,
        "optimizer": partial(training.sgd, lr=s.learning_rate),
        "augment": vision.crop_and_flip if data.name == "CIFAR10" else None,
        "seed": seed,
    }


def _facts(s: SimpleNamespace) -> dict:
    """What a trained network depends on: not the number of test images."""
    return {key: value for key, value in vars(s).items() if key != "test"}


def _sample(net: EarlyExitNetwork, data: vision.Vision) -> Tensor:
    return data.test.tensors[0][:1].to(next(net.parameters()).device)


def _plain(table: pd.DataFrame) -> list[dict]:
    return table[["budget", "accuracy", "relative_cost", "overhead"]].to_dict("records")


def accuracy_at(run: dict, kind: str, method: str, budget: float) -> float:
    return next(row["accuracy"] for row in run[kind][method] if row["budget"] == budget)


def mean(values: Sequence[float]) -> float:
    return float(pd.Series(values).mean())


def spread(values: Sequence[float]) -> float | None:
    return number(pd.Series(values).std())


def number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
