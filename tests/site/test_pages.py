"""The built book in a browser: what a reader without network sees.

`make browser`, after `make book`.
"""

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, unquote, urlsplit

import chapters
import pytest
import yaml

pytestmark = pytest.mark.browser

PAGES = chapters.toc_files()
CONFIG = yaml.safe_load(chapters.CONFIG.read_text(encoding="utf-8"))
NARROW = 375  # pixels, a phone

each_page = pytest.mark.parametrize("name", PAGES)
each_chapter = pytest.mark.parametrize("name", chapters.chapters())

LOOK = """() => {
    const all = selector => [...document.querySelectorAll(selector)];
    const article = document.querySelector(".bd-article") ?? document.body;
    const words = article.cloneNode(true);
    words.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
    return {
        title: document.querySelector("h1")?.innerText ?? "",
        images: all("img").map(i => (
            {src: i.currentSrc || i.src, alt: i.alt, width: i.naturalWidth})),
        links: all("a[href]").map(a => a.href),
        ids: all("[id]").map(e => e.id),
        math: all(".math").length,
        typeset: all(".math mjx-container").length,
        mathErrors: all("mjx-merror, .MathJax_Error").map(e => e.textContent),
        words: words.textContent,
    };
}"""

OVERFLOW = """() => {
    const scrolls = e => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
    const article = document.querySelector(".bd-article") ?? document.body;
    const inside = e => {
        for (; e && e !== article; e = e.parentElement) if (scrolls(e)) return true;
        return false;
    };
    const wide = [...article.querySelectorAll("*")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1 && e.getClientRects().length
            && !inside(e.parentElement) && !e.closest("mjx-assistive-mml"));
    return {
        page: document.documentElement.scrollWidth - innerWidth,
        wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 150)),
    };
}"""


@pytest.fixture(scope="module")
def visits() -> dict[str, SimpleNamespace]:
    return {}


@pytest.fixture
def seen(open_page, visits, name) -> SimpleNamespace:
    """What a visit to the page found; all tests of a page get the same visit."""
    if name not in visits:
        page, visit = open_page(name)
        visits[name] = SimpleNamespace(**vars(visit), **page.evaluate(LOOK))
    return visits[name]


# --- each page


@each_page
def test_page_loads_without_complaint_and_without_another_host(seen):
    assert not seen.foreign and not seen.complaints and seen.title


@each_page
def test_images_are_there_and_described(seen):
    for image in seen.images:
        assert image["width"] > 0 and image["alt"].strip(), image["src"]
        file_name = r"\.(png|jpe?g|svg|gif)$"
        assert not re.search(file_name, image["alt"]), f"a file name for alt text: {image['alt']}"


@each_page
def test_equations_are_typeset(seen):
    assert not seen.mathErrors and seen.typeset >= seen.math
    raw = re.findall(r".{,40}(?:\$\$|\\(?:frac|mathbb|tag|begin|sum)\b).{,40}", seen.words)
    assert not raw, f"raw TeX in the text: {raw}"


@each_page
def test_links_inside_the_book_lead_somewhere(seen):
    for link in seen.links:
        url = urlsplit(link)
        if url.scheme != "file":
            continue
        target = Path(unquote(url.path))
        assert target.is_file(), f"a link to nothing: {link}"
        if url.fragment and target.suffix == ".html":
            ids = re.findall(r'\bid="([^"]+)"', target.read_text(encoding="utf-8"))
            assert unquote(url.fragment) in ids, f"a link to no place on its page: {link}"


@each_page
def test_narrow_screen_does_not_scroll_sideways(open_page, name):
    page, _ = open_page(name, viewport={"width": NARROW, "height": 800})
    measured = page.evaluate(OVERFLOW)
    assert measured["page"] <= 1 and not measured["wide"], measured


# --- light and dark

