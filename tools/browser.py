"""The system's Chromium, driven by Playwright, over the built pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

# Nothing that this browser does by itself may leave the machine, and no name but this machine's is
# resolved.
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def find_chromium() -> str | None:
    """Where the browser is: the environment's CHROMIUM, or the first of the usual names on the
    path.
    """
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator:
    """A headless browser with a profile of its own, closed at the end."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        raise RuntimeError("no Chromium found: install one, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def settle(page) -> None:
    """Wait until equations are typeset, images are loaded and nothing moves any more."""
    page.wait_for_load_state("load")
    page.evaluate(
        """async () => {
            if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
            for (const image of document.images) image.loading = "eager";
            await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
            await document.fonts.ready;
            await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
            const moving = document.getAnimations().map(
                animation => animation.finished.catch(() => {}));
            await Promise.race([Promise.all(moving), new Promise(late => setTimeout(late, 2000))]);
        }"""
    )
