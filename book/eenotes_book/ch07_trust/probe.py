"""The probe of chapter 7: its experiments in miniature, on few of the recorded images."""

from dataclasses import replace

import numpy as np
import torch

from eenotes_book import at_budgets
from eenotes_book.ch07_trust import experiment, numbers, promises, rule_bench, scores, stopping
from eenotes_book.ch07_trust.settings import Settings
from eenotes_book.data import recorded
from eenotes_book.data.recorded import Recorded
from eenotes_book.probes import default_dtype

IMAGES = 1200
CHOOSERS = ("naive", "in expectation", "Learn then Test", "Hoeffding-Bentkus", "binomial")
S = Settings(
    runs=["resnet20/whitened"],
    draws=40,
    samples=[600],
    delta=0.2,
    disagreement=0.05,
    lost_accuracy=0.04,
    error=0.03,
    vectors=0,
    classes=400,
    train=0,
    epochs=0,
)


def probe() -> dict[str, object]:
    """The numbers of the experiments, by name."""
    with default_dtype(torch.float32):
        found = {}
        for name in ("whitened", "e2cm"):
            run = _few(name)
            found |= {f"{name}: {key}": value for key, value in _of(run).items()}
        return found | _promised(_few("whitened")) | _two_classes()


def _few(method: str) -> Recorded:
    run = recorded.load("resnet20", method)
    return replace(run, logits=run.logits[:, :IMAGES], labels=run.labels[:IMAGES])


def _of(run: Recorded) -> dict[str, object]:
    rules = experiment.fitted(run)
    fronts, exits = experiment.fronts(run, rules), experiment.per_exit(run, rules)
    found = {f"{column} by exit": exits[column].fillna(0).tolist() for column in exits}
    found |= {f"front of {name}": front.right.mean(1) for name, front in fronts.items()}
    found["lead"] = at_budgets.lead(fronts["calibrated"], fronts["confidence"])
    for way in stopping.WAYS:
        table = stopping.losses(run, way).groupby("price")[["loss", "cost"]].mean()
        found[f"{way}: loss and cost by price"] = table.to_numpy().ravel()
    return found


def _promised(run: Recorded) -> dict[str, object]:
    seen = promises.Seen.of(run)
    sets = promises.draws(S.draws, images=IMAGES, samples=S.samples[0], seed=1)
    given = {"risk": "disagreement", "level": S.disagreement, "delta": S.delta}
    table = promises.trial(seen, CHOOSERS, sets, **given)
    means = table.groupby("chooser", sort=False)[["risk", "cost", "broken", "above"]].mean()
    found = {f"{name}: promise": row.tolist() for name, row in means.iterrows()}
    for row in numbers.promises(run, S):
        groups = [[group["risk"], group["above"]] for group in row["groups"]]
        found[f"{row['risk']} by {row['method']}"] = np.mean(groups, axis=0)
    weights = np.where(run.labels == 3, 3.0, 1.0)
    walk = promises.Walk(seen, "error")
    moved = promises.elsewhere(table, walk, weights, level=S.disagreement)
    found["other shares"] = moved.mean().tolist()
    classes = numbers.classes(run, S)
    found["classes"] = [*classes.risk, *classes.early]
    row = rule_bench._promised(*run.halves(), scores.calibrated_rule)
    return found | {"promised by the bench": list(row)}


def _two_classes() -> dict[str, object]:
    model = stopping.TwoClasses(signal=0.5, looks=6)
    logits, labels = model.draw(S.classes, seed=2)
    return {
        "two classes: boundaries": model.boundaries(4.0),
        "two classes: fixed": model.fixed().error,
        "two classes: drawn": [logits.square().mean().item(), labels.double().mean().item()],
    }
