"""Chapter 6's experiment: five initialisations of an early exit, before and during training."""

from collections.abc import Sequence

import pandas as pd

from eenotes.language import evaluation, exits
from eenotes_book import fine_tuning, language_models
from eenotes_book.ch06_language import before_training
from eenotes_book.ch06_language.before_training import MeasuredExit
from eenotes_book.ch06_language.settings import Settings
from eenotes_book.language_models import LanguageModel


def histories(
    lm: LanguageModel, measured: MeasuredExit, *, freeze: bool
) -> dict[str, list[dict[str, float]]]:
    """Train the exit from every initialisation, and evaluate it on test after each epoch.

    Frozen, only the exit is trained, and a sixth initialisation is the class means scaled to log
    posteriors: what the cross-entropy expects.  Otherwise each trains a copy of the whole model.
    """
    heads, s = dict(measured.five), lm.settings
    if freeze:
        heads["class mean, scaled"] = measured.chosen(scale=True)
    rows = lm.text.train[: s.tune]
    features = evaluation.collect_own(measured.exit, rows.split(32)) if freeze else None
    found = {}
    for name, head in heads.items():
        start = lm if freeze else lm.copy()
        found[name] = fine_tuning.train(
            exits.load(start.exited(), head),
            rows,
            freeze=freeze,
            epochs=s.epochs,
            batch_size=s.batch_size,
            learning_rate=s.head_rate if freeze else s.tune_rate,
            held_out=lm.text.test,
            features=features,
            seed=lm.seed,
        )
    return found


def as_table(
    found: dict[str, list[dict[str, float]]], column: str = "exit_accuracy"
) -> pd.DataFrame:
    """Histories as a table: one row per epoch, one column per initialisation."""
    return pd.DataFrame(
        {name: pd.DataFrame(rows).set_index("epoch")[column] for name, rows in found.items()}
    )


def averaged(runs: Sequence[dict], setting: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and standard deviation over runs of `as_table`, for a setting of the training."""
    tables = pd.concat([as_table(run["curves"][setting]) for run in runs]).groupby(level=0)
    return tables.mean(), tables.std()


def comparison(s: Settings, *, seed: int = 0) -> dict:
    """One run of everything that a claim rests on, as plain numbers."""
    lm = language_models.trained(s, seed=seed)
    measured = before_training.measured_exit(lm)
    curves = {
        name: histories(lm, measured, freeze=freeze)
        for name, freeze in (("frozen", True), ("all weights", False))
    }
    zero = before_training.epoch_zero(measured)
    causes = before_training.suspected_causes(s, lm.text, seed=seed)
    return as_run(lm, measured, training=curves, zero=zero, causes=causes)


def drafting_heads(measured: MeasuredExit) -> dict[str, exits.Linear]:
    """The heads that draft: the initialisations that are no mixtures, and the whitened one."""
    heads = {name: head for name, head in measured.five.items() if "+" not in name}
    return heads | {"whitened class mean": measured.whitened()}


def as_run(
    lm: LanguageModel,
    measured: MeasuredExit,
    *,
    training: dict,
    zero: dict[str, float],
    causes: Sequence[dict],
) -> dict:
    """What a chapter has measured, as plain numbers."""
    curve = before_training.n0_curve(measured).to_dict("records")
    factor = measured.n0[0] / measured.found.plug_in_n0()
    others = {"random": measured.random, "copy": measured.copied}
    return {
        "seed": lm.seed,
        "counts": lm.text.counts,
        "digest": lm.text.digest,
        "final": lm.final,
        "epoch 0": zero,
        "alphas": {name: measured.mixture(other)[0] for name, other in others.items()},
        "n0": {"factor": factor, "curve": curve},
        "curves": training,
        "why": list(causes),
    }


def plain(table: pd.DataFrame) -> dict[str, dict]:
    """A table as JSON knows it: a missing number is None."""
    rows = table.astype(object).where(table.notna(), None).to_dict("index")
    return {
        str(name): {key: getattr(value, "item", lambda v=value: v)() for key, value in row.items()}
        for name, row in rows.items()
    }
