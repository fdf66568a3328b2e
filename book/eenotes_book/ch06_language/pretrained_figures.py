"""Figures of chapter 6 about the pretrained model's recorded study."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes

from eenotes_book import style
from eenotes_book.ch06_language import pretrained
from eenotes_book.style import METHODS


def by_exit(
    found: pretrained.Found, heads: Sequence[str], *, thesis: tuple[float, float], provenance: str
) -> HTML:
    """Accuracy at epoch 0 against the exit, a dot with its interval per head.

    Args:
        found: the record's.
        heads: names of `pretrained.accuracies`.
        thesis: what OPT-125m's copied head and class means reach there.
        provenance: data, counts, draws, device.
    """
    table = pretrained.by_exit(found, heads)
    means = table.pivot(index="at", columns="head", values="mean")
    ahead = int((means["class mean"] > means["copy"]).sum())
    _, ax = plt.subplots(figsize=(8.6, 4.3))
    for i, head in enumerate(heads):
        part = table[table["head"] == head]
        _dots(ax, part["at"] + 0.42 * (i - (len(heads) - 1) / 2), part, head)
    for head, value in zip(("copy", "class mean"), thesis, strict=True):
        ax.axhline(value, color=METHODS[head][0], linestyle=":", linewidth=1)
        ax.annotate(f"thesis, OPT-125m: {value:.3f}", (table["at"].min() - 1.2, value + 0.004),
                    fontsize=8, color=METHODS[head][0])  # fmt: skip
    final = pretrained.final_accuracy(found)
    ax.axhline(
        final, color="black", linestyle="--", linewidth=1.2, label=f"final head, {final:.3f}"
    )
    ax.set(
        xlabel="decoders before the exit, of 30",
        ylabel="next-token accuracy at epoch 0",
        ylim=(0, None),
        xticks=sorted(table["at"].unique()),
    )
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return style.show(
        ax,
        caption=f"Class means name more tokens than the copied head at {ahead} of {len(means)} "
        "exits. SmolLM2-135M before any training, behind a copy of the final norm: mean and 95 % "
        "interval over five draws. The claims compare heads within a draw.",
        alt="Dots with intervals for each head at five exits, a dashed line for the final head and "
        "two dotted lines for the thesis's copied head and class means.",
        provenance=provenance,
    )


def by_tokens(found: pretrained.Found, heads: Sequence[str], *, provenance: str) -> HTML:
    """Accuracy at epoch 0 against the number of tokens behind the statistics."""
    table = pretrained.by_tokens(found, heads)
    _, ax = plt.subplots(figsize=(8.6, 4.0))
    for head in heads:
        part = table[table["head"] == head]
        color, _ = METHODS[head]
        ax.plot(part.tokens, part["mean"], color=color, linewidth=1)
        _dots(ax, part.tokens, part, head)
    at = int(table["at"].iloc[0])
    for lens in found["lens"]:
        if lens["at"] == at:
            rights = [draw["right"][0] / draw["positions"][0] for draw in lens["draws"]]
            row = pd.DataFrame([pretrained.as_row(rights)])
            _dots(ax, [lens["draws"][0]["tokens"]], row, pretrained.LENS)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(table.tokens.unique()), [f"{n:,}" for n in sorted(table.tokens.unique())])
    ax.tick_params(axis="x", rotation=30)
    ax.set(
        xlabel="tokens behind the statistics (and behind the lens)",
        ylabel="next-token accuracy at epoch 0",
        ylim=(0, None),
    )
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return style.show(
        ax,
        caption=f"More text, better means: the exit after decoder {at}. Mean and 95 % interval "
        "over five draws; the last point has the statistics of all five.",
        alt="Accuracy against the number of tokens on a logarithmic axis, a line per head; class "
        "means and whitened class means rise, the copied head is level.",
        provenance=provenance,
    )


def by_factor(
    found: pretrained.Found, simulated: dict[str, pd.DataFrame], *, at: int, provenance: str
) -> HTML:
    """Accuracy against the factor on N₀: the pretrained model, and the simulated channels.

    Args:
        found: the record's.
        simulated: title → `estimated.race`, averaged over seeds.
        at: decoders before the exit.
        provenance: data, counts, draws, device.
    """
    figure, axes = plt.subplots(1, 1 + len(simulated), figsize=(11.0, 3.7), sharey=True)
    table, wanted = pretrained.by_factor(found, at=at), {}
    for head, part in table.groupby("head"):
        wanted[head] = part.factor[part["mean"].idxmax()]
        axes[0].plot(part.factor, part["mean"], color=METHODS[head][0], linewidth=1)
        _dots(axes[0], part.factor, part, head)
    axes[0].set_title(f"SmolLM2-135M, decoder {at}")
    lines = {
        ("identity", "plain"): ("class mean", "-"),
        ("identity", "predictive"): ("class mean", ":"),
        ("whitened", "plain"): ("whitened class mean", "-"),
    }
    for ax, (title, race) in zip(axes[1:], simulated.items(), strict=True):
        for (metric, kind), (head, line) in lines.items():
            part = race[(race.metric == metric) & (race.kind == kind)]
            label = f"{head}{', predictive (6.21)' if kind == 'predictive' else ''}"
            color, marker = METHODS[head]
            ax.plot(part.factor, part.accuracy, line, color=color, marker=marker, label=label)
        ax.set_title(title)
    for ax in axes:
        ax.axvline(1, color=style.GREY, linewidth=1)
        ax.set(xlabel="$N_0$ / plug-in $N_0$", ylim=(0, None))
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("accuracy")
    axes[-1].legend(fontsize=8)
    return style.show(
        figure,
        caption=f"The pretrained model wants {wanted['class mean']:g} times the plug-in N₀, and "
        f"{wanted['whitened class mean']:g} times when whitened. Left: five draws, 95 % intervals; "
        "beside it simulated channels whose receiver estimates its means, in white and in coloured "
        "noise.",
        alt="Three panels of accuracy against the factor on a logarithmic axis. In white noise all "
        "lines are best near 1; in coloured noise and in the model the class means are best above.",
        provenance=provenance,
    )


def _dots(ax: Axes, x: Sequence[float], part: pd.DataFrame, head: str) -> None:
    color, marker = METHODS[head]
    reach = [(part["mean"] - part.low).clip(lower=0), (part.high - part["mean"]).clip(lower=0)]
    ax.errorbar(x, part["mean"], reach, color=color, marker=marker, markersize=5, linestyle="",
                capsize=2, label=head)  # fmt: skip
