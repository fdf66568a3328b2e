"""The book's speed claims, as ratios measured in one run of one process.

    python -m benchmarks            print them
    python -m benchmarks --check    and exit with 1 if a goal is missed

Weights and images are random: the arithmetic does not depend on them, only on which images leave where, and that is set by
thresholds chosen so that the relative cost comes near a target.  What is compared alternates, and medians count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy

import pandas as pd
import torch
from torch import Tensor

import eenotes
from eenotes import Confidence, EarlyExitNetwork, collect, count_macs, e2cm, linear_exits, predict_stream, simulate, split
from eenotes.costs import Costs
from eenotes.models import CifarResNet
from eenotes.studies.early_exits import Timing, median_seconds, time_rules

COSTS = (0.3, 0.5, 0.7)
BATCH_SIZES = (1, 64, 256)
FORMATS = (torch.contiguous_format, torch.channels_last)
STREAM = 32  # batches: survivors that still wait at the end of a stream run in small batches, which only a short stream notices
# An exit after every block of ResNet-20 but the last, after every third of ResNet-56.
DEPTHS = {20: 1, 56: 3}
GOALS = {"engine": 0.9, "class means": 1.15, "token means": 1.2, "import": 1.5}


def rule_at_cost(logits: Tensor, costs: Costs, target: float) -> Confidence:
    """The rule under which the same share of those still there, the surest, leaves each exit, and the cost comes near the target."""
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


def speed_up(depth: int, every: int, *, rounds: int, images: int = 1024) -> pd.DataFrame:
    """Measured over promised speed-up of `predict`: one row per batch size and relative cost."""
    torch.manual_seed(0)
    backbone, x = CifarResNet(depth).eval(), torch.randn(images, 3, 32, 32)
    stages = split(backbone, at=backbone.exit_points[::every])
    net = EarlyExitNetwork(stages, linear_exits(stages, x[:2], num_classes=10)).eval()
    logits, costs = collect(net, [(part, torch.zeros(len(part))) for part in x.split(256)])[0], count_macs(net, x[:1])
    rules = {str(target): rule_at_cost(logits, costs, target) for target in COSTS}
    rows = []
    for size in BATCH_SIZES:
        measured = [_in_format(backbone, net, x[: max(32, 8 * size)], rules, size, rounds, layout) for layout in FORMATS]
        plain = min(timing.backbone for timing in measured)
        stream = stream_speed_up(backbone, net, x, rules, measured, size=size, rounds=rounds)
        for i in range(len(rules)):
            best = min(measured, key=lambda timing: timing.rules.seconds[i])
            row = best.rules.loc[i]
            engine, macs = (plain / row.seconds * promised for promised in (row.stage_cost, row.relative_cost))
            rows.append({"ResNet": depth, "batch": size, "relative cost": row.relative_cost, "speed-up": plain / row.seconds,
                         "(a) over stage times": engine, "(a) rebatched": stream[i], "(b) over MACs": macs})  # fmt: skip
    return pd.DataFrame(rows)


def stream_speed_up(
    backbone: CifarResNet, net: EarlyExitNetwork, x: Tensor, rules: dict, measured: list[Timing], *, size: int, rounds: int
) -> list[float]:
    """Measured over promised speed-up of `predict_stream` on a long stream, in the format that suits the backbone: one number a rule."""
    fastest = min(range(len(FORMATS)), key=lambda i: measured[i].backbone)
    backbone, net = (module.to(memory_format=FORMATS[fastest]) for module in deepcopy((backbone, net)))
    batches = [x.roll(i * size, 0)[:size].to(memory_format=FORMATS[fastest]) for i in range(STREAM)]
    costs = Costs(measured[fastest].stages, measured[fastest].exits)
    with torch.inference_mode():
        statements: dict = {"backbone": lambda: [backbone(batch) for batch in batches]}
        for name, rule in rules.items():
            statements[name] = lambda rule=rule: predict_stream(net, batches, rule, batch_size=size)
        seconds = median_seconds(statements, rounds=rounds, repeats=1)
        promised = [costs.relative_cost(predict_stream(net, batches, rule, batch_size=size).exit_index).mean() for rule in rules.values()]
    return [seconds["backbone"] / seconds[name] * share.item() for name, share in zip(rules, promised, strict=True)]


def _in_format(backbone, net, x: Tensor, rules, size: int, rounds: int, layout: torch.memory_format) -> Timing:
    backbone, net = (module.to(memory_format=layout) for module in deepcopy((backbone, net)))
    return time_rules(backbone, net, x.to(memory_format=layout), rules, batch_size=size, rounds=rounds)


@torch.no_grad()
def class_mean_fitting(depth: int, *, rounds: int, images: int = 1024, size: int = 256) -> dict[str, float]:
    """Time of `e2cm.fit` over the time of the forward passes it needs: one for the normaliser "rms", two for "mean"."""
    torch.manual_seed(0)
    backbone = CifarResNet(depth).eval()
    stages = split(backbone, at=backbone.exit_points)
    batches = [(torch.randn(size, 3, 32, 32), torch.arange(size) % 10) for _ in range(images // size)]

    def forward() -> None:
        for x, _ in batches:
            for stage in stages[:-1]:
                x = stage(x)

    statements: dict[str, Callable[[], object]] = {"forward": forward}
    for normaliser in ("rms", "mean"):
        statements[normaliser] = lambda how=normaliser: e2cm.fit(stages, batches, num_classes=10, normaliser=how)
    seconds = median_seconds(statements, rounds=rounds)
    return {"rms": seconds["rms"] / seconds["forward"], "mean": seconds["mean"] / (2 * seconds["forward"])}


@torch.no_grad()
def token_means(*, rounds: int, rows: int = 128, vocabulary: int = 8192, width: int = 256) -> float:
    """Time of `class_aware.statistics` over the time of the forward passes that it needs: the decoders below the exit, and no head."""
    from transformers import OPTConfig, OPTForCausalLM

    from eenotes import class_aware

    torch.manual_seed(0)
    shape = {"hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 4 * width, "num_hidden_layers": 8, "num_attention_heads": 4}
    model = class_aware.attach(OPTForCausalLM(OPTConfig(vocab_size=vocabulary, **shape)), at=4).eval()
    batches = torch.randint(0, vocabulary, (rows, 96)).split(32)
    statements: dict[str, Callable[[], object]] = {
        "forward": lambda: [model.features(ids) for ids in batches],
        "statistics": lambda: class_aware.statistics(model, batches),
    }
    seconds = median_seconds(statements, rounds=rounds)
    return seconds["statistics"] / seconds["forward"]


def import_time(*, rounds: int = 5) -> dict[str, float]:
    """Time to import eenotes, alone and with every public name looked up, over the time to import torch; in fresh processes."""
    statements = {
        "torch": "import torch",
        "alone": "import torch, eenotes",
        "every name": f"import torch; from eenotes import {', '.join(eenotes.__all__)}",
    }
    seconds: dict[str, list[float]] = {name: [] for name in statements}
    for i in range(rounds + 1):
        for name, statement in statements.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True, env=os.environ)
            if i:  # the first round fills the disk cache
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {name: medians[name] / medians["torch"] for name in ("alone", "every name")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per median")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n")

    table = pd.concat([speed_up(depth, every, rounds=arguments.rounds) for depth, every in DEPTHS.items()], ignore_index=True)
    print("Speed-up of predict over the plain backbone (the faster of both memory formats), divided by what is promised")
    print(table.round(2).to_string(index=False), end="\n\n")

    fitting, importing = class_mean_fitting(20, rounds=arguments.rounds), import_time(rounds=arguments.rounds)
    batched = table[table.batch > 1]
    ratios = [
        ("(a) at batch 64 and 256, each batch alone, lowest", batched["(a) over stage times"].min(), "≥", GOALS["engine"]),
        ("(a) at batch 64 and 256, rebatched, lowest", batched["(a) rebatched"].min(), "≥", GOALS["engine"]),
        ("fitting class means, one pass (rms), over forward passes", fitting["rms"], "≤", GOALS["class means"]),
        ("fitting class means, two passes (mean), over forward passes", fitting["mean"], "≤", GOALS["class means"]),
        ("class means of tokens, over forward passes", token_means(rounds=arguments.rounds), "≤", GOALS["token means"]),
        ("import eenotes over import torch", importing["alone"], "≤", GOALS["import"]),
        ("import every public name over import torch", importing["every name"], "≤", GOALS["import"]),
    ]
    met = [ratio >= goal if sign == "≥" else ratio <= goal for _, ratio, sign, goal in ratios]
    for (what, ratio, sign, goal), good in zip(ratios, met, strict=True):
        print(f"{what:<62}{ratio:5.2f}   goal {sign} {goal}   {'met' if good else 'MISSED'}")
    return int(arguments.check and not all(met))


if __name__ == "__main__":
    sys.exit(main())
