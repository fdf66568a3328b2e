"""Chapter 2, without labels: deep embedded clustering, and class-mean exits on its encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import pandas as pd
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.utils.data import TensorDataset

from eenotes import clustering, e2cm, experiment, training
from eenotes.calibration import thresholds_for_budgets
from eenotes.costs import count_macs
from eenotes.data import vision
from eenotes.heads import ClassMeanExit
from eenotes.inference import collect, simulate
from eenotes.network import EarlyExitNetwork, split
from eenotes.studies.e2cm import mean, spread


@dataclass
class ClusterBench:
    """A clustering of a data set, and the encoder that made it with a class-mean exit after each hidden layer."""

    data: vision.Vision
    net: EarlyExitNetwork
    seed: int

    @cached_property
    def full(self) -> dict[str, float]:
        """Clustering accuracy and NMI on test with the whole encoder."""
        logits, labels = collect(self.net, vision.batches(flat(self.data.test)))
        return clustering_scores(logits[-1].argmax(1), labels)


def clustering_scores(assignments: Tensor, labels: Tensor) -> dict[str, float]:
    """Clustering accuracy (best matching of clusters and classes) and normalised mutual information; labels serve nothing else."""
    nmi = normalized_mutual_info_score(labels.cpu().numpy(), assignments.cpu().numpy())
    return {"accuracy": clustering.clustering_accuracy(assignments, labels), "nmi": float(nmi)}


def cluster_bench(name: str, s: SimpleNamespace, *, seed: int = 0) -> ClusterBench:
    """Cluster the training images of a data set, or take the clustering from the cache, and give the encoder class-mean exits."""
    data = vision.load(name, train=s.train, val=s.val, test=s.test)
    x = flat(data.train).tensors[0].to(experiment.device())
    options = {key: value for key, value in vars(s).items() if key not in ("train", "val", "test")}

    def compute() -> dict[str, Tensor]:
        found = clustering.fit(x, num_clusters=len(data.classes), seed=seed, **options)
        return {"centroids": found.centroids, "assignments": found.assignments, **found.encoder.state_dict()}

    code = experiment.code_hash(["eenotes.clustering"])
    weights = training.remember(experiment.cached(f"{name}-clustering", seed=seed, data=name, code=code, **vars(s)), compute)
    centroids, assignments = (weights.pop(key).to(x.device) for key in ("centroids", "assignments"))
    encoder, _ = clustering.autoencoder(x.shape[1], s.widths)
    encoder.load_state_dict(weights)
    return ClusterBench(data, exits_for(encoder.to(x.device).eval(), centroids, TensorDataset(x, assignments)), seed)


def flat(split: TensorDataset) -> TensorDataset:
    """Pictures as vectors ``(N, D)``, with their labels."""
    images, labels = split.tensors
    return TensorDataset(images.flatten(1), labels)


def exits_for(encoder: torch.nn.Sequential, centroids: Tensor, clustered: TensorDataset) -> EarlyExitNetwork:
    """The encoder with a class-mean exit after every hidden layer; its last exit is the nearest centroid in the code."""
    hidden = [name for name, module in encoder.named_children() if isinstance(module, torch.nn.ReLU)]
    *stages, last = split(encoder, at=hidden)
    last = torch.nn.Sequential(last, ClassMeanExit(centroids)).eval()
    return e2cm.fit([*stages, last], vision.batches(clustered), num_classes=len(centroids))


def clustering_run(c: ClusterBench, points: pd.DataFrame) -> dict:
    """One run's numbers: what a chapter draws and a study repeats."""
    return {"data": c.data.name, "counts": c.data.counts, "seed": c.seed, **c.full, "points": points.to_dict("records")}


def clustering_verdict(groups: dict[str, Sequence[dict]]) -> str:
    """A sentence per data set on what early exits save without labels, on average over the runs."""
    sentences = []
    for name, runs in groups.items():
        loss, cost = _at_budget(runs, 0.6)
        sentences.append(
            f"{name}: at {cost:.2f} of the encoder's cost the clustering accuracy changes by {-100 * loss:+.1f} points."
        )
    return " ".join(sentences)


def claim_clustering(record: experiment.Record, groups: dict[str, Sequence[dict]]) -> None:
    """The thesis's claims on clustering beside ours."""
    thesis = {"MNIST": ".895 at .375 against .93 (figure)", "FashionMNIST": ".58 at .375 against .60 (figure)"}
    for name, runs in groups.items():
        full = [run["accuracy"] for run in runs]
        record.claim(
            f"{name}: clustering accuracy of the whole encoder",
            thesis={"MNIST": "≈.93 (figure)", "FashionMNIST": "≈.60 (figure)"}.get(name, "not stated"),
            ours=mean(full),
            spread=spread(full),
            holds=None,
            where="clustering",
        )
        losses = [_at_budget([run], 0.6)[0] for run in runs]
        record.claim(
            f"{name}: 40 % less computation for at most a point of clustering accuracy; ours: loss at budget 0.6",
            thesis=thesis.get(name, "up to 60 % less, negligible drop (text)"),
            ours=mean(losses),
            spread=spread(losses),
            holds=mean(losses) <= 0.01,
            where="clustering",
        )


def _at_budget(runs: Sequence[dict], budget: float) -> tuple[float, float]:
    """Mean loss of clustering accuracy and mean relative cost of the points chosen for a budget."""
    rows = [max((row for row in run["points"] if row["budget"] <= budget), key=lambda row: row["budget"]) for run in runs]
    loss = mean([run["accuracy"] - row["accuracy"] for run, row in zip(runs, rows, strict=True)])
    return loss, mean([row["relative_cost"] for row in rows])


def clustering_points(c: ClusterBench, *, draws: int) -> pd.DataFrame:
    """Thresholds chosen on validation **without labels**: they shall keep the answer of the whole encoder; what they give on test.

    Returns:
        One row per budget: ``budget``, ``agreement`` (validation, with the whole encoder), and on test ``relative_cost``,
        ``accuracy``, ``nmi``.
    """
    device = next(c.net.parameters()).device
    rule, costs = e2cm.rule(c.net), count_macs(c.net, c.data.test.tensors[0][:1].flatten(1).to(device))
    logits, _ = collect(c.net, vision.batches(flat(c.data.val)))
    chosen = thresholds_for_budgets(logits, logits[-1].argmax(1), rule, costs, draws=draws, seed=c.seed)
    logits, labels = collect(c.net, vision.batches(flat(c.data.test)))
    rows = []
    for budget, vector, agreement in chosen[["budget", "thresholds", "accuracy"]].itertuples(index=False):
        outcome = simulate(logits, replace(rule, thresholds=vector))
        cost = costs.relative_cost(outcome.exit_index).mean().item()
        rows.append(
            {"budget": budget, "agreement": agreement, "relative_cost": cost, **clustering_scores(outcome.prediction, labels)}
        )
    return pd.DataFrame(rows)
