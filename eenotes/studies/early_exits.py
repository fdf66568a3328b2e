"""Chapter 1's experiment: a network with early exits, what each image meets in it, and what leaving saves on the clock."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes import experiment, training
from eenotes.calibration import draw_thresholds, evaluate, for_accuracy, pareto_front, sweep
from eenotes.costs import Costs, count_macs
from eenotes.data import vision
from eenotes.heads import linear_exits
from eenotes.inference import collect, predict, predict_stream, simulate
from eenotes.models import CifarResNet
from eenotes.network import EarlyExitNetwork, split
from eenotes.rules import Confidence, Entropy, Patience, Rule

CHAPTER = "01-why-leave-early"
TARGETS = (0.3, 0.5, 0.7)  # relative costs to be timed
BATCH_SIZES = (1, 64, 256)
_TRAINED_BY = ("data", "train", "val", "depth", "width", "exits", "epochs", "batch_size", "learning_rate")


# ------------------------------------------------------------------------------------------------------- the network


def build(data: vision.Vision, s: SimpleNamespace, *, seed: int = 0) -> tuple[CifarResNet, EarlyExitNetwork]:
    """A backbone, and the untrained network made of its stages and a linear exit after each of ``s.exits``; they share parameters."""
    torch.manual_seed(seed)
    backbone = CifarResNet(s.depth, num_classes=len(data.classes), in_channels=data.shape[0], width=s.width)
    stages = split(backbone, at=s.exits)
    exits = linear_exits(stages, data.train.tensors[0][:2], num_classes=len(data.classes))
    return backbone, EarlyExitNetwork(stages, exits)


def train(net: EarlyExitNetwork, data: vision.Vision, s: SimpleNamespace, *, seed: int = 0) -> list[float]:
    """Train all exits and the backbone together, or load what an earlier run has trained; the loss of each epoch."""
    return training.fit(
        net,
        data.train,
        loss=training.joint_loss,
        epochs=s.epochs,
        batch_size=s.batch_size,
        optimizer=partial(training.sgd, lr=s.learning_rate),
        augment=vision.crop_and_flip if data.name == "CIFAR10" else None,
        seed=seed,
        checkpoint=experiment.cached("early-exits", seed=seed, **{name: getattr(s, name) for name in _TRAINED_BY}),
        title=f"{data.name}: {net.num_exits} exits",
    )


# ----------------------------------------------------------------------------------------- what each image meets in it


def by_margin(logits: Tensor, labels: Tensor, *, groups: int = 10) -> pd.DataFrame:
    """Accuracy of one classifier, ``(N, K)`` logits, among images sorted by its margin: best minus second-best logit.

    Returns:
        ``groups`` rows of equal size, most clear-cut first: ``group`` (from 1), ``accuracy``.
    """
    best = logits.topk(2, dim=1).values
    order = (best[:, 0] - best[:, 1]).argsort(descending=True)
    right = (logits.argmax(1) == labels)[order].double()
    return pd.DataFrame({"group": range(1, groups + 1), "accuracy": [part.mean().item() for part in right.tensor_split(groups)]})


def per_exit(logits: Tensor, labels: Tensor, costs: Costs) -> pd.DataFrame:
    """Each exit judged on all images, ``(J, N, K)`` logits: ``exit`` (from 1), ``accuracy``, ``relative_cost``, ``exit_macs``."""
    return pd.DataFrame({
        "exit": range(1, len(logits) + 1),
        "accuracy": _right(logits, labels).double().mean(1).tolist(),
        "relative_cost": (costs.cumulative / costs.backbone).tolist(),
        "exit_macs": [*costs.exits, 0],
    })  # fmt: skip


def easiest(logits: Tensor, *, count: int) -> Tensor:
    """The images that leave first as the threshold comes down from 1: the surest at exit 1."""
    return logits[0].softmax(1).amax(1).argsort(descending=True)[:count]


def hardest(logits: Tensor, *, count: int) -> Tensor:
    """The images that stay longest as the threshold comes down: no early exit is sure of them."""
    return logits[:-1].softmax(2).amax((0, 2)).argsort()[:count]


def overthinking(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """What the rest of the network does to the answer of each early exit, in images.

    Returns:
        One row per early exit: ``exit`` (from 1), ``spoiled`` (right here, wrong at the end), ``repaired`` (wrong here, right at the
        end).
    """
    right = _right(logits, labels)
    early, end = right[:-1], right[-1]
    spoiled, repaired = (early & ~end).sum(1), (~early & end).sum(1)
    return pd.DataFrame({"exit": range(1, len(logits)), "spoiled": spoiled.tolist(), "repaired": repaired.tolist()})


def overthought(logits: Tensor, labels: Tensor) -> Tensor:
    """``(N,)`` bool: right at some early exit, wrong at the end."""
    right = _right(logits, labels)
    return right[:-1].any(0) & ~right[-1]


def oracle_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The accuracy of one who knows which exit to trust: right wherever any exit is."""
    return _right(logits, labels).any(0).double().mean().item()


