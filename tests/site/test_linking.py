"""Numbers of equations, chapters and figures, and terms, as the built page links them."""

import re

import chapters
import linking
import pages
import pytest

PLACES = {"2.1": "two.html#a", "6.12": "six.html#b"}
PAGES = {"1": "one.html", "2": "two.html"}


def shown(text: str) -> str:
    """A text without its links' tags."""
    return re.sub(r"</?a\b[^>]*>|\{term\}`([^<`]*?) <[^>`]*>`", r"\1", text)


def test_an_equation_s_number_leads_to_it_and_other_numbers_stay():
    text = "By (2.1) and (6.12), not (9.9) nor 2.1; `(2.1)`, $f (2.1)$, [see (2.1)](x)."
    linked = linking.with_equations(text, PLACES)
    assert re.findall(r'href="([^"]+)">([^<]+)<', linked) == [
        ("two.html#a", "(2.1)"),
        ("six.html#b", "(6.12)"),
    ]
    assert shown(linked) == text


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("chapter 2's detector", ["chapter 2"]),
        ("Chapters 1 and 2 say", ["1", "2"]),
        ("chapter 1 is this one; chapter 7 is none", ["chapter 1"]),
        ("chapter 2.5 and 2 chapters", []),
        ("## Chapter 2\n\n`chapter 2`", []),
    ],
)
def test_a_chapter_s_number_leads_to_its_page(text, links):
    linked = linking.with_chapters(text, PAGES)
    assert re.findall(r'href="[^"]+">([^<]+)<', linked) == links and shown(linked) == text


def test_a_page_does_not_link_to_itself():
    assert linking.with_chapters("chapter 2", PAGES, own="2") == "chapter 2"


GLOSSARY = """# G

```{glossary}
exit
  A door. [Chapter 1](01-x.ipynb)

early exit
  One of them. [Chapter 1](01-x.ipynb)

MAP
  The most probable. [Chapter 2](02-x.ipynb)

round
  Pruning and training. [Chapter 1](01-x.ipynb)
```
"""


def test_the_first_use_of_a_term_leads_to_the_glossary():
    known = linking.terms(GLOSSARY)
    assert known == {"exit": 1, "early exit": 1, "MAP": 2, "round": 1}
    texts = ["# The exit\n\nAn early exit, a map, a round.", "Exits and exits; existing MAP."]
    first, second = linking.with_terms(texts, known, chapter=2)
    assert first == "# The exit\n\nAn {term}`early exit <early exit>`, a map, a round."
    assert second == "{term}`Exits <exit>` and exits; existing {term}`MAP <MAP>`."
    assert "MAP <MAP>" not in linking.with_terms(texts, known, chapter=1)[1], "not introduced yet"
    assert "<round>" in linking.with_terms(texts, known, chapter=1)[0]


def test_every_term_names_a_chapter_that_there_is():
    known = linking.terms((chapters.BOOK / "glossary.md").read_text(encoding="utf-8"))
    assert len(known) > 50 and set(known.values()) <= set(range(1, len(chapters.chapters()) + 1))
    assert {term.lower() for term in known} >= linking.EVERYDAY


def test_figures_are_numbered_across_cells_and_captions_are_linked():
    figure = '<figure style="margin:0"><img><figcaption class="c">See (2.1).</figcaption></figure>'
    outputs = [{"data": {"text/html": [figure, figure]}}, {"text": "none"}]
    cells = [{"outputs": outputs}, {"source": ""}, {"outputs": [{"data": {"text/html": figure}}]}]
    linking.with_figure_numbers(cells, "2", lambda text: linking.with_equations(text, PLACES))
    made = cells[0]["outputs"][0]["data"]["text/html"] + cells[2]["outputs"][0]["data"]["text/html"]
    assert re.findall(r'<figure style="margin:0" id="([^"]+)">', made) == [
        f"figure-2.{number}" for number in (1, 2, 3)
    ]
    assert made.count('<a class="crossref" href="two.html#a">(2.1)</a>') == 3
    assert 'href="#figure-2.3">Figure 2.3</a> See' in made


@pytest.mark.parametrize("name", chapters.chapters())
def test_equations_are_numbered_in_order(name):
    chapter = str(int(name[:2]))
    found = [n.split(".") for n in pages.equations() if n.startswith(f"{chapter}.")]
    assert [int(number) for _, number in found] == list(range(1, len(found) + 1))
