"""A published network as a server: answers, sizes and seconds of each way to run its cascade.

    python -m benchmarks.serving      print the tables; write serving.json and the page *Ship it*

The networks are ResNets of CIFAR-10 with whitened class means after their first two groups.  One
threshold is chosen with a promise on the first half of the test images, and the numbers are of the
second half.  Seconds are medians over turns in one process.  Networks and images lie in
EENOTES_DATA; torch.compile needs a C++ compiler.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim
from tqdm import tqdm

from benchmarks import serving_report as report
from benchmarks.__main__ import keep_freed_memory
from eenotes import Confidence, EarlyExitNetwork, collect, count_macs, predict, save, simulate
from eenotes import split as cut
from eenotes.costs import Costs
from eenotes.guarantees import with_guarantee
from eenotes.methods import e2cm
from eenotes.serving import Served
from eenotes.shipping import export
from eenotes_book.data import pretrained, vision
from eenotes_book.timing import median_seconds

RESULTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).resolve().parent.parent / "book" / "ship-it.md"
TRAIN, EXAMPLES, SIZE = 10_000, 200, 64
LEVEL, DELTA = 0.02, 0.1
BATCHES = {1: 200, 64: 1024}  # size of a batch → images that are timed
EVERY_EXIT = Confidence(1 - 1e-6)  # all are open, and next to no sample leaves

Images = tuple[Tensor, Tensor]


class WholeCascade(nn.Module):
    """All stages in one graph: the rest is computed for the samples that stay, if any does."""

    def __init__(self, net, rule):
        super().__init__()
        self.net, self.rule = net, rule

    def forward(self, features, j=0):
        features = self.net.stages[j](features)
        if j == len(self.net.exits):
            return features.argmax(1)
        decision = self.rule(j, self.net.exits[j](features))

        def stop(features, leave, prediction):
            return prediction.clone()

        def go_on(features, leave, prediction):
            (stay,) = torch.where(~leave)
            torch._check(len(stay) > 0)  # otherwise all leave, and we stop
            return prediction.index_put((stay,), self.forward(features[stay], j + 1))

        given = (features, decision.leave, decision.prediction)
        return torch.cond(decision.leave.all(), stop, go_on, given)


class Case(NamedTuple):
    """A network with exits, and the images that are used with it."""

    backbone: nn.Module
    net: EarlyExitNetwork
    costs: Costs
    examples: Tensor  #: of the training set, ``(B, C, H, W)``
    test: Images  #: the first half chooses, the second half tells


def case(name: str) -> Case:
    """A published network with whitened class means."""
    data = pretrained.normalised(vision.load("CIFAR10", train=TRAIN))
    images, labels = data.train.tensors
    backbone = pretrained.load(name)
    stages = cut(backbone, at=["group1", "group2"], example=images[:2])
    net = e2cm.fit_whitened(stages, pairs(images, labels), num_classes=10).eval()
    costs = count_macs(net, images[:1])
    return Case(backbone, net, costs, images[:EXAMPLES], data.test.tensors)


def pairs(images: Tensor, labels: Tensor) -> list[Images]:
    return list(zip(images.split(250), labels.split(250), strict=True))


# --- answers


def measured(found: Case, folder: Path, *, rounds: int) -> dict[str, Any]:
    """The numbers of one network: answers, sizes in bytes, and milliseconds per image."""
    images, labels = found.test
    half = len(labels) // 2
    logits, _ = collect(found.net, pairs(images, labels))
    export(found.net, folder / "open", found.examples, rule=EVERY_EXIT, int8=True)
    in_8_bits = torch.from_numpy(logits_of(Served(folder / "open", threads=1), images.numpy()))
    rule, again = (promised(found, z[:, :half], labels[:half]) for z in (logits, in_8_bits))

    export(found.net, folder / "float32", found.examples, rule=rule)
    export(found.net, folder / "int8", found.examples, rule=again, int8=True)
    export_whole(found.net, rule, found.examples, folder / "whole.onnx")
    save(found.net, folder / "net.safetensors", rule=rule, example=found.examples[:2])

    told = [
        ("float32", logits, rule),
        ("int8, threshold of float32", in_8_bits, rule),
        ("int8, calibrated again", in_8_bits, again),
    ]
    numbers = {
        "answers": {
            name: facts(found, z[:, half:], labels[half:], by) | {"threshold": by.thresholds[0]}
            for name, z, by in told
        },
        "other answers": other_answers(found, images[half:], rule, folder),
        "bytes": {name: size(folder / name) for name in ("float32", "int8")}
        | {name: size(folder / name) for name in ("whole.onnx", "net.safetensors")},
    }
    if rounds:
        numbers["milliseconds"] = milliseconds(found, images[half:], rule, folder, rounds=rounds)
    return numbers


def promised(found: Case, logits: Tensor, labels: Tensor) -> Confidence:
    """The cheapest threshold that is promised to disagree seldom with the last exit."""
    chosen = with_guarantee(
        logits, labels, Confidence(1.0), found.costs,
        risk="disagreement", level=LEVEL, delta=DELTA,
    )  # fmt: skip
    return Confidence(chosen.thresholds)


def facts(found: Case, logits: Tensor, labels: Tensor, rule: Confidence) -> dict[str, float]:
    outcome, last = simulate(logits, rule), logits[-1].argmax(1)
    return {
        "last exit": (last == labels).double().mean().item(),
        "accuracy": (outcome.prediction == labels).double().mean().item(),
        "disagreement": (outcome.prediction != last).double().mean().item(),
        "cost": found.costs.under(rule).relative_cost(outcome.exit_index).mean().item(),
    }


def logits_of(served: Served, x: np.ndarray, *, batch: int = 250) -> np.ndarray:
    """The logits ``(J, N, K)`` of a served network of which every exit is open."""
    parts = []
    for features in np.split(x, range(batch, len(x), batch)):
        logits = []
        for session in served.sessions:
            names = [output.name for output in session.get_outputs()]
            found = dict(zip(names, session.run(None, {"features": features}), strict=True))
            logits.append(found["logits"])
            features = found.get("next_features")
        parts.append(np.stack(logits))
    return np.concatenate(parts, 1)


def export_whole(net: EarlyExitNetwork, rule: Confidence, example: Tensor, path: Path) -> None:
    sizes = {"features": {0: Dim.DYNAMIC}}
    whole = WholeCascade(net, rule).eval()
    with torch.no_grad():
        program = torch.export.export(whole, (), {"features": example}, dynamic_shapes=sizes)
    torch.onnx.export(program, dynamo=True, verbose=False, input_names=["features"]).save(path)


def other_answers(found: Case, x: Tensor, rule: Confidence, folder: Path) -> dict[str, int]:
    """How many samples a server predicts otherwise than `predict`, in batches."""
    served, whole = Served(folder / "float32", threads=1), session_of(folder / "whole.onnx")
    counts = {"a graph per stage": 0, "one graph": 0}
    for part in x.split(SIZE):
        expected = predict(found.net, part, rule).prediction.numpy()
        answers = served(part.numpy()).prediction, run(whole, part)
        for name, answer in zip(counts, answers, strict=True):
            counts[name] += int((answer != expected).sum())
    return counts


def session_of(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # without remarks on constants that nothing uses
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, x: Tensor) -> np.ndarray:
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.glob("*.onnx")) if path.is_dir() else os.stat(path)[6]


# --- seconds


def ways(found: Case, rule: Confidence, folder: Path) -> dict[str, Callable[[Tensor], object]]:
    """Each way to classify a batch."""
    backbone, net = found.backbone, found.net
    compiled = EarlyExitNetwork(
        [torch.compile(stage, dynamic=True) for stage in net.stages],
        [torch.compile(head, dynamic=True) for head in net.exits],
    ).eval()
    plain = folder / "backbone.onnx"
    sizes = {"dynamic_shapes": ({0: Dim.DYNAMIC},), "dynamo": True, "verbose": False}
    torch.onnx.export(backbone, (found.examples[:2],), **sizes).save(plain)
    threads = torch.get_num_threads()
    served, in_8_bits = (Served(folder / name, threads=threads) for name in ("float32", "int8"))
    whole, plain = session_of(folder / "whole.onnx"), session_of(plain)
    compiled_backbone = torch.compile(backbone, dynamic=True)
    return {
        "PyTorch, without exits": backbone,
        "PyTorch, `predict`": lambda x: predict(net, x, rule),
        "torch.compile, without exits": compiled_backbone,
        "torch.compile of the stages, `predict`": lambda x: predict(compiled, x, rule),
        "onnxruntime, without exits": lambda x: run(plain, x),
        "onnxruntime, `Served`": lambda x: served(x.numpy()),
        "onnxruntime, one graph": lambda x: run(whole, x),
        "onnxruntime, `Served`, int8": lambda x: in_8_bits(x.numpy()),
    }


@torch.inference_mode()
def milliseconds(
    found: Case, x: Tensor, rule: Confidence, folder: Path, *, rounds: int
) -> dict[str, dict[str, float]]:
    """Per image, by the size of the batch and the way."""
    with torch.inference_mode(False), torch.no_grad():
        every = ways(found, rule, folder)
    result = {}
    for batch, count in tqdm(BATCHES.items(), desc="seconds", leave=False):
        parts = x[:count].split(batch)
        turns = {name: partial(_each, way, parts) for name, way in every.items()}
        seconds = median_seconds(turns, rounds=rounds, repeats=1)
        result[str(batch)] = {name: 1000 * s / len(x[:count]) for name, s in seconds.items()}
    return result


def _each(way: Callable[[Tensor], object], parts: Sequence[Tensor]) -> None:
    for part in parts:
        way(part)


def main() -> int:
    """Measure, print and write; 1 if ``--check`` is given and the goal is not met, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__[:77])
    parser.add_argument("--check", action="store_true", help="exit with 1 if the goal is missed")
    parser.add_argument("--rounds", type=int, default=5, help="per median; 0: no seconds")
    arguments = parser.parse_args()
    keep_freed_memory()
    versions = {m.__name__: m.__version__ for m in (torch, onnxruntime)}
    machine = {"threads": torch.get_num_threads(), **versions}
    machine["processor"] = torch.backends.cpu.get_cpu_capability()
    results: dict[str, Any] = {"machine": machine, "networks": {}}
    for name, published in pretrained.NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            numbers = measured(case(name), Path(folder), rounds=arguments.rounds)
        results["networks"][f"ResNet-{published.depth}"] = numbers
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(report.into_page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    lines = report.judged(results)
    print(report.tables(results), *lines, sep="\n")
    return int(arguments.check and not all(line.endswith("met") for line in lines or [""]))


if __name__ == "__main__":
    raise SystemExit(main())
