"""Chapter 4: one threshold for all classes, or one for each; a convolutional network and a
transformer that skip what is finished.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from eenotes import training
from eenotes.costs import Costs, count_macs
from eenotes.inference import collect
from eenotes.methods import cbt, cbt_budgets
from eenotes.rules import Confidence, Rule
from eenotes.thresholds import Answers
from eenotes_book import cache, scale, settings
from eenotes_book.ch02_e2cm import experiment
from eenotes_book.data import scenes, vision
from eenotes_book.models import segmentation_training
from eenotes_book.models.progress import resize
from eenotes_book.models.segmentation import SegmentationNetwork
from eenotes_book.models.token_vit import TokenViT

SINGLE = 0.998  # ADP-C's one threshold


PAIRS = ((0.9, 0.998), (0.8, 0.998), (0.7, 0.998))  # the thesis's [alpha, beta]


NEAR = 0.005  # half a point of mean IoU


SAVING = 0.23  # of the one threshold's MACs: what the thesis reports for [.99, .998] on Cityscapes


BUDGET_METHODS = ("one threshold", "one per exit", "CBT", "one per exit and class")


Net = SegmentationNetwork | TokenViT


@dataclass
class Bench:
    """A data set, a segmentation network trained on it, and what the exits say there."""

    data: scenes.Scenes
    net: Net
    s: SimpleNamespace
    seed: int

    @cached_property
    def num_classes(self) -> int:
        return len(self.data.classes)

    @cached_property
    def sample(self) -> Tensor:
        return self.data.test[0][0][None].to(scale.device())

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(h, w), the places of one image."""
        with torch.inference_mode():
            return tuple(self.net(self.sample)[0].shape[2:])

    @cached_property
    def costs(self) -> Costs:
        return count_macs(self.net, self.sample)

    @cached_property
    def statistics(self) -> cbt.Statistics:
        """Over all training images, streamed; a place counts for the pixel in its middle."""
        return cbt.statistics(
            self.answers(self.data.train), num_classes=self.num_classes, ignore_index=scenes.IGNORE
        )

    @cached_property
    def validation(self) -> Answers:
        logits, labels = zip(
            *((torch.stack(z), y) for z, y in self.answers(self.data.val)), strict=True
        )
        logits, labels = (
            torch.cat(logits, 1).movedim(2, -1).flatten(1, -2),
            torch.cat(labels).flatten().long(),
        )
        keep = labels != scenes.IGNORE
        return cbt_budgets.validation(logits[:, keep], labels[keep], self.costs)

    @torch.inference_mode()
    def answers(self, split) -> Iterable[tuple[list[Tensor], Tensor]]:
        """The logits of all exits with nothing left out, and the labels at the places, batch by
        batch.
        """
        for x, y in scenes.batches(split, size=8):
            logits = self.net(x.to(scale.device()))
            yield logits, scenes.at_places(y.to(scale.device()), logits[0].shape[2:])


def data_of(s: SimpleNamespace) -> scenes.Scenes:
    return scenes.load(s.data, train=s.train, val=s.val, test=s.test)


def conv_bench(data: scenes.Scenes, s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """The convolutional network, trained with masks or taken from the cache."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SegmentationNetwork(len(data.classes), channels=s.conv.channels, blocks=s.conv.blocks)
    return _trained(net, "segmentation", segmentation_training.masked_loss, data, s, s.conv, seed)


def vit_bench(data: scenes.Scenes, s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """The transformer, trained or taken from the cache."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TokenViT(
            len(data.classes),
            size=data.size,
            channels=s.vit.channels,
            layers=s.vit.layers,
            heads=s.vit.heads,
        )
    return _trained(net, "token-vit", segmentation_training.exits_loss, data, s, s.vit, seed)


def _trained(
    net: Net,
    name: str,
    loss: training.Loss,
    data: scenes.Scenes,
    s: SimpleNamespace,
    recipe: SimpleNamespace,
    seed: int,
) -> Bench:
    labels = (y for _, y in scenes.batches(data.train))
    weights = segmentation_training.class_weights(labels, num_classes=len(data.classes))
    training.fit(
        net,
        data.train,
        loss=partial(loss, weights=weights),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=partial(training.adamw, lr=recipe.learning_rate),
        seed=seed,
        checkpoint=cache.network(
            name, seed=seed, data=data.name, counts=data.counts, recipe=recipe
        ),
        title=f"{data.name}: {name}",
    )
    return Bench(data, net, s, seed)


