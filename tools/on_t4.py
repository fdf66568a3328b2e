"""What a chapter would take on a T4, the GPU of a free Colab: an estimate, made without one.

    python tools/on_t4.py                every chapter at `reduced`, into tools/on_t4.json
    python tools/on_t4.py --only 2       one chapter; the others stay as they are in that file

The notebook runs on the device that stands in for an accelerator, `tests/standin_device.py`, which
is also told whenever two devices mix.  Every operation there is counted: what it multiplies, what
it reads and writes, what is in memory.  Of every training two steps run, and the others
count as much as the second.  Assertions are left out, as the networks have learned nothing.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import chapters

KEPT = Path(__file__).with_suffix(".json")
# A T4 by its data sheet (8.1 TFLOP/s in single precision, 320 GB/s), times what small networks
# are assumed to reach; and what Python is assumed to need to start an operation.
FLOPS = 8.1e12 * 0.4
BYTES = 320e9 * 0.7
START = 15e-6  # seconds


@dataclass
class Counts:
    """What a chapter asks of the device."""

    seconds: float = 0.0  #: estimated
    macs: float = 0.0
    bytes: float = 0.0
    operations: float = 0.0
    steps: float = 0.0  #: of training

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            *(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Watch:
    """Counts operations and the memory of the device."""

    def __init__(self) -> None:
        self.counts, self.live, self.memory, self.most = Counts(), {}, 0, 0

    def __call__(self, function, args, kwargs, result) -> None:
        import torch
        from torch.utils import _pytree as pytree
        from torch.utils.flop_counter import flop_registry

        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        given = [
            leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        ]
        known = {t.untyped_storage()._cdata for t in given}
        in_place = function._schema.is_mutable
        if not in_place and all(t.untyped_storage()._cdata in known for t in made):
            return  # a view
        for t in [*given, *made]:
            self._hold(t.untyped_storage())
        moved = sum(t.numel() * t.element_size() for t in [*given, *made])
        count = flop_registry.get(function.overloadpacket)
        flops = count(*args, **kwargs, out_val=result) if count else 0
        seconds = max(flops / FLOPS, moved / BYTES, START)
        self.counts.add(Counts(seconds, flops / 2, moved, 1))

    def _hold(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.live:
            self.live[key] = size
            self.memory += size
            self.most = max(self.most, self.memory)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.memory -= self.live.pop(key, 0)


class ReadAhead(deque):
    """As long as anyone asks: batches that are not read leave nothing in it."""

    def popleft(self):
        return super().popleft() if self else []


def shorten_training(watch: Watch) -> None:
    """Of every training two steps run; the others are counted like the second."""
    from eenotes import training

    fit, step, bar = training.fit, training._step, training.progress_bar
    ends, last = [], []  # the counts after the first two steps; the batch in hand

    def short_fit(model, dataset, *, augment=None, **options):
        ends.clear()

        @functools.wraps(augment)
        def twice(x, generator):
            return augment(x, generator) if len(ends) < 2 else x

        return fit(model, dataset, augment=augment and twice, **options)

    def short_step(*args):
        if len(ends) < 2:
            short_step.value = step(*args)
            watch.counts.steps += 1
            ends.append(Counts(**vars(watch.counts)))
        else:
            watch.counts.add(ends[1] - ends[0])
        return short_step.value

    def batches(iterable, title, **options):
        if not title.startswith("epoch"):
            yield from bar(iterable, title, **options)
            return
        read = iter(iterable)
        for _ in range(len(iterable)):
            if len(ends) < 2:
                last[:] = [next(read)]
            yield last[0]  # the second again and again

    training.fit, training._step, training.progress_bar = short_fit, short_step, batches
    training.deque = ReadAhead


class NoAssertions(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.Pass:
        return ast.copy_location(ast.Pass(), node)


def run(name: str, scale: str, watch: Watch) -> list[str]:
    """Execute a chapter's code cells in this process; what went wrong, a line each."""
    from IPython.core.interactiveshell import InteractiveShell

    shell, said = InteractiveShell.instance(), []
    shell.ast_transformers.append(NoAssertions())
    cells = chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            before, start = watch.counts.seconds, time.process_time()
            error = shell.run_cell("".join(cell["source"])).error_in_exec
            took = f"{watch.counts.seconds - before:.1f} s, {time.process_time() - start:.0f} here"
            print(f"cell {number}: {took}", file=sys.stderr, flush=True)
            if error is not None:
                said.append(f"cell {number}: {type(error).__name__}: {error}")
    return said


