"""The claims of chapter 3 that the thesis does not make: where the difference comes from, and what
zeros are worth.
"""

from collections.abc import Sequence

import pandas as pd

from eenotes_book import records, statistics
from eenotes_book.ch03_pruning.deployment import relative
from eenotes_book.ch03_pruning.experiment import CONTROL, SEPARATELY, SPARED, TOGETHER
from eenotes_book.ch03_pruning.tables import gains, having, sweep_table

POINT = 0.005  # the smallest difference in accuracy that matters
SAVED = 0.1  # the smallest part of time or bytes that matters


def claim_loss(
    record: records.Record, runs: Sequence[dict], gate: statistics.Gate, label: str
) -> None:
    """What the loss of the backbone's phase does; ``label`` names the network."""
    record.claim(
        f"it is the loss{label}: tuning the backbone for all exits makes separate pruning "
        "better at the early ones; ours: gain over plain",
        thesis="not stated",
        values=gains(runs, of=CONTROL)["early"],
        margin=POINT,
        gate=gate,
        where="Order, loss or sparsity?",
    )


def claim_sweep(
    record: records.Record, sweeps: Sequence[list[dict]], gate: statistics.Gate
) -> None:
    """What the exits' sparsity does, from the sweeps."""
    tables = [sweep_table([sweep], "early") for sweep in sweeps]
    gaps = [float(table["as all"].mean()) for table in tables]
    left = [float(table.drop(columns="as all").iloc[:, 0].mean()) for table in tables]
    _claim_closed(record, gaps, left, gate)


def claim_spared(record: records.Record, runs: Sequence[dict], gate: statistics.Gate) -> None:
    """What the exits' sparsity does, from runs in which the exits were spared once."""
    runs = having(runs, TOGETHER, SEPARATELY, SPARED)
    left = gains(runs, of=TOGETHER, over=SPARED)["early"]
    _claim_closed(record, gains(runs)["early"], left, gate)
    record.claim(
        "sparing the exits costs the last one nothing; "
        "ours: accuracy difference at the last exit, exits spared - plain",
        thesis="not stated",
        values=gains(runs, of=SPARED)["last"],
        wanted="not behind",
        margin=POINT,
        gate=gate,
        where="Order, loss or sparsity?",
    )


def _claim_closed(
    record: records.Record, gaps: Sequence[float], left: Sequence[float], gate: statistics.Gate
) -> None:
    """Our own claim: separate pruning loses at the early exits by the sparsity of its exits."""
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


def claim_deployment(record: records.Record, table: pd.DataFrame) -> None:
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
