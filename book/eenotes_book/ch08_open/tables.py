"""Tables of chapter 8's runs: what its figures show and its claims rest on."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eenotes_book.ch08_open.compression import ORDERS


def as_numbers(**found: pd.DataFrame | pd.Series | Sequence[dict]) -> dict[str, Any]:
    """The chapter's results as plain numbers, for a record; a missing number is ``None``."""
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: pd.DataFrame | pd.Series | Sequence[dict]) -> Any:
    if isinstance(value, pd.DataFrame):
        return value.astype(object).where(value.notna(), None).to_dict("records")
    return value.to_dict() if isinstance(value, pd.Series) else list(value)


def novelty_table(runs: Sequence[Mapping]) -> pd.DataFrame:
    """One row per split, measure and exit: ``split``, ``measure``, ``exit`` (from 1), ``auroc``."""
    return pd.DataFrame(
        [
            {"split": run["seed"], "measure": name, "exit": j, "auroc": value}
            for run in runs
            for name, values in run["auroc"].items()
            for j, value in enumerate(values, 1)
        ]
    )


def novelty_leads(runs: Sequence[Mapping]) -> pd.DataFrame:
    """AUROC of the distance minus that of the softmax: a row per split, a column per exit."""
    table = novelty_table(runs).pivot(index=["split", "exit"], columns="measure", values="auroc")
    return (table["distance"] - table["softmax"]).unstack("exit")


def gate_costs(runs: Sequence[Mapping]) -> pd.DataFrame:
    """Mean relative cost of images of seen and of unseen classes, without and with a gate."""
    means = {
        name: pd.DataFrame([run["gate"][name] for run in runs]).mean() for name in runs[0]["gate"]
    }
    first = means["distance"]
    rows = {"no gate": [first.known_open, first.unknown_open]}
    rows |= {f"gate: {name}": [mean.known, mean.unknown] for name, mean in means.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["seen classes", "unseen classes"])


def compact_loss(table: pd.DataFrame, *, grid: int, bits: int) -> pd.Series:
    """Accuracy at the budget that the finest grid in 32 bits has more, one number per seed."""

    def accuracy(cells: int, width: int) -> pd.Series:
        rows = table[(table.grid == cells) & (table.bits == width)]
        return rows.set_index("seed").accuracy

    return accuracy(table.grid.max(), 32) - accuracy(grid, bits)


def order_groups(table: pd.DataFrame, bits: int) -> pd.DataFrame:
    """Mean accuracies by order, one row per seed.

    Returns:
        ``before``, ``after``: orders that prune before and after rounding; ``PQD`` and ``PQC``;
        ``range`` between the best and the worst of the six orders, on average over the seeds.
    """
    wide = table[table.bits == bits].pivot(index="seed", columns="order", values="mean")
    six = [order for order in ORDERS if "C" not in order]
    before = [order for order in six if order.index("P") < order.index("Q")]
    after = [order for order in six if order not in before]
    columns = {
        "before": wide[before].mean(axis=1),
        "after": wide[after].mean(axis=1),
        "PQD": wide["PQD"],
        "PQC": wide["PQC"],
    }
    return pd.DataFrame(columns).assign(range=wide[six].mean().max() - wide[six].mean().min())


def class_leads(plans: pd.DataFrame, plan: str = "depth first") -> pd.Series:
    """Mean IoU by budget: with thresholds per step and class minus with thresholds per step."""
    table = plans[plans.plan == plan].pivot(index="budget", columns="thresholds", values="miou")
    return table["per step and class"] - table["per step"]


def cheapest_as_good(plans: pd.DataFrame, whole: float, plan: str = "depth first") -> float | None:
    """The lowest cost at which a plan has at least the mean IoU of the whole image network."""
    good = plans[(plans.plan == plan) & (plans.miou >= whole)]
    return float(good.cost.min()) if len(good) else None


def kept_leads(table: pd.DataFrame, column: str, how: str = "drop agreeing") -> list[float]:
    """What dropping in one way has over dropping at random, seed by seed."""
    wide = table.pivot(index="seed", columns="kept", values=column)
    return (wide[how] - wide["random"]).tolist()


def last_look(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The last row of each seed, one column per way of setting the exit."""
    return table[table[x] == table[x].max()].pivot(index="seed", columns="head", values=y)
