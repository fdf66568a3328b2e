"""Pictures of the built pages, to look at: each page whole, and each of its figures.

    python tools/screenshot.py                            every page
    python tools/screenshot.py 02-e2cm --width 400 --dark one page as a phone in dark mode shows it

They go to `_build/shots/<page>/`: page.png, figure-01.png, figure-02.png, ...
"""

from __future__ import annotations

import argparse
import shutil

import browser
import chapters

SHOTS = chapters.BUILD / "shots"


def shoot(page, name: str) -> int:
    """Photograph one page and its figures; the number of figures."""
    folder = SHOTS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    page.goto((chapters.HTML / f"{name}.html").as_uri())
    # solutions, too
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    browser.settle(page)
    window = page.viewport_size
    page.set_viewport_size(
        {"width": window["width"], "height": page.evaluate("document.documentElement.scrollHeight")}
    )
    browser.settle(page)
    page.screenshot(path=folder / "page.png")
    page.set_viewport_size(window)
    browser.settle(page)
    figures = page.locator(".bd-article figure, .bd-article .cell_output img:not(figure img)").all()
    for number, figure in enumerate(figures, 1):
        figure.screenshot(path=folder / f"figure-{number:02d}.png")
    print(f"{folder.relative_to(chapters.ROOT)}: the page and {len(figures)} figures")
    return len(figures)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pages", nargs="*", metavar="PAGE", help="names without .html; all pages if none is given"
    )
    parser.add_argument("--width", type=int, default=1400, help="of the window, in pixels")
    parser.add_argument(
        "--dark", action="store_true", help="as a reader who prefers dark mode sees it"
    )
    options = parser.parse_args()
    if not (chapters.HTML / "index.html").is_file():
        raise SystemExit("there are no built pages: make book")
    with browser.chromium() as chromium:
        page = chromium.new_page(
            viewport={"width": options.width, "height": 1000},
            color_scheme="dark" if options.dark else "light",
        )
        for name in options.pages or chapters.toc_files():
            shoot(page, name.removesuffix(".html"))


if __name__ == "__main__":
    main()
