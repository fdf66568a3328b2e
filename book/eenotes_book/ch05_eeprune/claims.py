"""Chapter 5's experiment: six ways to score training samples, judged by what a fresh network learns
from those they keep.

The harness is the same for everybody: a network from scratch, the same number of samples seen, the
same schedule, the same seeds; ``"no pruning"`` and ``"Random"`` always take part.  What a score has
cost is kept with it.
"""

import math
from collections.abc import Sequence

import pandas as pd

from eenotes_book import records
from eenotes_book.ch05_eeprune.experiment import EXTRAS, METHODS, NONE


def turning_verdict(rows: Sequence[dict]) -> str:
    """A sentence per data set: from which size on keeping the hard samples beats keeping the easy
    ones, and random.
    """
    table = pd.DataFrame(rows).pivot_table(
        index=["data", "size"], columns="keep", values="accuracy"
    )
    sentences = []
    for name, part in table.groupby(level=0):
        part = part.droplevel(0)
        beats = {
            other: part.index[part["hard"] > part[other]].tolist() for other in ("easy", "random")
        }
        words = {
            other: f"at {', '.join(f'{n:,}' for n in sizes)}" if sizes else "at none of the sizes"
            for other, sizes in beats.items()
        }
        sentences.append(
            f"{name}: the hard samples beat the easy ones {words['easy']}, and random ones {words['random']}."
        )
    return " ".join(sentences)


def curve_table(runs: Sequence[dict], ratio: float) -> pd.DataFrame:
    """Test accuracy on the way:

    ``method``, ``training`` and ``total`` (samples seen, scoring included), ``accuracy``,
    ``spread``.
    """
    rows = []
    for run in runs:
        for method, part in ({NONE: run["none"]} | run["runs"][f"{ratio:g}"]).items():
            cost = run["scoring"][method]["samples"] if method != NONE else 0
            rows += [
                {"method": method, "training": seen, "total": seen + cost, "accuracy": accuracy}
                for seen, accuracy in zip(part["seen"], part["accuracy"], strict=True)
            ]
    groups = pd.DataFrame(rows).groupby(["method", "training", "total"], sort=False)["accuracy"]
    return groups.agg(accuracy="mean", spread="std").reset_index()


def final_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Test accuracy at the end of the budget, mean ± standard deviation over the runs: rows =
    methods, columns = ratios.
    """
    columns = {}
    for ratio in runs[0]["runs"]:
        finals = {
            method: [final(run, method, ratio) for run in runs] for method in (NONE, *METHODS)
        }
        columns[f"{float(ratio):.0%} dropped"] = {
            method: _plus_minus(values) for method, values in finals.items()
        }
    return pd.DataFrame(columns)


def final(run: dict, method: str, ratio: str) -> float:
    """The accuracy at the end of the budget."""
    return (run["none"] if method == NONE else run["runs"][ratio][method])["accuracy"][-1]


def lead(runs: Sequence[dict], method: str, other: str, ratio: str) -> list[float]:
    """Accuracy of one method minus that of another, run by run."""
    return [final(run, method, ratio) - final(run, other, ratio) for run in runs]


def lead_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Accuracy at the end minus that of random with the same seed:

    ``method``, ``ratio``, ``lead``, ``spread``.
    """
    rows = []
    for ratio in runs[0]["runs"]:
        for method in (NONE, *METHODS):
            values = lead(runs, method, "Random", ratio)
            rows.append(
                {
                    "method": method,
                    "ratio": float(ratio),
                    "lead": mean(values),
                    "spread": spread(values),
                }
            )
    return pd.DataFrame(rows).astype({"spread": float})


def scoring_table(runs: Sequence[dict]) -> pd.DataFrame:
    """Per method, averaged over the runs: ``passes`` (samples seen while scoring, in units of the data set), ``seconds``, and ``joules``
    where a meter was readable in every run."""
    rows = {}
    for method in METHODS:
        found = [run["scoring"][method] for run in runs]
        passes = mean(
            [
                part["samples"] / run["counts"]["train"]
                for part, run in zip(found, runs, strict=True)
            ]
        )
        joules = [part["joules"] for part in found]
        rows[method] = {"passes": passes, "seconds": mean([part["seconds"] for part in found])}
        rows[method]["joules"] = math.nan if None in joules else mean(joules)
    return pd.DataFrame(rows).T.dropna(axis="columns")


