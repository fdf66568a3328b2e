"""Recording the exit logits of published networks, so that everyone can try thresholds on them.

``python -m eenotes_book.ch02_e2cm.recording resnet20`` fits class-mean exits to a published network
with all training images, and writes what every exit says of all test images (see
`eenotes_book.data.recorded`).
"""

import sys
import time

import torch
from torch import nn

from eenotes import collect, count_macs, split
from eenotes.checkpoints import save_tensors
from eenotes.costs import Costs
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes_book import scale
from eenotes_book.data import pretrained, recorded, vision

EVERY = {"resnet20": 1, "resnet56": 3}  # blocks between two exits


def exit_points(name: str, backbone: nn.Module) -> list[str]:
    """After the stem and after every block, or every third of a deep network."""
    stem, *blocks = backbone.exit_points
    return [stem, *blocks[EVERY[name] - 1 :: EVERY[name]]]


def record(name: str, *, train: int | None = None, test: int | None = None) -> None:
    """Fit E²CM, plain and whitened, to a published network, and write its test logits.

    Args:
        name: one of `eenotes_book.data.pretrained.NETWORKS`.
        train: training images; all by default.
        test: test images; all by default.
    """
    data = pretrained.normalised(vision.load("CIFAR10", train=train, val=0, test=test))
    backbone = pretrained.load(name)
    stages = split(backbone, at=exit_points(name, backbone))
    batches = vision.batches(data.train)
    for method, fit in (("e2cm", e2cm.fit), ("whitened", e2cm.fit_whitened)):
        path = recorded.path_of(name, method)
        if path.exists():
            print(f"{path.name} is there already")
            continue
        start = time.perf_counter()
        net = fit(stages, batches, num_classes=len(data.classes))
        seconds = time.perf_counter() - start
        _write(path, net, data, {"network": name, "method": method, "seconds of the fit": seconds})


def _write(path, net: EarlyExitNetwork, data: vision.Vision, facts: dict) -> None:
    logits, labels = collect(net, vision.batches(data.test))
    costs: Costs = count_macs(net, data.test.tensors[0][:1])
    accuracy = (logits.argmax(2) == labels).double().mean(1).tolist()
    normalisers = [getattr(exit_, "mean_distance", torch.ones(0)) for exit_ in net.exits]
    tensors = {"logits": logits.half(), "labels": labels.to(torch.uint8)}
    tensors |= {f"normaliser.{j}": value for j, value in enumerate(normalisers) if len(value)}
    save_tensors(
        path,
        tensors,
        **facts,
        version=recorded.VERSION,
        stages=costs.stages,
        exits=costs.exits,
        data=data.name,
        counts=data.counts,
        classes=data.classes,
        accuracy=[round(value, 4) for value in accuracy],
        device=scale.device_name(),
        recorded=time.strftime("%Y-%m-%d"),
    )
    print(path.name, [round(value, 3) for value in accuracy], flush=True)


if __name__ == "__main__":
    record(*sys.argv[1:2])