def falls(logits: Tensor, labels: Tensor, *, count: int) -> pd.DataFrame:
    """The images whose true class loses most probability between its best early exit and the end.

    Returns:
        ``row``, ``exit`` (from 1, the best early one), ``before`` and ``after`` (probabilities of the true class), ``answer`` (the last
        exit's).
    """
    of_truth = logits.softmax(2).gather(2, labels.expand(len(logits), -1)[..., None]).squeeze(2)
    before, exit_index = of_truth[:-1].max(0)
    rows = (before - of_truth[-1]).argsort(descending=True)[:count]
    columns = {"row": rows, "exit": exit_index[rows] + 1, "before": before[rows], "after": of_truth[-1][rows]}
    return pd.DataFrame({name: values.tolist() for name, values in columns.items()} | {"answer": logits[-1].argmax(1)[rows].tolist()})


# ------------------------------------------------------------------------------------------------ what a threshold trades


def single_threshold(logits: Tensor, labels: Tensor, costs: Costs, *, points: int = 91) -> pd.DataFrame:
    """One confidence threshold for all exits: ``threshold``, ``accuracy``, ``relative_cost``, ``left`` per row.

    The thresholds are evenly spaced from 0.1 to 1, and as many quantiles of the confidences besides: those crowd near 1.
    """
    grid = torch.linspace(0.1, 1, points, dtype=torch.float64)
    confidences = logits[:-1].softmax(2).amax(2).flatten().double().cpu().sort().values
    quantiles = confidences[torch.linspace(0, len(confidences) - 1, points).long()]
    thresholds = torch.cat([grid, quantiles[quantiles >= 0.1]]).unique().tolist()
    return pd.DataFrame([{"threshold": t, **evaluate(logits, labels, Confidence(t), costs)} for t in thresholds])


def rules_at_costs(table: pd.DataFrame, targets: Sequence[float] = TARGETS) -> dict[str, Rule]:
    """From `single_threshold`: the threshold whose relative cost is nearest to each target, under its name."""
    thresholds = [table.threshold[(table.relative_cost - target).abs().idxmin()] for target in targets]
    return {f"{threshold:.3f}": Confidence(threshold) for threshold in thresholds}


def validation_fronts(logits: Tensor, labels: Tensor, costs: Costs, *, thresholds: int, seed: int = 0) -> dict[str, pd.DataFrame]:
    """The Pareto front of each rule: ``thresholds`` drawn at random, and every exit closed; for patience every patience there is.

    Returns:
        rule → table with ``rule`` (ready to use), ``accuracy``, ``relative_cost``.
    """
    fronts = {}
    for name, rule, closed in [("confidence", Confidence(1.0), 1.0), ("entropy", Entropy(0.0), 0.0)]:
        drawn = draw_thresholds(logits, rule, count=thresholds, seed=seed)
        drawn = torch.cat([drawn, torch.full_like(drawn[:1], closed)])
        table = sweep(logits, labels, rule, costs, thresholds=drawn)
        fronts[name] = pareto_front(table.assign(rule=[replace(rule, thresholds=t) for t in table.thresholds]))
    patient = [Patience(patience) for patience in range(1, len(logits))]
    fronts["patience"] = pareto_front(pd.DataFrame([{"rule": r, **evaluate(logits, labels, r, costs)} for r in patient]))
    return fronts


def on_test(front: pd.DataFrame, logits: Tensor, labels: Tensor, costs: Costs) -> pd.DataFrame:
    """The rules of a front, chosen on other images, judged on these."""
    return pd.DataFrame([{"rule": rule, **evaluate(logits, labels, rule, costs)} for rule in front["rule"]])


# --------------------------------------------------------------------------------------------------- the wall clock


@dataclass(frozen=True)
class Timing:
    """Seconds for the same images, cut into batches of one size."""

    batch_size: int
    images: int
    backbone: float
    stages: tuple[float, ...]  # each on all images: nobody has left
    exits: tuple[float, ...]
    every_exit: float  # all stages and exit tests for all images, then `simulate`
    rules: pd.DataFrame  # name, seconds of `predict`, of `predict_stream`, relative_cost (MACs), stage_cost (by stages' and exits' times)


