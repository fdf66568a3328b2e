"""Figures of chapter 7: calibration, and what it is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from eenotes_book import style
from eenotes_book.ch07_trust.claims import title
from eenotes_book.statistics import interval
from eenotes_book.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED

_LOOKS = {"whitened": (PURPLE, "X"), "e2cm": (RED, "o"), "sdn": (BLUE, "^"), "sdn1": (ORANGE, "v")}
SCORES = {"calibrated": (GREEN, "D"), "failure prediction": (BLUE, "^")}


def reliability(
    tables: Mapping[str, Sequence[tuple[str, pd.DataFrame, pd.DataFrame]]], *, provenance: str
) -> HTML:
    """Reliability diagrams: a row of panels per kind of exits, before and after calibration.

    Args:
        tables: name of the exits → for each panel its title and the tables of
            `eenotes_book.ch07_trust.experiment.reliability` before and after.
        provenance: for the small print.
    """
    columns = max(map(len, tables.values()))
    figure, axes = plt.subplots(
        len(tables), columns, figsize=(2.5 * columns, 2.6 * len(tables)), sharex=True, sharey=True
    )
    for row, (name, panels) in zip(np.atleast_2d(axes), tables.items(), strict=True):
        for ax, (heading, before, after) in zip(row, panels, strict=True):
            ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
            for table, color, label in ((before, GREY, "as it is"), (after, RED, "calibrated")):
                ax.plot(table.confidence, table.accuracy, color=color, linewidth=1, label=label)
                size = 6 + 130 * table.share
                look = {"color": color, "alpha": 0.8, "clip_on": False, "zorder": 3}
                ax.scatter(table.confidence, table.accuracy, s=size, **look)
            ax.set(title=f"{name}\n{heading}", xlim=(0, 1), ylim=(0, 1))
    for ax in np.atleast_2d(axes)[-1]:
        ax.set_xlabel("confidence")
    for ax in np.atleast_2d(axes)[:, 0]:
        ax.set_ylabel("accuracy")
    np.atleast_2d(axes)[0, 0].legend(loc="upper left", fontsize=8)
    return style.show(
        figure,
        caption="Calibrated, the confidence of an exit is near its accuracy. Areas: share of the "
        "images. Temperatures were fitted to one half of the images and applied to the other, in "
        "turn.",
        alt="Reliability diagrams. Whitened class means lie below the diagonal before calibration, "
        "plain class means far to its left; after calibration all lie near the diagonal.",
        provenance=provenance,
    )


def by_depth(tables: Mapping[str, pd.DataFrame], *, provenance: str) -> HTML:
    """Calibration error before and after, and the temperature, exit by exit.

    Args:
        tables: ``"network/method"`` → table of `eenotes_book.ch07_trust.experiment.per_exit`.
        provenance: for the small print.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for name, table in tables.items():
        color, marker = _LOOKS[name.split("/")[1]]
        look = {"color": color, "marker": marker, "markersize": 5}
        at = np.arange(1, len(table) + 1)
        left.plot(at, table.error, **look, label=f"{title(name)}")
        left.plot(at, table["error after"], **look, linestyle=":", markerfacecolor="white")
        if not name.endswith("e2cm"):
            right.plot(at, table.temperature, **look, label=title(name))
    first = next(iter(tables.values()))
    left.plot(range(1, len(first) + 1), first.bias, color="black", linewidth=0.9, linestyle="--")
    left.annotate("of calibrated exits", (0.4, first.bias.iloc[0] * 0.48), fontsize=8)
    left.set(xlabel="exit", ylabel="calibration error", yscale="log")
    left.set_yticks([0.01, 0.03, 0.1, 0.3], [".01", ".03", ".1", ".3"])
    left.minorticks_off()
    right.axhline(1, color=GREY, linestyle="--", linewidth=1)
    right.set(xlabel="exit", ylabel="temperature")
    right.annotate("above: overconfident", (0.6, 1.05), fontsize=8, color=GREY)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return style.show(
        figure,
        caption="One temperature per exit brings most calibration errors near .01. Left: as it is "
        "(solid) and calibrated (dotted); dashed: what 15 bins make of a calibrated exit. Right: "
        "temperatures; plain class means have another unit.",
        alt="Left, three solid lines between .03 and .7 and three dotted ones near .01, those of "
        "plain class means higher. Right, a temperature that rises from 1.2 to 3.3, and one that "
        "stays at .8 until the last exit.",
        provenance=provenance,
    )


