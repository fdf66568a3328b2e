"""Class means of trained networks, layer by layer: how far apart, and how wide the classes are.

``python -m eenotes_book.ch02_e2cm.recorded_means resnet56`` passes all training images of CIFAR-10
through a trained network twice, and adds what it finds to ``recorded_means.json``, which the
figures read.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from eenotes import split, training
from eenotes.class_statistics import ClassMeans
from eenotes_book import scale
from eenotes_book.cache import write_json
from eenotes_book.ch02_e2cm import imagenet_stem
from eenotes_book.data import pretrained, vision

_PATH = Path(__file__).with_suffix(".json")
THREE = ("cat", "dog", "bird")  # the thesis's example


@torch.no_grad()
def measure(
    stages: Sequence[nn.Module], train: Iterable, *, num_classes: int, plane: Sequence[int]
) -> list[dict[str, Any]]:
    """The class means after every stage, and the samples around them.

    Args:
        stages: from `eenotes.split`, in evaluation mode.
        train: batches ``(x, y)``, which are gone through twice.
        num_classes: K.
        plane: three classes, whose means span a plane.

    Returns:
        A row for each stage: ``distances`` between the means (K × K); ``spread``, the root mean
        square distance of a class's samples to their mean (K); and the three classes in the plane
        of their means, ``means`` (3 × 2) and ``covariances`` (3 × 2 × 2) of their samples.
    """
    means = [ClassMeans(num_classes) for _ in stages]
    for x, y in train:
        for mean, features in zip(means, _features(stages, x), strict=True):
            mean.update(features, y)
    found = [mean.compute() for mean in means]
    axes = [_plane(mean[list(plane)]) for mean in found]
    counts = means[0].counts.double()
    squares = torch.zeros(len(found), num_classes, dtype=torch.float64)
    products = torch.zeros(len(found), num_classes, 2, 2, dtype=torch.float64)
    for x, y in train:
        for j, features in enumerate(_features(stages, x)):
            apart = features - found[j][y]
            squares[j].index_add_(0, y, apart.double().square().sum(1))
            flat = (apart @ axes[j].T).double()
            products[j].index_add_(0, y, flat[:, :, None] * flat[:, None])
    covariances = products / counts[:, None, None]
    return [
        {
            "distances": _short((mean[:, None] - mean).norm(dim=2)),
            "spread": _short((squares[j] / counts).sqrt()),
            "means": _short((mean[list(plane)] - mean[list(plane)].mean(0)) @ axes[j].T),
            "covariances": _short(covariances[j][list(plane)]),
        }
        for j, mean in enumerate(found)
    ]


def recorded() -> dict[str, dict[str, Any]]:
    """What has been measured: network → ``layers``, a row of `measure` for each with its ``name``,
    and ``classes``, ``plane``, ``data``, ``counts``, ``device``, ``recorded``.
    """
    return json.loads(_PATH.read_text(encoding="utf-8")) if _PATH.exists() else {}


def separability(network: str) -> pd.DataFrame:
    """Equation (2.1) for a recorded network: a row per class, a column per layer.

    The columns are the stem, the residual blocks by their number, and the classifier; the last
    block is a part of the classifier's stage and has no column.
    """
    found = recorded()[network]
    columns = {}
    for layer in found["layers"]:
        nearest = torch.tensor(layer["distances"]).fill_diagonal_(torch.inf).min(1).values
        columns[layer["name"]] = (nearest / (nearest + torch.tensor(layer["spread"]))).tolist()
    table = pd.DataFrame(columns, index=found["classes"])
    blocks = [str(number) for number in range(1, table.shape[1] - 1)]
    return table.set_axis(["stem", *blocks, "classifier"], axis=1)


def record(name: str, data: vision.Vision) -> None:
    """Measure a network on a data set, and write it beside what is recorded."""
    backbone, points = imagenet_stem.backbone(name, data)
    stages = split(backbone.to(memory_format=torch.channels_last), at=points)
    plane = [list(data.classes).index(name) for name in THREE]
    batches = vision.batches(data.train)
    rows = measure(stages, batches, num_classes=len(data.classes), plane=plane)
    layers = [
        {"name": point, **row} for point, row in zip([*points, "classifier"], rows, strict=True)
    ]
    facts = {"classes": list(data.classes), "plane": list(THREE), "data": data.name}
    facts |= {"counts": data.counts, "device": scale.device_name()}
    facts |= {"recorded": time.strftime("%Y-%m-%d")}
    write_json(_PATH, recorded() | {name: {"layers": layers, **facts}})


def _features(stages: Sequence[nn.Module], x: Tensor) -> Iterable[Tensor]:
    for stage in stages:
        with training.accelerator().autocast():
            x = stage(x)
        yield x.flatten(1).float()


def _plane(means: Tensor) -> Tensor:
    """Two orthonormal directions, ``(2, D)``, of the plane through three means."""
    centred = (means - means.mean(0)).double()
    return torch.linalg.svd(centred, full_matrices=False)[2][:2].float()


def _short(values: Tensor) -> list:
    """Four digits."""
    flat = [float(f"{value:.4g}") for value in values.double().flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).reshape(values.shape).tolist()


if __name__ == "__main__":
    with torch.no_grad():
        record(sys.argv[1], pretrained.normalised(vision.load("CIFAR10", val=0)))
