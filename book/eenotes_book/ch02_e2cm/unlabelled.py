"""Chapter 2, without labels: deep embedded clustering, and class-mean exits on its encoder."""

from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import pandas as pd
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from eenotes.baselines import deep_clustering
from eenotes.costs import count_macs
from eenotes.inference import collect, simulate
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes.thresholds import thresholds_for_budgets
from eenotes_book import cache, clustering, scale
from eenotes_book.data import vision


@dataclass
class ClusterBench:
    """A clustering of a data set, and the encoder that made it with a class-mean exit after each
    hidden layer.
    """

    data: vision.Vision
    net: EarlyExitNetwork
    seed: int

    @cached_property
    def full(self) -> dict[str, float]:
        """Clustering accuracy and NMI on test with the whole encoder."""
        logits, labels = collect(self.net, vision.batches(clustering.flat(self.data.test)))
        return clustering_scores(logits[-1].argmax(1), labels)


def clustering_scores(assignments: Tensor, labels: Tensor) -> dict[str, float]:
    """Clustering accuracy (best matching of clusters and classes) and normalised mutual
    information; labels serve nothing else.
    """
    nmi = normalized_mutual_info_score(labels.cpu().numpy(), assignments.cpu().numpy())
    return {"accuracy": deep_clustering.clustering_accuracy(assignments, labels), "nmi": float(nmi)}


def cluster_bench(name: str, s: SimpleNamespace, *, seed: int = 0) -> ClusterBench:
    """Cluster the training images of a data set, or take the clustering from the cache, and give
    the encoder class-mean exits.
    """
    data = vision.load(name, train=s.train, val=s.val, test=s.test)
    x = clustering.flat(data.train).tensors[0].to(scale.device())
    options = {key: value for key, value in vars(s).items() if key not in ("train", "val", "test")}
    path = cache.network(f"{name}-clustering", seed=seed, data=name, **vars(s))
    net = clustering.cluster_or_load(
        x, options, num_clusters=len(data.classes), seed=seed, path=path
    )
    return ClusterBench(data, net, seed)


def clustering_run(c: ClusterBench, points: pd.DataFrame) -> dict:
    """One run's numbers: what a chapter draws and a study repeats."""
    return {
        "data": c.data.name,
        "counts": c.data.counts,
        "seed": c.seed,
        **c.full,
        "points": points.to_dict("records"),
    }


def clustering_points(c: ClusterBench, *, draws: int) -> pd.DataFrame:
    """Thresholds chosen on validation **without labels**: they shall keep the answer of the whole
    encoder; what they give on test.

    Returns:
        One row per budget: ``budget``, ``agreement`` (validation, with the whole encoder), and on
        test ``relative_cost``, ``accuracy``, ``nmi``.
    """
    device = next(c.net.parameters()).device
    rule, costs = (
        e2cm.rule(c.net),
        count_macs(c.net, c.data.test.tensors[0][:1].flatten(1).to(device)),
    )
    logits, _ = collect(c.net, vision.batches(clustering.flat(c.data.val)))
    chosen = thresholds_for_budgets(
        logits, logits[-1].argmax(1), rule, costs, draws=draws, seed=c.seed
    )
    logits, labels = collect(c.net, vision.batches(clustering.flat(c.data.test)))
    rows = []
    for budget, vector, agreement in chosen[["budget", "thresholds", "accuracy"]].itertuples(
        index=False
    ):
        outcome = simulate(logits, replace(rule, thresholds=vector))
        cost = costs.relative_cost(outcome.exit_index).mean().item()
        rows.append(
            {
                "budget": budget,
                "agreement": agreement,
                "relative_cost": cost,
                **clustering_scores(outcome.prediction, labels),
            }
        )
    return pd.DataFrame(rows)
