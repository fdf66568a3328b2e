"""Leaving early with a promise about whole texts, in the manner of CALM (Schuster et al., 2022).

The threshold falls as long as texts that are written with early exits stay close to those of the
whole model: calibration texts reject, threshold after threshold, that the mean distance is above a
level.  The first that is not rejected ends the search, so the promise holds with probability 1 - δ.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from scipy import special
from torch import Tensor

from eenotes.language import decoding
from eenotes_book import records
from eenotes_book.ch06_language.drafting import OWN, Drafting
from eenotes_book.ch06_language.settings import CalmSettings


def distance(text: Sequence[int], other: Sequence[int]) -> float:
    """1 minus the length of the longest common subsequence of two texts, as a share of the longer.

    0 for equal texts, 1 for texts without a common token.
    """
    before = [0] * (len(other) + 1)
    for token in text:
        row = [0]
        for j, same in enumerate(other):
            row.append(before[j] + 1 if token == same else max(before[j + 1], row[j]))
        before = row
    return 1 - before[-1] / max(len(text), len(other))


def chosen(
    losses_at: Callable[[float], Sequence[float]], s: CalmSettings
) -> tuple[float | None, list[dict]]:
    """The lowest threshold that is still promised, and what was tried; ``None``: there is none.

    Args:
        losses_at: threshold → the distance of each calibration text, in [0, 1].
        s: falling thresholds, level and δ.
    """
    found, tried = None, []
    for threshold in s.thresholds:
        losses = losses_at(threshold)
        p = p_value(losses, level=s.level)
        tried.append({"threshold": threshold, "loss": sum(losses) / len(losses), "p": p})
        if p > s.delta:
            break
        found = threshold
    return found, tried


def p_value(losses: Sequence[float], *, level: float) -> float:
    """How likely so small a mean of losses in [0, 1] is if they are above the level on average.

    At most: the smaller of Hoeffding's and Bentkus's bound (Bates et al., 2021).
    """
    count, mean = len(losses), min(sum(losses) / len(losses), level)
    entropy = special.rel_entr(mean, level) + special.rel_entr(1 - mean, 1 - level)
    bentkus = math.e * special.bdtr(math.ceil(sum(losses) - 1e-9), count, level)
    return float(min(math.exp(-count * entropy), bentkus, 1.0))


def measured(d: Drafting, s: CalmSettings) -> dict:
    """The promised threshold of whitened class means of the model's tokens, and its test texts."""
    model = d.exits(s.at)[OWN]
    unknown = torch.ones(model.exit_head.linear.out_features, dtype=torch.bool)
    unknown[d.vocabulary] = False
    model.exit_head.linear.bias.data[unknown] = -torch.inf

    def prompts(split: str) -> Tensor:
        rows = getattr(d.p.text, split)
        return rows[:: max(len(rows) // s.texts, 1)][: s.texts, : d.s.prompt]

    def whole(split: str) -> list[Tensor]:
        return [decoding.greedy(model, row, max_new_tokens=s.new).new for row in prompts(split)]

    def early(split: str, threshold: float) -> list[decoding.Generated]:
        return [
            decoding.early_exit(model, row, max_new_tokens=s.new, threshold=threshold)
            for row in prompts(split)
        ]

    def distances(texts: Sequence[Tensor], others: Sequence[decoding.Generated]) -> list[float]:
        pairs = zip(texts, others, strict=True)
        return [distance(text.tolist(), other.new.tolist()) for text, other in pairs]

    own = whole("val")
    threshold, tried = chosen(lambda threshold: distances(own, early("val", threshold)), s)
    found = early("test", 1.0 if threshold is None else threshold)
    return {
        "at": s.at,
        "level": s.level,
        "threshold": threshold,
        "tried": tried,
        "loss": distances(whole("test"), found),
        "early": [sum(text.early) / s.new for text in found],
        "passes": [text.layer_passes / (d.depth * s.new) for text in found],
    }


def claim(record: records.Record, found: Mapping[str, Any] | None) -> None:
    """Whether the promise is kept on test texts, and what it saves, if it has been measured."""
    if found is None:
        return
    level = found["level"]
    name = f"SmolLM2-135M, leaving after decoder {found['at']} of 30 at the promised threshold"
    record.claim(
        f"{name}: texts stay within the promised distance of {level:g} to the whole model's; ours: "
        "mean distance",
        thesis="not stated",
        values=found["loss"],
        differences=[level - loss for loss in found["loss"]],
        over="texts",
        where="drafting",
    )
    record.number(
        f"{name}: decoder passes, relative", thesis="not stated", values=found["passes"],
        where="drafting",
    )  # fmt: skip


def sentence(found: Mapping[str, Any] | None) -> str:
    """The threshold, what it promises and what it saves."""
    if found is None:
        return "The calibration of a threshold for leaving early has not run yet."
    if found["threshold"] is None:
        return f"No threshold of the exit after decoder {found['at']} can be promised."
    loss, early, passes = (sum(found[key]) / len(found[key]) for key in ("loss", "early", "passes"))
    return (
        f"Leaving after decoder {found['at']} above {found['threshold']:g}, which calibration "
        f"texts allow: {early:.0%} of the tokens of {len(found['loss'])} test texts leave, the "
        f"mean distance to the whole model's text is {loss:.3f}, and {passes:.0%} of the decoder "
        "passes run."
    )
