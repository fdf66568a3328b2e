"""What an import costs, and who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import eenotes

PACKAGE = Path(eenotes.__file__).parent

# Arrows point up this list only: each part may use those before it, a contribution every part, and
# no part a contribution.
PARTS = [
    "network",
    "heads",
    "rules",
    "inference",
    "means",
    "detection",
    "costs",
    "calibration",
    "training",
    "selection",
    "data",
    "models",
]
CONTRIBUTIONS = ["e2cm", "clustering", "pruning", "cbt", "eeprune", "class_aware", "drafting"]
OUTSIDE = ["plots", "interactive", "experiment"]  # what only notebooks and studies use


def in_new_process(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_importing_eenotes_loads_none_of_its_heavy_friends():
    loaded = in_new_process("import sys, eenotes; dir(eenotes); print(*sys.modules)").split()
    heavy = {
        "torchvision",
        "torchmetrics",
        "accelerate",
        "pandas",
        "transformers",
        "sklearn",
        "matplotlib",
        "scipy",
        "safetensors",
        "tqdm",
    }
    assert not heavy & set(loaded)


def test_every_name_resolves():
    assert {name: getattr(eenotes, name).__name__ for name in eenotes.__all__} == {
        name: name for name in eenotes.__all__
    }
    assert set(eenotes.__all__) <= set(dir(eenotes))
    wanted = {
        "split",
        "EarlyExitNetwork",
        "predict",
        "simulate",
        "Confidence",
        "Entropy",
        "Patience",
        "PerClass",
        "ClassMeans",
    }
    assert wanted | {"count_macs"} <= set(eenotes.__all__)


def test_names_for_type_checkers_are_the_names_for_users():
    (block,) = [
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.If)
    ]
    named = {alias.name: node.module for node in block.body for alias in node.names}
    assert named == {name: getattr(eenotes, name).__module__ for name in eenotes.__all__}


def test_an_unknown_name():
    assert not hasattr(eenotes, "Confidenze")


# --- arrows


def imports():
    """Module → the modules of the package that it imports anywhere, inside functions too; dotted
    names below ``eenotes``.
    """
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module} imports relatively: write eenotes in full"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith("eenotes."):
                    found[module].add(name.removeprefix("eenotes."))
    modules = set(found)

    def owner(name):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {owner(name) for name in names} - {"", module} for module, names in found.items()
    }


IMPORTS = imports()


def top(module):
    return module.partition(".")[0]


def test_the_search_finds_imports():
    assert IMPORTS["calibration"] == {"costs", "inference", "rules"}
    assert "data.vision" in IMPORTS
    assert {"detection", "heads", "means", "network", "rules"} == IMPORTS["e2cm"]


def test_parts_use_only_the_parts_before_them():
    for module, used in IMPORTS.items():
        if top(module) in PARTS:
            before = PARTS[: PARTS.index(top(module)) + 1]
            assert {top(other) for other in used} <= set(before), f"{module} imports {sorted(used)}"


def test_contributions_use_parts_and_not_each_other_in_circles():
    for module, used in IMPORTS.items():
        if top(module) in CONTRIBUTIONS:
            assert {top(other) for other in used} <= {*PARTS, *CONTRIBUTIONS}, (
                f"{module} imports {sorted(used)}"
            )


def test_only_studies_use_plots_and_experiment():
    for module, used in IMPORTS.items():
        if top(module) not in ("studies", "study", *OUTSIDE):
            assert not {top(other) for other in used} & set(OUTSIDE), (
                f"{module} imports {sorted(used)}"
            )


def test_no_circles():
    left = {module: set(used) for module, used in IMPORTS.items()}
    while left:
        free = {module for module, used in left.items() if not used & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {module: used for module, used in left.items() if module not in free}


def test_every_module_has_a_place_in_the_design():
    assert {top(module) for module in IMPORTS} <= {*PARTS, *CONTRIBUTIONS, *OUTSIDE, "studies"}
