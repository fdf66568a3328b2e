"""The results page: the thesis's claims beside ours, from records, and the seconds that the
chapters took.

`tools/chapters.py` gathers what there is of every chapter (`Chapter`) and puts what `page` makes of
it in the place of one line, `MARKER`, of `book/results.md`.  A record is `fresh` only if it comes
from the very execution that is being published; every other one is a committed file of the package.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eenotes_book.records import VERDICTS, with_spread

MARKER = "<!-- results -->"
RECORDED = ("reduced", "full", "study")  # where committed records can be, in the order of the page
WHAT = {
    "tiny": "small data that come with the install",
    "reduced": "real data, in part; one seed",
    "full": "the thesis's models and data",
    "study": "reduced data, many seeds",
}
MARKS = {True: "✓", False: "✗", None: "–"}

Record = Mapping[str, Any]  # as `eenotes.experiment.read_record` gives it


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


def fill(template: str, scale: str, chapters: Sequence[Chapter]) -> str:
    """The page: `template` with its one line `MARKER` replaced.

    Raises:
        ValueError: unless the marker is there exactly once.
    """
    if template.splitlines().count(MARKER) != 1:
        raise ValueError(f"the results page must have exactly one line {MARKER}")
    return template.replace(MARKER, page(scale, chapters))


def page(scale: str, chapters: Sequence[Chapter]) -> str:
    """Markdown with tables in HTML: a summary, the seconds, and a section per chapter."""
    parts = [
        "## At a glance",
        summary(scale, chapters),
        "## Execution times",
        times(scale, chapters),
    ]
    for chapter in chapters:
        parts += [
            f"## Chapter {chapter.number}: [{chapter.title}]({chapter.name}.ipynb)",
            section(scale, chapter),
        ]
    return "\n\n".join(parts)


# --- which records


def runs(scale: str, chapter: Chapter) -> dict[str, Record | None]:
    """Scale → record, the published execution's first; ``None`` where there is none."""
    return {scale: chapter.fresh} | {
        name: chapter.committed.get(name) for name in RECORDED if name != scale
    }


def shown(scale: str, chapters: Sequence[Chapter]) -> list[str]:
    """The runs that get a column: this build's, and every other that some chapter has a record of."""
    return [
        scale,
        *(
            name
            for name in RECORDED
            if name != scale and any(name in chapter.committed for chapter in chapters)
        ),
    ]


def run_name(scale: str, name: str) -> str:
    """How a run is called: the one of this build says so."""
    return f"{name}, this build" if name == scale else name


def summary(scale: str, chapters: Sequence[Chapter]) -> str:
    """How many claims hold, per chapter and run."""
    names = shown(scale, chapters)
    rows = []
    for chapter in chapters:
        cells = [
            cell("chapter", link(f"{chapter.name}.html", f"{chapter.number}. {chapter.title}"))
        ]
        found = runs(scale, chapter)
        cells += [
            cell(run_name(scale, name), counts(found[name]) if found[name] else "no record")
            for name in names
        ]
        rows.append(row(cells))
    return table("results-glance", ["chapter", *(run_name(scale, name) for name in names)], [rows])


def counts(record: Record) -> str:
    """``3 hold, 1 does not, 1 not testable``."""
    found = [claim["holds"] for claim in record["claims"]]
    good, bad, open_ = (found.count(verdict) for verdict in (True, False, None))
    text = f"{good} hold{'s' * (good == 1)}, {bad} {'does' if bad == 1 else 'do'} not, {open_} not testable"
    return text if record["current"] else f"{text} {OUTDATED}"


def times(scale: str, chapters: Sequence[Chapter]) -> str:
    """Seconds per chapter and scale, with the device."""
    names = [name for name in shown(scale, chapters) if name != "study"]
    rows = []
    for chapter in chapters:
        cells = [
            cell("chapter", link(f"{chapter.name}.html", f"{chapter.number}. {chapter.title}"))
        ]
        for name in names:
            record = runs(scale, chapter)[name]
            seconds = chapter.seconds if name == scale else record and record["seconds"]
            cells.append(cell(run_name(scale, name), took(seconds, record)))
        rows.append(row(cells))
    return table("results-times", ["chapter", *(run_name(scale, name) for name in names)], [rows])


def took(seconds: float | None, record: Record | None) -> str:
    """Seconds and device in words; a record that was written without running the chapter has none."""
    if seconds is None:
        return "no record"
    device = f"<br><small>{text(record['device'])}</small>" if record else ""
    old = "" if record is None or record["current"] else f" {OUTDATED}"
    return (f"{seconds:,.0f} s" if seconds >= 1 else "not measured") + old + device


# --- one chapter


def section(scale: str, chapter: Chapter) -> str:
    """A chapter's runs, its claims, and what there is no record of."""
    found = {name: record for name, record in runs(scale, chapter).items() if record}
    missing = [name for name, record in runs(scale, chapter).items() if not record]
    parts = []
    if found:
        parts += [provenance(scale, found), claims(scale, chapter, found)]
    if missing:
        which = ", ".join(
            f"<b>{text(run_name(scale, name))}</b> ({text(WHAT[name])})" for name in missing
        )
        parts.append(f'<p class="results-missing">No record of this chapter at: {which}.</p>')
    return "\n\n".join(parts)


