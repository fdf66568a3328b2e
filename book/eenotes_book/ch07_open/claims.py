"""Chapter 7: what the thesis leaves for later, and a first experiment on each of its six questions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from eenotes_book import records, statistics
from eenotes_book.ch07_open.compression import ORDERS
from eenotes_book.ch07_open.stale import FRESH

FUTURE = "future work"  # there are no numbers of the thesis to stand beside


@dataclass
class Found:
    """The numbers of one run of the chapter."""

    novelty: list[dict]
    compact: pd.DataFrame  # with ``seed``
    order: pd.DataFrame
    streets: pd.DataFrame  # of `modality_table`
    whole: float  # mean IoU of the whole image network
    clusters: pd.DataFrame
    reading: pd.DataFrame
    tuning: pd.DataFrame
    reward: pd.DataFrame

    @property
    def plain(self) -> dict:
        """The same as plain numbers, for a record."""
        tables = {name: value.astype(object).where(value.notna(), None).to_dict("records") for name, value in vars(self).items()
                  if isinstance(value, pd.DataFrame)}  # fmt: skip
        return {"novelty": self.novelty, "whole": self.whole, **tables}


def novelty_table(runs: Sequence[dict]) -> pd.DataFrame:
    """One row per split, measure and exit: ``split``, ``measure``, ``exit`` (from 1), ``auroc``."""
    return pd.DataFrame(
        [
            {"split": run["seed"], "measure": name, "exit": j, "auroc": value}
            for run in runs
            for name, values in run["auroc"].items()
            for j, value in enumerate(values, 1)
        ]
    )


def novelty_leads(runs: Sequence[dict]) -> pd.DataFrame:
    """AUROC of the distance minus that of the softmax: one row per split, one column per exit (from
    1).
    """
    table = novelty_table(runs).pivot(index=["split", "exit"], columns="measure", values="auroc")
    return (table["distance"] - table["softmax"]).unstack("exit")


def gate_costs(runs: Sequence[dict]) -> pd.DataFrame:
    """Mean relative cost of images of seen and of unseen classes: without a gate, and with one on
    each of two scores.
    """
    first = pd.DataFrame([run["gate"]["distance"] for run in runs]).mean()
    rows = {"no gate": [first.known_open, first.unknown_open]}
    for name in runs[0]["gate"]:
        mean = pd.DataFrame([run["gate"][name] for run in runs]).mean()
        rows[f"gate: {name}"] = [mean.known, mean.unknown]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["seen classes", "unseen classes"])


def order_groups(table: pd.DataFrame, bits: int) -> pd.DataFrame:
    """Per seed: ``before``, ``after``, the mean accuracy of the orders that prune before and after rounding; ``PQD`` and ``PQC``; ``range``
    between the best and the worst of the six orders."""
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


def class_leads(streets: pd.DataFrame, plan: str = "depth first") -> pd.Series:
    """Mean IoU with thresholds per step and class minus that with thresholds per step, by budget."""
    table = streets[streets.plan == plan].pivot(index="budget", columns="thresholds", values="miou")
    return table["per step and class"] - table["per step"]


def cheapest_as_good(
    streets: pd.DataFrame, whole: float, plan: str = "depth first"
) -> float | None:
    """The lowest cost at which a plan has at least the mean IoU of the whole image network."""
    good = streets[(streets.plan == plan) & (streets.miou >= whole)]
    return float(good.cost.min()) if len(good) else None


def kept_leads(table: pd.DataFrame, column: str, how: str = "drop agreeing") -> list[float]:
    """What dropping in one way has over dropping at random, seed by seed, in units of the column."""
    wide = table.pivot(index="seed", columns="kept", values=column)
    return (wide[how] - wide["random"]).tolist()


def last_look(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The last row of each seed, one column per way of setting the exit."""
    return table[table[x] == table[x].max()].pivot(index="seed", columns="head", values=y)


def novelty_sentence(runs: Sequence[dict]) -> str:
    leads, gates = (
        novelty_leads(runs),
        pd.DataFrame([run["gate"]["distance"] for run in runs]).mean(),
    )
    told = ", ".join(f"{plus_minus(leads[j])} at exit {j}" for j in leads)
    return (
        f"The distance is ahead of the trained exit's softmax by {told} (points of AUROC, mean and deviation over "
        f"{len(runs)} splits). Without "
        f"a gate an unseen class costs {gates.unknown_open / gates.known_open:.1f} times as much as a seen one; a gate "
        "on the distance rejects "
        f"{gates.rejected:.0%} of the unseen images, refuses {gates.refused:.0%} of the seen, and takes the accuracy on seen classes "
        f"from {gates.accuracy_open:.3f} to {gates.accuracy:.3f}."
    )


