"""Sentences of a page and the numbers that belong into them."""

import json
from collections.abc import Iterator
from functools import cache

import chapters
import teaching

Sentence = tuple  # a piece of text with gaps, and the numbers, as text
Sentences = Iterator[Sentence]


def share(x: float, digits: int = 3) -> str:
    """As the book writes a share: .592."""
    return f"{x:.{digits}f}".removeprefix("0")


def points(x: float, digits: int = 1) -> str:
    """A difference of shares in points."""
    return f"{100 * x:.{digits}f}"


def study(name: str) -> dict:
    """The record of a study."""
    return json.loads((chapters.RECORDS / "study" / f"{name}.json").read_text(encoding="utf-8"))


def claim(record: dict, *words: str) -> dict:
    """The one row of a record that has all of these words."""
    found = [row for row in record["claims"] if all(word in row["statement"] for word in words)]
    assert len(found) == 1, f"{len(found)} claims have the words {words}"
    return found[0]


def in_points(values: list[float], digits: int = 1) -> list[str]:
    """Mean and ends of the 95 % interval, in points; a lead counts as positive."""
    from eenotes_book import statistics

    sign = 1 if statistics.mean(values) > 0 else -1
    values = [sign * value for value in values]
    found = (statistics.mean(values), *statistics.interval(values))
    return [points(x, digits) for x in found]


@cache
def prose(name: str) -> str:
    """The text of a chapter or of a page."""
    if (page := chapters.BOOK / f"{name}.md").exists():
        return " ".join(page.read_text(encoding="utf-8").split())
    cells = chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")["cells"]
    return "\n\n".join(teaching.source(c) for c in cells if c["cell_type"] == "markdown")


def check(name: str, sentences: Sentences) -> None:
    """Every sentence stands on the page, with these numbers."""
    for text, *numbers in sentences:
        said = text.format(*numbers)
        assert said in prose(name), f"{name} says otherwise than: {said}"
