"""The results page: the thesis's claims beside ours, from records.

`tools/chapters.py` gathers what there is of every chapter (`Chapter`) and puts what `page` makes of
it in the place of one line, `MARKER`, of `book/results.md`.  A record is `fresh` only if it comes
from the very execution that is being published; every other one is a committed file of the package.

First comes one table with one row per claim of the thesis, from the best record that speaks of it
(see `best`).  What a chapter has besides is folded: all its claims, other runs, checks, numbers
without a claim, and where the numbers come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from page_html import folded, link, small, table, text

from eenotes_book.claims_table import MARKS, interval, origin, short, verdict, why
from eenotes_book.records import with_spread

MARKER = "<!-- results -->"
RECORDED = ("study", "full", "reduced")  # where committed records can be, the best first
OUTDATED = '<span class="results-old">out of date</span>'

Record = Mapping[str, Any]  # as `eenotes_book.records.read` gives it


@dataclass(frozen=True)
class Chapter:
    """What there is of one chapter.

    Args:
        name: ``"02-e2cm"``.
        title: its heading.
        places: the label of a claim → the address of the cell that makes its number.
        fresh: the record that the published execution wrote, if it wrote one.
        committed: scale → record in the package, for those of `RECORDED` that exist.
        seconds: of the published execution.
    """

    name: str
    title: str
    places: Mapping[str, str]
    fresh: Record | None = None
    committed: Mapping[str, Record] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def number(self) -> str:
        return re.match(r"0*(\d*)", self.name)[1]


class Entry(NamedTuple):
    """One row of one record."""

    run: str  # the scale of its record, or "study"
    record: Record
    claim: Mapping[str, Any]


def fill(template: str, scale: str, chapters: Sequence[Chapter]) -> str:
    """The page: `template` with its one line `MARKER` replaced.

    Raises:
        ValueError: unless the marker is there exactly once.
    """
    if template.splitlines().count(MARKER) != 1:
        raise ValueError(f"the results page must have exactly one line {MARKER}")
    return template.replace(MARKER, page(scale, chapters))


def page(scale: str, chapters: Sequence[Chapter]) -> str:
    """Markdown with tables in HTML: the thesis's claims, and a section per chapter."""
    parts = ["## The thesis's claims", thesis_claims(scale, chapters)]
    parts += ["## All verdicts", summary(scale, chapters)]
    for chapter in chapters:
        parts.append(f"## Chapter {chapter.number}: [{chapter.title}]({chapter.name}.ipynb)")
        parts += section(scale, chapter)
    return "\n\n".join(part for part in parts if part)


# --- records and rows


def runs(scale: str, chapter: Chapter) -> dict[str, Record]:
    """Run → record, the best first: study, full, reduced, and the published execution's last."""
    found = {run: chapter.committed.get(run) for run in RECORDED if run != scale}
    found[scale] = chapter.fresh
    return {run: record for run, record in found.items() if record}


def run_name(scale: str, run: str) -> str:
    """How a run is called: the one of this build says so."""
    return f"{run}, this build" if run == scale else run


