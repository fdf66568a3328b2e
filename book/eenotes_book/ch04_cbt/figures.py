"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from eenotes_book.scene_pictures import class_legend, label_map
from eenotes_book.style import BLUE, GREY, METHODS, RED


def threshold_bars(table: pd.DataFrame, *, ends: tuple[float, float]) -> Figure:
    """Class thresholds in order, beside the margins they come from; hatched: classes that are taken
    for another.

    Args:
        table: columns ``class``, ``share``, ``margin``, ``threshold``, ``confused``, ``taken for``.
        ends: [alpha, beta].
    """
    table = table.sort_values("threshold", ascending=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.34 * len(table) + 1.2), sharey=True)
    at = np.arange(len(table))
    hatches = ["//" if confused else "" for confused in table.confused]
    for ax, column in ((left, "margin"), (right, "threshold")):
        bars = ax.barh(
            at,
            table[column],
            color=[GREY if confused else RED for confused in table.confused],
            alpha=0.85,
        )
        for bar, hatch in zip(bars, hatches, strict=True):
            bar.set_hatch(hatch)
    names = [
        f"{name} ({share:.1%})" for name, share in zip(table["class"], table.share, strict=True)
    ]
    left.set_yticks(at, names)
    left.set(xlabel="margin of the class", xlim=(0, 1))
    room = ends[1] - ends[0]
    right.set(xlabel="threshold of the class", xlim=(ends[0] - 0.06 * room, ends[1] + 0.06 * room))
    for y, row in zip(at, table.itertuples(), strict=True):
        if row.confused:
            left.text(
                row.margin + 0.02,
                y,
                f"taken for {table['taken for'].iloc[y]}",
                va="center",
                fontsize=8,
            )
    return figure


