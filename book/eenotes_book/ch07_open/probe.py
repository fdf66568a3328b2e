"""The probe of chapter 7: its six experiments in miniature, one after the other.

Digits, drawn streets and two small texts; one text is written here, because the manual differs
between versions of Python.
"""

import copy
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eenotes import training
from eenotes.methods import eeprune, pruning
from eenotes.network import EarlyExitNetwork
from eenotes_book import clustering, language_models
from eenotes_book.ch07_open import (
    compact,
    compression,
    dropping,
    networks,
    novelty,
    reward,
    stale,
    streets,
    tables,
    two_sensors,
)
from eenotes_book.data import text, vision
from eenotes_book.language_models import LanguageModel

DIGITS = SimpleNamespace(
    data="digits",
    train=200,
    val=80,
    test=100,
    width=4,
    epochs=2,
    batch_size=20,
    learning_rate=0.1,
    budget=0.6,
    novelty=SimpleNamespace(unknown=3, keep=0.9),
)
ORDER = SimpleNamespace(rate=0.5, bits=[8, 2], epochs=1, batch_size=50, learning_rate=0.05)
STREETS = SimpleNamespace(
    train=8,
    val=4,
    test=4,
    noise=0.08,
    channels=SimpleNamespace(image=8, depth=4),
    blocks=[1, 1, 1],
    epochs=6,
    batch_size=1,
    learning_rate=0.01,
)
BUDGETS = [0.5, 0.8]
CLUSTERS = SimpleNamespace(widths=[16, 16, 4], epochs=2, batch_size=20, steps=10, distortion=0.1)
TEXT = SimpleNamespace(
    hub="",
    vocabulary=320,
    length=16,
    layers=2,
    width=16,
    heads=2,
    at=1,
    phases=[4],
    batch_size=8,
    learning_rate=0.02,
    statistics=60,
)
TUNING = SimpleNamespace(
    train=32, test=16, memory=20, epochs=1, batch_size=8, learning_rate=0.004, looks=[0.0, 0.5, 1.0]
)
REWARD = SimpleNamespace(
    samples=32, prompt=4, new=8, keep=8, rounds=2, epochs=1, batch_size=4, learning_rate=0.003
)
WORDS = (
    ("the dog", "a small bird", "the old cat", "her red fish", "every green frog"),
    ("sees", "finds", "likes", "follows", "hears", "forgets", "calls"),
    ("the tree", "a house", "the river", "an apple", "the stars", "its food", "a boat", "my hat"),
)

HEADS = ("copied head", "old text, before", "new text, before", stale.FRESH, "carried along")

Found = dict[str, float | list[float] | Tensor]


def probe() -> Found:
    """The chapter's experiments in miniature; name → numbers."""
    with _Float64():
        data = networks.load(DIGITS)
        b = networks.trained(data, DIGITS, seed=1)
        few, _ = novelty.hold_out(data, range(3, 10))
        lm = language_models.trained(TEXT, data=_text(), seed=0)
        factor = stale.n0_factor(lm)
        found = _novelty(data)
        found |= _trained(b) | _compact(b) | _rounding()
        found |= _order(b) | _compressed(b)
        found |= _streets()
        found |= _clusters(few) | _reading(lm, factor)
        found |= _exits(lm, factor) | _tuning(lm, factor) | _reward(lm, factor)
    return found


class _Float64(TorchFunctionMode):
    """Where code asks for float32, it gets float64.

    Class means do not work otherwise when float64 is the default, and a processor that multiplies
    bfloat16 would train float32 networks in it.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call the function with float64 in place of float32."""
        func = torch.Tensor.double if func is torch.Tensor.float else func
        named = {name: _wider(value) for name, value in kwargs.items()} if kwargs else {}
        return func(*map(_wider, args), **named)


def _wider(value):
    return torch.float64 if value is torch.float32 else value


# ------------------------------------------------------------------------------------ 1: open world