def grouped(scale: str, chapter: Chapter, kind: str) -> list[list[Entry]]:
    """The rows of one kind: a list per claim, with every run that speaks of it, the best first.

    Rows that differ in nothing but numbers belong together.  A statement may end in what our number
    is, "...; ours: difference": that part belongs to the run, not to the claim.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for run, record in runs(scale, chapter).items():
        for claim in record["claims"]:
            if claim["kind"] == kind:
                plain = re.sub(r"\d+(\.\d+)?", "#", statement(claim)[0])
                groups.setdefault((plain, claim["thesis"]), []).append(Entry(run, record, claim))
    return list(groups.values())


def best(group: Sequence[Entry]) -> list[Entry]:
    """The rows that are shown of a claim: all those of its best run."""
    return [entry for entry in group if entry.run == group[0].run]


def statement(claim: Mapping[str, Any]) -> tuple[str, str]:
    """What is claimed, and what our number is."""
    said, _, measure = claim["statement"].partition("; ours: ")
    return said, measure


def summary(scale: str, chapters: Sequence[Chapter]) -> str:
    """How many claims of each chapter have which verdict, by the best record of each."""
    rows = []
    for chapter in chapters:
        words = [e.claim["verdict"] for g in grouped(scale, chapter, "claim") for e in best(g)]
        counts = {word: str(words.count(word) or "") for word in MARKS}
        name = link(f"{chapter.name}.html", f"{chapter.number}. {text(chapter.title)}")
        rows.append({"chapter": name} | counts)
    return table("results-glance", rows) if rows else ""


def thesis_claims(scale: str, chapters: Sequence[Chapter]) -> str:
    """One row per claim of the thesis: its number, ours of the best record, setting and verdict.

    What the thesis says once and several networks are asked about is one row.
    """
    rows, old = [], []
    for chapter in chapters:
        said: dict[str, list[Entry]] = {}
        for group in grouped(scale, chapter, "claim"):
            for entry in best(group):
                if origin(entry.claim) == "thesis":
                    said.setdefault(entry.claim["thesis"], []).append(entry)
        for thesis, entries in said.items():
            rows.append(thesis_row(chapter, thesis, entries))
            old.append(any(not entry.record["current"] for entry in entries))
    return table("results-thesis", rows, outdated=old) if rows else ""


def thesis_row(chapter: Chapter, thesis: str, entries: Sequence[Entry]) -> dict[str, str]:
    """What the thesis says in one place, beside all our numbers for it."""
    words, about = about_what([statement(entry.claim)[0] for entry in entries])
    ours = []
    for name, entry in zip(about, entries, strict=True):
        place = where(chapter, entry.claim, current=entry.record["current"])
        value = link(place, f"<b>{text(short(entry.claim['ours']))}</b>")
        old = "" if entry.record["current"] else f" {OUTDATED}"
        ours.append(f"{value}{f' <small>{text(name)}</small>' if name else ''}{old}")
    verdicts = list(dict.fromkeys(verdict(entry.claim) for entry in entries))
    if len(verdicts) > 1:
        verdicts = [verdict(entry.claim) for entry in entries]
    at = {bool(entry.claim.get("at_thesis_setting")) for entry in entries}
    return {
        "": link(f"{chapter.name}.html", chapter.number),
        "claim": text(words),
        "thesis": text(thesis),
        "ours": "<br>".join(ours),
        "its setting?": "yes" if at == {True} else "no" if at == {False} else "in part",
        "verdict": "<br>".join(verdicts),
    }


def about_what(statements: Sequence[str]) -> tuple[str, list[str]]:
    """What several statements share, and what each is about: ``"ResNet-20, trained: it grows"``."""
    if len(statements) == 1:
        return statements[0], [""]
    parts = [said.partition(": ") for said in statements]
    shared = {rest for _, _, rest in parts}
    if len(shared) == 1 and all(parts[0]):
        return shared.pop(), [name for name, _, _ in parts]
    return statements[0], ["", *statements[1:]]


# --- tables


def section(scale: str, chapter: Chapter) -> list[str]:
    """A chapter's claims, other runs, checks, numbers and provenance, each folded."""
    if not runs(scale, chapter):
        return ['<p class="results-missing">No record of this chapter.</p>']
    groups = grouped(scale, chapter, "claim")
    shown = [entry for group in groups for entry in best(group)]
    others = [entry for group in groups for entry in group if entry.run != group[0].run]
    checks = [e for group in grouped(scale, chapter, "check") for e in best(group)]
    numbers = [e for group in grouped(scale, chapter, "number") for e in best(group)]
    parts = []
    if shown:
        content = claims(scale, chapter, shown, "results-claims")
        parts.append(folded(f"All claims, each with its best run ({len(shown)})", content))
    if others:
        content = claims(scale, chapter, others, "results-others")
        parts.append(folded(f"Other runs of the same claims ({len(others)})", content))
    if checks:
        broken = any(entry.claim["verdict"] != "holds" for entry in checks)
        content = plain(scale, chapter, checks, "results-checks")
        parts.append(folded(f"What holds by construction ({len(checks)})", content, opened=broken))
    if numbers:
        content = plain(scale, chapter, numbers, "results-numbers")
        parts.append(folded(f"Numbers without a claim ({len(numbers)})", content))
    parts.append(
        folded("Where the numbers come from, and how long it took", provenance(scale, chapter))
    )
    return parts


