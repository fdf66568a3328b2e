"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers, too.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#6E6E6E",
)  # fmt: skip
# One colour and one marker per method, the same in every chapter: red for what the thesis proposes, grey for what it is measured
# against, blue for exits trained as usual.
METHODS = {
    # chapters 1 and 2
    "backbone": (GREY, "s"),
    "early exits": (BLUE, "^"),
    "confidence": (BLUE, "^"),
    "entropy": (GREEN, "D"),
    "patience": (ORANGE, "s"),
    "E²CM": (RED, "o"),
    "E²CM, whitened": (PURPLE, "X"),  # chapter 6's whitened class means
    "SDN": (BLUE, "^"),
    "BranchyNet": (GREEN, "D"),
    "E²CM + SDN": ("#8C6D1F", "P"),
    # chapter 3
    "unpruned": (GREY, "s"),
    "together": (BLUE, "^"),
    "separately": (RED, "o"),
    "separately, all exits' loss": (PURPLE, "P"),
    "channels": (GREEN, "D"),
    # chapter 4
    "one threshold": (GREY, "s"),
    "one per exit": (BLUE, "^"),  # chapter 1's confidence rule
    "CBT": (RED, "o"),
    "CBT-ns": (PURPLE, "P"),
    "one per exit and class": (GREEN, "D"),
    # chapter 5
    "no pruning": ("black", "x"),
    "Random": (GREY, "s"),
    "EEPrune": (RED, "o"),
    "EL2N": (BLUE, "^"),
    "Forgetting": (GREEN, "D"),
    "SVP": (ORANGE, "v"),
    "Complexity gap": (PURPLE, "P"),
    "EEPrune-Before": (SKY, "<"),
    "EEPrune-After": ("#8C6D1F", ">"),
    # chapter 6
    "random": (GREY, "s"),
    "copy": (GREEN, "^"),
    "copy, after the final norm": ("#7FBF9F", "."),
    "class mean": (RED, "o"),  # E²CM with a prior
    "class mean, scaled": ("#8A3C00", "v"),
    "class mean, plug-in N₀": ("#F2A27E", "<"),
    "whitened class mean": (PURPLE, "X"),
    "class mean + random": (ORANGE, "D"),
    "class mean + copy": (BLUE, "P"),
}


def exit_colors(count: int) -> list[tuple[str, str]]:
    """Ground and ink for each of ``count`` exits, light to dark: black or white, whichever stands out more (at least 4.5 : 1)."""
    shades = plt.get_cmap("cividis")(np.linspace(0.95, 0.05, count))[:, :3]
    linear = np.where(shades <= 0.03928, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    inks = ["#000" if light > 0.179 else "#fff" for light in linear @ (0.2126, 0.7152, 0.0722)]
    return list(zip(map(plt.matplotlib.colors.to_hex, shades), inks, strict=True))


def use_style() -> None:
    """The look of the whole book; white ground, so that a figure can be read on a dark page, too."""
    sns.set_theme(context="notebook", style="ticks", font="DejaVu Sans")
    plt.rcParams.update({
        "figure.dpi": 110, "figure.constrained_layout.use": True, "axes.grid": True, "grid.alpha": 0.3, "axes.titlesize": 11,
        "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False,
        "figure.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip


def show(figure: Figure | Axes, *, caption: str, alt: str) -> HTML:
    """A figure with its caption and alternative text, the same in Jupyter, Colab and the built page.

    Args:
        figure: it, or any of its axes; it is closed.
        caption: the takeaway and the conditions, plain text.
        alt: what there is to see, for those who do not see it.

    Raises:
        ValueError: if caption or alt is empty.
    """
    if not caption.strip() or not alt.strip():
        raise ValueError("a figure needs a caption (what it shows) and an alt text (what it looks like)")
    figure = figure.figure if isinstance(figure, Axes) else figure
    png = io.BytesIO()
    figure.savefig(png, dpi=144, bbox_inches="tight")
    width = round(figure.get_figwidth() * 96)
    plt.close(figure)
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return HTML(
        f'<figure style="margin:1em 0"><img src="{source}" alt="{html.escape(alt)}" style="width:{width}px;max-width:100%;'
        f'height:auto;background:white"><figcaption style="font-size:.9em;max-width:46em">{html.escape(caption)}</figcaption></figure>'
    )


def cost_axes(ax: Axes, *, title: str = "") -> Axes:
    """Label an accuracy-against-cost panel the way all of them are labelled."""
    ax.set(xlabel="relative cost (MACs; 1 = backbone without exits)", ylabel="test accuracy", title=title, xlim=(0, 1.08))
    return ax


def accuracy_against_cost(ax: Axes, curves: dict[str, pd.DataFrame], *, title: str = "") -> Axes:
    """One line per method through its operating points.

    Args:
        ax: the panel.
        curves: method → table with ``relative_cost`` and ``accuracy``, one row per operating point.
        title: of the panel.
    """
    for method, table in curves.items():
        color, marker = METHODS[method]
        table = table.sort_values("relative_cost")
        ax.plot(table.relative_cost, table.accuracy, color=color, marker=marker, markersize=5, label=method)
    return cost_axes(ax, title=title)


def backbone_line(ax: Axes, accuracy: float) -> Axes:
    """The accuracy of the whole backbone, as a dashed line with its name."""
    ax.axhline(accuracy, color=GREY, linestyle="--", linewidth=1.2, label=f"backbone ({accuracy:.3f})")
    return ax


def gallery(pictures: Sequence, titles: Sequence[str], *, columns: int, heading: str = "", colors: Sequence[str] | None = None) -> Figure:
    """A grid of small pictures, ``(H, W)`` or ``(H, W, 3)`` in [0, 1], a line of text over each."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.25 * columns, 1.5 * rows + 0.3), squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(pictures):
            ax.imshow(np.asarray(pictures[i]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_title(titles[i], fontsize=8, color=colors[i] if colors else "black")
    if heading:
        figure.suptitle(heading, fontsize=11)
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 2

CLASS_COLORS = (RED, GREEN, BLUE, ORANGE, PURPLE, SKY, "#8C6D1F", "#4B0082", GREY, "#111111")
THREE_COLORS = ("#D62728", "#2CA02C", "#1F77B4")


def class_mean_grid(table: pd.DataFrame, *, colors: Sequence[str] = CLASS_COLORS, title: str = "") -> Figure:
    """The colour-coded class means: rows = classes, columns = layers; white = not separated, full colour = separated.

    Args:
        table: separability in [0, 1], indexed by class name, one column per layer, as `studies.e2cm.separability` returns it.
        colors: one per class, in the order of the rows.
        title: of the figure.
    """
    values = table.to_numpy()
    shown = values / values.max()
    full = np.array([plt.matplotlib.colors.to_rgb(color) for color in colors[: len(table)]])
    cells = 1 - shown[..., None] * (1 - full[:, None, :])
    wide = table.shape[1]
    figure, ax = plt.subplots(figsize=(1.0 + 0.82 * wide, 0.9 + 0.48 * len(table)))
    ax.imshow(cells, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        dark = np.dot(cells[row, column], (0.299, 0.587, 0.114)) < 0.5
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    ax.set_xticks(range(wide), table.columns, rotation=30 if wide > 6 else 0, ha="right" if wide > 6 else "center")
    ax.set_yticks(range(len(table)), table.index)
    ax.set(xlabel="layer whose class means are compared", title=title)
    ax.grid(False)
    ax.tick_params(length=0)
    return figure


def walk_through(steps: pd.DataFrame, *, classes: Sequence[str], thresholds: Sequence[float], names: Sequence[str]) -> Figure:
    """One image on its way: per exit the normalised distances (above) and their softmax with the threshold (below).

    Args:
        steps: columns ``exit`` (from 0), ``class`` (from 0), ``distance`` (d/μ) and ``softmax``.
        classes: names of the classes.
        thresholds: one per exit shown.
        names: of the exits shown.
    """
    exits = sorted(steps.exit.unique())
    figure, axes = plt.subplots(2, len(exits), figsize=(2.3 * len(exits) + 0.8, 4.4), sharex=True, sharey="row", squeeze=False)
    largest = steps.softmax.max()
    closed = [threshold > 2 * largest for threshold in thresholds]  # an exit that lets nobody go: its line would dwarf the bars
    top = 1.15 * max([largest, *(t for t, shut in zip(thresholds, closed, strict=True) if not shut)])
    for column, j in enumerate(exits):
        part = steps[steps.exit == j]
        leaves = part.softmax.max() > thresholds[column]
        nearest, likeliest = part.distance.argmin(), part.softmax.argmax()
        for ax, values, best in ((axes[0, column], part.distance, nearest), (axes[1, column], part.softmax, likeliest)):
            ax.bar(range(len(part)), values, color=[RED if i == best else "#BBBBBB" for i in range(len(part))])
        axes[1, column].axhline(min(thresholds[column], 2 * top), color="black", linestyle="--", linewidth=1)
        axes[1, column].set_ylim(0, top)
        verdict = "leaves" if leaves else "exit closed: goes on" if closed[column] else "goes on"
        axes[0, column].set_title(f"{names[column]}\n{verdict}", color=RED if leaves else "black", fontsize=10)
        axes[1, column].set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axes[0, 0].set_ylabel("distance / μ")
    axes[1, 0].set_ylabel("softmax (dashed: threshold)", fontsize=9)
    return figure


def exit_overhead(table: pd.DataFrame, *, title: str = "") -> Figure:
    """MACs per stage and of the exit test after it, as bars on a logarithmic axis.

    Args:
        table: indexed by exit name, columns ``stage`` and one per kind of exit head.
        title: of the figure.
    """
    colors = {"stage": GREY} | {name: METHODS[name][0] for name in table.columns if name in METHODS}
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    table.plot.bar(ax=ax, color=[colors[name] for name in table.columns], width=0.8, logy=True)
    ax.set(ylabel="MACs per image", xlabel="exit after", title=title)
    ax.tick_params(axis="x", rotation=30)
    ax.legend(ncols=len(table.columns), loc="upper center", bbox_to_anchor=(0.5, 1.0))
    ax.set_ylim(top=table.to_numpy().max() * 6)
    return figure


def confidence_bands(table: pd.DataFrame, *, uniform: float) -> Axes:
    """Where the confidences of each exit lie: median, middle 90 % and extremes, beside 1/K.

    Args:
        table: indexed by exit name, columns ``min``, ``low``, ``median``, ``high``, ``max``.
        uniform: 1/K, the smallest confidence possible.
    """
    _, ax = plt.subplots(figsize=(7.2, 3.0))
    at = np.arange(len(table))
    ax.vlines(at, table["min"], table["max"], color=RED, linewidth=1, label="smallest to largest")
    ax.vlines(at, table["low"], table["high"], color=RED, linewidth=6, alpha=0.5, label="middle 90 %")
    ax.plot(at, table["median"], "o", color=RED, label="median")
    ax.axhline(uniform, color=GREY, linestyle="--", linewidth=1, label=f"1/K = {uniform:.2f}")
    ax.set_xticks(at, table.index, rotation=30)
    ax.set(ylabel="confidence", xlabel="exit after")
    ax.legend(ncols=2, loc="upper left")
    ax.set_ylim(uniform * 0.97, table["max"].max() * 1.25 - 0.25 * uniform)
    return ax


def comparison_panels(tables: dict[str, dict[str, pd.DataFrame]], backbones: dict[str, float]) -> Figure:
    """Accuracy against cost, one panel per data set and one line per method; a band where a table has a ``spread``.

    Args:
        tables: data set → method → table with ``relative_cost``, ``accuracy`` and ``spread`` (NaN for a single run).
        backbones: data set → accuracy of its backbone.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(min(4.6, 12.6 / len(tables)) * len(tables), 4), squeeze=False)
    for ax, (name, curves) in zip(axes[0], tables.items(), strict=True):
        accuracy_against_cost(ax, curves, title=name)
        for method, table in curves.items():
            low, high = table.accuracy - table.spread, table.accuracy + table.spread
            ax.fill_between(table.relative_cost, low, high, color=METHODS[method][0], alpha=0.2, linewidth=0)
        backbone_line(ax, backbones[name])
    axes[0, 0].legend(*_merged_legend(axes[0]), loc="best")
    return figure


def _merged_legend(axes: Sequence[Axes]) -> tuple[list, list[str]]:
    """Handles and names of all methods; the backbone's without its number, which differs between panels."""
    entries = {label.split(" (")[0]: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    return list(entries.values()), list(entries)


def clustering_panels(groups: dict[str, Sequence[dict]]) -> Figure:
    """Clustering accuracy against cost, one panel per data set; thin lines: runs, thick red: their mean per budget.

    Args:
        groups: data set → runs, each with ``accuracy`` of the whole encoder and ``points`` (``budget``, ``relative_cost``, ``accuracy``).
    """
    figure, axes = plt.subplots(1, len(groups), figsize=(5.2 * len(groups), 3.8), squeeze=False)
    for ax, (name, runs) in zip(axes[0], groups.items(), strict=True):
        tables = [pd.DataFrame(run["points"]).sort_values("relative_cost") for run in runs]
        for i, table in enumerate(tables):
            ax.plot(table.relative_cost, table.accuracy, color=GREY, linewidth=0.9, marker=".", label="one run" if i == 0 else None)
        mean = pd.concat(tables).groupby("budget")[["relative_cost", "accuracy"]].mean()
        if len(runs) > 1:
            ax.plot(mean.relative_cost, mean.accuracy, color=RED, linewidth=3, marker="o", label=f"mean of {len(runs)} runs")
        ax.axhline(np.mean([run["accuracy"] for run in runs]), color="black", linestyle="--", linewidth=1, label="whole encoder")
        ax.set(xlabel="relative cost (MACs; 1 = whole encoder)", ylabel="clustering accuracy (test)", title=name, xlim=(0, 1.08))
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, high - 0.05), high + 0.005)  # a tenth of a point shall not look like a cliff
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 1

KINDS = {"vision": (BLUE, "o"), "language": (RED, "^"), "speech/multimodal": (GREEN, "D")}


def cascade(left: Sequence[float], *, costs: Sequence[float]) -> Figure:
    """A network as a row of stages with a door after each: the width of a stage's bar is who is still there.

    Args:
        left: share of the images that leaves at each exit.
        costs: cumulative relative cost at each exit.
    """
    figure, ax = plt.subplots(figsize=(8.2, 2.9))
    there = 1.0
    for j, (share, cost) in enumerate(zip(left, costs, strict=True)):
        ax.add_patch(plt.Rectangle((j, -there / 2), 0.72, there, color=BLUE, alpha=0.25 + 0.5 * (j + 1) / len(left), linewidth=0))
        ax.text(j + 0.36, 0, f"{there:.0%}", ha="center", va="center", fontsize=9)
        ax.annotate("", xy=(j + 0.86, -0.78), xytext=(j + 0.86, -there / 2 + 0.04), arrowprops={"arrowstyle": "->", "color": RED})
        ax.text(j + 0.86, -0.86, f"{share:.0%}\nleave", ha="center", va="top", fontsize=8, color=RED)
        ax.text(j + 0.36, 0.6, f"stage {j + 1}\ncost so far {cost:.2f}", ha="center", va="bottom", fontsize=8)
        there -= share
    ax.set(xlim=(-0.1, len(left) + 0.3), ylim=(-1.25, 0.95))
    ax.axis("off")
    return figure


def rising_cost(models: pd.DataFrame) -> Figure:
    """Parameters by year, and training-set sizes by year in one panel per unit, all on logarithmic axes; records have names.

    Args:
        models: the table in ``assets/models.csv``.
    """
    panels = [("parameters", models, "parameters")]
    panels += [(f"training {unit}", models[models.training_unit == unit], "training_examples") for unit in ("images", "tokens")]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=(1.5, 1, 1))
    for ax, (label, table, column) in zip(axes, panels, strict=True):
        table = table.dropna(subset=[column]).assign(when=table.year + (table.month - 0.5) / 12).sort_values("when")
        for kind, group in table.groupby("kind"):
            color, marker = KINDS[kind]
            ax.scatter(group.when, group[column], color=color, marker=marker, s=28, label=kind)
        ax.set(yscale="log", xlabel="year", ylabel=label)
        ax.xaxis.set_major_locator(plt.MaxNLocator(5, integer=True))
        for row, align in _records(table, column):
            offset = {"left": (6, -3), "right": (-5, 2)}[align]
            ax.annotate(row.model, (row.when, row[column]), fontsize=7.5, ha=align, xytext=offset, textcoords="offset points")
        ax.margins(x=0.08, y=0.1)
    axes[0].legend(loc="lower right")
    return figure


