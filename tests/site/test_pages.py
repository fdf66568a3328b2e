"""The built book in a browser: what a reader without network sees.

`make browser`, after `make book`.
"""

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
        pytest.skip(
            "NOT RUN: no Chromium on this machine; install one (apt-get install chromium) or set CHROMIUM"
        )
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


# --- each page


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
        assert not re.search(r"\.(png|jpe?g|svg|gif)$", image["alt"]), (
            f"a file name for alt text: {image['alt']}"
        )


@each_page
def test_equations_are_typeset(visit, name):
    seen = visit(name).seen
    assert not seen["mathErrors"]
    assert seen["typeset"] >= seen["math"], (
        f"{seen['typeset']} of {seen['math']} equations are typeset"
    )
    raw = re.search(r"\$\$|\\(?:frac|mathbb|tag|begin|sum)\b", seen["words"])
    assert not raw, (
        f"raw TeX in the text: …{seen['words'][max(0, raw.start() - 40) : raw.end() + 40]}…"
    )


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
    const behind = e => e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
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
    const pictures = [...article.querySelectorAll(".cell_output figure > img")];
    return {faint: found, texts: count, grounds: pictures.map(e => getComputedStyle(e).backgroundColor)};
}"""


@each_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_captions_and_tables_stand_out(chromium, site, name, theme):
    page = chromium.new_page(color_scheme=theme)
    page.goto((site / f"{name}.html").as_uri())
    driver.settle(page)
    looked = page.evaluate(CONTRAST, theme)
    page.close()
    assert looked["texts"] > 10
    assert not looked["faint"], "\n".join(
        f"{what}: {where}" for what, where in looked["faint"].items()
    )
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
    return (shown["value"], shown["spoken"], shown["said"], shown["shares"]) == (
        threshold,
        threshold,
        said,
        left,
    )


@each_slider
def test_the_slider_is_moved_by_the_keyboard(chromium, site, name):
    page = chromium.new_page()
    page.goto((site / f"{name}.html").as_uri())
    figure = page.locator("figure.eenotes-slider")
    control = figure.get_by_role("slider", name="threshold")
    seen = [figure.evaluate(SHOWN)]
    control.focus()
    for key in ["Home", *["ArrowRight"] * (len(seen[0]["rows"]) - 1), "ArrowLeft", "End"]:
        control.press(key)
        seen.append(figure.evaluate(SHOWN))
    table_is_folded = not figure.locator("table").is_visible()
    page.close()
    assert all(map(agrees, seen)), [shown for shown in seen if not agrees(shown)][:1]
    last = len(seen[0]["rows"]) - 1
    assert [shown["at"] for shown in seen[1:]] == [*range(last + 1), last - 1, last]
    assert len({shown["said"] for shown in seen}) > last / 2, "most steps change accuracy or cost"
    assert len({shown["state"] for shown in seen}) > last / 2, "and who leaves where"
    assert float(seen[1]["rows"][0][2]) < float(seen[1]["rows"][-1][2]), (
        "a higher threshold costs more"
    )
    assert table_is_folded


@each_slider
def test_without_scripts_the_numbers_are_a_table(chromium, site, name):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / f"{name}.html").as_uri())
    figure = page.locator("figure.eenotes-slider")
    assert figure.locator("table").is_visible() and figure.locator("tbody tr").count() > 8
    assert not figure.locator("input").is_visible(), "a control that does nothing"
    assert "JavaScript" in figure.inner_text()
    said = figure.locator("output").inner_text()
    row = next(
        r
        for r in figure.locator("tbody tr").all_inner_texts()
        if r.split()[1] in said and r.split()[2] in said
    )
    assert figure.locator(".share").all_inner_texts() == row.split()[3:]
    context.close()


def test_two_sliders_on_one_page_do_not_interfere(chromium, site, tmp_path):
    two = [re.search(r'(?s)<figure class="eenotes-slider">.*?</figure>', (site / f"{name}.html").read_text(encoding="utf-8"))[0]
           for name in SLIDERS[:2]]  # fmt: skip
    both = tmp_path / "both.html"
    # as slides do, which have keys of their own
    greedy = "<script>addEventListener('keydown', event => event.preventDefault())</script>"
    both.write_text(
        f'<!doctype html><meta charset="utf-8">{greedy}{"".join(two)}', encoding="utf-8"
    )
    page = chromium.new_page()
    found = Visit()
    watch(page, found)
    page.goto(both.as_uri())
    first, second = page.locator("figure.eenotes-slider").all()
    before = second.evaluate(SHOWN)
    first.locator("input").press("Home")
    assert first.evaluate(SHOWN)["at"] == 0 and agrees(first.evaluate(SHOWN))
    assert second.evaluate(SHOWN) == before
    moved = first.evaluate(SHOWN)
    second.locator("input").press("End")
    assert second.evaluate(SHOWN)["at"] == len(before["rows"]) - 1 and agrees(
        second.evaluate(SHOWN)
    )
    assert first.evaluate(SHOWN) == moved
    page.close()
    assert not found.complaints and not found.foreign


# --- each chapter


@each_chapter
def test_colab_button(visit, name):
    repository = CONFIG["repository"]
    path = f"{repository['path_to_book']}/{name}.ipynb"
    own = repository["url"].removeprefix("https://github.com/")
    wanted = (
        f"{CONFIG['launch_buttons']['colab_url']}/github/{own}/blob/{repository['branch']}/{path}"
    )
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
    page.wait_for_function(
        "document.querySelector('#search-results h2')?.innerText !== 'Searching'"
    )
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
