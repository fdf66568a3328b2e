"""Seconds of chapter 1: what early exits save on the clock, batch size by batch size."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes.costs import Costs, count_macs
from eenotes.inference import predict, simulate
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Rule
from eenotes.streaming import predict_stream
from eenotes_book.timing import median_seconds

BATCH_SIZES = (1, 64, 256)


@dataclass(frozen=True)
class Timing:
    """Seconds for the same images, cut into batches of one size."""

    batch_size: int
    images: int
    backbone: float
    stages: tuple[float, ...]  #: each on all images, as if none exits before
    exits: tuple[float, ...]
    every_exit: float  #: all stages and exit tests for all images, then `simulate`
    #: a row per ``rule``: ``seconds`` of `predict`, ``stream_seconds`` of `predict_stream`,
    #: ``relative_cost`` (by MACs), ``stage_cost`` (by the times of stages and exits)
    rules: pd.DataFrame


@torch.inference_mode()
def time_rules(
    backbone: nn.Module,
    net: EarlyExitNetwork,
    x: Tensor,
    rules: Mapping[str, Rule],
    *,
    batch_size: int,
    rounds: int = 3,
) -> Timing:
    """Time the backbone, every stage and exit test, and inference under each rule.

    A rule is timed in `predict` and in `predict_stream`; ``x`` are images ``(N, C, H, W)``.
    """
    chunks = x.split(batch_size)
    inputs = [list(chunks)]
    for stage in net.stages[:-1]:
        inputs.append([stage(features) for features in inputs[-1]])
    statements: dict[Hashable, Callable[[], object]] = {
        "backbone": lambda: [backbone(chunk) for chunk in chunks],
        "every exit": lambda: [
            simulate(net(chunk), next(iter(rules.values()))) for chunk in chunks
        ],
    }
    for j, stage in enumerate(net.stages):
        statements["stage", j] = partial(_each, stage, inputs[j])
    for j, head in enumerate(net.exits):
        statements["exit", j] = partial(_each, head, inputs[j + 1])
    for name, rule in rules.items():
        statements["rule", name] = partial(_each, partial(predict, net, rule=rule), chunks)
        statements["stream", name] = partial(
            predict_stream, net, chunks, rule, batch_size=batch_size
        )
    seconds = median_seconds(statements, rounds=rounds)

    stages = tuple(seconds["stage", j] for j in range(net.num_exits))
    exits = tuple(seconds["exit", j] for j in range(net.num_exits - 1))
    by_macs, by_time = count_macs(net, x[:1]), Costs(stages, exits)
    rows = []
    for name, rule in rules.items():
        exit_index = torch.cat([predict(net, chunk, rule).exit_index for chunk in chunks])
        relative_cost, stage_cost = (
            costs.under(rule).relative_cost(exit_index).mean().item()
            for costs in (by_macs, by_time)
        )
        rows.append(
            {
                "rule": name,
                "relative_cost": relative_cost,
                "stage_cost": stage_cost,
                "seconds": seconds["rule", name],
                "stream_seconds": seconds["stream", name],
            }
        )
    return Timing(
        batch_size,
        len(x),
        seconds["backbone"],
        stages,
        exits,
        seconds["every exit"],
        pd.DataFrame(rows),
    )


def timings(
    backbone: nn.Module,
    net: EarlyExitNetwork,
    x: Tensor,
    rules: Mapping[str, Rule],
    *,
    sizes: Sequence[int] = BATCH_SIZES,
) -> list[Timing]:
    """`time_rules` at several batch sizes.

    The networks are copies in the memory format that convolutions prefer (channels last).  Of the
    images ``(N, C, H, W)`` at most four batches are timed, and at least 64 images.
    """
    backbone, net = deepcopy((backbone, net))
    backbone.to(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    return [
        time_rules(backbone, net, x[: max(64, 4 * size)], rules, batch_size=size) for size in sizes
    ]


def relative_times(measured: Sequence[Timing]) -> pd.DataFrame:
    """One row per batch size and rule, all as parts of the plain backbone.

    Returns:
        ``batch``, ``rule``, ``MACs``, ``stage times``, and what the clock says of three ways to
        exit: ``compacted`` (`predict`), ``rebatched`` (`predict_stream`) and ``every exit``.
    """
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
    """The shares of MACs and of time of each stage, without exit tests.

    Returns:
        A row per ``stage`` (from 1): ``macs``, ``time``, and ``time_per_mac``, the time of one MAC
        relative to the average.
    """
    macs = torch.tensor(costs.stages, dtype=torch.float64) / costs.backbone
    seconds = torch.tensor(timing.stages, dtype=torch.float64) / sum(timing.stages)
    columns = {
        "macs": macs.tolist(),
        "time": seconds.tolist(),
        "time_per_mac": (seconds / macs).tolist(),
    }
    return pd.DataFrame({"stage": range(1, len(macs) + 1)} | columns)


def _each(function: Callable[[Tensor], object], batches: Sequence[Tensor]) -> list[object]:
    return [function(batch) for batch in batches]
