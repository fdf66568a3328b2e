"""Chapter 2's claims: E²CM against trained exits, and class means of clusters, beside the thesis's.

`claim_all` fills a record from its numbers: ``"comparison"`` and ``"clustering"``, each data set →
runs, one per seed, from `experiment.comparison` and `unlabelled.clustering_run`.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from eenotes_book import records, statistics
from eenotes_book.ch02_e2cm.experiment import WHITENED

HALF_A_POINT = 0.005  # a lead in accuracy that is smaller counts as none
OURS = "not in the thesis"


def claim_all(record: records.Record, numbers: Mapping[str, Mapping[str, Sequence[dict]]]) -> None:
    """The thesis's claims beside ours, and the same for whitened class means."""
    for name, runs in numbers.get("comparison", {}).items():
        _claim_class_means(record, name, runs)
        _claim_whitened(record, name, runs)
    for name, runs in numbers.get("clustering", {}).items():
        _claim_clustering(record, name, runs)


def advantage(runs: Sequence[dict], kind: str, method: str, other: str) -> pd.DataFrame:
    """Accuracy of ``method`` minus that of ``other`` for every budget that both keep.

    Returns:
        One row per budget: ``budget``, ``mean`` and ``spread`` over the runs.
    """
    table = pd.concat(_differences(runs, kind, method, other), axis=1)
    return pd.DataFrame({"mean": table.mean(axis=1), "spread": table.std(axis=1)}).reset_index()


def leads(runs: Sequence[dict], kind: str, method: str, other: str) -> list[float]:
    """The mean lead of ``method`` over ``other`` over the budgets, one per run."""
    return [float(each.mean()) for each in _differences(runs, kind, method, other)]


def verdict(groups: Mapping[str, Sequence[dict]], kind: str, method: str) -> str:
    """A line per data set: at how many budgets the method is ahead of each other one."""
    lines = []
    for name, runs in groups.items():
        parts = []
        for other in (other for other in runs[0][kind] if other != method):
            lead = advantage(runs, kind, method, other)["mean"]
            parts.append(
                f"ahead of {other} at {int((lead > 0).sum())} of {len(lead)} budgets "
                f"(by {100 * lead.mean():+.1f} points on average)"
            )
        lines.append(f"{name}: {method} is {' and '.join(parts)}.")
    return "\n".join(lines)


def clustering_verdict(groups: Mapping[str, Sequence[dict]]) -> str:
    """A line per data set on what early exits save without labels, on average over the runs."""
    lines = []
    for name, runs in groups.items():
        loss = statistics.mean(_losses(runs, budget=0.6))
        cost = statistics.mean([_point(run, 0.6)["relative_cost"] for run in runs])
        lines.append(
            f"{name}: at {cost:.2f} of the encoder's cost the clustering accuracy changes by "
            f"{-100 * loss:+.1f} points."
        )
    return "\n".join(lines)


def _claim_class_means(record: records.Record, name: str, runs: Sequence[dict]) -> None:
    thesis = "ResNet-152, CIFAR-10: ≈.88 at .36 (figure)"
    _claim_kept(record, name, runs, "E²CM", budget=0.6, thesis=thesis)
    for other in ("BranchyNet", "SDN"):
        _claim_ahead(
            record,
            f"{name}, one epoch: E²CM is ahead of {other}",
            leads(runs, "one epoch", "E²CM", other),
            thesis="ahead at every cost shown (figure)",
            where="one-epoch",
        )
    _claim_ahead(
        record,
        f"{name}, no budget: E²CM beside SDN is better than SDN alone",
        leads(runs, "unlimited", "E²CM + SDN", "SDN"),
        thesis="82.4 against 80 at .15, equal at .30 (poster)",
        where="unlimited",
    )


def _claim_whitened(record: records.Record, name: str, runs: Sequence[dict]) -> None:
    _claim_kept(record, name, runs, WHITENED, budget=0.3, thesis=OURS)
    for other in ("E²CM", "BranchyNet", "SDN"):
        _claim_ahead(
            record,
            f"{name}, one epoch: {WHITENED} is ahead of {other}",
            leads(runs, "one epoch", WHITENED, other),
            thesis=OURS,
            where="one-epoch",
        )
    record.claim(
        f"{name}, SDN without a budget: {WHITENED} is not behind SDN (within half a point); "
        "ours: mean lead over the budgets",
        thesis=OURS,
        values=leads(runs, "unlimited", WHITENED, "SDN"),
        wanted="not behind",
        margin=HALF_A_POINT,
        where="unlimited",
    )


def _claim_clustering(record: records.Record, name: str, runs: Sequence[dict]) -> None:
    record.number(
        f"{name}: clustering accuracy of the whole encoder",
        thesis={"MNIST": "≈.93 (figure)", "FashionMNIST": "≈.60 (figure)"}.get(name, "not stated"),
        values=[run["accuracy"] for run in runs],
        where="clustering",
    )
    losses = _losses(runs, budget=0.6)
    record.claim(
        f"{name}: 40 % less computation for at most a point of clustering accuracy; "
        "ours: loss at budget 0.6",
        thesis={
            "MNIST": ".895 at .375 against .93 (figure)",
            "FashionMNIST": ".58 at .375 against .60 (figure)",
        }.get(name, "up to 60 % less, negligible drop (text)"),
        values=losses,
        differences=[-loss for loss in losses],
        wanted="not behind",
        margin=0.01,
        where="clustering",
    )


def _claim_kept(
    record: records.Record,
    name: str,
    runs: Sequence[dict],
    method: str,
    *,
    budget: float,
    thesis: str,
) -> None:
    record.claim(
        f"{name}: {method} keeps the backbone's accuracy (within a point) at {budget} of its cost; "
        "ours: difference",
        thesis=thesis,
        values=[_accuracy_at(run, method, budget) - run["backbone"] for run in runs],
        wanted="not behind",
        margin=0.01,
        where="one-epoch",
    )


def _claim_ahead(
    record: records.Record, statement: str, values: list[float], *, thesis: str, where: str
) -> None:
    record.claim(
        f"{statement}; ours: mean lead over the budgets",
        thesis=thesis,
        values=values,
        wanted="ahead",
        margin=HALF_A_POINT,
        where=where,
    )


def _differences(runs: Sequence[dict], kind: str, method: str, other: str) -> list[pd.Series]:
    """Differences of accuracy by budget, one series per run."""
    found = []
    for run in runs:
        own, others = (
            pd.DataFrame(run[kind][name]).set_index("budget").accuracy for name in (method, other)
        )
        found.append((own - others).dropna())
    return found


def _accuracy_at(run: dict, method: str, budget: float) -> float:
    return next(row["accuracy"] for row in run["one epoch"][method] if row["budget"] == budget)


def _losses(runs: Sequence[dict], *, budget: float) -> list[float]:
    """The clustering accuracy that a budget costs, one number per run."""
    return [run["accuracy"] - _point(run, budget)["accuracy"] for run in runs]


def _point(run: dict, budget: float) -> dict:
    """The point of the largest budget that is not above the one given."""
    affordable = [row for row in run["points"] if row["budget"] <= budget]
    return max(affordable, key=lambda row: row["budget"])