# Every text in the article, folded parts opened: its colour over what lies behind it, by WCAG's
# formula.
CONTRAST = """theme => {
    document.documentElement.dataset.theme = document.documentElement.dataset.mode = theme;
    const article = document.querySelector(".bd-article") ?? document.body;
    article.querySelectorAll("details").forEach(e => e.open = true);
    const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const known = {};
    const rgba = color => {
        if (!known[color]) {
            pen.clearRect(0, 0, 1, 1);
            pen.fillStyle = color;
            pen.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
            known[color] = [r, g, b, a / 255];
        }
        return known[color];
    };
    const over = (top, ground) => [0, 1, 2].map(i => top[i] * top[3] + ground[i] * (1 - top[3]));
    const white = [255, 255, 255];
    const behind = e =>
        e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : white;
    const linear = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
    const seen = e => e.getClientRects().length && getComputedStyle(e).visibility === "visible"
        && !e.closest("style, script, noscript, template, mjx-assistive-mml, .headerlink, button");
    const found = {};
    const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    let count = 0;
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement, words = walk.currentNode.textContent.trim();
        if (!words || !seen(element)) continue;
        count++;
        const ground = behind(element), ink = over(rgba(getComputedStyle(element).color), ground);
        const [light, dark] = [luminance(ground), luminance(ink)].sort((a, b) => b - a);
        const ratio = (light + 0.05) / (dark + 0.05);
        if (ratio < 4.5) found[`${ink} on ${ground.map(Math.round)}: ${ratio.toFixed(2)}`] ??=
            `${words.slice(0, 50)} in ${element.outerHTML.slice(0, 120)}`;
    }
    const pictures = [...article.querySelectorAll(".cell_output figure picture img")];
    const grounds = pictures.map(e => getComputedStyle(e).backgroundColor);
    return {faint: found, texts: count, grounds: grounds};
}"""


@each_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_captions_and_tables_stand_out(open_page, name, theme):
    page, _ = open_page(name, color_scheme=theme)
    looked = page.evaluate(CONTRAST, theme)
    assert looked["texts"] > 10 and not looked["faint"], looked["faint"]
    assert set(looked["grounds"]) <= {"rgb(255, 255, 255)"}, "figures are drawn for a white ground"


# --- sliders

SLIDERS = ["01-why-leave-early", "02-e2cm", "04-cbt", "06-class-aware-init"]
each_slider = pytest.mark.parametrize("name", SLIDERS)

SHOWN = """figure => {
    const texts = (root, selector) => [...root.querySelectorAll(selector)].map(e => e.textContent);
    return {
        said: figure.querySelector("output").textContent,
        value: figure.querySelector(".value").textContent,
        spoken: figure.querySelector("input").getAttribute("aria-valuetext"),
        at: +figure.querySelector("input").value,
        shares: texts(figure, ".share"),
        state: figure.querySelector(".state").innerHTML,
        heads: texts(figure, "th"),
        rows: [...figure.querySelectorAll("tbody tr")].map(row => texts(row, "td")),
    };
}"""


def agrees(shown: dict) -> bool:
    """Whether what a slider shows is the row of its table that it stands at."""
    _, score, cost, *_ = shown["heads"]
    threshold, accuracy, relative_cost, *left = shown["rows"][shown["at"]]
    said = f"{score} {accuracy}, {cost} {relative_cost}"
    row = [threshold, threshold, said, left]
    return [shown[part] for part in ("value", "spoken", "said", "shares")] == row


@each_slider
def test_the_slider_is_moved_by_the_keyboard(open_page, name):
    page, _ = open_page(name)
    figure = page.locator("figure.eenotes-slider")
    control = figure.get_by_role("slider", name="threshold")
    seen = [figure.evaluate(SHOWN)]
    rows = seen[0]["rows"]
    last = len(rows) - 1
    control.focus()
    for key in ["Home", *["ArrowRight"] * last, "ArrowLeft", "End"]:
        control.press(key)
        seen.append(figure.evaluate(SHOWN))
    assert not [shown for shown in seen if not agrees(shown)]
    assert [shown["at"] for shown in seen[1:]] == [*range(last + 1), last - 1, last]
    assert len({shown["said"] for shown in seen}) > last / 2, "most steps change accuracy or cost"
    assert len({shown["state"] for shown in seen}) > last / 2, "and where samples exit"
    assert float(rows[0][2]) < float(rows[-1][2]), "a higher threshold costs more"
    assert not figure.locator("table").is_visible(), "the table is folded"