def _records(table: pd.DataFrame, column: str) -> list[tuple[pd.Series, str]]:
    """Who was clearly larger than all before, in order of time, and on which side of its point there is room for a name."""
    found, highest = [], 0.0
    for _, row in table.iterrows():
        if row[column] > 1.3 * highest:
            found.append((row, "right" if found else "left"))
            highest = row[column]
    return found


def difficulty(tenths: pd.DataFrame, *, overall: float) -> Axes:
    """Accuracy of one classifier among images sorted by its margin.

    Args:
        tenths: ``group`` (from 1, most clear-cut first) and ``accuracy``.
        overall: the accuracy on all of them.
    """
    _, ax = plt.subplots(figsize=(6.4, 3))
    ax.bar(tenths.group, tenths.accuracy, color=BLUE, alpha=0.75)
    ax.axhline(overall, color=GREY, linestyle="--", linewidth=1.2)
    ax.text(len(tenths) + 0.55, overall + 0.015, f"all: {overall:.3f}", ha="right", va="bottom", fontsize=9)
    ax.set(xlabel="tenth of the test images, largest margin first", ylabel="accuracy of the last exit", ylim=(0, 1.05))
    ax.set_xticks(tenths.group)
    return ax


def threshold_landscape(table: pd.DataFrame, *, last: float) -> Figure:
    """One threshold for all exits.  Left: who leaves where; right: accuracy and relative cost.

    Args:
        table: one row per ``threshold``, with ``left``, ``accuracy`` and ``relative_cost``.
        last: accuracy of the last exit.
    """
    figure, (shares, trade_off) = plt.subplots(1, 2, figsize=(10.4, 3.6), sharex=True)
    left = np.array(table.left.tolist()).T
    colors = [ground for ground, _ in exit_colors(len(left))]
    shares.stackplot(table.threshold, left, colors=colors, labels=[f"exit {j + 1}" for j in range(len(left))])
    shares.set(xlabel="threshold", ylabel="share of the test images that leaves at", ylim=(0, 1), xlim=(table.threshold.min(), 1))
    handles, labels = shares.get_legend_handles_labels()
    shares.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    trade_off.plot(table.threshold, table.accuracy, color=BLUE, label="accuracy")
    trade_off.plot(table.threshold, table.relative_cost, color=RED, linestyle="-.", label="relative cost (MACs)")
    trade_off.axhline(last, color=GREY, linestyle="--", linewidth=1.2, label="accuracy of the last exit")
    trade_off.set(xlabel="threshold", ylim=(0, 1.05))
    trade_off.legend(loc="lower right")
    return figure


