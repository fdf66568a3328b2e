"""What the chapters promise as files: clean in git, readable in Colab, consistent with the rest of
the repository.
"""

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


def cells(name: str, kind: str) -> list[tuple[int, str]]:
    """(number, source) of the cells of one kind."""
    every = enumerate(chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")["cells"])
    return [(i, "".join(cell["source"])) for i, cell in every if cell["cell_type"] == kind]


def without_code(markdown: str) -> str:
    return re.sub(r"(?ms)^(```+|~~~+).*?^\1", "", markdown)


def without_maths(markdown: str) -> str:
    return re.sub(r"(?s)\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "", without_code(markdown))


# --- notebooks


def test_table_of_contents_and_notebooks_agree():
    listed = chapters.toc_files()
    assert len(listed) == len(set(listed)), "a page is listed twice in book/_toc.yml"
    files = {p.relative_to(chapters.BOOK).as_posix() for p in chapters.BOOK.rglob("*.*")}
    missing = [n for n in listed if not {n, f"{n}.ipynb", f"{n}.md"} & files]
    assert not missing, f"in book/_toc.yml without a file: {missing}"
    unlisted = [n for n in NAMES if n not in chapters.chapters()]
    assert chapters.chapters() and not unlisted, f"not listed in book/_toc.yml: {unlisted}"


@each_chapter
def test_notebook_is_valid_opens_anywhere_and_has_no_outputs_in_git(name):
    nb = nbformat.read(chapters.BOOK / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(nb)
    assert nb.metadata.kernelspec.name == "python3", "the kernel that Jupyter and Colab have"
    assert "widgets" not in nb.metadata, "saved widget state"
    for number, cell in enumerate(nb.cells):
        assert not cell.get("outputs"), f"cell {number} has outputs: clear them before committing"
        assert cell.get("execution_count") is None, f"cell {number} has an execution count"


@each_chapter
def test_code_cells_are_readable_and_hold_no_local_path(name):
    for number, source in cells(name, "code"):
        lines = source.strip().splitlines()
        # ruff joins the names of an import up to 100
        wide = [x for x in lines if len(x) > (100 if x.startswith("from ") else 88)]
        assert len(lines) <= 40 and not wide, f"cell {number}: {wide}"
        found = re.findall(r"""["'](?:/[A-Za-z]|~/|[A-Za-z]:\\|file:)[^"']*["']""", source)
        assert not found, f"cell {number}: a path of one machine: {found}"


@each_chapter
def test_colab_badge(name):
    repository, colab = CONFIG["repository"], CONFIG["launch_buttons"]["colab_url"]
    path = f"blob/{repository['branch']}/{repository['path_to_book']}/{name}.ipynb"
    link = f"{colab}/github/{OWNER_AND_NAME}/{path}"
    first = "\n".join(source for number, source in cells(name, "markdown") if number < 3)
    assert f"]({link})" in first or f'href="{link}"' in first, f"no Colab badge to {link}"


def test_first_cells_are_the_same_and_install_what_a_chapter_needs():
    """tests/site/test_colab.py runs these cells; here is what can be said without."""
    (first,) = {cells(name, "code")[0][1] for name in NAMES}
    (install,) = re.findall(r"(?m)^ +%pip install .*$", first)
    assert install.endswith(f' -q {{kept}} "eenotes[chapters] @ git+{ADDRESS}"'), install
    assert 'setdefault("EENOTES_DOWNLOAD", "1")' in first and "print(scale.choose())" in first


SHOWN_RAW = {
    "a MyST directive": (r"(?m)^\s*(```+|~~~+)\s*\{", str),
    "a fence of colons": (r"(?m)^\s*:::", without_code),
    "a MyST substitution": (r"\{\{.*?\}\}", without_maths),
    "a link without text": (r"(?<!!)\[\]\(", without_code),
    "a MyST role": (r"\{[\w:.-]+\}`", str),
    "a MyST target": (r"(?m)^\([\w:.-]+\)=\s*$", str),
    "an image without alt text": (r"!\[\s*\]\(|<img(?![^>]*\balt=\"\s*[^\s\"])", without_code),
}


@each_chapter
def test_nothing_that_colab_shows_raw_and_no_image_without_alt_text(name):
    for number, source in cells(name, "markdown"):
        found = [w for w, (pattern, part) in SHOWN_RAW.items() if re.search(pattern, part(source))]
        assert not found, f"cell {number}: {found}"


# --- the repository

KINDS = re.compile(r"(\.(py|md|ipynb|toml|txt|ya?ml|cff|sh|csv|json))?")  # what a name ends in
SAY_THE_ADDRESS = {"_config.yml", "README.md", "CITATION.cff", "pyproject.toml"}


def sources() -> list[Path]:
    """Every text file that belongs to the repository, as a path in it."""
    skip = re.compile(r"_build$|__pycache__$|node_modules$|.*\.egg-info$|\.(?!github$|ci$)")
    files = [p.relative_to(ROOT) for p in ROOT.rglob("*") if KINDS.fullmatch(p.suffix)]
    return [p for p in files if (ROOT / p).is_file() and not any(map(skip.match, p.parts))]


def test_the_repository_s_address_is_the_one_in_config_and_stands_in_few_places():
    own_name = re.escape(OWNER_AND_NAME.split("/")[1])
    pattern = rf"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/{own_name})\b"
    for path in sources():
        text = (ROOT / path).read_text(encoding="utf-8")
        assert set(re.findall(pattern, text)) <= {OWNER_AND_NAME}, path
        if path.suffix != ".ipynb" and str(path) not in SAY_THE_ADDRESS:
            assert f"github.com/{OWNER_AND_NAME}" not in text, path


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
def test_executed_from_top_to_bottom_and_every_figure_has_alt_text(name):
    path = chapters.executed(name, "tiny")
    if not path.is_file():
        pytest.skip(f"{name} has not been executed at tiny: make book")
    code = [c for c in chapters.read_notebook(path)["cells"] if c["cell_type"] == "code"]
    code = [c for c in code if "".join(c["source"]).strip()]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    for number, output in ((c["execution_count"], o) for c in code for o in c["outputs"]):
        assert output["output_type"] != "error", f"cell {number}"
        data = output.get("data", {})
        assert not [kind for kind in data if kind.startswith("image/")], (
            f"cell {number}: a bare figure; style.show gives it a caption and alt text"
        )
        for tag in re.findall(r"<img[^>]*>", "".join(data.get("text/html", ""))):
            assert re.search(r'alt="[^"]{20,}"', tag), f"cell {number}: no alt text in {tag[-200:]}"


# --- citations

LINK = re.compile(r"\[([^\[\]]*)\]\(references\.md#ref-(\w+)\)")


def titles() -> dict[str, str]:
    """Key of the bibliography → title, in small letters and digits."""
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"(?s)@\w+\{(\w+),.*?\btitle\s*=\s*\{(.*?)\},?\n", bibliography)
    return {key: re.sub(r"[^a-z0-9]", "", title.lower()) for key, title in entries}


@each_chapter
def test_a_chapter_links_the_works_that_it_lists_in_one_style(name):
    """Each once at least: "Han et al. (2015)" in a sentence, "Han et al., 2015" in brackets."""
    cells = chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    text, references = "\n\n".join(texts).split("\n## References\n")
    known = titles()
    cited = {known[key] for _, key in LINK.findall(text)}
    listed = [re.sub(r"[^a-z0-9]", "", line.lower()) for line in references.splitlines() if line]
    unlinked = [line for line in listed if not any(title in line for title in cited)]
    assert not unlinked, "listed, and not linked"
    assert all(any(title in line for line in listed) for title in cited), "linked, and not listed"
    for found in LINK.finditer(text):
        before = LINK.sub("", text[text.rfind("\n", 0, found.start()) + 1 : found.start()])
        inside = before.count("(") > before.count(")")
        style = r".*, \d{4}" if inside else r".* \(\d{4}\)"
        assert re.fullmatch(style, found[1]), f"{found[0]}, with brackets around: {inside}"
