"""The book's speed claims, as ratios measured in one run of one process.

    python -m benchmarks            print them
    python -m benchmarks --check    and exit with 1 if a goal is missed

Weights and images are random: the arithmetic does not depend on them, only on which images leave
where, and that is set by thresholds chosen so that the relative cost comes near a target.  What is
compared is measured side by side, and medians count.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from tqdm import trange

import eenotes
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
from eenotes.methods import e2cm
from eenotes_book.models.resnet import CifarResNet
from eenotes_book.timing import median_seconds, timed

COSTS = (0.3, 0.5, 0.7)
# Batch size → images of a stream.  Survivors that still wait at its end run in small batches, which
# only a short stream notices.
STREAMS = {1: 64, 64: 4096, 256: 2048}
# An exit after every block of ResNet-20 but the last, after every third of ResNet-56.
DEPTHS = {20: 1, 56: 3}
GOALS = {"engine": 0.9, "class means": 1.15, "token means": 1.2, "import": 1.5}


def rule_at_cost(logits: Tensor, costs: Costs, target: float) -> Confidence:
    """The rule under which the same share of those still there, the surest, leaves each exit, and
    the cost comes near the target.
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


def speed_up(depth: int, every: int, *, rounds: int) -> pd.DataFrame:
    """Measured over promised speed-up of `predict` and of `predict_stream`: one row per batch size
    and relative cost.
    """
    torch.manual_seed(0)
    backbone, x = CifarResNet(depth).eval(), torch.randn(1024, 3, 32, 32)
    stages = split(backbone, at=backbone.exit_points[::every])
    net = EarlyExitNetwork(stages, linear_exits(stages, x[:2], num_classes=10)).eval()
    logits, costs = (
        collect(net, [(part, torch.zeros(len(part))) for part in x.split(256)])[0],
        count_macs(net, x[:1]),
    )
    rules = [rule_at_cost(logits, costs, target) for target in COSTS]
    tables = [
        _at_batch_size(backbone, net, x, rules, costs, size=size, rounds=rounds) for size in STREAMS
    ]
    return pd.concat(tables)


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
    """Ratios of what is measured side by side: each rule stands between two measurements of the
    stages, and what it takes is compared
    with their mean, because the pace of a machine changes within seconds.

    The speed-up that the stages promise is the backbone's time over what they take for the samples
    that reach them; divided into the one measured, the backbone's time cancels.
    """
    everything, _ = timed(lambda: [backbone(batch) for batch in batches])
    rows = []
    before = stage_seconds(net, batches)
    for i, (rule, exit_index) in enumerate(zip(rules, exits, strict=True)):
        alone, _ = timed(lambda rule=rule: [predict(net, batch, rule) for batch in batches])
        stream, _ = timed(partial(predict_stream, net, batches, rule, batch_size=size))
        after = stage_seconds(net, batches)
        promised = (
            sum(
                kind.backbone * kind.relative_cost(exit_index).mean().item()
                for kind in (before, after)
            )
            / 2
        )
        rows.append({"rule": i, "speed-up": everything / alone, "rebatched": everything / stream,
                     "(a)": promised / alone, "(a) rebatched": promised / stream})  # fmt: skip
        before = after
    return pd.DataFrame(rows)


def _ratio(
    statement: Callable[[], object], reference: Callable[[], object], *, rounds: int
) -> float:
    """Time of a statement over that of another, which runs before and after it; the median over the
    rounds, a first one left out.
    """
    ratios, before = [], timed(reference)[0]
    for _ in range(rounds + 1):
        taken, after = timed(statement)[0], timed(reference)[0]
        ratios.append(2 * taken / (before + after))
        before = after
    return statistics.median(ratios[1:])


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