def exits_and_overthinking(exits: pd.DataFrame, changes: pd.DataFrame) -> Figure:
    """Left: accuracy of each exit on all images.  Right: images that the rest of the network repairs or spoils after each early exit."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.6))
    color, marker = METHODS["early exits"]
    left.plot(exits.relative_cost, exits.accuracy, color=color, marker=marker)
    for row in exits.itertuples():
        left.annotate(f"exit {row.exit}", (row.relative_cost, row.accuracy), xytext=(4, -12), textcoords="offset points", fontsize=8)
    cost_axes(left).margins(y=0.15)
    at = np.arange(len(changes))
    right.bar(at - 0.2, changes.repaired, 0.4, color=BLUE, label="wrong here, right at the end")
    right.bar(at + 0.2, changes.spoiled, 0.4, color=RED, hatch="//", label="right here, wrong at the end (overthinking)")
    right.set_xticks(at, [f"exit {j}" for j in changes.exit])
    right.set(ylabel="test images", ylim=(0, 1.3 * max(changes.repaired.max(), changes.spoiled.max(), 1)))
    right.legend(loc="upper right")
    return figure


def trade(curves: dict[str, pd.DataFrame], *, last: float) -> Figure:
    """Accuracy against cost on test, one line per rule; dashed: everybody goes to the end."""
    figure, ax = plt.subplots(figsize=(6.4, 4))
    for name, table in curves.items():
        color, marker = METHODS[name]
        table = table.sort_values("relative_cost")
        ax.plot(table.relative_cost, table.accuracy, color=color, marker=marker, markersize=4, label=name)
    ax.axhline(last, color=GREY, linestyle="--", linewidth=1.2, label="last exit for everybody")
    ax.legend(loc="lower right")
    cost_axes(ax)
    return figure


def clock(times: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    """Left: time with three ways of leaving against the share of MACs, per batch size.  Right: how dear a MAC is in each stage."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.8, 3.9), width_ratios=(1.5, 1))
    for (batch, group), color, marker in zip(times.groupby("batch"), (ORANGE, BLUE, GREEN), ("s", "o", "^"), strict=True):
        left.plot(group.MACs, group.compacted, color=color, marker=marker, label=f"batch {batch}: leavers taken out")
        left.plot(group.MACs, group.rebatched, color=color, marker=marker, linestyle="--", markersize=4)
        left.plot(group.MACs, group["every exit"], color=color, marker=marker, linestyle=":", markerfacecolor="white")
    left.plot([], [], color="black", linestyle="--", marker="o", markersize=4, label="and batches filled up again")
    left.plot([], [], color="black", linestyle=":", marker="o", markerfacecolor="white", label="all computed, then masked")
    ends = [times.MACs.min(), times.MACs.max()]
    left.plot(ends, ends, color=GREY, linewidth=1, label="time = MACs")
    left.set(xlabel="relative cost (MACs)", ylabel="time / time of the plain backbone", ylim=(0, None))
    left.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    right.bar(stages.stage, stages.time_per_mac, color=GREY)
    right.axhline(1, color="black", linewidth=1, linestyle="--")
    right.set(xlabel="stage", ylabel="time per MAC / average")
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 3

LAYERS = {"convolution": SKY, "linear": ORANGE}


def magnitude_pools(weights: pd.DataFrame, cuts: dict[str, float], *, sparsity: float) -> Figure:
    """How large the weights of backbone and exits are, with the cut of one common pool and that of each pool for itself.

    Args:
        weights: ``magnitude`` and ``part`` (backbone, exits), as `studies.pruning.magnitudes` returns them.
        cuts: pool (``"all"``, ``"backbone"``, ``"exits"``) → magnitude below which the weights go.
        sparsity: share of each pool that goes.
    """
    figure, axes = plt.subplots(2, 1, figsize=(7.6, 4.4), sharex=True)
    edges = np.geomspace(1e-3, weights.magnitude.max() * 1.05, 60)
    for ax, part, color in ((axes[0], "backbone", LAYERS["convolution"]), (axes[1], "exits", LAYERS["linear"])):
        values = weights.magnitude[weights.part == part]
        ax.hist(np.clip(values, edges[0], None), edges, weights=np.full(len(values), 1 / len(values)), color=color)
        ax.axvline(cuts["all"], color=METHODS["together"][0], linewidth=2, label=f"one pool: {(values < cuts['all']).mean():.0%} go")
        ax.axvline(cuts[part], color=METHODS["separately"][0], linewidth=2, linestyle="--", label=f"own pool: {sparsity:.0%} go")
        ax.set(xscale="log", ylabel="share of the weights", title=f"{part}: {len(values):,} weights")
        ax.legend(loc="upper left")
    axes[1].set(xlabel="magnitude of a weight (first bar: all below 0.001)")
    return figure


def layer_sparsity(table: pd.DataFrame) -> Figure:
    """Final sparsity of every layer, one panel per approach; convolutions and linear layers in two colours.

    Args:
        table: ``layer``, ``kind`` and one column per approach, as `studies.pruning.layer_table` returns it.
    """
    approaches = [name for name in METHODS if name in table]
    wide = min(3 + 0.24 * len(table), 12.5)
    figure, axes = plt.subplots(len(approaches), 1, figsize=(wide, 2.2 * len(approaches)), sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes[:, 0], approaches, strict=True):
        _layer_bars(ax, table, table[name])
        ax.set(ylabel="sparsity", title=name, ylim=(0, 1.05))
    axes[0, 0].legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.1))
    axes[-1, 0].set(xlabel="layer in the order of execution (E: linear exit)")
    return figure


