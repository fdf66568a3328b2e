"""Build the book's pages from executed chapters, strictly: a warning fails the build.

Before that the probes of all chapters are compared with the present code (`moved_probes`), so that
a record which the present code no longer stands behind is named, and marked on its pages.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import chapters
import evidence
import furniture
import linking
import on_t4
import reference
import results
import teaching
from chapters import read_notebook

from eenotes_book import probes, records, style
from eenotes_book.cache import write_json
from eenotes_book.ch01_leaving import drawings


def without_live_widgets(notebook: dict) -> dict:
    """Drop widget views and their state: without a kernel they are dead.

    Showing them would take a script from another host.

    What an output has beside its view stays, such as the page's own slider; a progress bar has
    nothing and has done its work.
    """
    view = "application/vnd.jupyter.widget-view+json"
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [
                out
                for out in cell["outputs"]
                if view not in out.get("data", {}) or "text/html" in out["data"]
            ]
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(view, None)
    return notebook


# a displayed equation with a number
NUMBERED = re.compile(r"(?ms)^\$\$(?:(?!\$\$).)*?\\tag\{(?P<number>\d+\.\d+)\}")


def equation_id(number: str) -> str:
    return f"equation-{number}"


def equations() -> dict[str, str]:
    """The numbered equations of all chapters, in order: "4.2" → its place in the built book."""
    return {
        found["number"]: f"{chapter}.html#{equation_id(found['number'])}"
        for chapter in chapters.chapters()
        for cell in read_notebook(chapters.BOOK / f"{chapter}.ipynb")["cells"]
        if cell["cell_type"] == "markdown"
        for found in NUMBERED.finditer("".join(cell["source"]))
    }


def for_the_page(markdown: str) -> str:
    """What Colab and GitHub show well, turned into what the page needs.

    The badge's picture lies on another host: a plain link stays.  A link to an entry of the
    bibliography (`references.md#ref-<key>`) is written out, because MyST knows the ids of headings
    only.  A numbered equation can be linked to.
    """
    markdown = re.sub(r"\[!\[([^\]]*)\]\(https?://[^)]*badge[^)]*\)\]", r"[\1]", markdown)
    markdown = NUMBERED.sub(
        lambda found: (
            f'<div class="place" id="{equation_id(found["number"])}"></div>\n\n{found[0]}'
        ),
        markdown,
    )
    return re.sub(
        r"\[([^\]]+)\]\(references\.md#([^)]+)\)", r'<a href="references.html#\2">\1</a>', markdown
    )


def chapter_pages() -> dict[str, str]:
    """Number of a chapter → its page: "2" → "02-e2cm.html"."""
    return {str(int(name[:2])): f"{name}.html" for name in chapters.chapters()}


def page_source(notebook: dict, chapter: str = "") -> dict:
    """An executed chapter as Jupyter Book gets it.

    Args:
        notebook: its content.
        chapter: its number, "2"; without it no figure is numbered and no term linked.
    """
    texts = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    for cell in texts:
        cell["source"] = for_the_page("".join(cell["source"]))
    if chapter:
        name = chapter_pages()[chapter].removesuffix(".html")
        texts[0]["source"] = furniture.with_downloads(texts[0]["source"], name)
        link_everything(notebook, texts, chapter)
    return with_anchors(without_live_widgets(notebook))


def link_everything(notebook: dict, texts: list[dict], chapter: str) -> None:
    """Equations, chapters, terms and figures of a chapter, in place."""
    places, numbers = equations(), chapter_pages()
    known = linking.terms((chapters.BOOK / "glossary.md").read_text(encoding="utf-8"))
    linked = linking.with_terms([cell["source"] for cell in texts], known, int(chapter))

    def link(text: str) -> str:
        text = linking.with_equations(text, places)
        return linking.with_chapters(text, numbers, own=chapter)

    for cell, text in zip(texts, linked, strict=True):
        cell["source"] = link(text)
    linking.with_figure_numbers(notebook["cells"], chapter, link)


def claims_of(cell: dict) -> list[str]:
    """The labels of the claims whose numbers a cell makes, the `where` of a record.

    They stand in the cell: `"metadata": {"claims": ["budgets"]}`.
    """
    return cell["metadata"].get("claims", [])


def anchor(label: str) -> str:
    """The id, in a built page, of the cell that makes the numbers of a claim."""
    return "claim-" + re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def with_anchors(notebook: dict) -> dict:
    """Put a place to link to before every cell that makes a claim's number."""
    cells = []
    for cell in notebook["cells"]:
        if claims_of(cell):
            ids = [anchor(label) for label in claims_of(cell)]
            source = "\n".join(f'<div class="place" id="{name}"></div>' for name in ids)
            cells.append(
                {"cell_type": "markdown", "id": ids[0][:64], "metadata": {}, "source": source}
            )
        cells.append(cell)
    return notebook | {"cells": cells}


# --- records and the present code