@each_slider
def test_without_scripts_the_numbers_are_a_table(site, new_page, name):
    page, _ = new_page(java_script_enabled=False)
    page.goto((site / f"{name}.html").as_uri())
    figure = page.locator("figure.eenotes-slider")
    assert figure.locator("table").is_visible() and figure.locator("tbody tr").count() > 8
    assert not figure.locator("input").is_visible(), "a control that does nothing"
    assert "JavaScript" in figure.inner_text()
    said = figure.locator("output").inner_text()
    rows = [row.split() for row in figure.locator("tbody tr").all_inner_texts()]
    row = next(row for row in rows if row[1] in said and row[2] in said)
    assert figure.locator(".share").all_inner_texts() == row[3:]


def test_two_sliders_on_one_page_do_not_interfere(site, new_page, tmp_path):
    texts = [(site / f"{name}.html").read_text(encoding="utf-8") for name in SLIDERS[:2]]
    figure = r'(?s)<figure class="eenotes-slider"[^>]*>.*?</figure>'
    # as slides do, which have keys of their own
    greedy = "<script>addEventListener('keydown', event => event.preventDefault())</script>"
    parts = ['<!doctype html><meta charset="utf-8">', greedy]
    parts += [re.search(figure, text)[0] for text in texts]
    (tmp_path / "both.html").write_text("".join(parts), encoding="utf-8")
    page, visit = new_page((tmp_path / "both.html").as_uri())
    first, second = page.locator("figure.eenotes-slider").all()
    for moved, other, key in ((first, second, "Home"), (second, first, "End")):
        before = other.evaluate(SHOWN)
        moved.locator("input").press(key)
        shown = moved.evaluate(SHOWN)
        assert agrees(shown) and other.evaluate(SHOWN) == before
        assert shown["at"] == (0 if key == "Home" else len(shown["rows"]) - 1)
    assert not visit.complaints and not visit.foreign


# --- each chapter


@each_chapter
def test_colab_button(seen, name):
    repository, colab = CONFIG["repository"], CONFIG["launch_buttons"]["colab_url"]
    own = repository["url"].removeprefix("https://github.com/")
    path = f"{repository['path_to_book']}/{name}.ipynb"
    wanted = f"{colab}/github/{own}/blob/{repository['branch']}/{path}"
    assert {link for link in seen.links if "colab" in link} == {wanted}


@pytest.fixture(scope="module")
def address(site):
    """The pages over HTTP, from this machine to itself."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


DONE = "document.querySelector('#search-results h2')?.innerText !== 'Searching'"


def search(page, url: str, word: str) -> list[str]:
    """The addresses that the book's own search finds."""
    page.goto(f"{url}/search.html?q={quote(word)}")
    page.wait_for_selector("#search-results .search-summary:not(:empty)")
    page.wait_for_function(DONE)
    return page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")


def rare_word(name: str) -> str:
    """A word of this chapter's text that no other page has."""
    texts = {n: words(page_text(n)) for n in PAGES}
    others = {word for n, found in texts.items() if n != name for word in found}
    return max((word for word in texts[name] if word not in others), key=len)


def page_text(name: str) -> str:
    path = chapters.BOOK / f"{name}.ipynb"
    if not path.is_file():
        return (chapters.BOOK / f"{name}.md").read_text(encoding="utf-8")
    cells = chapters.read_notebook(path)["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def words(text: str) -> list[str]:
    plain = re.sub(r"(?s)<[^>]*>|\]\([^)]*\)|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|https?://\S+", " ", text)
    return re.findall(r"\b[a-z]{6,14}\b", plain.lower())


@each_chapter
@pytest.mark.parametrize("way", ["http", "disk"])
def test_search_finds_the_chapter(new_page, site, address, name, way):
    word = rare_word(name)
    found = search(new_page()[0], address if way == "http" else site.as_uri(), word)
    assert any(f"/{name}.html" in link for link in found), f"searching for {word!r} found {found}"
