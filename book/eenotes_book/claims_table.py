"""The claims of a chapter as a table: the thesis's apart from ours, each with its verdict."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import HTML

MARKS = {"holds": "✓", "fails": "✗", "undecided": "≈", "one run": "•", "not testable here": "–"}
GROUPS = {
    "thesis": "The thesis's claims",
    "no number": "The thesis gives no number",
    "ours": "Not in the thesis",
    "numbers": "Numbers to compare",
}
# For where the book's own style sheet is not: Jupyter and Colab.
STYLE = (
    "<style>table.results-here{font-size:.9em;border-collapse:collapse}"
    ".results-here :is(td,th){text-align:left!important;vertical-align:top;padding:.25em .7em}"
    ".results-here .results-yes{color:#1a7f37;font-weight:600}"
    ".results-here .results-no{color:#c0392b;font-weight:600}"
    ".results-here .results-open{font-weight:600}.results-here small{opacity:.8}</style>"
)


def origin(claim: Mapping[str, Any]) -> str:
    """Whose claim a row of a record is, a key of `GROUPS`; what holds by construction: "check"."""
    if claim["kind"] != "claim":
        return "numbers" if claim["kind"] == "number" else "check"
    if re.match(r"not in the thesis|ours|future work|[A-Z]\w+ et al\.", claim["thesis"]):
        return "ours"
    return "no number" if claim["thesis"].startswith("not stated") else "thesis"


def short(value: float | str | None, like: float | str | None = None) -> str:
    """A number in two or three digits, with as many decimals as `like` gets; words stay.

    Two numbers of one row are written alike, and only a zero is written as one.
    """
    if value is None or isinstance(value, str):
        return value or ""
    size = abs(value if like is None or isinstance(like, str) else like)
    decimals = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    shown = f"{value:,.{decimals}f}"
    if value and not float(shown.replace(",", "")):
        shown = f"{value:.1g}"
    return shown.replace("-", "−")


def interval(claim: Mapping[str, Any]) -> str:
    """``[0.1, 0.3], n = 5``; the mean difference in front, where that is what is judged."""
    if "n" not in claim:
        return ""
    count = f"n = {claim['n']}"
    if claim.get("low") is None:
        return count
    low, high = (short(claim[end], claim["difference"]) for end in ("low", "high"))
    judged = claim["difference"]
    lead = "" if judged == claim["ours"] else f"difference {short(judged)} "
    return f"{lead}[{low}, {high}], {count}"


def why(claim: Mapping[str, Any]) -> str:
    """The reason of a verdict that is neither holds nor fails."""
    decided = claim["verdict"] in ("holds", "fails", "one run")
    return "" if decided else claim.get("reason", "")


def verdict(claim: Mapping[str, Any]) -> str:
    """The verdict of a claim or check as HTML, with its sign and, by its class, its colour."""
    word = claim["verdict"]
    kind = {"holds": "yes", "fails": "no"}.get(word, "open")
    return f'<span class="results-{kind}">{MARKS[word]} {word}</span>'


def show(claims: Sequence[Mapping[str, Any]], *, caption: str = "") -> HTML:
    """The claims and numbers of a record, checks left out, as a table in four parts at most.

    Args:
        claims: rows of a record.
        caption: what run they are of.
    """
    parts = []
    for group, title in GROUPS.items():
        rows = [claim for claim in claims if origin(claim) == group]
        if rows:
            head = f'<th colspan="4" scope="rowgroup">{html.escape(title)}</th>'
            lines = "".join(_row(claim) for claim in rows)
            parts.append(f'<tbody role="rowgroup"><tr role="row">{head}</tr>{lines}</tbody>')
    heads = "".join(
        f'<th role="columnheader" scope="col">{head}</th>'
        for head in ("claim", "thesis", "ours", "verdict")
    )
    words = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return HTML(
        f'{STYLE}<table class="table results results-claims results-here" role="table">{words}'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>{"".join(parts)}</table>'
    )


def _row(claim: Mapping[str, Any]) -> str:
    said, _, measure = claim["statement"].partition("; ours: ")
    known = claim["thesis"].removeprefix("not stated").removeprefix("; ")
    shown = origin(claim) != "ours" or known == "future work"
    thesis = known if known and shown else "–"
    remarks = [interval(claim) if claim["n"] > 1 else "", measure]
    judged = verdict(claim) + _small([why(claim)]) if claim["kind"] == "claim" else ""
    cells = {
        "claim": html.escape(said),
        "thesis": html.escape(thesis),
        "ours": f"<b>{html.escape(short(claim['ours']))}</b>{_small(remarks)}",
        "verdict": judged,
    }
    return "<tr role='row'>" + "".join(_cell(*pair) for pair in cells.items()) + "</tr>"


def _cell(head: str, content: str) -> str:
    """A cell that knows its column's head: a narrow screen shows it beside the content."""
    return f'<td role="cell" data-head="{head}"><div>{content}</div></td>'


def _small(remarks: Sequence[str]) -> str:
    found = "; ".join(html.escape(remark) for remark in remarks if remark)
    return f"<br><small>{found}</small>" if found else ""
