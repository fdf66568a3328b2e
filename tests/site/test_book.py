"""What the chapters promise as files: clean in git, readable in Colab, consistent with the rest of
the repository.
"""

import json
import re
import tomllib
from pathlib import Path

import chapters
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = chapters.ROOT
NAMES = sorted({*chapters.chapters(), *(p.stem for p in chapters.BOOK.glob("*.ipynb"))})
CONFIG = yaml.safe_load(chapters.CONFIG.read_text(encoding="utf-8"))
ADDRESS = CONFIG["repository"]["url"].rstrip("/")
OWNER_AND_NAME = ADDRESS.removeprefix("https://github.com/")

each_chapter = pytest.mark.parametrize("name", NAMES)


def notebook(name: str) -> dict:
    return json.loads((chapters.BOOK / f"{name}.ipynb").read_text(encoding="utf-8"))


def text(cell: dict) -> str:
    return "".join(cell["source"])


def cells(name: str, kind: str) -> list[tuple[int, str]]:
    """(number, source) of the cells of one kind."""
    return [(i, text(c)) for i, c in enumerate(notebook(name)["cells"]) if c["cell_type"] == kind]


def without_code(markdown: str) -> str:
    return re.sub(r"(?ms)^(```+|~~~+).*?^\1", "", markdown)


