"""The probe of chapter 8: its six experiments in miniature, one after the other.

Questions 1 to 3, on digits, are here; the others are in `probe_of_data`.
"""

import copy
from types import SimpleNamespace

import torch
from torch import Tensor

from eenotes import training
from eenotes.methods import pruning
from eenotes_book import language_models
from eenotes_book.ch08_open import (
    compact,
    compression,
    networks,
    novelty,
    probe_of_data,
    stale,
    tables,
)
from eenotes_book.ch08_open.probe_numbers import Found, flat, logits, losses, mean, norm, place
from eenotes_book.data import vision
from eenotes_book.probes import Doubles

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


def probe() -> Found:
    """The chapter's experiments in miniature; name → numbers."""
    with Doubles():
        data = networks.load(DIGITS)
        b = networks.trained(data, DIGITS, seed=1)
        few, _ = novelty.hold_out(data, range(3, 10))
        lm = language_models.trained(probe_of_data.TEXT, data=probe_of_data.small_text(), seed=0)
        factor = stale.n0_factor(lm)
        found = _novelty(data)
        found |= _trained(b) | _compact(b) | _rounding()
        found |= _order(b) | _compressed(b)
        found |= probe_of_data.streets_part()
        found |= probe_of_data.clusters_part(few) | probe_of_data.reading_part(lm, factor)
        found |= (
            probe_of_data.exits_part(lm, factor)
            | probe_of_data.tuning_part(lm, factor)
            | probe_of_data.reward_part(lm, factor)
        )
    return found


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
        "1: split": [place(known.train.tensors[1]), place(strangers.tensors[1])],
        **_scores(n, strangers.tensors[0]),
        **{f"1: AUROC of {_named(name)}": mean(each) for name, each in run["auroc"].items()},
        "1: AUROC of the last exit": run["final"],
        "1: AUROC with ties": novelty.auroc(torch.tensor([2.0, 3, 5]), torch.tensor([4.0, 1, 2])),
        "1: gate on the distance: accuracy": [distance["accuracy"], distance["accuracy_open"]],
        "1: gate on the distance: shares": [distance["refused"], distance["rejected"]],
        "1: gate on the softmax: shares": [softmax["refused"], softmax["rejected"]],
        "1: gate_costs": flat(tables.gate_costs([run])),
        "1: thresholds": rule.thresholds,
        "claim 1a: leads by exit": flat(tables.novelty_leads([run])),
        "claim 1b: extra cost": distance["unknown_open"] - distance["known_open"],
    }


def _scores(n: novelty.Novelty, x: Tensor) -> Found:
    """The mean of every score on unknown images, and the size of the whitening."""
    found = {f"1: mean of {_named(name)}": mean(each) for name, each in n.scores(x).items()}
    return found | {
        "1: whitened axes": norm(matrix for matrix, _ in n.whitened),
        "1: whitened means": norm(head.means for _, head in n.whitened),
    }


def _named(measure: str) -> str:
    return measure.replace("E²CM confidence", "the scaled confidence")


# --------------------------------------------------------------------------------- 2: compact means


def _trained(b: networks.TrainedNetwork) -> Found:
    """The network of all digits, and class means on its stages."""
    exits = b.class_means.exits
    return {
        "2: loss by exit": losses(logits(b.net, b), b.data.test.tensors[1]),
        "2: weights": norm(b.net.parameters()),
        "2: class means": norm(head.means for head in exits),
        "2: mean distances": norm(head.mean_distance for head in exits),
    }


def _compact(b: networks.TrainedNetwork) -> Found:
    """Exits that are pooled and rounded, and what they can do within the budget."""
    table = compact.compact_table(b, grids=[4, 2, 1], bits=[32, 4], budget=DIGITS.budget)
    found = {f"2: {name}": mean(table[name]) for name in ("bytes", "macs", "exits", "overhead")}
    for grid, bits in ((2, 4), (1, 1)):
        exits = compact.compact(b, grid=grid, bits=bits).exits
        found[f"2: means, grid {grid}, {bits} bits"] = norm(head.means for head in exits)
        found[f"2: distances, grid {grid}, {bits} bits"] = norm(h.mean_distance for h in exits)
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
        "3: accuracy": place(torch.tensor(table["mean"].tolist())),
        "3: accuracy by exit": table[[f"exit {j}" for j in (1, 2, 3, 4)]].mean().tolist(),
        "3: groups, 8 bits": flat(high[["before", "after", "PQD", "PQC"]]),
        "3: groups, 2 bits": flat(low[["before", "after", "PQD", "PQC"]]),
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
        by_exit = losses(logits(net, b), b.data.test.tensors[1])
        found[f"3: {name}: loss, weights, zeros"] = [mean(by_exit), norm(weights), mean(zeros)]
    batch = b.data.test.tensors
    two = [
        loss(b.net, batch).item() for loss in (compression.distillation_loss, training.joint_loss)
    ]
    return found | {"3: distillation loss, joint loss": two}
