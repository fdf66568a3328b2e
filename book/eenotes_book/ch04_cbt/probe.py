"""The probe of chapter 4: both segmentation networks, trained for a few steps on drawn scenes.

Then all that the chapter does with them: statistics, thresholds, budgets, skipping and its MACs.
A set of drawn logits stands for plain classification.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from eenotes.rules import PerClass
from eenotes_book import probes
from eenotes_book.ch04_cbt import bench, clock, experiment, leads, one_image, tables
from eenotes_book.ch04_cbt.probe_of_samples import plain_samples, ties
from eenotes_book.ch04_cbt.settings import Convolutional, Settings, Transformer
from eenotes_book.data import scenes
from eenotes_book.models import segmentation, segmentation_training, token_vit
from eenotes_book.probes import digest

# A few steps leave the exits unsure: their logits are multiplied, or nothing would stop.
SHARP = 10.0
SETTINGS = Settings(
    data="drawn",
    train=8,
    val=3,
    test=3,
    thresholds=[0.6, 0.9],
    budgets=[0.6, 0.8],
    shares=[0.3, 0.8],
    timing_batch=2,
    conv=Convolutional(
        channels=8,
        blocks=[1, 2, 1],
        dilations=[1, 1, 2],
        epochs=2,
        batch_size=2,
        learning_rate=0.02,
    ),
    vit=Transformer(
        channels=12, layers=[1, 2, 1], heads=3, epochs=2, batch_size=2, learning_rate=0.02
    ),
)


def probe() -> dict[str, object]:
    """The numbers of the chapter's experiment in miniature, by name."""
    data = _doubled(bench.data_of(SETTINGS))
    b, other = (_sharpened(bench.conv_bench(data, SETTINGS, seed=seed)) for seed in (0, 1))
    v = _sharpened(bench.vit_bench(data, SETTINGS))
    return {
        **_of_data(data),
        **_of_training(b, v),
        **_of_statistics(b),
        **_of_runs(b, other),
        **_of_choices(b),
        **_of_skipping(b),
        **_of_clock(b),
        **_of_tokens(v),
        **_of_pictures(b),
        **_of_variants(b),
        **plain_samples(),
        **ties(),
    }


def _of_data(data: scenes.Scenes) -> dict[str, object]:
    """The drawn scenes: pixels, classes, weights of the classes."""
    labels, K = data.train.tensors[1], len(data.classes)
    middle = scenes.at_places(labels, (16, 24))
    return {
        "data.images": [digest(split.tensors[0]) for split in (data.train, data.val, data.test)],
        "data.scaling": digest(100 * torch.cat([data.mean, data.std])),
        "data.classes": digest(_class_counts(labels, K)),
        "data.places": digest(_class_counts(middle, K)),
        "data.weights": digest(segmentation_training.class_weights(labels, num_classes=K)),
    }


def _of_training(b: bench.Bench, v: bench.Bench) -> dict[str, object]:
    """Logits of the trained networks and their losses; what the masks of training do."""
    x, y = b.data.train.tensors
    weights = segmentation_training.class_weights(y, num_classes=b.num_classes)
    with torch.no_grad():
        logits = [digest(torch.stack(b.net(x))), digest(torch.stack(v.net(x)))]
        masked = b.net(x, stop=torch.full((len(x),), 0.9))
        torch.manual_seed(1)
        plain = [segmentation_training.exits_loss(one.net, (x, y)) for one in (b, v)]
        torch.manual_seed(1)
        loss = [segmentation_training.masked_loss(b.net, (x, y), weights=weights)]
        torch.manual_seed(1)
        loss += [segmentation_training.masked_loss(v.net, (x, y))]
        torch.manual_seed(1)
        moved, shown = segmentation_training.varied((x, y))
    return {
        "training.logits": logits,
        "training.masked_logits": digest(torch.stack(masked)),
        "training.exits_loss": plain,
        "training.masked_loss": loss,
        "training.varied": [*digest(moved), *digest(shown)],
    }


def _of_statistics(b: bench.Bench) -> dict[str, object]:
    """Margins and thresholds of the classes."""
    table = tables.margin_table(b)
    alpha, beta = experiment.NAMED
    apart = b.statistics.thresholds(alpha=alpha, beta=beta, shared=False)
    columns = ("own margin", "threshold", "own threshold", "share")
    return {
        "statistics.margin": _percent(table["margin"]),
        **{f"statistics.{name}": digest(_percent(table[name])) for name in columns},
        "statistics.threshold_ns": digest(100 * apart),
        "statistics.taken_for": digest([b.data.classes.index(k) for k in table["taken for"]]),
        "statistics.confused": int(table["confused"].sum()),
    }


