"""Exercises, student copies and slides."""

import ast
import copy
import json
import re

import chapters
import nbformat
import pytest
import teaching

NAMES = chapters.chapters()
each_chapter = pytest.mark.parametrize("name", NAMES)


def notebook(name: str) -> dict:
    return chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")


def sources(cells: list[dict], kind: str | None = None) -> list[str]:
    return [teaching.source(c) for c in cells if kind in (None, c["cell_type"])]


def first_exercise(nb: dict) -> int:
    return next(i for i, text in enumerate(sources(nb["cells"])) if "## Exercises" in text)


# --- exercises


@each_chapter
def test_three_to_five_exercises_at_three_levels(name):
    found = teaching.exercises(notebook(name))
    assert 3 <= len(found) <= 5
    assert [e.number for e in found] == list(range(1, len(found) + 1))
    levels = [teaching.LEVELS.index(e.level) for e in found]
    assert levels == sorted(levels), "from warm-up to open-ended"
    assert set(levels) == {0, 1, 2}, f"levels: {[e.level for e in found]}"
    assert all(e.hint and e.question for e in found), "an exercise has a question and a hint"


@each_chapter
def test_every_solution_belongs_to_an_exercise_and_shows_its_result(name):
    nb = notebook(name)
    solutions = [i for i, c in enumerate(nb["cells"]) if teaching.is_solution(c)]
    assert solutions == [e.solution for e in teaching.exercises(nb)]
    for i in solutions:
        tree = ast.parse(teaching.source(nb["cells"][i]))
        calls = {getattr(n.func, "id", "") for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert "print" in calls or isinstance(tree.body[-1], ast.Expr), f"cell {i} shows nothing"


@each_chapter
def test_nothing_but_exercises_and_their_solutions_after_the_heading(name):
    """What a solution shows is in a fold of its own, or a student copy would tell it; and nobody
    who leaves a cell empty misses its names later.
    """
    after = notebook(name)["cells"]
    after = after[first_exercise({"cells": after}) :]
    assert all(teaching.is_solution(c) for c in after if c["cell_type"] == "code")
    text = "\n\n".join(sources(after, "markdown")).split("## Exercises", 1)[1]
    text = re.sub(r"(?s)<details>.*?</details>", "", text.split("\n## ", 1)[0])
    paragraphs = [p.strip() for p in re.split(r"\n{2,}", text) if p.strip()]
    loose = [p for p in paragraphs if not re.match(r"\*\*\d \(", p)]
    assert not loose, f"neither an exercise nor folded: {loose}"


NOT_WORDS = r"(?s)\$\$.*?\$\$|\$[^$]*\$|<[^>]+>|\]\([^)]*\)"  # equations, tags, addresses


@each_chapter
def test_the_teacher_s_page_counts_words_and_exercises(name):
    nb, page = notebook(name), (chapters.BOOK / "teaching.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"(?m)^\| {int(name[:2])} \| ([\d,]+) \|.*\| ([\d +]+) min \|$", page)
    text = "\n".join(sources(nb["cells"], "markdown")).split("\n## References")[0]
    words = len(re.sub(NOT_WORDS, " ", text).split())
    assert abs(words - int(row[0].replace(",", ""))) <= 0.04 * words, f"{words} words"
    assert len(row[1].split("+")) == len(teaching.exercises(nb))


# --- copies


@each_chapter
def test_student_copy_gives_no_solution_away(name):
    nb = notebook(name)
    student = teaching.student_copy(nb)
    text = "\n".join(sources(student["cells"]))
    elsewhere = "\n".join(sources([c for c in nb["cells"] if not teaching.is_solution(c)]))
    for exercise in teaching.exercises(nb):
        lines = map(str.strip, teaching.source(nb["cells"][exercise.solution]).splitlines())
        told = [x for x in lines if len(x) > 12 and x in text and x not in elsewhere]
        assert not told, f"exercise {exercise.number}: {told}"
    fold = rf"(?s)<details><summary>{teaching.TOLD}</summary>\n+(.*?)\n+</details>"
    folded = re.findall(fold, "\n".join(sources(nb["cells"])))
    assert folded and not [told for told in folded if told in text]
    assert f"<summary>{teaching.TOLD}" not in text and "colab-badge" not in text
    assert '"slides"' not in json.dumps(student)


@each_chapter
def test_student_copy_is_the_chapter_up_to_the_exercises(name):
    nb = notebook(name)
    student = teaching.student_copy(nb)
    nbformat.validate(nbformat.from_dict(copy.deepcopy(student)))
    start, text = first_exercise(nb), sources(student["cells"])
    code = [sources(n["cells"][:start], "code") for n in (nb, student)]
    assert code[0] == code[1], "runs up to the exercises exactly as the chapter does"
    found = teaching.exercises(nb)
    assert [e.solution for e in found] == [
        i for i, source in enumerate(text) if source.startswith("# Your turn")
    ]
    for exercise in found:
        turn = text[exercise.solution]
        assert not ast.parse(turn).body, "only comments"
        assert f"exercise {exercise.number}" in turn and exercise.hint.splitlines()[0] in turn


@each_chapter
def test_teacher_copy_has_every_solution_in_sight(name):
    nb = notebook(name)
    cells = teaching.teacher_copy(nb)["cells"]
    assert sources(cells) == sources(nb["cells"])
    solutions = [c for c in cells if teaching.is_solution(c)]
    assert all(c["metadata"] == {"tags": ["solution"]} for c in solutions)


def test_copies_are_written(tmp_path):
    written = teaching.write_copies(tmp_path)
    wanted = {tmp_path / kind / f"{n}.ipynb" for kind in ("student", "teacher") for n in NAMES}
    assert set(written) == wanted
    for path in written:
        cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
        assert not any(c.get("outputs") for c in cells)


def test_an_exercise_without_solution_is_an_error():
    nb = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": "**1 (warm-up).** Why?"}]}
    with pytest.raises(ValueError, match="exercise 1.*solution"):
        teaching.exercises(nb)


# --- slides


def cell(kind: str, text: str, *slides: dict, **more) -> dict:
    metadata = {"slides": list(slides)} if slides else {}
    return {"cell_type": kind, "metadata": metadata, "source": text} | more


OPENING = "# Title\n\n**The question.** Why & how?\n\n**You will be able to** do; and say."
BODY = "Text.\n\n$$ a < b \\tag{1.1} $$\n\n$$ c \\tag{1.2} $$\n\n**Predict first:** how many?"
FIGURE = {"output_type": "display_data", "data": {"text/html": "<figure></figure>"}}
SHOWS = [{"title": "F *x*", "show": ["figure"]}, {"title": "C", "show": ["code"]}]
PREDICTS = [{"title": "E", "equations": ["1.2"]}, {"title": "P", "show": ["prediction"]}]
TINY = {
    "cells": [
        cell("markdown", OPENING, {"show": ["title"]}, {"title": "Goals", "show": ["goals"]}),
        cell("markdown", BODY, *PREDICTS),
        cell("code", "x = 1 < 2", *SHOWS, outputs=[FIGURE]),
        cell("markdown", "What the figure says, with a [link](https://example.org)."),
    ]
}


def test_slides_are_what_the_cells_ask_for():
    made = teaching.slides(TINY)
    assert [s.title for s in made] == ["Title", "Goals", "E", "P", "F <em>x</em>", "C"]
    title, goals, equation, prediction, figure, code = (s.body for s in made)
    assert "Why &amp; how?" in title and goals.count("<li>") == 2 and "<li>say</li>" in goals
    assert r"\tag{1.2}" in equation and r"\tag{1.1}" not in equation
    assert "How many?" in prediction
    assert "<figure>" in figure and "x = 1 &lt; 2" in code
    assert "What the figure says" in made[4].notes and "example.org" not in made[4].notes


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        ({"show": ["table"]}, "no table"),
        ({"equations": ["9.9"]}, r"\(9.9\)"),
        ({"show": ["section: Recap"]}, "no section: Recap"),
        ({"show": ["wonder"]}, "wonder"),
    ],
)
def test_a_slide_that_cannot_be_made_is_an_error(wish, what):
    nb = copy.deepcopy(TINY)
    nb["cells"][2]["metadata"]["slides"] = [{"title": "S"} | wish]
    with pytest.raises(ValueError, match=what):
        teaching.slides(nb)
    nb["cells"][2]["metadata"]["slides"][0]["optional"] = True
    assert len(teaching.slides(nb)) == 4


