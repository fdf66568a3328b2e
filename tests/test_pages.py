"""The built book in a browser: what a reader without network sees.  `make browser`, after `make book`."""

import re
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import browser as driver
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
        images: all("img").map(i => ({src: i.currentSrc || i.src, alt: i.alt, width: i.naturalWidth})),
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
    const inside = e => { for (; e && e !== article; e = e.parentElement) if (scrolls(e)) return true; return false; };
    const wide = [...article.querySelectorAll("*")].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1 && e.getClientRects().length
            && !inside(e.parentElement) && !e.closest("mjx-assistive-mml"));
    return {
        page: document.documentElement.scrollWidth - innerWidth,
        wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 150)),
    };
}"""


@dataclass
class Visit:
    """What one visit to a page left behind."""

    seen: dict = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def site() -> Path:
    if not (chapters.HTML / "index.html").is_file():
        pytest.skip("there are no built pages: make book")
    return chapters.HTML


@pytest.fixture(scope="module")
def chromium(site):
    if driver.find_chromium() is None:
        pytest.skip("NOT RUN: no Chromium on this machine; install one (apt-get install chromium) or set CHROMIUM")
    with driver.chromium() as running:
        yield running


@pytest.fixture(scope="module")
def visit(chromium, site):
    """Visit a page from disk, once; later calls get the same visit."""
    visits: dict[str, Visit] = {}

    def go(name: str) -> Visit:
        if name not in visits:
            found = visits[name] = Visit()
            page = chromium.new_page()
            watch(page, found)
            page.goto((site / f"{name}.html").as_uri())
            driver.settle(page)
            found.seen = page.evaluate(LOOK)
            page.close()
        return visits[name]

    return go


def watch(page, found: Visit) -> None:
    def console(message):
        if message.type == "error":
            found.complaints.append(message.text)

    def request(asked):
        if urlsplit(asked.url).hostname not in (None, "", "127.0.0.1"):
            found.foreign.append(asked.url)

    page.on("console", console)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("requestfailed", lambda failed: found.complaints.append(f"failed: {failed.url}"))
    page.on("request", request)


# --------------------------------------------------------------------------------------------------------- each page


@each_page
def test_page_asks_no_other_host_for_anything(visit, name):
    assert not visit(name).foreign


@each_page
def test_page_loads_without_complaint(visit, name):
    assert not visit(name).complaints
    assert visit(name).seen["title"]


@each_page
def test_images_are_there_and_described(visit, name):
    for image in visit(name).seen["images"]:
        assert image["width"] > 0, f"does not load: {image['src']}"
        assert image["alt"].strip(), f"no alt text: {image['src']}"
        assert not re.search(r"\.(png|jpe?g|svg|gif)$", image["alt"]), f"a file name for alt text: {image['alt']}"


@each_page
def test_equations_are_typeset(visit, name):
    seen = visit(name).seen
    assert not seen["mathErrors"]
    assert seen["typeset"] >= seen["math"], f"{seen['typeset']} of {seen['math']} equations are typeset"
    raw = re.search(r"\$\$|\\(?:frac|mathbb|tag|begin|sum)\b", seen["words"])
    assert not raw, f"raw TeX in the text: …{seen['words'][max(0, raw.start() - 40) : raw.end() + 40]}…"


@each_page
def test_links_inside_the_book_lead_somewhere(visit, site, name):
    for link in visit(name).seen["links"]:
        url = urlsplit(link)
        if url.scheme != "file":
            continue
        target = Path(unquote(url.path))
        assert target.is_file(), f"a link to nothing: {link}"
        if url.fragment and target.suffix == ".html":
            ids = re.findall(r'\bid="([^"]+)"', target.read_text(encoding="utf-8"))
            assert unquote(url.fragment) in ids, f"a link to no place on its page: {link}"


@each_page
def test_narrow_screen_does_not_scroll_sideways(chromium, site, name):
    page = chromium.new_page(viewport={"width": NARROW, "height": 800})
    page.goto((site / f"{name}.html").as_uri())
    driver.settle(page)
    measured = page.evaluate(OVERFLOW)
    page.close()
    assert measured["page"] <= 1 and not measured["wide"], measured


# ------------------------------------------------------------------------------------------------------ each chapter


@each_chapter
def test_colab_button(visit, name):
    repository = CONFIG["repository"]
    path = f"{repository['path_to_book']}/{name}.ipynb"
    own = repository["url"].removeprefix("https://github.com/")
    wanted = f"{CONFIG['launch_buttons']['colab_url']}/github/{own}/blob/{repository['branch']}/{path}"
    links = {link for link in visit(name).seen["links"] if "colab" in link}
    assert links == {wanted}


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


def search(chromium, url: str, word: str) -> list[str]:
    """The addresses that the book's own search finds."""
    page = chromium.new_page()
    page.goto(f"{url}/search.html?q={quote(word)}")
    page.wait_for_selector("#search-results .search-summary:not(:empty)")
    page.wait_for_function("document.querySelector('#search-results h2')?.innerText !== 'Searching'")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")
    page.close()
    return found


def rare_word(name: str) -> str:
    """A word of this chapter's text that no other page has."""
    texts = {n: page_text(n) for n in PAGES}
    others = set().union(*(set(words(t)) for n, t in texts.items() if n != name))
    return max((w for w in words(texts[name]) if w not in others), key=len)


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
def test_search_finds_the_chapter(chromium, site, address, name, way):
    word = rare_word(name)
    found = search(chromium, address if way == "http" else site.as_uri(), word)
    assert any(f"/{name}.html" in link for link in found), f"searching for {word!r} found {found}"
