"""Chapter 2's study: both halves, with many seeds."""

from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch02_e2cm import CHAPTER, REVISION, claims, experiment, unlabelled
from eenotes_book.ch02_e2cm.settings import Backbone, Clusters, StudySettings


def study() -> Path:
    """Both halves with many seeds.

    Every run is kept as it finishes, so a study that was cut off goes on where it was.
    """
    s: StudySettings = settings.load(CHAPTER, "study")
    compared, clustered = {}, {}
    for name, recipe in s.backbones.items():
        compared[name] = [
            cache.step(
                f"e2cm-{name}-{seed}",
                partial(_compare, name, recipe, s, seed),
                revision=REVISION,
                seed=seed,
                recipe=recipe,
                epochs=s.unlimited_epochs,
                draws=s.draws,
            )
            for seed in range(s.seeds)
        ]
    for name, recipe in s.clustering.items():
        clustered[name] = [
            cache.step(
                f"cluster-{name}-{seed}",
                partial(_cluster, name, recipe, s, seed),
                revision=REVISION,
                seed=seed,
                recipe=recipe,
                draws=s.draws,
            )
            for seed in range(s.cluster_seeds)
        ]
    data = {name: runs[0]["counts"] for name, runs in compared.items()}
    data |= {f"{name} (clustering)": runs[0]["counts"] for name, runs in clustered.items()}
    record = records.Record(
        CHAPTER, at="study", data=data, seeds=list(range(max(s.seeds, s.cluster_seeds)))
    )
    record.numbers = {"comparison": compared, "clustering": clustered}
    claims.claim_all(record, record.numbers)
    return record.save()


def _compare(name: str, recipe: Backbone, s: StudySettings, seed: int) -> dict:
    b = experiment.bench(name, recipe, seed=seed)
    return experiment.comparison(b, draws=s.draws, epochs=s.unlimited_epochs)


def _cluster(name: str, recipe: Clusters, s: StudySettings, seed: int) -> dict:
    c = unlabelled.cluster_bench(name, recipe, seed=seed)
    return unlabelled.clustering_run(c, unlabelled.clustering_points(c, draws=s.draws))
