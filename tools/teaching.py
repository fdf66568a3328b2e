"""What a course needs: student copies without solutions, teacher copies with them, and slides.

    python tools/teaching.py student                  both copies of every chapter
    python tools/teaching.py slides [--scale tiny]    a deck per chapter, executed before if changed

The copies go to `_build/teaching/{student,teacher}/`, the decks to `_build/slides/`.

The marks are in the notebooks.  An exercise is a paragraph `**2 (one step further).** ...`; its
solution is the code cell after it, with the tag `solution`; what the solution shows stands in a
`<details>` of that summary.  A cell's `slides` metadata lists the slides that are made of it:
`title`, `points`, `equations` (their numbers; they stand in the cell's text) and what else to
`show`:

    figure, table, text     an output of the executed cell, of a figure's caption the takeaway
                            alone; with `"optional": true` the slide is left out where there is none
    code                    the cell's code
    prediction              the paragraph that begins with "Predict first"
    table of the text       the first table of a Markdown cell
    section: Recap          the text under a heading of the cell
    title, goals            the chapter's title and question; what the reader will be able to do
    exercises               every exercise of the chapter, with its level

A deck is one HTML file beside MathJax, and needs no other host.  Keys: arrows, space, page up and
down, home, end; N shows the chapter's own text as the speaker's notes.
"""

from __future__ import annotations

import argparse
import copy
import html
import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template

import chapters
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