def _novelty(data: vision.Vision) -> Found:
    """One split into known and unknown classes: scores, AUROC, and the gate."""
    run = novelty.novelty_run(data, DIGITS, seed=2)
    unknown = [data.classes.index(name) for name in run["unknown"]]
    known, strangers = novelty.hold_out(data, unknown)
    n = novelty.Novelty(networks.trained(known, DIGITS, seed=2))  # from the cache
    rule = compact.rule_for_budget(n.network.class_means, known, budget=DIGITS.budget)
    distance, softmax = run["gate"]["distance"], run["gate"]["softmax"]
    return {
        "1: unknown classes": unknown,
        "1: split": [_place(known.train.tensors[1]), _place(strangers.tensors[1])],
        **_scores(n, strangers.tensors[0]),
        **{f"1: AUROC of {_named(name)}": _mean(each) for name, each in run["auroc"].items()},
        "1: AUROC of the last exit": run["final"],
        "1: AUROC with ties": novelty.auroc(torch.tensor([2.0, 3, 5]), torch.tensor([4.0, 1, 2])),
        "1: gate on the distance: accuracy": [distance["accuracy"], distance["accuracy_open"]],
        "1: gate on the distance: shares": [distance["refused"], distance["rejected"]],
        "1: gate on the softmax: shares": [softmax["refused"], softmax["rejected"]],
        "1: gate_costs": _flat(tables.gate_costs([run])),
        "1: thresholds": rule.thresholds,
        "claim 1a: leads by exit": _flat(tables.novelty_leads([run])),
        "claim 1b: extra cost": distance["unknown_open"] - distance["known_open"],
    }


def _scores(n: novelty.Novelty, x: Tensor) -> Found:
    """The mean of every score on unknown images, and the size of the whitening."""
    found = {f"1: mean of {_named(name)}": _mean(each) for name, each in n.scores(x).items()}
    return found | {
        "1: whitened axes": _norm(matrix for matrix, _ in n.whitened),
        "1: whitened means": _norm(head.means for _, head in n.whitened),
    }


def _named(measure: str) -> str:
    return measure.replace("E²CM confidence", "the scaled confidence")


# --------------------------------------------------------------------------------- 2: compact means


def _trained(b: networks.TrainedNetwork) -> Found:
    """The network of all digits, and class means on its stages."""
    exits = b.class_means.exits
    return {
        "2: loss by exit": _losses(_logits(b.net, b), b.data.test.tensors[1]),
        "2: weights": _norm(b.net.parameters()),
        "2: class means": _norm(head.means for head in exits),
        "2: mean distances": _norm(head.mean_distance for head in exits),
    }


def _compact(b: networks.TrainedNetwork) -> Found:
    """Exits that are pooled and rounded, and what they can do within the budget."""
    table = compact.compact_table(b, grids=[4, 2, 1], bits=[32, 4], budget=DIGITS.budget)
    found = {f"2: {name}": _mean(table[name]) for name in ("bytes", "macs", "exits", "overhead")}
    for grid, bits in ((2, 4), (1, 1)):
        exits = compact.compact(b, grid=grid, bits=bits).exits
        found[f"2: means, grid {grid}, {bits} bits"] = _norm(head.means for head in exits)
        found[f"2: distances, grid {grid}, {bits} bits"] = _norm(h.mean_distance for h in exits)
    return found | {
        "2: accuracy": table["accuracy"].tolist(),
        "2: relative cost": table["relative_cost"].tolist(),
        "claim 2: loss": tables.compact_loss(table, grid=2, bits=4).tolist(),
    }


def _rounding() -> Found:
    """Drawn numbers with tails from short to long, rounded: their steps, and what is lost."""
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    x = x.sign() * (x / x.abs().amax(1, keepdim=True)).abs() ** torch.linspace(0.2, 5, 64)[:, None]
    found = {}
    for bits in (1, 2, 4, 8):
        lost = (compact.quantise(x, bits=bits) - x).square().mean()
        found[f"2: rounded to {bits} bits"] = [compact.best_step(x, bits=bits).mean(), lost]
    return found


# ----------------------------------------------------------------------- 3: the order of operations


def _order(b: networks.TrainedNetwork) -> Found:
    """The accuracy of every order; not the size of a compressed file."""
    table = compression.order_table(b, ORDER)
    high, low = (tables.order_groups(table, bits) for bits in ORDER.bits)
    return {
        "3: accuracy": _place(torch.tensor(table["mean"].tolist())),
        "3: accuracy by exit": table[[f"exit {j}" for j in (1, 2, 3, 4)]].mean().tolist(),
        "3: groups, 8 bits": _flat(high[["before", "after", "PQD", "PQC"]]),
        "3: groups, 2 bits": _flat(low[["before", "after", "PQD", "PQC"]]),
        "claim 3a: range": high["range"].tolist(),
        "claim 3b: gain": (low["before"] - low["after"]).tolist(),
        "claim 3c: gain": (high["PQD"] - high["PQC"]).tolist(),
    }


