"""How long the chapters take: measured by a build, kept in one file, told in several places.

    python tools/seconds.py keep      add the times of the executed copies at `tiny`, and tell them
    python tools/seconds.py tell      put what is kept into README, index, chapters, teacher's page

The times are those of `tools/chapters.py`, a line for each machine in `tools/seconds.json`.  Only
a build of all chapters on a machine with nothing else to do is worth keeping.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import chapters
import side_by_side

KEPT = Path(__file__).with_suffix(".json")


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


def measured(*, cached: bool) -> Machine:
    """The times of the executed copies at `tiny`.

    Raises:
        ValueError: a chapter that is not executed from the present state.
    """
    names = chapters.chapters()
    old = [name for name in names if not chapters.is_current(name, "tiny")]
    if old:
        raise ValueError(f"not executed from the present state: {', '.join(old)}; make book first")
    stamps = {name: chapters.stamp(name, "tiny") for name in names}
    at_once = min(side_by_side.workers(), len(names))
    clock, processor = (
        {name: found[which] for name, found in stamps.items()} for which in ("seconds", "processor")
    )
    return Machine(_processor(), at_once, cached, clock, processor)


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
    parser.add_argument("action", choices=("keep", "tell"))
    parser.add_argument("--cached", action="store_true", help="networks were there already")
    options = parser.parse_args()
    machines = kept()
    if options.action == "keep":
        new = measured(cached=options.cached)
        same = (new.name, new.at_once, new.cached)
        machines = [m for m in machines if (m.name, m.at_once, m.cached) != same] + [new]
        KEPT.write_text(json.dumps([m._asdict() for m in machines], indent=1) + "\n", "utf-8")
    tell(machines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