@torch.no_grad()
def class_mean_fitting(
    depth: int, *, rounds: int, images: int = 1024, size: int = 256
) -> dict[str, float]:
    """Time of `e2cm.fit` over the time of the forward passes it needs: one for the normaliser
    "rms", two for "mean".
    """
    torch.manual_seed(0)
    backbone = CifarResNet(depth).eval()
    stages = split(backbone, at=backbone.exit_points)
    batches = [
        (torch.randn(size, 3, 32, 32), torch.arange(size) % 10) for _ in range(images // size)
    ]

    def forward() -> None:
        for x, _ in batches:
            for stage in stages[:-1]:
                x = stage(x)

    rms, mean = (
        partial(e2cm.fit, stages, batches, num_classes=10, normaliser=how)
        for how in ("rms", "mean")
    )
    return {
        "rms": _ratio(rms, forward, rounds=rounds),
        "mean": _ratio(mean, forward, rounds=rounds) / 2,
    }


@torch.no_grad()
def token_means(*, rounds: int, rows: int = 128, vocabulary: int = 8192, width: int = 256) -> float:
    """Time of `token_statistics.statistics` over the time of the forward passes that it needs.

    Those are the decoders below the exit, and no head.
    """
    from transformers import OPTConfig, OPTForCausalLM

    from eenotes.language import exits as language_exits
    from eenotes.language import token_statistics

    torch.manual_seed(0)
    shape = {
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
    }
    model = language_exits.attach(
        OPTForCausalLM(OPTConfig(vocab_size=vocabulary, **shape)), at=4
    ).eval()
    batches = torch.randint(0, vocabulary, (rows, 96)).split(32)
    return _ratio(
        lambda: token_statistics.statistics(model, batches),
        lambda: [model.features(ids) for ids in batches],
        rounds=rounds,
    )


def import_time(*, rounds: int = 5) -> dict[str, float]:
    """Time to import eenotes, alone and with every public name looked up, over the time to import
    torch; in fresh processes.
    """
    statements = {
        "torch": "import torch",
        "alone": "import torch, eenotes",
        "every name": f"import torch; from eenotes import {', '.join(eenotes.__all__)}",
    }
    runs = {
        name: partial(subprocess.run, [sys.executable, "-c", statement], check=True, env=os.environ)
        for name, statement in statements.items()
    }
    medians = median_seconds(runs, rounds=rounds, repeats=1)
    return {name: medians[name] / medians["torch"] for name in ("alone", "every name")}


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; whether it took that.

    Otherwise every run is a lottery: whether two freed feature maps of a batch of 256 (17 MB each)
    go back to the operating system, and are fetched anew page by page, depends on what lies above
    them in the heap, and it can make the plain backbone take a third longer, or `predict_stream` a
    fifth (ResNet-20, two threads, AMD EPYC, torch 2.15).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no glibc
        return False
    # the second can be 32 MiB at most, enough for every feature map here
    trim_threshold, mmap_threshold = -1, -3
    return bool(mallopt(trim_threshold, 2**30) and mallopt(mmap_threshold, 2**25))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per median")
    arguments = parser.parse_args()
    memory = "kept by the process" if keep_freed_memory() else "as the platform handles it"
    processor = torch.backends.cpu.get_cpu_capability()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {processor}")
    print(f"freed memory: {memory}\n")

    tables = {
        depth: speed_up(depth, every, rounds=arguments.rounds) for depth, every in DEPTHS.items()
    }
    table = pd.concat(tables, names=["ResNet"]).reset_index("ResNet").reset_index(drop=True)
    print(
        "Speed-up over the plain backbone (in its faster memory format): of predict, each batch "
        "alone, and of predict_stream, rebatched;"
    )
    print(
        "(a) divided by the one that the times of the stages promise, "
        "(b) by the one that MACs promise"
    )
    print(table.round(2).to_string(index=False), end="\n\n")

    fitting, tokens = (
        class_mean_fitting(20, rounds=2 * arguments.rounds),
        token_means(rounds=2 * arguments.rounds),
    )
    importing = import_time(rounds=arguments.rounds)
    batched = table[table.batch > 1].assign(better=table[["(a)", "(a) rebatched"]].max(axis=1))
    ratios = [
        *(
            (
                f"(a) at batch 64 and 256, ResNet-{depth}, lowest: {what}",
                batched[batched.ResNet == depth][column].min(),
                "≥",
                GOALS["engine"],
            )
            for depth in DEPTHS
            for what, column in [("predict", "(a)"), ("the better of the two", "better")]
        ),
        (
            "fitting class means, one pass (rms), over forward passes",
            fitting["rms"],
            "≤",
            GOALS["class means"],
        ),
        (
            "fitting class means, two passes (mean), over forward passes",
            fitting["mean"],
            "≤",
            GOALS["class means"],
        ),
        ("class means of tokens, over forward passes", tokens, "≤", GOALS["token means"]),
        ("import eenotes over import torch", importing["alone"], "≤", GOALS["import"]),
    ]
    met = [ratio >= goal if sign == "≥" else ratio <= goal for _, ratio, sign, goal in ratios]
    for (what, ratio, sign, goal), good in zip(ratios, met, strict=True):
        print(f"{what:<66}{ratio:5.2f}   goal {sign} {goal}   {'met' if good else 'MISSED'}")
    what = "import every public name, torchmetrics for ClassMeans included"
    print(f"{what:<66}{importing['every name']:5.2f}   no goal")
    return int(arguments.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