def compact_sentence(table: pd.DataFrame) -> str:
    mean = table.groupby(["grid", "bits"]).mean(numeric_only=True)
    full, small, one = mean.loc[(table.grid.max(), 32)], mean.loc[(2, 4)], mean.loc[(1, 4)]
    return (
        f"4 bits on 2 × 2 averages take {small.bytes:,.0f} instead of {full.bytes:,.0f} bytes "
        f"({full.bytes / small.bytes:.0f} times less) and "
        f"{full.macs / small.macs:.1f} times fewer MACs, and change the accuracy by "
        f"{100 * (small.accuracy - full.accuracy):+.1f} points; a single "
        f"average per map changes it by {100 * (one.accuracy - full.accuracy):+.1f}."
    )


def order_sentence(table: pd.DataFrame) -> str:
    parts = []
    for bits in sorted(set(table[table.order != "dense"].bits), reverse=True):
        g = order_groups(table, bits)
        parts.append(
            f"with {bits} bits the six orders differ by {100 * g.range.iloc[0]:.1f} points, pruning before rounding is ahead by "
            f"{plus_minus(g.before - g.after)} and distillation worth {plus_minus(g.PQD - g.PQC)}"
        )
    size = table.groupby(["bits", "order"]).bytes.mean()
    first = size[(32, "dense")]
    told = ", ".join(
        f"{bits} bits: {first / size[(bits, 'PQD')]:.0f} times"
        for bits in sorted(set(table.bits) - {32}, reverse=True)
    )
    return (
        f"{'; '.join(parts)[0].upper()}{'; '.join(parts)[1:]}. Compressed weights shrink ({told})."
    )


def street_sentence(streets: pd.DataFrame, whole: float, enough: pd.Series) -> str:
    cost, lead = cheapest_as_good(streets, whole), class_leads(streets)
    reached = "does not reach it" if cost is None else f"reaches it at {cost:.2f} of its cost"
    by_source = {
        source: [name for name in enough.index if enough[name] == source]
        for source in dict.fromkeys(enough)
    }
    told = "; ".join(f"{source}: {', '.join(names)}" for source, names in by_source.items())
    return (
        f"Sufficient for each class is {told}. The whole image network has a mean IoU of {whole:.3f}; asking the depth "
        f"map first {reached}. "
        f"Thresholds per class change the mean IoU by {100 * lead.mean():+.1f} points on average over the budgets."
    )


def dropping_sentence(clusters: pd.DataFrame, reading: pd.DataFrame) -> str:
    points, rows = kept_leads(clusters, "accuracy"), kept_leads(reading, "perplexity")
    other = kept_leads(reading, "perplexity", "drop disagreeing")
    return (
        "Against dropping at random, dropping what the exits agree on changes the clustering accuracy by "
        f"{plus_minus(points)} points, and the "
        f"language model's perplexity by {plus_minus(rows, unit=1)} (lower is better); dropping what they disagree on "
        "changes the latter by "
        f"{plus_minus(other, unit=1)}."
    )


def stale_sentence(tuning: pd.DataFrame, reward: pd.DataFrame) -> str:
    end, rounds = last_look(tuning, "samples", "accuracy"), last_look(reward, "round", "agreement")
    first, last = (reward[reward["round"] == r].reward.mean() for r in (0, reward["round"].max()))
    moved = [
        table[table[x] == table[x].max()].moved.mean()
        for table, x in ((tuning, "samples"), (reward, "round"))
    ]
    return (
        f"Left: at the end the means of the new text from before are {plus_minus(end['new text, before'] - end[FRESH])} points from "
        "estimating anew, those "
        f"carried along {plus_minus(end['carried along'] - end[FRESH])}, the copied head "
        f"{plus_minus(end['copied head'] - end[FRESH])}; the means "
        f"have moved by {moved[0]:.2f} of the spread within a class. Right: the reward rises from {first:.2f} to "
        f"{last:.2f}, the means move by "
        f"{moved[1]:.2f}, and those from before are {plus_minus(rounds['before'] - rounds[FRESH])} points of agreement "
        "from estimating anew."
    )


def plus_minus(values: Sequence[float], *, unit: float = 100, digits: int = 1) -> str:
    """``"+1.2 ± 0.3"``: mean and standard deviation, times ``unit``; one number without a spread."""
    values = pd.Series(list(values)) * unit
    return f"{values.mean():+.{digits}f}" + (
        f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    )


def decide(differences: Sequence[float], *, least: float = 0.005) -> bool | None:
    """Whether a difference is positive; ``None`` within two standard errors of its mean, or within
    ``least``.

    Two or three seeds can agree by chance, hence the second condition; a single run is as good as
    its ``least``.

    Args:
        differences: one per seed.
        least: by default half a point of accuracy.

    Raises:
        ValueError: no difference.
    """
    if not len(differences):
        raise ValueError("no run, no difference: nothing can be decided")
    mean, spread = statistics.mean(differences), statistics.spread(differences) or 0.0
    errors = 2 * spread / math.sqrt(len(differences))
    return None if abs(mean) <= max(least, errors) else mean > 0


def everywhere(verdicts: Sequence[bool | None]) -> bool | None:
    """One "no" refutes what is claimed of every exit; without it, one undecided exit leaves the
    claim undecided.
    """
    return False if False in verdicts else None if None in verdicts else True