FOREIGN = r"""(?:src|href)=["']?(?:https?:)?//|@import|url\("""


def test_a_deck_asks_no_other_host():
    deck = teaching.deck(TINY, mathjax="mathjax")
    assert not re.findall(FOREIGN, deck)
    assert re.findall(r'src="([^"]+)"', deck) == ["mathjax/tex-chtml.js"]
    assert deck.count('class="slide"') == 6


@each_chapter
def test_notebook_names_its_slides(name):
    cells = notebook(name)["cells"]
    for i, c in enumerate(cells):
        wanted = "notes" if c["cell_type"] == "markdown" else "skip"
        wanted = "slide" if c["metadata"].get("slides") else wanted
        assert c["metadata"].get("slideshow", {}).get("slide_type") == wanted, f"cell {i}"
    wishes = [wish for c in cells for wish in c["metadata"].get("slides", [])]
    shows = [wish.get("show", []) for wish in wishes]
    shown = [thing for show in shows for thing in show]
    assert {"title", "goals", "prediction", "figure", "table", "section: Recap"} <= set(shown)
    assert shown[-1] == "exercises" and all(len(wish.get("points", [])) <= 5 for wish in wishes)
    for show, follows in zip(shows, [*shows[1:], []], strict=True):
        assert "prediction" not in show or follows, "the next slide answers a prediction"


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """Every deck, from the executed chapters, beside the MathJax they share."""
    executed = {name: chapters.executed(name, "tiny") for name in NAMES}
    if not all(chapters.is_current(name, "tiny") for name in NAMES):
        pytest.skip("the chapters have not been executed at tiny: make book")
    target = tmp_path_factory.mktemp("slides")
    teaching.write_decks(executed, target, mathjax="mathjax")
    teaching.copy_mathjax(target / "mathjax")
    return target