def layer_difference(table: pd.DataFrame, *, thesis: Sequence[float] = ()) -> Axes:
    """Sparsity together - separately, a bar per layer, with the spread over runs; the thesis's linear layers as open diamonds.

    Args:
        table: ``layer``, ``kind``, ``difference`` and ``spread`` (NaN for a single run).
        thesis: its differences at the linear layers.
    """
    _, ax = plt.subplots(figsize=(min(3 + 0.24 * len(table), 12.5), 3.2))
    _layer_bars(ax, table, table.difference)
    at = np.arange(len(table))
    if table.spread.notna().all():
        ax.errorbar(at, table.difference, table.spread, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    linear = at[(table.kind == "linear").to_numpy()]
    if len(thesis) == len(linear):
        ax.plot(linear, thesis, "D", color="black", markerfacecolor="white", markersize=6, label="thesis (figure), linear")
    ax.axhline(0, color="black", linewidth=1)
    ax.set(ylabel="sparsity: together - separately", xlabel="layer in the order of execution (E: linear exit)")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def _layer_bars(ax: Axes, table: pd.DataFrame, heights: pd.Series) -> None:
    at = np.arange(len(table))
    for kind, color in LAYERS.items():
        rows = (table.kind == kind).to_numpy()
        ax.bar(at[rows], heights[rows], color=color, label=kind, hatch="//" if kind == "linear" else None, edgecolor="white", linewidth=0)
    every = max(1, len(table) // 32)
    shown = [i for i, name in enumerate(table.layer) if name.startswith("E") or (every == 1)]
    ax.set_xticks(at[shown], table.layer.iloc[shown], fontsize=8)
    ax.set_xlim(-0.8, len(table) - 0.2)
    ax.grid(axis="x", visible=False)


def difference_map(table: pd.DataFrame, *, label: str = "sparsity: together - separately") -> Axes:
    """A heat map of differences, diverging and centred at zero: rows are rounds, columns layers.

    Args:
        table: indexed by round, one column per layer.
        label: of the colour bar.
    """
    _, ax = plt.subplots(figsize=(min(3.6 + 0.26 * table.shape[1], 13), max(2.9, 1.3 + 0.26 * len(table))))
    limit = max(float(table.abs().to_numpy().max()), 1e-6)
    bar = {"label": label, "pad": 0.02}
    sns.heatmap(table, ax=ax, cmap="RdBu", center=0, vmin=-limit, vmax=limit, cbar_kws=bar, xticklabels=1, linewidths=0.3)
    step = max(1, len(table) // 10)
    ax.set_yticks(np.arange(0, len(table), step) + 0.5, table.index[::step], rotation=0)
    if table.shape[1] > 40:
        marks = [i for i, name in enumerate(table.columns) if str(name).startswith("E")]
        ax.set_xticks(np.array(marks) + 0.5, [table.columns[i] for i in marks])
    ax.tick_params(axis="x", rotation=0, labelsize=8)
    ax.set(xlabel="layer in the order of execution (E: linear exit)", ylabel="round")
    return ax


def accuracy_of_exits(table: pd.DataFrame, *, title: str, thesis: dict[str, Sequence[float]] | None = None) -> Figure:
    """Accuracy of every exit, one line per approach, with the spread over runs; the thesis's numbers in a second panel.

    Args:
        table: ``exit`` (from 1), ``approach``, ``accuracy`` and ``spread`` (NaN for a single run).
        title: what the first panel shows.
        thesis: approach → accuracy of each exit.
    """
    figure, axes = plt.subplots(1, 2 if thesis else 1, figsize=(10.6 if thesis else 6.4, 3.8), squeeze=False)
    for name, group in table.groupby("approach", sort=False):
        color, marker = METHODS[name]
        spread = group.spread if group.spread.notna().all() else None
        axes[0, 0].errorbar(group.exit, group.accuracy, spread, color=color, marker=marker, capsize=3, label=name)
    axes[0, 0].set(title=title)
    for name, values in (thesis or {}).items():
        color, marker = METHODS[name]
        axes[0, 1].plot(range(1, len(values) + 1), values, color=color, marker=marker, label=name)
        axes[0, 1].set(title="thesis (ResNet-56, CIFAR-10; read off its figure)")
    for ax in axes[0]:
        ax.set(xlabel="exit", ylabel="test accuracy of the exit, all images")
        ax.set_xticks(sorted(table.exit.unique()))
        ax.legend(loc="best")
    return figure


def pruned_trade(curves: dict[str, pd.DataFrame]) -> Axes:
    """Accuracy against relative cost of thresholded inference, one line per approach, a band where a table has a spread.

    Args:
        curves: approach → ``relative_cost`` (multiplications by weights that are not zero), ``accuracy``, ``spread``.
    """
    _, ax = plt.subplots(figsize=(6.6, 4))
    for name, table in curves.items():
        color, marker = METHODS[name]
        table = table.sort_values("relative_cost")
        ax.plot(table.relative_cost, table.accuracy, color=color, marker=marker, markersize=5, label=name)
        ax.fill_between(
            table.relative_cost, table.accuracy - table.spread, table.accuracy + table.spread, color=color, alpha=0.2, linewidth=0
        )
    ax.set(xlabel="relative cost (effective MACs; 1 = unpruned backbone without exits)", ylabel="test accuracy", xlim=(0, None))
    ax.legend(loc="lower right")
    return ax


def what_is_saved(table: pd.DataFrame) -> Axes:
    """Weights, MACs, bytes and seconds of several networks as parts of the first one's, on one axis.

    Args:
        table: one row per network, one column per quantity; the first row is 1 everywhere.
    """
    _, ax = plt.subplots(figsize=(8.4, 3.4))
    at, width = np.arange(table.shape[1]), 0.8 / len(table)
    for i, (name, row) in enumerate(table.iterrows()):
        color, hatch = METHODS[name][0], ("", "//", "..")[i % 3]
        bars = ax.bar(at + (i - (len(table) - 1) / 2) * width, row, width, color=color, label=name, hatch=hatch)
        ax.bar_label(bars, [f"{value:.2f}" for value in row], fontsize=7, padding=1)
    ax.set_xticks(at, table.columns)
    ax.set(ylabel="part of the unpruned network", ylim=(0, 1.2 * table.to_numpy().max()))
    ax.legend(ncols=len(table), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def sweep_maps(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy together - separately in points over two settings, one panel each, diverging around zero on one colour scale.

    Args:
        tables: title → table in [-1, 1], indexed by the sparsity of the network, columns the sparsity of the exits.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(5.1 * len(tables), 1.6 + 0.55 * len(next(iter(tables.values())))), squeeze=False)
    limit = 100 * max(float(table.abs().max().max()) for table in tables.values())
    for i, (ax, (title, table)) in enumerate(zip(axes[0], tables.items(), strict=True)):
        last = i == len(tables) - 1
        look = {"cmap": "RdBu", "center": 0, "vmin": -limit, "vmax": limit, "annot": True, "fmt": "+.1f", "linewidths": 1}
        bar = {"label": "together - separately\n(points)"} if last else None
        sns.heatmap(100 * table, ax=ax, cbar=last, cbar_kws=bar, **look)
        ax.set(title=title, xlabel="sparsity of the separately pruned exits", ylabel="sparsity of the network" if i == 0 else "")
        ax.tick_params(axis="y", rotation=0)
    return figure


def sparse_matmul(table: pd.DataFrame) -> Axes:
    """Time of a product with a sparsely stored matrix, relative to the dense product, over sparsity.

    Args:
        table: ``sparsity``, ``relative_time``.
    """
    _, ax = plt.subplots(figsize=(6, 3.2))
    ax.plot(table.sparsity, table.relative_time, color=RED, marker="o", label="stored sparsely (CSR)")
    ax.axhline(1, color=GREY, linestyle="--", label="dense, zeros multiplied")
    ax.set(xlabel="sparsity", ylabel="time / time of the dense product", yscale="log")
    ax.legend()
    return ax


# ------------------------------------------------------------------------------------------------------------- chapter 4

# One colour for each thing, whatever a data set calls it and wherever it stands in its list of classes.
SCENE_COLORS = {
    "road": "#6E6E6E", "sky": "#9AD1F0", "building": "#8C510A", "vegetation": "#1B7837", "tree": "#1B7837", "car": "#0072B2",
    "person": "#D55E00", "pedestrian": "#D55E00", "pole": "#F0E442", "bus": "#CC79A7", "pavement": "#D9B8A3", "sidewalk": "#D9B8A3",
    "sign": "#E69F00", "traffic sign": "#E69F00", "fence": "#B2ABD2", "bicyclist": "#000000", "bicycle": "#000000", "wall": "#F6E8C3",
    "traffic light": "#67001F", "terrain": "#A6D96A", "rider": "#C51B7D", "truck": "#542788", "train": "#01665E", "motorcycle": "#4D4D4D",
}  # fmt: skip


def label_map(labels, classes: Sequence[str], *, ignore: int = 255) -> np.ndarray:
    """Labels ``(H, W)`` as a picture ``(H, W, 3)``; ignored pixels are white."""
    palette = np.array([plt.matplotlib.colors.to_rgb(SCENE_COLORS[name]) for name in classes])
    labels = np.asarray(labels)
    return np.where((labels == ignore)[..., None], 1.0, palette[np.where(labels == ignore, 0, labels)])


def scene_panels(panels: dict[str, np.ndarray], *, classes: Sequence[str], bar: str = "") -> Figure:
    """Pictures side by side: ``(H, W, 3)`` as they are, ``(H, W)`` as shades with a colour bar called ``bar``; a legend of the classes."""
    first = np.asarray(next(iter(panels.values())))
    width = 3.0 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 3.0 * first.shape[0] / first.shape[1] + 0.6), squeeze=False)
    for ax, (title, picture) in zip(axes[0], panels.items(), strict=True):
        shown = ax.imshow(picture, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.axis("off")
        if np.ndim(picture) == 2:
            figure.colorbar(shown, ax=ax, shrink=0.75, label=bar)
    _class_legend(figure, classes)
    return figure


def _class_legend(figure: Figure, classes: Sequence[str]) -> None:
    patches = [plt.Rectangle((0, 0), 1, 1, color=SCENE_COLORS[name]) for name in classes]
    figure.legend(patches, classes, loc="outside lower center", ncols=min(len(classes), 11), fontsize=8, handlelength=1, columnspacing=1)


def threshold_bars(table: pd.DataFrame, *, ends: tuple[float, float]) -> Figure:
    """Class thresholds in order, beside the margins they come from; hatched: classes that are taken for another.

    Args:
        table: columns ``class``, ``share``, ``margin``, ``threshold``, ``confused``, ``taken for``.
        ends: [alpha, beta].
    """
    table = table.sort_values("threshold", ascending=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.34 * len(table) + 1.2), sharey=True)
    at = np.arange(len(table))
    hatches = ["//" if confused else "" for confused in table.confused]
    for ax, column in ((left, "margin"), (right, "threshold")):
        bars = ax.barh(at, table[column], color=[GREY if confused else RED for confused in table.confused], alpha=0.85)
        for bar, hatch in zip(bars, hatches, strict=True):
            bar.set_hatch(hatch)
    names = [f"{name} ({share:.1%})" for name, share in zip(table["class"], table.share, strict=True)]
    left.set_yticks(at, names)
    left.set(xlabel="margin of the class", xlim=(0, 1))
    room = ends[1] - ends[0]
    right.set(xlabel="threshold of the class", xlim=(ends[0] - 0.06 * room, ends[1] + 0.06 * room))
    for y, row in zip(at, table.itertuples(), strict=True):
        if row.confused:
            left.text(row.margin + 0.02, y, f"taken for {table['taken for'].iloc[y]}", va="center", fontsize=8)
    return figure


def exit_maps(picture, truth, methods: dict[str, list[tuple]], *, classes: Sequence[str]) -> Figure:
    """One image on its way: per method a row of predicted maps and a row of masks of what is still computed; one column per exit.

    Args:
        picture: ``(H, W, 3)``.
        truth: ``(H, W)`` labels.
        methods: name → for each exit (predicted labels ``(H, W)``, active before that exit ``(h, w)`` bool).
    """
    exits = len(next(iter(methods.values())))
    ratio = truth.shape[0] / truth.shape[1]
    figure, axes = plt.subplots(2 * len(methods), exits + 1, figsize=(2.25 * (exits + 1), 2 * len(methods) * (2.25 * ratio + 0.28) + 0.6))
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
            below.add_patch(plt.Rectangle((0, 0), 1, 1, transform=below.transAxes, fill=False, color=GREY, linewidth=1))
    _class_legend(figure, classes)
    return figure


def anytime_curves(scores: dict[str, dict], singles: pd.DataFrame | None = None) -> Figure:
    """Mean IoU against cost: left, every named rule at every exit; right, what each rule gives at the last exit.

    Args:
        scores: name → ``miou`` and ``cost``, one number per exit.
        singles: one threshold, several values: ``threshold``, ``cost``, ``miou`` at the last exit.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    styles = ("-", "--", ":", "-.")
    seen: dict[str, int] = {}
    for name, score in scores.items():
        kind = "one threshold" if name.startswith("single") else "CBT-ns" if name.startswith("CBT-ns") else "CBT"
        color, marker = METHODS[kind]
        style = styles[seen.get(kind, 0) % len(styles)]
        seen[kind] = seen.get(kind, 0) + 1
        left.plot(score["cost"], 100 * np.array(score["miou"]), color=color, marker=marker, markersize=5, linestyle=style, label=name)
        right.plot(score["cost"][-1], 100 * score["miou"][-1], color=color, marker=marker, markersize=8, linestyle="none")
    if singles is not None:
        color, marker = METHODS["one threshold"]
        right.plot(singles.cost, 100 * singles.miou, color=color, marker=marker, markersize=4)
        for row in singles.itertuples():
            right.annotate(f"{row.threshold:g}", (row.cost, 100 * row.miou), xytext=(3, -12), textcoords="offset points", fontsize=8)
    for ax, title in ((left, "at every exit"), (right, "at the last exit; grey line: one threshold, its value beside it")):
        ax.set(xlabel="relative cost (MACs; 1 = backbone without exits)", ylabel="mean IoU on test (points)")
        ax.set_title(title, fontsize=10)
        ax.margins(y=0.12)
    left.legend(loc="lower right")
    return figure


def budget_curves(runs: Sequence[dict], *, title: str = "") -> Figure:
    """Mean IoU against cost for every way of choosing thresholds, and their lead at equal cost; bands: one standard deviation of the lead.

    Args:
        runs: with ``budgets`` (method → rows with ``budget``, ``cost``, ``miou``) and ``leads`` (method → table with ``budget``, ``mean``
            and ``spread``) for all of them in ``runs[0]``.
        title: of the left panel.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    for method in runs[0]["budgets"]:
        color, marker = METHODS[method]
        rows = pd.concat(pd.DataFrame(run["budgets"][method])[["budget", "cost", "miou"]] for run in runs).groupby("budget").mean()
        left.plot(rows.cost, 100 * rows.miou, color=color, marker=marker, markersize=6, alpha=0.9, label=method)
        if method in runs[0]["leads"]:
            table = runs[0]["leads"][method]
            right.plot(table.budget, 100 * table["mean"], color=color, marker=marker, markersize=6)
            low, high = (100 * (table["mean"] + sign * table.spread) for sign in (-1, 1))
            right.fill_between(table.budget, low, high, color=color, alpha=0.18, linewidth=0)
    right.axhline(0, color=METHODS["one threshold"][0], linestyle="--", linewidth=1.2)
    left.set(xlabel="relative cost on test (MACs; 1 = backbone without exits)", ylabel="mean IoU on test (points)", title=title)
    right.set(xlabel="budget of the choice on validation (relative cost)", ylabel="lead over one threshold\nat the same cost (points)")
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
    ax.set_yticks(at, [f"{name} ({share:.1%})" for name, share in zip(table["class"], table.share, strict=True)])
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlabel=f"change of the class's IoU against {reference} (points)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def skipping_time(table: pd.DataFrame, *, crossing: float) -> Figure:
    """Time against the share of active places: computed at active places only, or everywhere; dotted: what the MACs promise.

    Args:
        table: columns ``share``, ``MACs``, ``sparse`` and ``dense``, times relative to the plain backbone.
        crossing: the share where the two take equally long.
    """
    figure, ax = plt.subplots(figsize=(6.6, 3.9))
    ax.plot(table.share, table["sparse"], color=RED, marker="o", label="active places only")
    ax.plot(table.share, table["dense"], color=BLUE, marker="^", label="everywhere, then masked")
    ax.plot(table.share, table.MACs, color=GREY, marker="s", linestyle=":", label="MACs of the first way")
    ax.axhline(1, color="black", linewidth=1, linestyle="--", label="plain backbone")
    if 0 < crossing < 1:
        ax.axvline(crossing, color=GREY, linewidth=1)
        ax.annotate(f"crossover {crossing:.2f}", (crossing, 0.03), xytext=(4, 0), textcoords="offset points", fontsize=9)
    ax.set(xlabel="share of places active behind exit 1", ylabel="time / time of the plain backbone", ylim=(0, None))
    ax.legend(loc="best")
    return figure


def tokens_left(picture, steps: Sequence[np.ndarray]) -> Figure:
    """An image under a white veil where tokens are finished, one panel per stage of layers.

    Args:
        picture: ``(H, W, 3)`` in [0, 1].
        steps: for each stage ``(h, w)`` bool: not finished yet.
    """
    figure, axes = plt.subplots(1, len(steps), figsize=(3.4 * len(steps), 3.4 * picture.shape[0] / picture.shape[1] + 0.5), squeeze=False)
    H, W = picture.shape[:2]
    for j, (ax, active) in enumerate(zip(axes[0], steps, strict=True)):
        rows, columns = np.arange(H) * active.shape[0] // H, np.arange(W) * active.shape[1] // W
        shown = active[rows[:, None], columns][..., None]
        ax.imshow(np.where(shown, picture, 0.85 + 0.15 * np.asarray(picture)), interpolation="nearest")
        ax.set_title(f"stage {j + 1}: {np.mean(active):.0%} not finished", fontsize=10)
        ax.axis("off")
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 5

SIDES = {"hard": (RED, "o"), "easy": (BLUE, "^"), "random": (GREY, "s"), "all": ("black", "x")}


def ring_panels(points: np.ndarray, labels: np.ndarray, dropped: dict[int, np.ndarray], *, classes: int = 6) -> Figure:
    """The ring after several epochs: classes in shades of blue and grey, what would be dropped in red.

    Args:
        points: ``(N, 2)``.
        labels: ``(N,)``.
        dropped: epoch → rows.
        classes: equal sectors; their boundaries are dashed.
    """
    figure, axes = plt.subplots(1, len(dropped), figsize=(3.1 * len(dropped), 3.4), sharex=True, sharey=True, squeeze=False)
    shades = np.array(["#9DB8CF", "#C9C9C9"])[labels % 2]
    for ax, (epoch, rows) in zip(axes[0], dropped.items(), strict=True):
        ax.scatter(*points.T, s=5, c=shades, linewidths=0)
        ax.scatter(*points[rows].T, s=7, c=RED, marker="D", linewidths=0)
        for angle in np.arange(classes) * 2 * np.pi / classes:
            ends = np.array([0.9, 2.1])
            ax.plot(ends * np.cos(angle), ends * np.sin(angle), color="black", linestyle="--", linewidth=0.8)
        ax.set(title=f"epoch {epoch}: {len(rows)} dropped", aspect="equal", xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
        ax.grid(False)
    return figure


def early_against_final(early: np.ndarray, final: np.ndarray, dropped: np.ndarray, kept: np.ndarray) -> Axes:
    """Every training sample by the probability that the early and the final exit give its true class; dropped ones in red.

    Args:
        early: ``(N,)``.
        final: ``(N,)``.
        dropped: rows that the rule drops.
        kept: rows that it keeps.
    """
    _, ax = plt.subplots(figsize=(5.4, 4.2))
    ax.scatter(early[kept], final[kept], s=9, color=GREY, alpha=0.5, linewidths=0, label=f"kept ({len(kept):,})")
    ax.scatter(early[dropped], final[dropped], s=11, color=RED, marker="D", alpha=0.6, linewidths=0, label=f"dropped ({len(dropped):,})")
    limits = (-0.02, 1.02)
    ax.set(xlabel="probability of the true class at the early exit", ylabel="the same at the final exit", xlim=limits, ylim=limits)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def accuracy_against_samples(tables: dict[str, pd.DataFrame], *, unit: int, title: str = "") -> Figure:
    """Test accuracy against samples seen, one column per ratio.  Above: training alone; below: scoring included.

    Args:
        tables: heading of the column → ``method``, ``training``, ``total``, ``accuracy``, ``spread`` (NaN for a single run).
        unit: samples in the whole training set: the axis counts passes over it.
        title: of the figure.
    """
    figure, axes = plt.subplots(2, len(tables), figsize=(3.9 * len(tables), 6.2), sharey=True, squeeze=False)
    for column, (heading, table) in enumerate(tables.items()):
        for row, x in enumerate(("training", "total")):
            ax = axes[row, column]
            for method, part in table.groupby("method", sort=False):
                color, marker = METHODS[method]
                line = "--" if method == "no pruning" else "-"
                passes = part[x] / unit
                ax.plot(passes, part.accuracy, color=color, marker=marker, linestyle=line, markersize=4.5, linewidth=1.3, label=method)
                ax.fill_between(passes, part.accuracy - part.spread, part.accuracy + part.spread, color=color, alpha=0.13, linewidth=0)
        axes[0, column].set(title=heading, xlabel="passes over the data, training only")
        axes[1, column].set(xscale="log", xlabel="passes over the data, scoring included")
        axes[1, column].xaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:g}"))
        axes[1, column].set_xticks([2, 5, 10, 20, 50])
        axes[1, column].minorticks_off()
    ends = pd.concat([table[table.training == table.training.max()] for table in tables.values()]).accuracy
    for ax in axes[:, 0]:
        # the first steps of a training would squeeze what there is to compare
        ax.set(ylabel="test accuracy", ylim=(max(0, ends.min() - 0.15), min(1, ends.max() + 0.03)))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def lead_over_random(panels: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy at the end of the budget minus that of random pruning with the same seed, one panel per data set.

    Args:
        panels: data set → ``method``, ``ratio``, ``lead`` (mean over the runs), ``spread`` (NaN for a single run).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels) + 1.6, 3.9), squeeze=False)
    for ax, (name, table) in zip(axes[0], panels.items(), strict=True):
        ratios = sorted(table.ratio.unique())
        methods = [method for method in dict.fromkeys(table.method) if method != "Random"]
        for i, method in enumerate(methods):
            part, (color, marker) = table[table.method == method].sort_values("ratio"), METHODS[method]
            x = np.arange(len(part)) + 0.09 * (i - (len(methods) - 1) / 2)
            ax.errorbar(x, part.lead, yerr=part.spread.fillna(0), color=color, marker=marker, linestyle="none", capsize=2, label=method)
        ax.axhline(0, color=METHODS["Random"][0], linewidth=1.5, label="Random")
        ax.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
        ax.set(title=name, xlabel="dropped", ylabel="accuracy − that of random pruning")
        ax.grid(axis="x", visible=False)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def scoring_costs(table: pd.DataFrame) -> Figure:
    """What scoring costs, one bar per method and one panel per column.

    Args:
        table: indexed by method, columns ``passes``, ``seconds`` and, where there is a meter, ``joules``.
    """
    table, labels = table[::-1], {"passes": "samples seen / size of the data set"}
    figure, axes = plt.subplots(1, len(table.columns), figsize=(1 + 4.7 * len(table.columns), 3.5), sharey=True)
    colors = [METHODS[method][0] for method in table.index]
    for ax, column in zip(axes, table.columns, strict=True):
        ax.barh(table.index, table[column], color=colors)
        for y, value in enumerate(table[column]):
            text = f"{value:.3g}" if value >= 0.05 else "≈ 0"
            ax.annotate(text, (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set(xlabel=f"scoring: {labels.get(column, column)}", xlim=(0, 1.15 * table[column].max()))
        ax.grid(axis="y", visible=False)
    return figure


def dropped_by_class(panels: dict[tuple[str, str], pd.DataFrame], imbalances: dict[tuple[str, str], pd.Series]) -> Figure:
    """How many samples of each class each method discards, and below it the imbalance that this causes.

    Args:
        panels: (data set, ratio) → rows = classes, columns = methods.
        imbalances: (data set, ratio) → one number per method.
    """
    data, ratios = ([*dict.fromkeys(key[i] for key in panels)] for i in (0, 1))
    heights = [part for _ in ratios for part in (3.2, 1)]
    size = (4.2 * len(data) + 1.2, 4.8 * len(ratios))
    figure, axes = plt.subplots(2 * len(ratios), len(data), figsize=size, height_ratios=heights, squeeze=False, sharex="col")
    worst = max(series.max() for series in imbalances.values())
    for (name, ratio), table in panels.items():
        row, column = 2 * ratios.index(ratio), data.index(name)
        heat, bars = axes[row, column], axes[row + 1, column]
        numbers = {"annot": True, "fmt": ".0f", "annot_kws": {"fontsize": 8}}
        sns.heatmap(table, ax=heat, cmap="rocket_r", vmin=0, cbar=False, **numbers)
        heat.set(title=f"{name}, {ratio} dropped", xlabel="", ylabel="")
        heat.tick_params(length=0, labelbottom=False)
        heat.tick_params(axis="y", rotation=0)
        series = imbalances[name, ratio]
        bars.bar(np.arange(len(series)) + 0.5, series, color=[METHODS[method][0] for method in series.index])
        bars.set_xticks(np.arange(len(series)) + 0.5, series.index, rotation=90)
        bars.tick_params(labelbottom=True)
        bars.set(ylim=(0, 1.25 * worst), ylabel="imbalance" if column == 0 else "")
        for i, value in enumerate(series):
            bars.annotate(f"{value:.2f}", (i + 0.5, value), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8)
        bars.grid(axis="x", visible=False)
    return figure


def halves(table: pd.DataFrame) -> Axes:
    """Accuracy after training on what was dropped and on as much of the rest; error bars: standard deviation.

    Args:
        table: one row per data set, indexed by name: ``dropped``, ``kept``, ``dropped_spread``, ``kept_spread`` (NaN for one run).
    """
    _, ax = plt.subplots(figsize=(1.8 + 1.9 * len(table), 3.3))
    at = np.arange(len(table))
    sides = [(-0.2, "dropped", RED, "dropped by EEPrune", "//"), (0.2, "kept", BLUE, "as many of the rest", None)]
    for shift, side, color, label, hatch in sides:
        error = table[f"{side}_spread"].fillna(0)
        ax.bar(at + shift, table[side], 0.38, color=color, alpha=0.85, hatch=hatch, label=label, yerr=error, capsize=3)
        for x, value, above in zip(at + shift, table[side], error, strict=True):
            ax.annotate(f"{value:.3f}", (x, value + above), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
    ax.set_xticks(at, table.index)
    ax.set(ylabel="test accuracy", ylim=(0, 1.02), xlim=(-0.6, len(table) - 0.4))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="trained on the samples", title_fontsize=9)
    ax.grid(axis="x", visible=False)
    return ax


def amount_of_data(rows: pd.DataFrame) -> Figure:
    """Accuracy when the easy, the hard or random samples are kept, minus that of random ones, against the size of the data set.

    Args:
        rows: ``data``, ``seed``, ``size``, ``keep``, ``accuracy``.
    """
    names = [*dict.fromkeys(rows.data)]
    figure, axes = plt.subplots(2, len(names), figsize=(5 * len(names), 6), sharex="col", squeeze=False)
    for (above, below), (_, part) in zip(axes.T, rows.groupby("data", sort=False), strict=True):
        table = part.pivot_table(index=["seed", "size"], columns="keep", values="accuracy")
        for side, (color, marker) in SIDES.items():
            for ax, values in ((above, table[side]), (below, table[side] - table["random"])):
                if ax is below and side in ("random", "all"):
                    continue
                groups = values.groupby("size")
                mean, spread = groups.mean(), groups.std()
                label = "all samples" if side == "all" else f"the {side} ones" if side != "random" else "random ones"
                line = "--" if side == "all" else "-"
                ax.plot(mean.index, mean, color=color, marker=marker, linestyle=line, label=label)
                ax.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
        below.axhline(0, color=GREY, linewidth=1.2, label="random ones")
        above.set(title=part.data.iloc[0], ylabel="test accuracy")
        below.set(xscale="log", xlabel="samples before pruning", ylabel="accuracy − that of random ones")
        below.set_xticks(sorted(part["size"].unique()), [f"{size:,}" for size in sorted(part["size"].unique())])
        below.minorticks_off()
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5), title="kept", title_fontsize=9)
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 6