def _compressed(b: networks.TrainedNetwork) -> Found:
    """Some of the compressed networks from inside, and the loss of distillation."""
    nets, made = {}, {}
    for order in ("PQD", "PQC", "QP"):
        nets[order] = compression.compressed(b, order, ORDER, bits=2, made=made)
    nets["Q, P behind"] = copy.deepcopy(made["Q", 2])
    compression.prune_behind(pruning.layers(nets["Q, P behind"]).values(), rate=ORDER.rate)
    found = {}
    for name, net in nets.items():
        weights = [module.weight for module in pruning.layers(net).values()]
        zeros = [(weight == 0).double().mean() for weight in weights]
        losses = _losses(_logits(net, b), b.data.test.tensors[1])
        found[f"3: {name}: loss, weights, zeros"] = [_mean(losses), _norm(weights), _mean(zeros)]
    batch = b.data.test.tensors
    losses = [
        loss(b.net, batch).item() for loss in (compression.distillation_loss, training.joint_loss)
    ]
    return found | {"3: distillation loss, joint loss": losses}


# ---------------------------------------------------------------------- 4: an image and a depth map


def _streets() -> Found:
    """Two networks on drawn streets, and cascades over both."""
    v = streets.senses(STREETS, seed=1)
    iou, costs = two_sensors.class_table(v), two_sensors.source_costs(v)
    whole = float(iou["image 3"].mean())
    enough = two_sensors.sufficient(iou, costs)
    plans = two_sensors.plan_table(v, BUDGETS, ["image", "depth first"])
    reached = tables.cheapest_as_good(plans, whole)
    return {
        **_scenes(),
        **_seen(v),
        "4: IoU by source": iou.mean().tolist(),
        "4: costs": costs.tolist(),
        "4: sufficient": [_position(name, iou.columns) for name in enough],
        "4: cost of plans": plans["cost"].tolist(),
        "4: mean IoU of plans": plans["miou"].tolist(),
        "4: leaving": two_sensors.exit_shares(v, "image first", BUDGETS[1]).mean().tolist(),
        "claim 4a: leads": tables.class_leads(plans).tolist(),
        "claim 4b: whole network, cost": [whole, -1.0 if reached is None else reached],
    }


def _scenes() -> Found:
    """Scenes with their depth maps."""
    images, depths, labels = streets.draw_measured(2, seed=7, noise=STREETS.noise)
    return {
        "4: images": _place(images),
        "4: depth maps": [depths.mean(), depths.std()],
        "4: labels": _place(labels),
    }


def _seen(v: streets.Senses) -> Found:
    """What the exits of both networks say of the truth, and a cascade over both."""
    found = {}
    known, labels = v.seen("test")
    for m, logits in known.items():
        found[f"4: {m}: weights"] = _norm(v.nets[m].parameters())
        found[f"4: {m}: loss by exit"] = _losses(logits, labels)
    logits, costs = two_sensors.cascade(v.seen("val")[0], v.costs, two_sensors.PLANS["depth first"])
    sure = logits.softmax(2).amax(2).mean(1)
    return found | {
        "4: asked: confidence": _place(sure),
        "4: asked: MACs": _place(costs.cumulative),
    }


def _position(name: str, names: pd.Index) -> int:
    return list(names).index(name) if name in names else -1


# ---------------------------------------------------------------------- 5: dropping points and rows


def _clusters(data: vision.Vision) -> Found:
    """Three digits clustered, and clustered again without some points."""
    table = dropping.cluster_runs(data, CLUSTERS, ratio=0.5, seeds=2)
    x = clustering.flat(data.train).tensors[0]
    everything = torch.arange(len(x))
    net = dropping.clustered(x, CLUSTERS, rows=everything, num_clusters=3, seed=1)  # from the cache
    values = dropping.agreement(net, x, exit_index=eeprune.middle(net))
    left = [dropping.drop_rows(values, 0.4, how, seed=1) for how in dropping.KEPT]
    return {
        "5: points agreed on": [values.mean(), _place(values)],
        "5: points left": [_place(rows) for rows in left],
        "5: logits of clusters": [z.detach().mean() for z in net(x)],
        "5: sizes of clusters": dropping.assignments(net, x).bincount().sort().values,
        "5: clustering accuracy": table["accuracy"].tolist(),
        "5: agree": table["agree"].dropna().tolist(),
        "claim 5a: lead": tables.kept_leads(table, "accuracy"),
    }


def _reading(lm: LanguageModel, factor: float) -> Found:
    """A small language model, how it agrees with its exit, and fresh models on part of the text."""
    head = dropping.class_mean_exit(lm, factor)
    agreed = dropping.row_agreement(lm, head)
    table = dropping.reading_runs(lm, agreed, ratio=0.5, seeds=1, reads=48)
    return {
        "5: text": [lm.text.vocabulary, _place(lm.text.train), _place(lm.text.test)],
        "5: language model": [lm.final["accuracy"], lm.final["perplexity"]],
        "5: factor of the noise": factor,
        "5: class-mean exit": [head[0].norm(), head[1].mean()],
        "5: rows agreed on": [agreed.mean(), _place(agreed)],
        "5: perplexity": table["perplexity"].tolist(),
        "5: accuracy": _mean(table["accuracy"]),
        "claim 5b: lead": tables.kept_leads(table, "perplexity"),
    }


