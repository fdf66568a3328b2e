"""Speed of inference that stops early: measured, and compared with what stages and MACs promise."""

from copy import deepcopy
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from tqdm import trange

from eenotes import (
    Confidence,
    EarlyExitNetwork,
    collect,
    count_macs,
    linear_exits,
    predict,
    predict_stream,
    simulate,
    split,
)
from eenotes.costs import Costs
from eenotes_book.models.resnet import CifarResNet
from eenotes_book.timing import median_seconds, timed

COSTS = (0.3, 0.5, 0.7)
# Batch size → images of a stream.  Survivors that still wait at its end run in small batches, which
# only a short stream notices.
STREAMS = {1: 64, 64: 4096, 256: 2048}


def speed_up(depth: int, every: int, *, rounds: int) -> pd.DataFrame:
    """The speed-ups of `predict` and `predict_stream`, and what they are of the promised ones.

    Returns:
        One row per batch size and relative cost.  The backbone runs in its faster memory format;
        (a) is the measured over the promised speed-up if the times of the stages promise it, (b) if
        MACs do.
    """
    torch.manual_seed(0)
    backbone, x = CifarResNet(depth).eval(), torch.randn(1024, 3, 32, 32)
    stages = split(backbone, at=backbone.exit_points[::every])
    net = EarlyExitNetwork(stages, linear_exits(stages, x[:2], num_classes=10)).eval()
    logits, _ = collect(net, [(part, torch.zeros(len(part))) for part in x.split(256)])
    costs = count_macs(net, x[:1])
    rules = [rule_at_cost(logits, costs, target) for target in COSTS]
    tables = [
        _at_batch_size(backbone, net, x, rules, costs, size=size, rounds=rounds) for size in STREAMS
    ]
    return pd.concat(tables)


def rule_at_cost(logits: Tensor, costs: Costs, target: float) -> Confidence:
    """The rule whose cost comes near a target.

    At each exit the same share of the samples that are still there exits, the most confident ones.
    """
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        rule = Confidence(_thresholds(logits, share))
        too_dear = costs.relative_cost(simulate(logits, rule).exit_index).mean().item() > target
        low, high = (share, high) if too_dear else (low, share)
    return rule


def _thresholds(logits: Tensor, share: float) -> list[float]:
    thresholds, here = [], torch.arange(logits.shape[1])
    for exit_logits in logits[:-1]:
        confidence = exit_logits[here].softmax(1).amax(1)
        thresholds.append(confidence.quantile(1 - share).item() if len(here) else 1.0)
        here = here[confidence <= thresholds[-1]]
    return thresholds


@torch.inference_mode()
def _at_batch_size(
    backbone: CifarResNet,
    net: EarlyExitNetwork,
    x: Tensor,
    rules: list[Confidence],
    costs: Costs,
    *,
    size: int,
    rounds: int,
) -> pd.DataFrame:
    """Medians over the rounds, in the memory format in which the backbone is the faster."""
    batches = [x.roll(i * size, 0)[:size] for i in range(STREAMS[size] // size)]
    backbone, net, batches = _in_the_faster_format(backbone, net, batches)
    exits = [predict_stream(net, batches, rule, batch_size=size).exit_index for rule in rules]
    turns = trange(rounds + 1, desc=f"batches of {size}", leave=False)
    measured = pd.concat(_round(backbone, net, batches, rules, exits, size=size) for _ in turns)
    # the first round warms up
    table = measured.groupby("rule").apply(
        lambda rows: rows.iloc[1:].median(), include_groups=False
    )
    by_macs = [costs.relative_cost(exit_index).mean().item() for exit_index in exits]
    table.insert(0, "relative cost", by_macs)
    table.insert(0, "batch", size)
    return table.assign(
        **{"(b)": table["speed-up"] * by_macs, "(b) rebatched": table["rebatched"] * by_macs}
    )


def _round(
    backbone: CifarResNet,
    net: EarlyExitNetwork,
    batches: list[Tensor],
    rules: list[Confidence],
    exits: list[Tensor],
    *,
    size: int,
) -> pd.DataFrame:
    """Ratios of what is measured side by side, because the pace of a machine changes in seconds.

    Each rule stands between two measurements of the stages, and what it takes is compared with
    their mean.  The speed-up that the stages promise is the backbone's time over what they take for
    the samples that reach them; divided into the one measured, the backbone's time cancels.
    """
    everything, _ = timed(lambda: [backbone(batch) for batch in batches])
    rows = []
    before = stage_seconds(net, batches)
    for i, (rule, exit_index) in enumerate(zip(rules, exits, strict=True)):
        alone, _ = timed(lambda rule=rule: [predict(net, batch, rule) for batch in batches])
        stream, _ = timed(partial(predict_stream, net, batches, rule, batch_size=size))
        after = stage_seconds(net, batches)
        promised = [
            stages.backbone * stages.relative_cost(exit_index).mean().item()
            for stages in (before, after)
        ]
        promised = sum(promised) / 2
        rows.append(
            {
                "rule": i,
                "speed-up": everything / alone,
                "rebatched": everything / stream,
                "(a)": promised / alone,
                "(a) rebatched": promised / stream,
            }
        )
        before = after
    return pd.DataFrame(rows)


def stage_seconds(net: EarlyExitNetwork, batches: list[Tensor]) -> Costs:
    """The seconds of each stage and each exit test on full batches.

    They are measured as they follow one another: each finds its input in the caches as it does
    under a rule, and together the stages take the time of the backbone.
    """
    stages, exits = [0.0] * net.num_exits, [0.0] * (net.num_exits - 1)
    for x in batches:
        for j, stage in enumerate(net.stages):
            seconds, x = timed(partial(stage, x))
            stages[j] += seconds
            if j < len(net.exits):
                exits[j] += timed(partial(net.exits[j], x))[0]
    return Costs(tuple(stages), tuple(exits))


def _in_the_faster_format(backbone: CifarResNet, net: EarlyExitNetwork, batches: list[Tensor]):
    copies = []
    for layout in (torch.contiguous_format, torch.channels_last):
        plain, exits = (module.to(memory_format=layout) for module in deepcopy((backbone, net)))
        copies.append((plain, exits, [batch.to(memory_format=layout) for batch in batches]))
    seconds = median_seconds(
        {i: lambda c=c: [c[0](batch) for batch in c[2]] for i, c in enumerate(copies)},
        rounds=3,
        repeats=1,
    )
    return copies[min(seconds, key=seconds.get)]