def provenance(scale: str, found: Mapping[str, Record]) -> str:
    """Where each run's numbers come from."""
    rows = []
    for name, record in found.items():
        state = (
            "the present code" if record["current"] else f"an earlier state of the code: {OUTDATED}"
        )
        rows.append(
            row(
                [
                    cell("run", f"<b>{text(run_name(scale, name))}</b>"),
                    cell(
                        "data",
                        "<br>".join(
                            text(f"{data}: {sizes(split)}")
                            for data, split in record["data"].items()
                        ),
                    ),
                    cell("seeds", text(seeds(record["seeds"]))),
                    cell("device", text(record["device"])),
                    cell("recorded", text(record["recorded"])),
                    cell("made by", state),
                ],
                outdated=not record["current"],
            )
        )
    return table("results-runs", ["run", "data", "seeds", "device", "recorded", "made by"], [rows])


def unsettled(claim: Mapping[str, Any]) -> str:
    """A remark if other seeds could turn the sign: the spread is larger than the number."""
    number, spread = claim["ours"], claim["spread"]
    return (
        "smaller than its spread"
        if spread is not None and not isinstance(number, str) and abs(number) < spread
        else ""
    )


def claims(scale: str, chapter: Chapter, found: Mapping[str, Record]) -> str:
    """Claim by claim: the thesis's number once, and below each other ours of every run that speaks
    of it.
    """
    groups = []
    for (_, thesis), entries in grouped(found).items():
        title = entries[0][2]
        rows = []
        for position, (name, claim, statement, measure) in enumerate(entries):
            record = found[name]
            said = "; ".join(
                filter(None, ["" if statement == title else statement, measure, unsettled(claim)])
            )
            ours = f"<b>{text(with_spread(claim['ours'], claim['spread']))}</b>"
            place = where(chapter, claim, current=record["current"])
            note = f"<br><small>{text(said)}</small>" if said else ""
            cells = [
                cell(
                    "run",
                    text(run_name(scale, name)) + ("" if record["current"] else f"<br>{OUTDATED}"),
                ),
                cell("ours", link(place, ours) + note),
                cell("here", verdict(claim["holds"])),
            ]
            if position == 0:
                cells[:0] = [
                    cell("claim", text(title), span=len(entries)),
                    cell("thesis", text(thesis), span=len(entries)),
                ]
            rows.append(row(cells, outdated=not record["current"]))
        groups.append(rows)
    return table("results-claims", ["claim", "thesis", "run", "ours", "here"], groups)


def grouped(
    found: Mapping[str, Record],
) -> dict[tuple[str, str], list[tuple[str, Mapping, str, str]]]:
    """Claims that differ in nothing but numbers belong together, in the order of the first run that
    has them.

    A statement may end in what our number is, "...; ours: difference": that part belongs to the
    run, not to the claim.
    """
    groups: dict[tuple[str, str], list[tuple[str, Mapping, str, str]]] = {}
    for name, record in found.items():
        for claim in record["claims"]:
            statement, _, measure = claim["statement"].partition("; ours: ")
            key = (re.sub(r"\d+(\.\d+)?", "#", statement), claim["thesis"])
            groups.setdefault(key, []).append((name, claim, statement, measure))
    return groups


def where(chapter: Chapter, claim: Mapping, *, current: bool) -> str:
    """The address of the cell that makes a claim's number; of the chapter, if an old record names a
    cell that is no more.

    Raises:
        ValueError: if the present code names a cell that the chapter does not have.
    """
    label = claim["where"]
    if label in chapter.places:
        return chapter.places[label]
    if current:
        raise ValueError(
            f"{chapter.name}: no cell makes {label!r}, where the claim {claim['statement']!r} comes from; give the cell "
            f'"metadata": {{"claims": ["{label}"]}}'
        )
    return f"{chapter.name}.html"


# --- words and HTML


OUTDATED = '<span class="results-old">out of date</span>'


def text(content: object) -> str:
    """Any text as HTML; neither Markdown nor MathJax sees anything in it."""
    escaped = html.escape(str(content))
    return re.sub(r"[$|*_`\\~\[\]{}]", lambda match: f"&#{ord(match[0])};", escaped)


def verdict(holds: bool | None) -> str:
    kind = {True: "yes", False: "no", None: "open"}[holds]
    return f'<span class="results-{kind}">{MARKS[holds]} {VERDICTS[holds]}</span>'


def sizes(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in splits.items())


def seeds(numbers: Sequence[int]) -> str:
    """``1 (0)``, ``3 (0, 1, 2)``."""
    return f"{len(numbers)} ({', '.join(map(str, numbers))})"


def link(address: str, content: str) -> str:
    return f'<a href="{html.escape(address)}">{content}</a>'


def cell(head: str, content: str, *, span: int = 1) -> str:
    """A table cell that knows its column's head: on a narrow screen it is shown beside it."""
    rows = f' rowspan="{span}"' if span > 1 else ""
    return f'<td role="cell" data-head="{text(head)}"{rows}><div>{content}</div></td>'


def row(cells: Iterable[str], *, outdated: bool = False) -> str:
    kind = ' class="results-outdated"' if outdated else ""
    return f'<tr role="row"{kind}>{"".join(cells)}</tr>'


def table(name: str, head: Sequence[str], groups: Iterable[Sequence[str]]) -> str:
    """One HTML block without an empty line, which would end it in Markdown; the roles survive a
    narrow screen's layout.
    """
    titles = "".join(f'<th role="columnheader" scope="col">{text(title)}</th>' for title in head)
    bodies = [f'<tbody role="rowgroup">\n{chr(10).join(rows)}\n</tbody>' for rows in groups]
    lines = [
        f'<table class="table results {name}" role="table">',
        f'<thead role="rowgroup"><tr role="row">{titles}</tr></thead>',
        *bodies,
        "</table>",
    ]
    return "\n".join(lines)
