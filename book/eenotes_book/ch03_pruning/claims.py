"""The claims of chapter 3: from a record's numbers to the thesis's claims beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eenotes_book import records, statistics
from eenotes_book.ch03_pruning.deployment import relative
from eenotes_book.ch03_pruning.experiment import CONTROL, SEPARATELY, TOGETHER, UNPRUNED
from eenotes_book.ch03_pruning.tables import early_exits, gains, layer_table, sweep_table

THESIS = {
    UNPRUNED: (0.597, 0.65, 0.78, 0.82, 0.88, 0.91, 0.923),
    TOGETHER: (0.61, 0.665, 0.76, 0.81, 0.85, 0.86, 0.825),
    SEPARATELY: (0.55, 0.60, 0.72, 0.75, 0.82, 0.855, 0.88),
}  # read off the thesis's figure: exits 1 to 7 of a ResNet-56 on CIFAR-10

# sparsity of the linear layers, together - separately (figure)
THESIS_LINEAR = (-0.17, -0.14, -0.11, -0.10, -0.15, -0.16, -0.02)

PUBLISHED = {20: 0.9125, 56: 0.9303}  # depth → CIFAR-10 accuracy (He et al., 2016)
POINT = 0.005  # the smallest difference in accuracy that matters
SPARSER = 0.01  # the smallest difference in sparsity that matters
SAVED = 0.1  # the smallest part of time or bytes that matters


def claim_all(record: records.Record, numbers: Mapping[str, Any]) -> None:
    """Put the chapter's claims into a record, as far as its numbers go.

    Args:
        record: to be filled; its data sets are known.
        numbers: ``runs`` (from `experiment.run`, one per seed), ``sweeps`` (from
            `experiment.sweep`) and ``deployment`` (rows by name, from `deployment.measured`).
    """
    runs = _runs(numbers)
    gate = trained(runs, record.data)
    setting = "CIFAR10" in record.data and _depth(runs) == 56
    if "sparsity" in runs[0]:
        _claim_sparsity(record, runs, gate, setting)
    _claim_accuracy(record, runs, gate, setting)
    if "sweeps" in numbers:
        _claim_sweep(record, numbers["sweeps"], gate)
    if "deployment" in numbers:
        _claim_deployment(record, pd.DataFrame.from_dict(numbers["deployment"], orient="index"))


def trained(runs: Sequence[dict], data: Mapping[str, Any]) -> statistics.Gate:
    """The gate of every claim about trained networks: whether the unpruned one is fully trained."""
    published = PUBLISHED.get(_depth(runs)) if "CIFAR10" in data else None
    if published is None:
        return statistics.Gate(
            "the data set must be one on which this network's accuracy is published", False
        )
    found = statistics.mean([run["accuracy"][UNPRUNED][-1] for run in runs])
    condition = (
        "the unpruned network must be within two points of its published accuracy, "
        f"{published:.2%}; it has {found:.1%}"
    )
    return statistics.Gate(condition, found >= published - 0.02)


def lead(differences: Sequence[float], first: str, second: str) -> str:
    """In words: who is ahead by how many points, with the 95 % interval over the seeds."""
    mean = statistics.mean(differences)
    words = f"{first if mean > 0 else second} is ahead by {100 * abs(mean):.1f} points"
    if len(differences) == 1:
        return f"{words} (one run)"
    low, high = sorted((1 if mean > 0 else -1) * end for end in statistics.interval(differences))
    return f"{words} (95 % interval {100 * low:.1f} to {100 * high:.1f})"


def sweep_in_words(sweeps: Sequence[list[dict]]) -> str:
    """When together stops being the better choice, from the mean over the runs."""
    sentences = []
    for value, where in (("early", "At the early exits"), ("last", "At the last exit")):
        table = sweep_table(sweeps, value)
        plain, spared = table["as all"], table.drop(columns="as all").iloc[:, 0]
        sentences.append(
            f"{where}, together leads at {int((plain > 0).sum())} of {len(plain)} rates when "
            f"exits are pruned like the backbone (by {100 * plain.mean():+.1f} points on "
            f"average), and at {int((spared > 0).sum())} of {spared.count()} when separate pruning "
            f"lets its exits keep {1 - float(spared.name):.0%} of their weights "
            f"({100 * spared.mean():+.1f} points)."
        )
    return " ".join(sentences)


def _runs(numbers: Mapping[str, Any]) -> list[dict]:
    """The runs; of a record that keeps tables only, what they say of its one run."""
    if "runs" in numbers:
        return numbers["runs"]
    return [{"accuracy": numbers["accuracy per exit"], "pools": numbers["pools"]}]


def _depth(runs: Sequence[dict]) -> int:
    return runs[0].get("depth", 20)  # runs that do not say it are of a ResNet-20


def _claim_sparsity(
    record: records.Record, runs: Sequence[dict], gate: statistics.Gate, setting: bool
) -> None:
    tables = [layer_table([run]) for run in runs]
    early = [float(early_exits(table).difference.mean()) for table in tables]
    thesis = THESIS_LINEAR[:-1]
    record.claim(
        "separate pruning leaves the linear exits sparser; "
        "ours: mean difference of the early exits' sparsity, together - separately",
        thesis=f"{statistics.mean(thesis):.2f} ({min(thesis):.2f} to {max(thesis):.2f}, figure)",
        values=early,
        differences=[-value for value in early],
        margin=SPARSER,
        gate=gate,
        at_thesis_setting=setting,
        thesis_value=statistics.mean(thesis),
        where="Where the zeros are",
    )
    convolutions = [table[table.kind == "convolution"].difference.abs() for table in tables]
    shares = [float((values <= 0.04).mean()) for values in convolutions]
    record.claim(
        "convolutions end equally sparse: mostly within .04; "
        "ours: share of the convolutions within .04",
        thesis="mostly within ±.04 (figure)",
        values=shares,
        differences=[share - 0.5 for share in shares],
        gate=gate,
        at_thesis_setting=setting,
        where="Where the zeros are",
    )
    pools = [[run["pools"][name]["all"] for name in (TOGETHER, SEPARATELY)] for run in runs]
    record.check(
        "both procedures end with equally many zeros; ours: difference in sparsity of all weights",
        values=[first - second for first, second in pools],
        holds=all(abs(first - second) < 1e-3 for first, second in pools),
        where="Where the zeros are",
    )


def _claim_accuracy(
    record: records.Record, runs: Sequence[dict], gate: statistics.Gate, setting: bool
) -> None:
    gain = gains(runs)
    thesis = gains([{"accuracy": THESIS}])
    for key, sign, statement in [
        (
            "early",
            1,
            "together is better at the intermediate exits; "
            "ours: mean accuracy difference of the early exits",
        ),
        (
            "all",
            1,
            "treating all weights the same is best overall; "
            "ours: mean accuracy difference of all exits",
        ),
        (
            "last",
            -1,
            "at the final exit separate pruning is ahead; "
            "ours: accuracy difference, separately - together",
        ),
    ]:
        number = sign * thesis[key][0]
        record.claim(
            statement,
            thesis=f"{number:+.3f} (figure)",
            values=[sign * value for value in gain[key]],
            margin=POINT,
            gate=gate,
            at_thesis_setting=setting,
            thesis_value=number,
            where="Accuracy",
        )
    if CONTROL in runs[0]["accuracy"]:
        record.claim(
            "it is the loss: tuning the backbone for all exits makes separate pruning better at "
            "the early ones; ours: gain over plain",
            thesis="not stated",
            values=gains(runs, of=CONTROL)["early"],
            margin=POINT,
            gate=gate,
            where="Order, loss or sparsity?",
        )


def _claim_sweep(
    record: records.Record, sweeps: Sequence[list[dict]], gate: statistics.Gate
) -> None:
    """Our own claim: separate pruning loses at the early exits by the sparsity of its exits."""
    tables = [sweep_table([sweep], "early") for sweep in sweeps]
    gaps = [float(table["as all"].mean()) for table in tables]
    left = [float(table.drop(columns="as all").iloc[:, 0].mean()) for table in tables]
    condition = "separate pruning must be behind at the early exits in every run"
    if gate.passed:
        gate = statistics.Gate(condition, min(gaps) > 0)
    record.claim(
        "it is the exits' sparsity: at the same total, exits that keep most of their weights close "
        "at least half of separate pruning's gap at the early exits; "
        "ours: part of the gap that is closed",
        thesis="not stated",
        values=[1 - b / a if a > 0 else 0.0 for a, b in zip(gaps, left, strict=True)],
        differences=[a / 2 - b for a, b in zip(gaps, left, strict=True)],
        wanted="not behind",
        gate=gate,
        where="Order, loss or sparsity?",
    )


def _claim_deployment(record: records.Record, table: pd.DataFrame) -> None:
    """What zeros and missing channels save, measured."""
    part = relative(table)
    record.claim(
        "unstructured zeros leave the latency as it is; "
        "ours: time relative to the unpruned network, within a tenth",
        thesis="not stated",
        values=[float(part.seconds[TOGETHER])],
        differences=[float(part.seconds[TOGETHER]) - 1],
        wanted="equal",
        margin=SAVED,
        where="Zeros and the clock",
    )
    for statement, saved in [
        (
            "zeros make the compressed checkpoint smaller; "
            "ours: gzip size relative to the unpruned network's",
            part.gzip[TOGETHER],
        ),
        (
            "removing channels saves time; ours: time relative to the unpruned network",
            part.seconds["channels"],
        ),
    ]:
        record.claim(
            statement,
            thesis="not stated",
            values=[float(saved)],
            differences=[1 - float(saved)],
            margin=SAVED,
            where="Zeros and the clock",
        )
