"""Figures of chapter 2 on published networks: accuracy within a cost, and the two axes of cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML

from eenotes_book import style
from eenotes_book.ch02_e2cm.at_costs import TITLES
from eenotes_book.style import GREY, METHODS


def comparison(
    found: Mapping[str, Mapping[str, Any]], methods: Sequence[str], *, provenance: str
) -> HTML:
    """Accuracy against cost, one panel per network and one line per method that is recorded.

    Args:
        found: from `eenotes_book.ch02_e2cm.at_costs.kept`.
        methods: those to be drawn.
        provenance: for the small print.
    """
    size = (max(5 * len(found), 6), 4.2)
    figure, (axes,) = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for ax, (network, result) in zip(axes, found.items(), strict=True):
        for method in methods:
            if method not in result["methods"]:
                continue
            table = pd.DataFrame(result["methods"][method])
            color, marker = METHODS[method]
            ends = {"yerr": table.reach, "capsize": 2, "markersize": 5, "label": method}
            ax.errorbar(table.relative_cost, table.accuracy, color=color, marker=marker, **ends)
        style.cost_axes(ax, title=TITLES[network])
        ax.axhline(result["backbone"], color=GREY, linestyle="--", linewidth=1.2)
        ax.annotate(f"backbone {result['backbone']:.3f}", (0.02, result["backbone"] + 0.01))
        ax.set(xlim=(0, 0.8), ylim=(0.1, 1))
    for ax in axes[1:]:
        ax.set_ylabel("")
    pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in reversed(pairs)}
    named = [method for method in methods if method in handles]
    figure.legend([handles[m] for m in named], named, loc="outside lower center", ncols=4)
    return style.show(
        figure,
        caption="Trained networks of CIFAR-10, thresholds chosen on one half of the test images "
        "and reported on the other, in turn. Bars: 95 % intervals over the test images.",
        alt="Accuracy against relative cost, a panel for each network and a line for each method, "
        "all rising towards a dashed line for the backbone; whitened class means are highest.",
        provenance=provenance,
    )


def cost_axes(tables: Mapping[str, pd.DataFrame]) -> HTML:
    """The share of the backbone at each block, by MACs and as the thesis's code counts it.

    Args:
        tables: network → table from `eenotes_book.ch02_e2cm.thesis_costs.shares`.
    """
    figure, ax = plt.subplots(figsize=(5, 4.2))
    looks = ((style.RED, "o"), (style.BLUE, "^"))
    for (name, table), (color, marker) in zip(tables.items(), looks, strict=True):
        ax.plot(table.macs, table.thesis, color=color, marker=marker, markersize=4, label=name)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="equal")
    ax.set(xlabel="share of the MACs", ylabel="share on the thesis's axis")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.legend(loc="lower right")
    return style.show(
        figure,
        caption="Each marker is the end of a residual block of a network of the thesis. Early "
        "blocks look dearer on the thesis's axis than they are, by .08 of the backbone at most.",
        alt="Two curves from the lower left to the upper right, slightly above the diagonal at the "
        "left end and on it at the right.",
        provenance="torchvision's networks on images of 32 × 32; exit tests left out",
    )