def claim_all(record: records.Record, f: Found) -> None:
    """Our hypotheses, one by one, beside what this run found.  The thesis has no numbers here.

    Whether a difference is positive is said by `decide`.
    """
    _claim_images(record, f)
    _claim_streets(record, f.streets, f.whole)
    _claim_dropping(record, f)
    _claim_stale(record, f)


def _claim(
    record: records.Record, number: str, statement: str, values: Sequence[float], holds: bool | None
) -> None:
    values = pd.Series(list(values), dtype=float)
    spread = float(values.std()) if len(values) > 1 else None
    ours = float(values.mean())
    record.old_claim(
        f"H{number}: {statement}",
        thesis=FUTURE,
        ours=ours,
        spread=spread,
        holds=holds,
        where=WHERE[number[0]],
    )


def _claim_images(record: records.Record, f: Found) -> None:
    """Open world, compact means, order."""
    leads = novelty_leads(f.novelty)
    worst = leads[leads.mean().idxmin()]
    told = f"the distance tells unseen classes better than the softmax at every exit; ours: smallest lead in AUROC, exit {worst.name}"
    _claim(record, "1a", told, worst, everywhere([decide(leads[j].tolist()) for j in leads]))
    extra = [
        run["gate"]["distance"]["unknown_open"] - run["gate"]["distance"]["known_open"]
        for run in f.novelty
    ]
    _claim(
        record,
        "1b",
        "an unseen class costs more than a seen one; ours: difference in relative cost",
        extra,
        decide(extra),
    )
    loss = compact_loss(f.compact, grid=2, bits=4)
    _claim(
        record,
        "2",
        "4 bits on 2 × 2 averages lose at most a point at the same budget; ours: loss",
        loss,
        bool(loss.mean() <= 0.01),
    )
    rounded = f.order[f.order.order != "dense"]
    most, least = int(rounded.bits.max()), int(rounded.bits.min())
    high, low = order_groups(f.order, most), order_groups(f.order, least)
    width = high.range.iloc[:1]
    told = f"with {most} bits the order matters by less than a point; ours: best minus worst of six"
    _claim(record, "3a", told, width, bool(width.iloc[0] < 0.01))
    gain = (low.before - low.after).tolist()
    _claim(
        record,
        "3b",
        f"with {least} bits pruning has to come before rounding; ours: what it gains",
        gain,
        decide(gain),
    )
    gain = (high.PQD - high.PQC).tolist()
    _claim(
        record,
        "3c",
        "distilling at the end beats training on as long; ours: what it gains",
        gain,
        decide(gain),
    )


def _claim_streets(record: records.Record, streets: pd.DataFrame, whole: float) -> None:
    gain = [float(class_leads(streets).mean())]
    told = "thresholds per class beat one per step, depth asked first; ours: mean lead in mean IoU at equal budgets"
    _claim(record, "4a", told, gain, decide(gain, least=0.01))
    cost = cheapest_as_good(streets, whole)
    told = "H4b: asking the depth map first reaches the whole image network's mean IoU at half its cost; ours: cost"
    ours = "not reached" if cost is None else cost
    record.old_claim(
        told, thesis=FUTURE, ours=ours, holds=cost is not None and cost <= 0.5, where=WHERE["4"]
    )


def _claim_dropping(record: records.Record, f: Found) -> None:
    gain = kept_leads(f.clusters, "accuracy")
    told = "dropping the points on which the exits agree beats dropping any; ours: lead in clustering accuracy"
    _claim(record, "5a", told, gain, decide(gain))
    gain = [-value for value in kept_leads(f.reading, "perplexity")]
    told = "dropping the rows on which the exits agree beats dropping any; ours: perplexity saved"
    _claim(record, "5b", told, gain, decide(gain, least=1.0))


def _claim_stale(record: records.Record, f: Found) -> None:
    end = last_look(f.tuning, "samples", "accuracy")
    gap = end[FRESH] - end["new text, before"]
    told = "class means go stale: after fine-tuning those from before are more than 2 points behind; ours: gap"
    _claim(record, "6a", told, gap, bool(gap.mean() > 0.02))
    gap = end[FRESH] - end["carried along"]
    _claim(
        record,
        "6b",
        "carried along, they stay within a point of estimating anew; ours: gap",
        gap,
        bool(gap.mean() <= 0.01),
    )
    end = last_look(f.reward, "round", "agreement")
    gap = end[FRESH] - end["before"]
    told = "training on a reward makes them stale, too: more than 2 points of agreement; ours: gap"
    _claim(record, "6c", told, gap, bool(gap.mean() > 0.02))


# the cells' labels
WHERE = {
    "1": "open-world",
    "2": "compact",
    "3": "order",
    "4": "modalities",
    "5": "dropping",
    "6": "stale",
}


def compact_loss(table: pd.DataFrame, *, grid: int, bits: int) -> pd.Series:
    """Accuracy at the budget that the finest grid in 32 bits has more, one number per seed."""

    def accuracy(g: int, b: int) -> pd.Series:
        return table[(table.grid == g) & (table.bits == b)].set_index("seed").accuracy

    return accuracy(table.grid.max(), 32) - accuracy(grid, bits)
