"""Execute the book's chapters and build its pages.

    python tools/chapters.py run [--scale tiny] [--only 2] [--force]   execute what has changed
    python tools/chapters.py build [--scale tiny]                      the pages, from the copies
    python tools/chapters.py book [--scale tiny]                       both
    python tools/chapters.py status [--scale tiny]                     which chapters are current

A chapter is executed, through nbmake, once per state of what it depends on (see `chapter_key`).
The pages are built by `tools/pages.py`.
What is kept, under `_build/`:

    executed/<scale>/<chapter>.ipynb, .key    the executed copy and what it was made from
    executed/<scale>/<chapter>.record.json    the record that this execution wrote
    executed/<scale>/timings.json             seconds per chapter
    failed/<scale>/<chapter>.ipynb            the last execution that failed, with its traceback
    cache/                                    EENOTES_CACHE: trained networks
    book-src/, html/                          the book with executed chapters; the finished pages
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import side_by_side
import yaml

from eenotes.files import write_atomically
from eenotes_book.cache import write_json

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CONFIG = ROOT / "_config.yml"
BUILD = ROOT / "_build"
CACHE: Path | None = None  # trained networks; otherwise a folder in BUILD
RECORDS = BOOK / "eenotes_book" / "records"
HTML = BUILD / "html"
SCALES = ("tiny", "reduced", "full")
KERNEL = "eenotes"
# Seconds, for a cell that hangs: no slow or busy machine meets them.
CELL_TIMEOUT = {"tiny": 3 * 3600, "reduced": 24 * 3600, "full": 7 * 24 * 3600}
# One thread: two that work on small tensors wait for each other at every operation.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


# --- which chapters


def toc_files() -> list[str]:
    """Every page of the book in reading order, as named in `book/_toc.yml`."""

    def walk(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (str(node[key]) for key in ("root", "file") if key in node)
            for key in ("parts", "chapters", "sections"):
                yield from walk(node.get(key))
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    return list(walk(yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))))


def chapters() -> list[str]:
    """The executable chapters: names in the table of contents that are notebooks, as `02-e2cm`."""
    names = [name.removesuffix(".ipynb") for name in toc_files()]
    return [name for name in names if (BOOK / f"{name}.ipynb").is_file()]


def select(wanted: str | None) -> list[str]:
    """The chapters named by `wanted`: a number ("2"), a name, or everything."""
    if not wanted:
        return chapters()
    for name in chapters():
        number = re.match(r"\d+", name)
        if wanted.removesuffix(".ipynb") == name or (
            number and wanted.isdigit() and int(number[0]) == int(wanted)
        ):
            return [name]
    raise SystemExit(f"no chapter {wanted!r} in book/_toc.yml; there are: {', '.join(chapters())}")


# --- what a chapter is made from


def package_files(scale: str) -> list[Path]:
    """The package's code, settings, tables and committed records.

    Left out are the records that the runs themselves write, those of `tiny` and of this scale:
    otherwise every execution would make itself out of date.
    """
    written_by_runs = {RECORDS / name for name in ("tiny", scale)}
    files = [*(ROOT / "eenotes").rglob("*"), *(BOOK / "eenotes_book").rglob("*")]
    return sorted(
        p
        for p in set(files)
        if p.is_file() and not written_by_runs & set(p.parents) and is_source(p)
    )


def is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and not path.name.startswith(".")


def data_folder() -> Path:
    """Where real data lie: EENOTES_DATA, else `data/` in the repository."""
    return Path(os.environ.get("EENOTES_DATA") or ROOT / "data").expanduser().resolve()


def data_identity(scale: str) -> str:
    """What data a run at this scale reads: embedded, downloaded, or files by name and size."""
    if scale == "tiny":
        return "embedded"
    if os.environ.get("EENOTES_DOWNLOAD") == "1":
        return "downloaded"
    root = data_folder()
    listing = sorted(
        f"{p.relative_to(root)} {p.stat().st_size}" for p in root.rglob("*") if p.is_file()
    )
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def chapter_key(chapter: str, scale: str) -> str:
    """A hash over everything that an execution depends on."""
    digest = hashlib.sha256()
    for path in [BOOK / f"{chapter}.ipynb", *package_files(scale), ROOT / "constraints.txt"]:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(f"{platform.python_version()}\0{scale}\0{data_identity(scale)}".encode())
    return digest.hexdigest()


def executed(chapter: str, scale: str) -> Path:
    return BUILD / "executed" / scale / f"{chapter}.ipynb"


def stamp(chapter: str, scale: str) -> dict:
    """Key and seconds of the last good execution; empty if there was none."""
    path = executed(chapter, scale).with_suffix(".key")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def is_current(chapter: str, scale: str) -> bool:
    """Whether the kept execution was made from the present state."""
    there = executed(chapter, scale).is_file()
    return there and stamp(chapter, scale).get("key") == chapter_key(chapter, scale)


# --- executing


def environment(scale: str, results: Path) -> dict[str, str]:
    """The environment a chapter runs in; its records go to `results`.

    At `tiny` it has one thread, and nothing outside this machine can be reached by the usual ways.
    """
    env = dict(os.environ)
    env.update(
        EENOTES_SCALE=scale,
        EENOTES_CACHE=str(CACHE or BUILD / "cache"),
        JUPYTER_PREFER_ENV_PATH="1",
        EENOTES_RESULTS=str(results),
    )
    env.pop("MPLBACKEND", None)  # the notebook's own
    if scale == "tiny":
        nowhere = "http://127.0.0.1:9"
        env.update(
            dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere)
        )
        env.update(dict.fromkeys(THREADS, "1"))
        env.update(no_proxy="localhost,127.0.0.1", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        for name in ("EENOTES_DATA", "EENOTES_DOWNLOAD"):
            env.pop(name, None)
    else:
        env["EENOTES_DATA"] = str(data_folder())
    return env


def nbmake(notebook: Path, scale: str, results: Path) -> float | None:
    """Execute `notebook` in place, with its records in `results`.

    Returns:
        Seconds of processor time; `None` if a cell failed, after printing what it said.
    """
    options = f"-p no:cacheprovider -c {os.devnull} --no-header --nbmake --overwrite -v"
    options += f" --nbmake-kernel={KERNEL} --nbmake-timeout={CELL_TIMEOUT[scale]}"
    command = [sys.executable, "-m", "pytest", *options.split(), f"--rootdir={notebook.parent}"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        child = subprocess.Popen(
            [*command, notebook.name],
            cwd=notebook.parent,
            env=environment(scale, results),
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            print(said.read(), flush=True)
    return None if child.returncode else used.ru_utime + used.ru_stime


def put_in_place(made: Path, target: Path) -> None:
    """Copy a finished file to its place in one step: there is the old one or the new one."""
    with write_atomically(target) as new:
        shutil.copyfile(made, new)


def execute(chapter: str, scale: str) -> bool:
    """Execute one chapter on a copy, and put the copy in place only if every cell ran.

    The copy runs in the system's temporary folder: nbmake passes over whatever has `_build` in its
    path, and a chapter that needs the repository around it fails here rather than in Colab.
    """
    # taken before: a change made meanwhile makes the result out of date
    key = chapter_key(chapter, scale)
    with tempfile.TemporaryDirectory(prefix=f"eenotes-{scale}-") as folder:
        copy = Path(shutil.copy(BOOK / f"{chapter}.ipynb", folder))
        # Results of its own: what lies there afterwards is this execution's, and a failed one
        # leaves no record anywhere.
        results = Path(folder) / "results"
        if records_folder().is_dir():
            shutil.copytree(records_folder(), results, ignore=shutil.ignore_patterns(scale))
        start = time.monotonic()
        processor = nbmake(copy, scale, results)
        seconds = round(time.monotonic() - start, 1)
        if processor is None:
            failed = BUILD / "failed" / scale / copy.name
            put_in_place(copy, failed)
            place = failed.relative_to(ROOT)
            print(f"chapter {chapter} · {scale}: FAILED after {seconds} s; its outputs: {place}")
            return False
        target = executed(chapter, scale)
        # never a key beside another execution's copy or record
        target.with_suffix(".key").unlink(missing_ok=True)
        put_in_place(copy, target)
        keep_record(results / scale / f"{chapter}.json", chapter, scale)
        taken = {"seconds": seconds, "processor": round(processor, 1)}
        taken["finished"] = int(time.time())
        write_json(target.with_suffix(".key"), {"key": key} | taken)
    report_stderr(target)
    print(f"chapter {chapter} · {scale}: executed in {seconds} s", flush=True)
    return True


def records_folder() -> Path:
    """Where records lie, as in `eenotes_book.records.results_folder`."""
    return Path(os.environ.get("EENOTES_RESULTS") or RECORDS)


def keep_record(made: Path, chapter: str, scale: str) -> None:
    """Keep the record of an execution, if it wrote one, beside its copy and where records lie."""
    beside = record_of(chapter, scale)
    beside.unlink(missing_ok=True)
    if made.is_file():
        put_in_place(made, beside)
        put_in_place(made, records_folder() / scale / made.name)


def record_of(chapter: str, scale: str) -> Path:
    return executed(chapter, scale).with_suffix(".record.json")


def report_stderr(notebook: Path) -> None:
    """Say what a chapter wrote to stderr: the book does not print it, and it should be read."""
    for number, cell in enumerate(read_notebook(notebook)["cells"]):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                last = "".join(output["text"]).strip().splitlines()[-1:]
                print(f"  note: cell {number} wrote to stderr: {''.join(last)[:150]}")


def run(names: list[str], scale: str, *, force: bool = False) -> bool:
    """Execute what is not up to date; at `tiny` as many chapters at once as fit the machine.

    Goes on after a failure, so that one run shows every broken chapter.
    """
    due = [name for name in names if force or not is_current(name, scale)]
    for name in [name for name in names if name not in due]:
        seconds = stamp(name, scale)["seconds"]
        print(f"chapter {name} · {scale}: unchanged, its execution took {seconds} s")
    at_once = min(len(due), side_by_side.workers()) if scale == "tiny" else 1
    if due:
        print(f"executing {', '.join(due)} · {scale}, {at_once} at once …", flush=True)
    known = {name: stamp(name, scale).get("seconds") for name in due}
    expected = {name: seconds for name, seconds in known.items() if seconds}
    jobs = {name: partial(execute, name, scale) for name in due}
    good = not due or side_by_side.run(jobs, expected, at_once=at_once)
    write_timings(scale)
    return good


def write_timings(scale: str) -> None:
    timings = {name: stamp(name, scale) for name in chapters() if is_current(name, scale)}
    write_json(BUILD / "executed" / scale / "timings.json", timings)


def read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# --- command line


def status(names: list[str], scale: str) -> bool:
    for name in names:
        state = "out of date" if stamp(name, scale) else "not executed"
        state = "up to date" if is_current(name, scale) else state
        print(f"{name:32} {scale:8} {state:12} {stamp(name, scale).get('seconds', ''):>8}")
    return True


def perform(action: str, names: list[str], scale: str, *, force: bool) -> bool:
    if action == "run":
        return run(names, scale, force=force)
    if action == "status":
        return status(names, scale)
    if action == "book" and not run(names, scale, force=force):
        shutil.rmtree(HTML, ignore_errors=True)  # the pages of an earlier state
        return False
    import pages  # it uses this module

    return pages.build(scale)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "build", "book", "status"))
    parser.add_argument(
        "--scale", choices=SCALES, default=os.environ.get("EENOTES_SCALE") or "tiny"
    )
    parser.add_argument("--only", metavar="N", help="one chapter, by number or name")
    parser.add_argument("--force", action="store_true", help="execute even what is up to date")
    options = parser.parse_args(argv)
    if options.scale not in SCALES:  # from the environment, which argparse does not check
        parser.error(f"EENOTES_SCALE={options.scale!r} is none of {', '.join(SCALES)}")
    names = select(options.only)
    return 0 if perform(options.action, names, options.scale, force=options.force) else 1


if __name__ == "__main__":
    sys.exit(main())
