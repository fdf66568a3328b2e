"""Charts of chapter 4 over several seeds, and beside the thesis's numbers."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from eenotes_book import statistics, style
from eenotes_book.ch04_cbt.leads import leads
from eenotes_book.style import BLUE, GREY, METHODS, RED


def averaged(runs: Sequence[dict]) -> tuple[dict[str, dict], pd.DataFrame]:
    """Means over runs, for `figures.anytime_curves`: the rules, and single thresholds.

    Args:
        runs: from `experiment.conv_run`.
    """
    scores = {}
    for name in runs[0]["anytime"]:
        miou, cost = (
            np.array([run["anytime"][name][key] for run in runs]) for key in ("miou", "cost")
        )
        scores[name] = {"miou": miou.mean(0).tolist(), "cost": cost.mean(0).tolist()}
        if len(runs) > 1:
            scores[name]["reach"] = statistics.reach(100 * miou[:, -1])
    singles = pd.concat(pd.DataFrame(run["singles"]) for run in runs)
    return scores, singles.groupby("threshold", as_index=False).mean()


def budget_curves(runs: Sequence[dict], *, provenance: str = "") -> HTML:
    """Mean IoU against cost for every way of choosing thresholds, and their lead at equal cost.

    Args:
        runs: from `experiment.conv_run`, one per seed.
        provenance: of the numbers.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    for method in runs[0]["budgets"]:
        color, marker = METHODS[method]
        look = {"color": color, "marker": marker, "markersize": 6}
        points = [pd.DataFrame(run["budgets"][method])[["budget", "cost", "miou"]] for run in runs]
        mean = pd.concat(points).groupby("budget").mean()
        left.plot(mean.cost, 100 * mean.miou, **look, alpha=0.9, label=method)
        for seed in points if len(runs) > 1 else []:
            left.plot(seed.cost, 100 * seed.miou, color=color, alpha=0.25, linewidth=0.8)
        if method != "one threshold":
            table = leads(runs, method)
            right.plot(table.budget, 100 * table["mean"], **look)
            if len(runs) > 1:
                low, high = 100 * table.low, 100 * table.high
                right.fill_between(table.budget, low, high, color=color, alpha=0.14, linewidth=0)
    right.axhline(0, color=METHODS["one threshold"][0], linestyle="--", linewidth=1.2)
    left.set(
        xlabel="relative cost on test (MACs; 1 = backbone without exits)",
        ylabel="mean IoU on test (points)",
    )
    right.set(
        xlabel="budget of the choice on validation (relative cost)",
        ylabel="lead over one threshold\nat the same cost (points)",
    )
    left.legend(loc="best")
    left.margins(y=0.12)
    bands = " Thin: each seed; bands: 95 %, over all budgets together." if len(runs) > 1 else ""
    cbt = 100 * leads(runs, "CBT")["mean"]
    return style.show(
        figure,
        caption=f"CBT against one threshold at the same cost: {cbt.min():+.2f} to {cbt.max():+.2f} "
        "points. Thresholds are chosen on validation and reported on test. A method may leave "
        f"budget unspent.{bands}",
        alt="Left: mean IoU against cost, one line per way of choosing thresholds. Right: their "
        "lead over a single threshold at equal cost.",
        provenance=provenance,
    )


def saved_and_lost(thesis: pd.DataFrame, ours: pd.DataFrame, *, provenance: str = "") -> HTML:
    """What each pair of thresholds saves against what it loses: the thesis's rows, and ours.

    Args:
        thesis: from `thesis.table`.
        ours: from `thesis.ours`.
        provenance: of our numbers.
    """
    figure, ax = plt.subplots(figsize=(9, 4.6))
    groups = dict(list(thesis.dropna(subset=["saved"]).groupby("where", sort=False)))
    markers = iter("sDv^P<>p")
    for where, rows in groups.items():
        look = {"marker": next(markers), "facecolors": "none", "edgecolors": GREY}
        ax.scatter(100 * rows.saved, rows.lost, s=45, label=f"thesis: {where}", **look)
    for (where, rows), color in zip(ours.groupby("where", sort=False), (RED, BLUE), strict=False):
        ax.scatter(100 * rows.saved, rows.lost, s=45, color=color, label=f"ours: {where}")
        for row in rows.itertuples():
            if not row.rule.startswith("CBT-ns"):
                at, words = (100 * row.saved, row.lost), row.rule.removeprefix("CBT ")
                ax.annotate(words, at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.margins(x=0.14)
    low, high = 100 * ours.saved.min(), 100 * ours.saved.max()
    ax.set(xlabel="MACs saved against the single threshold β (%)", ylabel="mean IoU lost (points)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return style.show(
        figure,
        caption=f"Our class thresholds save {low:.0f} to {high:.0f} % of the MACs and change the "
        f"mean IoU by {-ours.lost.max():+.1f} to {-ours.lost.min():+.1f} points, each against its "
        "own single threshold β. Hollow: the thesis's tables. Filled: ours, with [α, β].",
        alt="A scatter plot of points lost against percent of MACs saved: hollow markers of the "
        "thesis's hosts and filled ones of ours, most of them rising to the right.",
        provenance=provenance,
    )
