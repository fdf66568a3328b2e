"""Chapter 2's study: both halves, with many seeds."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

from eenotes import experiment
from eenotes.studies import clusters, e2cm

CHAPTER, STUDY = "02-e2cm", "eenotes.studies.chapter2"


def study() -> Path:
    """Both halves with many seeds; every run is kept as it finishes, so a study that was cut off goes on where it was."""
    s = experiment.settings(CHAPTER, "study")
    compared, clustered = {}, {}
    for name in s.names:
        recipe = getattr(s, name)
        compared[name] = [
            experiment.resumable(
                f"e2cm-{name}-{seed}",
                partial(_compare, name, recipe, s, seed),
                study=STUDY,
                seed=seed,
                recipe=recipe,
                epochs=s.unlimited_epochs,
                draws=s.draws,
            )
            for seed in range(s.seeds)
        ]
    for name, recipe in vars(s.clustering).items():
        clustered[name] = [
            experiment.resumable(
                f"cluster-{name}-{seed}",
                partial(_cluster, name, recipe, s, seed),
                study=STUDY,
                seed=seed,
                recipe=recipe,
                draws=s.draws,
            )
            for seed in range(s.cluster_seeds)
        ]
    data = {name: runs[0]["counts"] for name, runs in compared.items()}
    data |= {f"{name} (clustering)": runs[0]["counts"] for name, runs in clustered.items()}
    record = experiment.Record(CHAPTER, study=STUDY, at="study", data=data, seeds=list(range(max(s.seeds, s.cluster_seeds))))
    record.numbers = {"comparison": compared, "clustering": clustered}
    e2cm.claim_all(record, compared)
    clusters.claim_clustering(record, clustered)
    return record.save()


def _compare(name: str, recipe: SimpleNamespace, s: SimpleNamespace, seed: int) -> dict:
    return e2cm.comparison(e2cm.bench(name, recipe, seed=seed), draws=s.draws, epochs=s.unlimited_epochs)


def _cluster(name: str, recipe: SimpleNamespace, s: SimpleNamespace, seed: int) -> dict:
    c = clusters.cluster_bench(name, recipe, seed=seed)
    return clusters.clustering_run(c, clusters.clustering_points(c, draws=s.draws))
