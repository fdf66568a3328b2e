"""Recording the exit logits of trained networks, so that everyone can try thresholds on them.

``python -m eenotes_book.ch02_e2cm.recording resnet20 e2cm whitened`` fits class-mean exits to a
trained network with all training images, and writes what every exit says of all test images (see
`eenotes_book.data.recorded`); ``sdn1``, ``sdn``, ``branchynet1`` and ``branchynet`` likewise (see
`eenotes_book.ch02_e2cm.published_exits`).  ``thumbnails`` alone writes a few of the images.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from eenotes import collect, count_macs, simulate, training
from eenotes.checkpoints import save_tensors
from eenotes.exits import ClassMeanExit
from eenotes.methods import e2cm
from eenotes.network import EarlyExitNetwork
from eenotes_book import scale
from eenotes_book.ch02_e2cm import published_exits
from eenotes_book.data import recorded, vision


def record(name: str, methods: Sequence[str]) -> None:
    """Write what every exit of a trained network says of the test images of CIFAR-10.

    Args:
        name: see `eenotes_book.ch02_e2cm.imagenet_stem.backbone`.
        methods: ``"e2cm"``, ``"whitened"``, or of `published_exits.METHODS`, with seed 0.
    """
    host = published_exits.on_cifar(name)
    for method in methods:
        start = time.perf_counter()
        if method in published_exits.METHODS:
            net = host.with_exits(host.stages, 0).eval()
            logits = published_exits.logits_of(host, method, 0)
        else:
            net = class_means(host, method)
            logits = collect(net, vision.batches(host.data.test))[0]
        facts = {"seconds of the fit": round(time.perf_counter() - start, 1)}
        _write(host, method, net, logits, facts)


def class_means(host: published_exits.Host, method: str) -> EarlyExitNetwork:
    """The network with exits of class means, ``"e2cm"`` or ``"whitened"``, from all its images."""
    batches, classes = vision.batches(host.data.train), len(host.data.classes)
    grid = 2 if host.name == "resnet50" else 4  # 4 × 4 averages of 512 channels are too many
    with training.accelerator().autocast():
        if method == "e2cm":
            return e2cm.fit(host.stages, batches, num_classes=classes)
        return e2cm.fit_whitened(host.stages, batches, num_classes=classes, grid=grid)


def record_thumbnails(*, threshold: float = 0.98, each: int = 4) -> None:
    """Write what `eenotes_book.data.recorded.thumbnails` reads: ``each`` images for every exit."""
    run, data = recorded.load("resnet56", "whitened"), published_exits.on_cifar("resnet56").data
    exit_index = simulate(run.logits, replace(run.rule, thresholds=threshold)).exit_index
    if not torch.equal(run.labels, data.test.tensors[1]):
        raise ValueError("the recorded samples are not these test images in their order")
    first = [(exit_index == j).nonzero().flatten()[:each] for j in range(len(run.logits))]
    indices = torch.cat(first)
    pixels = [data.picture(data.test.tensors[0][i]) for i in indices.tolist()]
    images = (torch.stack(pixels) * 255).round().to(torch.uint8)
    terms = "CIFAR-10 (Krizhevsky, 2009); its page states no licence and asks to be cited"
    facts = {"threshold": threshold, "exits": exit_index[indices].tolist(), "terms": terms}
    save_tensors(recorded.THUMBNAILS, {"indices": indices, "images": images}, **facts)


def _write(
    host: published_exits.Host, method: str, net: EarlyExitNetwork, logits: Tensor, facts: dict
) -> None:
    data, labels = host.data, host.data.test.tensors[1]
    costs = count_macs(net, data.test.tensors[0][:1])
    accuracy = [
        round(right, 4) for right in (logits.argmax(2) == labels).cpu().double().mean(1).tolist()
    ]
    tensors = {"logits": recorded.packed(logits, method), "labels": labels.to(torch.uint8)}
    for j, head in enumerate(net.exits):
        if isinstance(head, ClassMeanExit):
            tensors[f"normaliser.{j}"] = head.mean_distance
    path = recorded.path_of(host.name, method)
    save_tensors(
        path,
        tensors,
        **facts,
        network=host.name,
        method=method,
        version=recorded.VERSION,
        stages=costs.stages,
        exits=costs.exits,
        data=data.name,
        counts=data.counts,
        classes=data.classes,
        accuracy=accuracy,
        device=scale.device_name(),
        recorded=time.strftime("%Y-%m-%d"),
    )
    print(path.name, accuracy, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["thumbnails"]:
        record_thumbnails()
    else:
        record(sys.argv[1], sys.argv[2:])