def moved_probes() -> dict[str, list[str]]:
    """Chapter → what its probe says differs between the present code and ``probe.json``.

    The probes run once per state of the code, chapters side by side; the outcome is kept in
    `_build/probes.json`.
    """
    digest = hashlib.sha256()
    for path in chapters.package_files("tiny"):
        if chapters.RECORDS not in path.parents:
            digest.update(f"{path.relative_to(chapters.ROOT)}\0".encode() + path.read_bytes())
    kept, key = chapters.BUILD / "probes.json", digest.hexdigest()
    if kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found["moved"]
    names = chapters.chapters()
    print(f"comparing the probes of {len(names)} chapters with the present code …", flush=True)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        moved = dict(zip(names, pool.map(_moved, names), strict=True))
    write_json(kept, {"key": key, "moved": moved})
    return moved


def _moved(chapter: str) -> list[str]:
    if not probes.path_of(chapter).is_file():
        return [f"it has no probe.json: python -m eenotes_book probe {int(chapter[:2])}"]
    return probes.moved(probes.stored(chapter), probes.run(chapter))


def with_reasons(record: dict | None, moved: list[str]) -> dict | None:
    """A committed record, out of date also if the chapter's probe has moved."""
    if record is None or not moved:
        return record
    reasons = [*record["outdated"], f"the probe of the present code differs: {moved[0]}"]
    return record | {"outdated": reasons, "current": False}


def report(found: list[results.Chapter]) -> None:
    """Print which committed records are out of date, and why."""
    for chapter in found:
        for at, record in chapter.committed.items():
            if not record["current"]:
                reasons = "; ".join(record["outdated"][:3])
                print(f"record of {chapter.name} at {at} is out of date: {reasons}")


# --- the pages


def gathered(chapter: str, scale: str, moved: list[str]) -> results.Chapter:
    """What the results page needs to know of a chapter: places of claims, records, seconds."""
    notebook = read_notebook(chapters.executed(chapter, scale))
    title = re.match(r"# (.+)", "".join(notebook["cells"][0]["source"]))[1]
    labels = [label for cell in notebook["cells"] for label in claims_of(cell)]
    committed = {at: with_reasons(records.load(chapter, at), moved) for at in results.RECORDED}
    return results.Chapter(
        chapter,
        title,
        places={label: f"{chapter}.html#{anchor(label)}" for label in labels},
        fresh=records.read(chapters.record_of(chapter, scale)),
        committed={at: record for at, record in committed.items() if record},
        seconds=chapters.stamp(chapter, scale).get("seconds"),
    )


def assemble(scale: str) -> Path:
    """`_build/book-src`: the book's own files, with executed chapters and pages filled in."""
    source = chapters.BUILD / "book-src"
    shutil.rmtree(source, ignore_errors=True)
    left_out = shutil.ignore_patterns("*.ipynb", "_build", ".*", "eenotes_book", "steps")
    shutil.copytree(chapters.BOOK, source, ignore=left_out)
    for chapter in chapters.chapters():
        executed = read_notebook(chapters.executed(chapter, scale))
        notebook = page_source(executed, str(int(chapter[:2])))
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        (source / f"{chapter}.ipynb").write_text(text + "\n", encoding="utf-8")
    moved = moved_probes()
    style.use_style()
    found = [gathered(name, scale, moved[name]) for name in chapters.chapters()]
    report(found)
    fillings = {
        "index.md": lambda page: on_t4.fill(
            furniture.edition(page, picture=drawings.first_page().data)
        ),
        "results.md": lambda page: results.fill(page, scale, found),
        "which-method.md": lambda page: evidence.fill(page, scale, found),
        "notation.md": lambda page: reference.fill(page, equations()),
        "api/book.md": reference.fill_modules,
        "api/chapters.md": reference.fill_modules,
    }
    for name, fill in fillings.items():
        filled = fill((source / name).read_text(encoding="utf-8"))
        (source / name).write_text(filled, encoding="utf-8")
    return source


def jupyter_book(source: Path, output: Path) -> bool:
    """A strict build: a warning or a reference to nothing fails it, and its messages are shown."""
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(source), "--config", str(chapters.CONFIG)]
    command += ["--path-output", str(output), "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(
        command, cwd=chapters.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        print(done.stdout)
    return done.returncode == 0


def build(scale: str) -> bool:
    """Build the pages from scratch into `_build/html`, which holds this state's pages or none."""
    shutil.rmtree(chapters.HTML, ignore_errors=True)
    names = chapters.chapters()
    outdated = [name for name in names if not chapters.is_current(name, scale)]
    if outdated:
        command = f"make book SCALE={scale}"
        print(f"not executed at {scale}: {', '.join(outdated)}; run: {command}", file=sys.stderr)
        return False
    staging = chapters.BUILD / "pages"
    shutil.rmtree(staging, ignore_errors=True)
    start = time.monotonic()
    if not jupyter_book(assemble(scale), staging):
        print("the strict build failed: see the warnings above", file=sys.stderr)
        return False
    made = staging / "_build" / "html"
    executed = {name: chapters.executed(name, scale) for name in names}
    teaching.publish(made, executed)
    furniture.publish_notebooks(made, executed)
    os.replace(made, chapters.HTML)
    shutil.rmtree(staging)
    seconds = f"built in {time.monotonic() - start:.0f} s"
    print(f"\nThe book (scale {scale}, {seconds}): open {chapters.HTML / 'index.html'}")
    return True