@dataclass(frozen=True)
class Score:
    """What a rule gives on a split.

    Args:
        miou: data-set-level mean IoU of the pixels, one number per exit looked at (the last only,
            or all).
        cost: MACs really needed up to those exits, relative to the backbone without exits.
        iou: per class, at the last exit; ``None`` for a class that does not occur.
        recall: per class, the share of its pixels that are right; ``None`` likewise.
        left: the share of places that finish at each exit.
    """

    miou: list[float]
    cost: list[float]
    iou: list[float | None]
    recall: list[float | None]
    left: list[float]

    @property
    def plain(self) -> dict:
        return {
            "miou": self.miou[-1],
            "cost": self.cost[-1],
            "iou": self.iou,
            "recall": self.recall,
            "left": self.left,
        }


def evaluate(b: Bench, rule: Rule, *, split: str = "test", every_exit: bool = False) -> Score:
    """Segment a split with really skipping inference and score it at full resolution."""
    exits = range(b.net.num_exits) if every_exit else [b.net.num_exits - 1]
    device = scale.device()
    metrics = [
        MulticlassJaccardIndex(b.num_classes, ignore_index=scenes.IGNORE, validate_args=False).to(
            device
        )
        for _ in exits
    ]
    macs, left, count = 0.0, torch.zeros(b.net.num_exits, dtype=torch.float64), 0
    for x, y in scenes.batches(getattr(b.data, split), size=4):
        out = b.net.segment(x.to(device), rule)
        for metric, j in zip(metrics, exits, strict=True):
            metric.update(out.labels(y.shape[1:], exit_index=j), y.to(device).long())
        macs, count = macs + out.macs * len(x), count + len(x)
        left += torch.bincount(out.exit_index.flatten(), minlength=b.net.num_exits).cpu()
    confusion = metrics[-1].confmat.double().cpu()
    hit, truth = confusion.diag(), confusion.sum(1)
    cost = macs / count / b.costs.backbone
    return Score(
        miou=[metric.compute().item() for metric in metrics],
        cost=[cost[j].item() for j in exits],
        iou=[number(v) for v in (hit / (truth + confusion.sum(0) - hit)).tolist()],
        recall=[number(v) for v in (hit / truth).tolist()],
        left=(left / left.sum()).tolist(),
    )


def named_rules(b: Bench) -> dict[str, Rule]:
    """The rules of the paper: one threshold, CBT with several [alpha, beta], CBT without sharing."""
    rules: dict[str, Rule] = {f"single {SINGLE}": Confidence(SINGLE)}
    for alpha, beta in PAIRS:
        rules[f"CBT [{alpha}, {beta}]"] = b.statistics.rule(alpha=alpha, beta=beta)
    alpha, beta = PAIRS[0]
    return rules | {
        f"CBT-ns [{alpha}, {beta}]": b.statistics.rule(alpha=alpha, beta=beta, shared=False)
    }


def anytime(b: Bench) -> dict[str, Score]:
    """The paper's comparison: every named rule, at every exit."""
    return {name: evaluate(b, rule, every_exit=True) for name, rule in named_rules(b).items()}


def anytime_table(scores: dict[str, Score]) -> pd.DataFrame:
    """One row per rule: mean IoU (points) at the relative cost, for every exit."""
    rows = {
        name: {
            f"exit {j + 1}": f"{100 * m:.2f} @ {c:.3f}"
            for j, (m, c) in enumerate(zip(score.miou, score.cost, strict=True))
        }
        for name, score in scores.items()
    }
    return pd.DataFrame(rows).T


def singles(b: Bench, thresholds: Sequence[float]) -> pd.DataFrame:
    """One threshold for everything, several values: ``threshold``, ``cost``, ``miou`` on test."""
    scores = [evaluate(b, Confidence(t)) for t in thresholds]
    return pd.DataFrame(
        {
            "threshold": list(thresholds),
            "cost": [s.cost[-1] for s in scores],
            "miou": [s.miou[-1] for s in scores],
        }
    )


def choices(b: Bench, budget: float) -> dict[str, cbt_budgets.Choice]:
    """Four ways to spend a budget, each chosen on the validation images."""
    v = b.validation
    return {
        "one threshold": cbt_budgets.single_for_budget(v, budget=budget),
        "one per exit": cbt_budgets.priced_for_budget(v, budget=budget, per_class=False),
        "CBT": cbt_budgets.scale_for_budget(b.statistics, v, budget=budget),
        "one per exit and class": cbt_budgets.priced_for_budget(v, budget=budget),
    }


