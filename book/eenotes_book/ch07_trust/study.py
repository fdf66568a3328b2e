"""Chapter 7's study: every recorded network, calibration, prices and promises."""

from functools import partial
from pathlib import Path
from typing import Any

from eenotes_book import at_budgets, cache, records, settings
from eenotes_book.ch07_trust import CHAPTER, REVISION, claims, experiment, numbers, stopping
from eenotes_book.ch07_trust.settings import StudySettings
from eenotes_book.data import recorded


def study() -> Path:
    """Everything that is claimed, for all recorded networks.

    Every network is kept as it finishes, so a study that was cut off goes on where it was.
    """
    s: StudySettings = settings.load(CHAPTER, "study")
    found = {
        name: cache.step(
            f"trust-{name.replace('/', '-')}",
            partial(_of_network, name, s),
            revision=REVISION,
            settings=s,
        )
        for name in s.runs
    }
    images = {"train": 50_000, "val": 0, "test": 10_000}
    data = {"CIFAR10 (recorded logits)": images}
    record = records.Record(CHAPTER, at="study", data=data, seeds=[0])
    record.numbers = {"networks": found, "shifts": numbers.shifts(s)}
    claims.claim_all(record, record.numbers)
    return record.save()


def _of_network(name: str, s: StudySettings) -> dict[str, Any]:
    run = recorded.load(*name.split("/"))
    rules = experiment.fitted(run)
    fronts = experiment.fronts(run, rules)
    base = fronts["confidence"]
    return {
        "calibration": numbers.rows_of(experiment.per_exit(run, rules)),
        "temperatures": numbers.temperatures(run),
        "fronts": {rule: front.table().to_dict("records") for rule, front in fronts.items()},
        "leads": {rule: at_budgets.lead(front, base) for rule, front in fronts.items()},
        "prices": {way: stopping.losses(run, way).to_dict("records") for way in stopping.WAYS},
        "promises": numbers.promises(run, s),
        "classes": numbers.classes(run, s).to_dict("records"),
    }