def without_maths(markdown: str) -> str:
    return re.sub(r"(?s)\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "", without_code(markdown))


# --- notebooks


def test_table_of_contents_and_notebooks_agree():
    listed = chapters.toc_files()
    assert len(listed) == len(set(listed)), "a page is listed twice in book/_toc.yml"
    missing = [
        n
        for n in listed
        if not any((chapters.BOOK / f"{n}{end}").is_file() for end in ("", ".ipynb", ".md"))
    ]
    assert not missing, f"in book/_toc.yml without a file: {missing}"
    unlisted = [n for n in NAMES if n not in chapters.chapters()]
    assert not unlisted, f"notebooks that book/_toc.yml does not list: {unlisted}"
    assert chapters.chapters(), "no chapter at all"


@each_chapter
def test_notebook_is_valid_and_opens_anywhere(name):
    nb = nbformat.read(chapters.BOOK / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(nb)
    assert nb.metadata.kernelspec.name == "python3", "the kernel that Jupyter and Colab have"


@each_chapter
def test_no_outputs_in_git(name):
    for number, cell in enumerate(notebook(name)["cells"]):
        assert not cell.get("outputs"), f"cell {number} has outputs: clear them before committing"
        assert cell.get("execution_count") is None, f"cell {number} has an execution count"
    assert "widgets" not in notebook(name)["metadata"], "saved widget state"


@each_chapter
def test_chapter_is_of_readable_size(name):
    number = len(notebook(name)["cells"])
    assert 25 <= number <= 45, f"{number} cells; a chapter has 25 to 45"
    code = {i: source.strip().splitlines() for i, source in cells(name, "code")}
    assert not {i: len(lines) for i, lines in code.items() if len(lines) > 40}
    wide = [(i, line) for i, lines in code.items() for line in lines if len(line) > 88]
    assert not wide, f"lines of more than 88 characters: {wide}"


@each_chapter
def test_colab_badge(name):
    branch, folder = CONFIG["repository"]["branch"], CONFIG["repository"]["path_to_book"]
    link = f"{CONFIG['launch_buttons']['colab_url']}/github/{OWNER_AND_NAME}/blob/{branch}/{folder}/{name}.ipynb"
    first = "\n".join(source for number, source in cells(name, "markdown") if number < 3)
    assert f"]({link})" in first or f'href="{link}"' in first, (
        f"no Colab badge to {link} in the first cells"
    )


def test_first_cells_are_the_same_and_install_what_a_chapter_needs():
    """tests/site/test_colab.py runs these cells; here is what can be said without."""
    (first,) = {cells(name, "code")[0][1] for name in NAMES}
    assert len(first.splitlines()) <= 15
    (install,) = re.findall(r"(?m)^ +%pip install .*$", first)
    assert install.endswith(f' -q {{kept}} "eenotes[chapters] @ git+{ADDRESS}"'), install
    assert 'setdefault("EENOTES_DOWNLOAD", "1")' in first and "print(scale.choose())" in first


@each_chapter
def test_nothing_that_colab_shows_raw(name):
    for number, source in cells(name, "markdown"):
        assert not re.search(r"(?m)^\s*(```+|~~~+)\s*\{", source), (
            f"cell {number}: a MyST directive"
        )
        assert not re.search(r"(?m)^\s*:::", without_code(source)), (
            f"cell {number}: a fence of colons"
        )
        assert not re.search(r"\{\{.*?\}\}", without_maths(source)), (
            f"cell {number}: a MyST substitution"
        )
        assert not re.search(r"(?<!!)\[\]\(", without_code(source)), (
            f"cell {number}: a link without text"
        )
        assert not re.search(r"\{[\w:.-]+\}`", without_code(source)), f"cell {number}: a MyST role"
        assert not re.search(r"(?m)^\([\w:.-]+\)=\s*$", source), f"cell {number}: a MyST target"


@each_chapter
def test_markdown_images_have_alt_text(name):
    for number, source in cells(name, "markdown"):
        images = re.findall(r"!\[([^\]]*)\]\(", without_code(source))
        images += [
            m[1] if (m := re.search(r'alt="([^"]*)"', tag)) else ""
            for tag in re.findall(r"<img[^>]*>", source)
        ]
        assert all(alt.strip() for alt in images), f"cell {number}: an image without alt text"


@each_chapter
def test_no_local_paths(name):
    for number, source in cells(name, "code"):
        found = re.findall(r"""["'](?:/[A-Za-z]|~/|[A-Za-z]:\\|file:)[^"']*["']""", source)
        assert not found, f"cell {number}: a path of one machine: {found}"


# --- the repository


def sources() -> list[Path]:
    """Every text file that belongs to the repository."""
    skip = {"_build", "__pycache__", "node_modules"}
    kinds = {
        ".py",
        ".md",
        ".ipynb",
        ".toml",
        ".txt",
        ".yml",
        ".yaml",
        ".cff",
        ".sh",
        ".csv",
        ".json",
        "",
    }
    files = (p for p in ROOT.rglob("*") if p.suffix in kinds and p.is_file())
    hidden = {".github", ".ci"}
    return [
        p
        for p in files
        if not any(
            part in skip
            or part.endswith(".egg-info")
            or (part.startswith(".") and part not in hidden)
            for part in p.relative_to(ROOT).parts
        )
    ]


def test_repository_address_is_the_one_in_config():
    """`_config.yml` says where the repository is; whatever else has to contain the address agrees
    with it.
    """
    own_name = OWNER_AND_NAME.split("/")[1]
    pattern = re.compile(
        rf"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/{re.escape(own_name)})\b"
    )
    for path in sources():
        others = {
            m for m in pattern.findall(path.read_text(encoding="utf-8")) if m != OWNER_AND_NAME
        }
        assert not others, (
            f"{path.relative_to(ROOT)} says {others}, _config.yml says {OWNER_AND_NAME}"
        )


def test_code_and_settings_do_not_repeat_the_repository_address():
    allowed = {"_config.yml", "README.md", "CITATION.cff", "pyproject.toml"}
    for path in sources():
        if path.suffix != ".ipynb" and str(path.relative_to(ROOT)) not in allowed:
            assert f"github.com/{OWNER_AND_NAME}" not in path.read_text(encoding="utf-8"), (
                path.relative_to(ROOT)
            )


# --- versions


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def required(*extras: str) -> list[Requirement]:
    """What the package requires, with these extras; not the extras that an extra names."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [r for r in map(Requirement, lines) if r.name != "eenotes"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in found), f"{name} has a line that is not an exact pin"
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_pins_satisfy_the_ranges():
    pinned = pins("constraints.txt")
    for requirement in required(*EXTRAS):
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def test_oldest_pins_are_the_lower_bounds():
    """So that `make test-oldest` tests what pyproject.toml promises."""
    oldest, needed = pins("constraints-oldest.txt"), required("language", "pruning", "chapters")
    assert set(oldest) == {r.name for r in needed}
    for requirement in needed:
        (low,) = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        assert Version(oldest[requirement.name]) == low, requirement


# --- executed chapters


@pytest.mark.executed
@each_chapter
def test_executed_from_top_to_bottom(name):
    path = chapters.executed(name, "tiny")
    if not path.is_file():
        pytest.skip(f"{name} has not been executed at tiny: make book")
    nb = chapters.read_notebook(path)
    code = [c for c in nb["cells"] if c["cell_type"] == "code" and text(c).strip()]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    errors = [o["ename"] for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert not errors


@pytest.mark.executed
@each_chapter
def test_every_figure_has_alt_text(name):
    path = chapters.executed(name, "tiny")
    if not path.is_file():
        pytest.skip(f"{name} has not been executed at tiny: make book")
    for number, cell in enumerate(chapters.read_notebook(path)["cells"]):
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            bare = [kind for kind in data if kind.startswith("image/")]
            assert not bare, (
                f"cell {number}: a bare figure; style.show gives it a caption and alt text"
            )
            for tag in re.findall(r"<img[^>]*>", "".join(data.get("text/html", ""))):
                alt = re.search(r'alt="([^"]*)"', tag)
                assert alt and len(alt[1]) >= 20, (
                    f"cell {number}: a figure whose alt text is {alt and alt[1]!r}"
                )
