"""Chapter 3: exits pruned together with the backbone, or separately after it; what zeros save, and what they do not."""

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

from eenotes import experiment, pruning, training
from eenotes.calibration import evaluate, thresholds_for_budgets
from eenotes.costs import count_macs
from eenotes.data import vision
from eenotes.inference import collect
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Confidence
from eenotes.studies import early_exits

CHAPTER, STUDY = "03-pruning", "eenotes.studies.pruning"
UNPRUNED, TOGETHER, SEPARATELY = "unpruned", "together", "separately"
CONTROL = "separately, all exits' loss"  # approach 2, but the backbone is tuned for every exit, not for its own classifier only
THESIS = {
    UNPRUNED: (0.597, 0.65, 0.78, 0.82, 0.88, 0.91, 0.923),
    TOGETHER: (0.61, 0.665, 0.76, 0.81, 0.85, 0.86, 0.825),
    SEPARATELY: (0.55, 0.60, 0.72, 0.75, 0.82, 0.855, 0.88),
}  # read off the thesis's figure: exits 1 to 7 of a ResNet-56 on CIFAR-10
THESIS_LINEAR = (-0.17, -0.14, -0.11, -0.10, -0.15, -0.16, -0.02)  # sparsity of the linear layers, together - separately (figure)
_TRAINED_BY = ("data", "train", "val", "depth", "width", "exits", "epochs", "batch_size", "learning_rate")


# ------------------------------------------------------------------------------------------------------ networks, and pruning them


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
    _, net = early_exits.build(data, s, seed=seed)
    early_exits.train(net, data, s, seed=seed)
    return Bench(data, net, s, seed)


def plan_of(approach: str, *, rate: float, rounds: int) -> pruning.Plan:
    """The phases of an approach, every pool at the same rate."""
    return [("all", rate, rounds)] if approach == TOGETHER else [("backbone", rate, rounds), ("exits", rate, rounds)]


def pruned(
    b: Bench, name: str, plan: pruning.Plan, *, samples: int, start: EarlyExitNetwork | None = None, **options
) -> tuple[EarlyExitNetwork, list[pruning.Iteration]]:
    """A copy of the network, pruned and fine-tuned by a plan, with the record of each iteration (accuracies on validation images).

    Args:
        b: left as it is.
        name: of its file in the cache, and on the progress bar.
        plan: see `pruning.schedule`.
        samples: training images seen per iteration.
        start: what to copy, if not the trained network.
        options: more for `pruning.fine_tune`.
    """
    from tqdm.auto import tqdm

    net, s = deepcopy(b.net if start is None else start), b.s
    tune = partial(
        pruning.fine_tune,
        dataset=b.data.train,
        samples=samples,
        batch_size=s.tune_batch,
        seed=b.seed,
        optimizer=partial(training.sgd, lr=s.tune_learning_rate),
        augment=_augment(b.data),
        **options,
    )
    watched = TensorDataset(*(tensor[: s.watched] for tensor in b.data.val.tensors))
    iterations = pruning.schedule(
        net,
        plan,
        tune=tune,
        evaluate=partial(pruning.accuracies, batches=vision.batches(watched)),
        checkpoint=_cached(b, f"pruned-{name.replace(' ', '-')}", plan=plan, samples=samples, start=pruning.fingerprint(net)),
    )
    total = sum(rounds for _, _, rounds in plan)
    with _little_garbage():
        done = list(tqdm(iterations, desc=name, total=total, leave=False, disable=None))
    return net.to(experiment.device()), done


def both(b: Bench, approach: str) -> tuple[EarlyExitNetwork, list[pruning.Iteration]]:
    """The main comparison's network of one approach, by the settings of the scale."""
    options = {"backbone_loss": training.joint_loss} if approach == CONTROL else {}
    plan = plan_of(approach, rate=b.s.rate, rounds=b.s.rounds)
    return pruned(b, approach, plan, samples=b.s.samples, **options)


