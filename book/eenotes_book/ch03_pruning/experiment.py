"""The experiment of chapter 3: exits are pruned together with the backbone, or separately after it.

Everything is measured on one trained network per seed: where the zeros are, how accurate each exit
still is, and, in the sweep, what the exits' own sparsity has to do with it.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

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
from eenotes_book import cache, networks, scale, statistics
from eenotes_book.ch03_pruning import pruned_costs
from eenotes_book.ch03_pruning.settings import Settings, StudySettings
from eenotes_book.data import vision

UNPRUNED, TOGETHER, SEPARATELY = "unpruned", "together", "separately"
# approach 2, but the backbone is tuned for every exit, not for its own classifier only
CONTROL = "separately, all exits' loss"


@dataclass
class Bench:
    """A data set and a network trained on it with all its exits; the settings it was made by."""

    data: vision.Vision
    net: EarlyExitNetwork
    s: Settings | StudySettings
    seed: int

    @cached_property
    def sample(self) -> Tensor:
        """One image ``(1, C, H, W)`` on the network's device."""
        return self.data.test.tensors[0][:1].to(next(self.net.parameters()).device)


def bench(s: Settings | StudySettings, *, seed: int = 0) -> Bench:
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
    everything = {UNPRUNED: b.net} | {name: net for name, (net, _) in nets.items()}
    dense = count_macs(b.net, b.sample)
    table = pruned_costs.sparsity_table(b.net)
    points, accuracy, macs = {}, {}, {}
    for name, net in everything.items():
        points[name], accuracy[name] = operating_points(b, net)
        macs[name] = pruned_costs.effective_costs(net, b.sample).backbone / dense.backbone
    return {
        "data": b.data.name,
        "counts": b.data.counts,
        "seed": b.seed,
        "depth": b.s.depth,
        "layers": {
            "name": list(table.index),
            "part": table.part.tolist(),
            "kind": table.kind.tolist(),
            "weights": table.weights.tolist(),
        },
        "accuracy": accuracy,
        "points": points,
        "macs": macs,
        "sparsity": {
            name: pruned_costs.by_round(iterations).round(5).to_numpy().tolist()
            for name, (_, iterations) in nets.items()
        },
        "pools": {
            name: pruned_costs.pool_sparsity(pruned_costs.sparsity_table(net)).round(5).to_dict()
            for name, (net, _) in nets.items()
        },
    }


def operating_points(b: Bench, net: EarlyExitNetwork) -> tuple[list[dict], list[float]]:
    """Confidence thresholds chosen on validation and judged on test, and each exit's accuracy.

    Returns:
        One row per ``budget``: ``accuracy`` and ``relative_cost``, which counts multiplications by
        weights that are not zero, in units of the unpruned backbone without exits; and every exit's
        accuracy on all test images.
    """
    costs, unit = pruned_costs.effective_costs(net, b.sample), count_macs(b.net, b.sample).backbone
    chosen = thresholds_for_budgets(
        *collect(net, vision.batches(b.data.val)),
        Confidence(1.0),
        costs,
        draws=b.s.draws,
        seed=b.seed,
    )
    logits, labels = collect(net, vision.batches(b.data.test))
    rows = []
    for budget, thresholds in zip(chosen.budget, chosen.thresholds, strict=True):
        found = evaluate(logits, labels, Confidence(thresholds), costs)
        cost = found["relative_cost"] * costs.backbone / unit
        rows.append({"budget": budget, "accuracy": found["accuracy"], "relative_cost": cost})
    return rows, (logits.argmax(2) == labels).double().mean(1).tolist()


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


def sweep(b: Bench) -> list[dict]:
    """Both approaches over pruning rates, and over what the exits may keep of the weight budget.

    At each rate all networks keep equally many weights.  The separate ones give their exits more or
    fewer of them, and the backbone the rest; ``s.sweep.exit_sparsity`` says how sparse the exits
    become, and once they become as sparse as the backbone: the plain approach 2.  Rounds per weight
    and samples per round are equal throughout.

    Returns:
        A row per rate and sparsity of the exits, with ``sparsity`` (of all weights), ``exits`` (the
        sparsity wanted of the exits), ``share`` (of the kept weights, those in exits) and ``kept``
        (all weights kept); ``pool_exits``, ``pool_share`` and ``pool_kept`` are those of pruning
        together; ``early`` (mean of the early exits) and ``last`` are test accuracies, together -
        separately.
    """
    s, rows = b.s.sweep, []
    for rate in s.rates:
        pool = _judged(b, "sweep together", together(rate=rate, rounds=s.rounds))
        sparsity = 1 - (1 - rate) ** s.rounds
        for exits in [*(x for x in s.exit_sparsity if x < sparsity), sparsity]:
            plan = _plan_with_exits(b, sparsity=sparsity, exits=exits)
            apart = _judged(b, "sweep separately", plan)
            rows.append(
                {
                    "sparsity": sparsity,
                    "exits": exits,
                    "share": apart["share"],
                    "early": pool["early"] - apart["early"],
                    "last": pool["last"] - apart["last"],
                    "pool_exits": pool["sparsity"],
                    "pool_share": pool["share"],
                    "kept": apart["kept"],
                    "pool_kept": pool["kept"],
                }
            )
    return rows


def _plan_with_exits(b: Bench, *, sparsity: float, exits: float) -> list[Phase]:
    """Approach 2 with so many zeros in all, and another share of zeros in the exits."""
    rounds = b.s.sweep.rounds
    sizes = pruned_costs.sparsity_table(b.net).groupby("part").weights.sum()
    kept = {"exits": 1 - exits}
    kept["backbone"] = (1 - sparsity) * sizes.sum() - kept["exits"] * sizes["exits"]
    kept["backbone"] /= sizes["backbone"]
    rates = {part: 1 - share ** (1 / rounds) for part, share in kept.items()}
    return separately(rate=rates["backbone"], rounds=rounds, exits_rate=rates["exits"])


def _judged(b: Bench, name: str, plan: Sequence[Phase]) -> dict[str, float | int]:
    """The weights ``kept`` after a plan, the exits' ``share`` and ``sparsity``, and accuracies."""
    net, _ = pruned(b, name, plan, samples=b.s.sweep.samples)
    table = pruned_costs.sparsity_table(net)
    kept = (table.weights - table.zeros).groupby(table.part).sum()
    *early, last = pruning_schedule.accuracies(net, vision.batches(b.data.test))
    return {
        "sparsity": float(pruned_costs.pool_sparsity(table)["exits"]),
        "share": float(kept["exits"] / kept.sum()),
        "kept": int(kept.sum()),
        "early": statistics.mean(early),
        "last": last,
    }


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
