"""Deep clusterings of the chapters: cluster pictures or load a clustering, and give it exits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes.cutting import split
from eenotes.exits import ClassMeanExit
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes_book import cache, deep_clustering
from eenotes_book.data import vision


def flat(pictures: TensorDataset) -> TensorDataset:
    """Pictures as vectors ``(N, D)``, with their labels."""
    images, labels = pictures.tensors
    return TensorDataset(images.flatten(1), labels)


def cluster_or_load(
    x: Tensor, options: Mapping[str, Any], *, num_clusters: int, seed: int, path: Path
) -> EarlyExitNetwork:
    """Cluster points, or load the clustering, and return the encoder with exits, as `with_exits`.

    Args:
        x: ``(N, D)``, on the device that computes.
        options: of a `deep_clustering.Recipe`, ``widths`` among them.
        num_clusters: K.
        seed: of weights and order.
        path: the file of the clustering, from `eenotes_book.cache.network`.
    """

    recipe = deep_clustering.Recipe(**options)

    def compute() -> dict[str, Tensor]:
        found = deep_clustering.fit(x, recipe, num_clusters=num_clusters, seed=seed)
        weights = found.encoder.state_dict()
        return {"centroids": found.centroids, "assignments": found.assignments, **weights}

    weights = cache.remember(path, compute)
    centroids, assigned = (weights.pop(key).to(x.device) for key in ("centroids", "assignments"))
    encoder, _ = deep_clustering.autoencoder(x.shape[1], recipe.widths)
    encoder.load_state_dict(weights)
    return with_exits(encoder.to(x.device).eval(), centroids, TensorDataset(x, assigned))


def with_exits(
    encoder: nn.Sequential, centroids: Tensor, clustered: TensorDataset
) -> EarlyExitNetwork:
    """The encoder with a class-mean exit after every hidden layer.

    Its last exit is the nearest centroid in the code.

    Args:
        encoder: from vectors ``(B, D)`` to codes.
        centroids: ``(K, code)``.
        clustered: vectors and the clusters that they belong to.
    """
    hidden = [name for name, module in encoder.named_children() if isinstance(module, nn.ReLU)]
    *stages, last = split(encoder, at=hidden)
    last = nn.Sequential(last, ClassMeanExit(centroids)).eval()
    return e2cm.fit([*stages, last], vision.batches(clustered), num_classes=len(centroids))