def median_seconds(statements: Mapping[Hashable, Callable[[], object]], *, rounds: int, repeats: int = 3) -> dict[Hashable, float]:
    """Run the statements in turn, round after round, so that a slow moment of the machine hits all alike; the median of each.

    In every round a statement runs once unmeasured, because it finds the memory as another one left it, and then ``repeats`` times.
    """
    seconds: dict[Hashable, list[float]] = {name: [] for name in statements}
    for _ in range(rounds):
        for name, statement in statements.items():
            for i in range(repeats + 1):
                _synchronise()
                start = time.perf_counter()
                statement()
                _synchronise()
                if i:
                    seconds[name].append(time.perf_counter() - start)
    return {name: torch.tensor(values, dtype=torch.float64).median().item() for name, values in seconds.items()}


@torch.inference_mode()
def time_rules(
    backbone: nn.Module, net: EarlyExitNetwork, x: Tensor, rules: Mapping[str, Rule], *, batch_size: int, rounds: int = 3
) -> Timing:
    """Time the backbone, every stage and exit test, and under each rule `predict` and `predict_stream`, alternating, on images ``x``
    ``(N, C, H, W)``."""
    chunks = x.split(batch_size)
    inputs = [list(chunks)]
    for stage in net.stages[:-1]:
        inputs.append([stage(features) for features in inputs[-1]])
    statements: dict[Hashable, Callable[[], object]] = {
        "backbone": lambda: [backbone(chunk) for chunk in chunks],
        "every exit": lambda: [simulate(net(chunk), next(iter(rules.values()))) for chunk in chunks],
    }
    for j, stage in enumerate(net.stages):
        statements["stage", j] = partial(_each, stage, inputs[j])
    for j, head in enumerate(net.exits):
        statements["exit", j] = partial(_each, head, inputs[j + 1])
    for name, rule in rules.items():
        statements["rule", name] = partial(_each, partial(predict, net, rule=rule), chunks)
        statements["stream", name] = partial(predict_stream, net, chunks, rule, batch_size=batch_size)
    seconds = median_seconds(statements, rounds=rounds)

    stages = tuple(seconds["stage", j] for j in range(net.num_exits))
    exits = tuple(seconds["exit", j] for j in range(net.num_exits - 1))
    by_macs, by_time, rows = count_macs(net, x[:1]), Costs(stages, exits), []
    for name, rule in rules.items():
        exit_index = torch.cat([predict(net, chunk, rule).exit_index for chunk in chunks])
        relative_cost, stage_cost = (costs.relative_cost(exit_index).mean().item() for costs in (by_macs, by_time))
        rows.append({"rule": name, "relative_cost": relative_cost, "stage_cost": stage_cost, "seconds": seconds["rule", name],
                     "stream_seconds": seconds["stream", name]})  # fmt: skip
    return Timing(batch_size, len(x), seconds["backbone"], stages, exits, seconds["every exit"], pd.DataFrame(rows))


