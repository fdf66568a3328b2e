"""Tables of chapter 3: what the numbers of one run, or of several seeds, say layer by layer.

A run is what `experiment.run` returns; a sweep, what `experiment.sweep` returns.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from eenotes_book import statistics
from eenotes_book.ch03_pruning.experiment import SEPARATELY, TOGETHER, UNPRUNED


def names(run: dict) -> list[str]:
    """Short names of the layers, in the order of execution.

    They are 1, 2, ... for convolutions and E1, E2, ... for the linear exits, each kind from 1.
    """
    found, counts = [], {"convolution": 0, "linear": 0}
    for kind in run["layers"]["kind"]:
        counts[kind] += 1
        found.append(f"{'E' if kind == 'linear' else ''}{counts[kind]}")
    return found


def having(runs: Sequence[dict], *approaches: str, key: str = "accuracy") -> list[dict]:
    """The runs in which all of these approaches have been measured."""
    return [run for run in runs if set(approaches) <= run.get(key, {}).keys()]


def layer_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Each layer's final sparsity, averaged over the runs that have both approaches.

    Returns:
        One row per layer: ``layer``, ``kind``, a column per approach, ``difference`` (together -
        separately), and over the runs its standard deviation ``spread`` and ``reach``, half of its
        95 % interval.
    """
    runs = having(runs, TOGETHER, SEPARATELY, key="sparsity")
    final = {
        name: pd.DataFrame([run["sparsity"][name][-1] for run in runs])
        for name in (TOGETHER, SEPARATELY)
    }
    difference = final[TOGETHER] - final[SEPARATELY]
    table = pd.DataFrame({name: values.mean() for name, values in final.items()})
    table = table.assign(difference=difference.mean(), **_over_runs(difference))
    return table.assign(kind=runs[0]["layers"]["kind"], layer=names(runs[0]))


def early_exits(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `layer_table` that are early exits: linear, but not the classifier."""
    return table[table.kind == "linear"].iloc[:-1]


def difference_by_round(runs: Sequence[dict]) -> pd.DataFrame:
    """Together - separately in sparsity, averaged over the runs that have both.

    Returns:
        One row per round (from 1), one column per layer.
    """
    runs = having(runs, TOGETHER, SEPARATELY, key="sparsity")
    differences = [
        np.subtract(run["sparsity"][TOGETHER], run["sparsity"][SEPARATELY]) for run in runs
    ]
    mean = np.mean(differences, axis=0)
    rounds = pd.RangeIndex(1, len(mean) + 1, name="round")
    return pd.DataFrame(mean, index=rounds, columns=names(runs[0]))


def accuracy_table(runs: Sequence[dict]) -> pd.DataFrame:
    """The accuracy of every exit on all test images, averaged over the runs that have it.

    Returns:
        One row per approach and exit: ``exit`` (from 1), ``approach``, ``accuracy``, ``spread``,
        ``reach``.
    """
    tables = []
    for name in dict.fromkeys(name for run in runs for name in run["accuracy"]):
        values = pd.DataFrame([run["accuracy"][name] for run in having(runs, name)])
        facts = {"exit": values.columns + 1, "approach": name}
        tables.append(pd.DataFrame(facts | {"accuracy": values.mean(), **_over_runs(values)}))
    return pd.concat(tables, ignore_index=True)


def price_table(runs: Sequence[dict]) -> pd.DataFrame:
    """What pruning changes at every exit: accuracy, pruned - unpruned, of the same run.

    Returns:
        One row per approach and exit: ``exit`` (from 1), ``approach``, ``difference``, and
        over the runs its standard deviation ``spread`` and ``reach``, half of its 95 % interval.
    """
    changed = [
        run
        | {
            "accuracy": {
                name: np.subtract(values, run["accuracy"][UNPRUNED]).tolist()
                for name, values in run["accuracy"].items()
                if name != UNPRUNED
            }
        }
        for run in having(runs, UNPRUNED)
    ]
    return accuracy_table(changed).rename(columns={"accuracy": "difference"})


def pool_table(groups: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """The final sparsity of each pool, averaged over runs.

    Args:
        groups: what the runs are of → runs.

    Returns:
        One row per group and approach: ``seeds``, ``backbone``, ``exits``, ``all``.
    """
    rows = {}
    for group, runs in groups.items():
        for name in dict.fromkeys(name for run in runs for name in run["pools"]):
            pools = pd.DataFrame([run["pools"][name] for run in having(runs, name, key="pools")])
            rows[group, name] = {"seeds": len(pools), **pools.mean()}
    return pd.DataFrame.from_dict(rows, orient="index")


def curves(runs: Sequence[dict], approaches: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The operating points of each approach, averaged over the runs that have it.

    Returns:
        approach → one row per budget that each of these runs keeps: ``budget``,
        ``relative_cost``, ``accuracy``, ``spread``, ``reach``; no approach that no run has.
    """
    tables = {}
    for name in approaches:
        found = having(runs, name)
        if not found:
            continue
        rows = pd.concat(pd.DataFrame(run["points"][name]) for run in found).groupby("budget")
        table = rows[["accuracy", "relative_cost"]].mean()
        spread = rows.accuracy.std().rename("spread")
        reach = rows.accuracy.agg(lambda one: statistics.reach(one.tolist())).rename("reach")
        table = table.join(spread).join(reach)
        tables[name] = table[rows.size() == len(found)].reset_index()
    return tables


def gains(
    runs: Sequence[dict], *, of: str = TOGETHER, over: str = SEPARATELY
) -> dict[str, list[float]]:
    """The accuracy of one approach minus that of another, a number per run that has both.

    Returns:
        ``first`` (mean of the first two exits), ``early`` (mean of the early exits), ``all`` (mean
        of all exits), ``last``.
    """
    pairs = [run["accuracy"] for run in having(runs, of, over)]
    gained = [np.subtract(pair[of], pair[over]) for pair in pairs]
    return {
        "first": [float(gain[:2].mean()) for gain in gained],
        "early": [float(gain[:-1].mean()) for gain in gained],
        "all": [float(gain.mean()) for gain in gained],
        "last": [float(gain[-1]) for gain in gained],
    }


def sweep_table(sweeps: Sequence[list[dict]], value: str) -> pd.DataFrame:
    """One value of the sweep, ``"early"`` or ``"last"``, averaged over the runs.

    Returns:
        A row per sparsity of the network, a column per sparsity of the exits; the last column,
        ``"as all"``, is the plain approach 2.
    """
    rows = pd.concat(pd.DataFrame(sweep) for sweep in sweeps)
    labels = [
        f"{exits:.2f}" if exits < sparsity else "as all"
        for exits, sparsity in zip(rows.exits, rows.sparsity, strict=True)
    ]
    table = rows.assign(exits=labels).groupby(["sparsity", "exits"])[value].mean().unstack()
    return table.rename(index=lambda sparsity: f"{sparsity:.2f}")


def split_noise(run: dict) -> float:
    """What the test split alone can make of a difference of two accuracies.

    Returns:
        Two standard deviations, for accuracies near that of the unpruned last exit.
    """
    p = run["accuracy"][UNPRUNED][-1]
    return 2 * math.sqrt(2 * max(p * (1 - p), 0.01) / run["counts"]["test"])


def _over_runs(values: pd.DataFrame) -> dict[str, pd.Series]:
    """Of every column: ``spread``, and ``reach``, half of the 95 % interval; NaN for one run."""
    return {"spread": values.std(), "reach": values.agg(lambda one: statistics.reach(one.tolist()))}
