"""Random vectors of thresholds, as the thesis draws them, and the Pareto front of what they give.

`eenotes.thresholds.thresholds_for_budgets` searches instead, and finds better ones.
"""

import math
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from eenotes.rules import ScoreRule


def draw_thresholds(
    logits: Tensor,
    rule: ScoreRule,
    *,
    count: int,
    seed: int = 0,
    how: Literal["quantile", "uniform"] = "quantile",
) -> Tensor:
    """Random threshold vectors, ``(count, J-1)``, for a rule whose own thresholds do not matter.

    ``"quantile"`` draws each exit's threshold among that exit's own scores in ``logits``,
    ``(J, N, K)``, so that every share of exiting samples is as likely as any other, and closes
    exits at random.  ``"uniform"`` draws from the rule's limits, which hardly ever opens an exit
    whose scores stay on one side.

    Raises:
        ValueError: another ``how``, or ``"uniform"`` for a rule whose limits are not finite.
    """
    low, high = rule.limits
    if how not in ("quantile", "uniform") or (how == "uniform" and not math.isfinite(high - low)):
        raise ValueError(
            f"how={how!r} must be 'quantile', or 'uniform' for a rule with finite limits, "
            f"got {type(rule).__name__} with limits {rule.limits}"
        )
    generator = torch.Generator().manual_seed(seed)
    num_early = len(logits) - 1
    draws = torch.rand(count, num_early, generator=generator, dtype=torch.float64)
    if how == "uniform":
        return low + (high - low) * draws
    scores = torch.stack([rule.score(j, logits[j]).score for j in range(num_early)])
    scores = scores.cpu().double().sort(1, descending=not rule.leaves_above).values
    # Some vectors use every exit, some only one: how many are open is drawn first.
    open_share = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    is_open = torch.rand(count, num_early, generator=generator, dtype=torch.float64) < open_share
    picked = scores.gather(1, (draws * scores.shape[1]).long().T).T
    return torch.where(is_open, picked, rule.closed)


def pareto_front(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both cost and accuracy, cheapest first."""
    ordered = table.sort_values(
        ["relative_cost", "accuracy"], ascending=[True, False], ignore_index=True
    )
    best_before = ordered.accuracy.cummax().shift(fill_value=-1.0)
    return ordered[ordered.accuracy > best_before].reset_index(drop=True)