def _of_runs(b: bench.Bench, other: bench.Bench) -> dict[str, object]:
    """Two seeds of the convolutional network: rules, budgets, leads."""
    runs = [_conv_run(one) for one in (b, other)]
    first, second = (run["anytime"] for run in runs)
    single, cbt_named = experiment.single(), experiment.cbt_of(experiment.NAMED)
    named = first[cbt_named]
    found = {
        "run.rank": [run["rank"] for run in runs],
        **{f"run.{name}": _at_last(score) for name, score in first.items()},
        "run.exits": digest([_percent(s["miou"] + s["cost"]) for s in first.values()]),
        "run.left": _percent(named["left"]),
        "run.iou": digest(_percent(named["iou"])),
        "run.recall": digest(_percent(named["recall"])),
        "run.singles": digest(_percent(runs[0]["singles"]["miou"] + runs[0]["singles"]["cost"])),
        "run.other": [_at_last(second[name]) for name in (single, cbt_named)],
    }
    for method, points in runs[0]["budgets"].items():
        rows = [_percent([p["budget"], p["val_miou"], p["miou"], p["cost"]]) for p in points]
        found[f"run.budgets.{method}"] = digest(rows)
    for method in experiment.BUDGET_METHODS[1:]:
        found[f"run.lead.{method}"] = _lead(leads.leads(runs, method))
    over_exits = leads.leads(runs, "one per exit and class", "one per exit")
    return found | {"run.lead.classes_over_exits": _lead(over_exits)}


def _of_choices(b: bench.Bench) -> dict[str, object]:
    """The thresholds that each way of spending a budget chooses."""
    found = {"choice.halfway": _percent(experiment.affordable(b, [0.01]))}
    for name, choice in experiment.choices(b, 0.75).items():
        chosen = [choice.alpha, choice.beta, choice.price]
        found[f"choice.{name}"] = [
            *digest(100 * choice.thresholds),
            *[10 * value for value in chosen if value is not None],
        ]
    return found


def _of_skipping(b: bench.Bench) -> dict[str, object]:
    """What skipping gives and costs, sparse, dense and by definition."""
    x, rule = b.data.test.tensors[0], _named_rule(b)
    outs = {mode: b.net.segment(x, rule, mode=mode) for mode in ("auto", "sparse", "dense")}
    defined = segmentation.dense_then_mask(b.net, x, rule)
    plans = [clock.share_plan(b, x, share) for share in (0.65, 0.75)]
    around = [b.net.segment(x, None, exit_index=plan) for plan in plans]  # either side of crossover
    return {
        **{f"skip.{name}": digest(torch.stack(out.logits)) for name, out in outs.items()},
        "skip.defined": digest(torch.stack(defined.logits)),
        "skip.macs": outs["sparse"].macs / 1e4,
        "skip.spent": [out.spent / 1e4 for out in outs.values()],
        "skip.crossover": [out.spent / 1e4 for out in around],
        "skip.costs": digest([macs / 1e4 for macs in (*b.costs.stages, *b.costs.exits)]),
    }


def _of_clock(b: bench.Bench) -> dict[str, object]:
    """The clock without its times: MACs saved, the plain backbone, where two lines cross."""
    times = {"share": [0.1, 0.3, 0.6], "sparse": [0.5, 0.8, 1.4], "dense": [1.0, 0.9, 0.8]}
    shares = clock.crossover(b, SETTINGS.shares, batch=SETTINGS.timing_batch)
    return {
        "clock.conv": _macs_saved(b, _named_rule(b)),
        "clock.shares": _percent(shares["MACs"]),
        "clock.crossing": clock.crossing(pd.DataFrame(times)),
        "clock.break_even": clock.break_even(pd.DataFrame(times | {"MACs": [0.3, 0.5, 0.7]})),
        "clock.backbone": digest(clock.backbone(b.net, b.data.test.tensors[0])),
    }