def exit_maps(picture, truth, methods: dict[str, list[tuple]], *, classes: Sequence[str]) -> Figure:
    """One image on its way: per method a row of predicted maps and a row of masks of what is still
    computed; one column per exit.

    Args:
        picture: ``(H, W, 3)``.
        truth: ``(H, W)`` labels.
        methods: name → for each exit (predicted labels ``(H, W)``, active before that exit ``(h,
            w)`` bool).
    """
    exits = len(next(iter(methods.values())))
    ratio = truth.shape[0] / truth.shape[1]
    figure, axes = plt.subplots(
        2 * len(methods),
        exits + 1,
        figsize=(2.25 * (exits + 1), 2 * len(methods) * (2.25 * ratio + 0.28) + 0.6),
    )
    for ax in axes.flat:
        ax.axis("off")
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("image", fontsize=9)
    axes[1, 0].imshow(label_map(truth, classes))
    axes[1, 0].set_title("truth", fontsize=9)
    for m, (name, steps) in enumerate(methods.items()):
        for j, (labels, active) in enumerate(steps):
            above, below = axes[2 * m, j + 1], axes[2 * m + 1, j + 1]
            above.imshow(label_map(labels, classes), interpolation="nearest")
            above.set_title(f"{name}: exit {j + 1}" if j == 0 else f"exit {j + 1}", fontsize=9)
            below.imshow(active, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            below.set_title(f"computed: {np.mean(active):.0%}", fontsize=9)
            below.add_patch(
                plt.Rectangle(
                    (0, 0), 1, 1, transform=below.transAxes, fill=False, color=GREY, linewidth=1
                )
            )
    class_legend(figure, classes)
    return figure


def anytime_curves(scores: dict[str, dict], singles: pd.DataFrame | None = None) -> Figure:
    """Mean IoU against cost: left, every named rule at every exit; right, what each rule gives at
    the last exit.

    Args:
        scores: name → ``miou`` and ``cost``, one number per exit.
        singles: one threshold, several values: ``threshold``, ``cost``, ``miou`` at the last exit.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    styles = ("-", "--", ":", "-.")
    seen: dict[str, int] = {}
    for name, score in scores.items():
        kind = (
            "one threshold"
            if name.startswith("single")
            else "CBT-ns"
            if name.startswith("CBT-ns")
            else "CBT"
        )
        color, marker = METHODS[kind]
        style = styles[seen.get(kind, 0) % len(styles)]
        seen[kind] = seen.get(kind, 0) + 1
        left.plot(
            score["cost"],
            100 * np.array(score["miou"]),
            color=color,
            marker=marker,
            markersize=5,
            linestyle=style,
            label=name,
        )
        right.plot(
            score["cost"][-1],
            100 * score["miou"][-1],
            color=color,
            marker=marker,
            markersize=8,
            linestyle="none",
        )
    if singles is not None:
        color, marker = METHODS["one threshold"]
        right.plot(singles.cost, 100 * singles.miou, color=color, marker=marker, markersize=4)
        for row in singles.itertuples():
            right.annotate(
                f"{row.threshold:g}",
                (row.cost, 100 * row.miou),
                xytext=(3, -12),
                textcoords="offset points",
                fontsize=8,
            )
    for ax, title in (
        (left, "at every exit"),
        (right, "at the last exit; grey line: one threshold, its value beside it"),
    ):
        ax.set(
            xlabel="relative cost (MACs; 1 = backbone without exits)",
            ylabel="mean IoU on test (points)",
        )
        ax.set_title(title, fontsize=10)
        ax.margins(y=0.12)
    left.legend(loc="lower right")
    return figure


def budget_curves(runs: Sequence[dict], *, title: str = "") -> Figure:
    """Mean IoU against cost for every way of choosing thresholds, and their lead at equal cost;
    bands: one standard deviation of the lead.

    Args:
        runs: with ``budgets`` (method → rows with ``budget``, ``cost``, ``miou``) and ``leads``
            (method → table with ``budget``, ``mean`` and ``spread``) for all of them in
            ``runs[0]``.
        title: of the left panel.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    for method in runs[0]["budgets"]:
        color, marker = METHODS[method]
        rows = (
            pd.concat(
                pd.DataFrame(run["budgets"][method])[["budget", "cost", "miou"]] for run in runs
            )
            .groupby("budget")
            .mean()
        )
        left.plot(
            rows.cost,
            100 * rows.miou,
            color=color,
            marker=marker,
            markersize=6,
            alpha=0.9,
            label=method,
        )
        if method in runs[0]["leads"]:
            table = runs[0]["leads"][method]
            right.plot(table.budget, 100 * table["mean"], color=color, marker=marker, markersize=6)
            low, high = (100 * (table["mean"] + sign * table.spread) for sign in (-1, 1))
            right.fill_between(table.budget, low, high, color=color, alpha=0.18, linewidth=0)
    right.axhline(0, color=METHODS["one threshold"][0], linestyle="--", linewidth=1.2)
    left.set(
        xlabel="relative cost on test (MACs; 1 = backbone without exits)",
        ylabel="mean IoU on test (points)",
        title=title,
    )
    right.set(
        xlabel="budget of the choice on validation (relative cost)",
        ylabel="lead over one threshold\nat the same cost (points)",
    )
    left.legend(loc="best")
    left.margins(y=0.12)
    return figure


def who_pays(table: pd.DataFrame, *, reference: str) -> Figure:
    """Change of every class's IoU, rarest class at the top.

    Args:
        table: columns ``class``, ``share`` and one per rule, in points.
        reference: the rule that the changes are against.
    """
    rules = [name for name in table.columns if name not in ("class", "share")]
    figure, ax = plt.subplots(figsize=(8.4, 0.24 * len(table) * len(rules) + 1.3))
    at, height = np.arange(len(table)), 0.8 / len(rules)
    for i, name in enumerate(rules):
        color = METHODS["CBT" if name.startswith("CBT") else name][0]
        where, hatch = at + (i - (len(rules) - 1) / 2) * height, ("", "//", "..")[i % 3]
        ax.barh(where, table[name], height, color=color, label=name, hatch=hatch, alpha=0.9)
    ax.set_yticks(
        at,
        [f"{name} ({share:.1%})" for name, share in zip(table["class"], table.share, strict=True)],
    )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlabel=f"change of the class's IoU against {reference} (points)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def skipping_time(table: pd.DataFrame, *, crossing: float) -> Figure:
    """Time against the share of active places: computed at active places only, or everywhere;
    dotted: what the MACs promise.

    Args:
        table: columns ``share``, ``MACs``, ``sparse`` and ``dense``, times relative to the plain
            backbone.
        crossing: the share where the two take equally long.
    """
    figure, ax = plt.subplots(figsize=(6.6, 3.9))
    ax.plot(table.share, table["sparse"], color=RED, marker="o", label="active places only")
    ax.plot(table.share, table["dense"], color=BLUE, marker="^", label="everywhere, then masked")
    ax.plot(
        table.share,
        table.MACs,
        color=GREY,
        marker="s",
        linestyle=":",
        label="MACs of the first way",
    )
    ax.axhline(1, color="black", linewidth=1, linestyle="--", label="plain backbone")
    if 0 < crossing < 1:
        ax.axvline(crossing, color=GREY, linewidth=1)
        ax.annotate(
            f"crossover {crossing:.2f}",
            (crossing, 0.03),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=9,
        )
    ax.set(
        xlabel="share of places active behind exit 1",
        ylabel="time / time of the plain backbone",
        ylim=(0, None),
    )
    ax.legend(loc="best")
    return figure


def tokens_left(picture, steps: Sequence[np.ndarray]) -> Figure:
    """An image under a white veil where tokens are finished, one panel per stage of layers.

    Args:
        picture: ``(H, W, 3)`` in [0, 1].
        steps: for each stage ``(h, w)`` bool: not finished yet.
    """
    figure, axes = plt.subplots(
        1,
        len(steps),
        figsize=(3.4 * len(steps), 3.4 * picture.shape[0] / picture.shape[1] + 0.5),
        squeeze=False,
    )
    H, W = picture.shape[:2]
    for j, (ax, active) in enumerate(zip(axes[0], steps, strict=True)):
        rows, columns = np.arange(H) * active.shape[0] // H, np.arange(W) * active.shape[1] // W
        shown = active[rows[:, None], columns][..., None]
        ax.imshow(
            np.where(shown, picture, 0.85 + 0.15 * np.asarray(picture)), interpolation="nearest"
        )
        ax.set_title(f"stage {j + 1}: {np.mean(active):.0%} not finished", fontsize=10)
        ax.axis("off")
    return figure
