"""The API pages hold every public name, docstrings say shapes and errors, and equations and
docstrings name each other.
"""

import ast
import re

import chapters
import pages
import pytest
import reference

import eenotes

PAGES = sorted((chapters.BOOK / "api").glob("*.md"))
NAMES = reference.names()
# The chapters' own code is listed with the docstrings that it has, and not held to this.
TOP = [n for n in NAMES.values() if "." not in n.path and not reference.of_a_chapter(n.module)]


# --- the pages


def test_every_public_module_is_on_exactly_one_page():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    listed = re.findall(r"automodule:: (\S+)", reference.fill_modules(pages))
    assert sorted(listed) == sorted(reference.modules())


def test_the_pages_are_in_the_table_of_contents():
    assert {f"api/{page.stem}" for page in PAGES} <= set(chapters.toc_files())


def test_every_public_name_says_what_it_is():
    assert not [name.full for name in TOP if not name.docstring]


def test_names_that_the_package_exports_are_in_the_short_list():
    text = (chapters.BOOK / "api" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^   (eenotes\.\w+\.\w+)$", text)
    assert sorted(full.rpartition(".")[2] for full in listed) == eenotes.__all__
    assert set(listed) <= set(NAMES)


@pytest.mark.browser
def test_every_public_name_is_on_a_built_page_and_nothing_that_torch_documents():
    built = list((chapters.HTML / "api").glob("*.html"))
    if not built:
        pytest.skip("there are no built pages: make book")
    text = "\n".join(page.read_text(encoding="utf-8") for page in built)
    ids = set(re.findall(r'\bid="(eenotes(?:_book)?\.[^"]+)"', text))
    assert not {full for full, name in NAMES.items() if name.docstring} - ids
    foreign = (".register_buffer", ".state_dict", ".full_state_update")
    assert not [full for full in ids if full.endswith(foreign)]


# --- shapes and errors


def takes_or_gives_tensors(function: ast.FunctionDef) -> bool:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [function.returns, *(argument.annotation for argument in every)]
    return any(re.search(r"\bTensor\b", ast.unparse(found)) for found in annotations if found)


def test_functions_of_tensors_say_shapes():
    functions = [n for n in TOP if isinstance(n.node, ast.FunctionDef)]
    of_tensors = [n for n in functions if takes_or_gives_tensors(n.node)]
    shape = r"``[^`\n]*\([^`\n]*\)``"
    silent = [name.full for name in of_tensors if not re.search(shape, name.docstring)]
    assert not silent, "these take or give tensors: say their shapes, ``(N, K)``"


def raised(node: ast.AST) -> set[str]:
    """The errors that code raises itself, outside of a ``try``."""
    if isinstance(node, ast.Try):
        return set().union(*(raised(part) for part in (*node.handlers, *node.orelse)))
    inside = set().union(*map(raised, ast.iter_child_nodes(node)))
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        inside |= {ast.unparse(node.exc.func)} & {"ValueError", "TypeError"}
    return inside


def raisers(name: reference.Name) -> list[tuple[ast.FunctionDef, str]]:
    """The functions behind a name, each with the docstrings in which its errors can be said."""
    if isinstance(name.node, ast.FunctionDef):
        return [(name.node, name.docstring)]
    methods = [m for m in name.node.body if isinstance(m, ast.FunctionDef)]
    # a private one answers to its callers
    public = [m for m in methods if not re.match(r"_[^_]", m.name)]
    return [(m, name.docstring + (ast.get_docstring(m) or "")) for m in public]


def test_errors_are_said():
    said = r"Raises:\n(?:.*\n)*? +{}:"
    assert not [
        f"{name.full} ({function.name}): {error}"
        for name in TOP
        for function, text in raisers(name)
        for error in sorted(raised(function))
        if not re.search(said.format(error), text)
    ]


# --- equations


def tagged() -> dict[str, str]:
    """Number → chapter of every equation that a notebook numbers."""
    found = {}
    for chapter in chapters.chapters():
        cells = chapters.read_notebook(chapters.BOOK / f"{chapter}.ipynb")["cells"]
        prose = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        for number in reference.tags("\n".join(prose)):
            assert number not in found, f"({number}) twice"
            found[number] = chapter
    return found


def test_equations_and_docstrings_name_each_other():
    there = tagged()
    # chapter 8 poses more than it computes
    computed = [number for number, chapter in there.items() if chapter != "08-open-problems"]
    nobody = [number for number in computed if not reference.computed_by(number)]
    assert len(computed) >= 43 and not nobody, f"no docstring names {nobody}"
    named = {n.full: set(reference.numbers(n.docstring)) for n in reference.names().values()}
    unknown = {full: found - set(there) for full, found in named.items() if found - set(there)}
    assert not unknown, f"equations that no chapter has: {unknown}"


def test_the_table_has_every_equation_with_its_place_and_its_code():
    equations = pages.equations()
    assert list(equations) == list(tagged())
    table = reference.equation_table(equations)
    for number, chapter in tagged().items():
        (row,) = [line for line in table.splitlines() if f">({number})<" in line]
        assert f'href="{chapter}.html#{pages.equation_id(number)}"' in row
        assert all(reference.short(name.full) in row for name in reference.computed_by(number))
    assert reference.fill(f"a\n{reference.MARKER}\nb", equations) == f"a\n{table}\nb"
    with pytest.raises(ValueError, match="exactly one line"):
        reference.fill("a", equations)
    notation = (chapters.BOOK / "notation.md").read_text(encoding="utf-8")
    assert reference.MARKER in notation.splitlines()


def test_an_equation_gets_a_place_to_link_to():
    equation = "$$ c\n= d . \\tag{4.2} $$\n\nend"
    page = pages.for_the_page(f"Then\n\n$$ a = b $$\n\nand\n\n{equation}")
    place = '<div class="place" id="equation-4.2"></div>'
    assert page == f"Then\n\n$$ a = b $$\n\nand\n\n{place}\n\n{equation}"


# --- docstrings

KNOWN = dict.fromkeys(
    ("eenotes.a.fit", "eenotes.b.fit", "eenotes.b.Net", "eenotes.b.Net.step", "eenotes.a.only")
)


@pytest.mark.parametrize(
    "text, module, target",
    [
        ("fit", "eenotes.b", "eenotes.b.fit"),  # one's own before another's
        ("a.fit", "eenotes.b", "eenotes.a.fit"),
        ("only", "eenotes.b", "eenotes.a.only"),
        ("Net.step", "eenotes.a", "eenotes.b.Net.step"),
        ("eenotes.only", "eenotes.b", "eenotes.a.only"),  # what the package exports
        ("fit", "eenotes.c", None),  # two
        ("transformers", "eenotes.a", None),
    ],
)
def test_names_are_found(text, module, target):
    assert reference.resolve(text, module, KNOWN) == target


@pytest.mark.parametrize(
    "docstring, wanted",
    [
        ("`split` and `nothing`", ":py:obj:`split <eenotes.cutting.split>` and ``nothing``"),
        ("$x_1$s and ``(N, K)``.", ":math:`x_1`\\ s and ``(N, K)``."),
        ("A.\n\n$$ a\n= b $$\n\nB.", "A.\n\n.. math:: a = b\n\nB."),
        ("Args:\n    number: K.\n    x: an image.", "Args:\n    number: \\K.\n    x: an image."),
    ],
)
def test_docstrings_become_restructured_text(docstring, wanted):
    assert reference.restructured(docstring, "eenotes.exits") == wanted


def test_markup_of_docstrings_is_closed():
    left = {name.full: reference.MARKUP.sub("", name.docstring) for name in NAMES.values()}
    odd = [full for full, text in left.items() if "`" in text or "$" in text]
    assert not odd, "an odd number of backticks or dollars"