def timings(
    backbone: nn.Module, net: EarlyExitNetwork, x: Tensor, rules: Mapping[str, Rule], *, sizes: Sequence[int] = BATCH_SIZES
) -> list[Timing]:
    """`time_rules` at several batch sizes, in the memory format that convolutions prefer (channels last), on copies.

    At batch 1 the first 64 images are enough.
    """
    backbone, net = deepcopy((backbone, net))
    backbone.to(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    return [time_rules(backbone, net, x[: max(64, 4 * size)], rules, batch_size=size) for size in sizes]


def relative_times(measured: Sequence[Timing]) -> pd.DataFrame:
    """One row per batch size and rule, all as parts of the plain backbone: MACs, stage times, and the clock with three ways to leave."""
    rows = [
        {
            "batch": timing.batch_size,
            "rule": row.rule,
            "MACs": row.relative_cost,
            "stage times": row.stage_cost,
            "compacted": row.seconds / timing.backbone,
            "rebatched": row.stream_seconds / timing.backbone,
            "every exit": timing.every_exit / timing.backbone,
        }
        for timing in measured
        for row in timing.rules.itertuples()
    ]
    return pd.DataFrame(rows)


def per_stage(timing: Timing, costs: Costs) -> pd.DataFrame:
    """Shares of MACs and of time of each stage, without exit tests, and how much more than the average one MAC takes there."""
    macs = torch.tensor(costs.stages, dtype=torch.float64) / costs.backbone
    seconds = torch.tensor(timing.stages, dtype=torch.float64) / sum(timing.stages)
    columns = {"macs": macs.tolist(), "time": seconds.tolist(), "time_per_mac": (seconds / macs).tolist()}
    return pd.DataFrame({"stage": range(1, len(macs) + 1)} | columns)


# ------------------------------------------------------------------------------------------------------- the claims


def judge(
    record: experiment.Record, logits: Tensor, labels: Tensor, costs: Costs, *, chosen: Rule, times: pd.DataFrame
) -> experiment.Record:
    """Put the chapter's claims, judged on the test split and the clock, into the record.

    Args:
        record: to be filled.
        logits: ``(J, N, K)``, of the test split.
        labels: ``(N,)``.
        costs: of the network.
        chosen: the cheapest rule that is as accurate as the last exit on the validation split.
        times: from `relative_times`.
    """
    last = _right(logits, labels)[-1].double()
    found, outcome = evaluate(logits, labels, chosen, costs), simulate(logits, chosen)
    early = outcome.exit_index < len(logits) - 1
    right = (outcome.prediction == labels).double()
    loss = (last.mean() - right.mean()).item()
    record.claim(
        "leaving early saves computation at equal accuracy: relative cost, threshold chosen on validation, within one point on test",
        thesis="not stated",
        ours=found["relative_cost"],
        holds=found["relative_cost"] < 1 and loss <= 0.01,
        where="What a threshold trades",
    )
    lost = (last[early].mean() - right[early].mean()).item() if early.any() else 0.0
    record.claim(
        "easy inputs leave early without loss: accuracy that the last exit would have gained on those who left, at most one point",
        thesis="not stated",
        ours=lost,
        holds=bool(early.any()) and lost <= 0.01,
        where="What a threshold trades",
    )
    gap = (last[early].mean() - last[~early].mean()).item() if early.any() and not early.all() else 0.0
    record.claim(
        "those who leave early are the easier ones: last exit's accuracy on them minus on those who stay",
        thesis="not stated",
        ours=gap,
        holds=gap > 0,
        where="What a threshold trades",
    )
    gain = oracle_accuracy(logits, labels) - last.mean().item()
    record.claim(
        "networks overthink: accuracy that knowing the right exit would add to the last one, at least one point",
        thesis="not stated",
        ours=gain,
        holds=gain >= 0.01,
        where="Overthinking",
    )
    middle = times[times.batch == times.batch.max()].iloc[len(TARGETS) // 2]
    record.claim(
        f"saved MACs are saved time: time relative to the plain backbone at relative cost {middle.MACs:.2f}, batch {middle.batch}",
        thesis="not stated",
        ours=float(middle.compacted),
        holds=bool(middle.compacted < 1),
        where="MACs and the clock",
    )
    record.numbers |= {
        "accuracy per exit": per_exit(logits, labels, costs).round(4).to_dict("list"),
        "accuracy": round(found["accuracy"], 4),
        "overthought images": int(overthought(logits, labels).sum()),
        "relative times": times.round(3).to_dict("list"),
    }
    return record


def main(*, seed: int = 0) -> None:
    """The chapter's numbers without a notebook: ``python -m eenotes.studies.early_exits``."""
    s = experiment.settings(CHAPTER)
    data = vision.load(s.data, train=s.train, val=s.val, test=s.test)
    record = experiment.Record(CHAPTER, study="eenotes.studies.early_exits", data={data.name: data.counts}, seeds=[seed])
    backbone, net = build(data, s, seed=seed)
    train(net, data, s, seed=seed)
    x = data.test.tensors[0][: s.timing_batch].to(experiment.device())
    costs, val, test = count_macs(net, x[:1]), collect(net, vision.batches(data.val)), collect(net, vision.batches(data.test))
    front = validation_fronts(*val, costs, thresholds=s.thresholds, seed=seed)["confidence"]
    chosen = for_accuracy(front, min_accuracy=_right(*val)[-1].double().mean().item())["rule"]
    times = relative_times(timings(backbone, net, x, rules_at_costs(single_threshold(*val, costs))))
    judge(record, *test, costs, chosen=chosen, times=times)
    print(per_exit(*test, costs), times, record.table(), record.save(), sep="\n")


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """``(J, N)`` bool: which exit is right on which image."""
    return logits.argmax(2) == labels


def _each(function: Callable[[Tensor], object], batches: Sequence[Tensor]) -> list[object]:
    return [function(batch) for batch in batches]


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
