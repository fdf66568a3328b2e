"""What stands around the pages: descriptions, how to cite, downloads.

In `_config.yml` this file is an extension of Sphinx: it gives every page a description for search
engines and previews, its own first words.
"""

from __future__ import annotations

import html
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PICTURE = "<!-- picture -->"  # the lines of book/index.md that are replaced
EDITION = "<!-- edition -->"
CITE = "<!-- cite -->"
PDF = '<span id="pdf"></span>'  # where `tools/printed.py` links the printed book
LONGEST = 160  # characters of a description; more is cut by those who show it


# --- descriptions


def description(paragraphs: list[str]) -> str:
    """The question of a chapter, or the first paragraph of a page, in at most `LONGEST` characters.

    Args:
        paragraphs: the texts of a page, in order.
    """
    plain = [" ".join(text.split()) for text in paragraphs]
    asked = [t.removeprefix("The question. ") for t in plain if t.startswith("The question. ")]
    first = next(iter(asked or [t for t in plain if len(t) > 40]), "")
    if len(first) <= LONGEST:
        return first
    return first[: LONGEST - 1].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def describe(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """For Sphinx: the description of one page."""
    if doctree is None:
        return
    from docutils import nodes

    said = description([paragraph.astext() for paragraph in doctree.findall(nodes.paragraph)])
    if said:
        tag = f'<meta name="description" content="{html.escape(said)}">'
        context["metatags"] = f"{context.get('metatags', '')}\n{tag}"


def setup(app) -> dict:
    """For Sphinx: the extension."""
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True}


# --- how to cite


def citation() -> dict:
    """CITATION.cff."""
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def edition(template: str, *, picture: str, today: str = "") -> str:
    """The first page with its picture, who made it, its version and date, and how to cite it.

    Args:
        template: the page's Markdown, with one line `PICTURE`, one `EDITION` and one `CITE`.
        picture: a figure, as HTML.
        today: the date of the build; by default the present one.

    Raises:
        ValueError: unless each of the three lines is there exactly once.
    """
    told = citation()
    book = told["preferred-citation"]
    authors = " and ".join(author["name"] for author in book["authors"])
    built = f"built on {today or time.strftime('%d %B %Y').lstrip('0')}"
    byline = (
        f"*{authors} · edition {book['edition']}, {built} · {told['license']} licence.* {PDF}"
        "Each chapter offers its executed notebook, slides, and a copy for students."
    )
    title, _, subtitle = book["title"].partition(": ")
    entry = [
        "```bibtex",
        "@book{eenotes,",
        f"  title = {{{title}:",
        f"    {subtitle}}},",
        f"  author = {{{{{authors}}}}},",
        f"  year = {{{book['year']}}},",
        f"  edition = {{{book['edition']}}},",
        f"  url = {{{book['url']}}}",
        "}",
        "```",
        "",
        "Cite the thesis or paper whose method you use, too: see the [references](references.md).",
    ]
    filled = {PICTURE: picture, EDITION: byline, CITE: "\n".join(entry)}
    for marker, content in filled.items():
        if template.splitlines().count(marker) != 1:
            raise ValueError(f"the first page must have exactly one line {marker}")
        template = template.replace(marker, content)
    return template


# --- downloads

NOTEBOOKS = "notebooks"  # the folder of the executed copies, in the built book


def links_above(chapter: str) -> str:
    """What stands beside the Colab link of a chapter, as HTML.

    Args:
        chapter: its name, "02-e2cm".
    """
    targets = {
        "executed notebook": f"{NOTEBOOKS}/{chapter}.ipynb",
        "student copy": f"student/{chapter}.ipynb",
    }
    links = [f'<a href="{place}" download>{words}</a>' for words, place in targets.items()]
    links.append(f'<a href="slides/{chapter}.html">slides</a>')
    return " · ".join(links)


def with_downloads(markdown: str, chapter: str) -> str:
    """A chapter's first cell, its downloads beside the link to Colab."""
    return re.sub(
        r"(?m)^\[Open in Colab\]\([^)]*\)$",
        lambda found: f"{found[0]} · {links_above(chapter)}",
        markdown,
        count=1,
    )


def publish_notebooks(site: Path, executed: Mapping[str, Path]) -> None:
    """Put the executed copies into the built book."""
    folder = site / NOTEBOOKS
    folder.mkdir()
    for name, path in executed.items():
        shutil.copyfile(path, folder / f"{name}.ipynb")
