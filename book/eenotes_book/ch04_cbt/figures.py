"""Charts of chapter 4: thresholds, scores against cost, which classes pay, and time."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes

from eenotes_book import style
from eenotes_book.ch04_cbt.clock import break_even
from eenotes_book.ch04_cbt.experiment import NOBODY
from eenotes_book.style import BLUE, GREY, METHODS, RED


def threshold_bars(table: pd.DataFrame, *, ends: tuple[float, float], provenance: str = "") -> HTML:
    """Class thresholds in order, beside the margins they come from.

    Args:
        table: from `tables.margin_table`.
        ends: [alpha, beta].
        provenance: of the numbers.
    """
    table = table.sort_values("threshold", ascending=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.34 * len(table) + 1.2), sharey=True)
    at = np.arange(len(table))
    colors = [GREY if confused else RED for confused in table.confused]
    for ax, column in ((left, "margin"), (right, "threshold")):
        bars = ax.barh(at, table[column], color=colors, alpha=0.85)
        for bar, confused in zip(bars, table.confused, strict=True):
            bar.set_hatch("//" if confused else "")
    left.set_yticks(at, _with_shares(table))
    left.set(xlabel="margin of the class", xlim=(0, 1))
    room = ends[1] - ends[0]
    right.set(xlabel="threshold of the class", xlim=(ends[0] - 0.06 * room, ends[1] + 0.06 * room))
    for y, row in zip(at, table.to_dict("records"), strict=True):
        if row["confused"]:
            words = f"taken for {row['taken for']}"
            left.text(row["margin"] + 0.02, y, words, va="center", fontsize=8)
    confused = "a class that is taken for another" if table.confused.any() else "none here"
    return style.show(
        figure,
        caption=f"The easiest class, {table['class'].iloc[-1]}, has the lowest threshold; the "
        f"hardest is {table['class'].iloc[0]}. Margins by (4.3), thresholds by (4.4) with "
        f"[{ends[0]}, {ends[1]}]. In brackets: share of the training pixels. Grey, hatched: "
        f"{confused}.",
        alt="Two panels of horizontal bars, one bar per class: margins on the left, thresholds on "
        "the right, in opposite order of length.",
        provenance=provenance,
    )


def anytime_curves(
    scores: Mapping[str, dict],
    singles: pd.DataFrame,
    *,
    single: str,
    named: str,
    provenance: str = "",
) -> HTML:
    """Mean IoU against cost, at every exit and at the last.

    Args:
        scores: name of a rule → ``miou`` and ``cost``, one number per exit; and ``reach``, half the
            interval of the last mean IoU in points, of several seeds.
        singles: from `experiment.singles`.
        single: the one threshold among the rules that the caption compares with.
        named: the rule that the caption compares.
        provenance: of the numbers.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9), sharey=True)
    for name, color in _shades(list(scores)).items():
        score = scores[name]
        cost, points = score["cost"], 100 * np.array(score["miou"])
        look = {"color": color, "marker": METHODS[kind_of(name)][1]}
        left.plot(cost, points, **look, markersize=5, label=name)
        reach = score.get("reach")
        right.errorbar(cost[-1], points[-1], reach, **look, markersize=8, linestyle="none")
    _single_thresholds(right, singles)
    left.set_title("at every exit", fontsize=10)
    right.set_title("at the last exit; grey line: one threshold, its value beside it", fontsize=10)
    for ax in (left, right):
        ax.set(xlabel="relative cost (MACs; 1 = plain backbone)")
        ax.margins(y=0.12)
    left.set_ylabel("mean IoU on test (points)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    one, other = scores[single], scores[named]
    saved, lost = (
        1 - other["cost"][-1] / one["cost"][-1],
        100 * (one["miou"][-1] - other["miou"][-1]),
    )
    return style.show(
        figure,
        caption=f"{named} takes {saved:.0%} off the cost of the {single} and {lost:.2f} points off "
        "its mean IoU. Mean IoU of the whole test split against MACs really needed.",
        alt="Left: mean IoU rising with cost through four exits for each rule. Right: the final "
        "point of each rule and a grey line through single thresholds of different height.",
        provenance=provenance,
    )


def who_pays(table: pd.DataFrame, *, reference: str, provenance: str = "") -> HTML:
    """Change of every class's IoU, rarest class at the top.

    Args:
        table: from `tables.pay_table`.
        reference: the rule that the changes are against.
        provenance: of the numbers.
    """
    rules = [name for name in table.columns if name not in ("class", "share")]
    figure, ax = plt.subplots(figsize=(8.4, 0.24 * len(table) * len(rules) + 1.3))
    at, height = np.arange(len(table)), 0.8 / len(rules)
    for i, name in enumerate(rules):
        color = METHODS[kind_of(name)][0]
        where, hatch = at + (i - (len(rules) - 1) / 2) * height, ("", "//", "..")[i % 3]
        ax.barh(where, table[name], height, color=color, label=name, hatch=hatch, alpha=0.9)
    ax.set_yticks(at, _with_shares(table))
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlabel=f"change of the class's IoU against {reference} (points)")
    worst, best = (table["class"].iloc[f(table[rules[0]])] for f in (np.argmin, np.argmax))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return style.show(
        figure,
        caption=f"{rules[0]} against {reference}: the IoU of {worst} changes by "
        f"{table[rules[0]].min():+.1f} points, that of {best} by {table[rules[0]].max():+.1f}, the "
        "others by something between. Rare classes at the top; share of pixels in brackets.",
        alt="Horizontal bars to both sides of zero, two per class: how its IoU changes with class "
        "thresholds.",
        provenance=provenance,
    )


