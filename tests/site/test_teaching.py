"""Exercises, student copies and slides."""

import ast
import copy
import json
import re

import browser as driver
import chapters
import nbformat
import pytest
import teaching

NAMES = chapters.chapters()
BOOK = chapters.BOOK
each_chapter = pytest.mark.parametrize("name", NAMES)


def notebook(name: str) -> dict:
    return chapters.read_notebook(BOOK / f"{name}.ipynb")


def page(name: str) -> str:
    return (BOOK / f"{name}.md").read_text(encoding="utf-8")


def first_exercise(nb: dict) -> int:
    return next(i for i, c in enumerate(nb["cells"]) if "## Exercises" in teaching.source(c))


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
def test_every_solution_belongs_to_an_exercise_and_does_something(name):
    nb = notebook(name)
    solutions = [i for i, c in enumerate(nb["cells"]) if teaching.is_solution(c)]
    assert solutions == [e.solution for e in teaching.exercises(nb)]
    for i in solutions:
        tree = ast.parse(teaching.source(nb["cells"][i]))
        assert len(list(ast.walk(tree))) >= 30, f"cell {i}: hardly a solution"
        prints = any(
            isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            for node in ast.walk(tree)
        )
        assert prints or isinstance(tree.body[-1], ast.Expr), (
            f"cell {i}: a solution shows its result"
        )


@each_chapter
def test_nothing_but_exercises_after_their_heading(name):
    """What a solution shows is in a fold of its own, or a student copy would tell it."""
    nb = notebook(name)
    text = "\n\n".join(
        teaching.source(c)
        for c in nb["cells"][first_exercise(nb) :]
        if c["cell_type"] == "markdown"
    )
    text = text.split("## Exercises", 1)[1].split("\n## ", 1)[0]
    text = re.sub(r"(?s)<details>.*?</details>", "", text)
    paragraphs = [p.strip() for p in re.split(r"\n{2,}", text) if p.strip()]
    loose = [p for p in paragraphs if not re.match(r"\*\*\d \(", p)]
    assert not loose, f"neither an exercise nor folded: {loose}"


# --- copies


@each_chapter
def test_student_copy_gives_no_solution_away(name):
    nb = notebook(name)
    student = teaching.student_copy(nb)
    text = "\n".join(teaching.source(c) for c in student["cells"])
    before = {
        line.strip()
        for c in nb["cells"]
        if not teaching.is_solution(c)
        for line in teaching.source(c).splitlines()
    }
    for exercise in teaching.exercises(nb):
        lines = {
            line.strip() for line in teaching.source(nb["cells"][exercise.solution]).splitlines()
        }
        told = [line for line in lines - before if len(line) > 12 and line in text]
        assert not told, f"exercise {exercise.number}: {told}"
    original = "\n".join(map(teaching.source, nb["cells"]))
    folded = re.findall(
        rf"(?s)<details><summary>{teaching.TOLD}</summary>\n+(.*?)\n+</details>", original
    )
    assert folded and not [told for told in folded if told in text]
    assert (
        f"<summary>{teaching.TOLD}" not in text
        and "colab-badge" not in text
        and '"slides"' not in json.dumps(student)
    )


@each_chapter
def test_student_copy_is_the_chapter_up_to_the_exercises(name):
    nb = notebook(name)
    student = teaching.student_copy(nb)
    nbformat.validate(nbformat.from_dict(copy.deepcopy(student)))
    start = first_exercise(nb)
    code = [
        [teaching.source(c) for c in n["cells"][:start] if c["cell_type"] == "code"]
        for n in (nb, student)
    ]
    assert code[0] == code[1], "runs up to the exercises exactly as the chapter does"
    turns = [
        i for i, c in enumerate(student["cells"]) if teaching.source(c).startswith("# Your turn")
    ]
    found = teaching.exercises(nb)
    assert turns == [e.solution for e in found]
    for i, exercise in zip(turns, found, strict=True):
        assert not ast.parse(teaching.source(student["cells"][i])).body, "only comments"
        assert f"exercise {exercise.number}" in teaching.source(student["cells"][i])
        assert exercise.hint.splitlines()[0] in teaching.source(student["cells"][i])


@each_chapter
def test_nothing_later_needs_a_solution(name):
    """A student who leaves a cell empty can still run everything else: only other solutions come
    after the first exercise.
    """
    nb = notebook(name)
    after = [c for c in nb["cells"][first_exercise(nb) :] if c["cell_type"] == "code"]
    assert all(teaching.is_solution(c) for c in after)


@each_chapter
def test_teacher_copy_has_every_solution_in_sight(name):
    nb = notebook(name)
    teacher = teaching.teacher_copy(nb)
    assert [teaching.source(c) for c in teacher["cells"]] == [
        teaching.source(c) for c in nb["cells"]
    ]
    assert not [
        c
        for c in teacher["cells"]
        if teaching.is_solution(c) and c["metadata"] != {"tags": ["solution"]}
    ]


def test_copies_are_written(tmp_path):
    written = teaching.write_copies(tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in written} == {
        f"{kind}/{n}.ipynb" for kind in ("student", "teacher") for n in NAMES
    }
    for path in written:
        nb = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        assert not any(c.get("outputs") for c in nb.cells)


