"""Chapter 3: exits pruned together with the backbone, or separately after it; what zeros save, and
what they do not.
"""

import math
from collections.abc import Sequence

import pandas as pd
import torch

from eenotes_book import records
from eenotes_book.ch03_pruning.experiment import (
    CONTROL,
    SEPARATELY,
    TOGETHER,
    UNPRUNED,
    mean_of,
    relative,
)

THESIS = {
    UNPRUNED: (0.597, 0.65, 0.78, 0.82, 0.88, 0.91, 0.923),
    TOGETHER: (0.61, 0.665, 0.76, 0.81, 0.85, 0.86, 0.825),
    SEPARATELY: (0.55, 0.60, 0.72, 0.75, 0.82, 0.855, 0.88),
}  # read off the thesis's figure: exits 1 to 7 of a ResNet-56 on CIFAR-10


# sparsity of the linear layers, together - separately (figure)
THESIS_LINEAR = (-0.17, -0.14, -0.11, -0.10, -0.15, -0.16, -0.02)


def names(r: dict) -> list[str]:
    """Short names of the layers, in the order of execution: 1, 2, ... for convolutions, E1, E2, ...
    for the linear exits.
    """
    kinds = r["layers"]["kind"]
    return [
        f"E{kinds[: i + 1].count('linear')}" if kind == "linear" else f"{i + 1}"
        for i, kind in enumerate(kinds)
    ]


def layer_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Mean over the runs of each layer's final sparsity:

    ``layer``, ``kind``, one column per approach, ``difference``, ``spread``.
    """
    final = {
        name: pd.DataFrame([r["sparsity"][name][-1] for r in runs])
        for name in (TOGETHER, SEPARATELY)
    }
    difference = final[TOGETHER] - final[SEPARATELY]
    table = pd.DataFrame({name: values.mean() for name, values in final.items()})
    table = table.assign(
        difference=difference.mean(), spread=difference.std(), kind=runs[0]["layers"]["kind"]
    )
    return table.assign(layer=names(runs[0]))


def difference_by_round(runs: Sequence[dict]) -> pd.DataFrame:
    """Together - separately in sparsity, mean over the runs: one row per round (from 1), one column
    per layer.
    """
    mean = sum(
        torch.tensor(r["sparsity"][TOGETHER]) - torch.tensor(r["sparsity"][SEPARATELY])
        for r in runs
    ) / len(runs)
    return pd.DataFrame(
        mean.numpy(), index=pd.RangeIndex(1, len(mean) + 1, name="round"), columns=names(runs[0])
    )


def accuracy_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Accuracy of every exit on all test images:

    ``exit`` (from 1), ``approach``, ``accuracy`` (mean over runs), ``spread``.
    """
    rows = []
    for name in runs[0]["accuracy"]:
        values = pd.DataFrame([r["accuracy"][name] for r in runs])
        rows += [
            {
                "exit": j + 1,
                "approach": name,
                "accuracy": values[j].mean(),
                "spread": values[j].std(),
            }
            for j in range(values.shape[1])
        ]
    return pd.DataFrame(rows)


