"""The experiment of chapter 3: exits are pruned together with the backbone, or separately after it.

Everything is measured on one trained network per seed: where the zeros are, and how accurate each
exit still is.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import identity, training
from eenotes.costs import count_macs
from eenotes.inference import collect
from eenotes.methods import pruning, pruning_schedule
from eenotes.methods.pruning_schedule import Iteration, Phase, separately, together
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Confidence
from eenotes.thresholds import evaluate, thresholds_for_budgets
from eenotes_book import cache, networks, scale
from eenotes_book.ch03_pruning import pruned_costs
from eenotes_book.ch03_pruning.settings import Published, Settings
from eenotes_book.data import vision

UNPRUNED, TOGETHER, SEPARATELY = "unpruned", "together", "separately"
# approach 2, but the backbone is tuned for every exit, not for its own classifier only
CONTROL = "separately, all exits' loss"
# approach 2 with as many zeros in all, but exits that keep most of their weights
SPARED = "separately, exits spared"


@dataclass
class Bench:
    """A data set and a network trained on it with all its exits; the settings it was made by."""

    data: vision.Vision
    net: EarlyExitNetwork
    s: Settings | Published
    seed: int
    # thresholds: chosen on one half of the test images, judged on the other, and swapped; for
    # networks that were trained on all other images
    by_halves: bool = False

    @cached_property
    def sample(self) -> Tensor:
        """One image ``(1, C, H, W)`` on the network's device."""
        return self.data.test.tensors[0][:1].to(next(self.net.parameters()).device)


def bench(s: Settings, *, seed: int = 0) -> Bench:
    """Load the data and train the network that will be pruned, or take it from the cache."""
    data = vision.load(s.data, train=s.train, val=s.val, test=s.test)
    _, net = networks.resnet_with_exits(data, s, seed=seed)
    networks.train_or_load(net, data, s, seed=seed)
    return Bench(data, net, s, seed)


def pruned(
    b: Bench,
    name: str,
    plan: Sequence[Phase],
    *,
    samples: int,
    backbone_loss: training.Loss | None = None,
) -> tuple[EarlyExitNetwork, list[Iteration]]:
    """A copy of the network, pruned and fine-tuned by a plan, and what each iteration left.

    Args:
        b: left as it is.
        name: of its file in the cache, and on the progress bar.
        plan: see `pruning_schedule.run`.
        samples: training images seen per iteration.
        backbone_loss: see `pruning_schedule.fine_tune`.
    """
    from tqdm.auto import tqdm

    net, s = deepcopy(b.net), b.s
    tune = partial(
        pruning_schedule.fine_tune,
        dataset=b.data.train,
        samples=samples,
        batch_size=s.tune_batch,
        backbone_loss=backbone_loss,
        seed=b.seed,
        optimizer=partial(training.sgd, lr=s.tune_learning_rate),
        augment=networks.augmentation(b.data),
    )
    watched = TensorDataset(*(tensor[: s.watched] for tensor in b.data.val.tensors))
    facts = {"plan": plan, "samples": samples, "start": identity.fingerprint(net)}
    iterations = pruning_schedule.run(
        net,
        plan,
        tune=tune,
        evaluate=partial(pruning_schedule.accuracies, batches=vision.batches(watched)),
        checkpoint=checkpoint(b, f"pruned-{name.replace(' ', '-')}", **facts),
    )
    total = sum(phase.rounds for phase in plan)
    with _little_garbage():
        done = list(tqdm(iterations, desc=name, total=total, leave=False, disable=None))
    return net.to(scale.device()), done


def by_approach(b: Bench, approach: str) -> tuple[EarlyExitNetwork, list[Iteration]]:
    """The main comparison's network of one approach, by the settings of the scale."""
    order = together if approach == TOGETHER else separately
    plan = order(rate=b.s.rate, rounds=b.s.rounds)
    loss = training.joint_loss if approach == CONTROL else None
    return pruned(b, approach, plan, samples=b.s.samples, backbone_loss=loss)


def checkpoint(b: Bench, name: str, **facts) -> Path:
    """The file in the cache for a network that is made from the trained one."""
    tuning = {key: getattr(b.s, key) for key in ("watched", "tune_batch", "tune_learning_rate")}
    return cache.network(name, seed=b.seed, **networks.facts(b.s), **tuning, **facts)


def run(b: Bench, nets: dict[str, tuple[EarlyExitNetwork, list[Iteration]]]) -> dict:
    """One seed's numbers, plain: the chapter draws them, and the study repeats them.

    Args:
        b: with the network before pruning.
        nets: approach → network and iterations, from `by_approach`.
    """
    found = {UNPRUNED: judged(b, b.net)}
    found |= {name: judged(b, net, iterations) for name, (net, iterations) in nets.items()}
    return joined(described(b), found)


def described(b: Bench) -> dict:
    """What a run is about: data, seed, and the layers of the network."""
    table = pruned_costs.sparsity_table(b.net)
    columns = {key: table[key].tolist() for key in ("part", "kind", "weights")}
    return {
        "data": b.data.name,
        "counts": b.data.counts,
        "seed": b.seed,
        "depth": b.s.depth,
        "layers": {"name": list(table.index), **columns},
    }


