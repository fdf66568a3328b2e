"""The built pages as a reader meets them: widths, type, phones, dark mode, numbers, downloads.

`make browser`, after `make book`.
"""

import re
from urllib.parse import unquote

import chapters
import furniture
import pytest

pytestmark = pytest.mark.browser

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
each_page = pytest.mark.parametrize("name", chapters.toc_files())
each_chapter = pytest.mark.parametrize("name", chapters.chapters())


# --- figures

FIGURES = """() => [...document.querySelectorAll(".bd-article figure picture img")].map(image => {
    const shown = image.getBoundingClientRect().width;
    const wide = Math.min(688, parseFloat(image.style.width));  // what data-type is told for
    return {
        alt: image.alt,
        words: image.closest("figure").querySelector("figcaption strong")?.textContent ?? "",
        type: +image.dataset.type * Math.min(1, shown / wide),
        detail: image.currentSrc.includes("svg") ? Infinity : image.naturalWidth / shown,
        number: image.closest("figure").id,
        link: image.closest("figure").querySelector("a.figure-number")?.getAttribute("href"),
    };
})"""


@each_chapter
def test_figures_are_legible_sharp_numbered_and_say_what_they_show(open_page, name):
    page, _ = open_page(name, viewport=DESK)
    found = page.evaluate(FIGURES)
    assert found
    for figure in found:
        assert figure["type"] >= 9, f"type of {figure['type']:.1f} pixels: {figure['alt']}"
        assert figure["detail"] >= 1.9, f"a blurred picture: {figure['alt']}"
        assert figure["words"] and len(figure["alt"]) >= 20
        assert figure["link"] == f"#{figure['number']}"
    numbers = [figure["number"] for figure in found]
    assert len(set(numbers)) == len(numbers)
    assert all(number.startswith(f"figure-{int(name[:2])}.") for number in numbers)


@each_chapter
def test_a_click_and_the_keyboard_enlarge_a_figure(open_page, name):
    page, visit = open_page(name, viewport=DESK)
    picture = page.locator(".bd-article figure picture img").first
    dialog = page.locator("dialog.enlarged")
    picture.click()
    large = dialog.locator("img")
    assert large.is_visible() and large.get_attribute("alt") == picture.get_attribute("alt")
    assert large.bounding_box()["width"] > 1.1 * picture.bounding_box()["width"]
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    picture.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    dialog.click()
    dialog.wait_for(state="hidden")
    assert not visit.complaints


STACKED = """() => [...document.querySelectorAll(".bd-article figure picture")]
    .filter(picture => picture.querySelector("source"))
    .map(picture => {
        const image = picture.querySelector("img");
        return {alt: image.alt, ratio: image.naturalWidth / image.naturalHeight,
                narrow: image.currentSrc !== image.src};
    })"""


def test_panels_stand_one_below_the_other_on_a_phone(open_page):
    seen = 0
    for name in chapters.chapters():
        desk = open_page(name, viewport=DESK)[0].evaluate(STACKED)
        phone = open_page(name, viewport=PHONE)[0].evaluate(STACKED)
        for wide, narrow in zip(desk, phone, strict=True):
            assert not wide["narrow"] and narrow["narrow"], wide["alt"]
            assert narrow["ratio"] < 0.85 * wide["ratio"], wide["alt"]
            seen += 1
    assert seen >= 10


# --- code and equations

CUT = """() => [...document.querySelectorAll(".bd-article .cell_input pre")]
    .filter(e => e.getClientRects().length && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.textContent.split("\\n").sort((a, b) => b.length - a.length)[0])"""


@each_chapter
def test_no_code_is_cut_at_the_right_edge(open_page, name):
    page, _ = open_page(name, viewport=DESK)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert not page.evaluate(CUT)


# What of an equation's glyphs cannot be brought into its box by scrolling, in pixels.
LOST = """() => [...document.querySelectorAll(".bd-article div.math")].map(box => {
    const frame = box.getBoundingClientRect();
    const right = Math.max(...[...box.querySelectorAll("mjx-math, mjx-labels")]
        .map(e => e.getBoundingClientRect().right)) + box.scrollLeft - frame.left;
    const scrolls = getComputedStyle(box).overflowX === "auto";
    return {
        lost: right - (scrolls ? box.scrollWidth : box.clientWidth),
        hidden: getComputedStyle(box.querySelector("mjx-container")).overflowX !== "visible",
        text: box.textContent.slice(0, 80),
    };
}).filter(equation => equation.lost > 1 || equation.hidden)"""