def curves(runs: Sequence[dict], approaches: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Mean operating points of each approach, one row per budget that every run keeps:

    ``relative_cost``, ``accuracy``, ``spread``.
    """
    tables = {}
    for name in approaches:
        rows = pd.concat(pd.DataFrame(r["points"][name]) for r in runs).groupby("budget")
        table = (
            rows[["accuracy", "relative_cost"]].mean().join(rows.accuracy.std().rename("spread"))
        )
        tables[name] = table[rows.size() == len(runs)].reset_index()
    return tables


def gains(
    runs: Sequence[dict], *, of: str = TOGETHER, over: str = SEPARATELY
) -> dict[str, list[float]]:
    """Accuracy of one approach minus that of another, a number per run: mean of the early exits, of
    all exits, and the last exit.
    """
    differences = [
        [a - c for a, c in zip(r["accuracy"][of], r["accuracy"][over], strict=True)] for r in runs
    ]
    return {
        "early": [mean_of(d[:-1]) for d in differences],
        "all": [mean_of(d) for d in differences],
        "last": [d[-1] for d in differences],
    }


def decide(differences: Sequence[float], *, noise: float = 0.0) -> bool | None:
    """Whether a difference is positive, ``None`` if that cannot be told.

    Several runs: undecided within two standard errors of their mean.  One run: undecided within
    ``noise``.
    """
    mean = mean_of(differences)
    margin = 2 * _std(differences) / math.sqrt(len(differences)) if len(differences) > 1 else noise
    return None if abs(mean) <= margin else mean > 0


def test_noise(r: dict) -> float:
    """Two standard deviations of the difference of two accuracies near that of the last exit, each
    from so many test images.
    """
    p = r["accuracy"][UNPRUNED][-1]
    return 2 * math.sqrt(2 * max(p * (1 - p), 0.01) / r["counts"]["test"])


def lead(differences: Sequence[float], first: str, second: str, *, noise: float = 0.0) -> str:
    """In words, who is ahead by how much, or that it cannot be told."""
    verdict, points = decide(differences, noise=noise), 100 * mean_of(differences)
    spread = f" ± {100 * _std(differences):.1f}" if len(differences) > 1 else ""
    ahead = first if points > 0 else second
    doubt = ", within the noise" if verdict is None else ""
    return f"{ahead} is ahead by {abs(points):.1f}{spread} points{doubt}"


def sweep_table(sweeps: Sequence[list[dict]], value: str) -> pd.DataFrame:
    """Mean over the runs of ``value`` (``"early"`` or ``"last"``): a row per sparsity of the network, a column per sparsity of the exits;
    the last column, ``"as all"``, is the plain approach 2."""
    rows = pd.concat(pd.DataFrame(each) for each in sweeps)
    labels = [
        f"{x:.2f}" if x < y else "as all" for x, y in zip(rows.exits, rows.sparsity, strict=True)
    ]
    table = rows.assign(exits=labels).groupby(["sparsity", "exits"])[value].mean().unstack()
    return table.rename(index=lambda x: f"{x:.2f}")


def sweep_verdict(sweeps: Sequence[list[dict]]) -> str:
    """When together stops being the better choice, in words, from the mean over the runs."""
    sentences = []
    for value, where in (("early", "At the early exits"), ("last", "At the last exit")):
        table = sweep_table(sweeps, value)
        plain, gentle = table["as all"], table.drop(columns="as all").iloc[:, 0]
        sentences.append(
            f"{where}, together leads at {int((plain > 0).sum())} of {len(plain)} rates when exits are pruned like the backbone "
            f"(by {100 * plain.mean():+.1f} points on average), and at {int((gentle > 0).sum())} of {gentle.count()} when separate pruning "
            f"lets its exits keep {1 - float(gentle.name):.0%} of their weights ({100 * gentle.mean():+.1f} points)."
        )
    return " ".join(sentences)


def claim_all(record: records.Record, runs: Sequence[dict]) -> None:
    """The thesis's claims beside ours, for one run or several."""
    table = layer_table(runs)
    early = table[(table.kind == "linear")].iloc[:-1]
    per_run = [layer_table([r]).loc[early.index].difference for r in runs]
    record.old_claim(
        "separate pruning leaves every linear exit sparser; ours: mean difference of the early exits' sparsity, together - separately",
        thesis=f"{mean_of(THESIS_LINEAR[:-1]):.2f} ({min(THESIS_LINEAR[:-1]):.2f} to {max(THESIS_LINEAR[:-1]):.2f}, figure)",
        ours=float(early.difference.mean()),
        spread=_spread([d.mean() for d in per_run]),
        holds=bool((early.difference < 0).all()),
        where="Where the zeros are",
    )
    convolutions = table[table.kind == "convolution"].difference.abs()
    record.old_claim(
        "convolutions end equally sparse: mostly within .04; ours: share of the convolutions within .04",
        thesis="mostly within ±.04 (figure)",
        ours=float((convolutions <= 0.04).mean()),
        holds=bool((convolutions <= 0.04).mean() > 0.5),
        where="Where the zeros are",
    )
    gain, noise = gains(runs), test_noise(runs[0])
    thesis = [a - c for a, c in zip(THESIS[TOGETHER], THESIS[SEPARATELY], strict=True)]
    for key, statement, number in [
        (
            "early",
            "together is better at the intermediate exits; ours: mean accuracy difference of the early exits",
            mean_of(thesis[:-1]),
        ),
        (
            "all",
            "treating all weights the same is best overall; ours: mean accuracy difference of all exits",
            mean_of(thesis),
        ),
    ]:
        record.old_claim(
            statement,
            thesis=f"{number:+.3f} (figure)",
            ours=mean_of(gain[key]),
            spread=_spread(gain[key]),
            holds=decide(gain[key], noise=noise),
            where="Accuracy",
        )
    last = [-value for value in gain["last"]]
    record.old_claim(
        "at the final exit separate pruning is ahead; ours: accuracy difference, separately - together",
        thesis=f"{-thesis[-1]:+.3f} (figure)",
        ours=mean_of(last),
        spread=_spread(last),
        holds=decide(last, noise=noise),
        where="Accuracy",
    )
    if CONTROL in runs[0]["accuracy"]:
        control = gains(runs, of=CONTROL)["early"]
        record.old_claim(
            "it is the loss: tuning the backbone for all exits makes separate pruning better at the early ones; ours: gain over plain",
            thesis="not stated",
            ours=mean_of(control),
            spread=_spread(control),
            holds=decide(control, noise=noise),
            where="Order, loss or sparsity?",
        )
    columns = (
        accuracy_table(runs).pivot(index="exit", columns="approach", values="accuracy").round(4)
    )
    record.numbers |= {
        "accuracy per exit": columns.to_dict("list"),
        "pools": runs[0]["pools"],
        "macs": runs[0]["macs"],
    }


def claim_sweep(record: records.Record, sweeps: Sequence[list[dict]]) -> None:
    """Our own claim: what separate pruning loses at the early exits, it loses by the sparsity of
    its exits.
    """
    shares = []
    for each in sweeps:
        table = sweep_table([each], "early")
        plain, gentle = table["as all"].mean(), table.drop(columns="as all").iloc[:, 0].mean()
        shares.append(1 - gentle / plain if plain > 0 else math.nan)
    shares = [share for share in shares if not math.isnan(share)]
    record.old_claim(
        "it is the exits' sparsity: at the same total, exits that keep most of their weights close at least half of separate pruning's gap "
        "at the early exits; ours: part of the gap that is closed",
        thesis="not stated",
        ours=mean_of(shares) if shares else "there is no gap",
        spread=_spread(shares) if shares else None,
        holds=mean_of(shares) >= 0.5 if shares else None,
        where="Order, loss or sparsity?",
    )


def claim_deployment(record: records.Record, table: pd.DataFrame) -> None:
    """What zeros and missing channels save, measured: rows `UNPRUNED`, `TOGETHER` and
    ``"channels"`` of `deployment`.
    """
    part = relative(table)
    record.old_claim(
        "unstructured zeros leave the latency as it is; ours: time relative to the unpruned network, within a tenth",
        thesis="not stated",
        ours=float(part.seconds[TOGETHER]),
        holds=bool(abs(part.seconds[TOGETHER] - 1) <= 0.1),
        where="Zeros and the clock",
    )
    record.old_claim(
        "zeros make the compressed checkpoint smaller; ours: gzip size relative to the unpruned network's",
        thesis="not stated",
        ours=float(part.gzip[TOGETHER]),
        holds=bool(part.gzip[TOGETHER] < 0.9),
        where="Zeros and the clock",
    )
    record.old_claim(
        "removing channels saves time; ours: time relative to the unpruned network",
        thesis="not stated",
        ours=float(part.seconds["channels"]),
        holds=bool(part.seconds["channels"] < 0.9),
        where="Zeros and the clock",
    )
    record.numbers["deployment"] = table.round(5).to_dict("index")


def _std(values: Sequence[float]) -> float:
    return float(pd.Series(values).std())


def _spread(values: Sequence[float]) -> float | None:
    return _std(values) if len(values) > 1 else None