def affordable(b: Bench, budgets: Sequence[float]) -> list[float]:
    """The budgets that thresholds of one half and more can keep on validation; if none, one halfway
    between the least cost and 1.
    """
    least = cbt_budgets.cost(b.validation, torch.full((b.num_classes,), 0.5))
    return [budget for budget in budgets if budget >= least] or [(least + max(1.0, least)) / 2]


def at_budgets(b: Bench, budgets: Sequence[float]) -> dict[str, list[dict]]:
    """Method → what its choice for each budget gives on test (`Score.plain`, ``budget``, and
    ``val_miou`` of the choice).
    """
    found: dict[str, list[dict]] = {name: [] for name in BUDGET_METHODS}
    for budget in affordable(b, budgets):
        for name, choice in choices(b, budget).items():
            found[name].append(
                {"budget": budget, "val_miou": choice.score, **evaluate(b, choice.rule).plain}
            )
    return found


def leads(runs: Sequence[dict], method: str, other: str = "one threshold") -> pd.DataFrame:
    """Mean IoU of a method minus that of another at the **same cost**, ``mean`` and ``spread`` over
    runs, per budget.

    The two rarely cost exactly the same on test; the other's curve is interpolated linearly at the
    method's cost.
    """
    rows = []
    for run in runs:
        curve = pd.DataFrame(run["budgets"][other])[["cost", "miou"]]
        # every single threshold that was tried is a point of this curve
        if other == "one threshold":
            curve = pd.concat([curve, pd.DataFrame(run["singles"])[["cost", "miou"]]])
        curve = curve.sort_values("cost", ignore_index=True)
        for row in run["budgets"][method]:
            rows.append(
                {"budget": row["budget"], "lead": row["miou"] - _interpolate(curve, row["cost"])}
            )
    grouped = pd.DataFrame(rows).groupby("budget").lead
    return pd.DataFrame({"mean": grouped.mean(), "spread": grouped.std()}).reset_index()


def _interpolate(curve: pd.DataFrame, cost: float) -> float:
    """Mean IoU of a curve at a cost: linear between its points, and along the nearest pair beyond
    them.
    """
    costs, values = curve.cost.tolist(), curve.miou.tolist()
    if len(costs) == 1:
        return values[0]
    i = min(max(sum(c <= cost for c in costs), 1), len(costs) - 1)
    span = costs[i] - costs[i - 1]
    return (
        values[i]
        if span < 1e-9
        else values[i - 1] + (values[i] - values[i - 1]) * (cost - costs[i - 1]) / span
    )


def margin_table(b: Bench) -> pd.DataFrame:
    """One row per class: share of the training pixels, margins, thresholds for [.9, .998], and
    whether it is taken for another.
    """
    s = b.statistics
    alpha, beta = PAIRS[0]
    return pd.DataFrame(
        {
            "class": b.data.classes,
            "share": (s.counts / s.counts.sum()).tolist(),
            "margin": s.margins().tolist(),
            "own margin": s.margins(margin="own").tolist(),
            "threshold": s.thresholds(alpha=alpha, beta=beta).tolist(),
            "own threshold": s.thresholds(alpha=alpha, beta=beta, margin="own").tolist(),
            "taken for": [b.data.classes[int(k)] for k in s.shared.argmax(1)],
            "confused": [k in s.confused for k in range(b.num_classes)],
        }
    )


def richest(b: Bench) -> int:
    """The test image with the most classes, the first of several: something to look at."""
    kinds = [len(y.unique()) for _, y in (b.data.test[i] for i in range(min(len(b.data.test), 60)))]
    return kinds.index(max(kinds))


def on_one_image(b: Bench, index: int, rules: dict[str, Rule]) -> dict[str, list[tuple]]:
    """A test image under several rules: for each exit the map known after it and where it was
    asked, as `plots.exit_maps` wants them.
    """
    x, y = b.data.test[index]
    found = {}
    for name, rule in rules.items():
        out = b.net.segment(x[None].to(scale.device()), rule)
        maps = [out.labels(y.shape, exit_index=j)[0].cpu().numpy() for j in range(b.net.num_exits)]
        found[name] = [
            (said, (out.exit_index[0] >= j).cpu().numpy()) for j, said in enumerate(maps)
        ]
    return found


def first_look(b: Bench, index: int) -> dict[str, Tensor]:
    """A test image: what exit 1 says of it, how sure it is, and where the last exit says something
    else.
    """
    x, y = b.data.test[index]
    with torch.inference_mode():
        logits = b.net(x[None].to(scale.device()))
    first, last = (resize(z, y.shape)[0].softmax(0).cpu() for z in (logits[0], logits[-1]))
    return {
        "first": first.argmax(0),
        "sure": first.amax(0),
        "last": last.argmax(0),
        "differ": first.argmax(0) != last.argmax(0),
    }