def location_table(groups: dict[str, Sequence[dict]]) -> pd.DataFrame:
    """Where the early exit sits: accuracy for before, middle and after at each ratio, the thesis's
    numbers last.
    """
    names = {"before": "EEPrune-Before", "middle": "EEPrune", "after": "EEPrune-After"}
    columns = {}
    for data, runs in groups.items():
        for ratio in runs[0]["runs"]:
            cells = {
                place: _plus_minus([final(run, method, ratio) for run in runs])
                for place, method in names.items()
            }
            columns[data, f"{float(ratio):.0%}"] = cells
    thesis = {
        "10%": (".680", ".734", ".656"),
        "30%": (".677", ".723", ".670"),
        "60%": (".676", ".685", ".676"),
    }
    columns |= {
        ("thesis, CIFAR-100", ratio): dict(zip(names, values, strict=True))
        for ratio, values in thesis.items()
    }
    return pd.DataFrame(columns)


def extras_table(
    groups: dict[str, Sequence[dict]], more: dict[str, Sequence[dict]]
) -> pd.DataFrame:
    """The experiments beyond the thesis beside EEPrune and random at the same ratio: accuracy, kept
    samples, imbalance.
    """
    rows = []
    for name, runs in groups.items():
        ratio = f"{more[name][0]['ratio']:g}"
        for method in ("EEPrune", *EXTRAS, "Random"):
            source = more[name] if method in EXTRAS else runs
            parts = [
                (run["runs"] if method in EXTRAS else run["runs"][ratio])[method] for run in source
            ]
            skew = [
                (run["imbalance"] if method in EXTRAS else run["imbalance"][ratio])[method]
                for run in source
            ]
            accuracy = [part["accuracy"][-1] for part in parts]
            rows.append({"data": name, "method": method, "accuracy": _plus_minus(accuracy), "mean": mean(accuracy),
                         "kept": round(mean([part["kept"] for part in parts])), "imbalance": mean(skew)})  # fmt: skip
    return pd.DataFrame(rows)


def extras_verdict(table: pd.DataFrame) -> str:
    """From `extras_table`: what the quota does to balance and accuracy, and what is left of EEPrune
    without labels.
    """
    sentences = []
    for name, part in table.groupby("data", sort=False):
        part = part.set_index("method")
        gain = {
            method: 100 * (part["mean"][method] - part["mean"]["EEPrune"]) for method in part.index
        }
        blind = 100 * (part["mean"]["EEPrune, no labels"] - part["mean"]["Random"])
        sentences.append(
            f"{name}: the quota takes the imbalance from {part.imbalance['EEPrune']:.2f} to {part.imbalance['EEPrune, quota']:.2f} and "
            f"changes accuracy by {gain['EEPrune, quota']:+.1f} points; without labels EEPrune is {blind:+.1f} points from random."
        )
    return " ".join(sentences)


def halves_table(more: dict[str, Sequence[dict]]) -> pd.DataFrame:
    """Accuracy after training on dropped samples and on as many kept ones, per data set, with the
    spread over the runs.
    """
    rows = {}
    for name, runs in more.items():
        found = {
            side: [run["halves"][side]["accuracy"][-1] for run in runs]
            for side in ("dropped", "kept")
        }
        rows[name] = {side: mean(values) for side, values in found.items()}
        rows[name] |= {f"{side}_spread": spread(values) for side, values in found.items()}
    return pd.DataFrame(rows, dtype=float).T


def dropped_tables(
    groups: dict[str, Sequence[dict]], classes: dict[str, Sequence[str]]
) -> tuple[dict, dict]:
    """Discarded samples per class and method, averaged over the runs, and the imbalances, both by
    (data set, ratio).
    """
    panels, imbalances = {}, {}
    for name, runs in groups.items():
        for ratio in runs[0]["runs"]:
            key = name, f"{float(ratio):.0%}"
            panels[key] = sum(
                pd.DataFrame(run["dropped"][ratio], index=list(classes[name])) for run in runs
            ) / len(runs)
            imbalances[key] = pd.DataFrame([run["imbalance"][ratio] for run in runs]).mean()
    return panels, imbalances


