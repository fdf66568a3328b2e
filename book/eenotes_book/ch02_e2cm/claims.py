"""Chapter 2's claims: E²CM against trained exits, and class means of clusters, beside the thesis's.

`claim_all` fills a record from its numbers: ``"published"``, from `at_costs.measure`;
``"trained"``, from `published_study.recorded`; and ``"clustering"``, data set → runs, one per seed,
from `unlabelled.clustering_run`.
"""

from collections.abc import Mapping, Sequence

from eenotes_book import records, statistics
from eenotes_book.ch02_e2cm import at_costs

_HALF_A_POINT = 0.005  # a lead in accuracy that is smaller counts as none
_OURS = "not in the thesis"
# The least accuracy of a backbone: two points below the published one's, and .85 for our own.
_LEAST = {"resnet20": 0.897, "resnet56": 0.914, "resnet50": 0.85}
_TRAINED = (
    ("e2cm", "sdn1"),
    ("e2cm", "branchynet1"),
    ("whitened", "sdn1"),
    ("whitened", "branchynet1"),
    ("whitened", "sdn"),
)
_THESIS = {
    ("E²CM", at_costs.BACKBONE): "ResNet-152: ≈.88 at .36 on its axis (figure)",
    ("E²CM", "SDN, one epoch"): "ahead at every cost shown (figure)",
    ("E²CM", "BranchyNet, one epoch"): "ahead at every cost shown (figure)",
    (at_costs.BOTH, "SDN"): "82.4 against 80 at .15, equal at .30 (poster)",
}


def claim_all(record: records.Record, numbers: Mapping[str, Mapping[str, Sequence[dict]]]) -> None:
    """The thesis's claims beside ours, and those on other scores and yardsticks."""
    for network, found in numbers.get("published", {}).items():
        _claim_published(record, network, found)
    for network, methods in numbers.get("trained", {}).items():
        _claim_trained(record, network, methods)
    for name, runs in numbers.get("clustering", {}).items():
        _claim_clustering(record, name, runs)


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


def _claim_published(record: records.Record, network: str, found: Mapping) -> None:
    """What thresholds give on a published network: nothing is drawn, so images take turns.

    The differences are those of ten groups of test images.
    """
    gate = _gate(network, found["backbone"])
    for row in found["leads"]:
        of, over, at = row["of"], row["over"], row["at"]
        kept, about = over == at_costs.BACKBONE, f"{at_costs.TITLES[network]}, trained"
        statement = (
            f"{about}: {of} keeps the backbone's accuracy (within a point) at {at} of its cost"
            if kept
            else f"{about}: {of} is ahead of {over}"
        )
        ours = "difference" if kept else "mean lead over the budgets"
        record.claim(
            f"{statement}; ours: {ours}, interval over tenths of the test images",
            thesis=_THESIS.get((of, over), _OURS),
            values=row["tenths"],
            wanted="not behind" if kept else "ahead",
            margin=0.01 if kept else _HALF_A_POINT,
            gate=gate,
            over="tenths of the test images",
            where="one-epoch",
        )


def _claim_trained(
    record: records.Record, network: str, methods: Mapping[str, Sequence[dict]]
) -> None:
    """Class means against exits that were trained with several seeds.

    The seed trains the exits, and draws the halves of the test images for both.
    """
    of_seed = {
        method: {run["seed"]: run for run in runs} for method, runs in methods.items() if runs
    }
    for of, over in _TRAINED:
        if not {of, over} <= of_seed.keys():
            continue
        seeds = sorted(of_seed[of].keys() & of_seed[over].keys())
        names, longer = (at_costs.NAMES[of], at_costs.NAMES[over]), over == "sdn"
        claimed = "is not behind" if longer else "is ahead of"
        record.claim(
            f"{at_costs.TITLES[network]}, trained: {names[0]} {claimed} {names[1]}; "
            "ours: mean lead over the budgets",
            thesis=_THESIS.get(names, _OURS),
            values=[_mean_lead(of_seed[of][seed], of_seed[over][seed]) for seed in seeds],
            wanted="not behind" if longer else "ahead",
            margin=_HALF_A_POINT,
            gate=_gate(network, of_seed[of][seeds[0]]["exits"][-1]),
            where="one-epoch",
        )


def _mean_lead(own: Mapping, other: Mapping) -> float:
    """The mean lead in accuracy over the budgets of `at_costs.BUDGETS` that both runs keep."""
    ours, theirs = (
        {row["budget"]: row["accuracy"] for row in run["points"]} for run in (own, other)
    )
    common = [b for b in at_costs.BUDGETS if b in ours and b in theirs]
    return statistics.mean([ours[budget] - theirs[budget] for budget in common])


def _gate(network: str, accuracy: float) -> statistics.Gate:
    least = _LEAST[network]
    return statistics.Gate(f"the backbone's accuracy is at least {least}", accuracy >= least)


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


def _losses(runs: Sequence[dict], *, budget: float) -> list[float]:
    """The clustering accuracy that a budget costs, one number per run."""
    return [run["accuracy"] - _point(run, budget)["accuracy"] for run in runs]


def _point(run: dict, budget: float) -> dict:
    """The point of the largest budget that is not above the one given."""
    affordable = [row for row in run["points"] if row["budget"] <= budget]
    return max(affordable, key=lambda row: row["budget"])
