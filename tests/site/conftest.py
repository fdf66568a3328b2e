"""The wheel that is built from this repository, and pages of a browser."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import browser as driver
import chapters
import pytest

ROOT = chapters.ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, as pip builds it from a clone: what lies around here stays out of it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("eenotes", "book/eenotes_book"):
        ignored = shutil.ignore_patterns("__pycache__", "tiny")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "-w", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


@dataclass
class Visit:
    """What the visits of one page of a browser left behind."""

    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  #: addresses on other hosts

    def watch(self, page) -> None:
        page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda failed: self.complaints.append(f"failed: {failed.url}"))
        page.on("request", self._request)

    def _request(self, request) -> None:
        if urlsplit(request.url).hostname not in (None, "", "127.0.0.1"):
            self.foreign.append(request.url)


@pytest.fixture(scope="session")
def chromium():
    if driver.find_chromium() is None:
        pytest.skip("NOT RUN: no Chromium here: apt-get install chromium, or set CHROMIUM")
    with driver.chromium() as running:
        yield running


@pytest.fixture
def new_page(chromium) -> Callable:
    """``new_page(address=None, **options)``: a page of its own, settled, and what its visits leave
    behind.
    """
    opened = []

    def make(address: str | None = None, **options):
        context = chromium.new_context(**options)
        opened.append(context)
        page, visit = context.new_page(), Visit()
        visit.watch(page)
        if address is not None:
            page.goto(address)
            driver.settle(page)
        return page, visit

    yield make
    for context in opened:
        context.close()


@pytest.fixture(scope="session")
def site() -> Path:
    if not (chapters.HTML / "index.html").is_file():
        pytest.skip("there are no built pages: make book")
    return chapters.HTML


@pytest.fixture
def open_page(site, new_page):
    """``open_page(name, **options)``: a page of the book, from disk."""
    return lambda name, **options: new_page((site / f"{name}.html").as_uri(), **options)
