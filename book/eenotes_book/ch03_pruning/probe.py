"""The probe of chapter 3: a small network is pruned by all three procedures, and over the sweep.

It trains two early exits on a few digits, then runs what the chapter runs, on two rounds each.
The sweep's digits go by the name of CIFAR-10, under which images are shifted and mirrored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes.methods import pruning, pruning_schedule
from eenotes.network import EarlyExitNetwork
from eenotes_book import networks, probes, timing
from eenotes_book.ch03_pruning import deployment, experiment, pruned_costs, published, sweep, tables
from eenotes_book.data import vision

SEED = 4  # not 0: the experiment multiplies seeds
SETTINGS = SimpleNamespace(
    data="digits",
    train=128,
    val=80,
    test=160,
    depth=8,
    width=5,
    exits=["group1.0", "group2.0"],
    epochs=4,
    batch_size=16,
    learning_rate=0.1,
    rate=0.4,
    rounds=2,
    samples=72,
    tune_batch=16,
    tune_learning_rate=0.05,
    watched=60,
    timing_batch=2,
    sweep=SimpleNamespace(rates=[0.6], exit_sparsity=[0.2, 0.9], rounds=2, samples=160),
)
APPROACHES = (experiment.TOGETHER, experiment.SEPARATELY, experiment.CONTROL)


def probe() -> dict[str, object]:
    """The numbers of the experiment by name."""
    b, history = trained()
    shifted = experiment.Bench(replace(b.data, name="CIFAR10"), b.net, b.s, b.seed)
    nets = {name: experiment.by_approach(b, name) for name in APPROACHES}
    thin = deployment.without_channels(shifted)
    final = {experiment.UNPRUNED: b.net} | {name: net for name, (net, _) in nets.items()}
    return (
        {"loss of each epoch": history, "loss of one epoch, shifted": one_epoch(shifted)}
        | losses(b, final | {"channels": thin})
        | magnitudes(b)
        | rounds(nets)
        | comparison(b, nets)
        | with_spared_exits(b, nets)
        | sweeping(shifted)
        | worth(b, final, thin)
        | by_scope(b)
    )


def trained() -> tuple[experiment.Bench, list[float]]:
    """What `study.bench` makes, but with images in float64, and the training loss of each epoch."""
    s = SETTINGS
    data = vision.load(s.data, train=s.train, val=s.val, test=s.test)
    parts = {name: in_float64(getattr(data, name)) for name in ("train", "val", "test")}
    data = replace(data, **parts)
    _, net = networks.resnet_with_exits(data, s, seed=SEED)
    history = networks.train_or_load(net, data, s, seed=SEED)
    return experiment.Bench(data, net, s, SEED), history


def one_epoch(b: experiment.Bench) -> list[float]:
    """The loss of one epoch of an untrained network on images that are shifted and mirrored."""
    s = SimpleNamespace(**vars(b.s) | {"data": b.data.name, "epochs": 1})
    _, net = networks.resnet_with_exits(b.data, s, seed=SEED)
    return networks.train_or_load(net, b.data, s, seed=SEED)


def in_float64(dataset: TensorDataset) -> TensorDataset:
    """The same samples, without the last digits, in which machines differ."""
    x, y = dataset.tensors
    return TensorDataset(x.double().round(decimals=4), y)


@contextmanager
def float32() -> Iterator[None]:
    """New tensors are float32: simulating who leaves works in no other default."""
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float64)


@torch.no_grad()
def losses(b: experiment.Bench, nets: dict[str, EarlyExitNetwork]) -> dict[str, list[float]]:
    """The three losses of each network on the test images."""
    found, batch = {}, b.data.test.tensors
    kinds = (training.joint_loss, training.exits_loss, pruning_schedule.last_exit_loss)
    for name, net in nets.items():
        found[f"losses, {name}"] = [loss(net, batch).item() for loss in kinds]
    return found


def magnitudes(b: experiment.Bench) -> dict[str, list[float]]:
    """Mean magnitudes of backbone and exits before pruning, and the cuts through them."""
    table = experiment.magnitudes(b.net)
    cuts = experiment.cuts(table, 1 - (1 - b.s.rate) ** b.s.rounds)
    pools = experiment.pools(b.net, sparsity=0.8, bins=7)
    return {
        "magnitudes of backbone and exits": table.groupby("part").magnitude.mean().tolist(),
        "cuts": [cuts[name] for name in ("all", "backbone", "exits", "exits in all")],
        "edges of the histogram": probes.digest(pools["edges"]),
        "shares of the histogram": [*pools["shares"]["backbone"], *pools["shares"]["exits"]],
        "below the common cut": [pools["below"][name] for name in ("backbone", "exits")],
    }


def rounds(nets: dict[str, tuple[EarlyExitNetwork, list]]) -> dict[str, object]:
    """What each schedule noted: accuracies on the way, and sparsity round by round."""
    found = {}
    for name, (_, iterations) in nets.items():
        watched = torch.tensor([iteration.accuracy for iteration in iterations])
        found[f"watched accuracy, {name}"] = watched.mean(0)
        found[f"sparsity by round, {name}"] = (
            pruned_costs.by_round(iterations).mean(axis=1).tolist()
        )
    return found


def comparison(
    b: experiment.Bench, nets: dict[str, tuple[EarlyExitNetwork, list]]
) -> dict[str, object]:
    """The numbers behind the claims on sparsity and accuracy: of one run, and of two."""
    first, last = experiment.TOGETHER, experiment.CONTROL
    with float32():
        one = experiment.run(b, nets)
        # two names exchanged
        two = experiment.run(b, nets | {first: nets[last], last: nets[first]})
    return of_one_run(one) | of_runs([one, two])


def with_spared_exits(
    b: experiment.Bench, nets: dict[str, tuple[EarlyExitNetwork, list]]
) -> dict[str, object]:
    """The numbers behind the study's claims: plain and spared exits on one backbone.

    The thresholds are chosen on one half of the test images and judged on the other.
    """
    settings = SimpleNamespace(**vars(b.s) | {"spared": 0.2})
    halves = replace(b, s=settings, by_halves=True)
    names = (experiment.SEPARATELY, experiment.SPARED)
    nets = nets | {name: published.variant(halves, name) for name in names}
    with float32():
        run = experiment.run(halves, nets)
    price = tables.price_table([run])
    pools = tables.pool_table({"": [run]}).loc[[("", name) for name in names]]
    table = tables.curves([run], names)[experiment.SPARED]
    return {
        "plain and spared, sparsity of the pools": pools[["backbone", "exits", "all"]]
        .to_numpy()
        .tolist(),
        "price of pruning": price.groupby("approach", sort=False).difference.mean().tolist(),
        "gain of the first two exits": tables.gains([run], over=experiment.UNPRUNED)["first"],
        "gain over spared exits, early": tables.gains([run], over=experiment.SPARED)["early"],
        "gain of sparing, last": tables.gains([run], of=experiment.SPARED)["last"],
        "operating points by halves": table[["budget", "relative_cost", "accuracy"]]
        .mean()
        .tolist(),
    }


def of_one_run(run: dict) -> dict[str, object]:
    """Sparsity, accuracy and cost of every approach in one run."""
    layers, names = tables.layer_table([run]), (experiment.UNPRUNED, *APPROACHES)
    found = {
        "sparsity of each layer, together": layers[experiment.TOGETHER].tolist(),
        "sparsity of each layer, difference": layers.difference.tolist(),
        "accuracy of each exit": tables.accuracy_table([run]).accuracy.tolist(),
        "noise of the test split": tables.split_noise(run),
        "cost, all exits": [run["macs"][name] for name in names],
    }
    for name, table in tables.curves([run], names).items():
        columns = table[["budget", "relative_cost", "accuracy"]]
        found[f"operating points, {name}"] = columns.mean().tolist()
    for name in APPROACHES:
        pools = run["pools"][name]
        found[f"sparsity of the pools, {name}"] = [pools[p] for p in ("backbone", "exits", "all")]
    for of in (experiment.TOGETHER, experiment.CONTROL):
        gain = tables.gains([run], of=of)
        found[f"gain, {of}"] = [gain[key][0] for key in ("early", "all", "last")]
    return found


def of_runs(runs: list[dict]) -> dict[str, object]:
    """Means and spreads over runs."""
    layers, accuracy = tables.layer_table(runs), tables.accuracy_table(runs)
    points = tables.curves(runs, [experiment.TOGETHER])[experiment.TOGETHER]
    early = layers[layers.kind == "linear"].iloc[:-1]  # the last one is the backbone's classifier
    by_round = tables.difference_by_round(runs)
    return {
        "two runs, difference in sparsity of the early exits": early.difference.tolist(),
        "two runs, spread of the sparsity": layers.spread.mean(),
        "two runs, difference in sparsity by round": by_round.mean(axis=1).tolist(),
        "two runs, accuracy": [accuracy.accuracy.mean(), accuracy.spread.mean()],
        "two runs, operating points": points[["accuracy", "spread"]].mean().tolist(),
        "two runs, gain": tables.gains(runs)["early"],
    }


def sweeping(b: experiment.Bench) -> dict[str, object]:
    """Both procedures over pruning rates and over the share of the exits."""
    rows = sweep.sweep(b)
    columns = ("exits", "share", "kept", "pool_exits", "pool_share", "pool_kept")
    found = {f"sweep, {name}": [row[name] for row in rows] for name in columns}
    for value in ("early", "last"):
        table = tables.sweep_table([rows], value)
        spared = table.drop(columns="as all").iloc[:, 0]
        found[f"sweep, {value}"] = [*table["as all"], *spared]
    return found


def worth(
    b: experiment.Bench, nets: dict[str, EarlyExitNetwork], thin: EarlyExitNetwork
) -> dict[str, object]:
    """What zeros and missing channels save; of the seconds, only in which turn they are taken."""
    variants = {name: nets[name] for name in (experiment.UNPRUNED, experiment.TOGETHER)} | {
        "channels": thin
    }
    table = deployment.measured(b, variants, batch_size=b.s.timing_batch, rounds=1)
    part = deployment.relative(table)
    columns = ("weights", "parameters", "effective MACs", "MACs", "early", "last")
    found = {f"deployment, {name}": table[name].tolist() for name in columns}
    calls: list[int] = []
    statements = {n: partial(calls.append, n) for n in (1, 2)}
    timing.median_seconds(statements, rounds=2)
    return found | {
        "saved by zeros": [part[name][experiment.TOGETHER] for name in ("weights", "MACs", "file")],
        "saved by channels": [part[name]["channels"] for name in ("weights", "MACs")],
        "turns of the second timed statement": [i for i, n in enumerate(calls) if n == 2],
    }


@torch.no_grad()
def by_scope(b: experiment.Bench) -> dict[str, object]:
    """Exercise 2: half of the weights at once, by one cut or layer by layer."""
    found = {}
    for scope in ("global", "layer"):
        net = deepcopy(b.net)
        pruning.prune_smallest(pruning.layers(net).values(), rate=0.5, scope=scope)
        stem = next(iter(pruning.sparsity(pruning.layers(net)).values()))
        loss = training.joint_loss(net, b.data.test.tensors).item()
        found[f"half at once, {scope}"] = [stem, loss]
    return found
