"""Sparsities of chapter 3: of each pool of weights, and of each layer after each round."""

from collections.abc import Sequence

import pandas as pd

from eenotes.methods.pruning_schedule import Iteration


def pool_sparsity(table: pd.DataFrame) -> pd.Series:
    """From `pruned_costs.sparsity_table`: the share of zeros in ``backbone``, ``exits`` and ``all`` together."""
    pools = table.groupby("part")[["zeros", "weights"]].sum()
    pools.loc["all"] = pools.sum()
    return pd.Series(pools.zeros / pools.weights, name="sparsity")


def by_round(iterations: Sequence[Iteration]) -> pd.DataFrame:
    """Sparsity after each round: one row per round (from 1), one column per layer.

    The two phases of `pruning_schedule.separately` are put side by side: row r holds the backbone
    after r rounds of its own and the exits after r of theirs.
    """
    rows: dict[int, dict[str, float]] = {}
    for iteration in iterations:
        mine = {
            name: value
            for name, value in iteration.sparsity.items()
            if iteration.part == "all" or name.startswith("exits.") == (iteration.part == "exits")
        }
        rows.setdefault(iteration.number, {}).update(mine)
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table[list(iterations[0].sparsity)].rename_axis("round") if iterations else table
