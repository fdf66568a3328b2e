"""Checkpoints: networks and other tensors in safetensors files, which hold data and no code."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from eenotes.files import write_atomically
from eenotes.identity import described, difference


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged or belongs to another run, and is not used."""


def resume(
    path: Path, run: dict, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[float]:
    """Load what an earlier run has written with `save_run`, and return its history, or ``[]``.

    ``run`` is what the run follows from; a checkpoint of another run is not used.

    Warns:
        CheckpointWarning: the file is damaged, or belongs to another run or model.
    """
    if not path.exists():
        return []
    try:
        tensors, found = load_tensors(path)
        if found.get("run") != run:
            raise ValueError(f"it belongs to another run ({difference(found.get('run'), run)})")
        state = {
            name.removeprefix("model."): value
            for name, value in tensors.items()
            if name.startswith("model.")
        }
        if set(state) != set(model.state_dict()):
            raise ValueError("its tensors are not those of this model")
    except ValueError as error:
        warnings.warn(
            f"the checkpoint {path} is not used, training starts anew: {error}",
            CheckpointWarning,
            stacklevel=3,
        )
        return []
    model.load_state_dict(state)
    _load_optimizer(optimizer, tensors)
    return list(found["history"])


def save_run(
    path: Path, run: dict, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[float]
) -> None:
    """Write weights, the optimiser's state and the history of a run, for `resume`."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{key}": torch.as_tensor(value)
            for key, value in state.items()
            if value is not None
        }
    save_tensors(path, tensors, run=run, history=history)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def save_tensors(path: Path, tensors: dict[str, Tensor], **facts) -> None:
    """Write tensors of any shape ``(...)`` and JSON facts as one safetensors file.

    The file is complete under its name, or not there at all.
    """
    from safetensors.torch import save_file

    # clone: safetensors refuses tensors that share memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with write_atomically(path) as partial_file:
        save_file(tensors, partial_file, metadata={"facts": json.dumps(facts)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote: the tensors, each ``(...)`` as it was, and the facts.

    Raises:
        ValueError: if the file is damaged or was written by something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the file itself cannot be iterated over
            values = {name: file.get_tensor(name) for name in names}
            return values, json.loads(file.metadata()["facts"])
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or was not written by eenotes ({error}); delete it to build it anew"
        ) from error


def remember(path: Path, compute: Callable[[], dict[str, Tensor]], **facts) -> dict[str, Tensor]:
    """The tensors in a ``.safetensors`` file, if they were saved with the same facts, on the CPU.

    Otherwise they are those of ``compute()``, ``(...)`` by name, and saved there.  The facts are
    what they follow from: settings, and whatever `identity.described` knows, such as data sets and
    networks.

    Warns:
        CheckpointWarning: the file is damaged or holds other facts; it is written anew.
    """
    facts = described(facts)
    if Path(path).exists():
        try:
            tensors, found = load_tensors(path)
            if found == facts:
                return tensors
            raise ValueError(f"it follows from something else ({difference(found, facts)})")
        except ValueError as error:
            warnings.warn(
                f"{path} is not used and computed anew: {error}", CheckpointWarning, stacklevel=2
            )
    tensors = {name: value.detach().cpu() for name, value in compute().items()}
    save_tensors(path, tensors, **facts)
    return tensors