HERE = Path(__file__).resolve().parent
LEVELS = ("warm-up", "one step further", "open-ended")
TOLD = "What it shows"  # the summary of the <details> that tells a solution's outcome
_TOLD = re.compile(rf"<details><summary>{TOLD}</summary>.*?</details>\n*", re.S)
_EXERCISE = re.compile(r"^\*\*(\d+) \(([^)]+)\)\.\*\* (.*?)(?=^<details>|\Z)", re.S | re.M)
_HINT = re.compile(r"<details><summary>Hint</summary>\n*(.*?)\n*</details>", re.S)


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
$style</style>
<script>window.MathJax = { tex: { tags: "none" }, options: { enableMenu: false } }</script>
<script defer src="$mathjax/tex-chtml.js"></script>
</head><body><main>
$slides
</main>
<nav aria-label="Slides">$back<button id="back" aria-label="Previous slide">‹</button>
<output id="where">1 / $count</output><button id="on" aria-label="Next slide">›</button>
<button id="notes" aria-label="Speaker's notes" aria-pressed="false">N</button></nav>
<script>
$script</script></body></html>
""")


# --- exercises


@dataclass(frozen=True)
class Exercise:
    number: int
    level: str
    question: str
    hint: str
    solution: int  # the number of its code cell


def source(cell: dict) -> str:
    return "".join(cell["source"])


def is_solution(cell: dict) -> bool:
    return "solution" in cell["metadata"].get("tags", [])


def exercises(notebook: dict) -> list[Exercise]:
    """The exercises of a chapter, in order.

    Raises:
        ValueError: an exercise without a solution in the next cell.
    """
    found = []
    for number, cell in enumerate(notebook["cells"]):
        match = _EXERCISE.search(source(cell)) if cell["cell_type"] == "markdown" else None
        if match:
            following = notebook["cells"][number + 1 : number + 2]
            if not following or not is_solution(following[0]):
                raise ValueError(
                    f"exercise {match[1]}: the next cell is no code cell with the tag 'solution'"
                )
            hint = _HINT.search(source(cell))
            found.append(
                Exercise(
                    int(match[1]),
                    match[2],
                    match[3].strip(),
                    hint[1].strip() if hint else "",
                    number + 1,
                )
            )
    return found


# --- copies


def student_copy(notebook: dict) -> dict:
    """The notebook without solutions, what they show, and the badge that opens the original."""
    twin = _without_deck(notebook)
    hints = {exercise.solution: exercise for exercise in exercises(notebook)}
    for number, cell in enumerate(twin["cells"]):
        if number in hints:
            cell["source"] = _your_turn(hints[number])
            cell["metadata"] = {"tags": ["exercise"]}
        elif cell["cell_type"] == "markdown":
            cell["source"] = re.sub(
                r"^\[!\[[^\]]*\]\([^)]*badge[^)]*\)\]\([^)]*\)\n+",
                "",
                _TOLD.sub("", source(cell)),
                flags=re.M,
            )
    return twin


def teacher_copy(notebook: dict) -> dict:
    """The notebook with everything, the solutions in sight."""
    twin = _without_deck(notebook)
    for cell in twin["cells"]:
        if is_solution(cell):
            cell["metadata"] = {"tags": ["solution"]}
    return twin


def _without_deck(notebook: dict) -> dict:
    twin = copy.deepcopy(notebook)
    for cell in twin["cells"]:
        for key in ("slides", "slideshow"):
            cell["metadata"].pop(key, None)
    return twin


def _your_turn(exercise: Exercise) -> str:
    lines = [f"# Your turn: exercise {exercise.number} ({exercise.level})."]
    lines += [
        f"# Hint: {line}" if i == 0 else f"# {line}"
        for i, line in enumerate(exercise.hint.splitlines())
    ]
    return "\n".join(lines) + "\n"


def write_copies(target: Path, kinds: tuple[str, ...] = ("student", "teacher")) -> list[Path]:
    """Both copies of every chapter, without outputs: `<target>/student/02-e2cm.ipynb`, ..."""
    make = {"student": student_copy, "teacher": teacher_copy}
    written = []
    for kind in kinds:
        shutil.rmtree(target / kind, ignore_errors=True)
        for name in chapters.chapters():
            path = target / kind / f"{name}.ipynb"
            chapters.write_json(
                path, make[kind](chapters.read_notebook(chapters.BOOK / f"{name}.ipynb"))
            )
            written.append(path)
    return written


# --- slides


@dataclass(frozen=True)
class Slide:
    title: str
    body: str  # HTML
    notes: str = ""  # HTML


def _markdown() -> MarkdownIt:
    def math(content: str, options: dict) -> str:
        escaped = html.escape(content, quote=False)
        return rf"\[{escaped}\]" if options["display_mode"] else rf"\({escaped}\)"

    parser = (
        MarkdownIt("commonmark")
        .enable("table")
        .use(dollarmath_plugin, renderer=math, allow_labels=False)
    )
    for rule in ("link_open", "link_close", "image"):  # a deck leads nowhere
        parser.add_render_rule(rule, lambda *_: "")
    return parser


MARKDOWN = _markdown()


def slides(notebook: dict) -> list[Slide]:
    """The slides that an executed chapter's cells ask for.

    Raises:
        ValueError: a slide that asks for something its cell does not have; it says which.
    """
    made = []
    for number, cell in enumerate(notebook["cells"]):
        for wish in cell["metadata"].get("slides", []):
            try:
                body = _body(wish, cell, notebook)
            except LookupError as missing:
                if wish.get("optional"):
                    continue
                place = f"cell {number} ({cell.get('id')})"
                title = wish.get("title", "of the title")
                raise ValueError(f"{place}, slide {title!r}: {missing}") from None
            title = wish.get("title") or _heading(source(cell))
            made.append(Slide(MARKDOWN.renderInline(title), body, _notes(notebook, number)))
    return made


def _body(wish: dict, cell: dict, notebook: dict) -> str:
    text = source(cell)
    parts = []
    if wish.get("points"):
        parts.append(
            "<ul>"
            + "".join(f"<li>{MARKDOWN.renderInline(point)}</li>" for point in wish["points"])
            + "</ul>"
        )
    parts += [MARKDOWN.render(_equation(text, tag)) for tag in wish.get("equations", [])]
    for thing in wish.get("show", []):
        if thing in ("figure", "table", "text"):
            parts.append(_output(cell, thing))
        elif thing == "code":
            parts.append(f"<pre><code>{html.escape(text.strip())}</code></pre>")
        elif thing == "exercises":
            parts.append(_exercise_list(notebook))
        else:
            kind = thing.split()[0].rstrip(":")
            parts.append(f'<div class="{kind}">{MARKDOWN.render(_excerpt(text, thing))}</div>')
    return "\n".join(parts)


def _excerpt(text: str, thing: str) -> str:
    """A part of a Markdown cell."""
    paragraphs = re.split(r"\n{2,}", text.strip())
    if thing == "prediction":
        found = [p for p in paragraphs if "**Predict first:**" in p]
        if found:
            asked = found[0].split("**Predict first:**", 1)[1].strip()
            return asked[:1].upper() + asked[1:]
    elif thing == "title":
        found = [p for p in paragraphs if p.startswith("**The question.**")]
        if found:
            return found[0].removeprefix("**The question.**").strip()
    elif thing == "goals":
        found = re.search(r"\*\*You will be able to\*\* (.*?)(?=\n\n|\Z)", text, re.S)
        if found:
            goals = found[1].strip().rstrip(".").split("; ")
            return "\n".join(f"- {goal.removeprefix('and ')}" for goal in goals)
    elif thing == "table of the text":
        found = [p for p in paragraphs if p.startswith("|")]
        if found:
            return found[0]
    elif thing.startswith("section: "):
        found = re.search(
            rf"^## {re.escape(thing.removeprefix('section: '))}\n+(.*?)(?=^## |\Z)",
            text,
            re.S | re.M,
        )
        if found:
            return found[1]
    else:
        raise LookupError(f"no such thing to show: {thing!r}")
    raise LookupError(f"the cell has no {thing}")


def _equation(text: str, tag: str) -> str:
    for found in re.findall(r"\$\$.*?\$\$", text, re.S):
        if rf"\tag{{{tag}}}" in found:
            return found
    raise LookupError(f"the cell has no equation ({tag})")


def _output(cell: dict, kind: str) -> str:
    """The first figure, table or printed text of an executed cell, as HTML."""
    for output in cell.get("outputs", []):
        if (
            kind == "text"
            and output.get("output_type") == "stream"
            and output.get("name") == "stdout"
        ):
            return f"<pre>{html.escape(''.join(output['text']).strip())}</pre>"
        shown = "".join(output.get("data", {}).get("text/html", ""))
        is_figure = "<figure" in shown
        if shown and (
            is_figure
            if kind == "figure"
            else "<table" in shown and not is_figure and kind == "table"
        ):
            return _takeaway(shown) if is_figure else f'<div class="wide">{shown}</div>'
    raise LookupError(f"the executed cell has no {kind}")


def _takeaway(figure: str) -> str:
    """A figure with the first sentence of its caption: the rest is for readers of the page."""
    return re.sub(
        r"(<figcaption[^>]*>\s*<strong>.*?</strong>).*?(</figcaption>)", r"\1\2", figure, flags=re.S
    )


def _exercise_list(notebook: dict) -> str:
    items = []
    for exercise in exercises(notebook):
        question = MARKDOWN.renderInline(" ".join(exercise.question.split()))
        items.append(f"<li><strong>{exercise.level}</strong> {question}</li>")
    return f"<ol>{''.join(items)}</ol>"


def _heading(text: str) -> str:
    found = re.search(r"^#+ (.+)$", text, re.M)
    if not found:
        raise LookupError("neither the slide nor its cell has a title")
    return found[1]


def _notes(notebook: dict, number: int) -> str:
    """The chapter's own text about a slide: its cell's, or for code that of the next cell.

    There is none if the next cell makes slides itself.
    """
    cells = notebook["cells"]
    if cells[number]["cell_type"] == "code":
        number += 1
        if number >= len(cells) or cells[number]["metadata"].get("slides"):
            return ""
    if number == 0 or cells[number]["cell_type"] != "markdown":
        return ""
    return MARKDOWN.render(
        re.sub(r"</?(details|summary)[^>]*>", "\n\n", _TOLD.sub("", source(cells[number])))
    )


def deck(notebook: dict, *, mathjax: str, chapter: str = "") -> str:
    """A whole deck as one HTML page.

    Args:
        notebook: an executed chapter.
        mathjax: where the page finds MathJax's folder, relative to itself.
        chapter: the address of the chapter's page, if it lies beside the deck.
    """
    made = slides(notebook)
    sections = []
    for number, slide in enumerate(made, 1):
        level = "h1" if number == 1 else "h2"
        notes = f'<aside class="notes" hidden>{slide.notes}</aside>' if slide.notes else ""
        sections.append(
            f'<section class="slide" id="{number}" aria-label="Slide {number} of {len(made)}">'
            f'<div class="fit"><{level}>{slide.title}</{level}>{slide.body}</div>{notes}</section>'
        )
    return _PAGE.substitute(
        title=html.escape(_heading(source(notebook["cells"][0]))),
        mathjax=mathjax,
        slides="\n".join(sections),
        back=f'<a href="{chapter}">chapter</a> · ' if chapter else "",
        count=len(made),
        style=(HERE / "deck.css").read_text(encoding="utf-8"),
        script=(HERE / "deck.js").read_text(encoding="utf-8"),
    )


def write_decks(
    executed: dict[str, Path], target: Path, *, mathjax: str, chapter: str = ""
) -> None:
    """A deck per executed chapter that names slides: `<target>/02-e2cm.html`.

    Args:
        executed: chapter → its executed copy.
        target: a folder; emptied first.
        mathjax: as in `deck`.
        chapter: a pattern for the address of a chapter's page, such as ``"../{}.html"``.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, path in executed.items():
        notebook = chapters.read_notebook(path)
        if any(cell["metadata"].get("slides") for cell in notebook["cells"]):
            (target / f"{name}.html").write_text(
                deck(notebook, mathjax=mathjax, chapter=chapter.format(name)), encoding="utf-8"
            )


