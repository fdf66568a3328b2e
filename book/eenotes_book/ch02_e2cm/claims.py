"""Chapter 2, with labels: E²CM against trained exits under a budget, and without one."""

from collections.abc import Sequence

import pandas as pd

from eenotes_book import records
from eenotes_book.ch02_e2cm.experiment import WHITENED, accuracy_at, mean, number, spread


def advantage(runs: Sequence[dict], kind: str, method: str, other: str) -> pd.DataFrame:
    """Accuracy of ``method`` minus that of ``other`` for every budget that both keep:

    ``mean`` and ``spread`` over the runs.
    """
    differences = []
    for run in runs:
        a, b = (
            pd.DataFrame(run[kind][name]).set_index("budget").accuracy for name in (method, other)
        )
        differences.append((a - b).dropna())
    table = pd.concat(differences, axis=1)
    return pd.DataFrame({"mean": table.mean(axis=1), "spread": table.std(axis=1)}).reset_index()


def verdict(groups: dict[str, Sequence[dict]], kind: str, method: str) -> str:
    """A sentence per data set: at how many of the budgets the method is ahead of each other one, on
    average over the runs.
    """
    sentences = []
    for name, runs in groups.items():
        parts = []
        for other in (other for other in runs[0][kind] if other != method):
            lead = advantage(runs, kind, method, other)["mean"]
            parts.append(
                f"ahead of {other} at {int((lead > 0).sum())} of {len(lead)} budgets (by {100 * lead.mean():+.1f} points on average)"
            )
        sentences.append(f"{name}: {method} is {' and '.join(parts)}.")
    return " ".join(sentences)


def claim_all(record: records.Record, runs: dict[str, Sequence[dict]]) -> None:
    """The thesis's claims on the supervised half beside ours, and the same for whitened class
    means, for runs by data set name.
    """
    ahead = "ahead at every cost shown (figure)"
    for name, group in runs.items():
        _claim_kept(
            record,
            name,
            group,
            "E²CM",
            budget=0.6,
            thesis="ResNet-152, CIFAR-10: ≈.88 at .36 (figure)",
        )
        for other in ("BranchyNet", "SDN"):
            _claim_ahead(
                record, f"{name}, one epoch", group, ("one epoch", "E²CM", other), thesis=ahead
            )
        table = advantage(group, "unlimited", "E²CM + SDN", "SDN")
        record.old_claim(
            f"{name}, no budget: E²CM beside SDN is better than SDN alone; ours: mean lead over the budgets",
            thesis="82.4 against 80 at .15, equal at .30 (poster)",
            ours=float(table["mean"].mean()),
            spread=number(table.spread.mean()),
            holds=bool(table["mean"].mean() > 0),
            where="unlimited",
        )
        _claim_kept(record, name, group, WHITENED, budget=0.3, thesis="not asked")
        for other in ("E²CM", "BranchyNet", "SDN"):
            _claim_ahead(
                record,
                f"{name}, one epoch",
                group,
                ("one epoch", WHITENED, other),
                thesis="not asked",
            )
        _claim_ahead(
            record,
            f"{name}, SDN without a budget",
            group,
            ("unlimited", WHITENED, "SDN"),
            thesis="not asked",
        )


def _claim_kept(
    record: records.Record,
    name: str,
    group: Sequence[dict],
    method: str,
    *,
    budget: float,
    thesis: str,
) -> None:
    gaps = [accuracy_at(run, "one epoch", method, budget) - run["backbone"] for run in group]
    record.old_claim(
        f"{name}: {method} keeps the backbone's accuracy (within a point) at {budget} of its cost; ours: difference",
        thesis=thesis,
        ours=mean(gaps),
        spread=spread(gaps),
        holds=mean(gaps) >= -0.01,
        where="one-epoch",
    )


def _claim_ahead(
    record: records.Record,
    title: str,
    group: Sequence[dict],
    what: tuple[str, str, str],
    *,
    thesis: str,
) -> None:
    """``what``: kind of comparison, method, and the other one."""
    kind, method, other = what
    table = advantage(group, kind, method, other)
    worst = table.loc[table["mean"].idxmin()]
    record.old_claim(
        f"{title}: {method} is nowhere behind {other}; ours: smallest lead, at budget {worst.budget:.1f}",
        thesis=thesis,
        ours=float(worst["mean"]),
        spread=number(worst.spread),
        holds=bool(worst["mean"] >= 0),
        where="one-epoch" if kind == "one epoch" else kind,
    )


def clustering_verdict(groups: dict[str, Sequence[dict]]) -> str:
    """A sentence per data set on what early exits save without labels, on average over the runs."""
    sentences = []
    for name, runs in groups.items():
        loss, cost = _at_budget(runs, 0.6)
        sentences.append(
            f"{name}: at {cost:.2f} of the encoder's cost the clustering accuracy changes by {-100 * loss:+.1f} points."
        )
    return " ".join(sentences)


def claim_clustering(record: records.Record, groups: dict[str, Sequence[dict]]) -> None:
    """The thesis's claims on clustering beside ours."""
    thesis = {
        "MNIST": ".895 at .375 against .93 (figure)",
        "FashionMNIST": ".58 at .375 against .60 (figure)",
    }
    for name, runs in groups.items():
        full = [run["accuracy"] for run in runs]
        record.old_claim(
            f"{name}: clustering accuracy of the whole encoder",
            thesis={"MNIST": "≈.93 (figure)", "FashionMNIST": "≈.60 (figure)"}.get(
                name, "not stated"
            ),
            ours=mean(full),
            spread=spread(full),
            holds=None,
            where="clustering",
        )
        losses = [_at_budget([run], 0.6)[0] for run in runs]
        record.old_claim(
            f"{name}: 40 % less computation for at most a point of clustering accuracy; ours: loss at budget 0.6",
            thesis=thesis.get(name, "up to 60 % less, negligible drop (text)"),
            ours=mean(losses),
            spread=spread(losses),
            holds=mean(losses) <= 0.01,
            where="clustering",
        )


def _at_budget(runs: Sequence[dict], budget: float) -> tuple[float, float]:
    """Mean loss of clustering accuracy and mean relative cost of the points chosen for a budget."""
    rows = [
        max(
            (row for row in run["points"] if row["budget"] <= budget), key=lambda row: row["budget"]
        )
        for run in runs
    ]
    loss = mean([run["accuracy"] - row["accuracy"] for run, row in zip(runs, rows, strict=True)])
    return loss, mean([row["relative_cost"] for row in rows])