def _of_tokens(v: bench.Bench) -> dict[str, object]:
    """The transformer: scores of its rules, its MACs, and skipping against the definition."""
    scores, x = experiment.vit_run(v)["anytime"], v.data.test.tensors[0]
    alpha, beta = experiment.TOKEN_PAIRS[0]
    rule = v.statistics.rule(alpha=alpha, beta=beta)
    out, defined = v.net.segment(x, rule), token_vit.dense_then_mask(v.net, x, rule)
    return {
        **{f"vit.{name}": _at_last(score) for name, score in scores.items()},
        "vit.exits": digest([_percent(s["miou"] + s["cost"]) for s in scores.values()]),
        "vit.left": digest([_percent(s["left"]) for s in scores.values()]),
        "vit.skip": digest(torch.stack(out.logits)),
        "vit.defined": digest(torch.stack(defined.logits)),
        "vit.margins": digest(100 * v.statistics.margins()),
        "vit.macs": out.macs / 1e4,
        "vit.costs": digest([macs / 1e4 for macs in (*v.costs.stages, *v.costs.exits)]),
        "clock.vit": _macs_saved(v, rule),
    }


def _of_pictures(b: bench.Bench) -> dict[str, object]:
    """What the chapter shows of one image, and who pays."""
    index, rules = one_image.richest(b), experiment.named_rules(b)
    look, maps = one_image.first_look(b, index), one_image.on_one_image(b, index, rules)
    scores = {name: experiment.evaluate(b, rule).plain for name, rule in list(rules.items())[1:4]}
    pay = tables.pay_table(b, scores, reference=f"single {experiment.SINGLE}")
    active = [active.mean() for steps in maps.values() for _, active in steps]
    return {
        "picture.richest": index,
        "picture.look": _percent([look["sure"].mean(), look["sure"][look["differ"]].mean()]),
        "picture.active": digest(_percent(active)),
        "picture.pay": digest(pay.fillna(0).iloc[:, 1:].to_numpy(dtype=float).tolist()),
    }


def _of_variants(b: bench.Bench) -> dict[str, object]:
    """The reader's questions: margins of the own class, and other fillings."""
    alpha, beta = experiment.NAMED
    own = b.statistics.rule(alpha=alpha, beta=beta, margin="own")
    few = replace(b, data=replace(b.data, test=Subset(b.data.test, range(2))))
    found = {"variant.own": _at_last(vars(experiment.evaluate(few, own)))}
    usual = b.net.sharpness
    for kappa in (0.0, 3.0):
        b.net.sharpness = kappa
        found[f"variant.kappa{kappa:g}"] = _at_last(
            vars(experiment.evaluate(b, _named_rule(b), split="val"))
        )
    b.net.sharpness = usual
    return found


def _doubled(data: scenes.Scenes) -> scenes.Scenes:
    """The same scenes with images in float64."""
    splits = {}
    for name in ("train", "val", "test"):
        x, y = getattr(data, name).tensors
        splits[name] = TensorDataset(x.double(), y)
    return replace(data, **splits)


def _sharpened(b: bench.Bench) -> bench.Bench:
    """The bench with the logits of every exit multiplied by `SHARP`, and its statistics."""
    with torch.no_grad():
        for j in range(b.net.num_exits):
            head = b.net.parts(j)[1]
            last = head if isinstance(head, torch.nn.Conv2d) else head[-1]
            last.weight.mul_(SHARP), last.bias.mul_(SHARP)
    with probes.default_dtype(torch.float32):  # that of class means
        b.statistics  # noqa: B018
    return b


def _conv_run(b: bench.Bench) -> dict:
    """One seed of the convolutional network, as the chapter and the study have it."""
    curve = experiment.singles(b, SETTINGS.thresholds)
    return experiment.conv_run(b, SETTINGS.budgets, experiment.anytime(b), curve)


def _class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Samples of each class and, last, of none."""
    inside = labels[labels != scenes.IGNORE].flatten().long()
    counts = torch.bincount(inside, minlength=num_classes)
    return torch.cat([counts, torch.tensor([labels.numel() - len(inside)])])


def _named_rule(b: bench.Bench) -> PerClass:
    """The chapter's CBT rule, with the first of its pairs."""
    alpha, beta = experiment.NAMED
    return b.statistics.rule(alpha=alpha, beta=beta)


def _macs_saved(b: bench.Bench, rule: PerClass) -> float:
    """The MACs of the backbone over those of the masked network, which go with the clock."""
    return clock.speed(b, rule, batch=SETTINGS.timing_batch)["macs"]


def _at_last(score: dict) -> list[float]:
    """Mean IoU and cost at the last exit, in percent."""
    return _percent([score["miou"][-1], score["cost"][-1]])


def _percent(values: Sequence[float | None]) -> list[float]:
    """Times 100; -1 for a class that does not occur."""
    return [-1.0 if value is None else 100 * float(value) for value in values]


def _lead(table: pd.DataFrame) -> list[float]:
    """Mean of a lead over all budgets, and half its band, in points."""
    return _percent([table["mean"].mean(), (table["high"] - table["low"]).mean() / 2])
