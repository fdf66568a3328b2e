"""Checkpoints: networks and other tensors in safetensors files, which hold data and no code."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn, optim

from eenotes.files import write_atomically
from eenotes.identity import difference


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged or belongs to another run, and is not used."""


def resume(path: Path, run: dict, model: nn.Module, optimizer: optim.Optimizer) -> list[float]:
    """Load what `save_run` wrote for the same ``run``, and return its history, or ``[]``.

    Warns:
        CheckpointWarning: the file is damaged, or belongs to another run or model.
    """
    names = {f"model.{name}": name for name in model.state_dict()}
    loaded = load_of_run(path, run, otherwise="training starts anew", key="run", needs=names)
    if loaded is None:
        return []
    tensors, found = loaded
    model.load_state_dict({name: tensors[stored] for stored, name in names.items()})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return list(found["history"])


def save_run(
    path: Path, run: dict, model: nn.Module, optimizer: optim.Optimizer, history: list[float]
) -> None:
    """Write weights, the optimiser's state and the history of a run, for `resume`."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        kept = {key: value for key, value in state.items() if value is not None}
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(kept[key]) for key in kept}
    save_tensors(path, tensors, run=run, history=history)


def load_of_run(
    path: Path, expected: dict, *, otherwise: str, key: str | None = None, needs: Iterable[str] = ()
) -> tuple[dict[str, Tensor], dict] | None:
    """What `load_tensors` gives, each tensor ``(...)``, if its facts are those ``expected``.

    With a ``key`` only the fact of that name counts; the file ``needs`` tensors of some names.  It
    is ``None`` if there is no such file, and so, with what follows ``otherwise``, if it is another.

    Warns:
        CheckpointWarning: the file is damaged or holds other facts.
    """
    if not Path(path).exists():
        return None
    try:
        tensors, facts = load_tensors(path)
        found = facts.get(key) if key else facts
        if found != expected:
            raise ValueError(f"it follows from another run ({difference(found, expected)})")
        if not set(needs) <= set(tensors):
            raise ValueError(f"it lacks tensors: {sorted(set(needs) - set(tensors))}")
    except ValueError as error:
        message = f"{path} is not used, {otherwise}: {error}"
        warnings.warn(message, CheckpointWarning, stacklevel=3)
        return None
    return tensors, facts


def save_tensors(path: Path, tensors: dict[str, Tensor], **facts) -> None:
    """Write tensors of any shape ``(...)`` and JSON facts as one safetensors file, atomically."""
    from safetensors.torch import save_file

    # clone: safetensors refuses tensors that share memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with write_atomically(path) as partial_file:
        save_file(tensors, partial_file, metadata={"facts": json.dumps(facts)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote: the tensors, each ``(...)`` as it was, and the facts.

    Raises:
        ValueError: the file is damaged or was written by something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the file itself cannot be iterated over
            values = {name: file.get_tensor(name) for name in names}
            return values, json.loads(file.metadata()["facts"])
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        what = f"{path} is damaged or was not written by eenotes"
        raise ValueError(f"{what} ({error}); delete it to build it anew") from error
