"""Chapter 2's study: clusterings with many seeds; `at_costs` has the published networks."""

from functools import partial
from pathlib import Path

from eenotes_book import cache, records, settings
from eenotes_book.ch02_e2cm import CHAPTER, REVISION, claims, unlabelled
from eenotes_book.ch02_e2cm.settings import Clusters, StudySettings


def study() -> Path:
    """Clusterings, and class-mean exits on their encoders, with many seeds.

    Every run is kept as it finishes, so a study that was cut off goes on where it was.
    """
    s: StudySettings = settings.load(CHAPTER, "study")
    clustered = {}
    for name, recipe in s.clustering.items():
        clustered[name] = [
            cache.step(
                f"cluster-{name}-{seed}",
                partial(_cluster, name, recipe, s, seed),
                revision=REVISION,
                seed=seed,
                recipe=recipe,
            )
            for seed in range(s.seeds)
        ]
    data = {f"{name} (clustering)": runs[0]["counts"] for name, runs in clustered.items()}
    record = records.Record(CHAPTER, at="study", data=data, seeds=list(range(s.seeds)))
    record.numbers = {"clustering": clustered}
    claims.claim_all(record, record.numbers)
    return record.save()


def _cluster(name: str, recipe: Clusters, s: StudySettings, seed: int) -> dict:
    c = unlabelled.cluster_bench(name, recipe, seed=seed)
    return unlabelled.clustering_run(c, unlabelled.clustering_points(c))
