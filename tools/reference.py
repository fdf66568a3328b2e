"""The API pages: which names they have to hold, the package's docstrings as Sphinx's autodoc wants
them, and who computes which equation.

In `_config.yml` this file is an extension of Sphinx.  A docstring is written to be read in an
editor: single backticks for a name, `$` around mathematics.  Here a name becomes a link to its
entry, if it has one, and mathematics a formula.

A docstring names the equations that its code computes, "(4.2)"; the chapters number them,
`\\tag{4.2}`.  The table of equations in `book/notation.md` follows from the docstrings.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "eenotes"
NOT_PUBLIC = ("studies",)  # the experiments of the book: read their source
MARKER = "<!-- equations -->"  # the line of book/notation.md where the table goes


@dataclass(frozen=True)
class Name:
    """A public function, class, method or property, as its source has it."""

    module: str
    path: str  # "split", "EarlyExitNetwork", "EarlyExitNetwork.step"
    node: ast.FunctionDef | ast.ClassDef

    @property
    def full(self) -> str:
        return f"{self.module}.{self.path}"

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""


@cache
def modules(*, everything: bool = False) -> dict[str, Path]:
    """The public modules by name, `eenotes.network` → its file; or `everything`, the studies too."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if (everything or parts[0] not in NOT_PUBLIC) and not any(
            part.startswith("_") for part in parts
        ):
            found[".".join(("eenotes", *parts))] = path
    return found


@cache
def names(*, everything: bool = False) -> dict[str, Name]:
    """Every public name, by its full one; methods and properties only where they say something."""
    found = []
    for module, path in modules(everything=everything).items():
        for node in public(ast.parse(path.read_text(encoding="utf-8")).body):
            found.append(Name(module, node.name, node))
            if isinstance(node, ast.ClassDef):
                members = [
                    Name(module, f"{node.name}.{member.name}", member)
                    for member in public(node.body)
                ]
                found += [member for member in members if member.docstring]
    return {name.full: name for name in found}


def public(body: list[ast.stmt]) -> list[ast.FunctionDef | ast.ClassDef]:
    return [
        node
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


def resolve(text: str, module: str, known: dict[str, Name] | None = None) -> str | None:
    """The full name that `text` stands for in a docstring of `module`, if there is exactly one."""
    known = names() if known is None else known
    for candidate in (f"{module}.{text}", f"eenotes.{text}", text):
        if candidate in known:
            return candidate
    tail = "." + text.removeprefix("eenotes.")
    endings = [name for name in known if name.endswith(tail)]
    return endings[0] if len(endings) == 1 else None


# --- equations


def numbers(docstring: str) -> list[str]:
    """The equations that a docstring names: "(4.2)" gives `4.2`."""
    return re.findall(r"\(([1-9]\.\d+)\)", docstring)


def tags(markdown: str) -> list[str]:
    """The numbers of the equations in a text."""
    return re.findall(r"\\tag\{(\d+\.\d+)\}", markdown)


def computed_by(equation: str) -> list[Name]:
    """Whose docstring names an equation.  A class stands for its methods."""
    found = [
        name for name in names(everything=True).values() if equation in numbers(name.docstring)
    ]
    paths = {name.full for name in found}
    return [name for name in found if name.full.rpartition(".")[0] not in paths]


def equation_table(equations: dict[str, str]) -> str:
    """Markdown: equation → what computes it; `equations` maps a number to the address of the
    equation.
    """
    rows = ["| equation | computed by |", "|---|---|"]
    for number, address in equations.items():
        entries = [entry(name) for name in computed_by(number)]
        rows.append(
            f'| <a href="{address}">({number})</a> | {", ".join(entries) or "stated only"} |'
        )
    return "\n".join(rows)


def entry(name: Name) -> str:
    """A name as a link to its entry; a study has none."""
    short = name.full.removeprefix("eenotes.")
    return f"{{py:obj}}`{short} <{name.full}>`" if name.module in modules() else f"`{short}`"


def fill(template: str, equations: dict[str, str]) -> str:
    """A page with its one line `MARKER` replaced by the table.

    Raises:
        ValueError: unless the marker is there exactly once.
    """
    if template.splitlines().count(MARKER) != 1:
        raise ValueError(f"the notation page must have exactly one line {MARKER}")
    return template.replace(MARKER, equation_table(equations))


# --- docstrings


MARKUP = re.compile(
    r"``.+?``|`(?P<name>[^`]+)`|\$\$(?P<display>.+?)\$\$|\$(?P<math>[^$]+)\$", re.DOTALL
)


def restructured(docstring: str, module: str) -> str:
    """A docstring as reStructuredText."""

    def markup(found: re.Match) -> str:
        if found["name"]:
            target = resolve(found["name"], module)
            text = f":py:obj:`{found['name']} <{target}>`" if target else f"``{found['name']}``"
        elif found["display"]:
            text = f".. math:: {' '.join(found['display'].split())}"
        elif found["math"]:
            text = f":math:`{' '.join(found['math'].split())}`"
        else:
            text = found[0]
        after = docstring[found.end() : found.end() + 1]
        return text + ("\\ " if after.isalnum() else "")  # markup ends at the end of a word

    # "num_classes: K." is no item of a list that counts with letters.
    return re.sub(r"(?m)^(\s+\w+: )([A-Za-z]\.)$", r"\1\\\2", MARKUP.sub(markup, docstring))


NO_TYPE = "\ue000"  # stands for a colon while napoleon looks


def before_napoleon(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """For Sphinx: rewrite the docstring of anything in the package."""
    module = (
        name
        if what == "module"
        else next((m for m in modules() if name.startswith(f"{m}.")), "eenotes")
    )
    lines[:] = restructured("\n".join(lines), module).split("\n")
    # whose first word napoleon would take for a type: "J: the exit heads ..."
    if what in ("attribute", "property"):
        lines[:1] = [line.replace(": ", f"{NO_TYPE} ") for line in lines[:1]]


def after_napoleon(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    lines[:] = [line.replace(NO_TYPE, ":") for line in lines]


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)  # napoleon is at 500
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    return {"parallel_read_safe": True}
