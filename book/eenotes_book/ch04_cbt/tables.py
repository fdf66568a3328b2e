"""Tables of chapter 4: rules at every exit, margins and thresholds, and which classes pay."""

import pandas as pd

from eenotes_book.ch04_cbt.bench import Bench
from eenotes_book.ch04_cbt.experiment import NAMED, Score


def anytime_table(scores: dict[str, Score]) -> pd.DataFrame:
    """One row per rule: mean IoU (points) at the relative cost, for every exit."""
    rows = {
        name: {
            f"exit {j + 1}": f"{100 * miou:.2f} @ {cost:.3f}"
            for j, (miou, cost) in enumerate(zip(score.miou, score.cost, strict=True))
        }
        for name, score in scores.items()
    }
    return pd.DataFrame(rows).T


def margin_table(bench: Bench) -> pd.DataFrame:
    """Margins and thresholds for [.9, .998], one row per class.

    ``share`` is that of the training pixels; ``confused`` classes are ``taken for`` another one.
    """
    found, classes = bench.statistics, bench.data.classes
    alpha, beta = NAMED
    own = found.thresholds(alpha=alpha, beta=beta, margin="own")
    return pd.DataFrame(
        {
            "class": classes,
            "share": (found.counts / found.counts.sum()).tolist(),
            "margin": found.margins().tolist(),
            "own margin": found.margins(margin="own").tolist(),
            "threshold": found.thresholds(alpha=alpha, beta=beta).tolist(),
            "own threshold": own.tolist(),
            "taken for": [classes[k] for k in found.shared.argmax(1).tolist()],
            "confused": [k in found.confused for k in range(bench.num_classes)],
        }
    )


def pay_table(bench: Bench, scores: dict[str, dict], *, reference: str) -> pd.DataFrame:
    """The change of every class's IoU against a reference rule, in points, one column per rule.

    Args:
        bench: for the classes and their ``share`` of the pixels, by which the rows are sorted.
        scores: name of a rule → `Score.plain`.
        reference: one of these names.
    """
    base = scores[reference]["iou"]
    counts = bench.statistics.counts
    table = pd.DataFrame({"class": bench.data.classes, "share": (counts / counts.sum()).tolist()})
    for name, score in scores.items():
        if name != reference:
            table[name] = [_change(new, old) for new, old in zip(score["iou"], base, strict=True)]
    return table.sort_values("share", ascending=False, ignore_index=True)


def payers(table: pd.DataFrame, rule: str) -> str:
    """A sentence: between which bounds a rule changes the IoU of the classes."""
    low, high = table[rule].min(), table[rule].max()
    worse = int((table[rule] < 0).sum())
    return (
        f"{rule}: the IoU of a class changes by {low:+.1f} to {high:+.1f} points; "
        f"it falls for {worse} of {len(table)} classes"
    )


def _change(new: float | None, old: float | None) -> float:
    return float("nan") if None in (new, old) else 100 * (new - old)
