"""Which packages are installed in another version than the pins say, as a table in Markdown.

python tools/newest.py      in an environment made with `make setup PINS=/dev/null`
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def pins(text: str) -> dict[str, str]:
    """The versions in a file of constraints, by name."""
    found = re.findall(r"(?m)^([\w.-]+)==([^\s+;]+)", text)
    return {canonicalize_name(name): version for name, version in found}


def asked_for() -> set[str]:
    """The packages that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    named = [*project["dependencies"], *(entry for extra in extras for entry in extra)]
    return {canonicalize_name(Requirement(entry).name) for entry in named}


def table(pinned: dict[str, str], installed: dict[str, str], first: set[str]) -> str:
    """What differs, a row each; those of ``first`` at the top and in bold."""
    names = [name for name in pinned | installed if pinned.get(name) != installed.get(name)]
    rows = ["| package | pinned | installed |", "|---|---|---|"]
    for name in sorted(names, key=lambda name: (name not in first, name)):
        shown = f"**{name}**" if name in first else name
        rows.append(f"| {shown} | {pinned.get(name, '–')} | {installed.get(name, '–')} |")
    return "\n".join(rows) if names else "Everything is installed as it is pinned."


def main() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    installed = {canonicalize_name(d.name): d.version.split("+")[0] for d in distributions()}
    own = {"eenotes", "pip"}
    print(table(pins(text), {n: v for n, v in installed.items() if n not in own}, asked_for()))


if __name__ == "__main__":
    main()
