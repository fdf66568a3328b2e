"""Pieces of HTML for pages in Markdown: text, links, tables, folded parts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping


def text(content: object) -> str:
    """Any text as HTML; neither Markdown nor MathJax sees anything in it."""
    escaped = html.escape(str(content))
    return re.sub(r"[$|*_`\\~\[\]{}]", lambda match: f"&#{ord(match[0])};", escaped)


def small(*parts: str) -> str:
    """Remarks in small print, below what stands before; nothing if all are empty."""
    found = "; ".join(filter(None, parts))
    return f"<br><small>{found}</small>" if found else ""


def folded(summary: str, content: str, *, opened: bool = False) -> str:
    """What is shown when one asks for it; without an empty line, which would end the block."""
    more = " open" if opened else ""
    return (
        f'<details class="results-more"{more}><summary>{summary}</summary>\n{content}\n</details>'
    )


def link(address: str, content: str) -> str:
    return f'<a href="{html.escape(address)}">{content}</a>'


def cell(head: str, content: str) -> str:
    """A table cell that knows its column's head: on a narrow screen it is shown beside it."""
    return f'<td role="cell" data-head="{text(head)}"><div>{content}</div></td>'


def row(cells: Iterable[str], *, outdated: bool = False) -> str:
    kind = ' class="results-outdated"' if outdated else ""
    return f'<tr role="row"{kind}>{"".join(cells)}</tr>'


def table(name: str, rows: Iterable[Mapping[str, str]], *, outdated: Iterable[bool] = ()) -> str:
    """One HTML block; the roles survive a narrow screen's layout.

    Args:
        name: the class of the table.
        rows: head of the column → content, the same heads in every row; at least one row.
        outdated: for each row whether its record is out of date; by default none is.
    """
    rows = list(rows)
    titles = "".join(f'<th role="columnheader" scope="col">{text(head)}</th>' for head in rows[0])
    marks = list(outdated) or [False] * len(rows)
    lines = [
        row([cell(head, content) for head, content in cells.items()], outdated=mark)
        for cells, mark in zip(rows, marks, strict=True)
    ]
    return "\n".join(
        [
            f'<table class="table results {name}" role="table">',
            f'<thead role="rowgroup"><tr role="row">{titles}</tr></thead>',
            '<tbody role="rowgroup">',
            *lines,
            "</tbody>",
            "</table>",
        ]
    )