def score_leads(networks: Mapping[str, Mapping[str, Any]], *, provenance: str) -> HTML:
    """Lead in accuracy over plain confidence at equal budgets, one line per network's exits.

    Args:
        networks: ``"network/method"`` → ``leads``: rule → tenths of the images.
        provenance: for the small print.
    """
    names = list(networks)
    figure, ax = plt.subplots(figsize=(7.6, 0.6 + 0.5 * len(names)))
    for row, name in enumerate(names):
        for offset, (rule, (color, marker)) in zip((-0.13, 0.13), SCORES.items(), strict=True):
            tenths = 100 * np.array(networks[name]["leads"][rule])
            low, high = interval(tenths)
            ax.plot([low, high], [row + offset] * 2, color=color, linewidth=1.6)
            label = rule if row == 0 else None
            ax.plot(tenths.mean(), row + offset, color=color, marker=marker, label=label)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(names)), [title(name) for name in names])
    ax.invert_yaxis()
    ax.set(xlabel="points of accuracy ahead of plain confidence, mean over budgets")
    ax.legend(loc="lower right")
    return style.show(
        figure,
        caption="Other scores help plain class means by two to five points, other exits hardly. "
        "One threshold per exit, searched on one half of the images and reported on the other. "
        "Bars: 95 % intervals over ten groups of images.",
        alt="Points with bars: for whitened class means and trained exits all near zero; for plain "
        "class means three to four points to the right.",
        provenance=provenance,
    )


def prices(networks: Mapping[str, Mapping[str, Any]], *, provenance: str) -> HTML:
    """What other ways of choosing save over one threshold, by the price of a wrong answer.

    Args:
        networks: ``"network/method"`` → ``prices``: way → rows of
            `eenotes_book.ch07_trust.stopping.losses`.
        provenance: for the small print.
    """
    size = (3.3 * len(networks) + 0.4, 3.5)
    figure, axes = plt.subplots(1, len(networks), figsize=size, sharey=True, squeeze=False)
    looks = {
        "one per exit, searched": (BLUE, "^"),
        "one per exit, by induction": (RED, "o"),
        "patience": (ORANGE, "s"),
    }
    for ax, (name, found) in zip(axes[0], networks.items(), strict=True):
        loss = {
            way: pd.DataFrame(rows).pivot(index="price", columns="tenth", values="loss")
            for way, rows in found["prices"].items()
        }
        for way, (color, marker) in looks.items():
            saved = loss["one threshold"] - loss[way]
            ends = np.array([interval(row) for row in saved.to_numpy()]).T
            bars = np.abs(ends - saved.mean(axis=1).to_numpy())
            look = {"color": color, "marker": marker, "markersize": 5, "capsize": 2, "label": way}
            ax.errorbar(saved.index, saved.mean(axis=1), yerr=bars, **look)
        ax.axhline(0, color=GREY, linewidth=1, linestyle="--")
        ax.set(xscale="log", xlabel="price of a wrong answer, in backbones")
        ax.set_title(title(name).replace(", ", "\n"))
        ax.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        ax.minorticks_off()
    axes[0, 0].set_ylabel("saved, in backbones")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return style.show(
        figure,
        caption="Thresholds per exit cost about as much as one for all exits; patience costs more. "
        "Loss of one threshold less that of other ways, on other images; above zero is better. "
        "Bars: 95 % intervals over ten groups of images.",
        alt="Three panels; vectors of thresholds stay within a few hundredths of zero, patience "
        "lies up to .3 below.",
        provenance=provenance,
    )
