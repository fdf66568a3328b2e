"""What the study of drafting has recorded, as tables, claims and a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML

from eenotes_book import records, style
from eenotes_book.ch06_language.drafting import (
    COPY,
    HEADS,
    LENS,
    MEANS,
    OWN,
    TRAINED,
    UNTRAINED,
    WHITENED,
)
from eenotes_book.statistics import interval, mean
from eenotes_book.style import METHODS

Found = Sequence[Mapping[str, Any]]  # the record's numbers["drafting"], an exit each
_MARGIN = 0.005  # of agreement, and of weights read: a smaller difference is none


def table(found: Found) -> pd.DataFrame:
    """One row per exit and head, with means over the test texts.

    Returns:
        ``at``, ``head``; ``agreement`` with ``low`` and ``high``, its 95 % interval; ``draft`` and
        ``threshold``, chosen on validation texts; ``acceptance`` of the drafted tokens; ``read``,
        weights read in units of plain decoding, with ``read_low`` and ``read_high``.
    """
    rows = []
    for one in sorted(found, key=lambda one: one["at"]):
        for head in HEADS:
            row = one["heads"][head]
            low, high = interval(row["agreement"])
            read_low, read_high = interval(row["read"])
            drafted, accepted = (
                sum(work[key] for work in row["works"]) for key in ("drafted", "accepted")
            )
            rows.append(
                {
                    "at": one["at"], "head": head,
                    "agreement": mean(row["agreement"]), "low": low, "high": high,
                    "draft": row["draft"], "threshold": row["threshold"],
                    "acceptance": accepted / drafted if drafted else float("nan"),
                    "read": mean(row["read"]), "read_low": read_low, "read_high": read_high,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def best(found: Found, heads: Sequence[str]) -> tuple[Mapping[str, Any], str]:
    """The exit and the head that read least on the validation texts."""
    pairs = [(one, head) for one in found for head in heads]
    return min(pairs, key=lambda pair: pair[0]["heads"][pair[1]]["read on validation"])


def needed(one: Mapping[str, Any]) -> float:
    """The agreement (6.22) from which on drafting one token, always, reads less than plain."""
    weights, share = one["weights"], one["at"] / one["depth"]
    return (share * weights["layers"] + weights["small"]) / (weights["layers"] + weights["final"])


def claim(record: records.Record, found: Found) -> None:
    """What drafting by exits of the pretrained model shows; a value per test text."""
    middle = next(one for one in found if one["at"] == 5)["heads"]

    def agreement(head: str) -> list[float]:
        return middle[head]["agreement"]

    for statement, head, other in (
        ("class means foresee more of the model's own text than the copied head", MEANS, COPY),
        ("whitened class means foresee more than class means", WHITENED, MEANS),
        ("statistics of the model's own tokens are better than those of the text", OWN, WHITENED),
        ("a tuned lens foresees more than whitened class means", LENS, OWN),
        ("a trained head foresees more than a tuned lens", TRAINED, LENS),
    ):
        lead = [a - b for a, b in zip(agreement(head), agreement(other), strict=True)]
        record.claim(
            f"SmolLM2-135M, drafting after decoder 5 of 30: {statement}; ours: difference of the "
            "agreements",
            thesis="not stated",
            values=lead,
            margin=_MARGIN,
            over="texts",
            where="drafting",
        )
    for statement, heads in (
        ("with no gradient step", UNTRAINED),
        ("with a trained exit", (LENS, TRAINED)),
    ):
        one, head = best(found, heads)
        read = one["heads"][head]["read"]
        record.claim(
            f"SmolLM2-135M: drafting {statement} reads fewer weights than plain decoding ({head} "
            f"after decoder {one['at']}, chosen on validation); ours: weights read, relative",
            thesis="not stated",
            values=read,
            differences=[1 - value for value in read],
            margin=_MARGIN,
            over="texts",
            where="drafting",
        )


def figure(found: Found, *, provenance: str) -> HTML:
    """Agreement with the model by exit, beside what drafting needs; and the weights that are read.

    Args:
        found: the record's.
        provenance: data, counts, device.
    """
    rows = table(found)
    drawing, (top, bottom) = plt.subplots(2, 1, figsize=(8.6, 7.4), sharex=True)
    exits = sorted(found, key=lambda one: one["at"])
    places = np.arange(len(exits))
    for i, head in enumerate(HEADS):
        part = rows[rows["head"] == head]
        x = places + 0.12 * (i - (len(HEADS) - 1) / 2)
        color, marker = METHODS[head]
        for ax, value, low, high in (
            (top, part.agreement, part.low, part.high),
            (bottom, part["read"], part.read_low, part.read_high),
        ):
            ax.errorbar(x, value, [value - low, high - value], color=color, marker=marker,
                        markersize=5, linewidth=1, linestyle="", label=head)  # fmt: skip
    line = {"color": "black", "linestyle": "--", "linewidth": 1.2}
    top.plot(places, [needed(one) for one in exits], label="needed (6.22)", **line)
    top.set(ylabel="agreement with the model", ylim=(0, None))
    bottom.axhline(1, **line)
    bottom.set(
        ylabel="weights read / plain decoding",
        xlabel=f"decoders before the exit, of {exits[0]['depth']}",
    )
    bottom.set_xticks(places, [one["at"] for one in exits])
    top.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    texts = len(exits[0]["heads"][COPY]["agreement"])
    return style.show(
        drawing,
        caption="Deep exits foresee more and cost more. Above: how many of the model's own tokens "
        "each head names, and how many would pay. Below: weights read, drafts chosen on validation "
        f"texts. Mean and 95 % interval, {texts} texts.",
        alt="Two panels over five exits: agreement of six heads with the model, rising with depth, "
        "below or above a dashed line that rises too; and weights read relative to plain decoding, "
        "near a dashed line at 1.",
        provenance=provenance,
    )