@pytest.mark.executed
@each_chapter
def test_deck_of_a_chapter(decks, name):
    deck = (decks / f"{name}.html").read_text(encoding="utf-8")
    assert "<figure" in deck
    assert not re.findall(FOREIGN.partition("|@")[0], deck)
    sources = re.findall(r'src="([^"]+)"', deck)
    assert all(source.startswith(("data:", "mathjax/")) for source in sources)


# --- in a browser

OVERFULL = """() => [...document.querySelectorAll(".slide")].filter(slide => {
    const box = slide.firstElementChild;
    const wide = [...box.querySelectorAll("mjx-container[display], .wide")];
    const out = part => part.scrollWidth > part.clientWidth + 1
        || part.getBoundingClientRect().right > innerWidth;
    return box.offsetHeight > innerHeight || wide.some(out);
}).map(slide => slide.id)"""

COUNT = (
    "() => ['mjx-container', 'mjx-merror', '.slide'].map(s => document.querySelectorAll(s).length)"
)


@pytest.mark.browser
@pytest.mark.executed
@each_chapter
def test_deck_in_front_of_an_audience(decks, new_page, name):
    """At a projector's size every slide fits, equations are typeset, keys turn the page, and
    nothing is fetched from another host.
    """
    page, visit = new_page(viewport={"width": 1280, "height": 720})
    page.goto((decks / f"{name}.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    overfull = page.evaluate(OVERFULL)
    where = page.locator("#where")
    shown = [where.inner_text()]
    for key in ("ArrowRight", "Space", "ArrowLeft", "End", "Home"):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        shown.append(where.inner_text())
    page.keyboard.press("n")
    page.keyboard.press("PageDown")
    typeset, errors, last = page.evaluate(COUNT)
    assert not visit.complaints and not visit.foreign
    assert not overfull, f"slides that do not fit: {overfull}"
    assert shown == [f"{n} / {last}" for n in (1, 2, 3, 2, last, 1)]
    assert typeset >= 3 and not errors
