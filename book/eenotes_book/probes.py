"""Probes: a chapter's experiment in miniature, whose numbers show what the code means.

Every chapter's folder has a module ``probe`` with a function ``probe()``.  It runs the chapter's
own experiment code on seeded miniature data, in float64 on the CPU, and returns about a hundred
numbers by name.  The values of the present code are kept beside it in ``probe.json``.  A rename, a
move or a faster path leaves them as they are; another formula, seed, default or order of the data
does not.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from eenotes_book.chapters import folder

Values = dict[str, list[float]]
TOLERANCE = 1e-4  # relative; beside numbers near zero, absolute


def run(chapter: str) -> Values:
    """The numbers of a chapter's probe, with the present code.

    Args:
        chapter: ``"02-e2cm"``.

    Raises:
        ValueError: for an unknown chapter, or a probe whose numbers are not finite.
    """
    probe = import_module(f"eenotes_book.{folder(chapter)}.probe").probe
    with _reproducible():
        found = probe()
    values = {name: _numbers(value) for name, value in found.items()}
    broken = [name for name, numbers in values.items() if not all(map(math.isfinite, numbers))]
    if broken:
        names = ", ".join(broken)
        raise ValueError(f"the probe of {chapter} gave numbers that are not finite: {names}")
    return values


def stored(chapter: str) -> Values:
    """The numbers in the chapter's ``probe.json``."""
    return json.loads(path_of(chapter).read_text(encoding="utf-8"))


def path_of(chapter: str) -> Path:
    """Where the numbers of a chapter's probe are kept."""
    package = import_module(f"eenotes_book.{folder(chapter)}")
    return Path(package.__file__).parent / "probe.json"


def moved(
    before: Mapping[str, Sequence[float]],
    now: Mapping[str, Sequence[float]],
    *,
    tolerance: float = TOLERANCE,
) -> list[str]:
    """A sentence for each name whose numbers differ; empty if two runs of a probe agree."""
    sentences = [f"{name} is only in one of them" for name in sorted(before.keys() ^ now.keys())]
    for name in before.keys() & now.keys():
        old = torch.tensor(before[name], dtype=torch.float64)
        new = torch.tensor(now[name], dtype=torch.float64)
        if old.shape != new.shape:
            sentences.append(f"{name} has {len(new)} numbers instead of {len(old)}")
        elif not torch.allclose(new, old, rtol=tolerance, atol=tolerance):
            worst = int((new - old).abs().argmax())
            sentences.append(f"{name}[{worst}] is {new[worst]:.6g} instead of {old[worst]:.6g}")
    return sorted(sentences)


def digest(values: torch.Tensor | Sequence) -> list[float]:
    """Two numbers for many: root mean square, and the mean with growing weights.

    The second one sees sign and order.

    Args:
        values: numbers of any shape ``(...)``.
    """
    flat = torch.as_tensor(values).double().flatten()
    ramp = torch.linspace(0.5, 1.5, len(flat), dtype=torch.float64)
    return [flat.square().mean().sqrt().item(), (ramp * flat).mean().item()]


class Doubles(TorchFunctionMode):
    """Where code names float32, it gets float64.

    Class means do not work otherwise when float64 is the default, and a processor that multiplies
    bfloat16 would train float32 networks in it.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call the function with float64 in place of float32."""
        func = torch.Tensor.double if func is torch.Tensor.float else func
        named = {name: _wider(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wider, args), **named)


def _wider(value):
    return torch.float64 if value is torch.float32 else value


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors are of this type; afterwards of the type before."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _numbers(value) -> list[float]:
    values = torch.as_tensor(value, dtype=torch.float64).flatten().tolist()
    return [float(f"{number:.12g}") for number in values]


@contextmanager
def _reproducible() -> Iterator[None]:
    """Float64 on one thread of the CPU, seeded, with an empty cache at scale ``tiny``.

    Afterwards all is as before.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    state = torch.get_rng_state()
    with tempfile.TemporaryDirectory() as cache:
        changed = {"EENOTES_CACHE": cache, "EENOTES_STEPS": f"{cache}/steps"}
        changed |= {"EENOTES_SCALE": "tiny", "ACCELERATE_USE_CPU": "true"}
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.set_rng_state(state)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
