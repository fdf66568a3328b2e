"""What `import eenotes` costs and offers; which module may import what, `make lint` checks."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import eenotes

PACKAGE = Path(eenotes.__file__).parent
HEAVY = "torchvision torchmetrics accelerate pandas transformers sklearn scipy safetensors tqdm"
DRAWING = "matplotlib seaborn ipywidgets jupyter IPython eenotes_book"


def test_import_is_cheap():
    code = "import sys, eenotes; dir(eenotes); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*HEAVY.split(), *DRAWING.split()} & set(done.stdout.split())


def test_every_name_resolves():
    assert {getattr(eenotes, name).__name__ for name in eenotes.__all__} == set(eenotes.__all__)
    assert set(eenotes.__all__) <= set(dir(eenotes))
    assert not hasattr(eenotes, "Confidenze")


def test_names_for_type_checkers_are_the_names_for_users():
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    (block,) = [node for node in body if isinstance(node, ast.If)]
    named = {alias.name: node.module for node in block.body for alias in node.names}
    assert named == {name: getattr(eenotes, name).__module__ for name in eenotes.__all__}


def imported(path: Path) -> set[tuple[str, str]]:
    """The names that a module or a notebook takes from the two packages, with their modules."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c["source"] for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        text = "\n".join(re.sub(r"(?m)^\s*[!%].*", "", "".join(cell)) for cell in cells)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if re.match(r"eenotes(_book)?\b", node.module or "")]
    return {(node.module, alias.name) for node in ours for alias in node.names}


def exists(module: str, name: str) -> bool:
    base = PACKAGE.parent / ("book" if module.startswith("eenotes_book") else "")
    base = base / module.replace(".", "/")
    files = [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
    named = any(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for file in files)
    return named or (base / name).is_dir() or (base / f"{name}.py").is_file()


def test_what_is_imported_from_the_two_packages_is_there():
    """Also in notebooks: what a move has left behind."""
    command = ["git", "ls-files", "*.py", "*.ipynb"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    paths = [PACKAGE.parent / line for line in done.stdout.split()]
    found = {path.name: imported(path) for path in paths if path.is_file()}
    assert not [(file, *n) for file, names in found.items() for n in names if not exists(*n)]
    assert exists("eenotes.exits", "pool") and not exists("eenotes.exits", "pools")
