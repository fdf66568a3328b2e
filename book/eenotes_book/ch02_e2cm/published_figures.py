"""Figures of chapter 2 from recorded runs of trained networks: where class means become good."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML

from eenotes_book import style

_NETWORKS = {  # title, colour, marker
    "resnet20": ("ResNet-20", style.SKY, "^"),
    "resnet56": ("ResNet-56", style.BLUE, "o"),
    "resnet50": ("ResNet-50, ImageNet stem", style.RED, "s"),
}


def neural_collapse(measured: Mapping[str, Mapping[str, Any]], *, provenance: str) -> HTML:
    """Accuracy of the nearest class mean, and the spread within the classes, block by block.

    Args:
        measured: from `eenotes_book.ch02_e2cm.neural_collapse.recorded`.
        provenance: for the small print.
    """
    figure, (right, spread) = plt.subplots(1, 2, figsize=(10, 4))
    for name, found in measured.items():
        title, color, marker = _NETWORKS[name]
        blocks = pd.DataFrame(found["blocks"])
        look = {"color": color, "marker": marker, "markersize": 5}
        right.plot(blocks.relative_cost, blocks.nearest_mean, label=title, **look)
        right.axhline(found["accuracy"], color=color, linestyle=":", linewidth=1)
        spread.plot(blocks.relative_cost, blocks.nc1, **look)
    right.set(ylabel="accuracy of the nearest class mean (test)", ylim=(0.25, 1))
    spread.set(ylabel="variance within / between classes", yscale="log")
    for ax in (right, spread):
        ax.set(xlabel="share of the backbone's MACs up to the block's end", xlim=(0, 1.02))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return style.show(
        figure,
        caption="The variance within the classes, in units of that between them, falls with depth, "
        "and the nearest class mean becomes accurate late. Every marker is a residual block. "
        "Dotted: the whole network.",
        alt="Two panels over the share of computation, a line per network: the accuracy of nearest "
        "class means rises, the variance ratio falls on a logarithmic axis.",
        provenance=provenance,
    )
