"""The book as a PDF, printed by Chromium from the built pages.

    python tools/printed.py

It writes `_build/html/early-exit-notes.pdf`, without the reference of the package, and links it on
the first page.
"""

from __future__ import annotations

import re
from pathlib import Path

import browser
import chapters
import furniture

NAME = "early-exit-notes.pdf"
_ARTICLE = re.compile(r'<article class="bd-article">(.*?)</article>', re.S)
_STYLE = """
html, body { background: #fff }
.bd-header-article, .bd-sidebar-primary, .bd-sidebar-secondary, .header-article, footer,
.prev-next-footer, .headerlink, .copybtn, .navbar, .skip-link { display: none !important }
.bd-main .bd-content .bd-article-container { max-width: none !important; padding: 0 }
section.printed { break-before: page } section.printed:first-of-type { break-before: auto }
figure, table, .cell_input, div.math { break-inside: avoid }
h1, h2, h3, h4 { break-after: avoid }
.bd-article h1 { display: block !important } #jb-print-docs-body { display: none !important }
.cell_input pre, .output pre { white-space: pre-wrap !important; overflow-wrap: anywhere }
.cell_input pre { font-size: 10px !important }
.cell_output, .output { overflow: visible !important; max-height: none !important }
details:not([open]) > *:not(summary) { display: block }
"""


def whole_book(site: Path, pages: list[str]) -> str:
    """One HTML page with all pages of the built book, one after the other.

    What a page links to on another lies on the same page now: its name stands before every id.

    Args:
        site: the built book.
        pages: their names without ``.html``, in order; the first one is the frame.

    Raises:
        ValueError: a page that is not built, or has no article.
    """
    articles = []
    for name in pages:
        path = site / f"{name}.html"
        found = _ARTICLE.search(path.read_text(encoding="utf-8")) if path.is_file() else None
        if not found:
            raise ValueError(f"there is no page {name}: make book")
        articles.append(
            f'<section class="printed" id="{name}">{_own(found[1], name, pages)}</section>'
        )
    frame = (site / f"{pages[0]}.html").read_text(encoding="utf-8")
    before, after = frame[: _ARTICLE.search(frame).start()], frame[_ARTICLE.search(frame).end() :]
    styled = before.replace("</head>", f"<style>{_STYLE}</style></head>")
    return f'{styled}<article class="bd-article">{"".join(articles)}</article>{after}'


def _own(article: str, name: str, pages: list[str]) -> str:
    """An article whose ids and links are those of the whole book, or lead to the site."""
    folder, site = name.rpartition("/")[0], furniture.citation()["url"]

    def address(found: re.Match) -> str:
        page, _, place = found[1].partition("#")
        if re.match(r"[a-z]+:", page):
            return found[0]
        parts = [*folder.split("/"), *page.split("/")] if page else [f"{name}.html"]
        kept: list[str] = []
        for part in filter(None, parts):
            kept = kept[:-1] if part == ".." else [*kept, part]
        target = "/".join(kept).removesuffix(".html")
        if target not in pages:  # on the site
            return f'href="{site}/{"/".join(kept)}{f"#{place}" if place else ""}"'
        return f'href="#{_id(target, place) if place else target}"'

    article = re.sub(r'href="([^"]*)"', address, article)
    return re.sub(r'(?<=\s)id="([^"]+)"', lambda found: f'id="{_id(name, found[1])}"', article)


def _id(page: str, place: str) -> str:
    return f"{page}--{place}"


def print_book(site: Path) -> Path:
    """Print the built book, and link it on its first page.

    Raises:
        ValueError: if a page is missing.
    """
    pages = [name for name in chapters.toc_files() if not name.startswith("api/")]
    combined, target = site / "printed.html", site / NAME
    combined.write_text(whole_book(site, pages), encoding="utf-8")
    try:
        with browser.chromium() as chromium:
            page = chromium.new_page(color_scheme="light")
            page.set_default_timeout(0)
            page.goto(combined.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            browser.settle(page)
            centred = "font-size: 8px; width: 100%; text-align: center"
            number = f'<div style="{centred}"><span class="pageNumber"></span></div>'
            page.pdf(
                path=target,
                format="A4",
                margin={"top": "18mm", "bottom": "18mm", "left": "17mm", "right": "17mm"},
                print_background=True,
                outline=True,
                tagged=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=number,
            )
    finally:
        combined.unlink()
    first = site / "index.html"
    size = target.stat().st_size / 2**20
    words = f'<a href="{NAME}" download>The whole book as a PDF</a> ({size:.0f} MB). '
    text = first.read_text(encoding="utf-8")
    first.write_text(
        text.replace(furniture.PDF, furniture.PDF.replace("><", f">{words}<")), encoding="utf-8"
    )
    return target


def main() -> None:
    if not (chapters.HTML / "index.html").is_file():
        raise SystemExit("there are no built pages: make book")
    target = print_book(chapters.HTML)
    print(f"{target.relative_to(chapters.ROOT)}: {target.stat().st_size / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
