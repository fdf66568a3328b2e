"""What lies around book and package, workflows, README, citation, environment: that they agree."""

import io
import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import chapters
import newest
import pytest
import readme_figures
import yaml

ROOT = chapters.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
PAPERS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
TARGETS = set(re.findall(r"(?m)^([a-z][\w-]*):(?!=)", MAKEFILE))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make_calls(text: str) -> set[str]:
    """The targets of make in commands; variables (`SCALE=reduced`) and options are none."""
    calls = re.findall(r"\bmake ((?:[\w-]+(?:=\S*)? ?)+)", text)
    words = " ".join(calls).split()
    return {word for word in words if "=" not in word and not word.startswith("-")}


# --- workflows and Makefile


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_refers_to_is_there(path):
    """Steps by their ids, make targets, files in hashFiles()."""
    text = path.read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert found["name"] == path.stem and found["permissions"] == {"contents": "read"}
    steps = [step for job in found["jobs"].values() for step in job["steps"]]
    assert all(("run" in step) != ("uses" in step) for step in steps)
    assert set(re.findall(r"\bsteps\.([\w-]+)\.", text)) <= {step.get("id") for step in steps}
    assert make_calls("\n".join(step.get("run", "") for step in steps)) <= TARGETS
    for arguments in re.findall(r"hashFiles\(([^)]*)\)", text):
        for pattern in re.findall(r"'([^']+)'", arguments):
            assert list(ROOT.glob(pattern)), pattern


def test_the_published_book_is_the_built_one_and_the_weekly_run_is_without_pins():
    jobs = yaml.safe_load(read(".github/workflows/publish.yml"))["jobs"]
    assert jobs["build"]["env"]["SCALE"] == "reduced"
    uploads = [step["with"]["path"] for step in jobs["build"]["steps"] if "upload" in str(step)]
    assert [ROOT / path for path in uploads] == [chapters.HTML]
    assert "make test PINS=/dev/null" in read(".github/workflows/weekly.yml")
    assert "-c $(PINS)" in MAKEFILE


def test_the_weekly_run_reports_what_is_newer_than_the_pins():
    pinned = newest.pins("# a comment\nTorch==2.1.0\nsix==1.0\nyaml_x==3 \n")
    assert pinned == {"torch": "2.1.0", "six": "1.0", "yaml-x": "3"}
    rows = newest.table(pinned, {"six": "1.1", "torch": "2.2.0", "yaml-x": "3"}, {"torch"})
    assert rows.splitlines()[2:] == ["| **torch** | 2.1.0 | 2.2.0 |", "| six | 1.0 | 1.1 |"]
    assert "installed as it is pinned" in newest.table(pinned, pinned, set())
    assert {"torch", "transformers", "hypothesis"} <= newest.asked_for()


def test_make_help_names_every_command():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = set(re.findall(r"[a-z][\w-]*", done.stdout))
    parts = {"help", "setup", "chromium"}  # made by the others where they need them
    assert TARGETS - parts <= named and make_calls(done.stdout) <= TARGETS


# --- README and the other papers


@pytest.mark.parametrize("name", PAPERS)
def test_links_commands_and_files_that_are_named_exist(name):
    text = read(name)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?ms)^```.*?^```|`[^`\n]+`", "", text)):
        assert urlsplit(link).scheme or (ROOT / link.split("#")[0]).exists(), link
    code = re.findall(r"(?ms)^```.*?^```|`[^`\n]+`|^ {4}.*?$", text)
    assert make_calls("\n".join(code)) <= TARGETS
    folders = r"`((?:book|eenotes|tools|tests|docs|benchmarks|\.github)/[^`\s]*)`"
    made_up = r"NN|name\.|<|steps"  # `book/NN-name.ipynb`
    for path in re.findall(folders, text):
        assert re.search(made_up, path) or (ROOT / path).exists(), path


def test_figures_are_there_small_and_described():
    text = read("README.md")
    shown = re.findall(r"!\[([^\]]*)\]\((docs/figures/[\w-]+\.png)\)", text)
    assert [Path(path).stem for _, path in shown] == list(readme_figures.FIGURES)
    assert all(len(alt) >= 20 for alt, _ in shown)
    files = [ROOT / path for _, path in shown]
    assert sorted(files) == sorted(readme_figures.FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) <= 300 * 1024
    assert all(text.count(mark) == 1 for mark in readme_figures.MARKS)


def test_figures_are_those_of_cells_that_exist():
    for chapter, cell, _ in readme_figures.FIGURES.values():
        cells = chapters.read_notebook(chapters.BOOK / f"{chapter}.ipynb")["cells"]
        source = {c["id"]: "".join(c["source"]) for c in cells}[cell]
        assert re.search(r"style\.show\(|(figures|drawings)\.\w+\(", source)


def test_a_figure_is_taken_with_its_words_and_made_small():
    from matplotlib.figure import Figure
    from PIL import Image

    from eenotes_book import style

    made = Figure(figsize=(14, 3))
    made.subplots().plot([0, 2, 1])
    shown = style.show(made, caption="a < b, *really*", alt='a "quoted" picture').data
    notebook = {"cells": [{"id": "x", "outputs": [{"data": {"text/html": shown}}]}]}
    png, alt, caption = readme_figures.figure(notebook, "x")
    assert (alt, caption) == ('a "quoted" picture', "a < b, *really*")
    widths = [Image.open(io.BytesIO(data)).width for data in (readme_figures.small(png), png)]
    assert widths[0] == readme_figures.WIDTH < widths[1]
    with pytest.raises(ValueError, match="no figure in a cell 'y'"):
        readme_figures.figure({"cells": [{"id": "y", "outputs": []}]}, "y")
    start, end = readme_figures.MARKS
    page = readme_figures.between_the_marks(f"a{start}old{end}b", "new")
    assert page == f"a{start}\n\nnew\n\n{end}b"


# --- versions, citation, conda


def test_version_licence_and_addresses_are_the_same_everywhere():
    import eenotes

    citation = yaml.safe_load(read("CITATION.cff"))
    assert eenotes.__version__ == PROJECT["version"] == citation["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    assert citation["url"] == PROJECT["urls"]["Book"]
    (thesis,) = [entry for entry in citation["references"] if entry["type"] == "thesis"]
    assert thesis["title"] in read("book/references.bib")
    newest = re.findall(r"(?m)^## \[([^\]]+)\]", read("CHANGELOG.md"))[:2]
    assert PROJECT["version"] in newest, "the newest first"


def test_environment_installs_what_the_project_says():
    """conda runs pip in the folder of the file: `-c constraints.txt` and `-e .` are those here."""
    *conda, pip = yaml.safe_load(read("environment.yml"))["dependencies"]
    (python,) = [name.removeprefix("python=") for name in conda if name.startswith("python=")]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    pins, package = pip["pip"]
    assert (ROOT / pins.removeprefix("-c ")).is_file()
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", package)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_git_ignores_what_commands_make_and_nothing_else():
    records = "book/eenotes_book/records"
    made = [".venv/bin/python", "_build/html/index.html", "data/MNIST", "eenotes.egg-info/PKG-INFO"]
    made += [f"{records}/tiny/02-e2cm.json", "dist/eenotes.whl", ".venv-oldest/bin/python"]
    kept = ["book/eenotes_book/data/vision.py", f"{records}/study/02-e2cm.json", "CITATION.cff"]
    command = ["git", "check-ignore", "--no-index", *made, *kept]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("this is not a git checkout")
    assert done.stdout.split() == made
