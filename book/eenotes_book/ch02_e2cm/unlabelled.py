"""Chapter 2, without labels: deep embedded clustering, and class-mean exits on its encoder."""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import pandas as pd
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from eenotes.costs import count_macs
from eenotes.inference import collect, simulate
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes.thresholds import thresholds_for_budgets
from eenotes_book import cache, clustering, deep_clustering, scale
from eenotes_book.ch02_e2cm.settings import Clusters
from eenotes_book.data import vision


@dataclass
class ClusterBench:
    """A data set, and an encoder that clusters it, with exits after its hidden layers."""

    data: vision.Vision
    net: EarlyExitNetwork
    seed: int

    @cached_property
    def full(self) -> dict[str, float]:
        """Clustering accuracy and NMI on test with the whole encoder."""
        logits, labels = collect(self.net, vision.batches(clustering.flat(self.data.test)))
        return clustering_scores(logits[-1].argmax(1), labels)


def clustering_scores(assignments: Tensor, labels: Tensor) -> dict[str, float]:
    """Clustering accuracy (best matching of clusters and classes) and mutual information.

    Labels serve nothing else.

    Args:
        assignments: ``(N,)`` clusters.
        labels: ``(N,)`` classes.

    Returns:
        ``accuracy``, and ``nmi``, the normalised mutual information.
    """
    nmi = normalized_mutual_info_score(labels.cpu().numpy(), assignments.cpu().numpy())
    return {"accuracy": deep_clustering.clustering_accuracy(assignments, labels), "nmi": float(nmi)}


def cluster_bench(name: str, s: Clusters, *, seed: int = 0) -> ClusterBench:
    """Cluster the training images of a data set, and give the encoder class-mean exits.

    The clustering is made now or taken from the cache.
    """
    data = vision.load(name, train=s.train, val=s.val, test=s.test)
    x = clustering.flat(data.train).tensors[0].to(scale.device())
    options = {each.name: getattr(s, each.name) for each in fields(deep_clustering.Recipe)}
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


def clustering_points(c: ClusterBench) -> pd.DataFrame:
    """Thresholds chosen on validation **without labels**, and what they give on test.

    The thresholds chosen keep the answer of the whole encoder as often as a budget allows.

    Returns:
        One row per budget: ``budget``, ``agreement`` (validation, with the whole encoder), and on
        test ``relative_cost``, ``accuracy``, ``nmi``.
    """
    rule, device = e2cm.rule(c.net), next(c.net.parameters()).device
    costs = count_macs(c.net, c.data.test.tensors[0][:1].flatten(1).to(device))
    logits, _ = collect(c.net, vision.batches(clustering.flat(c.data.val)))
    chosen = thresholds_for_budgets(logits, logits[-1].argmax(1), rule, costs)
    logits, labels = collect(c.net, vision.batches(clustering.flat(c.data.test)))
    rows = []
    for budget, vector, agreement in chosen[["budget", "thresholds", "accuracy"]].itertuples(
        index=False
    ):
        chosen_rule = replace(rule, thresholds=vector)
        outcome = simulate(logits, chosen_rule)
        cost = costs.under(chosen_rule).relative_cost(outcome.exit_index).mean().item()
        rows.append(
            {
                "budget": budget,
                "agreement": agreement,
                "relative_cost": cost,
                **clustering_scores(outcome.prediction, labels),
            }
        )
    return pd.DataFrame(rows)