def without_channels(b: Bench) -> EarlyExitNetwork:
    """The network with whole channels removed, as many as leave about the weights that the schedules leave, then fine-tuned.

    Removed at once instead of in rounds, it has more to relearn: it sees as many images as in approach 1, in whole epochs, at the learning
    rate of the first training.
    """
    s = b.s
    thin = pruning.prune_channels(b.net, b.sample, ratio=1 - math.sqrt((1 - s.rate) ** s.rounds))
    epochs = math.ceil(s.rounds * s.samples / len(b.data.train))
    training.fit(
        thin,
        b.data.train,
        loss=training.joint_loss,
        epochs=epochs,
        batch_size=s.tune_batch,
        optimizer=partial(training.sgd, lr=s.learning_rate),
        augment=_augment(b.data),
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


def _augment(data: vision.Vision):
    return vision.crop_and_flip if data.name == "CIFAR10" else None


def _cached(b: Bench, name: str, **facts) -> Path:
    made_by = {key: getattr(b.s, key) for key in (*_TRAINED_BY, "watched", "tune_batch", "tune_learning_rate")}
    return experiment.cached(name, seed=b.seed, code=experiment.code_hash(["eenotes.pruning"]), **made_by, **facts)


# ------------------------------------------------------------------------------------------------------------- one run's numbers


def run(b: Bench, nets: dict[str, tuple[EarlyExitNetwork, list[pruning.Iteration]]]) -> dict:
    """One seed's numbers, plain: what the chapter draws and the study repeats.

    Args:
        b: with the network before pruning.
        nets: approach → network and iterations, from `both`.
    """
    everything = {UNPRUNED: b.net} | {name: net for name, (net, _) in nets.items()}
    dense = count_macs(b.net, b.sample)
    table = pruning.sparsity_table(b.net)
    points, accuracy, macs = {}, {}, {}
    for name, net in everything.items():
        points[name], accuracy[name] = operating_points(b, net)
        macs[name] = pruning.effective_costs(net, b.sample).backbone / dense.backbone
    return {
        "data": b.data.name,
        "counts": b.data.counts,
        "seed": b.seed,
        "layers": {"name": list(table.index), "part": table.part.tolist(), "kind": table.kind.tolist(), "weights": table.weights.tolist()},
        "accuracy": accuracy,
        "points": points,
        "macs": macs,
        "sparsity": {name: pruning.by_round(iterations).round(5).to_numpy().tolist() for name, (_, iterations) in nets.items()},
        "pools": {name: pruning.pool_sparsity(pruning.sparsity_table(net)).round(5).to_dict() for name, (net, _) in nets.items()},
    }


def operating_points(b: Bench, net: EarlyExitNetwork) -> tuple[list[dict], list[float]]:
    """Confidence thresholds chosen on validation, judged on test: one row per budget; and every exit's accuracy on all test images.

    ``relative_cost`` counts multiplications by weights that are not zero, in units of the unpruned backbone without exits.
    """
    costs, unit = pruning.effective_costs(net, b.sample), count_macs(b.net, b.sample).backbone
    chosen = thresholds_for_budgets(*collect(net, vision.batches(b.data.val)), Confidence(1.0), costs, draws=b.s.draws, seed=b.seed)
    logits, labels = collect(net, vision.batches(b.data.test))
    rows = []
    for budget, thresholds in zip(chosen.budget, chosen.thresholds, strict=True):
        found = evaluate(logits, labels, Confidence(thresholds), costs)
        cost = found["relative_cost"] * costs.backbone / unit
        rows.append({"budget": budget, "accuracy": found["accuracy"], "relative_cost": cost})
    return rows, (logits.argmax(2) == labels).double().mean(1).tolist()


def names(r: dict) -> list[str]:
    """Short names of the layers, in the order of execution: 1, 2, ... for convolutions, E1, E2, ... for the linear exits."""
    kinds = r["layers"]["kind"]
    return [f"E{kinds[: i + 1].count('linear')}" if kind == "linear" else f"{i + 1}" for i, kind in enumerate(kinds)]


def layer_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Mean over the runs of each layer's final sparsity: ``layer``, ``kind``, one column per approach, ``difference``, ``spread``."""
    final = {name: pd.DataFrame([r["sparsity"][name][-1] for r in runs]) for name in (TOGETHER, SEPARATELY)}
    difference = final[TOGETHER] - final[SEPARATELY]
    table = pd.DataFrame({name: values.mean() for name, values in final.items()})
    table = table.assign(difference=difference.mean(), spread=difference.std(), kind=runs[0]["layers"]["kind"])
    return table.assign(layer=names(runs[0]))


def difference_by_round(runs: Sequence[dict]) -> pd.DataFrame:
    """Together - separately in sparsity, mean over the runs: one row per round (from 1), one column per layer."""
    mean = sum(torch.tensor(r["sparsity"][TOGETHER]) - torch.tensor(r["sparsity"][SEPARATELY]) for r in runs) / len(runs)
    return pd.DataFrame(mean.numpy(), index=pd.RangeIndex(1, len(mean) + 1, name="round"), columns=names(runs[0]))


def accuracy_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Accuracy of every exit on all test images: ``exit`` (from 1), ``approach``, ``accuracy`` (mean over runs), ``spread``."""
    rows = []
    for name in runs[0]["accuracy"]:
        values = pd.DataFrame([r["accuracy"][name] for r in runs])
        rows += [
            {"exit": j + 1, "approach": name, "accuracy": values[j].mean(), "spread": values[j].std()} for j in range(values.shape[1])
        ]
    return pd.DataFrame(rows)


def curves(runs: Sequence[dict], approaches: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Mean operating points of each approach, one row per budget that every run keeps: ``relative_cost``, ``accuracy``, ``spread``."""
    tables = {}
    for name in approaches:
        rows = pd.concat(pd.DataFrame(r["points"][name]) for r in runs).groupby("budget")
        table = rows[["accuracy", "relative_cost"]].mean().join(rows.accuracy.std().rename("spread"))
        tables[name] = table[rows.size() == len(runs)].reset_index()
    return tables


def gains(runs: Sequence[dict], *, of: str = TOGETHER, over: str = SEPARATELY) -> dict[str, list[float]]:
    """Accuracy of one approach minus that of another, a number per run: mean of the early exits, of all exits, and the last exit."""
    differences = [[a - c for a, c in zip(r["accuracy"][of], r["accuracy"][over], strict=True)] for r in runs]
    return {
        "early": [_mean(d[:-1]) for d in differences],
        "all": [_mean(d) for d in differences],
        "last": [d[-1] for d in differences],
    }


def decide(differences: Sequence[float], *, noise: float = 0.0) -> bool | None:
    """Whether a difference is positive, ``None`` if that cannot be told.

    Several runs: undecided within two standard errors of their mean.  One run: undecided within ``noise``.
    """
    mean = _mean(differences)
    margin = 2 * _std(differences) / math.sqrt(len(differences)) if len(differences) > 1 else noise
    return None if abs(mean) <= margin else mean > 0


def test_noise(r: dict) -> float:
    """Two standard deviations of the difference of two accuracies near that of the last exit, each from so many test images."""
    p = r["accuracy"][UNPRUNED][-1]
    return 2 * math.sqrt(2 * max(p * (1 - p), 0.01) / r["counts"]["test"])


def lead(differences: Sequence[float], first: str, second: str, *, noise: float = 0.0) -> str:
    """In words, who is ahead by how much, or that it cannot be told."""
    verdict, points = decide(differences, noise=noise), 100 * _mean(differences)
    spread = f" ± {100 * _std(differences):.1f}" if len(differences) > 1 else ""
    ahead = first if points > 0 else second
    doubt = ", within the noise" if verdict is None else ""
    return f"{ahead} is ahead by {abs(points):.1f}{spread} points{doubt}"


# ------------------------------------------------------------------------------------------------------ magnitudes and pools


def magnitudes(net: EarlyExitNetwork) -> pd.DataFrame:
    """The magnitude of every weight: ``magnitude``, ``part`` (backbone, exits)."""
    parts = {part: torch.cat([m.weight.detach().abs().flatten().cpu() for m in pruning.layers(net, part=part).values()])
             for part in ("backbone", "exits")}  # fmt: skip
    return pd.concat([pd.DataFrame({"magnitude": values.numpy(), "part": part}) for part, values in parts.items()], ignore_index=True)


def cuts(table: pd.DataFrame, sparsity: float) -> dict[str, float]:
    """The magnitude below which a share of each pool lies: ``"all"``, ``"backbone"``, ``"exits"``; and, under ``"exits in all"``, the
    share of the exits' weights below the common cut."""
    found = {part: float(group.magnitude.quantile(sparsity)) for part, group in table.groupby("part")}
    common = float(table.magnitude.quantile(sparsity))
    exits = table.magnitude[table.part == "exits"]
    return found | {"all": common, "exits in all": float((exits < common).mean())}


# ------------------------------------------------------------------------------------------------------ what it is worth


@torch.inference_mode()
def deployment(b: Bench, nets: dict[str, EarlyExitNetwork], *, batch_size: int, rounds: int = 5) -> pd.DataFrame:
    """Weights, MACs, bytes and seconds of several networks, measured alternately, all exits computed, plain copies without masks.

    Returns:
        One row per network: ``weights`` (not zero), ``parameters`` (stored), ``effective MACs``, ``MACs`` (done), ``file`` and ``gzip``
        (bytes), ``seconds`` (per batch), ``early`` and ``last`` (test accuracy).
    """
    x = b.data.test.tensors[0][:batch_size].to(b.sample.device)
    plain = {name: pruning.permanent(net) for name, net in nets.items()}
    seconds = early_exits.median_seconds({name: partial(net, x) for name, net in plain.items()}, rounds=rounds)
    rows = {}
    for name, net in plain.items():
        table = pruning.sparsity_table(net)
        accuracy = pruning.accuracies(net, vision.batches(b.data.test))
        rows[name] = {
            "weights": int(table.weights.sum() - table.zeros.sum()),
            "parameters": int(table.weights.sum()),
            "effective MACs": pruning.effective_costs(net, b.sample).backbone,
            "MACs": count_macs(net, b.sample).backbone,
            "file": pruning.checkpoint_bytes(net, compress=False),
            "gzip": pruning.checkpoint_bytes(net),
            "seconds": seconds[name],
            "early": _mean(accuracy[:-1]),
            "last": accuracy[-1],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `deployment` that can be saved, as parts of the first row."""
    columns = ["weights", "effective MACs", "MACs", "file", "gzip", "seconds"]
    return table[columns] / table[columns].iloc[0]


# -------------------------------------------------------------------------------------------------------- beyond the thesis


def sweep(b: Bench) -> list[dict]:
    """Both approaches over pruning rates; the separate one also over the share of the weight budget that its exits may keep.

    At each rate all networks keep equally many weights.  The separate ones give their exits more or fewer of them, and the backbone the
    rest; ``s.sweep.exit_sparsity`` says how sparse the exits become, and once they become as sparse as the backbone: the plain approach 2.
    Rounds per weight and samples per round are equal throughout.

    Returns:
        A row per rate and sparsity of the exits: ``sparsity`` (of all weights), ``exits`` (of the exits, asked for), ``share`` (of the
        weights kept, those in exits), on test together - separately: ``early`` (mean of the early exits) and ``last``; ``pool_exits``
        and ``pool_share`` say what pruning together left in the exits; ``kept`` and ``pool_kept`` count all weights kept.
    """
    s, rows, test = b.s.sweep, [], vision.batches(b.data.test)
    sizes = pruning.sparsity_table(b.net).groupby("part").weights.sum()
    for rate in s.rates:
        pool, _ = pruned(b, "sweep together", [("all", rate, s.rounds)], samples=s.samples)
        of_pool, left, sparsity = pruning.accuracies(pool, test), _kept(pool), 1 - (1 - rate) ** s.rounds
        for exits in [*(x for x in s.exit_sparsity if x < sparsity), sparsity]:
            keep_exits = 1 - exits
            keep_backbone = ((1 - sparsity) * sizes.sum() - keep_exits * sizes["exits"]) / sizes["backbone"]
            plan = [(part, 1 - keep ** (1 / s.rounds), s.rounds) for part, keep in (("backbone", keep_backbone), ("exits", keep_exits))]
            apart, _ = pruned(b, "sweep separately", plan, samples=s.samples)
            difference = [x - y for x, y in zip(of_pool, pruning.accuracies(apart, test), strict=True)]
            rows.append({
                "sparsity": sparsity, "exits": exits, "share": _kept(apart)["share"], "early": _mean(difference[:-1]),
                "last": difference[-1], "pool_exits": left["sparsity"], "pool_share": left["share"],
                "kept": _kept(apart)["kept"], "pool_kept": left["kept"],
            })  # fmt: skip
    return rows


def _kept(net: EarlyExitNetwork) -> dict[str, float | int]:
    """Of the exits: their sparsity, and their share of all weights ``kept``."""
    table = pruning.sparsity_table(net)
    kept = (table.weights - table.zeros).groupby(table.part).sum()
    return {"sparsity": float(pruning.pool_sparsity(table)["exits"]), "share": float(kept["exits"] / kept.sum()), "kept": int(kept.sum())}


def sweep_table(sweeps: Sequence[list[dict]], value: str) -> pd.DataFrame:
    """Mean over the runs of ``value`` (``"early"`` or ``"last"``): a row per sparsity of the network, a column per sparsity of the exits;
    the last column, ``"as all"``, is the plain approach 2."""
    rows = pd.concat(pd.DataFrame(each) for each in sweeps)
    labels = [f"{x:.2f}" if x < y else "as all" for x, y in zip(rows.exits, rows.sparsity, strict=True)]
    table = rows.assign(exits=labels).groupby(["sparsity", "exits"])[value].mean().unstack()
    return table.rename(index=lambda x: f"{x:.2f}")


def sweep_verdict(sweeps: Sequence[list[dict]]) -> str:
    """When together stops being the better choice, in words, from the mean over the runs."""
    sentences = []
    for value, where in (("early", "At the early exits"), ("last", "At the last exit")):
        table = sweep_table(sweeps, value)
        plain, gentle = table["as all"], table.drop(columns="as all").iloc[:, 0]
        sentences.append(
            f"{where}, together leads at {int((plain > 0).sum())} of {len(plain)} rates when exits are pruned like the backbone "
            f"(by {100 * plain.mean():+.1f} points on average), and at {int((gentle > 0).sum())} of {gentle.count()} when separate pruning "
            f"lets its exits keep {1 - float(gentle.name):.0%} of their weights ({100 * gentle.mean():+.1f} points)."
        )
    return " ".join(sentences)


# ------------------------------------------------------------------------------------------------------- claims and the study


def claim_all(record: experiment.Record, runs: Sequence[dict]) -> None:
    """The thesis's claims beside ours, for one run or several."""
    table = layer_table(runs)
    early = table[(table.kind == "linear")].iloc[:-1]
    per_run = [layer_table([r]).loc[early.index].difference for r in runs]
    record.claim(
        "separate pruning leaves every linear exit sparser; ours: mean difference of the early exits' sparsity, together - separately",
        thesis=f"{_mean(THESIS_LINEAR[:-1]):.2f} ({min(THESIS_LINEAR[:-1]):.2f} to {max(THESIS_LINEAR[:-1]):.2f}, figure)",
        ours=float(early.difference.mean()),
        spread=_spread([d.mean() for d in per_run]),
        holds=bool((early.difference < 0).all()),
        where="Where the zeros are",
    )
    convolutions = table[table.kind == "convolution"].difference.abs()
    record.claim(
        "convolutions end equally sparse: mostly within .04; ours: share of the convolutions within .04",
        thesis="mostly within ±.04 (figure)",
        ours=float((convolutions <= 0.04).mean()),
        holds=bool((convolutions <= 0.04).mean() > 0.5),
        where="Where the zeros are",
    )
    gain, noise = gains(runs), test_noise(runs[0])
    thesis = [a - c for a, c in zip(THESIS[TOGETHER], THESIS[SEPARATELY], strict=True)]
    for key, statement, number in [
        ("early", "together is better at the intermediate exits; ours: mean accuracy difference of the early exits", _mean(thesis[:-1])),
        ("all", "treating all weights the same is best overall; ours: mean accuracy difference of all exits", _mean(thesis)),
    ]:
        record.claim(
            statement,
            thesis=f"{number:+.3f} (figure)",
            ours=_mean(gain[key]),
            spread=_spread(gain[key]),
            holds=decide(gain[key], noise=noise),
            where="Accuracy",
        )
    last = [-value for value in gain["last"]]
    record.claim(
        "at the final exit separate pruning is ahead; ours: accuracy difference, separately - together",
        thesis=f"{-thesis[-1]:+.3f} (figure)",
        ours=_mean(last),
        spread=_spread(last),
        holds=decide(last, noise=noise),
        where="Accuracy",
    )
    if CONTROL in runs[0]["accuracy"]:
        control = gains(runs, of=CONTROL)["early"]
        record.claim(
            "it is the loss: tuning the backbone for all exits makes separate pruning better at the early ones; ours: gain over plain",
            thesis="not stated",
            ours=_mean(control),
            spread=_spread(control),
            holds=decide(control, noise=noise),
            where="Order, loss or sparsity?",
        )
    columns = accuracy_table(runs).pivot(index="exit", columns="approach", values="accuracy").round(4)
    record.numbers |= {"accuracy per exit": columns.to_dict("list"), "pools": runs[0]["pools"], "macs": runs[0]["macs"]}


def claim_sweep(record: experiment.Record, sweeps: Sequence[list[dict]]) -> None:
    """Our own claim: what separate pruning loses at the early exits, it loses by the sparsity of its exits."""
    shares = []
    for each in sweeps:
        table = sweep_table([each], "early")
        plain, gentle = table["as all"].mean(), table.drop(columns="as all").iloc[:, 0].mean()
        shares.append(1 - gentle / plain if plain > 0 else math.nan)
    shares = [share for share in shares if not math.isnan(share)]
    record.claim(
        "it is the exits' sparsity: at the same total, exits that keep most of their weights close at least half of separate pruning's gap "
        "at the early exits; ours: part of the gap that is closed",
        thesis="not stated",
        ours=_mean(shares) if shares else "there is no gap",
        spread=_spread(shares) if shares else None,
        holds=_mean(shares) >= 0.5 if shares else None,
        where="Order, loss or sparsity?",
    )


def claim_deployment(record: experiment.Record, table: pd.DataFrame) -> None:
    """What zeros and missing channels save, measured: rows `UNPRUNED`, `TOGETHER` and ``"channels"`` of `deployment`."""
    part = relative(table)
    record.claim(
        "unstructured zeros leave the latency as it is; ours: time relative to the unpruned network, within a tenth",
        thesis="not stated",
        ours=float(part.seconds[TOGETHER]),
        holds=bool(abs(part.seconds[TOGETHER] - 1) <= 0.1),
        where="Zeros and the clock",
    )
    record.claim(
        "zeros make the compressed checkpoint smaller; ours: gzip size relative to the unpruned network's",
        thesis="not stated",
        ours=float(part.gzip[TOGETHER]),
        holds=bool(part.gzip[TOGETHER] < 0.9),
        where="Zeros and the clock",
    )
    record.claim(
        "removing channels saves time; ours: time relative to the unpruned network",
        thesis="not stated",
        ours=float(part.seconds["channels"]),
        holds=bool(part.seconds["channels"] < 0.9),
        where="Zeros and the clock",
    )
    record.numbers["deployment"] = table.round(5).to_dict("index")


def study() -> Path:
    """The main comparison with its control, and the sweep, with several seeds; every step is kept as it finishes."""
    s = experiment.settings(CHAPTER, "study")
    runs, sweeps = [], []
    for seed in range(s.seeds):
        facts = {"study": STUDY, "seed": seed, "recipe": s}
        runs.append(experiment.resumable(f"pruning-{seed}", partial(_main, s, seed), **facts))
        sweeps.append(experiment.resumable(f"pruning-sweep-{seed}", partial(_sweep, s, seed), **facts)["rows"])
    record = experiment.Record(
        CHAPTER, study=STUDY, at="study", data={runs[0]["data"]: runs[0]["counts"]}, seeds=list(range(s.seeds))
    )
    claim_all(record, runs)
    claim_sweep(record, sweeps)
    record.numbers |= {"runs": runs, "sweeps": sweeps}
    return record.save()


def _main(s: SimpleNamespace, seed: int) -> dict:
    b = bench(s, seed=seed)
    return run(b, {name: both(b, name) for name in (TOGETHER, SEPARATELY, CONTROL)})


def _sweep(s: SimpleNamespace, seed: int) -> dict:
    return {"rows": sweep(bench(s, seed=seed))}


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


def _std(values: Sequence[float]) -> float:
    return float(pd.Series(values).std())


def _spread(values: Sequence[float]) -> float | None:
    return _std(values) if len(values) > 1 else None
