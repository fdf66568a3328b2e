"""Every figure of the book: data in, Axes out.  Only notebooks import this module."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eenotes_book.style import BLUE, CLASS_COLORS, GREEN, GREY, METHODS, ORANGE, RED


def decision_regions(panels: dict[str, dict], *, names: Sequence[str]) -> Figure:
    """Received points in the plane over the regions in which a linear detector decides for each
    message.

    Args:
        panels: title → ``signals`` (M, 2), ``received`` (N, 2), ``messages`` (N,), ``weight`` (M,
            2), ``bias`` (M,), as arrays.
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
        ax.imshow(
            scores.argmax(-1),
            origin="lower",
            extent=(-reach, reach) * 2,
            cmap=colors,
            vmin=-0.5,
            vmax=count - 0.5,
            alpha=0.22,
        )
        for m in range(count):
            points = np.asarray(panel["received"])[np.asarray(panel["messages"]) == m]
            ax.plot(*points.T, ".", color=CLASS_COLORS[m], markersize=3, alpha=0.7)
            signal = np.asarray(panel["signals"])[m]
            ax.plot(
                *signal,
                marker="*",
                markersize=15,
                color=CLASS_COLORS[m],
                markeredgecolor="black",
                linestyle="none",
            )
            ax.annotate(
                names[m],
                signal,
                xytext=(8, 8),
                textcoords="offset points",
                fontsize=10,
                weight="bold",
            )
        ax.set(
            title=title,
            xlabel="first coordinate of $r$",
            ylabel="second coordinate of $r$",
            xlim=(-reach, reach),
            ylim=(-reach, reach),
        )
        ax.grid(False)
    return figure


def error_rates(table: pd.DataFrame) -> Axes:
    """Simulated error rates (markers) and theory (lines) against the signal-to-noise ratio.

    Args:
        table: columns ``db``, ``case``, ``simulated``, ``theory``, ``wrong``, as
            `studies.class_aware.error_curves` returns them.
    """
    _, ax = plt.subplots(figsize=(7.2, 4.2))
    looks = ((BLUE, "o", "exact"), (GREEN, "^", "exact"), (RED, "s", "union bound"))
    for (case, part), (color, marker, what) in zip(
        table.groupby("case", sort=False), looks, strict=True
    ):
        ax.plot(part.db, part.theory, color=color, label=f"{case}: {what}")
        shown = part[part.simulated > 0]
        ax.plot(shown.db, shown.simulated, marker, color=color, label=f"{case}: simulated")
        if (part.wrong != part.simulated).any():
            # to be seen on the markers of equal priors
            look = {"markersize": 11, "markeredgewidth": 2, "zorder": 4}
            ax.plot(
                part.db,
                part.wrong,
                "x",
                color=color,
                label=f"{case}: detector without the priors",
                **look,
            )
    lowest = max(table.simulated[table.simulated > 0].min() / 3, 1e-6)
    ax.set(xlabel=r"$E / N_0$ in dB", ylabel="error probability", yscale="log", ylim=(lowest, 4))
    ax.legend(fontsize=8, loc="lower left")
    return ax


