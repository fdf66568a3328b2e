"""The numbers that the claims of chapter 7 rest on, in groups over which an interval is taken."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from eenotes.calibration import expected_stopping, temperature
from eenotes.guarantees import with_guarantee
from eenotes.risk_tests import Risk
from eenotes.thresholds import evaluate
from eenotes_book.ch07_trust import scores, shifted
from eenotes_book.ch07_trust.promises import Chooser, Seen, Walk, draws, elsewhere, trial
from eenotes_book.ch07_trust.settings import Settings
from eenotes_book.data.recorded import Recorded

METHODS: dict[Risk, tuple[Chooser, ...]] = {
    "disagreement": ("binomial", "Hoeffding-Bentkus", "betting"),
    "error": ("binomial",),
    "lost accuracy": ("two coins", "betting"),
}
_GROUPS = 10  # of calibration samples, or of test images
_PRICES = tuple(2.0 * 1.25**step for step in reversed(range(28)))  # a path, safest first


class Promised(Protocol):
    """What is promised, and on how many calibration samples."""

    draws: int
    samples: Sequence[int]
    delta: float
    disagreement: float
    lost_accuracy: float
    error: float


def level_of(run: Recorded, risk: Risk, s: Promised) -> float:
    """The level of a risk: for errors, so much above the error of the last exit."""
    if risk == "disagreement":
        return s.disagreement
    if risk == "lost accuracy":
        return s.lost_accuracy
    wrong = (run.logits[-1].argmax(1) != run.labels).double().mean().item()
    return round(wrong + s.error, 4)


def promises(run: Recorded, s: Promised) -> list[dict[str, Any]]:
    """How every promise fared, in ten groups of calibration samples.

    Returns:
        A row per risk, method and size: ``risk``, ``level``, ``method``, ``samples``, and in
        ``groups`` the means of ``broken``, ``refused``, ``risk`` and ``above``.
    """
    seen, rows = Seen.of(run), []
    for samples in s.samples:
        sets = draws(s.draws, images=len(run.labels), samples=samples)
        for risk, methods in METHODS.items():
            level = level_of(run, risk, s)
            found = trial(seen, methods, sets, risk=risk, level=level, delta=s.delta)
            for method, part in found.groupby("chooser", sort=False):
                what = {"risk": risk, "level": level, "method": method, "samples": samples}
                rows.append(what | {"groups": in_groups(part)})
    return rows


def in_groups(found: pd.DataFrame) -> list[dict[str, float]]:
    """Means over ten groups of the calibration samples of a `promises.trial`."""
    table = found.assign(refused=found.steps < 0)[["broken", "refused", "risk", "above"]]
    return table.astype(float).groupby(found.draw % _GROUPS).mean().to_dict("records")


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as JSON can hold it: ``None`` where there is no number."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def temperatures(run: Recorded) -> list[list[float]]:
    """The temperatures of all exits, ``(10, J)``, on each tenth of the images."""
    run = scores.evidence(run)
    tenths = torch.arange(len(run.labels)).tensor_split(_GROUPS)
    return [temperature(run.logits[:, at], run.labels[at]).tolist() for at in tenths]


def vectors(run: Recorded, s: Settings) -> pd.DataFrame:
    """One threshold with all calibration samples, against vectors chosen on one half of them.

    The vectors follow from a falling price of a wrong answer, and are tested on the other half.

    Returns:
        A row per calibration sample with the true cost of ``one`` and of ``vectors``, 1 where
        nothing is promised.
    """
    samples, rows = max(s.samples), []
    sets = draws(s.vectors, images=len(run.labels), samples=samples)
    given = {"risk": "disagreement", "level": s.disagreement, "delta": s.delta}
    ones = trial(Seen.of(run), ["binomial"], sets, **given)
    for draw, weights in enumerate(sets):
        at = torch.from_numpy(np.random.default_rng(draw).permutation(_repeated(weights)))
        first, second = at.tensor_split(2)
        path = [
            expected_stopping(run.logits[:, first], run.labels[first], run.rule, run.costs, price=p)
            for p in _PRICES
        ]
        try:
            found = with_guarantee(
                run.logits[:, second], run.labels[second], run.rule, run.costs, **given,
                candidates=path,
            ).thresholds  # fmt: skip
        except ValueError:
            found = (run.rule.closed,) * (len(run.logits) - 1)
        row = evaluate(run.logits, run.labels, replace(run.rule, thresholds=found), run.costs)
        rows.append({"one": ones.cost.iloc[draw], "vectors": row["relative_cost"]})
    return pd.DataFrame(rows)


def _repeated(weights: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(weights)), weights)


def classes(run: Recorded, s: Promised) -> pd.DataFrame:
    """Who pays: disagreement, error and coverage by class at a promised threshold.

    Returns:
        A row per class: ``class``, ``risk``, ``lost`` accuracy, ``early``, the share that does not
        reach the last exit, and ``cost``, for the first calibration sample of the largest size.
    """
    seen, level = Seen.of(run), s.disagreement
    sets = draws(1, images=len(run.labels), samples=max(s.samples))
    found = trial(seen, ["binomial"], sets, risk="disagreement", level=level, delta=s.delta)
    steps = int(found.steps.iloc[0])
    names, rows = run.facts["classes"], []
    walks = {risk: Walk(seen, risk) for risk in ("disagreement", "lost accuracy")}
    limit = found.threshold.iloc[0]
    early = (seen.score > limit).any(0)
    for k, name in enumerate(names):
        weights = (run.labels == k).numpy().astype(int)
        rows.append({
            "class": name,
            "risk": walks["disagreement"].risk(weights)[steps],
            "lost": walks["lost accuracy"].risk(weights)[steps],
            "early": early[run.labels == k].double().mean().item(),
            "cost": walks["disagreement"].cost(weights)[steps],
        })  # fmt: skip
    return pd.DataFrame(rows)


def shifts(s: Promised) -> list[dict[str, Any]]:
    """Promises made on clean images, kept or broken on blurred and noisy ones and in other shares.

    Returns:
        A row per shift: ``shift``, ``strength``, the last exit's ``accuracy``, and in ``groups``
        the means of ``broken``, ``risk`` and ``cost``.
    """
    there, facts = shifted.load()
    clean = there[shifted.CLEAN]
    labels = clean.labels
    sets = draws(s.draws, images=len(labels), samples=max(s.samples))
    level = s.disagreement
    found = trial(clean, ["binomial"], sets, risk="disagreement", level=level, delta=s.delta)
    everyone, rows = np.ones(len(labels)), []
    for name, (kind, strength) in shifted.kinds().items():
        walk = Walk(there[name], "disagreement")
        moved = elsewhere(found, walk, everyone, level=level).assign(draw=found.draw)
        accuracy = facts["accuracy"][name][-1]
        groups = _grouped(moved)
        kind = name if name == shifted.CLEAN else kind
        rows.append({"shift": kind, "strength": strength, "accuracy": accuracy, "groups": groups})
    walk, names = Walk(clean, "disagreement"), facts["classes"]
    right = (clean.prediction[-1] == labels).double().numpy()
    for k in (names.index("cat"), names.index("automobile")):
        own = (labels == k).numpy()
        for share in (0.2, 0.4, 0.8):
            weights = np.where(own, share / own.mean(), (1 - share) / (1 - own.mean()))
            moved = elsewhere(found, walk, weights, level=level).assign(draw=found.draw)
            accuracy = float(np.average(right, weights=weights))
            row = {"shift": f"share of {names[k]}", "strength": share, "accuracy": accuracy}
            rows.append(row | {"groups": _grouped(moved)})
    return rows


def _grouped(found: pd.DataFrame) -> list[dict[str, float]]:
    table = found[["broken", "risk", "cost"]].astype(float)
    return table.groupby(found.draw % _GROUPS).mean().to_dict("records")


def recalibrated(s: Promised, name: str) -> pd.DataFrame:
    """The promise made on the images of a shift itself: rows of `promises.trial`."""
    seen = shifted.load()[0][name]
    sets = draws(s.draws, images=len(seen.labels), samples=max(s.samples))
    given = {"risk": "disagreement", "level": s.disagreement, "delta": s.delta}
    return trial(seen, ["binomial"], sets, **given)