def decision_regions(panels: dict[str, dict], *, names: Sequence[str]) -> Figure:
    """Received points in the plane over the regions in which a linear detector decides for each message.

    Args:
        panels: title → ``signals`` (M, 2), ``received`` (N, 2), ``messages`` (N,), ``weight`` (M, 2), ``bias`` (M,), as arrays.
        names: of the messages.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 4.2), squeeze=False)
    reach = 1.05 * max(np.abs(np.asarray(panel["received"])).max() for panel in panels.values())
    grid = np.linspace(-reach, reach, 300)
    x, y = np.meshgrid(grid, grid)
    for ax, (title, panel) in zip(axes[0], panels.items(), strict=True):
        scores = np.stack([x, y], -1) @ np.asarray(panel["weight"]).T + np.asarray(panel["bias"])
        count = len(names)
        colors = plt.matplotlib.colors.ListedColormap(CLASS_COLORS[:count])
        ax.imshow(scores.argmax(-1), origin="lower", extent=(-reach, reach) * 2, cmap=colors, vmin=-0.5, vmax=count - 0.5, alpha=0.22)
        for m in range(count):
            points = np.asarray(panel["received"])[np.asarray(panel["messages"]) == m]
            ax.plot(*points.T, ".", color=CLASS_COLORS[m], markersize=3, alpha=0.7)
            signal = np.asarray(panel["signals"])[m]
            ax.plot(*signal, marker="*", markersize=15, color=CLASS_COLORS[m], markeredgecolor="black", linestyle="none")
            ax.annotate(names[m], signal, xytext=(8, 8), textcoords="offset points", fontsize=10, weight="bold")
        ax.set(title=title, xlabel="first coordinate of $r$", ylabel="second coordinate of $r$", xlim=(-reach, reach), ylim=(-reach, reach))
        ax.grid(False)
    return figure


def error_rates(table: pd.DataFrame) -> Axes:
    """Simulated error rates (markers) and theory (lines) against the signal-to-noise ratio.

    Args:
        table: columns ``db``, ``case``, ``simulated``, ``theory``, ``wrong``, as `studies.class_aware.error_curves` returns them.
    """
    _, ax = plt.subplots(figsize=(7.2, 4.2))
    looks = ((BLUE, "o", "exact"), (GREEN, "^", "exact"), (RED, "s", "union bound"))
    for (case, part), (color, marker, what) in zip(table.groupby("case", sort=False), looks, strict=True):
        ax.plot(part.db, part.theory, color=color, label=f"{case}: {what}")
        shown = part[part.simulated > 0]
        ax.plot(shown.db, shown.simulated, marker, color=color, label=f"{case}: simulated")
        if (part.wrong != part.simulated).any():
            look = {"markersize": 11, "markeredgewidth": 2, "zorder": 4}  # to be seen on the markers of equal priors
            ax.plot(part.db, part.wrong, "x", color=color, label=f"{case}: detector without the priors", **look)
    lowest = max(table.simulated[table.simulated > 0].min() / 3, 1e-6)
    ax.set(xlabel=r"$E / N_0$ in dB", ylabel="error probability", yscale="log", ylim=(lowest, 4))
    ax.legend(fontsize=8, loc="lower left")
    return ax


def language_model_sketch(*, tokens: Sequence[str], decoders: int, exit_after: int, notes: dict[str, str], answer: str) -> Figure:
    """From tokens through embedding and decoders to the head, with the early exit on the way.

    Args:
        tokens: of the text so far.
        decoders: L.
        exit_after: K.
        notes: what to write under ``embedding``, ``decoder`` and ``head``.
        answer: the next token.
    """
    figure, ax = plt.subplots(figsize=(10.4, 3.3))
    arrow = {"arrowstyle": "->", "color": "black", "shrinkA": 0, "shrinkB": 0}
    boxes = ["embedding", *[f"decoder\n{i + 1}" for i in range(decoders)], "head"]
    ax.text(0.0, 0, "\n".join(tokens), ha="center", va="center", fontsize=9, family="monospace")
    for i, name in enumerate(boxes):
        left = 0.75 + i
        color = ORANGE if name == "embedding" else GREEN if name == "head" else BLUE
        ax.add_patch(plt.Rectangle((left, -0.5), 0.72, 1.0, facecolor=color, alpha=0.25, edgecolor=color))
        ax.text(left + 0.36, 0, name, ha="center", va="center", fontsize=8)
        ax.annotate("", xy=(left, 0), xytext=(left - 0.28, 0), arrowprops=arrow)
    end = 0.75 + len(boxes) - 0.28
    ax.annotate("", xy=(end + 0.28, 0), xytext=(end, 0), arrowprops=arrow)
    ax.text(end + 0.32, 0, answer, ha="left", va="center", fontsize=10, family="monospace")
    ax.text(1.11, -0.62, notes["embedding"], ha="center", va="top", fontsize=8)
    ax.text(0.75 + 1 + decoders / 2 - 0.14, -0.62, notes["decoder"], ha="center", va="top", fontsize=8)
    ax.text(end - 0.36, -0.62, notes["head"], ha="center", va="top", fontsize=8)
    at = 0.75 + exit_after + 0.86
    ax.annotate("", xy=(at, 0.95), xytext=(at, 0.04), arrowprops={"arrowstyle": "->", "color": RED})
    ax.add_patch(plt.Rectangle((at - 0.45, 0.95), 0.9, 0.45, facecolor=RED, alpha=0.2, edgecolor=RED))
    ax.text(at, 1.175, "early exit", ha="center", va="center", fontsize=9, color="#8A3C00")
    ax.set(xlim=(-0.6, end + 1.3), ylim=(-1.1, 1.5))
    ax.axis("off")
    return figure


def epoch_zero_bars(values: dict[str, float], *, final: float) -> Axes:
    """Accuracy before any training, one bar per head, beside the final head's.

    Args:
        values: head → next-token accuracy.
        final: the final head's.
    """
    _, ax = plt.subplots(figsize=(7.4, 0.5 + 0.42 * len(values)))
    names = list(values)[::-1]
    bars = ax.barh(names, [values[name] for name in names], color=[METHODS[name][0] for name in names], height=0.7)
    ax.bar_label(bars, fmt="%.3f", padding=3, fontsize=9)
    ax.axvline(final, color="black", linestyle="--", linewidth=1.2, label=f"final head ({final:.3f})")
    ax.set(xlabel="next-token accuracy at epoch 0", xlim=(0, 1.18 * max(final, *values.values())))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=1)
    return ax


def noise_and_mixture(n0: pd.DataFrame, alpha: pd.DataFrame, *, final: float) -> Figure:
    """Accuracy at epoch 0 against N₀ (left) and against the share of the class means (right).

    Args:
        n0: columns ``head``, ``factor``, ``val``, ``test``.
        alpha: columns ``alpha``, ``other`` (random or copy), ``val``, ``test``.
        final: the final head's accuracy on test.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.8), sharey=True)
    for head, part in n0.groupby("head"):
        color, marker = METHODS[head]
        left.plot(part.factor, part.test, color=color, marker=marker, label=f"{head}, test")
        left.plot(part.factor, part.val, color=color, linestyle=":", label=f"{head}, validation")
        best = part.loc[part.val.idxmax()]
        left.plot(best.factor, best.test, "*", color="black", markersize=13, label=None if head != "class mean" else "chosen on validation")
    left.axvline(1, color=GREY, linewidth=1, label="plug-in $N_0$")
    left.set(xscale="log", xlabel="$N_0$ / plug-in $N_0$", ylabel="next-token accuracy at epoch 0")
    left.legend(loc="upper left", fontsize=8)
    for other, part in alpha.groupby("other"):
        color, marker = METHODS[f"class mean + {other}"]
        right.plot(part.alpha, part.test, color=color, marker=marker, label=f"class mean + {other}")
    right.axhline(final, color="black", linestyle="--", linewidth=1.2, label="final head")
    right.set(xlabel="α (1 = class means alone)")
    right.legend(fontsize=8)
    return figure


