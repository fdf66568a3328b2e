"""What the study of the pretrained model has recorded, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eenotes_book.ch06_language.race import FACTORS
from eenotes_book.statistics import interval

Found = Mapping[str, Any]  # the record's numbers["pretrained"]
_HEADS = {  # what the book calls a head: how it was set, and what the study calls it
    "class mean, plug-in N₀": ("plug-in", "identity, plain"),
    "class mean": ("chosen", "identity, plain"),
    "class mean, norms corrected": ("plug-in", "identity, corrected"),
    "class mean, shrunken": ("chosen", "identity, shrunken"),
    "class mean, predictive": ("chosen", "identity, predictive"),
    "class mean + copy": ("chosen", "mixture with copy"),
    "whitened class mean, plug-in N₀": ("plug-in", "whitened, plain"),
    "whitened class mean": ("chosen", "whitened, plain"),
    "whitened class mean, shrunken": ("chosen", "whitened, shrunken"),
}
LENS = "tuned lens"


def case(found: Found, *, at: int, norm: bool) -> Mapping[str, Any]:
    """What was measured at one exit, on raw output or behind the final norm."""
    cases = found["normed" if norm else "raw"]
    return next(one for one in cases if one["at"] == at)


def accuracies(
    found: Found, *, at: int, norm: bool = True, group: int = 0, after: str = "draw"
) -> pd.DataFrame:
    """Next-token accuracy of every head, a column per draw of text.

    Args:
        found: the record's.
        at: decoders before the exit.
        norm: behind a copy of the final norm, or on raw output.
        group: 0: all positions; 1: those outside of ``<unk>``.
        after: the statistics: of the whole ``"draw"``, of ``"all"`` draws, or of some of its rows.

    A lens is among the heads where it was trained on as many tokens.
    """
    draws = case(found, at=at, norm=norm)["draws"]
    rows: dict[str, list[float]] = {"copy": []}
    for draw in draws:
        count = draw["positions"][group]
        rows["copy"].append(draw["copy"][group] / count)
        for name, (how, key) in _HEADS.items():
            if key in draw[after][how]:
                right = draw[after][how][key]
                right = right["right"] if how == "chosen" else right
                rows.setdefault(name, []).append(right[group] / count)
    for lens in found["lens"] if norm else ():
        if lens["at"] == at and lens["draws"][0]["tokens"] == draws[0][after]["tokens"]:
            rows[LENS] = [draw["right"][group] / draw["positions"][group] for draw in lens["draws"]]
    return pd.DataFrame(rows).T


def with_few(found: Found, *, at: int) -> pd.DataFrame:
    """`accuracies` behind the final norm with as many tokens as every exit has seen."""
    fewest = min(one["draws"][0]["draw"]["tokens"] for one in found["normed"])
    draw = case(found, at=at, norm=True)["draws"][0]
    after = next(name for name in (*_grown(draw), "draw") if draw[name]["tokens"] == fewest)
    return accuracies(found, at=at, after=after)


def by_exit(found: Found, heads: Sequence[str]) -> pd.DataFrame:
    """Columns ``at``, ``head``, ``mean``, ``low``, ``high``, of the tables `with_few`."""
    rows = []
    for at in sorted(one["at"] for one in found["normed"]):
        table = with_few(found, at=at)
        rows += [as_row(table.loc[head], at=at, head=head) for head in heads if head in table.index]
    return pd.DataFrame(rows)


def by_tokens(found: Found, heads: Sequence[str]) -> pd.DataFrame:
    """The same against ``tokens`` behind the statistics, at the exit that has the curve.

    The last point has the statistics of all draws: its interval is that of the test texts alone.
    """
    one = next(one for one in found["normed"] if _grown(one["draws"][0]))
    rows = []
    for after in (*_grown(one["draws"][0]), "draw", "all"):
        table = accuracies(found, at=one["at"], after=after)
        tokens = one["draws"][0][after]["tokens"]
        for head in heads:
            rows.append(as_row(table.loc[head], tokens=tokens, head=head, at=one["at"]))
    return pd.DataFrame(rows)


def by_factor(found: Found, *, at: int) -> pd.DataFrame:
    """The same against the ``factor`` on the plug-in N₀, for class means and whitened ones."""
    draws, rows = case(found, at=at, norm=True)["draws"], []
    for metric, head in (("identity", "class mean"), ("whitened", "whitened class mean")):
        for i, factor in enumerate(FACTORS):
            values = [draw["draw"]["factors"][metric][i] / draw["positions"][0] for draw in draws]
            rows.append(as_row(values, factor=factor, head=head))
    return pd.DataFrame(rows)


def final_accuracy(found: Found) -> float:
    """Of the whole model, on few rows of every draw."""
    draws = found["whole"]["draws"]
    return sum(draw["final"] for draw in draws) / sum(draw["positions"] for draw in draws)


def _grown(draw: Mapping[str, Any]) -> list[str]:
    """After how many rows the statistics of a draw were taken besides all of them."""
    return [name for name in draw if name.isdigit()]


def as_row(values: Sequence[float], **facts) -> dict[str, Any]:
    """Facts, and the mean of values with its interval."""
    values = list(values)
    low, high = interval(values)
    return facts | {"mean": sum(values) / len(values), "low": low, "high": high}


def sentences(found: Found) -> str:
    """What the heads reach at the exit in the middle, and the ratio of class means to the copy."""
    at = found["whole"]["at"]
    table = accuracies(found, at=at)
    ratio, few = table.loc["class mean"] / table.loc["copy"], with_few(found, at=at)
    low, high = interval(ratio)
    reached = ", ".join(f"{name} {value:.3f}" for name, value in table.mean(axis=1).items())
    return (
        f"After decoder {at}: {reached}. Class means ÷ copy: {ratio.mean():.1f} "
        f"(95 % interval over five draws {low:.1f} to {high:.1f}; the thesis 4.3). With as few "
        f"tokens as the lens had: whitened {few.loc['whitened class mean'].mean():.3f}, lens "
        f"{few.loc[LENS].mean():.3f}."
    )
