"""What a run follows from, as JSON: settings in words; data, weights and functions as digests."""

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset

from eenotes.tracing import kept_random_state, seed_everything

_ITEMS = 128  # of a data set that are read
_LONG = 1000  # characters of a value that a message can still show


def described(value: Any) -> Any:
    """JSON that is the same for equal values, in this process and in others.

    A function of a module is known by its name, a lambda or an inner function by its code; both by
    what they were given, except for lists, dictionaries and sets that an inner function takes notes
    in. Other objects are known by the name of their class.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        return _hash(_content(value))
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} {fingerprint(value)}"
    if isinstance(value, DataLoader):
        return described(value.dataset)
    if isinstance(value, Dataset) and not isinstance(value, IterableDataset):
        return data_digest(value)
    text = json.dumps(_parts(value))
    return json.loads(text) if len(text) <= _LONG else _hash(text.encode())


def data_digest(dataset: Dataset) -> str:
    """A hash of a data set's length and of up to 128 of its items; random transforms are seeded."""
    count = len(dataset)
    rows = torch.linspace(0, count - 1, min(count, _ITEMS)).round().long().tolist()
    with kept_random_state():
        seed_everything(0)
        leaves = [leaf for row in rows for leaf in pytree.tree_leaves(dataset[row])]
    return _hash(str(count).encode(), *map(_content, leaves))


def fingerprint(module: nn.Module) -> str:
    """A hash of every parameter and buffer: as long as it is the same, no bit of them changes."""
    state = module.state_dict().items()
    return _hash(*(part for name, value in state for part in (name.encode(), _raw(value))))


def difference(found: Any, expected: dict) -> str:
    """In words: in what the facts that were ``found`` are not those ``expected``."""
    found = found if isinstance(found, dict) else {}
    names = [name for name in expected | found if found.get(name) != expected.get(name)]
    return "; ".join(f"{name}: {found.get(name)} instead of {expected.get(name)}" for name in names)


def _parts(value: Any) -> Any:
    """The parts of a container or a function, described."""
    if isinstance(value, list | tuple):
        return [described(part) for part in value]
    if isinstance(value, dict):
        return {str(key): described(part) for key, part in value.items()}
    if isinstance(value, partial):
        return {_name(value.func): described([value.func, value.args, value.keywords])}
    if isinstance(value, MethodType):
        return [value.__name__, described(value.__self__)]
    if isinstance(value, FunctionType):
        given = [*(value.__defaults__ or ()), value.__kwdefaults__ or {}]
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        given += [part for part in cells if not isinstance(part, list | dict | set)]  # take notes
        code = _code(value.__code__) if "<" in value.__qualname__ else ""
        return [value.__name__, code, *map(described, given)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [type(value).__name__, described(fields)]
    return str(value) if isinstance(value, Path | torch.device | torch.dtype) else _name(value)


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _code(code: CodeType) -> str:
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return _hash(code.co_code, repr((constants, code.co_names)).encode())


def _content(leaf: Any) -> bytes:
    """The bytes of an item's part: a tensor, an array, a picture, or a number."""
    if isinstance(leaf, Tensor):
        return f"{leaf.dtype} {tuple(leaf.shape)}".encode() + _raw(leaf)
    if hasattr(leaf, "tobytes"):
        return f"{getattr(leaf, 'shape', '')}".encode() + leaf.tobytes()
    return repr(leaf).encode()


def _raw(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
