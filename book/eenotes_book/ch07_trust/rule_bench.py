"""A bench for rules: any `eenotes.rules.ScoreRule` on the recorded logits of every real network.

``python -m eenotes_book bench-rule my_module:MyRule`` prints the table of a rule beside ours;
``python -m eenotes_book.ch07_trust.rule_bench`` measures ours again, and writes
``rule_bench.csv``.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from eenotes.guarantees import with_guarantee
from eenotes.rules import ScoreRule
from eenotes.thresholds import evaluate
from eenotes_book import at_budgets
from eenotes_book.ch07_trust import experiment
from eenotes_book.data import recorded
from eenotes_book.data.recorded import Recorded

Maker = type[ScoreRule] | Callable[[Recorded], ScoreRule]
LEVEL, DELTA = 0.01, 0.1  # of lost accuracy
_SHOWN = (0.3, 0.5, 0.7)  # budgets
_PATH = Path(__file__).with_suffix(".csv")


def bench(
    maker: Maker, *, names: Sequence[str] | None = None, title: str | None = None
) -> pd.DataFrame:
    """A rule on recorded networks; everything is chosen on one half and reported on the other.

    Args:
        maker: a kind of `eenotes.rules.ScoreRule` that needs thresholds alone, or a function that
            fits one to a `Recorded` half and leaves its thresholds open.
        names: ``"network/method"``; by default all that is recorded.
        title: of the rule; by default the maker's name.

    Returns:
        A row per network: ``exits``, ``rule``, accuracy ``at 0.3``, ``at 0.5`` and ``at 0.7`` of
        the cost with ``±``, half the largest 95 % interval over the images; ``promised cost``, with
        one threshold for all exits and a point of lost accuracy (1 where nothing can be promised),
        and ``lost``, what was lost with it; and the ``calibration error``, mean over early exits.

    Raises:
        TypeError: what the maker gives is no ScoreRule.
        ValueError: a name that is not recorded, or scores that are NaN.
    """
    names = names or ["/".join(pair) for pair in recorded.names()]
    title = title or maker.__name__
    rows = [_row(recorded.load(*name.split("/")), _as_function(maker)) for name in names]
    table = pd.DataFrame(rows)
    table.insert(0, "exits", list(names))
    table.insert(1, "rule", title)
    return table


def ours(name: str) -> pd.DataFrame:
    """The rows of our rules, those of `experiment.RULES`, on one network."""
    run, rows = recorded.load(*name.split("/")), []
    for title, rule_of in experiment.RULES.items():
        row = _row(experiment.logits_for(run, title), rule_of)
        rows.append({"exits": name, "rule": title} | row)
    return pd.DataFrame(rows)


def kept() -> pd.DataFrame:
    """Our rules on every network, as measured before."""
    return pd.read_csv(_PATH)


def load(place: str) -> Maker:
    """The rule, or the function that makes one, of ``"module:name"``; the module may lie here.

    Raises:
        ValueError: another form, or no such name.
    """
    module, _, name = place.partition(":")
    if not name:
        raise ValueError(f"name a rule as module:Rule, not {place!r}")
    sys.path.insert(0, "")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no rule {place!r}: {error}") from error


def _as_function(maker: Maker) -> Callable[[Recorded], ScoreRule]:
    is_class = isinstance(maker, type) and issubclass(maker, ScoreRule)

    def rule_of(half: Recorded) -> ScoreRule:
        if is_class:
            closed = maker.limits[1] if maker.leaves_above else maker.limits[0]
            return maker(closed)
        rule = maker(half)
        if not isinstance(rule, ScoreRule):
            raise TypeError(f"a maker gives a ScoreRule, not a {type(rule).__name__}")
        return rule

    return rule_of


def _row(run: Recorded, rule_of: Callable[[Recorded], ScoreRule]) -> dict[str, float]:
    halves = run.halves()
    rules = [rule_of(half) for half in halves]  # fitted once
    fitted = iter(rules)
    report = at_budgets.report(run, rule_of=lambda half: next(fitted))
    table = report.table().set_index("budget")
    row = {f"at {budget:g}": table.accuracy[budget] for budget in _SHOWN}
    row["±"] = table.reach[list(_SHOWN)].max()
    pairs = list(zip(halves, reversed(halves), strict=True))
    promised = [_promised(half, other, rule_of) for half, other in pairs]
    row["promised cost"], row["lost"] = np.mean(promised, axis=0)
    errors = []
    for (_, other), rule in zip(pairs, rules, strict=True):
        for j, logits in enumerate(other.logits[:-1]):
            seen = rule.score(j, logits)
            right = seen.prediction == other.labels
            errors.append(experiment.calibration_error(seen.confidence, right))
    return row | {"calibration error": float(np.mean(errors))}


def _promised(
    half: Recorded, other: Recorded, rule_of: Callable[[Recorded], ScoreRule]
) -> tuple[float, float]:
    """The cost of a promise, and the accuracy lost, both on the other half.

    One quarter of the images is there to fit the rule, and the next one for the promise.
    """
    fit, calibration = half.halves()
    rule = rule_of(fit)
    last = (other.logits[-1].argmax(1) == other.labels).double().mean().item()
    try:
        found = with_guarantee(
            calibration.logits,
            calibration.labels,
            rule,
            half.costs,
            risk="lost accuracy",
            level=LEVEL,
            delta=DELTA,
        )
    except ValueError:  # nothing can be promised: all images go to the end
        return 1.0, 0.0
    row = evaluate(
        other.logits, other.labels, replace(rule, thresholds=found.thresholds), other.costs
    )
    return row["relative_cost"], last - row["accuracy"]


if __name__ == "__main__":
    names = ["/".join(pair) for pair in recorded.names()]
    pd.concat([ours(name) for name in names]).round(5).to_csv(_PATH, index=False)
