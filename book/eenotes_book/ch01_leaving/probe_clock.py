"""Probe of chapter 1, the clock: what is timed, how often, in which order; not the seconds."""

from functools import partial
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes.costs import Costs
from eenotes.network import EarlyExitNetwork
from eenotes.rules import Confidence, Rule
from eenotes_book import networks
from eenotes_book.ch01_leaving.clock import Timing, per_stage, relative_times, time_rules, timings
from eenotes_book.ch01_leaving.probe_numbers import later_more, summary
from eenotes_book.data import vision
from eenotes_book.probes import default_dtype
from eenotes_book.timing import median_seconds

Found = dict[str, float | list[float] | Tensor]


def clock(
    backbone: nn.Module, net: EarlyExitNetwork, x: Tensor, rules: dict[str, Rule], costs: Costs
) -> Found:
    """The clock's run without what it read, and its tables for seconds that are given."""
    times = relative_times(timings(backbone, net, x[:2], rules))
    given = _given_timing()
    return {
        "claim 5: batch, MACs": summary(times[["batch", "MACs"]]),
        "claim 5: relative_times": summary(relative_times([given])),
        "claim 5: order of timing": _order_of_timing(),
        "time_rules: MACs, images seen": _seen(backbone, net, x[:16], rules),
        "per_stage": summary(per_stage(given, costs)),
    }


def _given_timing() -> Timing:
    """Seconds that no clock has read."""
    row = {"rule": "0.500", "relative_cost": 0.5, "stage_cost": 0.6}
    return Timing(
        batch_size=4,
        images=16,
        backbone=2.0,
        stages=(0.4, 0.5, 0.6, 0.7),
        exits=(0.1, 0.2, 0.3),
        every_exit=3.0,
        rules=pd.DataFrame([row | {"seconds": 1.4, "stream_seconds": 1.1}]),
    )


def _seen(
    backbone: nn.Module, net: EarlyExitNetwork, x: Tensor, rules: dict[str, Rule]
) -> list[float]:
    """Mean MACs of the rules; how many images pass backbone, stages and exits in `time_rules`."""
    parts = [backbone, *net.stages, *net.exits]
    seen = [0] * len(parts)

    def count(i: int, module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        seen[i] += len(args[0])

    hooks = [part.register_forward_hook(partial(count, i)) for i, part in enumerate(parts)]
    timing = time_rules(backbone, net, x, rules, batch_size=8)
    for hook in hooks:
        hook.remove()
    return [*timing.rules.relative_cost.tolist(), *seen]


def _order_of_timing() -> list[float]:
    """How often, and in which order, two statements are run for timing."""
    log: list[int] = []
    median_seconds({"a": partial(log.append, 1), "b": partial(log.append, 2)}, rounds=2)
    return [len(log), later_more(torch.tensor(log))]


def timed_images(data: vision.Vision) -> list[int]:
    """How many images are timed at two batch sizes, of a network that is small and untrained."""
    small = SimpleNamespace(depth=8, width=2, exits=["group1.0"])
    backbone, net = networks.resnet_with_exits(data, small)
    with default_dtype(torch.float32):
        x, rules = data.test.tensors[0], {"half": Confidence(0.5)}
        timed = timings(backbone.eval(), net.eval(), x, rules, sizes=(15, 17))
    return [timing.images for timing in timed]
