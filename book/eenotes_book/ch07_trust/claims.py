"""The hypotheses of chapter 7, judged.

They are ours or the literature's: the thesis has no numbers here.  Nothing is trained, so no seed
is drawn.  Where calibration samples are drawn, ten groups of them take the place of seeds; where
thresholds are chosen on one half of the images and reported on the other, ten groups of images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from eenotes_book.records import Record

OURS, KUBATY = "ours, not the thesis's", "Kubaty et al., 2026: failure prediction is ahead"
TITLES = {"resnet20": "ResNet-20", "resnet56": "ResNet-56", "resnet50": "ResNet-50"}
EXITS = {
    "whitened": "whitened class means",
    "e2cm": "plain class means",
    "sdn": "trained exits",
    "sdn1": "exits of one epoch",
}
_HALF_POINT, _POINT = 0.005, 0.01
_NEAR = 0.05  # of the backbone's cost, from the oracle's
_DRAWN, _IMAGES = "groups of calibration samples", "tenths of the test images"
_DELTA = 0.1
_JUDGED = (
    "none", "blur 0.5", "blur 0.6", "noise 0.02", "noise 0.04", "share of cat 0.4",
    "share of automobile 0.4",
)  # fmt: skip
_KEPT = 3.0  # standard errors of a share of broken promises


def title(name: str) -> str:
    """``"resnet56/whitened"`` in words."""
    network, method = name.split("/")
    return f"{TITLES[network]}, {EXITS[method]}"


def claim_all(record: Record, numbers: Mapping[str, Any]) -> None:
    """Judge what the numbers allow.

    Args:
        record: is filled.
        numbers: ``networks`` by name, each with what `study` or the notebook measured, and
            ``shifts`` from `eenotes_book.ch07_trust.numbers.shifts`.
    """
    for name, found in numbers["networks"].items():
        if "temperatures" in found:
            _claim_temperatures(record, name, found["temperatures"])
        if "leads" in found:
            _claim_scores(record, name, found["leads"])
        if "prices" in found:
            _claim_prices(record, name, found["prices"])
        _claim_promises(record, name, pd.DataFrame(found["promises"]))
        _claim_classes(record, name, pd.DataFrame(found["classes"]))
    _claim_shifts(record, numbers["shifts"])


def _claim_temperatures(record: Record, name: str, tenths: Sequence[Sequence[float]]) -> None:
    if name.endswith("e2cm"):  # squared distances of exits of different width: no common unit
        return
    grown = [np.log(row[-2] / row[0]) for row in tenths]
    record.claim(
        f"{title(name)}: the last early exit needs a higher temperature than the first; ours: "
        "logarithm of the ratio",
        thesis=OURS,
        values=grown,
        wanted="ahead",
        margin=0.1,
        over=_IMAGES,
        where="calibration",
    )


def _claim_scores(record: Record, name: str, leads: Mapping[str, Sequence[float]]) -> None:
    plain = name.endswith("e2cm")
    given = {"wanted": "ahead", "margin": _POINT} if plain else {"wanted": "equal"}
    what = "is worth a point" if plain else "changes nothing"
    record.claim(
        f"{title(name)}: calibrating every exit {what} at equal cost; ours: lead in "
        "accuracy, mean over budgets",
        thesis=OURS,
        values=leads["calibrated"],
        over=_IMAGES,
        where="fronts",
        **({"margin": _HALF_POINT} | given),
    )
    record.claim(
        f"{title(name)}: failure prediction is ahead of calibrated confidence at equal cost; ours: "
        "lead in accuracy, mean over budgets",
        thesis=KUBATY,
        values=np.subtract(leads["failure prediction"], leads["calibrated"]).tolist(),
        wanted="ahead",
        margin=_HALF_POINT,
        over=_IMAGES,
        where="fronts",
    )


def _claim_prices(record: Record, name: str, prices: Mapping[str, Sequence[Mapping]]) -> None:
    loss = {way: pd.DataFrame(rows).groupby("tenth").loss.mean() for way, rows in prices.items()}
    saved = loss["one threshold"] - loss["one per exit, by induction"]
    record.claim(
        f"{title(name)}: one threshold per exit, by backward induction, has a smaller loss than "
        "one for all; ours: what is saved, in backbones, mean over prices",
        thesis=OURS,
        values=saved.tolist(),
        wanted="ahead",
        margin=_POINT,
        over=_IMAGES,
        where="prices",
    )


def _claim_promises(record: Record, name: str, found: pd.DataFrame) -> None:
    draws = None
    for row in found.itertuples():
        groups = pd.DataFrame(row.groups)
        draws = draws or 100 * len(groups)
        reach = _KEPT * (_DELTA * (1 - _DELTA) / draws) ** 0.5
        what = f"{row.risk} {row.level:g}, {row.method}, {row.samples:,} samples"
        record.check(
            f"{title(name)}: the promise ({what}) is broken in at most a tenth of the calibration "
            "samples; ours: share of broken promises",
            values=groups.broken.tolist(),
            holds=groups.broken.mean() <= _DELTA + reach,
            where="promises",
        )
    largest = found[found.samples == found.samples.max()].set_index(["risk", "method"]).groups
    for risk, method in (("disagreement", "binomial"), ("lost accuracy", "two coins")):
        groups = pd.DataFrame(largest[risk, method])
        record.claim(
            f"{title(name)}: with 5,000 samples the promised cost is within .05 of the oracle's "
            f"({risk}, {method}); ours: distance",
            thesis=OURS,
            values=groups.above.tolist(),
            differences=(_NEAR - groups.above).tolist(),
            wanted="ahead",
            over=_DRAWN,
            where="promises",
        )
        record.claim(
            f"{title(name)}: the promise is tight, broken in at least half a tenth of the samples "
            f"({risk}, {method}); ours: share of broken promises",
            thesis=OURS,
            values=groups.broken.tolist(),
            differences=(groups.broken - _DELTA / 2).tolist(),
            wanted="ahead",
            over=_DRAWN,
            where="promises",
        )


def _claim_classes(record: Record, name: str, found: pd.DataFrame) -> None:
    record.number(
        f"{title(name)}: the disagreement of the class that pays most, where two points are "
        "promised on average",
        thesis=OURS,
        values=[float(found.risk.max())],
        where="classes",
    )


def _claim_shifts(record: Record, shifts: Sequence[Mapping[str, Any]]) -> None:
    for row in shifts:
        groups = pd.DataFrame(row["groups"])
        name = row["shift"] if row["shift"] == "none" else f"{row['shift']} {row['strength']:g}"
        if name not in _JUDGED:
            continue
        record.claim(
            f"ResNet-20, whitened class means: a promise made on clean images is kept under the "
            f"shift {name}; ours: share of broken promises",
            thesis=OURS,
            values=groups.broken.tolist(),
            differences=(_DELTA - groups.broken).tolist(),
            wanted="not behind",
            margin=0.02,
            over=_DRAWN,
            where="shift",
        )
