"""The book's speed claims, as ratios measured in one run of one process.

    python -m benchmarks            print them
    python -m benchmarks --check    and exit with 1 if a goal is missed

Weights and images are random: the arithmetic does not depend on them, only on which images exit
where, and that is set by thresholds chosen so that the relative cost comes near a target.  What is
compared is measured side by side, and medians count.
"""

import argparse
import ctypes
import sys

import pandas as pd
import torch

from benchmarks import engine, fitting

# An exit after every block of ResNet-20 but the last, after every third of ResNet-56.
DEPTHS = {20: 1, 56: 3}
HEADING = """\
Speed-up over the plain backbone (in its faster memory format): of predict, each batch alone, and
of predict_stream, rebatched; (a) divided by the one that the times of the stages promise, (b) by
the one that MACs promise"""


def main() -> int:
    """Measure and print; 1 if ``--check`` is given and a goal is missed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per median")
    arguments = parser.parse_args()
    memory = "kept by the process" if keep_freed_memory() else "as the platform handles it"
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {capability}")
    print(f"freed memory: {memory}\n")

    tables = {
        depth: engine.speed_up(depth, every, rounds=arguments.rounds)
        for depth, every in DEPTHS.items()
    }
    table = pd.concat(tables, names=["ResNet"]).reset_index("ResNet").reset_index(drop=True)
    print(HEADING)
    print(table.round(2).to_string(index=False), end="\n\n")

    means = fitting.class_mean_fitting(20, rounds=2 * arguments.rounds)
    tokens = fitting.token_means(rounds=2 * arguments.rounds)
    importing = fitting.import_time(rounds=arguments.rounds)
    ratios = [
        *_lowest(table),
        ("fitting class means, one pass (rms), over forward passes", means["rms"], "≤", 1.15),
        ("fitting class means, two passes (mean), over forward passes", means["mean"], "≤", 1.15),
        ("class means of tokens, over forward passes", tokens, "≤", 1.2),
        ("import eenotes over import torch", importing["alone"], "≤", 1.5),
    ]
    met = [ratio >= goal if sign == "≥" else ratio <= goal for _, ratio, sign, goal in ratios]
    for (what, ratio, sign, goal), good in zip(ratios, met, strict=True):
        print(f"{what:<66}{ratio:5.2f}   goal {sign} {goal}   {'met' if good else 'MISSED'}")
    what = "import every public name"
    print(f"{what:<66}{importing['every name']:5.2f}   no goal")
    return int(arguments.check and not all(met))


def _lowest(table: pd.DataFrame) -> list[tuple[str, float, str, float]]:
    """The goals of the engine: what is measured, its lowest ratio (a), and the goal for it."""
    batched = table[table.batch > 1].assign(better=table[["(a)", "(a) rebatched"]].max(axis=1))
    return [
        (
            f"(a) at batch 64 and 256, ResNet-{depth}, lowest: {what}",
            batched[batched.ResNet == depth][column].min(),
            "≥",
            0.9,
        )
        for depth in DEPTHS
        for what, column in [("predict", "(a)"), ("the better of the two", "better")]
    ]


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


if __name__ == "__main__":
    sys.exit(main())