def with_leads(runs: Sequence[dict]) -> list[dict]:
    """The runs, the first with the leads of every method over one threshold, as
    `plots.budget_curves` wants them.
    """
    return [
        {**runs[0], "leads": {method: leads(runs, method) for method in BUDGET_METHODS[1:]}},
        *runs[1:],
    ]


def pay_table(b: Bench, scores: dict[str, dict], *, reference: str) -> pd.DataFrame:
    """Per class: its share of pixels and the change of its IoU against a reference rule, one column
    per rule, in points.
    """
    base = scores[reference]["iou"]
    shares = (b.statistics.counts / b.statistics.counts.sum()).tolist()
    columns = {
        name: [
            float("nan") if None in (a, c) else 100 * (a - c)
            for a, c in zip(score["iou"], base, strict=True)
        ]
        for name, score in scores.items()
        if name != reference
    }
    return pd.DataFrame({"class": b.data.classes, "share": shares, **columns}).sort_values(
        "share", ascending=False, ignore_index=True
    )


def classification(*, alpha: float, beta: float, budget: float) -> pd.DataFrame:
    """CBT for plain classification: chapter 2's network on the digits, with trained exits."""
    b = experiment.bench("digits", settings.load("02-e2cm", "tiny").digits)
    net = experiment.shallow_deep_network(b, epochs=6)
    costs = count_macs(net, b.data.test.tensors[0][:1].to(scale.device()))

    def answers(split) -> Iterable[tuple[list[Tensor], Tensor]]:
        with torch.inference_mode():
            for x, y in vision.batches(split):
                yield net(x.to(scale.device())), y.to(scale.device())

    found = cbt.statistics(answers(b.data.train), num_classes=len(b.data.classes))
    val, test = (
        cbt_budgets.validation(*collect(net, vision.batches(split)), costs)
        for split in (b.data.val, b.data.test)
    )
    rules = {
        f"single {beta}": torch.full((len(b.data.classes),), beta),
        f"CBT [{alpha}, {beta}]": found.thresholds(alpha=alpha, beta=beta),
        f"single for cost {budget}": cbt_budgets.single_for_budget(val, budget=budget).thresholds,
        f"CBT for cost {budget}": cbt_budgets.scale_for_budget(
            found, val, budget=budget
        ).thresholds,
    }
    rows = []
    for name, thresholds in rules.items():
        table = thresholds.expand(len(test.score) - 1, -1)
        prediction, _ = test.outcome(table)
        right = (prediction == test.labels).double().mean().item()
        rows.append({"rule": name, "relative cost": test.cost(table), "accuracy": right})
    return pd.DataFrame(rows)


def conv_run(
    b: Bench, budgets: Sequence[float], scores: dict[str, Score], curve: pd.DataFrame
) -> dict:
    """One seed of the convolutional host, as plain numbers; ``scores`` from `anytime`, ``curve``
    from `singles`.
    """
    return {
        "seed": b.seed,
        "counts": b.data.counts,
        "anytime": {
            name: {"miou": s.miou, "cost": s.cost, "iou": s.iou, "recall": s.recall, "left": s.left}
            for name, s in scores.items()
        },
        "singles": curve.to_dict("list"),
        "budgets": at_budgets(b, budgets),
        "confused": [b.data.classes[k] for k in b.statistics.confused],
        "rank": _rank_correlation(b.statistics.counts, b.statistics.margins()),
    }


def vit_run(b: Bench) -> dict:
    """One seed of the transformer, as plain numbers: single and class thresholds in DToP's range."""
    top = b.s.vit.beta
    rules = {f"single {top}": Confidence(top)}
    rules |= {
        f"CBT [{alpha}, {top}]": b.statistics.rule(alpha=alpha, beta=top)
        for alpha in b.s.vit.alphas
    }
    scores = {name: evaluate(b, rule, every_exit=True) for name, rule in rules.items()}
    return {
        "seed": b.seed,
        "anytime": {
            name: {"miou": s.miou, "cost": s.cost, "iou": s.iou, "left": s.left}
            for name, s in scores.items()
        },
    }


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's."""
    present = a > 0
    return float(
        pd.Series(a[present].tolist()).corr(pd.Series(b[present].tolist()), method="spearman")
    )


def number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
