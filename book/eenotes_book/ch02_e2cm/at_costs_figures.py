"""The figure of chapter 2 on published networks: accuracy within a cost."""

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
        ax.set(xlim=(0, 0.8), ylim=(0.4, 1))
    for ax in axes[1:]:
        ax.set_ylabel("")
    pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in reversed(pairs)}
    named = [method for method in methods if method in handles]
    figure.legend([handles[m] for m in named], named, loc="outside lower center", ncols=4)
    return style.show(
        figure,
        caption=f"{_at_a_third(found, methods)} Thresholds of one half of the test images, "
        "reported on the other. Bars: 95 % intervals.",
        alt="Accuracy against relative cost, a panel for each network and a line for each method, "
        "all rising towards a dashed line for the backbone; whitened class means are highest.",
        provenance=provenance,
    )


def _at_a_third(found: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> str:
    """What the methods keep of a network's accuracy at the budget next to a third of its cost."""
    network = "resnet56" if "resnet56" in found else next(iter(found))
    kept = []
    for method in methods:
        if method in found[network]["methods"]:
            table = pd.DataFrame(found[network]["methods"][method])
            row = table.loc[(table.budget - 1 / 3).abs().idxmin()]
            kept.append(f"{method} {row.accuracy:.3f}")
    whole = f"{found[network]['backbone']:.3f}"
    return f"At {row.budget:.2f} of the cost of {TITLES[network]} ({whole}): {', '.join(kept)}."