def accuracy_by_depth(table: pd.DataFrame, *, final: float) -> Axes:
    """Accuracy at epoch 0 against the exit layer, one line per head (columns); index: decoders before the exit."""
    _, ax = plt.subplots(figsize=(7.6, 4.0))
    for name in table.columns:
        color, marker = METHODS[name]
        ax.plot(table.index, table[name], color=color, marker=marker, label=name, linestyle="--" if "norm" in name else "-")
    ax.axhline(final, color="black", linestyle=":", linewidth=1.2, label=f"final head ({final:.3f})")
    ax.set(xlabel="decoders before the exit", ylabel="next-token accuracy at epoch 0", ylim=(0, None))
    ax.set_xticks(list(table.index))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def initialisations_over_epochs(panels: dict[str, tuple[pd.DataFrame, pd.DataFrame]], *, final: dict[str, float]) -> Figure:
    """Next-token accuracy of the exit per epoch, one panel per setting and one line per initialisation; bands: ± one deviation.

    Args:
        panels: setting → mean and standard deviation (NaN for one run), one row per epoch, one column per initialisation.
        final: setting → the final head's accuracy.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 4.2), squeeze=False, sharey=True)
    for ax, (title, (table, spread)) in zip(axes[0], panels.items(), strict=True):
        for name in table.columns:
            color, marker = METHODS[name]
            ax.plot(table.index, table[name], color=color, marker=marker, markersize=5, label=name)
            ax.fill_between(table.index, table[name] - spread[name], table[name] + spread[name], color=color, alpha=0.2, linewidth=0)
        ax.axhline(final[title], color="black", linestyle="--", linewidth=1.2, label="final head, before")
        ax.set(title=title, xlabel="epoch (0 = before training)")
        ax.set_xticks(list(table.index))
    axes[0, 0].set_ylabel("next-token accuracy of the exit")
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def suspected_causes(rows: Sequence[dict]) -> Figure:
    """Copied head, class means and whitened class means for several models, on raw (left) and normalised features (right).

    Args:
        rows: with ``model``, ``features``, ``copy``, ``plug_in``, ``chosen``, ``whitened``, ``final``; several runs are averaged.
    """
    table = pd.DataFrame(rows).groupby(["features", "model"], sort=False).mean(numeric_only=True)
    names = {"copy": "copy", "plug_in": "class mean, plug-in N₀", "chosen": "class mean", "whitened": "whitened class mean"}
    kinds = list(dict.fromkeys(table.index.get_level_values(0)))
    figure, axes = plt.subplots(1, len(kinds), figsize=(11.2, 0.9 + 0.62 * len(table) / len(kinds) + 0.8), sharey=True, sharex=True)
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        part = table.loc[kind].iloc[::-1]
        at = np.arange(len(part))
        ax.hlines(at, part[list(names)].min(axis=1), part[list(names)].max(axis=1), color="#CCCCCC", zorder=1)
        for column, name in names.items():
            color, marker = METHODS[name]
            ax.scatter(part[column], at, color=color, marker=marker, s=55, label=name, zorder=2)
        ax.scatter(part.final, at, color="black", marker="|", s=220, label="final head", zorder=2)
        ax.set_yticks(at, part.index)
        ax.set(title=f"{kind} features", xlabel="next-token accuracy at epoch 0", xlim=(0, None), ylim=(-0.6, len(part) - 0.4))
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 7

NOVELTY = {"softmax": (BLUE, "^"), "E²CM confidence": (ORANGE, "s"), "distance": (RED, "o"), "whitened distance": (PURPLE, "P")}
GRIDS = ((RED, "o"), (BLUE, "^"), (GREEN, "D"), (ORANGE, "s"), (PURPLE, "P"))
PLANS = {"image": (BLUE, "^"), "depth": (GREEN, "D"), "depth first": (RED, "o"), "image first": (ORANGE, "s")}
KEPT = {"everything": (GREY, "s"), "drop agreeing": (RED, "o"), "random": (BLUE, "^"), "drop disagreeing": (GREEN, "D")}
EXIT_HEADS = {
    "copied head": (BLUE, "^"), "old text, before": (GREY, "s"), "new text, before": (ORANGE, "D"), "before": (ORANGE, "D"),
    "re-estimated": (RED, "o"), "carried along": (GREEN, "P"),
}  # fmt: skip


def six_questions() -> Figure:
    """Data, three stages and two exits as boxes, a second sensor, and numbered circles where chapter 7's questions sit."""
    figure, ax = plt.subplots(figsize=(9.6, 3.3))
    middle = {"data": 0.0, "stage 1": 2.2, "stage 2": 4.4, "stage 3": 6.6, "classifier": 8.8}
    boxes = {name: (x, 0.0, GREY) for name, x in middle.items()}
    boxes |= {"exit 1": (3.3, 1.5, RED), "exit 2": (5.5, 1.5, RED), "second sensor": (0.0, -1.5, BLUE)}
    for name, (x, y, color) in boxes.items():
        look = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": color, "linewidth": 1.5}
        ax.text(x, y, name, ha="center", va="center", bbox=look, fontsize=10, zorder=3)
    arrows = [((a, 0.0), (b, 0.0)) for a, b in zip(list(middle.values())[:-1], list(middle.values())[1:], strict=True)]
    arrows += [((2.2, 0.0), (3.3, 1.5)), ((4.4, 0.0), (5.5, 1.5)), ((0.0, -1.5), (2.2, 0.0))]
    for start, end in arrows:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": GREY, "shrinkA": 22, "shrinkB": 22}, zorder=1)
    notes = {1: (4.15, 1.95), 2: (3.3, 2.3), 3: (4.4, -0.75), 4: (0.95, -1.05), 5: (0.0, 0.8), 6: (6.6, 0.8)}
    words = {
        1: "none of these?",
        2: "smaller?",
        3: "smaller, in which order?",
        4: "a second look",
        5: "which are needed?",
        6: "what if they move?",
    }
    for number, (x, y) in notes.items():
        ax.text(x, y, str(number), ha="center", va="center", color="white", fontsize=10, fontweight="bold", zorder=4,
                bbox={"boxstyle": "circle,pad=0.25", "facecolor": BLUE, "edgecolor": "none"})  # fmt: skip
        ax.text(x + 0.28, y, words[number], ha="left", va="center", fontsize=9)
    ax.set(xlim=(-0.9, 9.7), ylim=(-2.1, 2.7))
    ax.axis("off")
    return figure


