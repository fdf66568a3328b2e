"""Where class means become good: nearest-mean accuracy and the spread within the classes by block.

``python -m eenotes_book.ch02_e2cm.neural_collapse resnet20`` measures a trained network, and adds
it to ``neural_collapse.json``.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from eenotes import split, training
from eenotes.class_statistics import ClassMeans
from eenotes.costs import count_macs
from eenotes.exits import ClassMeanExit
from eenotes.network import EarlyExitNetwork
from eenotes_book import scale
from eenotes_book.cache import write_json
from eenotes_book.ch02_e2cm import imagenet_stem
from eenotes_book.data import pretrained, vision

_PATH = Path(__file__).with_suffix(".json")
_SPREAD_IMAGES = 10_000  # training images for the variance, whose error is far below a percent


@torch.no_grad()
def measure(
    stages: Sequence[nn.Module], train: Iterable, few: Iterable, test: Iterable, *, num_classes: int
) -> list[dict[str, float]]:
    r"""How good class means are after every stage but the last.

    Args:
        stages: from `eenotes.split`, in evaluation mode.
        train: batches ``(x, y)`` that the class means are taken from.
        few: batches of training images that the variances are taken from.
        test: batches that are classified by the nearest class mean.
        num_classes: K.

    Returns:
        A row for each: ``nearest_mean``, the accuracy on ``test``, and ``nc1``, the within-class
        variance in units of the variance between the classes,
        $\operatorname{tr}(\Sigma_W \Sigma_B^{+}) / K$ (Papyan et al., 2020).
    """
    early = list(stages)[:-1]
    means = [ClassMeans(num_classes) for _ in early]
    for x, y in train:
        for mean, features in zip(means, _features(early, x), strict=True):
            mean.update(features, y)
    exits = [ClassMeanExit(mean.compute()) for mean in means]
    return [
        {"nearest_mean": round(right, 4), "nc1": round(spread, 4)}
        for right, spread in zip(
            _accuracy(early, exits, test), _nc1(early, exits, few), strict=True
        )
    ]


def recorded() -> dict[str, dict[str, Any]]:
    """What has been measured: network → ``blocks``, a row of `measure` for each with its ``name``
    and ``relative_cost``, and ``accuracy`` of the whole network, ``counts``, ``device``, ``date``.
    """
    return json.loads(_PATH.read_text(encoding="utf-8")) if _PATH.exists() else {}


def record(name: str, data: vision.Vision) -> None:
    """Measure a network on a data set, and write it beside what is recorded."""
    backbone, points = imagenet_stem.backbone(name, data)
    stages = split(backbone, at=points)
    plain = EarlyExitNetwork(stages, [nn.Flatten() for _ in points])
    macs = torch.tensor(count_macs(plain, data.test.tensors[0][:1]).stages).double()
    rows = measure(
        stages,
        vision.batches(data.train),
        vision.batches(TensorDataset(*data.train[:_SPREAD_IMAGES])),
        vision.batches(data.test),
        num_classes=len(data.classes),
    )
    costs = (macs.cumsum(0) / macs.sum()).numpy().round(4).tolist()
    blocks = [
        {"name": point, "relative_cost": cost, **row}
        for point, cost, row in zip(points, costs, rows, strict=False)
    ]
    right = sum(int((backbone(x).argmax(1) == y).sum()) for x, y in vision.batches(data.test))
    facts = {"accuracy": right / len(data.test), "data": data.name, "counts": data.counts}
    facts |= {"device": scale.device_name(), "recorded": time.strftime("%Y-%m-%d")}
    write_json(_PATH, recorded() | {name: {"blocks": blocks, **facts}})


def _features(stages: Sequence[nn.Module], x: Tensor) -> Iterable[Tensor]:
    for stage in stages:
        with training.accelerator().autocast():
            x = stage(x)
        yield x.flatten(1).float()


def _accuracy(stages: Sequence[nn.Module], exits: Sequence, batches: Iterable) -> list[float]:
    right, count = torch.zeros(len(exits)), 0
    for x, y in batches:
        count += len(y)
        for j, features in enumerate(_features(stages, x)):
            right[j] += (exits[j](features).argmax(1) == y).sum()
    return (right / count).tolist()


def _nc1(stages: Sequence[nn.Module], exits: Sequence, batches: Iterable) -> list[float]:
    """The trace, taken in the K-1 directions in which the class means differ."""
    whitening = []
    for head in exits:
        centred = head.means - head.means.mean(0)
        _, size, directions = torch.linalg.svd(centred.double(), full_matrices=False)
        size, directions = size[:-1], directions[:-1]  # K centred means span K-1 directions
        whitening.append((directions.T * (len(centred) ** 0.5 / size)).float())
    total, count = torch.zeros(len(exits), dtype=torch.float64), 0
    for x, y in batches:
        count += len(y)
        for j, features in enumerate(_features(stages, x)):
            apart = (features - exits[j].means[y]) @ whitening[j]
            total[j] += apart.double().square().sum()
    return [value / len(exits[0].means) for value in (total / count).tolist()]


if __name__ == "__main__":
    with torch.no_grad():
        record(sys.argv[1], pretrained.normalised(vision.load("CIFAR10", val=0)))