def judged(b: Bench, net: EarlyExitNetwork, iterations: Sequence[Iteration] = ()) -> dict:
    """The numbers of one network: accuracy and cost; of a pruned one also where its zeros are."""
    points, accuracy = operating_points(b, net)
    macs = pruned_costs.effective_costs(net, b.sample).backbone
    found = {
        "accuracy": accuracy,
        "points": points,
        "macs": macs / count_macs(b.net, b.sample).backbone,
    }
    if iterations:
        pools = pruned_costs.pool_sparsity(pruned_costs.sparsity_table(net))
        found["sparsity"] = pruned_costs.by_round(iterations).round(5).to_numpy().tolist()
        found["pools"] = pools.round(5).to_dict()
    return found


def joined(about: dict, found: dict[str, dict]) -> dict:
    """A run from what it is about, and approach → numbers, each from `judged`."""
    keys = ("accuracy", "points", "macs", "sparsity", "pools")
    return about | {key: {n: row[key] for n, row in found.items() if key in row} for key in keys}


def operating_points(b: Bench, net: EarlyExitNetwork) -> tuple[list[dict], list[float]]:
    """Confidence thresholds chosen on validation and judged on test, and each exit's accuracy.

    Returns:
        One row per ``budget``: ``accuracy`` and ``relative_cost``, which counts multiplications by
        weights that are not zero, in units of the unpruned backbone without exits; and every exit's
        accuracy on all test images.
    """
    costs, unit = pruned_costs.effective_costs(net, b.sample), count_macs(b.net, b.sample).backbone
    test = logits, labels = collect(net, vision.batches(b.data.test))
    pairs = [(collect(net, vision.batches(b.data.val)), test)] if not b.by_halves else _halves(test)
    rows = []
    for chosen_on, (z, y) in pairs:
        chosen = thresholds_for_budgets(*chosen_on, Confidence(1.0), costs)
        for budget, thresholds in zip(chosen.budget, chosen.thresholds, strict=True):
            found = evaluate(z, y, Confidence(thresholds), costs)
            cost = found["relative_cost"] * costs.backbone / unit
            rows.append({"budget": budget, "accuracy": found["accuracy"], "relative_cost": cost})
    table = pd.DataFrame(rows).groupby("budget").filter(lambda group: len(group) == len(pairs))
    rows = table.groupby("budget", as_index=False).mean().to_dict("records")
    return rows, (logits.argmax(2) == labels).cpu().double().mean(1).tolist()


def magnitudes(net: EarlyExitNetwork) -> pd.DataFrame:
    """The magnitude of every weight: ``magnitude``, ``part`` (backbone, exits)."""
    tables = []
    for part in ("backbone", "exits"):
        modules = pruning.layers(net, part=part).values()
        values = torch.cat([module.weight.detach().abs().flatten() for module in modules])
        tables.append(pd.DataFrame({"magnitude": values.cpu().numpy(), "part": part}))
    return pd.concat(tables, ignore_index=True)


def cuts(table: pd.DataFrame, sparsity: float) -> dict[str, float]:
    """The magnitude below which a share ``sparsity`` of each pool lies.

    Returns:
        Cuts of the pools ``"all"``, ``"backbone"`` and ``"exits"``; and, under ``"exits in all"``,
        the share of the exits' weights below the common cut.
    """
    parts = table.groupby("part").magnitude
    found = {part: float(magnitude.quantile(sparsity)) for part, magnitude in parts}
    common = float(table.magnitude.quantile(sparsity))
    exits = table.magnitude[table.part == "exits"]
    return found | {"all": common, "exits in all": float((exits < common).mean())}


def pools(net: EarlyExitNetwork, *, sparsity: float, bins: int = 59) -> dict:
    """How large the weights of backbone and exits are, and where the cuts lie; plain numbers.

    Returns:
        ``edges`` of the bins, the first of which holds everything below .001; the ``shares`` of the
        weights in them and the ``sizes`` by part; and the ``cuts`` and what lies ``below`` the
        common one.
    """
    table = magnitudes(net)
    found = cuts(table, sparsity)
    edges = np.geomspace(1e-3, 1.05 * table.magnitude.max(), bins + 1)
    parts = {part: rows.to_numpy() for part, rows in table.groupby("part").magnitude}
    counts = {n: np.histogram(np.clip(v, edges[0], None), edges)[0] for n, v in parts.items()}
    return {
        "edges": edges.round(6).tolist(),
        "shares": {n: (v / v.sum()).round(6).tolist() for n, v in counts.items()},
        "sizes": {name: len(values) for name, values in parts.items()},
        "cuts": found,
        "below": {name: float((values < found["all"]).mean()) for name, values in parts.items()},
    }


def _halves(split: tuple[Tensor, Tensor]) -> list:
    """Logits and labels to choose on, and to judge on: each half of a split once."""
    logits, labels = split
    middle = len(labels) // 2
    first, second = (logits[:, :middle], labels[:middle]), (logits[:, middle:], labels[middle:])
    return [(first, second), (second, first)]


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Spare the garbage collector the objects that are there already.

    After every round accelerate collects garbage, and looking through all objects of a notebook
    takes a third of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
