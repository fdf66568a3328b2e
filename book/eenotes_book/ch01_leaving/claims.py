"""Claims of chapter 1: from the numbers of a record to verdicts."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from eenotes_book.records import Record
from eenotes_book.statistics import Gate

_POINT = 0.01  # of accuracy: less does not matter
_SAVING = 0.05  # of computation or time: a smaller saving counts as none


def claim_all(record: Record, numbers: Mapping[str, Any]) -> None:
    """Put the chapter's claims into a record.

    Args:
        record: to be filled.
        numbers: from `eenotes_book.ch01_leaving.experiment.measured`, or those of an old record.
    """
    _trade(record, numbers)
    _overthinking(record, numbers)
    _clock(record, numbers)


def _trade(record: Record, numbers: Mapping[str, Any]) -> None:
    """Accuracy and cost on test, with the thresholds chosen on validation."""
    where, cost = "What a threshold trades", numbers["relative cost"]
    lead = numbers["accuracy"] - numbers["accuracy per exit"]["accuracy"][-1]
    some_exit = Gate("the chosen thresholds let images exit early: relative cost below 1", cost < 1)
    record.claim(
        "leaving early saves computation at equal accuracy on validation: relative cost on test, "
        "with the cheapest thresholds that keep the last exit's accuracy",
        thesis="not stated", values=[cost], differences=[1 - cost], margin=_SAVING, where=where,
    )  # fmt: skip
    record.claim(
        "leaving early loses no accuracy: test accuracy with these thresholds minus the last "
        "exit's, at most one point behind",
        thesis="not stated", values=[lead], wanted="not behind", margin=_POINT, gate=some_exit,
        where=where,
    )  # fmt: skip
    lost = numbers["lost by exiting early"]
    record.claim(
        "easy inputs leave early without loss: accuracy that the last exit would have gained on "
        "those that exit early, at most one point",
        thesis="not stated", values=[lost], differences=[-lost], wanted="not behind", margin=_POINT,
        gate=some_exit, where=where,
    )  # fmt: skip
    record.claim(
        "those that exit early are the easier ones: last exit's accuracy on them minus on those "
        "that stay",
        thesis="not stated", values=[numbers["last exit, early minus late"]], margin=_POINT,
        gate=some_exit, where=where,
    )  # fmt: skip


def _overthinking(record: Record, numbers: Mapping[str, Any]) -> None:
    images = sum(counts["test"] for counts in record.data.values())
    gain = numbers["overthought images"] / images
    record.claim(
        "networks overthink: accuracy that knowing the right exit would add to the last one, at "
        "least one point",
        thesis="not stated", values=[gain], differences=[gain - _POINT], where="Overthinking",
    )  # fmt: skip


def _clock(record: Record, numbers: Mapping[str, Any]) -> None:
    """The middle one of the timed thresholds, at the largest batch."""
    times = pd.DataFrame(numbers["relative times"])
    times = times[times.batch == times.batch.max()]
    middle = times.iloc[len(times) // 2]
    record.claim(
        "saved MACs are saved time: time relative to the plain backbone at relative cost "
        f"{middle.MACs:.2f}, batch {middle.batch}",
        thesis="not stated", values=[middle.compacted], differences=[1 - middle.compacted],
        margin=_SAVING, where="MACs and the clock",
    )  # fmt: skip
