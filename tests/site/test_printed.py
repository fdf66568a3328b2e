"""The printed book: all pages as one, and the first page."""

import re

import chapters
import furniture
import printed
import pytest

FRAME = '<html><head></head><body><article class="bd-article">{}</article></body></html>'
PAGES = {
    "index": '<h1 id="top">Book</h1><a href="01-one.html#two">there</a> <a href="#top">up</a>',
    "01-one": '<h1 id="top">One</h1><p id="two">See <a href="api/part.html">this</a>, '
    '<a href="https://example.org/x.html#top">that</a>, <a href="slides/01.html">slides</a>.</p>',
    "api/part": '<h1 id="top">Part</h1><a href="../01-one.html#two">back</a>',
}


@pytest.fixture
def site(tmp_path):
    for name, article in PAGES.items():
        path = tmp_path / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(FRAME.format(article), encoding="utf-8")
    return tmp_path


def test_links_between_pages_stay_within_the_printed_book_and_others_lead_to_the_site(site):
    whole = printed.whole_book(site, list(PAGES))
    ids = re.findall(r'\sid="([^"]+)"', whole)
    assert len(ids) == len(set(ids)) == 3 + 4
    inner = re.findall(r'href="#([^"]+)"', whole)
    assert inner == ["01-one--two", "index--top", "api/part", "01-one--two"]
    assert set(inner) <= set(ids)
    outer = re.findall(r'href="([^#][^"]*)"', whole)
    there = furniture.citation()["url"]
    assert outer == ["https://example.org/x.html#top", f"{there}/slides/01.html"]
    short = printed.whole_book(site, ["index", "01-one"])
    assert f'href="{there}/api/part.html"' in short
    assert whole.index("Book") < whole.index("One") < whole.index("Part")


def test_a_page_that_is_not_built_is_named(site):
    with pytest.raises(ValueError, match="there is no page 02-two: make book"):
        printed.whole_book(site, [*PAGES, "02-two"])


def test_first_page_says_who_when_and_under_which_licence():
    template = (chapters.BOOK / "index.md").read_text(encoding="utf-8")
    page = furniture.edition(template, picture="<figure>P</figure>", today="1 May 2027")
    told = furniture.citation()
    for said in (told["license"], told["preferred-citation"]["edition"], "built on 1 May 2027"):
        assert said in page
    assert page.count("<figure>P</figure>") == page.count(furniture.PDF) == 1
    markers = (furniture.PICTURE, furniture.EDITION, furniture.CITE)
    assert "@book{eenotes," in page and not any(marker in page for marker in markers)
    with pytest.raises(ValueError, match="exactly one line <!-- picture -->"):
        furniture.edition(template.replace("<!-- picture -->", ""), picture="")