def test_an_exercise_without_solution_is_an_error():
    nb = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": "**1 (warm-up).** Why?"}]}
    with pytest.raises(ValueError, match="exercise 1.*solution"):
        teaching.exercises(nb)


# --- slides


def cell(kind: str, text: str, slides: list | None = None, html: str | None = None) -> dict:
    made = {"cell_type": kind, "metadata": {"slides": slides} if slides else {}, "source": text}
    return made | (
        {"outputs": [{"output_type": "display_data", "data": {"text/html": html}}]}
        if kind == "code"
        else {}
    )


OPENING = "# Title\n\n**The question.** Why & how?\n\n**You will be able to** do; and say."
BODY = "Text.\n\n$$ a < b \\tag{1.1} $$\n\n$$ c \\tag{1.2} $$\n\n**Predict first:** how many?"
TINY = {
    "cells": [
        cell("markdown", OPENING, [{"show": ["title"]}, {"title": "Goals", "show": ["goals"]}]),
        cell(
            "markdown",
            BODY,
            [{"title": "E", "equations": ["1.2"]}, {"title": "P", "show": ["prediction"]}],
        ),
        cell(
            "code",
            "x = 1 < 2",
            [{"title": "F *x*", "show": ["figure"]}, {"title": "C", "show": ["code"]}],
            "<figure></figure>",
        ),
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


def test_a_deck_asks_no_other_host():
    deck = teaching.deck(TINY, mathjax="mathjax")
    assert (
        not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", deck)
        and "@import" not in deck
        and "url(" not in deck
    )
    assert re.findall(r'src="([^"]+)"', deck) == ["mathjax/tex-chtml.js"]
    assert deck.count('class="slide"') == 6


@each_chapter
def test_notebook_names_its_slides(name):
    nb = notebook(name)
    for i, c in enumerate(nb["cells"]):
        wanted = (
            "slide"
            if c["metadata"].get("slides")
            else "notes"
            if c["cell_type"] == "markdown"
            else "skip"
        )
        assert c["metadata"].get("slideshow", {}).get("slide_type") == wanted, (
            f"cell {i}: slide_type is not {wanted!r}"
        )
    wishes = [wish for c in nb["cells"] for wish in c["metadata"].get("slides", [])]
    assert 12 <= len(wishes) <= 25, f"{len(wishes)} slides"
    shown = [thing for wish in wishes for thing in wish.get("show", [])]
    for thing, least in {
        "title": 1,
        "goals": 1,
        "prediction": 2,
        "figure": 5,
        "table": 1,
        "section: Recap": 1,
        "exercises": 1,
    }.items():
        assert shown.count(thing) >= least, (
            f"{shown.count(thing)} times {thing!r}, at least {least}"
        )
    assert sum(len(wish.get("equations", [])) for wish in wishes) >= 3
    assert shown[-1] == "exercises" and all(len(wish.get("points", [])) <= 5 for wish in wishes)
    predictions = [i for i, wish in enumerate(wishes) if "prediction" in wish.get("show", [])]
    for i in predictions:
        follows = wishes[i + 1].get("show", []) if i + 1 < len(wishes) else []
        assert follows, "a prediction is followed by the slide that answers it"


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
    assert 12 <= deck.count('class="slide"') <= 25
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", deck)
    assert all(
        source.startswith(("data:", "mathjax/")) for source in re.findall(r'src="([^"]+)"', deck)
    )
    assert deck.count("<figure") >= 5


@pytest.fixture(scope="module")
def chromium():
    if driver.find_chromium() is None:
        pytest.skip(
            "NOT RUN: no Chromium on this machine; install one (apt-get install chromium) or set CHROMIUM"
        )
    with driver.chromium() as running:
        yield running


@pytest.mark.browser
@pytest.mark.executed
@each_chapter
def test_deck_in_front_of_an_audience(decks, chromium, name):
    """At a projector's size every slide fits, equations are typeset, keys turn the page, and
    nothing is asked of another host.
    """
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    complaints, foreign = [], []
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(("file:", "data:")) else foreign.append(asked.url)
        ),
    )
    page.goto((decks / f"{name}.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    overfull = page.evaluate("""() => [...document.querySelectorAll(".slide")].filter(slide => {
        const box = slide.firstElementChild, wide = [...box.querySelectorAll("mjx-container[display], .wide")];
        const out = part => part.scrollWidth > part.clientWidth + 1 || part.getBoundingClientRect().right > innerWidth;
        return box.offsetHeight > innerHeight || wide.some(out);
    }).map(slide => slide.id)""")
    where = page.locator("#where")
    shown = [where.inner_text()]
    for key in ("ArrowRight", "Space", "ArrowLeft", "End", "Home"):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        shown.append(where.inner_text())
    page.keyboard.press("n")
    page.keyboard.press("PageDown")
    typeset, errors, last = page.evaluate("""() => [
        document.querySelectorAll("mjx-container").length, document.querySelectorAll("mjx-merror").length,
        document.querySelectorAll(".slide").length]""")
    page.close()
    assert not complaints and not foreign
    assert not overfull, f"slides that do not fit: {overfull}"
    assert shown == [f"{n} / {last}" for n in (1, 2, 3, 2, last, 1)]
    assert typeset >= 3 and not errors
