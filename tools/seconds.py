"""How long the chapters take: measured by a build, kept in one file, told in several places.

    python tools/seconds.py measure   execute all chapters at `tiny` twice, with nothing trained and
                                      with everything; keep both and tell them (`make seconds`)
    python tools/seconds.py tell      put what is kept into README, index, chapters, teacher's page

The times are those of `tools/chapters.py`, two lines for each machine in `tools/seconds.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import chapters
import side_by_side

KEPT = Path(__file__).with_suffix(".json")
IDLE = 0.5  # of a processor core, that other programs may use


class Machine(NamedTuple):
    """The times of one build of the whole book at `tiny`."""

    name: str
    at_once: int  #: chapters side by side, one thread each
    cached: bool  #: whether networks were there from an earlier build
    clock: dict[str, float]  #: seconds of each chapter
    processor: dict[str, float]  #: seconds of processor time of each chapter


class Place(NamedTuple):
    """Where a time stands: the first group of the pattern, which fits once."""

    path: Path
    pattern: str
    text: Callable[[list[Machine]], str]


def kept() -> list[Machine]:
    """What was measured, newest last."""
    return [Machine(**found) for found in json.loads(KEPT.read_text(encoding="utf-8"))]


def measure() -> list[Machine]:
    """Execute all chapters at `tiny`, with nothing trained and once more with everything.

    Raises:
        ValueError: other programs run, or a chapter fails.
    """
    load = os.getloadavg()[0]
    if load > IDLE:
        raise ValueError(f"the load is {load:.1f}: these would not be the times of an idle machine")
    names, found = chapters.chapters(), []
    with tempfile.TemporaryDirectory() as chapters.CACHE:
        for cached in (False, True):
            if not chapters.run(names, "tiny", force=True):
                raise ValueError("a chapter failed: there is nothing to keep")
            found.append(_machine(names, cached=cached))
    return found


def _machine(names: list[str], *, cached: bool) -> Machine:
    """The times of the executed copies."""
    stamps = {name: chapters.stamp(name, "tiny") for name in names}
    clock, processor = (
        {name: stamps[name][which] for name in names} for which in ("seconds", "processor")
    )
    return Machine(_processor(), min(side_by_side.workers(), len(names)), cached, clock, processor)


def _processor() -> str:
    """The processor's name and its vector instructions, as PyTorch uses them."""
    import torch

    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.processor()}, {capability}"


def span(values: list[float], unit: str = "") -> str:
    """From the least to the most, in whole numbers."""
    low, high = round(min(values)), round(max(values))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def a_chapter(machines: list[Machine]) -> str:
    return span([s for m in machines for s in m.clock.values()]) + " seconds"


def in_all(machines: list[Machine]) -> str:
    """Minutes on the clock, chapters side by side."""
    return span([max(1, sum(m.clock.values()) / m.at_once / 60) for m in machines]) + " minutes"


def _of(name: str, machines: list[Machine]) -> list[float]:
    return [m.clock[name] for m in machines if name in m.clock]


def places() -> Iterator[Place]:
    """Every place that tells a time at `tiny`."""
    readme, book = chapters.ROOT / "README.md", chapters.BOOK
    yield Place(
        readme,
        r"\| time \| (.+?) \|",
        lambda machines: (
            f"{a_chapter(machines)} a chapter on one thread, "
            f"{span([m.at_once for m in machines])} side by side; {in_all(machines)} in all"
        ),
    )
    yield Place(readme, r"all chapters take (.+?) on two processor cores", in_all)
    yield Place(book / "index.md", r"\| two processor cores, (.+?) a chapter \|", a_chapter)
    for name in chapters.chapters():
        yield Place(
            book / f"{name}.ipynb",
            r"running (about .+?) at scale `tiny`",
            lambda machines, name=name: (
                "about " + side_by_side.minutes(max(_of(name, machines)) - 15)
            ),
        )
        yield Place(
            book / "teaching.md",
            rf"\n\| {int(name[:2])} \|(?:[^|\n]+\|){{2}} (\d[\d to]* s) \|",
            lambda machines, name=name: span(_of(name, machines), " s"),
        )


def told(place: Place, text: str, machines: list[Machine]) -> str:
    """The text with what was measured in its place.

    Raises:
        ValueError: a text that has no such place, or several.
    """
    found = list(re.finditer(place.pattern, text))
    if len(found) != 1:
        raise ValueError(f"{place.path.name}: {len(found)} places fit {place.pattern!r}, not one")
    start, end = found[0].span(1)
    return text[:start] + place.text(machines) + text[end:]


def tell(machines: list[Machine]) -> None:
    for place in places():
        text = place.path.read_text(encoding="utf-8")
        place.path.write_text(told(place, text, machines), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("measure", "tell"))
    machines = kept()
    if parser.parse_args().action == "measure":
        new = measure()
        same = {machine[:3] for machine in new}
        machines = [machine for machine in machines if machine[:3] not in same] + new
        KEPT.write_text(json.dumps([m._asdict() for m in machines], indent=1) + "\n", "utf-8")
    tell(machines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
