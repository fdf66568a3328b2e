"""Exercises, student copies, slides, and the pages that a course and a reader's own model stand on."""

import ast
import copy
import json
import pkgutil
import re

import browser as driver
import chapters
import evidence
import nbformat
import pytest
import results
import teaching
from results import Chapter

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


# --- your own model


def blocks(name: str) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```", page(name))


def test_the_code_on_write_your_own_runs(capsys):
    """A rule, an exit and a verdict, as a reader would paste them."""
    space: dict = {}
    for number, block in enumerate(blocks("write-your-own")):
        exec(compile(block, f"block {number + 1} of write-your-own.md", "exec"), space)
    logits, truth = space["logits"], space["truth"]
    top = logits[0].softmax(1).topk(2).values
    leaves = space["outcome"].exit_index == 0
    assert leaves.tolist() == ((top[:, 0] - top[:, 1]) > 0.1).tolist() and len(truth) == 60
    with pytest.raises(ValueError, match=r"Margin: thresholds must be .* in \[0, 1\]"):
        space["Margin"](1.5)
    printed = capsys.readouterr().out
    assert "holds" in printed and "not testable here" in printed and "one run" in printed


@pytest.mark.slow
def test_the_code_on_bring_your_own_model_runs(capsys):
    """Every block, in order, as a reader would paste them."""
    pytest.importorskip("transformers")
    space: dict = {}
    code = blocks("bring-your-own-model")
    assert len(code) >= 7
    for number, block in enumerate(code):
        exec(compile(block, f"block {number + 1} of bring-your-own-model.md", "exec"), space)
    said = capsys.readouterr().out
    assert 0 < float(space["cost"]) <= 1.1 and re.search(
        r"accuracy \d\.\d{3} at \d\.\d\d of the computation", said
    )
    assert "layer2" in said and "no cut is possible after 'layer1.0.conv1'" in said
    assert space["found"].counts.sum() == 320, "the last block's class statistics"


def test_ten_lines_are_ten():
    code = blocks("bring-your-own-model")[1].split("\n\n", 1)[1].strip().splitlines()
    assert len(code) == 10, code


def test_the_model_that_cannot_be_traced_really_cannot():
    from eenotes import split

    block = next(b for b in blocks("bring-your-own-model") if "class Stubborn" in b)
    space: dict = {}
    exec(block.split("whole = ")[0], space)
    with pytest.raises(ValueError, match="write its stages by hand"):
        split(space["Stubborn"]().eval(), at=["stem"])


# --- what records say


def record(claims: list[dict], *, current: bool = True) -> dict:
    return {"claims": claims, "current": current}


def claim(statement: str, ours: float, holds: bool | None, spread: float | None = None) -> dict:
    return {
        "statement": statement,
        "thesis": "",
        "ours": ours,
        "holds": holds,
        "spread": spread,
        "where": "here",
    }


def test_evidence_shows_every_run_with_its_verdict():
    fresh = record([claim("digits: A is ahead of B", 0.5, True)])
    study = record(
        [claim("MNIST: A is ahead of B", -0.25, False, 0.125), claim("MNIST: other", 1.0, True)],
        current=False,
    )
    chapter = Chapter(
        "02-x", "X", {"here": "02-x.html#claim-here"}, fresh=fresh, committed={"study": study}
    )
    filled = evidence.fill("| a | <!-- evidence 02-x: A is ahead of B --> |", "tiny", [chapter])
    second, first = filled.removeprefix("| a | ").removesuffix(" |").split("<br>")
    assert "tiny, this build" in first and "digits:" in first and "0.5" in first and "✓" in first
    assert (
        "study" in second
        and "MNIST:" in second
        and "-0.25 ± 0.12" in second
        and "✗" in second
        and results.OUTDATED in second
    )
    assert "other" not in filled and 'href="02-x.html#claim-here"' in first


@pytest.mark.parametrize(
    ("comment", "what"), [("03-y: A", "no such chapter"), ("02-x: Z", "no claim")]
)
def test_evidence_that_is_not_there_is_an_error(comment, what):
    chapter = Chapter("02-x", "X", {"here": "p"}, fresh=record([claim("A", 1.0, True)]))
    with pytest.raises(ValueError, match=what):
        evidence.fill(f"<!-- evidence {comment} -->", "tiny", [chapter])


# What the advice of which-method.md takes for granted, by the committed records: chapter, run,
# words of the claim, verdicts allowed.
ADVICE = [
    ("02-e2cm", "study", "E²CM is nowhere behind SDN", {False}),
    ("02-e2cm", "study", "E²CM beside SDN is better than SDN alone", {False}),
    ("02-e2cm", "study", "40 % less computation", {True}),
    ("03-pruning", "study", "together is better at the intermediate exits", {True}),
    ("03-pruning", "study", "at the final exit separate pruning is ahead", {True}),
    ("03-pruning", "study", "it is the exits' sparsity", {True}),
    ("03-pruning", "reduced", "unstructured zeros leave the latency as it is", {True}),
    ("03-pruning", "reduced", "removing channels saves time", {True}),
    (
        "04-cbt",
        "study",
        "class thresholds of equal marginal loss: ahead of the best single threshold",
        {True, None},
    ),
    ("05-eeprune", "study", "EEPrune is at least as accurate as random pruning", {False, None}),
    ("05-eeprune", "study", "some methods unbalance the classes", {True}),
    (
        "06-class-aware-init",
        "study",
        "All weights: the copied head ends ahead of class means",
        {True},
    ),
    ("06-class-aware-init", "study", "Drafting: the text is that of plain greedy decoding", {True}),
]


@pytest.mark.parametrize(("chapter", "run", "words", "allowed"), ADVICE)
def test_advice_agrees_with_the_records(chapter, run, words, allowed):
    path = chapters.RECORDS / run / f"{chapter}.json"
    if not path.is_file():
        pytest.skip(f"no {run} of {chapter} has been recorded")
    found = evidence.matching(json.loads(path.read_text(encoding="utf-8")), words)
    assert found, f"no claim of this record has the words {words!r}"
    against = [c["statement"] for c in found if c["holds"] not in allowed]
    assert not against, f"book/which-method.md advises otherwise: {against}"


# --- pages of reference


def test_glossary_terms_are_the_chapters_terms():
    """In alphabetical order, and each in the text of the chapter that it is said to be introduced
    in.
    """
    entries = re.split(
        r"\n\n", re.search(r"```\{glossary\}\n(.*?)```", page("glossary"), re.S)[1].strip()
    )
    terms = [entry.split("\n")[0] for entry in entries]
    key = [term.lower().replace("²", "2") for term in terms]
    assert key == sorted(key) and len(set(key)) == len(key) >= 70
    text = {}
    for name in NAMES:
        plain = " ".join(teaching.source(c) for c in notebook(name)["cells"]).replace("*", "")
        text[f"{name}.ipynb"] = re.sub(r"\s+", " ", plain).lower()
    for term, entry in zip(terms, entries, strict=True):
        links = re.findall(r"\]\(([^)]+)\)", entry)
        assert links, f"{term}: introduced nowhere"
        for link in links:
            if link in text:
                missing = [word for word in term.split(", ") if word.lower() not in text[link]]
                assert not missing, f"{missing} is not in {link}"


def test_how_we_read_the_thesis_names_what_exists():
    """Every name in code, with a dot in it, is a module, a function, a class or one of its members."""
    names = set(re.findall(r"`((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)`", page("reading-the-thesis")))
    assert len(names) > 50
    missing = [name for name in sorted(names - {"settings.toml"}) if not exists(name)]
    assert not missing, f"in no module: {missing}"


def exists(name: str) -> bool:
    """Whether ``e2cm.fit`` or ``ch02_e2cm.claims.judge`` is in one of the packages."""
    packages = ("eenotes", "eenotes.methods", "eenotes.baselines", "eenotes_book")
    return any(resolves(f"{package}.{name}") for package in packages)


def resolves(full: str) -> bool:
    try:
        pkgutil.resolve_name(full)
    except (ImportError, AttributeError):
        return False
    return True


def test_how_we_read_the_thesis_agrees_with_the_settings():
    from eenotes_book import settings
    from eenotes_book.ch04_cbt import experiment
    from eenotes_book.ch06_language import experiment as ch06_language_experiment

    text = page("reading-the-thesis")
    full, reduced = (settings.load("03-pruning", scale) for scale in ("full", "reduced"))
    assert (
        f"`full`: {full.rate} × {full.rounds} rounds" in text
        and f"`reduced`: {reduced.rate} × {reduced.rounds} rounds" in text
    )
    ends = {round(1 - (1 - s.rate) ** s.rounds, 2) for s in (full, reduced)}
    assert ends == {0.88} and "88 %" in text
    per_group = (full.depth - 2) // 6
    after = [
        (int(group[-1]) - 1) * per_group + int(block) + 1
        for group, block in (name.split(".") for name in full.exits)
    ]
    assert after == [4, 8, 12, 16, 20, 24] and 3 * per_group == 27
    at = [settings.load("06-class-aware-init", scale) for scale in ("tiny", "reduced", "full")]
    assert ", ".join(f"{s.at} of {s.layers}" for s in at) in text
    assert experiment.SINGLE == 0.998 and ch06_language_experiment.ALPHAS[1:-1] == (
        0.2,
        0.4,
        0.6,
        0.8,
    )
    tiny, study, big = (settings.load("05-eeprune", scale) for scale in ("tiny", "reduced", "full"))
    assert {tiny.digits.score_epochs, study.CIFAR10.score_epochs} == {
        3
    } and big.CIFAR10.score_epochs == 10
    assert (study.CIFAR10.el2n_networks, study.CIFAR10.forgetting_epochs) == (3, 40)
