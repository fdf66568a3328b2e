"""The claims of chapter 3: from a record's numbers to the thesis's claims beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from eenotes_book import records, statistics
from eenotes_book.ch03_pruning import beyond
from eenotes_book.ch03_pruning.beyond import POINT
from eenotes_book.ch03_pruning.experiment import CONTROL, SEPARATELY, SPARED, TOGETHER, UNPRUNED
from eenotes_book.ch03_pruning.tables import early_exits, gains, having, layer_table, sweep_table
from eenotes_book.data import pretrained

THESIS = {
    UNPRUNED: (0.597, 0.65, 0.78, 0.82, 0.88, 0.91, 0.923),
    TOGETHER: (0.61, 0.665, 0.76, 0.81, 0.85, 0.86, 0.825),
    SEPARATELY: (0.55, 0.60, 0.72, 0.75, 0.82, 0.855, 0.88),
}  # read off the thesis's figure: exits 1 to 7 of a ResNet-56 on CIFAR-10

# sparsity of the linear layers, together - separately (figure)
THESIS_LINEAR = (-0.17, -0.14, -0.11, -0.10, -0.15, -0.16, -0.02)

PUBLISHED = {found.depth: found.accuracy for found in pretrained.NETWORKS.values()}
SPARSER = 0.01  # the smallest difference in sparsity that matters


def claim_all(record: records.Record, numbers: Mapping[str, Any]) -> None:
    """Put the chapter's claims into a record, as far as its numbers go.

    Args:
        record: to be filled; its data sets are known.
        numbers: ``runs`` (from `experiment.run`, one per seed), ``sweeps`` (from `sweep.sweep`)
            and ``deployment`` (rows by name, from `deployment.measured`); of the study also the
            runs of ``resnet56`` and ``resnet56-flat``.
    """
    runs = _runs(numbers)
    gate = trained(runs, record.data)
    _claim_network(record, runs, gate)
    if "sweeps" in numbers:
        beyond.claim_sweep(record, numbers["sweeps"], gate)
    elif having(runs, TOGETHER, SEPARATELY, SPARED):
        beyond.claim_spared(record, runs, gate)
    if "resnet56" in numbers:
        deep = numbers["resnet56"]
        _claim_network(record, deep, trained(deep, record.data), label=" (ResNet-56)")
    if having(numbers.get("resnet56-flat", []), TOGETHER, SEPARATELY):
        _note_flat(record, numbers["resnet56-flat"])
    if "deployment" in numbers:
        beyond.claim_deployment(
            record, pd.DataFrame.from_dict(numbers["deployment"], orient="index")
        )


def trained(runs: Sequence[dict], data: Mapping[str, Any]) -> statistics.Gate:
    """The gate of every claim about trained networks: whether the unpruned one is fully trained."""
    published = PUBLISHED.get(_depth(runs)) if "CIFAR10" in data else None
    if published is None:
        return statistics.Gate(
            "the data set must be one on which this network's accuracy is published", False
        )
    found = statistics.mean([run["accuracy"][UNPRUNED][-1] for run in runs])
    condition = (
        "the unpruned network must be within two points of its published accuracy, "
        f"{published:.2%}; it has {found:.1%}"
    )
    return statistics.Gate(condition, found >= published - 0.02)


def lead(differences: Sequence[float], first: str, second: str) -> str:
    """In words: who is ahead by how many points, with the 95 % interval over the seeds."""
    mean = statistics.mean(differences)
    words = f"{first if mean > 0 else second} is ahead by {100 * abs(mean):.1f} points"
    if len(differences) == 1:
        return f"{words} (one run)"
    low, high = sorted((1 if mean > 0 else -1) * end for end in statistics.interval(differences))
    return f"{words} (95 % interval {100 * low:.1f} to {100 * high:.1f})"


def sweep_in_words(sweeps: Sequence[list[dict]]) -> str:
    """When together stops being the better choice, from the mean over the runs."""
    sentences = []
    for value, where in (("early", "At the early exits"), ("last", "At the last exit")):
        table = sweep_table(sweeps, value)
        plain, spared = table["as all"], table.drop(columns="as all").iloc[:, 0]
        sentences.append(
            f"{where}, together leads at {int((plain > 0).sum())} of {len(plain)} rates when "
            f"exits are pruned like the backbone (by {100 * plain.mean():+.1f} points on "
            f"average), and at {int((spared > 0).sum())} of {spared.count()} when separate pruning "
            f"lets its exits keep {1 - float(spared.name):.0%} of their weights "
            f"({100 * spared.mean():+.1f} points)."
        )
    return " ".join(sentences)


def _runs(numbers: Mapping[str, Any]) -> list[dict]:
    """The runs; of a record that keeps tables only, what they say of its one run."""
    if "runs" in numbers:
        return numbers["runs"]
    return [{"accuracy": numbers["accuracy per exit"], "pools": numbers["pools"]}]


def _depth(runs: Sequence[dict]) -> int:
    return runs[0].get("depth", 20)  # runs that do not say it are of a ResNet-20


def _claim_network(
    record: records.Record, runs: Sequence[dict], gate: statistics.Gate, label: str = ""
) -> None:
    """What the runs of one network say; ``label`` tells its claims from those of another."""
    setting = "CIFAR10" in record.data and _depth(runs) == 56
    about = {"gate": gate, "at_thesis_setting": setting}
    if having(runs, TOGETHER, SEPARATELY, key="sparsity"):
        _claim_sparsity(record, runs, label, about)
    if having(runs, TOGETHER, SEPARATELY):
        _claim_accuracy(record, runs, label, about)
    _claim_price(record, runs, label, about)
    if having(runs, CONTROL, SEPARATELY):
        beyond.claim_loss(record, runs, gate, label)


def _claim_sparsity(record: records.Record, runs: Sequence[dict], label: str, about: dict) -> None:
    runs = having(runs, TOGETHER, SEPARATELY, key="sparsity")
    tables = [layer_table([run]) for run in runs]
    early = [float(early_exits(table).difference.mean()) for table in tables]
    thesis = THESIS_LINEAR[:-1]
    record.claim(
        f"separate pruning leaves the linear exits sparser{label}; "
        "ours: mean difference of the early exits' sparsity, together - separately",
        thesis=f"{statistics.mean(thesis):.2f} ({min(thesis):.2f} to {max(thesis):.2f}, figure)",
        values=early,
        differences=[-value for value in early],
        margin=SPARSER,
        thesis_value=statistics.mean(thesis),
        where="Where the zeros are",
        **about,
    )
    convolutions = [table[table.kind == "convolution"].difference.abs() for table in tables]
    shares = [float((values <= 0.04).mean()) for values in convolutions]
    record.claim(
        f"convolutions end equally sparse{label}: mostly within .04; "
        "ours: share of the convolutions within .04",
        thesis="mostly within ±.04 (figure)",
        values=shares,
        differences=[share - 0.5 for share in shares],
        where="Where the zeros are",
        **about,
    )
    pools = [[run["pools"][name]["all"] for name in (TOGETHER, SEPARATELY)] for run in runs]
    record.check(
        f"both procedures end with equally many zeros{label}; "
        "ours: difference in sparsity of all weights",
        values=[first - second for first, second in pools],
        holds=all(abs(first - second) < 1e-3 for first, second in pools),
        where="Where the zeros are",
    )


def _claim_accuracy(record: records.Record, runs: Sequence[dict], label: str, about: dict) -> None:
    gain, thesis = gains(runs), gains([{"accuracy": THESIS}])
    for key, sign, statement, measure in [
        (
            "early",
            1,
            "together is better at the intermediate exits",
            "mean accuracy difference of the early exits",
        ),
        (
            "all",
            1,
            "treating all weights the same is best overall",
            "mean accuracy difference of all exits",
        ),
        (
            "last",
            -1,
            "at the final exit separate pruning is ahead",
            "accuracy difference, separately - together",
        ),
    ]:
        number = sign * thesis[key][0]
        record.claim(
            f"{statement}{label}; ours: {measure}",
            thesis=f"{number:+.3f} (figure)",
            values=[sign * value for value in gain[key]],
            margin=POINT,
            thesis_value=number,
            where="Accuracy",
            **about,
        )


def _claim_price(record: records.Record, runs: Sequence[dict], label: str, about: dict) -> None:
    """What the pruned networks are worth beside the unpruned one."""
    thesis = [{"accuracy": THESIS}]
    if having(runs, TOGETHER, UNPRUNED):
        number = gains(thesis, of=TOGETHER, over=UNPRUNED)["first"][0]
        record.claim(
            f"pruned together, the first two exits are better than before{label}; "
            "ours: mean accuracy difference, together - unpruned",
            thesis=f"{number:+.3f} (figure)",
            values=gains(runs, of=TOGETHER, over=UNPRUNED)["first"],
            margin=POINT,
            thesis_value=number,
            where="Accuracy",
            **about,
        )
    for name in (TOGETHER, SEPARATELY):
        if having(runs, name, UNPRUNED):
            record.number(
                f"what pruning costs the last exit, {name}{label}; ours: accuracy, unpruned - "
                "pruned",
                thesis=f"{gains(thesis, of=UNPRUNED, over=name)['last'][0]:+.3f} (figure)",
                values=gains(runs, of=UNPRUNED, over=name)["last"],
                where="Accuracy",
            )


def _note_flat(record: records.Record, runs: Sequence[dict]) -> None:
    """What becomes of exits that see whole feature maps instead of averages."""
    about = "exits on whole feature maps (ResNet-56)"
    tables = [layer_table([run]) for run in having(runs, TOGETHER, SEPARATELY)]
    record.number(
        f"{about}: where zeros are; ours: mean difference of the early exits' sparsity, "
        "together - separately",
        thesis=f"{statistics.mean(THESIS_LINEAR[:-1]):.2f} (figure)",
        values=[float(early_exits(table).difference.mean()) for table in tables],
        where="Where the zeros are",
    )
    gain, thesis = gains(runs), gains([{"accuracy": THESIS}])
    for key, which in (("early", "early exits (mean)"), ("last", "last exit")):
        record.number(
            f"{about}: {which}; ours: accuracy difference, together - separately",
            thesis=f"{thesis[key][0]:+.3f} (figure)",
            values=gain[key],
            where="Accuracy",
        )