def novelty_panels(scores: pd.DataFrame, final: float, costs: pd.DataFrame) -> Figure:
    """Left: how well each score tells unseen classes, exit by exit.  Right: what seen and unseen images cost, with and without a gate.

    Args:
        scores: ``measure``, ``exit`` (from 1), ``auroc``, ``split``; the points are means, the bars standard deviations over the splits.
        final: AUROC of the last exit's softmax.
        costs: relative costs, one row per kind of cascade, columns ``seen classes`` and ``unseen classes``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.9), width_ratios=(1.25, 1))
    for i, (name, (color, marker)) in enumerate(NOVELTY.items()):
        found = scores[scores.measure == name].groupby("exit").auroc.agg(["mean", "std"])
        at = found.index + 0.05 * (i - 1.5)
        left.errorbar(at, found["mean"], found["std"].fillna(0), color=color, marker=marker, capsize=3, label=name)
    left.axhline(final, color="black", linestyle="--", linewidth=1.2, label=f"last exit, softmax ({final:.2f})")
    left.set(xlabel="early exit", ylabel="AUROC of unseen against seen")
    left.set_xticks(sorted(scores.exit.unique()))
    left.legend(fontsize=8, loc="lower right")
    costs.plot.barh(ax=right, color=[GREY, RED], width=0.7)
    right.invert_yaxis()
    right.set(xlabel="relative cost (1 = backbone without exits)", ylabel="")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
    return figure


def memory_against_accuracy(table: pd.DataFrame, *, y: str = "accuracy", label: str = "test accuracy at the budget") -> Axes:
    """One line per pooling grid through its numbers of bits, on a logarithmic axis of memory; bars: standard deviation over the seeds.

    Args:
        table: ``grid``, ``bits``, ``bytes``, ``macs`` and the column ``y``, one row per seed and choice.
        y: what to draw.
        label: of the vertical axis.
    """
    _, ax = plt.subplots(figsize=(7.8, 4.0))
    for i, ((grid, part), (color, marker)) in enumerate(zip(table.groupby("grid", sort=False), GRIDS, strict=False)):
        height = -13 if i % 2 else 6  # numbers of neighbouring lines on different sides
        found = part.groupby("bits", sort=False).agg(bytes=("bytes", "mean"), mean=(y, "mean"), std=(y, "std"))
        name = f"{grid} × {grid} averages ({part.macs.iloc[0] / 1000:.1f} kMAC)"
        ax.errorbar(found.bytes, found["mean"], found["std"].fillna(0), color=color, marker=marker, capsize=3, label=name)
        for bits, row in found.iterrows():
            ax.annotate(f"{bits}", (row.bytes, row["mean"]), xytext=(4, height), textcoords="offset points", fontsize=8, color=color)
    ax.set(xscale="log", xlabel="memory of all class-mean exits (bytes); numbers: bits per number", ylabel=label)
    ax.legend(fontsize=8, loc="lower right")
    return ax


def order_dots(table: pd.DataFrame) -> Figure:
    """Mean accuracy of the exits for every order of prune, quantise, distil; one panel per number of bits, a dot per seed.

    Args:
        table: ``order``, ``bits``, ``mean``, one row per seed; the rows called ``dense`` are drawn as a dashed line.
    """
    dense, rest = table[table.order == "dense"]["mean"].mean(), table[table.order != "dense"]
    widths = list(dict.fromkeys(rest.bits))
    figure, axes = plt.subplots(1, len(widths), figsize=(4.9 * len(widths), 3.6), sharey=True, squeeze=False)
    for ax, bits in zip(axes[0], widths, strict=True):
        part = rest[rest.bits == bits]
        for i, (order, rows) in enumerate(part.groupby("order", sort=False)):
            after = "Q" in order and order.index("P") > order.index("Q")
            color, marker = (RED, "o") if after else (BLUE, "^")
            ax.scatter(rows["mean"], [i] * len(rows), color=color, marker=marker, alpha=0.45, s=30)
            ax.scatter(rows["mean"].mean(), i, color=color, marker="|", s=420, linewidth=2.5)
        ax.axvline(dense, color=GREY, linestyle="--", linewidth=1.2)
        ax.set(title=f"{bits} bits per weight", xlabel="mean test accuracy of the exits (dashed: before)")
        ax.set_yticks(range(part.order.nunique()), [" → ".join(order) for order in dict.fromkeys(part.order)])
    axes[0, 0].set_ylim(rest.order.nunique() - 0.4, -0.6)
    look = {"linestyle": "", "markersize": 6}
    handles = [plt.Line2D([], [], color=c, marker=m, label=t, **look) for c, m, t in
               ((BLUE, "^", "pruned before it is rounded"), (RED, "o", "rounded before it is pruned"))]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def modality_panels(iou: pd.DataFrame, enough: pd.Series, curves: pd.DataFrame, *, whole: float) -> Figure:
    """Left: IoU of every class at every source, the cheapest sufficient one framed.  Right: mean IoU against cost of each plan.

    Args:
        iou: one row per class, one column per source.
        enough: class → column, or ``"none"``.
        curves: ``plan``, ``thresholds``, ``cost``, ``miou``.
        whole: mean IoU of the whole image network.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.4, 4.2), width_ratios=(1.15, 1))
    sns.heatmap(iou, ax=left, cmap="cividis", vmin=0, vmax=1, annot=True, fmt=".2f", annot_kws={"fontsize": 8}, cbar=False)
    for row, column in enumerate(enough):
        if column in iou.columns:
            box = plt.Rectangle((iou.columns.get_loc(column), row), 1, 1, fill=False, edgecolor=RED, linewidth=3, clip_on=False)
            left.add_patch(box)
    left.tick_params(axis="x", rotation=35)
    left.set(title="IoU per class and source", xlabel="", ylabel="")
    for (plan, kind), part in curves.groupby(["plan", "thresholds"], sort=False):
        color, marker = PLANS[plan]
        dotted = kind == "per step"
        right.plot(part.cost, part.miou, color=color, marker=marker, linestyle=":" if dotted else "-", markersize=5,
                   markerfacecolor="white" if dotted else color, label=f"{plan}, {kind}")  # fmt: skip
    right.axhline(whole, color="black", linestyle="--", linewidth=1.2, label=f"whole image network ({whole:.3f})")
    right.set(xlabel="relative cost (1 = whole image network)", ylabel="mean IoU of the places (test)")
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    return figure


