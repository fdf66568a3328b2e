"""The API pages: public names, docstrings as Sphinx's autodoc wants them, equations.

In `_config.yml` this file is an extension of Sphinx.  A docstring is written to be read in an
editor: single backticks for a name, `$` around mathematics.  Here a name becomes a link to its
entry, if it has one, and mathematics a formula.

A docstring names the equations that its code computes, "(4.2)"; the chapters number them,
`\\tag{4.2}`.  The table of equations in `book/notation.md` follows from the docstrings.  The pages
`book/api/book.md` and `book/api/chapters.md` list all modules of `eenotes_book` by themselves.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"eenotes": ROOT / "eenotes", "eenotes_book": ROOT / "book" / "eenotes_book"}
LEFT_OUT = ("__main__", "probe", "study")  # what is run, not used
MARKER = "<!-- equations -->"  # the line of book/notation.md where the table goes
CHAPTERS = "<!-- chapters -->"  # the line of book/api/chapters.md where the modules go
SHARED = "<!-- shared -->"  # the line of book/api/book.md where what the chapters share goes


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
def modules() -> dict[str, Path]:
    """The public modules of both packages by name, `eenotes.network` → its file."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] not in LEFT_OUT and not any(part.startswith("_") for part in parts):
                found[".".join((package, *parts))] = path
    return found


def of_a_chapter(module: str) -> bool:
    """Whether a module lies in a chapter's folder: `eenotes_book.ch02_e2cm.claims`."""
    return re.match(r"eenotes_book\.ch\d\d_", module) is not None


@cache
def names() -> dict[str, Name]:
    """Every public name by its full one; methods and properties only if they have a docstring."""
    found = []
    for module, path in modules().items():
        for node in public(ast.parse(path.read_text(encoding="utf-8")).body):
            found.append(Name(module, node.name, node))
            if isinstance(node, ast.ClassDef):
                members = [Name(module, f"{node.name}.{m.name}", m) for m in public(node.body)]
                found += [member for member in members if member.docstring]
    return {name.full: name for name in found}


def public(body: list[ast.stmt]) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes among these statements whose names have no underscore in front."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def resolve(text: str, module: str, known: dict[str, Name] | None = None) -> str | None:
    """The full name that `text` stands for in a docstring of `module`, if there is exactly one."""
    known = names() if known is None else known
    for candidate in (f"{module}.{text}", f"eenotes.{text}", f"eenotes_book.{text}", text):
        if candidate in known:
            return candidate
    tail = "." + text.removeprefix("eenotes.")
    endings = [name for name in known if name.endswith(tail)]
    nearest = [name for name in endings if name.startswith("eenotes.")] or endings
    return nearest[0] if len(nearest) == 1 else None


# --- equations


def numbers(docstring: str) -> list[str]:
    """The equations that a docstring names: "(4.2)" gives `4.2`."""
    return re.findall(r"\(([1-9]\.\d+)\)", docstring)


def tags(markdown: str) -> list[str]:
    """The numbers of the equations in a text."""
    return re.findall(r"\\tag\{(\d+\.\d+)\}", markdown)


def computed_by(equation: str) -> list[Name]:
    """The names whose docstring has an equation; methods stand for their class."""
    found = [name for name in names().values() if equation in numbers(name.docstring)]
    paths = {name.full for name in found}
    return [name for name in found if name.full.rpartition(".")[0] not in paths]


def equation_table(equations: dict[str, str]) -> str:
    """Markdown: equation → what computes it.

    Args:
        equations: number → address of the equation.
    """
    rows = ["| equation | computed by |", "|---|---|"]
    for number, address in equations.items():
        entries = ", ".join(entry(name) for name in computed_by(number)) or "stated only"
        rows.append(f'| <a href="{address}">({number})</a> | {entries} |')
    return "\n".join(rows)


def entry(name: Name) -> str:
    """A name as a link to its entry."""
    return f"{{py:obj}}`{short(name.full)} <{name.full}>`"


def short(full: str) -> str:
    """A full name without its package."""
    return full.removeprefix("eenotes.").removeprefix("eenotes_book.")


def fill(template: str, equations: dict[str, str]) -> str:
    """The notation page: its one line `MARKER` replaced by the table.

    Raises:
        ValueError: unless the marker is there exactly once.
    """
    return _replaced(template, MARKER, equation_table(equations))


def fill_modules(template: str) -> str:
    """A page with `CHAPTERS` replaced by the chapters' modules, `SHARED` by what they share."""
    book = [module for module in modules() if module.startswith("eenotes_book.")]
    for marker, chapters in ((CHAPTERS, True), (SHARED, False)):
        listed = [_section(module) for module in book if of_a_chapter(module) == chapters]
        template = template.replace(marker, "\n\n".join(listed))
    return template


def _section(module: str) -> str:
    entry = f".. automodule:: {module}\n   :ignore-module-all:"
    return f"## `{short(module)}`\n\n```{{eval-rst}}\n{entry}\n```"


def _replaced(template: str, marker: str, content: str) -> str:
    if template.splitlines().count(marker) != 1:
        raise ValueError(f"the page must have exactly one line {marker}")
    return template.replace(marker, content)


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
    """For Sphinx: rewrite the docstring of anything in the packages."""
    inside = [m for m in modules() if name == m or name.startswith(f"{m}.")]
    lines[:] = restructured("\n".join(lines), max(inside, key=len, default=name)).split("\n")
    # napoleon takes the word before a colon for a type: "J: the exits ..."
    if what in ("attribute", "property"):
        lines[:1] = [line.replace(": ", f"{NO_TYPE} ") for line in lines[:1]]


def after_napoleon(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """For Sphinx: put the colons back."""
    lines[:] = [line.replace(NO_TYPE, ":") for line in lines]


def setup(app) -> dict:
    """For Sphinx: the extension."""
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)  # napoleon is at 500
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    return {"parallel_read_safe": True}