def claims(scale: str, chapter: Chapter, entries: Sequence[Entry], name: str) -> str:
    """A table of claims: the thesis beside ours, the verdict, the setting, the ratio."""
    rows = [
        {
            "claim": text(statement(entry.claim)[0]),
            "thesis": text(entry.claim["thesis"]),
            "ours": ours(scale, chapter, entry),
            "verdict": verdict(entry.claim) + small(text(why(entry.claim))),
            "at the thesis's setting?": "yes" if entry.claim.get("at_thesis_setting") else "no",
            "ours ÷ thesis": short(entry.claim.get("ratio")) or "–",
        }
        for entry in entries
    ]
    return table(name, rows, outdated=[not entry.record["current"] for entry in entries])


def plain(scale: str, chapter: Chapter, entries: Sequence[Entry], name: str) -> str:
    """A table of checks, with what they came to, or of numbers, with the thesis's."""
    rows = []
    for entry in entries:
        check = entry.claim["kind"] == "check"
        beside = (
            {"result": verdict(entry.claim)} if check else {"thesis": text(entry.claim["thesis"])}
        )
        row = {"what": text(statement(entry.claim)[0]), "ours": ours(scale, chapter, entry)}
        rows.append(row | beside)
    return table(name, rows, outdated=[not entry.record["current"] for entry in entries])


def ours(scale: str, chapter: Chapter, entry: Entry) -> str:
    """Our number as a link to its cell; below it the interval, n, what it is, and the run."""
    claim, record = entry.claim, entry.record
    shown = short(claim["ours"])
    if "n" not in claim:  # an older record
        shown = with_spread(claim["ours"], claim["spread"])
    place = where(chapter, claim, current=record["current"])
    run = text(run_name(scale, entry.run)) + ("" if record["current"] else f" {OUTDATED}")
    remarks = small(text(interval(claim)), text(statement(claim)[1]), run)
    return link(place, f"<b>{text(shown)}</b>") + remarks


def provenance(scale: str, chapter: Chapter) -> str:
    """Where each run's numbers come from, and its seconds."""
    rows, old = [], []
    for run, record in runs(scale, chapter).items():
        seconds = chapter.seconds if run == scale else record["seconds"]
        state = "the present code"
        if not record["current"]:
            state = f"an earlier state: {OUTDATED}" + small(*map(text, record.get("outdated", ())))
        data = [text(f"{name}: {sizes(split)}") for name, split in record["data"].items()]
        rows.append(
            {
                "run": f"<b>{text(run_name(scale, run))}</b>",
                "data": "<br>".join(data),
                "seeds": text(seeds(record["seeds"])),
                "device": text(record["device"]),
                "seconds": f"{seconds:,.0f}" if seconds and seconds >= 1 else "not measured",
                "recorded": text(record["recorded"]),
                "made by": state,
            }
        )
        old.append(not record["current"])
    return table("results-runs", rows, outdated=old)


def where(chapter: Chapter, claim: Mapping, *, current: bool) -> str:
    """The address of the cell that makes a claim's number.

    It is the chapter's address if an old record names a cell that is no more.

    Raises:
        ValueError: if the present code names a cell that the chapter does not have.
    """
    label = claim["where"]
    if label in chapter.places:
        return chapter.places[label]
    if current:
        raise ValueError(
            f"{chapter.name}: no cell makes {label!r}, where the claim {claim['statement']!r} "
            f'comes from; give the cell "metadata": {{"claims": ["{label}"]}}'
        )
    return f"{chapter.name}.html"


# --- words


def sizes(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in splits.items())


def seeds(numbers: Sequence[int]) -> str:
    """``1 (0)``, ``3 (0, 1, 2)``."""
    return f"{len(numbers)} ({', '.join(map(str, numbers))})"