def _text() -> text.Text:
    """Sentences of a few words, in tokens; the same with every Python."""
    drawn = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randint(len(w), (400,), generator=drawn) for w in WORDS], 1)
    sentences = [" ".join(w[i] for w, i in zip(WORDS, row, strict=True)) for row in rows.tolist()]
    whole = "".join(f"{sentence}.\n" for sentence in sentences)
    tokenizer = text.train_tokenizer(whole, vocabulary=TEXT.vocabulary)
    ids = torch.tensor(tokenizer.encode(whole).ids)
    rows = ids[: len(ids) // TEXT.length * TEXT.length].view(-1, TEXT.length)
    splits = {"train": rows[:96], "val": rows[96:120], "test": rows[120:152]}
    return text.Text("sentences", **splits, tokenizer=tokenizer, digest="sentences")


# ----------------------------------------------------------------- 6: exits of a model that changes


def _exits(lm: LanguageModel, factor: float) -> Found:
    """The other text, and the heads for it after the means were carried along one batch."""
    rows, held = stale.other_text(lm, train=TUNING.train, test=TUNING.test)
    memory = TUNING.memory
    ways = stale.exits_of(lm.model, lm, rows, factor=factor, memory=memory)
    ways.carried.update(ways.new.class_means[:12] + 1, torch.arange(12) // 2 * 2 + 30)
    heads = ways.heads(ways.old)
    return {
        "6: other text": [_place(rows), _place(held)],
        "6: weights of heads": [_norm([heads[name][0]]) for name in HEADS],
        "6: biases of heads": [heads[name][1].mean() for name in HEADS],
        "6: carried": [ways.carried.means.norm(), ways.carried.counts.sum()],
        "6: from text to text": stale.moved(ways.new, ways.old),
    }


def _tuning(lm: LanguageModel, factor: float) -> Found:
    """Fine-tuning on the other text: the exit while the model changes."""
    table = stale.tuning_run(lm, TUNING, factor=factor, seed=1)
    end = tables.last_look(table, "samples", "accuracy")
    looks = table.groupby("samples")
    return {
        "6: tuning: samples": list(looks.groups),
        "6: tuning: exit": looks["accuracy"].mean().tolist(),
        "6: tuning: exit at the end": [end[name].item() for name in HEADS],
        "6: tuning: final head": _mean(table["final"]),
        "6: tuning: moved": looks["moved"].mean().tolist(),
        "claim 6a: gap": (end[stale.FRESH] - end["new text, before"]).tolist(),
        "claim 6b: gap": (end[stale.FRESH] - end["carried along"]).tolist(),
    }


def _reward(lm: LanguageModel, factor: float) -> Found:
    """Training on what a reward likes, and the exit that was set before."""
    table = reward.reward_run(lm, REWARD, factor=factor, seed=1)
    end = tables.last_look(table, "round", "agreement")
    rounds = table.groupby("round")
    return {
        "6: rewarded tokens": _place(reward.word_reward(lm)),
        "6: reward: agreement": rounds["agreement"].mean().tolist(),
        "6: reward: agreement at the end": [end[name].item() for name in ("copied head", "before")],
        "6: reward: reward": rounds["reward"].mean().tolist(),
        "6: reward: moved": rounds["moved"].mean().tolist(),
        "claim 6c: gap": (end[stale.FRESH] - end["before"]).tolist(),
    }


# ------------------------------------------------------------------------------------------ numbers


@torch.no_grad()
def _logits(net: EarlyExitNetwork, b: networks.TrainedNetwork) -> list[Tensor]:
    return net(b.data.test.tensors[0])


def _losses(logits: list[Tensor] | Tensor, labels: Tensor) -> list[float]:
    """The cross-entropy of each exit."""
    return [nn.functional.cross_entropy(z, labels).item() for z in logits]


def _norm(tensors) -> float:
    """The length of all numbers of several tensors together."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).norm().item()


def _mean(values) -> float:
    """The mean of all numbers in a tensor, a column or a list."""
    if not isinstance(values, Tensor):
        values = torch.tensor([float(value) for value in values])
    return values.mean().item()


def _flat(table: pd.DataFrame) -> list[float]:
    return table.to_numpy().flatten().tolist()


def _place(values: Tensor) -> float:
    """A mean that depends on the order of the values."""
    values = values.double().flatten()
    return (values @ torch.linspace(1, 2, len(values)).to(values)).item() / len(values)
