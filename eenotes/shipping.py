"""Shipping: a network and its rule out of eager PyTorch, one graph per stage.

`programs` gives them as programs of ``torch.export``, `export` writes them as ONNX, for
`eenotes.serving`.  The size of the batch is free in every graph.  The extra ``ship`` brings what
is needed.
"""

import copy
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from eenotes import serving
from eenotes._checks import as_input
from eenotes._wrapping import remove_masks
from eenotes.costs import count_macs
from eenotes.files import write_atomically
from eenotes.inference import check_ready, run_stage
from eenotes.network import EarlyExitNetwork, full_precision
from eenotes.rules import Rule, open_exits
from eenotes.tracing import unwrapped


class _Step(nn.Module):
    """A stage, its exit, and what the rule says there."""

    def __init__(self, net: EarlyExitNetwork, j: int, rule: Rule, *, is_open: bool):
        super().__init__()
        self.stage, self.last = net.stages[j], j == net.num_exits - 1
        self.exit = net.exits[j] if is_open and not self.last else None
        self.j, self.rule, self.is_open = j, rule, is_open

    def forward(self, features: Tensor, state: Tensor | None = None) -> dict[str, Tensor]:
        features = self.stage(features)
        found = {} if self.last else {"next_features": features}
        if self.is_open:
            logits = features if self.exit is None else self.exit(features)
            decision = self.rule(self.j, full_precision(logits), state)
            found |= {"logits": logits, "prediction": decision.prediction, "leave": decision.leave}
            found |= {"confidence": decision.confidence.float(), "next_state": decision.state}
        else:
            found["next_state"] = state
        unused = ("leave", "next_state") if self.last else ()
        return {n: v for n, v in found.items() if v is not None and n not in unused}


def programs(net: EarlyExitNetwork, example: Tensor, rule: Rule) -> list[ExportedProgram]:
    """The stages of a network as programs of ``torch.export``, for the CPU.

    A program takes ``features`` ``(B, ...)`` and, after the first exit of a rule that remembers
    something, its ``state`` ``(B, ...)``.  It gives a dictionary: ``next_features``, at an open
    exit ``logits`` ``(B, K)``, ``prediction``, ``confidence`` and ``leave``, ``(B,)`` each, and
    ``next_state``.

    Args:
        example: a batch ``(B, ...)`` of the kind that is served; only its shape counts.

    Raises:
        TypeError: something else than an `EarlyExitNetwork`, or no tensor.
        ValueError: a network in training mode or not in single precision, an empty batch, a rule
            that does not fit, or a stage, an exit or a rule that cannot be exported.
    """
    return [program for program, _ in _exported(net, example, rule)]


def export(
    net: EarlyExitNetwork, folder: str | Path, example: Tensor, *, rule: Rule, int8: bool = False
) -> None:
    """Write a network and its rule as ONNX graphs, for `eenotes.serving.Served`.

    Each graph is run on the example, at two sizes of the batch, before the folder is valid.

    Args:
        folder: is made; the files of an earlier export there are replaced.
        example: a batch ``(B, ...)``, as in `programs`.
        int8: eight bits for weights and features, by the quantiser of onnxruntime.  The example
            gives the ranges: some hundred samples of the training set.  The answers change a
            little: choose thresholds anew from the logits of the graphs.

    Raises:
        TypeError, ValueError: as `programs`; or a graph that gives other numbers than its stage.
    """
    folder, files = Path(folder), {}
    exported = _exported(net, example, rule)
    macs = count_macs(net, example[:1].to(next(net.parameters(), example).device)).under(rule)
    for j, (program, given) in enumerate(exported):
        path = folder / f"stage_{j}.onnx"
        with write_atomically(path) as partial_file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own inside
            names = {"input_names": [*given], "output_names": _names(program)}
            torch.onnx.export(program, dynamo=True, verbose=False, **names).save(partial_file)
            _compare(partial_file, program, given)
            if int8:
                _quantise(partial_file, given)
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    facts: dict[str, Any] = {"format": serving.FORMAT, "rule": repr(rule), "files": files}
    facts |= {"shape": example.shape[1:], "dtype": str(exported[0][1]["features"].numpy().dtype)}
    facts |= {"relative_cost": (macs.cumulative / macs.backbone).tolist()}
    with write_atomically(folder / serving.FACTS) as partial_file:
        partial_file.write_text(json.dumps(facts, indent=1), encoding="utf-8")


@torch.no_grad()
def _exported(
    net: EarlyExitNetwork, example: Tensor, rule: Rule
) -> list[tuple[ExportedProgram, dict[str, Tensor]]]:
    """The program of each stage, with what it is given for the example."""
    net = unwrapped(net)
    if not isinstance(net, EarlyExitNetwork):
        raise TypeError(f"a {type(net).__name__} is no EarlyExitNetwork: only those are exported")
    other = {p.dtype for p in net.parameters() if p.is_floating_point()} - {torch.float32}
    if other:
        raise ValueError(f"the network has weights of {other.pop()}: export net.float()")
    net = copy.deepcopy(net).cpu()
    remove_masks(net)
    example = as_input(example.cpu(), net) if isinstance(example, Tensor) else example
    check_ready(net, example)
    if not len(example):
        raise ValueError("the example is an empty batch: give at least one sample")
    rule.check(net.num_exits)
    # A batch of one would be taken for a size that never changes.
    given = {"features": example if len(example) > 1 else torch.cat([example, example])}
    found = []
    for j, is_open in enumerate(open_exits(rule, net.num_exits)):
        run_stage(net, j, given["features"], is_open=is_open)  # refuses what is no classifier
        step = _Step(net, j, rule, is_open=is_open).eval()
        found.append((_program(step, given), given))
        answer = step(**given)
        given = {n.removeprefix("next_"): v for n, v in answer.items() if n.startswith("next_")}
    return found


def _program(step: _Step, given: dict[str, Tensor]) -> ExportedProgram:
    sizes = {name: {0: Dim.DYNAMIC} for name in given}
    try:
        return torch.export.export(step, (), given, dynamic_shapes=sizes)
    except Exception as error:  # the exporter raises errors of many kinds
        what = f"stage {step.j}, its exit or the rule {type(step.rule).__name__}"
        raise ValueError(
            f"{what} cannot be exported for every size of the batch: it decides by the values of a "
            f"tensor, or fixes the batch ({str(error).strip().splitlines()[0]})"
        ) from error


def _names(program: ExportedProgram) -> list[str]:
    """The names of a program's outputs, in the order in which it gives them."""
    return program.call_spec.out_spec.context


def _quantise(path: Path, given: dict[str, Tensor]) -> None:
    """Replace a graph by one of eight bits; what it is given here sets the ranges."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Once(CalibrationDataReader):
        batches = iter([{name: value.numpy() for name, value in given.items()}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    quantize_static(path, path, Once())


def _compare(path: Path, program: ExportedProgram, given: dict[str, Tensor]) -> None:
    """Refuse a graph that gives other numbers than the program, at two sizes of the batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for size in (len(given["features"]), 1):
        part = {name: value[:size] for name, value in given.items()}
        expected = program.module()(**part)
        found = session.run([*expected], {n: v.detach().numpy() for n, v in part.items()})
        for name, other in zip(expected, found, strict=True):
            one = expected[name].detach().numpy()
            if one.dtype == np.float32 and not np.allclose(one, other, 1e-3, 1e-3 * abs(one).max()):
                raise ValueError(f"{path.name} gives other {name} than PyTorch: not exported")