@each_chapter
def test_a_phone_can_scroll_to_the_end_of_every_equation(open_page, name):
    page, _ = open_page(name, viewport=PHONE)
    assert page.locator(".bd-article div.math").count() > 0
    assert not page.evaluate(LOST)


# --- tables and dark mode

WIDE = """() => [...document.querySelectorAll(".bd-article table")].filter(table => {
    const column = document.querySelector(".bd-article").getBoundingClientRect();
    if (!table.getClientRects().length || table.closest("details:not([open])")) return false;
    return table.scrollWidth > column.width + 1 || table.scrollWidth > table.clientWidth + 1;
}).map(table => table.textContent.trim().slice(0, 80))"""


@each_page
def test_no_table_is_wider_than_its_column(open_page, name):
    page, _ = open_page(name, viewport=DESK)
    assert not page.evaluate(WIDE)


WHITE = """() => {
    const light = color => {
        const parts = color.match(/[\\d.]+/g).map(Number);
        return (parts[3] ?? 1) > 0.5 && Math.min(...parts.slice(0, 3)) > 200;
    };
    return [...document.querySelectorAll(".bd-article :is(div, table, section, details, figure)")]
        .filter(e => e.getClientRects().length && light(getComputedStyle(e).backgroundColor))
        .map(e => e.outerHTML.slice(0, 120));
}"""


@each_page
def test_nothing_but_a_picture_is_white_in_the_dark(open_page, name):
    page, _ = open_page(name, viewport=DESK, color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert not page.evaluate(WHITE)


# --- furniture


@each_page
def test_a_page_has_an_icon_a_description_and_a_way_to_tell_us(open_page, name):
    page, _ = open_page(name, viewport=DESK)
    told = page.locator("meta[name=description]").get_attribute("content")
    assert 30 < len(told) <= furniture.LONGEST and "$" not in told
    assert page.locator("link[rel~=icon]").count() >= 1
    link = page.locator("footer p.feedback a")
    assert link.is_visible() and link.get_attribute("href").endswith("/issues/new")


@each_chapter
def test_a_chapter_s_downloads_are_there(open_page, site, name):
    page, _ = open_page(name, viewport=DESK)
    links = page.eval_on_selector_all(
        ".bd-article a[download]", "all => all.map(a => a.getAttribute('href'))"
    )
    assert {f"notebooks/{name}.ipynb", f"student/{name}.ipynb"} <= set(links)
    copy = chapters.read_notebook(site / "notebooks" / f"{name}.ipynb")
    assert any(cell.get("outputs") for cell in copy["cells"])


LINKED = r"<(a|pre|code|h\d|script|style|title|template)\b.*?</\1>"


@each_chapter
def test_numbers_of_equations_and_chapters_and_terms_are_linked(site, name):
    text = (site / f"{name}.html").read_text(encoding="utf-8")
    article = re.search(r"(?s)<article class=\"bd-article\".*?</article>", text)[0]
    plain = re.sub(rf'(?s){LINKED}|<div class="math.*?</div>|<[^>]+>', " ", article)
    tags = {f"({found})" for found in re.findall(r'id="equation-(\d\.\d+)"', article)}
    unlinked = [number for number in re.findall(r"\(\d\.\d{1,2}\)", plain) if number in tags]
    assert not unlinked
    assert article.count('href="glossary.html#term-') >= 5
    assert article.count('class="crossref"') >= 3


def test_the_first_page_says_who_made_it_and_how_to_cite_it(open_page):
    page, _ = open_page("index", viewport=DESK)
    text = unquote(page.locator(".bd-article").inner_text())
    told = furniture.citation()
    book = told["preferred-citation"]
    assert f"edition {book['edition']}" in text and f"{told['license']} licence" in text
    assert book["title"] in " ".join(text.split()) and "How to cite" in text
    assert re.search(r"built on \d+ \w+ 20\d\d", text)