def skipping_time(
    table: pd.DataFrame, *, crossing: float, speed: Mapping[str, float], provenance: str = ""
) -> HTML:
    """Time against the share of active places: computed at active places only, or everywhere.

    Args:
        table: from `clock.crossover`.
        crossing: the share where the two take equally long.
        speed: of the network with its rule, from `clock.speed`.
        provenance: of the numbers.
    """
    figure, ax = plt.subplots(figsize=(6.6, 3.9))
    ways = [
        ("sparse", "active places only", {"color": RED, "marker": "o"}),
        ("dense", "everywhere, then masked", {"color": BLUE, "marker": "^"}),
        ("MACs", "MACs of the first way", {"color": GREY, "marker": "s", "linestyle": ":"}),
    ]
    for column, label, look in ways:
        ax.plot(table["share"], table[column], label=label, **look)
    ax.axhline(1, color="black", linewidth=1, linestyle="--", label="plain backbone")
    if 0 < crossing < 1:
        ax.axvline(crossing, color=GREY, linewidth=1)
        words = f"crossover {crossing:.2f}"
        at = (crossing, 0.03)
        ax.annotate(words, at, xytext=(4, 0), textcoords="offset points", fontsize=9)
    ax.set(
        xlabel="share of places active behind exit 1",
        ylabel="time / time of the plain backbone",
        ylim=(0, None),
    )
    ax.legend(loc="best")
    even, gain = break_even(table), "at no share measured"
    if even is not None:
        share, macs = even
        gain = f"below a cost of {macs:.2f} in MACs"
        ax.plot([share, share], [macs, 1], color=GREY, linewidth=1)
        ax.plot(share, macs, "o", markersize=11, fillstyle="none", color="black")
        at = {"xytext": (8, -16), "textcoords": "offset points", "fontsize": 9}
        ax.annotate(f"break-even: MACs {macs:.2f}", (share, macs), **at)
    masking = f"below a share of {crossing:.0%}" if crossing < 1 else "at every share measured"
    return style.show(
        figure,
        caption=f"Skipping beats the plain backbone {gain}, and masking {masking}. With class "
        f"thresholds the network is {speed['speed_up']:.2f} times as fast as its backbone "
        f"({speed['macs']:.2f} in MACs); batch of {speed['batch']}.",
        alt="Time relative to the plain backbone against the share of active places: a rising line "
        "for skipping, a flatter one for masking, a dotted line for MACs.",
        provenance=provenance,
    )


def _single_thresholds(ax: Axes, singles: pd.DataFrame) -> None:
    """A line through single thresholds, the value of each beside its point."""
    color, marker = METHODS["one threshold"]
    ax.plot(singles.cost, 100 * singles.miou, color=color, marker=marker, markersize=4)
    for row in singles.itertuples():
        at, words = (row.cost, 100 * row.miou), f"{row.threshold:g}"
        ax.annotate(words, at, xytext=(3, -12), textcoords="offset points", fontsize=8)


def _shades(rules: Sequence[str]) -> dict[str, tuple]:
    """A colour per rule: that of its method, from dark to pale where a method has several."""
    alike = {kind: [r for r in rules if kind_of(r) == kind] for kind in map(kind_of, rules)}
    shades = {}
    for kind, names in alike.items():
        rgb = np.array(plt.matplotlib.colors.to_rgb(METHODS[kind][0]))
        for name, share in zip(names, np.linspace(0, 1, len(names) + 1), strict=False):
            dark = min(1.0, 0.45 + 0.55 * 2 * share) if len(names) > 1 else 1.0
            shades[name] = tuple(1 - (1 - rgb * dark) * (1 - 0.6 * max(0.0, 2 * share - 1)))
    return {name: shades[name] for name in rules}


def kind_of(rule: str) -> str:
    """The method whose colour a rule has."""
    kinds = {"single": "one threshold", "nobody": NOBODY, "CBT-ns": "CBT-ns", "CBT": "CBT"}
    return kinds.get(rule.split()[0], rule)


def _with_shares(table: pd.DataFrame) -> list[str]:
    pairs = zip(table["class"], table["share"], strict=True)
    return [f"{name} ({share:.1%})" for name, share in pairs]
