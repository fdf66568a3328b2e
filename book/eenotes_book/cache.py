"""What was computed once: trained networks, and the finished steps of long studies.

An entry is named by what it follows from: settings, seed, data, and a revision.  Code is not part
of the name, so a rename or a speed-up keeps what was trained; a change that shall train anew raises
`REVISION` here, or that of the chapter.

Environment: ``EENOTES_CACHE`` (default: ``~/.cache/eenotes``), ``EENOTES_STEPS`` (default:
``steps`` in there).
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from eenotes import checkpoints, identity
from eenotes.files import write_atomically

REVISION = 1  # of training, models and data together: raise it when networks shall be trained anew


def folder() -> Path:
    """Where trained networks are kept."""
    chosen = os.environ.get("EENOTES_CACHE")
    return Path(chosen or Path.home() / ".cache" / "eenotes").expanduser()


def steps_folder() -> Path:
    """Where the finished steps of studies are kept."""
    chosen = os.environ.get("EENOTES_STEPS")
    return Path(chosen).expanduser() if chosen else folder() / "steps"


def network(name: str, *, seed: int, **facts) -> Path:
    """The file for a network ``name``, trained with these facts; other facts give another file.

    Raises:
        TypeError: for facts that are not numbers, words, lists, dictionaries or namespaces of them.
    """
    return folder() / f"{name}-seed{seed}-{_key([REVISION, seed, facts])}.safetensors"


def remember(path: Path, compute: Callable[[], dict[str, Tensor]], **facts) -> dict[str, Tensor]:
    """The tensors in a ``.safetensors`` file, if they were saved with the same facts, on the CPU.

    Otherwise they are those of ``compute()``, ``(...)`` by name, and saved there.  The facts are
    all that they follow from: settings, data sets, networks (see `eenotes.identity.described`).

    Warns:
        CheckpointWarning: the file is damaged or holds other facts; it is written anew.
    """
    facts = identity.described(facts)
    loaded = checkpoints.load_of_run(path, facts, otherwise="it is computed anew")
    if loaded is not None:
        return loaded[0]
    tensors = {name: value.detach().cpu() for name, value in compute().items()}
    checkpoints.save_tensors(path, tensors, **facts)
    return tensors


def step(name: str, compute: Callable[[], dict], *, revision: int, **facts) -> dict:
    """The numbers of ``compute()``, or those that an earlier run kept under the same facts.

    Args:
        name: of the step; the file is called after it.
        compute: gives numbers that JSON can hold.
        revision: of the experiment, from the chapter's folder.
        facts: what the numbers follow from, as in `network`.

    Returns:
        The numbers, and ``"seconds"``, what the step took when it ran.

    Raises:
        TypeError: as `network`.
        ValueError: if the file holds other facts, or is damaged.
    """
    found = kept(name, revision=revision, **facts)
    if found is not None:
        return found
    start = time.perf_counter()
    numbers = compute() | {"seconds": round(time.perf_counter() - start, 1)}
    path, known = _step_file(name, {"revision": revision, **facts})
    write_json(path, {"facts": known, "numbers": numbers})
    return _read(path, known)


def kept(name: str, *, revision: int, **facts) -> dict | None:
    """The numbers of a step that has run, as `step` gives them; ``None`` if it has not."""
    path, known = _step_file(name, {"revision": revision, **facts})
    return _read(path, known) if path.exists() else None


def write_json(path: Path, content: Any) -> Path:
    """Write JSON: complete under its name, or not there at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with write_atomically(path) as partial_file:
        partial_file.write_text(text + "\n", encoding="utf-8")
    return path


def _step_file(name: str, facts: dict) -> tuple[Path, dict]:
    """The file of a step, and its facts as JSON gives them back."""
    known = json.loads(_text(facts))
    return steps_folder() / f"{name}-{_key(known)}.json", known


def _read(path: Path, facts: dict) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        numbers, kept = found["numbers"], found["facts"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): delete it, and the step runs again"
        ) from error
    if kept != facts:
        raise ValueError(f"{path} holds the step of other facts, {kept}: delete it or move it away")
    return numbers


def _key(facts: Any) -> str:
    return hashlib.sha256(_text(facts).encode()).hexdigest()[:12]


def _text(facts: Any) -> str:
    """JSON that is the same for equal facts."""

    def plain(fact: Any) -> dict:
        if isinstance(fact, SimpleNamespace) or dataclasses.is_dataclass(fact):
            return vars(fact)
        raise TypeError(
            "a fact must be a number, a word, a list, a dictionary or a namespace, "
            f"got {type(fact).__name__}: {fact!r}"
        )

    return json.dumps(facts, sort_keys=True, default=plain)
