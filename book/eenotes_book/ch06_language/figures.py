"""Figures of chapter 6 about the exit of a language model."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from eenotes_book import style
from eenotes_book.style import BLUE, GREEN, GREY, METHODS, ORANGE, RED


def language_model_sketch(
    *, tokens: Sequence[str], decoders: int, exit_after: int, notes: dict[str, str], answer: str
) -> HTML:
    """From tokens through embedding and decoders to the head, with the early exit on the way.

    Args:
        tokens: of the text so far.
        decoders: L.
        exit_after: how many of them run before the exit.
        notes: what to write under ``embedding``, ``decoder`` and ``head``.
        answer: the next token.
    """
    figure, ax = plt.subplots(figsize=(10.4, 3.3))
    boxes = ["embedding", *[f"decoder\n{i + 1}" for i in range(decoders)], "head"]
    colors = {"embedding": ORANGE, "head": GREEN}
    end = 0.75 + len(boxes) - 0.28

    def write(x: float, y: float, words: str, *, size: int = 8, **look) -> None:
        ax.text(x, y, words, **{"ha": "center", "va": "center", "fontsize": size} | look)

    def arrow(start: tuple[float, float], tip: tuple[float, float], color: str = "black") -> None:
        look = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=tip, xytext=start, arrowprops=look)

    write(0.0, 0, "\n".join(tokens), size=9, family="monospace")
    for i, name in enumerate(boxes):
        left, color = 0.75 + i, colors.get(name, BLUE)
        look = {"facecolor": color, "alpha": 0.25, "edgecolor": color}
        ax.add_patch(plt.Rectangle((left, -0.5), 0.72, 1.0, **look))
        write(left + 0.36, 0, name)
        arrow((left - 0.28, 0), (left, 0))
    arrow((end, 0), (end + 0.28, 0))
    write(end + 0.32, 0, answer, size=10, ha="left", family="monospace")
    write(1.11, -0.62, notes["embedding"], va="top")
    write(0.75 + 1 + decoders / 2 - 0.14, -0.62, notes["decoder"], va="top")
    write(end - 0.36, -0.62, notes["head"], va="top")
    at = 0.75 + exit_after + 0.86
    arrow((at, 0.04), (at, 0.95), color=RED)
    look = {"facecolor": RED, "alpha": 0.2, "edgecolor": RED}
    ax.add_patch(plt.Rectangle((at - 0.45, 0.95), 0.9, 0.45, **look))
    write(at, 1.175, "early exit", size=9, color="#8A3C00")
    ax.set(xlim=(-0.6, end + 1.3), ylim=(-1.1, 1.5))
    ax.axis("off")
    return style.show(
        figure,
        caption=f"The vector behind decoder {exit_after} of {decoders} is a noisy message about "
        "the next token, and the early exit is its receiver. What should stand in that box before "
        "any training?",
        alt="Boxes in a row, from tokens through the embedding and numbered decoders to the head "
        "and the next token; an arrow branches off upwards to a box labelled early exit.",
    )


def epoch_zero_bars(values: dict[str, float], *, final: float, at: str, provenance: str) -> HTML:
    """Accuracy before any training, one bar per head, beside the final head's.

    Args:
        values: head → next-token accuracy.
        final: the final head's.
        at: where the exit sits, in words.
        provenance: scale, data, counts, seeds, device.
    """
    _, ax = plt.subplots(figsize=(7.4, 0.5 + 0.42 * len(values)))
    names, best = list(values)[::-1], max(values, key=values.__getitem__)
    colors = [METHODS[name][0] for name in names]
    bars = ax.barh(names, [values[name] for name in names], color=colors, height=0.7)
    ax.bar_label(bars, fmt="%.3f", padding=3, fontsize=9)
    _final_line(ax.axvline, final, "--", label=f"final head ({final:.3f})")
    ax.set(xlabel="next-token accuracy at epoch 0", xlim=(0, 1.18 * max(final, *values.values())))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=1)
    return style.show(
        ax,
        caption=f"Most accurate before any training: {best}, {values[best]:.3f} of the tokens. "
        f"Test text, exit {at}, on the decoder's raw output.",
        alt="Horizontal bars of next-token accuracy, one per initialisation, with a dashed line at "
        "the final head's accuracy.",
        provenance=provenance,
    )


def noise_and_mixture(
    n0: pd.DataFrame, alpha: pd.DataFrame, *, final: float, provenance: str
) -> HTML:
    """Accuracy at epoch 0 against N₀ (left) and against the share of the class means (right).

    Args:
        n0: columns ``head``, ``factor``, ``val``, ``test``.
        alpha: columns ``alpha``, ``other`` (random or copy), ``val``, ``test``.
        final: the final head's accuracy on test.
        provenance: scale, data, counts, seeds, device.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.8), sharey=True)
    for head, part in n0.groupby("head"):
        color, marker = METHODS[head]
        left.plot(part.factor, part.test, color=color, marker=marker, label=f"{head}, test")
        left.plot(part.factor, part.val, color=color, linestyle=":", label=f"{head}, validation")
        best = part.loc[part.val.idxmax()]
        label = "chosen on validation" if head == "class mean" else None
        left.plot(best.factor, best.test, "*", color="black", markersize=13, label=label)
    left.axvline(1, color=GREY, linewidth=1, label="plug-in $N_0$")
    left.set(xscale="log", xlabel="$N_0$ / plug-in $N_0$", ylabel="next-token accuracy at epoch 0")
    left.legend(loc="upper left", fontsize=8)
    for other, part in alpha.groupby("other"):
        color, marker = METHODS[f"class mean + {other}"]
        right.plot(part.alpha, part.test, color=color, marker=marker, label=f"class mean + {other}")
    _final_line(right.axhline, final, "--", label="final head")
    plain = n0[n0["head"] == "class mean"]
    factor = plain.factor[plain.val.idxmax()]  # the star
    right.set(xlabel="α (1 = class means alone)")
    right.legend(fontsize=8)
    return style.show(
        figure,
        caption=f"Validation chooses {factor:g} times the plug-in N₀ for class means. Accuracy at "
        "epoch 0 against the noise N₀ and against the share α of the class means. N₀ is searched "
        f"up to {n0.factor.max():g} times its plug-in value.",
        alt="Left: accuracy against N₀ on a logarithmic axis with the plug-in value and the chosen "
        "one marked. Right: accuracy against α for two mixtures.",
        provenance=provenance,
    )


