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

# One colour and one marker per method, in every chapter (Okabe and Ito's palette: told apart by colour-blind readers, too).
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#6E6E6E",
)  # fmt: skip
METHODS = {
    "backbone": (GREY, "s"),
    "E²CM": (RED, "o"),
    "SDN": (BLUE, "^"),
    "BranchyNet": (GREEN, "D"),
    "E²CM + SDN": (PURPLE, "P"),
    "early exits": (BLUE, "^"),
    "k-means": (GREY, "s"),
}


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
        ax.legend(loc="lower right")
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 1

KINDS = {"vision": (BLUE, "o"), "language": (RED, "^"), "speech/multimodal": (GREEN, "D")}
RULES = {"confidence": (BLUE, "^"), "entropy": (GREEN, "D"), "patience": (ORANGE, "s")}


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
    colors = plt.get_cmap("cividis")(np.linspace(0.95, 0.05, len(left)))
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
        color, marker = RULES[name]
        table = table.sort_values("relative_cost")
        ax.plot(table.relative_cost, table.accuracy, color=color, marker=marker, markersize=4, label=name)
    ax.axhline(last, color=GREY, linestyle="--", linewidth=1.2, label="last exit for everybody")
    ax.legend(loc="lower right")
    cost_axes(ax)
    return figure


def clock(times: pd.DataFrame, stages: pd.DataFrame) -> Figure:
    """Left: time with two ways of leaving against the share of MACs, per batch size.  Right: how dear a MAC is in each stage."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.8, 3.9), width_ratios=(1.5, 1))
    for (batch, group), color, marker in zip(times.groupby("batch"), (ORANGE, BLUE, GREEN), ("s", "o", "^"), strict=True):
        left.plot(group.MACs, group.compacted, color=color, marker=marker, label=f"batch {batch}: leavers taken out")
        left.plot(group.MACs, group["every exit"], color=color, marker=marker, linestyle=":", markerfacecolor="white")
    left.plot([], [], color="black", linestyle=":", marker="o", markerfacecolor="white", label="all computed, then masked")
    ends = [times.MACs.min(), times.MACs.max()]
    left.plot(ends, ends, color=GREY, linestyle="--", label="time = MACs")
    left.set(xlabel="relative cost (MACs)", ylabel="time / time of the plain backbone", ylim=(0, None))
    left.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    right.bar(stages.stage, stages.time_per_mac, color=GREY)
    right.axhline(1, color="black", linewidth=1, linestyle="--")
    right.set(xlabel="stage", ylabel="time per MAC / average")
    return figure


# ------------------------------------------------------------------------------------------------------------- chapter 4

THRESHOLDS = {
    "one threshold": (GREY, "s"),
    "CBT": (RED, "o"),
    "CBT-ns": (PURPLE, "P"),
    "one per exit": (BLUE, "^"),
    "one per exit and class": (GREEN, "D"),
}
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
        color, marker = THRESHOLDS[kind]
        style = styles[seen.get(kind, 0) % len(styles)]
        seen[kind] = seen.get(kind, 0) + 1
        left.plot(score["cost"], 100 * np.array(score["miou"]), color=color, marker=marker, markersize=5, linestyle=style, label=name)
        right.plot(score["cost"][-1], 100 * score["miou"][-1], color=color, marker=marker, markersize=8, linestyle="none")
    if singles is not None:
        color, marker = THRESHOLDS["one threshold"]
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
        color, marker = THRESHOLDS[method]
        rows = pd.concat(pd.DataFrame(run["budgets"][method])[["budget", "cost", "miou"]] for run in runs).groupby("budget").mean()
        left.plot(rows.cost, 100 * rows.miou, color=color, marker=marker, markersize=6, alpha=0.9, label=method)
        if method in runs[0]["leads"]:
            table = runs[0]["leads"][method]
            right.plot(table.budget, 100 * table["mean"], color=color, marker=marker, markersize=6)
            low, high = (100 * (table["mean"] + sign * table.spread) for sign in (-1, 1))
            right.fill_between(table.budget, low, high, color=color, alpha=0.18, linewidth=0)
    right.axhline(0, color=THRESHOLDS["one threshold"][0], linestyle="--", linewidth=1.2)
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
        color = THRESHOLDS["CBT" if name.startswith("CBT") else name][0]
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