def claim_all(
    record: records.Record, groups: dict[str, Sequence[dict]], more: dict[str, Sequence[dict]]
) -> None:
    """The thesis's claims beside ours, for runs by data set name."""
    for name, runs in groups.items():
        ratios = list(runs[0]["runs"])
        leads = {ratio: lead(runs, "EEPrune", "Random", ratio) for ratio in ratios}
        worst = min(ratios, key=lambda ratio: mean(leads[ratio]))
        _claim(record, f"{name}: EEPrune is at least as accurate as random pruning; ours: smallest lead, at {float(worst):.0%}",
               "73.6 against 71.2 at 20 %, CIFAR-100 (figure)", leads[worst], mean(leads[worst]) >= 0, "race")  # fmt: skip
        leads = {ratio: lead(runs, "EEPrune", NONE, ratio) for ratio in ratios}
        best = max(ratios, key=lambda ratio: mean(leads[ratio]))
        _claim(record, f"{name}: at equal training samples EEPrune beats no pruning; ours: best lead, at {float(best):.0%}",
               "73.6 against 72.3 at 20 %, CIFAR-100 (figure)", leads[best], mean(leads[best]) > 0, "race")  # fmt: skip
        gaps = [
            run["halves"]["dropped"]["accuracy"][-1] - run["halves"]["kept"]["accuracy"][-1]
            for run in more[name]
        ]
        _claim(record, f"{name}: training on what EEPrune drops is worse than training on as many of the rest; ours: difference",
               "50.56 against 70.86, CIFAR-100, 50 %", gaps, mean(gaps) < 0, "halves")  # fmt: skip
        others = ("EEPrune-Before", "EEPrune-After")
        edges = [
            mean(
                [
                    min(lead([run], "EEPrune", other, ratio)[0] for other in others)
                    for ratio in ratios
                ]
            )
            for run in runs
        ]
        _claim(record, f"{name}: the middle exit is the best one; ours: lead over the better of the others, mean over the ratios",
               "73.39 against 67.98 and 65.57 at 10 %, CIFAR-100", edges, mean(edges) > 0, "location")  # fmt: skip
        ratio = ratios[-1]
        table = pd.DataFrame([run["imbalance"][ratio] for run in runs])
        skewed = table.mean().idxmax()
        _claim(record, f"{name}: some methods unbalance the classes; ours: imbalance of {skewed} at {float(ratio):.0%}"
               f" (random: {table['Random'].mean():.3f})", "visible in the heat map", table[skewed].tolist(),
               bool(table[skewed].mean() > 2 * table["Random"].mean()), "classes")  # fmt: skip
        costs = scoring_table(runs).passes
        _claim(record, f"{name}: scoring by EEPrune sees at most a tenth of the samples that Forgetting does; ours: ratio",
               "≈ .05 of its energy (figure)", [float(costs["EEPrune"] / costs["Forgetting"])],
               bool(costs["EEPrune"] <= costs["Forgetting"] / 10), "scoring")  # fmt: skip


def _claim(
    record: records.Record,
    statement: str,
    thesis: str,
    values: Sequence[float],
    holds: bool,
    where: str,
) -> None:
    record.old_claim(
        statement,
        thesis=thesis,
        ours=mean(values),
        spread=spread(values),
        holds=bool(holds),
        where=where,
    )


def verdict(groups: dict[str, Sequence[dict]]) -> str:
    """A sentence per data set: who is first at each ratio, and how EEPrune stands to random."""
    sentences = []
    for name, runs in groups.items():
        parts = []
        for ratio in runs[0]["runs"]:
            means = {
                method: mean([final(run, method, ratio) for run in runs]) for method in METHODS
            }
            gap = mean(lead(runs, "EEPrune", "Random", ratio))
            first = max(means, key=means.get)
            parts.append(
                f"{float(ratio):.0%}: {first} first of the pruned, EEPrune {100 * gap:+.1f} points against random"
            )
        sentences.append(f"{name}, {'; '.join(parts)}.")
    return " ".join(sentences)


def mean(values: Sequence[float]) -> float:
    return float(pd.Series(list(values), dtype=float).mean())


def spread(values: Sequence[float]) -> float | None:
    value = pd.Series(list(values), dtype=float).std()
    return None if pd.isna(value) else float(value)


def _plus_minus(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {spread(values):.3f}" if len(values) > 1 else "")