def what_was_dropped(panels: dict[str, tuple[pd.DataFrame, str]]) -> Figure:
    """What is learned from what was kept, a panel per experiment; small: seeds, bar: their mean.

    Args:
        panels: label of the horizontal axis → (table with ``kept`` and a column of values, the name of that column).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(5.3 * len(panels), 2.7), squeeze=False)
    for ax, (label, (table, column)) in zip(axes[0], panels.items(), strict=True):
        names = list(dict.fromkeys(table.kept))
        for i, name in enumerate(names):
            color, marker = KEPT[name]
            values = table[table.kept == name][column]
            ax.scatter(values, [i] * len(values), color=color, marker=marker, alpha=0.5, s=36)
            ax.scatter(values.mean(), i, color=color, marker="|", s=480, linewidth=2.5)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    return figure


def stale_exits(tuning: pd.DataFrame, reward: pd.DataFrame) -> Figure:
    """An exit while its model is trained on.  Left: accuracy against samples of another text; right: agreement against rounds of reward.

    Args:
        tuning: ``samples``, ``head``, ``accuracy``, ``final``; several seeds are averaged, with bands of one standard deviation.
        reward: ``round``, ``head``, ``agreement``; likewise.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11.0, 4.2))
    for ax, table, x, y in ((axes[0], tuning, "samples", "accuracy"), (axes[1], reward, "round", "agreement")):
        for name in dict.fromkeys(table["head"]):
            found = table[table["head"] == name].groupby(x)[y].agg(["mean", "std"]).fillna(0)
            color, marker = EXIT_HEADS[name]
            ax.plot(found.index, found["mean"], color=color, marker=marker, markersize=5, label=name)
            ax.fill_between(found.index, found["mean"] - found["std"], found["mean"] + found["std"], color=color, alpha=0.15, linewidth=0)
    final = tuning.groupby("samples").final.mean()
    axes[0].plot(final.index, final, color="black", linestyle="--", linewidth=1.2, label="final head")
    axes[0].set(xlabel="rows of the other text seen", ylabel="next-token accuracy there", title="fine-tuned on another text")
    axes[1].set(xlabel="round of reward-ranked fine-tuning", ylabel="agreement with the final head", title="trained on its best samples")
    axes[1].set_xticks(sorted(reward["round"].unique()))
    for ax in axes:
        ax.legend(fontsize=8)
    return figure