def estimate(name: str, scale: str) -> dict:
    """Run a chapter on the stand-in, with nothing that could be mistaken for real afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        results = shutil.copytree(chapters.RECORDS, Path(folder) / "results")
        os.environ |= chapters.environment(scale, results)
        os.environ |= {"EENOTES_CACHE": folder, "MPLBACKEND": "agg", "CUDA_VISIBLE_DEVICES": ""}
        os.environ.pop("EENOTES_STEPS", None)
        sys.path.insert(0, str(chapters.ROOT / "tests"))
        import standin_device

        watch = Watch()
        standin_device.register()
        standin_device.WATCHERS.append(watch)
        with standin_device.as_accelerator():
            shorten_training(watch)
            said = run(name, scale, watch)
    return asdict(watch.counts) | {"memory": watch.most, "said": said}


# --- the first page

MARKER = "<!-- t4 -->"  # the line of book/index.md that is replaced


def fill(page: str) -> str:
    """The first page with what is estimated for `reduced`, a row a chapter.

    Raises:
        ValueError: unless the page has the line `MARKER` exactly once.
    """
    if page.splitlines().count(MARKER) != 1:
        raise ValueError(f"the page must have exactly one line {MARKER}")
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    rows = [row(name, found[name]) for name in chapters.chapters() if name in found]
    return page.replace(MARKER, "\n".join([WORDS, "", *HEAD, *rows]) if rows else "")


WORDS = (
    "At `reduced` on a T4, which Colab lends: **an estimate, nothing of this was measured**. "
    "The operations of every chapter were counted on a device that stands in for a GPU. One takes "
    f"as long as its arithmetic at {FLOPS / 1e12:.1f} TFLOP/s, its reading and writing at "
    f"{BYTES / 1e9:.0f} GB/s, or its start, {START * 1e6:.0f} microseconds, whichever is longest. "
    "To this come the first download, and what runs on the processor: reading data, searching "
    "thresholds, drawing."
)
HEAD = (
    "| chapter | on the GPU | memory there | steps of training | MACs |",
    "|---|---|---|---|---|",
)


def row(name: str, found: dict) -> str:
    title = f"[{int(name[:2])}]({name}.ipynb)"
    time = "under a minute" if found["seconds"] < 60 else f"{found['seconds'] / 60:.0f} min"
    memory = max(0.1, found["memory"] / 1e9)
    numbers = f"{found['steps']:,.0f} | {found['macs'] / 1e12:,.1f}·10¹²"
    return f"| {title} | {time} | {memory:.1f} GB | {numbers} |"


# --- all of it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", metavar="N", help="one chapter, by number or name")
    parser.add_argument("--scale", choices=chapters.SCALES, default="reduced")
    options = parser.parse_args()
    names = chapters.select(options.only)
    if len(names) > 1:  # each in a process of its own
        commands = [
            f"{sys.executable} {__file__} --scale {options.scale} --only {n}" for n in names
        ]
        return max(os.waitstatus_to_exitcode(os.system(command)) for command in commands)
    found = estimate(names[0], options.scale)
    print(json.dumps(found, indent=1), file=sys.stderr)
    if options.scale == "reduced":
        kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
        KEPT.write_text(json.dumps(kept | {names[0]: found}, indent=1) + "\n", encoding="utf-8")
    return int(bool(found["said"]))


if __name__ == "__main__":
    sys.exit(main())
