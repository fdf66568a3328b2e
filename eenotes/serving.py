"""Serving a network that `eenotes.shipping` has exported: NumPy and onnxruntime, and no PyTorch.

The folder holds one ONNX graph per stage, with its exit and the rule's decision inside.  Samples
that leave are taken out of the batch between two graphs.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMAT = 1
FACTS = "network.json"


class Answer(NamedTuple):
    """The result for N samples."""

    prediction: np.ndarray  #: ``(N,)`` int64
    exit_index: np.ndarray  #: ``(N,)`` int64, from 0
    confidence: np.ndarray  #: ``(N,)`` float32, the rule's, at the exit that the sample takes


class Served:
    """An exported network, called with a batch.

    ``relative_cost`` ``(J,)`` is the cost of a sample at each exit (1.3); 1.0 is the backbone
    without exits.

    Args:
        folder: what `eenotes.shipping.export` has written.
        threads: for one operation; by default as many as there are processor cores.

    Raises:
        ValueError: no such folder, one of another format, or a graph that is missing or damaged.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None):
        import onnxruntime

        facts = _read(Path(folder))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self.sessions = [
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for graph in facts["graphs"]
        ]
        self.relative_cost = np.array(facts["relative_cost"])
        self.shape, self.dtype = tuple(facts["shape"]), np.dtype(facts["dtype"])
        self._outputs = [[out.name for out in session.get_outputs()] for session in self.sessions]
        self._inputs = [[given.name for given in session.get_inputs()] for session in self.sessions]

    def __call__(self, x: np.ndarray) -> Answer:
        """Classify a batch ``(N, ...)``, as `eenotes.predict` does, up to rounding.

        Raises:
            ValueError: an empty batch, samples of another shape, or an exit that gives NaN.
            TypeError: no array, or one of another type of number.
        """
        self._check(x)
        active, last = np.arange(len(x)), len(self.sessions) - 1
        prediction, exit_index = np.empty_like(active), np.empty_like(active)
        confidence, given = np.empty(len(x), np.float32), {"features": x}
        for j, session in enumerate(self.sessions):
            found = dict(zip(self._outputs[j], session.run(None, given), strict=True))
            if np.isnan(found.get("confidence", 0)).any():
                raise ValueError(f"exit {j} gave NaN: look at the inputs")
            leave = found.get("leave", np.full(len(active), j == last))  # a closed exit has none
            if leave.any():
                gone = active[leave]
                exit_index[gone] = j
                prediction[gone] = found["prediction"][leave]
                confidence[gone] = found["confidence"][leave]
                found = {name: value[~leave] for name, value in found.items()}
                active = active[~leave]
            if not len(active):
                break
            given = {name: found[f"next_{name}"] for name in self._inputs[j + 1]}
        return Answer(prediction, exit_index, confidence)

    def _check(self, x: np.ndarray) -> None:
        if not isinstance(x, np.ndarray) or x.dtype != self.dtype:
            kind = getattr(x, "dtype", type(x).__name__)
            raise TypeError(f"inputs must be an array of {self.dtype}, got {kind}")
        if x.shape[1:] != self.shape or not len(x):
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"inputs must be a batch (N, {wanted}), N > 0, got {x.shape}")


def _read(folder: Path) -> dict:
    """The facts of a folder, and its graphs as bytes; refused unless all of it fits."""
    path = folder / FACTS
    if not path.is_file():
        raise ValueError(f"there is no {path}: export a network to the folder first")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path} has format {facts.get('format')}, this version reads {FORMAT}")
    facts["graphs"] = []
    for name, digest in facts["files"].items():
        graph = (folder / name).read_bytes() if (folder / name).is_file() else b""
        if hashlib.sha256(graph).hexdigest() != digest:
            raise ValueError(f"{folder / name} is missing, or not the graph that was exported")
        facts["graphs"].append(graph)
    return facts