def accuracy_by_depth(table: pd.DataFrame, *, final: float, provenance: str) -> HTML:
    """Accuracy at epoch 0 against the exit layer, one line per head.

    Args:
        table: index: decoders before the exit; columns: heads.
        final: the final head's accuracy.
        provenance: scale, data, counts, seeds, device.
    """
    _, ax = plt.subplots(figsize=(7.6, 4.0))
    first, last = table.iloc[0].idxmax(), table.iloc[-1].idxmax()
    for name in table.columns:
        color, marker = METHODS[name]
        line = "--" if "norm" in name else "-"
        ax.plot(table.index, table[name], color=color, marker=marker, label=name, linestyle=line)
    _final_line(ax.axhline, final, ":", label=f"final head ({final:.3f})")
    ax.set(
        xlabel="decoders before the exit", ylabel="next-token accuracy at epoch 0", ylim=(0, None)
    )
    ax.set_xticks(list(table.index))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return style.show(
        ax,
        caption=f"Best after the first decoder: {first} ({table[first].iloc[0]:.3f}); after the "
        f"last: {last} ({table[last].iloc[-1]:.3f}). Accuracy at epoch 0 on test text; N₀ is "
        "chosen for each exit on validation.",
        alt="Next-token accuracy against the number of decoders before the exit, one line per kind "
        "of head, and a dotted line for the final head.",
        provenance=provenance,
    )


def initialisations_over_epochs(
    panels: dict[str, tuple[pd.DataFrame, pd.DataFrame]],
    *,
    final: dict[str, float],
    provenance: str,
) -> HTML:
    """Next-token accuracy of the exit per epoch, one panel per setting, a line per initialisation.

    Args:
        panels: setting → mean and standard deviation (NaN for one run), one row per epoch, one
            column per initialisation.
        final: setting → the final head's accuracy, where it is known.
        provenance: scale, data, counts, seeds, device.
    """
    size = (5.4 * len(panels), 4.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    for ax, (title, (table, spread)) in zip(axes[0], panels.items(), strict=True):
        for name in table.columns:
            color, marker = METHODS[name]
            middle, reach = table[name], spread[name]
            ax.plot(table.index, middle, color=color, marker=marker, markersize=5, label=name)
            band = {"color": color, "alpha": 0.2, "linewidth": 0}
            ax.fill_between(table.index, middle - reach, middle + reach, **band)
        if title in final:
            _final_line(ax.axhline, final[title], "--", label="final head, before")
        ax.set(title=title, xlabel="epoch (0 = before training)")
        ax.set_xticks(list(table.index))
    axes[0, 0].set_ylabel("next-token accuracy of the exit")
    handles = {
        label: handle
        for ax in axes[0]
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    bands = not all(spread.isna().all(axis=None) for _, spread in panels.values())
    gaps = []
    for title, (table, _) in panels.items():
        begin, *_, end = table.max(axis=1) - table.min(axis=1)
        gaps.append(f"{begin:.3f} and {end:.3f} ({title})")
    return style.show(
        figure,
        caption=f"Best start minus worst on test text, before and after: {'; '.join(gaps)}."
        + " Bands: ± one standard deviation over seeds." * bands,
        alt="Accuracy of the exit per epoch, two panels for the two settings, one line per "
        "initialisation, with a dashed line for the final head.",
        provenance=provenance,
    )


def suspected_causes(rows: Sequence[dict], *, provenance: str) -> HTML:
    """Copied head, class means and whitened class means for several models.

    Args:
        rows: with ``model``, ``features``, ``copy``, ``plug_in``, ``chosen``, ``whitened``,
            ``final``; several runs are averaged.
        provenance: scale, data, counts, seeds, device.
    """
    table = pd.DataFrame(rows).groupby(["features", "model"], sort=False).mean(numeric_only=True)
    names = {
        "copy": "copy",
        "plug_in": "class mean, plug-in N₀",
        "chosen": "class mean",
        "whitened": "whitened class mean",
    }
    kinds = list(dict.fromkeys(table.index.get_level_values(0)))
    ahead = int((table["chosen"] > table["copy"]).sum())
    size = (11.2, 1.7 + 0.62 * len(table) / len(kinds))
    figure, axes = plt.subplots(1, len(kinds), figsize=size, sharey=True, sharex=True)
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        part = table.loc[kind].iloc[::-1]
        at, values = np.arange(len(part)), part[list(names)]
        ax.hlines(at, values.min(axis=1), values.max(axis=1), color="#CCCCCC", zorder=1)
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
    return style.show(
        figure,
        caption=f"In {ahead} of {len(table)} rows class means with the chosen N₀ name more tokens "
        "than the copied head. Accuracy on test text before any training.",
        alt="Two panels, raw and normalised features; per model a row of markers for the copied "
        "head, class means with two choices of N₀, whitened class means and the final head.",
        provenance=provenance,
    )


def _final_line(draw, accuracy: float, style_of_line: str, *, label: str) -> None:
    draw(accuracy, color="black", linestyle=style_of_line, linewidth=1.2, label=label)
