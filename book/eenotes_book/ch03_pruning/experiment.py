"""Chapter 3: exits pruned together with the backbone, or separately after it; what zeros save, and
what they do not.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.costs import count_macs
from eenotes.inference import collect
from eenotes.methods import pruned_costs, pruning, pruning_schedule
from eenotes.methods.pruning_schedule import separately, together
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Confidence
from eenotes.thresholds import evaluate, thresholds_for_budgets
from eenotes_book import cache, networks, scale, timing
from eenotes_book.data import vision

UNPRUNED, TOGETHER, SEPARATELY = "unpruned", "together", "separately"


# approach 2, but the backbone is tuned for every exit, not for its own classifier only
CONTROL = "separately, all exits' loss"


@dataclass
class Bench:
    """A data set and a network trained on it with all its exits; the settings it was made by."""

    data: vision.Vision
    net: EarlyExitNetwork
    s: SimpleNamespace
    seed: int

    @cached_property
    def sample(self) -> Tensor:
        """One image ``(1, C, H, W)`` on the network's device."""
        return self.data.test.tensors[0][:1].to(next(self.net.parameters()).device)


def bench(s: SimpleNamespace, *, seed: int = 0) -> Bench:
    """Load the data and train the network that will be pruned, or take it from the cache."""
    data = vision.load(s.data, train=s.train, val=s.val, test=s.test)
    _, net = networks.resnet_with_exits(data, s, seed=seed)
    networks.train_or_load(net, data, s, seed=seed)
    return Bench(data, net, s, seed)


def pruned(
    b: Bench,
    name: str,
    plan: Sequence[pruning_schedule.Phase],
    *,
    samples: int,
    start: EarlyExitNetwork | None = None,
    **options,
) -> tuple[EarlyExitNetwork, list[pruning_schedule.Iteration]]:
    """A copy of the network, pruned and fine-tuned by a plan, with the record of each iteration
    (accuracies on validation images).

    Args:
        b: left as it is.
        name: of its file in the cache, and on the progress bar.
        plan: see `pruning_schedule.run`.
        samples: training images seen per iteration.
        start: what to copy, if not the trained network.
        options: more for `pruning_schedule.fine_tune`.
    """
    from tqdm.auto import tqdm

    net, s = deepcopy(b.net if start is None else start), b.s
    tune = partial(
        pruning_schedule.fine_tune,
        dataset=b.data.train,
        samples=samples,
        batch_size=s.tune_batch,
        seed=b.seed,
        optimizer=partial(training.sgd, lr=s.tune_learning_rate),
        augment=networks.augmentation(b.data),
        **options,
    )
    watched = TensorDataset(*(tensor[: s.watched] for tensor in b.data.val.tensors))
    iterations = pruning_schedule.run(
        net,
        plan,
        tune=tune,
        evaluate=partial(pruning_schedule.accuracies, batches=vision.batches(watched)),
        checkpoint=_cached(
            b,
            f"pruned-{name.replace(' ', '-')}",
            plan=plan,
            samples=samples,
            start=pruning.fingerprint(net),
        ),
    )
    total = sum(rounds for _, _, rounds in plan)
    with _little_garbage():
        done = list(tqdm(iterations, desc=name, total=total, leave=False, disable=None))
    return net.to(scale.device()), done


def both(b: Bench, approach: str) -> tuple[EarlyExitNetwork, list[pruning_schedule.Iteration]]:
    """The main comparison's network of one approach, by the settings of the scale."""
    options = {"backbone_loss": training.joint_loss} if approach == CONTROL else {}
    order = together if approach == TOGETHER else separately
    plan = order(rate=b.s.rate, rounds=b.s.rounds)
    return pruned(b, approach, plan, samples=b.s.samples, **options)


def without_channels(b: Bench) -> EarlyExitNetwork:
    """The network with whole channels removed, as many as leave about the weights that the
    schedules leave, then fine-tuned.

    Removed at once instead of in rounds, it has more to relearn: it sees as many images as in
    approach 1, in whole epochs, at the learning rate of the first training.
    """
    s = b.s
    thin = pruned_costs.prune_channels(
        b.net, b.sample, ratio=1 - math.sqrt((1 - s.rate) ** s.rounds)
    )
    epochs = math.ceil(s.rounds * s.samples / len(b.data.train))
    training.fit(
        thin,
        b.data.train,
        loss=training.joint_loss,
        epochs=epochs,
        batch_size=s.tune_batch,
        optimizer=partial(training.sgd, lr=s.learning_rate),
        augment=networks.augmentation(b.data),
        seed=b.seed,
        checkpoint=_cached(b, "channels", rate=s.rate, rounds=s.rounds, passes=epochs),
        title="fewer channels",
    )
    return thin


