"""What a built page links and a notebook writes plainly: equations, chapters, terms, figures.

In a notebook they are words: "(4.2)", "chapter 6", "backbone".  In the built page the number of an
equation leads to the equation, a chapter's number to the chapter, the first use of a term to the
glossary, and every figure has a number of its own.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence

# Code, mathematics, headings, links, folded parts' titles and tags stay as they are.
UNTOUCHED = (
    r"^ {0,3}(?P<fence>```+|~~~+).*?^ {0,3}(?P=fence)|^\#+ [^\n]*|\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`"
    r"|!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\([^()]*(?:\([^()]*\)[^()]*)*\)"
    r"|<a\b.*?</a>|<summary>.*?</summary>|<!--.*?-->|<[a-zA-Z/][^<>]*>"
)
EQUATION = re.compile(r"\((\d\.\d{1,2})\)")
CHAPTERS = re.compile(r"\b[Cc]hapters? \d(?:(?:, |,? and |,? or | to |,)\d)*(?![.\d])")


def outside(pattern: str, change: Callable[[re.Match], str], text: str) -> str:
    """`text` with `change` at every place of `pattern` that may be changed."""
    both = re.compile(f"(?P<untouched>{UNTOUCHED})|(?P<found>{pattern})", re.S | re.M)
    return both.sub(lambda m: m[0] if m["untouched"] is not None else change(m), text)


def anchor(address: str, words: str) -> str:
    return f'<a class="crossref" href="{html.escape(address)}">{words}</a>'


def with_equations(text: str, places: Mapping[str, str]) -> str:
    """ "(4.2)" as a link, if there is such an equation.

    Args:
        text: Markdown or HTML.
        places: number of an equation → its address.
    """

    def link(found: re.Match) -> str:
        number = EQUATION.fullmatch(found["found"])[1]
        return anchor(places[number], f"({number})") if number in places else found[0]

    return outside(EQUATION.pattern.replace("(\\d", "(?:\\d", 1), link, text)


def with_chapters(text: str, pages: Mapping[str, str], *, own: str = "") -> str:
    """ "chapter 6", "chapters 1 and 2" as links; a page does not link to itself.

    Args:
        text: Markdown or HTML.
        pages: number of a chapter → its address.
        own: the number of the chapter that the text belongs to.
    """

    def link(found: re.Match) -> str:
        words = found["found"]
        digits = [digit for digit in re.findall(r"\d", words) if digit in pages and digit != own]
        if len(re.findall(r"\d", words)) == 1:
            return anchor(pages[digits[0]], words) if digits else words
        return re.sub(r"\d", lambda m: anchor(pages[m[0]], m[0]) if m[0] in digits else m[0], words)

    return outside(CHAPTERS.pattern, link, text)


# Words that mean something else elsewhere: only the chapter that introduces them links them.
EVERYDAY = frozenset(
    ("active", "filling", "finished", "frozen", "gate", "head", "map", "margin", "place", "pool",
     "price", "record", "risk", "round", "rule", "scale", "stage", "stale", "study", "tied")
)  # fmt: skip


def terms(glossary: str) -> dict[str, int]:
    """Term of the glossary page → the chapter that introduces it: the first of its entry."""
    inside = re.search(r"(?ms)^```\{glossary\}\n(.*?)^```", glossary)[1]
    entries = re.findall(r"(?m)^(?P<term>[^\s:].*)\n(?P<text>(?:^[ \t]+.*\n?)+)", inside)
    return {term: int((re.search(r"\(0(\d)-", text) or ["", "1"])[1]) for term, text in entries}


def with_terms(texts: Sequence[str], known: Mapping[str, int], chapter: int) -> list[str]:
    """The texts of a chapter; the first use of every term, or of its plural, leads to the glossary.

    Args:
        texts: Markdown, in reading order.
        known: term → the chapter that introduces it; earlier chapters do not link it, and of two
            terms that begin at one place the longer one counts.
        chapter: the number of the chapter.
    """
    words = [
        term
        for term, at in known.items()
        if at == chapter or (at < chapter and term.lower() not in EVERYDAY)
    ]
    if not words:
        return list(texts)
    names = {word.lower(): word for word in words}
    listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    seen: set[str] = set()

    def link(found: re.Match) -> str:
        word = found["term"]
        name = names[word.lower()]
        # an abbreviation is written as it is: "map" is no "MAP"
        if name in seen or (name != name.lower() and word != name):
            return found[0]
        seen.add(name)
        return f"{{term}}`{found['found']} <{name}>`"

    pattern = rf"(?<![\w-])(?i:(?P<term>{listed})(?:e?s)?)(?![\w-])"
    return [outside(pattern, link, text) for text in texts]


FIGURE = re.compile(
    r"<figure(?P<looks>[^>]*)>(?P<body>.*?)<figcaption(?P<style>[^>]*)>(?P<words>.*?)</figcaption>",
    re.S,
)


def with_figure_numbers(
    cells: Sequence[dict], chapter: str, link: Callable[[str], str] = str
) -> None:
    """Number the figures among the outputs, in place: "Figure 2.3", with a place to link to.

    Args:
        cells: of a notebook.
        chapter: its number.
        link: what to make of a caption's words.
    """
    count = 0

    def numbered(found: re.Match) -> str:
        nonlocal count
        count += 1
        name = f"figure-{chapter}.{count}"
        label = f'<a class="figure-number" href="#{name}">Figure {chapter}.{count}</a> '
        start = f'<figure{found["looks"]} id="{name}">{found["body"]}'
        return f"{start}<figcaption{found['style']}>{label}{link(found['words'])}</figcaption>"

    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = FIGURE.sub(numbered, "".join(data["text/html"]))