def copy_mathjax(target: Path) -> None:
    """The part of the book's MathJax that a deck needs."""
    package = find_spec("sphinx-mathjax-offline")
    original = Path(package.origin).parent / "static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(original / "tex-chtml.js", target)
    shutil.copytree(
        original / "output" / "chtml" / "fonts" / "woff-v2",
        target / "output/chtml/fonts/woff-v2",
        dirs_exist_ok=True,
    )


def publish(site: Path, executed: dict[str, Path]) -> None:
    """Put decks (`slides/02-e2cm.html`) and student copies into the built book."""
    write_decks(executed, site / "slides", mathjax="../_static/mathjax", chapter="../{}.html")
    write_copies(site, ("student",))


# --- command line


def make_slides(scale: str) -> bool:
    """Execute what has changed, then write every deck, with the MathJax they share."""
    names = chapters.chapters()
    if not chapters.run(names, scale):
        return False
    target = chapters.BUILD / "slides"
    write_decks({name: chapters.executed(name, scale) for name in names}, target, mathjax="mathjax")
    copy_mathjax(target / "mathjax")
    print(f"{len(names)} decks (scale {scale}): open {target / names[0]}.html")
    return True


def make_copies() -> bool:
    target = chapters.BUILD / "teaching"
    written = write_copies(target)
    print(f"{len(written)} notebooks: {target / 'student'} and {target / 'teacher'}")
    return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("student", "slides"))
    parser.add_argument(
        "--scale", choices=chapters.SCALES, default=os.environ.get("EENOTES_SCALE") or "tiny"
    )
    options = parser.parse_args(argv)
    return 0 if (make_copies() if options.what == "student" else make_slides(options.scale)) else 1


if __name__ == "__main__":
    sys.exit(main())