def language_model_sketch(
    *, tokens: Sequence[str], decoders: int, exit_after: int, notes: dict[str, str], answer: str
) -> Figure:
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
        ax.add_patch(
            plt.Rectangle((left, -0.5), 0.72, 1.0, facecolor=color, alpha=0.25, edgecolor=color)
        )
        ax.text(left + 0.36, 0, name, ha="center", va="center", fontsize=8)
        ax.annotate("", xy=(left, 0), xytext=(left - 0.28, 0), arrowprops=arrow)
    end = 0.75 + len(boxes) - 0.28
    ax.annotate("", xy=(end + 0.28, 0), xytext=(end, 0), arrowprops=arrow)
    ax.text(end + 0.32, 0, answer, ha="left", va="center", fontsize=10, family="monospace")
    ax.text(1.11, -0.62, notes["embedding"], ha="center", va="top", fontsize=8)
    ax.text(
        0.75 + 1 + decoders / 2 - 0.14, -0.62, notes["decoder"], ha="center", va="top", fontsize=8
    )
    ax.text(end - 0.36, -0.62, notes["head"], ha="center", va="top", fontsize=8)
    at = 0.75 + exit_after + 0.86
    ax.annotate("", xy=(at, 0.95), xytext=(at, 0.04), arrowprops={"arrowstyle": "->", "color": RED})
    ax.add_patch(
        plt.Rectangle((at - 0.45, 0.95), 0.9, 0.45, facecolor=RED, alpha=0.2, edgecolor=RED)
    )
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
    bars = ax.barh(
        names,
        [values[name] for name in names],
        color=[METHODS[name][0] for name in names],
        height=0.7,
    )
    ax.bar_label(bars, fmt="%.3f", padding=3, fontsize=9)
    ax.axvline(
        final, color="black", linestyle="--", linewidth=1.2, label=f"final head ({final:.3f})"
    )
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
        left.plot(
            best.factor,
            best.test,
            "*",
            color="black",
            markersize=13,
            label=None if head != "class mean" else "chosen on validation",
        )
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
    """Accuracy at epoch 0 against the exit layer, one line per head (columns); index: decoders
    before the exit.
    """
    _, ax = plt.subplots(figsize=(7.6, 4.0))
    for name in table.columns:
        color, marker = METHODS[name]
        ax.plot(
            table.index,
            table[name],
            color=color,
            marker=marker,
            label=name,
            linestyle="--" if "norm" in name else "-",
        )
    ax.axhline(
        final, color="black", linestyle=":", linewidth=1.2, label=f"final head ({final:.3f})"
    )
    ax.set(
        xlabel="decoders before the exit", ylabel="next-token accuracy at epoch 0", ylim=(0, None)
    )
    ax.set_xticks(list(table.index))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def initialisations_over_epochs(
    panels: dict[str, tuple[pd.DataFrame, pd.DataFrame]], *, final: dict[str, float]
) -> Figure:
    """Next-token accuracy of the exit per epoch, one panel per setting and one line per
    initialisation; bands: ± one deviation.

    Args:
        panels: setting → mean and standard deviation (NaN for one run), one row per epoch, one
            column per initialisation.
        final: setting → the final head's accuracy.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.4 * len(panels), 4.2), squeeze=False, sharey=True
    )
    for ax, (title, (table, spread)) in zip(axes[0], panels.items(), strict=True):
        for name in table.columns:
            color, marker = METHODS[name]
            ax.plot(table.index, table[name], color=color, marker=marker, markersize=5, label=name)
            ax.fill_between(
                table.index,
                table[name] - spread[name],
                table[name] + spread[name],
                color=color,
                alpha=0.2,
                linewidth=0,
            )
        ax.axhline(
            final[title], color="black", linestyle="--", linewidth=1.2, label="final head, before"
        )
        ax.set(title=title, xlabel="epoch (0 = before training)")
        ax.set_xticks(list(table.index))
    axes[0, 0].set_ylabel("next-token accuracy of the exit")
    handles = {
        label: handle
        for ax in axes[0]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def suspected_causes(rows: Sequence[dict]) -> Figure:
    """Copied head, class means and whitened class means for several models, on raw (left) and
    normalised features (right).

    Args:
        rows: with ``model``, ``features``, ``copy``, ``plug_in``, ``chosen``, ``whitened``,
            ``final``; several runs are averaged.
    """
    table = pd.DataFrame(rows).groupby(["features", "model"], sort=False).mean(numeric_only=True)
    names = {
        "copy": "copy",
        "plug_in": "class mean, plug-in N₀",
        "chosen": "class mean",
        "whitened": "whitened class mean",
    }
    kinds = list(dict.fromkeys(table.index.get_level_values(0)))
    figure, axes = plt.subplots(
        1,
        len(kinds),
        figsize=(11.2, 0.9 + 0.62 * len(table) / len(kinds) + 0.8),
        sharey=True,
        sharex=True,
    )
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        part = table.loc[kind].iloc[::-1]
        at = np.arange(len(part))
        ax.hlines(
            at,
            part[list(names)].min(axis=1),
            part[list(names)].max(axis=1),
            color="#CCCCCC",
            zorder=1,
        )
        for column, name in names.items():
            color, marker = METHODS[name]
            ax.scatter(part[column], at, color=color, marker=marker, s=55, label=name, zorder=2)
        ax.scatter(part.final, at, color="black", marker="|", s=220, label="final head", zorder=2)
        ax.set_yticks(at, part.index)
        ax.set(
            title=f"{kind} features",
            xlabel="next-token accuracy at epoch 0",
            xlim=(0, None),
            ylim=(-0.6, len(part) - 0.4),
        )
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    return figure
