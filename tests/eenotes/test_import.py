"""What `import eenotes` costs and offers; which module may import what, `make lint` checks."""

import ast
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
