"""What lies around book and package: workflows, README, citation, changelog, environment; that they
agree with the rest.
"""

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import chapters
import pytest
import readme_figures
import yaml

ROOT = chapters.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def targets() -> set[str]:
    """The rules of the Makefile that one can ask for."""
    return set(re.findall(r"(?m)^([a-z][\w-]*):(?!=)", MAKEFILE))


def make_calls(text: str) -> list[str]:
    """The targets that commands ask make for; options (`-C`) and variables (`SCALE=reduced`) are no
    targets.
    """
    calls = re.findall(r"\bmake ((?:[\w-]+(?:=\S*)? ?)+)", text)
    return [
        word
        for call in calls
        for word in call.split()
        if "=" not in word and not word.startswith("-")
    ]


# --- workflows


class Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, and `on` is a word."""


Strict.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag != "tag:yaml.org,2002:bool" or first not in "oO"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def no_key_twice(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key twice: {keys}, {node.start_mark}"
    return dict(
        zip(
            keys,
            (loader.construct_object(value, deep=True) for _, value in node.value),
            strict=True,
        )
    )


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, no_key_twice)


def workflow(path: Path) -> dict:
    return yaml.load(path.read_text(encoding="utf-8"), Strict)


def steps(path: Path) -> list[dict]:
    return list(chain.from_iterable(job["steps"] for job in workflow(path)["jobs"].values()))


def test_a_key_that_stands_twice_is_found():
    with pytest.raises(AssertionError, match="a key twice"):
        yaml.load("on: push\njobs: {}\njobs: {}\n", Strict)


def test_workflows_that_there_are():
    when = {path.stem: set(workflow(path)["on"]) for path in WORKFLOWS}
    assert when["test"] == {"push", "pull_request"}
    assert when["publish"] == {"push", "workflow_dispatch"} and when["weekly"] == {
        "schedule",
        "workflow_dispatch",
    }
    assert workflow(ROOT / ".github/workflows/publish.yml")["on"]["push"] == {
        "branches": ["main"],
        "tags": ["v*"],
    }


@each_workflow
def test_workflow_is_whole(path):
    found = workflow(path)
    assert (
        set(found) <= {"name", "on", "permissions", "concurrency", "jobs"}
        and found["name"] == path.stem
    )
    assert found["permissions"] == {"contents": "read"}, "more is given to the job that needs it"
    for name, job in found["jobs"].items():
        assert {"runs-on", "timeout-minutes", "steps"} <= set(job), name
        assert set(job) <= {
            "runs-on",
            "timeout-minutes",
            "steps",
            "strategy",
            "env",
            "needs",
            "permissions",
            "environment",
        }, name
        assert set(job.get("needs", "").split()) <= set(found["jobs"])
    for step in steps(path):
        assert ("run" in step) != ("uses" in step), step
        assert set(step) <= {"run", "uses", "with", "if", "id"}, step
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w/-]+@v\d+", step["uses"]), (
                "GitHub's own actions, at a version"
            )


@each_workflow
def test_what_a_workflow_refers_to_is_there(path):
    """Steps by their ids, matrix entries, files in hashFiles()."""
    text, ids = (
        path.read_text(encoding="utf-8"),
        {step["id"] for step in steps(path) if "id" in step},
    )
    assert set(re.findall(r"\bsteps\.([\w-]+)\.", text)) <= ids
    matrix = {
        key
        for job in workflow(path)["jobs"].values()
        for key in job.get("strategy", {}).get("matrix", {})
    }
    assert set(re.findall(r"\bmatrix\.([\w-]+)", text)) == matrix
    for arguments in re.findall(r"hashFiles\(([^)]*)\)", text):
        for pattern in re.findall(r"'([^']+)'", arguments):
            assert list(ROOT.glob(pattern)), pattern
    for file in re.findall(r"cache-dependency-path: (\S+)", text):
        assert (ROOT / file).is_file(), file


@each_workflow
def test_make_targets_that_a_workflow_calls_exist(path):
    called = [target for step in steps(path) for target in make_calls(step.get("run", ""))]
    assert set(called) <= targets()
    assert called or path.stem not in ("test", "publish", "weekly")


def test_publishing():
    path = ROOT / ".github/workflows/publish.yml"
    jobs = workflow(path)["jobs"]
    assert (
        jobs["build"]["env"]["SCALE"] == "reduced"
        and jobs["build"]["env"]["EENOTES_DOWNLOAD"] == "1"
    )
    assert "make book" in [step.get("run") for step in jobs["build"]["steps"]]
    (upload,) = [
        step
        for step in jobs["build"]["steps"]
        if step.get("uses", "").startswith("actions/upload-pages-artifact@")
    ]
    assert ROOT / upload["with"]["path"] == chapters.HTML
    assert jobs["deploy"]["needs"] == "build" and jobs["deploy"]["permissions"] == {
        "pages": "write",
        "id-token": "write",
    }
    assert [step["uses"].split("@")[0] for step in jobs["deploy"]["steps"]] == [
        "actions/deploy-pages"
    ]


def test_weekly_run_is_without_pins():
    assert (
        "make test PINS=/dev/null" in read(".github/workflows/weekly.yml")
        and "-c $(PINS)" in MAKEFILE
    )


# --- Makefile


def test_make_help_names_every_command():
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    named = set(re.findall(r"[a-z][\w-]*", shown))
    parts = {"help", "setup", "chromium"}  # made by the others where they need them
    assert targets() - parts <= named, f"make help does not name {targets() - parts - named}"
    assert set(make_calls(shown)) <= targets()


# --- README and the other papers

PAPERS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


def links(name: str) -> list[str]:
    text = re.sub(r"(?ms)^```.*?^```|`[^`\n]+`", "", read(name))
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("name", PAPERS)
def test_links_lead_somewhere(name):
    for link in links(name):
        if not urlsplit(link).scheme:
            assert (ROOT / link.split("#")[0]).exists(), f"{name} links to {link}"


@pytest.mark.parametrize("name", PAPERS)
def test_commands_that_are_named_exist(name):
    text = read(name)
    code = (
        re.findall(r"(?ms)^```.*?^```", text)
        + re.findall(r"`[^`\n]+`", text)
        + re.findall(r"(?m)^ {4}.*$", text)
    )
    assert set(make_calls("\n".join(code))) <= targets()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name):
    named = re.findall(
        r"`((?:book|eenotes|tools|tests|docs|benchmarks|\.github)/[^`\s]*)`", read(name)
    )
    made_up = ("NN", "name.", "<", "steps")  # `book/NN-name.ipynb`
    missing = [
        path
        for path in named
        if not any(part in path for part in made_up) and not (ROOT / path).exists()
    ]
    assert named and not missing


def test_readme_has_the_two_commands():
    assert {"book", "test", "chapter", "study"} <= set(make_calls(read("README.md")))


def test_figures_are_there_small_and_described():
    text = read("README.md")
    shown = re.findall(r"!\[([^\]]*)\]\((docs/figures/[\w-]+\.png)\)", text)
    assert [Path(path).stem for _, path in shown] == list(readme_figures.FIGURES)
    assert all(len(alt) >= 20 for alt, _ in shown)
    files = [ROOT / path for _, path in shown]
    assert sorted(files) == sorted(readme_figures.FOLDER.iterdir()), (
        "a figure that the README does not show"
    )
    assert sum(path.stat().st_size for path in files) <= 300 * 1024
    for start_or_end in readme_figures.MARKS:
        assert text.count(start_or_end) == 1


def test_figures_are_those_of_cells_that_exist():
    for chapter, cell, _ in readme_figures.FIGURES.values():
        source = {
            c["id"]: "".join(c["source"])
            for c in chapters.read_notebook(chapters.BOOK / f"{chapter}.ipynb")["cells"]
        }
        assert "style.show(" in source[cell], (chapter, cell)


def test_a_figure_is_taken_with_its_words_and_made_small(tmp_path):
    import io

    from matplotlib.figure import Figure
    from PIL import Image

    from eenotes_book import style

    made = Figure(figsize=(14, 3))
    made.subplots().plot([0, 2, 1])
    output = {
        "data": {
            "text/html": style.show(made, caption="a < b, *really*", alt='a "quoted" picture').data
        }
    }
    png, alt, caption = readme_figures.figure({"cells": [{"id": "x", "outputs": [output]}]}, "x")
    assert (alt, caption) == ('a "quoted" picture', "a < b, *really*")
    assert (
        Image.open(io.BytesIO(readme_figures.small(png))).width
        == readme_figures.WIDTH
        < Image.open(io.BytesIO(png)).width
    )
    with pytest.raises(ValueError, match="no figure in a cell 'y'"):
        readme_figures.figure({"cells": [{"id": "y", "outputs": []}]}, "y")
    start, end = readme_figures.MARKS
    assert (
        readme_figures.between_the_marks(f"a{start}old{end}b", "new")
        == f"a{start}\n\nnew\n\n{end}b"
    )


def test_changelog_has_the_present_version():
    headings = re.findall(
        r"(?m)^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d|unreleased))?$", read("CHANGELOG.md")
    )
    assert len(headings) == len(re.findall(r"(?m)^## ", read("CHANGELOG.md")))
    assert PROJECT["version"] in [version for version, _ in headings[:2]], "the newest first"
    kinds = re.findall(r"(?m)^### (.*)$", read("CHANGELOG.md"))
    assert kinds and set(kinds) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


def test_version_is_the_same_everywhere():
    import eenotes

    assert (
        eenotes.__version__ == PROJECT["version"] == yaml.safe_load(read("CITATION.cff"))["version"]
    )


# --- citation


def test_citation_is_valid_and_agrees_with_the_project():
    """The fields that format 1.2.0 requires, and of the optional ones those that are used here."""
    found = yaml.load(read("CITATION.cff"), Strict)
    assert found["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type", "license", "repository-code", "url"} <= set(
        found
    )
    assert set(found) <= {"cff-version", "message", "type", "title", "abstract", "version", "license", "authors", "repository-code", "url",
                          "keywords", "preferred-citation", "references", "date-released"}  # fmt: skip
    assert found["type"] == "software" and found["license"] == PROJECT["license"]
    assert (
        found["repository-code"] == PROJECT["urls"]["Source"]
        and found["url"] == PROJECT["urls"]["Book"]
    )
    assert [author["name"] for author in found["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    for reference in [found["preferred-citation"], *found["references"]]:
        assert {"type", "title", "authors", "year"} <= set(reference)
        assert set(reference) <= {
            "type",
            "thesis-type",
            "title",
            "authors",
            "institution",
            "year",
            "edition",
            "url",
            "notes",
            "doi",
        }
        for author in reference["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"})
    (thesis,) = [reference for reference in found["references"] if reference["type"] == "thesis"]
    assert thesis["authors"][0]["family-names"] == "Görmez" and thesis["title"] in read(
        "book/references.bib"
    )


# --- conda and Binder


def test_environment_installs_what_the_project_says():
    """conda runs pip in the folder of the file, so `-c constraints.txt` and `-e .` are the
    repository's.
    """
    found = yaml.load(read("environment.yml"), Strict)
    assert set(found) == {"name", "channels", "dependencies"}
    *conda, pip = found["dependencies"]
    assert {re.split(r"[=<>]", name)[0] for name in conda} == {"python", "make", "pip"}
    (python,) = [name.removeprefix("python=") for name in conda if name.startswith("python=")]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    arguments = list(chain.from_iterable(line.split(" ", 1) for line in pip["pip"]))
    assert arguments[::2] == ["-c", "-e"] and (ROOT / arguments[1]).is_file()
    extras = re.fullmatch(r"\.\[([\w,]+)\]", arguments[3])[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_git_ignores_what_commands_make_and_nothing_else():
    made = [".venv/bin/python", ".venv-oldest/bin/python", "_build/html/index.html", "data/MNIST", "eenotes.egg-info/PKG-INFO",
            "book/eenotes_book/records/tiny/02-e2cm.json", "dist/eenotes.whl"]  # fmt: skip
    kept = [
        "book/eenotes_book/data/vision.py",
        "book/eenotes_book/records/study/02-e2cm.json",
        "docs/figures/class-means.png",
        "CITATION.cff",
    ]
    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", *made, *kept],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if asked.returncode == 128:
        pytest.skip("this is not a git checkout")
    assert asked.stdout.split() == made, sys.version
