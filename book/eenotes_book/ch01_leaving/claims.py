"""Chapter 1's experiment: a network with early exits, what each image meets in it, and what leaving
saves on the clock.
"""

import pandas as pd
from torch import Tensor

from eenotes.costs import Costs
from eenotes.inference import simulate
from eenotes.rules import Rule
from eenotes.thresholds import evaluate
from eenotes_book import records
from eenotes_book.ch01_leaving.experiment import is_right, oracle_accuracy, overthought, per_exit
from eenotes_book.timing import TARGETS


def judge(
    record: records.Record,
    logits: Tensor,
    labels: Tensor,
    costs: Costs,
    *,
    chosen: Rule,
    times: pd.DataFrame,
) -> records.Record:
    """Put the chapter's claims, judged on the test split and the clock, into the record.

    Args:
        record: to be filled.
        logits: ``(J, N, K)``, of the test split.
        labels: ``(N,)``.
        costs: of the network.
        chosen: the cheapest rule that is as accurate as the last exit on the validation split.
        times: from `relative_times`.
    """
    last = is_right(logits, labels)[-1].double()
    found, outcome = evaluate(logits, labels, chosen, costs), simulate(logits, chosen)
    early = outcome.exit_index < len(logits) - 1
    right = (outcome.prediction == labels).double()
    loss = (last.mean() - right.mean()).item()
    record.old_claim(
        "leaving early saves computation at equal accuracy: relative cost, threshold chosen on validation, within one point on test",
        thesis="not stated",
        ours=found["relative_cost"],
        holds=found["relative_cost"] < 1 and loss <= 0.01,
        where="What a threshold trades",
    )
    lost = (last[early].mean() - right[early].mean()).item() if early.any() else 0.0
    record.old_claim(
        "easy inputs leave early without loss: accuracy that the last exit would have gained on those who left, at most one point",
        thesis="not stated",
        ours=lost,
        holds=bool(early.any()) and lost <= 0.01,
        where="What a threshold trades",
    )
    gap = (
        (last[early].mean() - last[~early].mean()).item()
        if early.any() and not early.all()
        else 0.0
    )
    record.old_claim(
        "those who leave early are the easier ones: last exit's accuracy on them minus on those who stay",
        thesis="not stated",
        ours=gap,
        holds=gap > 0,
        where="What a threshold trades",
    )
    gain = oracle_accuracy(logits, labels) - last.mean().item()
    record.old_claim(
        "networks overthink: accuracy that knowing the right exit would add to the last one, at least one point",
        thesis="not stated",
        ours=gain,
        holds=gain >= 0.01,
        where="Overthinking",
    )
    middle = times[times.batch == times.batch.max()].iloc[len(TARGETS) // 2]
    record.old_claim(
        f"saved MACs are saved time: time relative to the plain backbone at relative cost {middle.MACs:.2f}, batch {middle.batch}",
        thesis="not stated",
        ours=float(middle.compacted),
        holds=bool(middle.compacted < 1),
        where="MACs and the clock",
    )
    record.numbers |= {
        "accuracy per exit": per_exit(logits, labels, costs).round(4).to_dict("list"),
        "accuracy": round(found["accuracy"], 4),
        "overthought images": int(overthought(logits, labels).sum()),
        "relative times": times.round(3).to_dict("list"),
    }
    return record