@contextmanager
def _little_garbage() -> Iterator[None]:
    """After every round accelerate collects garbage, for a third of a second if it looks through all objects of a notebook: let it look
    through those made here only."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _cached(b: Bench, name: str, **facts) -> Path:
    tuning = {name: getattr(b.s, name) for name in ("watched", "tune_batch", "tune_learning_rate")}
    made_by = networks.facts(b.s) | tuning
    return cache.network(name, seed=b.seed, **made_by, **facts)


def run(
    b: Bench, nets: dict[str, tuple[EarlyExitNetwork, list[pruning_schedule.Iteration]]]
) -> dict:
    """One seed's numbers, plain: what the chapter draws and the study repeats.

    Args:
        b: with the network before pruning.
        nets: approach → network and iterations, from `both`.
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
    """Confidence thresholds chosen on validation, judged on test: one row per budget; and every
    exit's accuracy on all test images.

    ``relative_cost`` counts multiplications by weights that are not zero, in units of the unpruned
    backbone without exits.
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
    parts = {part: torch.cat([m.weight.detach().abs().flatten().cpu() for m in pruning.layers(net, part=part).values()])
             for part in ("backbone", "exits")}  # fmt: skip
    return pd.concat(
        [
            pd.DataFrame({"magnitude": values.numpy(), "part": part})
            for part, values in parts.items()
        ],
        ignore_index=True,
    )


def cuts(table: pd.DataFrame, sparsity: float) -> dict[str, float]:
    """The magnitude below which a share of each pool lies: ``"all"``, ``"backbone"``, ``"exits"``; and, under ``"exits in all"``, the
    share of the exits' weights below the common cut."""
    found = {
        part: float(group.magnitude.quantile(sparsity)) for part, group in table.groupby("part")
    }
    common = float(table.magnitude.quantile(sparsity))
    exits = table.magnitude[table.part == "exits"]
    return found | {"all": common, "exits in all": float((exits < common).mean())}


@torch.inference_mode()
def deployment(
    b: Bench, nets: dict[str, EarlyExitNetwork], *, batch_size: int, rounds: int = 5
) -> pd.DataFrame:
    """Weights, MACs, bytes and seconds of several networks, measured alternately, all exits
    computed, plain copies without masks.

    Returns:
        One row per network: ``weights`` (not zero), ``parameters`` (stored), ``effective MACs``,
        ``MACs`` (done), ``file`` and ``gzip`` (bytes), ``seconds`` (per batch), ``early`` and
        ``last`` (test accuracy).
    """
    x = b.data.test.tensors[0][:batch_size].to(b.sample.device)
    plain = {name: pruning.permanent(net) for name, net in nets.items()}
    seconds = timing.median_seconds(
        {name: partial(net, x) for name, net in plain.items()}, rounds=rounds
    )
    rows = {}
    for name, net in plain.items():
        table = pruned_costs.sparsity_table(net)
        accuracy = pruning_schedule.accuracies(net, vision.batches(b.data.test))
        rows[name] = {
            "weights": int(table.weights.sum() - table.zeros.sum()),
            "parameters": int(table.weights.sum()),
            "effective MACs": pruned_costs.effective_costs(net, b.sample).backbone,
            "MACs": count_macs(net, b.sample).backbone,
            "file": pruned_costs.checkpoint_bytes(net, compress=False),
            "gzip": pruned_costs.checkpoint_bytes(net),
            "seconds": seconds[name],
            "early": mean_of(accuracy[:-1]),
            "last": accuracy[-1],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `deployment` that can be saved, as parts of the first row."""
    columns = ["weights", "effective MACs", "MACs", "file", "gzip", "seconds"]
    return table[columns] / table[columns].iloc[0]


def sweep(b: Bench) -> list[dict]:
    """Both approaches over pruning rates; the separate one also over the share of the weight budget
    that its exits may keep.

    At each rate all networks keep equally many weights.  The separate ones give their exits more or
    fewer of them, and the backbone the rest; ``s.sweep.exit_sparsity`` says how sparse the exits
    become, and once they become as sparse as the backbone: the plain approach 2. Rounds per weight
    and samples per round are equal throughout.

    Returns:
        A row per rate and sparsity of the exits: ``sparsity`` (of all weights), ``exits`` (of the
        exits, asked for), ``share`` (of the weights kept, those in exits), on test together -
        separately: ``early`` (mean of the early exits) and ``last``; ``pool_exits`` and
        ``pool_share`` say what pruning together left in the exits; ``kept`` and ``pool_kept`` count
        all weights kept.
    """
    s, rows, test = b.s.sweep, [], vision.batches(b.data.test)
    sizes = pruned_costs.sparsity_table(b.net).groupby("part").weights.sum()
    for rate in s.rates:
        pool, _ = pruned(
            b, "sweep together", together(rate=rate, rounds=s.rounds), samples=s.samples
        )
        of_pool, left, sparsity = (
            pruning_schedule.accuracies(pool, test),
            _kept(pool),
            1 - (1 - rate) ** s.rounds,
        )
        for exits in [*(x for x in s.exit_sparsity if x < sparsity), sparsity]:
            keep_exits = 1 - exits
            keep_backbone = ((1 - sparsity) * sizes.sum() - keep_exits * sizes["exits"]) / sizes[
                "backbone"
            ]
            rate_of_backbone, rate_of_exits = (
                1 - keep ** (1 / s.rounds) for keep in (keep_backbone, keep_exits)
            )
            plan = separately(rate=rate_of_backbone, rounds=s.rounds, exits_rate=rate_of_exits)
            apart, _ = pruned(b, "sweep separately", plan, samples=s.samples)
            difference = [
                x - y
                for x, y in zip(of_pool, pruning_schedule.accuracies(apart, test), strict=True)
            ]
            rows.append({
                "sparsity": sparsity, "exits": exits, "share": _kept(apart)["share"], "early": mean_of(difference[:-1]),
                "last": difference[-1], "pool_exits": left["sparsity"], "pool_share": left["share"],
                "kept": _kept(apart)["kept"], "pool_kept": left["kept"],
            })  # fmt: skip
    return rows


def _kept(net: EarlyExitNetwork) -> dict[str, float | int]:
    """Of the exits: their sparsity, and their share of all weights ``kept``."""
    table = pruned_costs.sparsity_table(net)
    kept = (table.weights - table.zeros).groupby(table.part).sum()
    return {
        "sparsity": float(pruned_costs.pool_sparsity(table)["exits"]),
        "share": float(kept["exits"] / kept.sum()),
        "kept": int(kept.sum()),
    }


def mean_of(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
