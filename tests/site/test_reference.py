"""The API pages hold every public name, docstrings say shapes and errors, and equations and
docstrings name each other.
"""

import ast
import re

import chapters
import pages
import pytest
import reference

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
    import eenotes

    text = (chapters.BOOK / "api" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^   (eenotes\.\w+\.\w+)$", text)
    assert sorted(full.rpartition(".")[2] for full in listed) == eenotes.__all__
    assert set(listed) <= set(NAMES)


@pytest.mark.browser
def test_every_public_name_is_on_a_built_page():
    built = list((chapters.HTML / "api").glob("*.html"))
    if not built:
        pytest.skip("there are no built pages: make book")
    ids = set(
        re.findall(
            r'\bid="(eenotes(?:_book)?\.[^"]+)"',
            "\n".join(page.read_text(encoding="utf-8") for page in built),
        )
    )
    documented = {full for full, name in NAMES.items() if name.docstring}
    assert not documented - ids
    # ... and nothing that torch or torchmetrics documents
    assert not [
        full
        for full in ids
        if full.endswith((".register_buffer", ".state_dict", ".full_state_update"))
    ]


# --- shapes and errors


def takes_or_gives_tensors(function: ast.FunctionDef) -> bool:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [*(argument.annotation for argument in every), function.returns]
    return any(
        annotation is not None and re.search(r"\bTensor\b", ast.unparse(annotation))
        for annotation in annotations
    )


def test_functions_of_tensors_say_shapes():
    functions = [name for name in TOP if isinstance(name.node, ast.FunctionDef)]
    silent = [
        name.full
        for name in functions
        if takes_or_gives_tensors(name.node)
        and not re.search(r"``[^`\n]*\([^`\n]*\)``", name.docstring)
    ]
    assert not silent, "these take or give tensors: say their shapes, ``(N, K)``"


def raised(function: ast.AST) -> set[str]:
    """The errors that a function raises itself and does not catch."""
    found, waiting = set(), [(function, frozenset())]
    while waiting:
        node, caught = waiting.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found |= {ast.unparse(node.exc.func)} - caught
        if isinstance(node, ast.Try):
            handled = {
                n.id
                for handler in node.handlers
                if handler.type
                for n in ast.walk(handler.type)
                if isinstance(n, ast.Name)
            }
            waiting += [(child, caught | handled) for child in node.body]
            waiting += [
                (child, caught) for child in (*node.handlers, *node.orelse, *node.finalbody)
            ]
        else:
            waiting += [(child, caught) for child in ast.iter_child_nodes(node)]
    return found & {"ValueError", "TypeError"}


def raisers(name: reference.Name) -> list[tuple[ast.FunctionDef, str]]:
    """The functions behind a name, each with the docstrings in which its errors can be said."""
    text = name.docstring
    if isinstance(name.node, ast.FunctionDef):
        return [(name.node, text)]
    methods = [m for m in name.node.body if isinstance(m, ast.FunctionDef)]
    # a private one answers to its callers
    asked = [m for m in methods if not m.name.startswith("_") or m.name.startswith("__")]
    return [(m, text + (ast.get_docstring(m) or "")) for m in asked]


def test_errors_are_said():
    silent = [
        f"{name.full} ({function.name}): {error}"
        for name in TOP
        for function, text in raisers(name)
        for error in sorted(raised(function))
        if not re.search(rf"Raises:\n(?:.*\n)*? +{error}:", text)
    ]
    assert not silent


def test_the_search_for_errors_finds_them():
    code = """
def f(x):
    try:
        raise ValueError("caught")
    except (ValueError, OSError):
        pass
    if x:
        for _ in x:
            raise TypeError("said")
    raise RuntimeError("not asked for")
"""
    assert raised(ast.parse(code).body[0]) == {"TypeError"}
    assert raised(ast.parse(code.replace("(ValueError, OSError)", "OSError")).body[0]) == {
        "TypeError",
        "ValueError",
    }


# --- equations


def tagged() -> dict[str, str]:
    """Number → chapter of every equation that a notebook numbers."""
    found = {}
    for chapter in chapters.chapters():
        cells = chapters.read_notebook(chapters.BOOK / f"{chapter}.ipynb")["cells"]
        for number in reference.tags(
            "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        ):
            assert number not in found, f"({number}) twice"
            found[number] = chapter
    return found


def test_every_equation_is_named_where_it_is_computed():
    # which asks more than it computes
    computed = {number for number, chapter in tagged().items() if chapter != "07-open-problems"}
    nobody = [number for number in computed if not reference.computed_by(number)]
    assert len(computed) >= 43 and not nobody, f"no docstring names {nobody}"


def test_every_equation_that_a_docstring_names_exists():
    there = tagged()
    named = {
        name.full: set(reference.numbers(name.docstring)) for name in reference.names().values()
    }
    unknown = {
        full: sorted(numbers - set(there))
        for full, numbers in named.items()
        if numbers - set(there)
    }
    assert not unknown, f"equations that no chapter has: {unknown}"


def test_the_table_has_every_equation_with_its_place_and_its_code():
    equations = pages.equations()
    assert list(equations) == list(tagged())
    table = reference.equation_table(equations)
    for number, chapter in tagged().items():
        (row,) = [line for line in table.splitlines() if f">({number})<" in line]
        assert f'href="{chapter}.html#{pages.equation_id(number)}"' in row
        for name in reference.computed_by(number):
            assert reference.short(name.full) in row
    assert reference.fill(f"a\n{reference.MARKER}\nb", equations) == f"a\n{table}\nb"
    with pytest.raises(ValueError, match="exactly one line"):
        reference.fill("a", equations)
    assert (
        reference.MARKER in (chapters.BOOK / "notation.md").read_text(encoding="utf-8").splitlines()
    )


def test_an_equation_gets_a_place_to_link_to():
    page = pages.for_the_page("Then\n\n$$ a = b $$\n\nand\n\n$$ c\n= d . \\tag{4.2} $$\n\nend")
    assert (
        page
        == 'Then\n\n$$ a = b $$\n\nand\n\n<div class="place" id="equation-4.2"></div>\n\n$$ c\n= d . \\tag{4.2} $$\n\nend'
    )


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


def test_docstrings_become_restructured_text():
    docstring = "Of `split` and `nothing`, $x_1$s and ``(N, K)``.\n\n$$ a\n= b $$\n\nArgs:\n    num_classes: K.\n    x: an image."
    wanted = (
        "Of :py:obj:`split <eenotes.cutting.split>` and ``nothing``, :math:`x_1`\\ s and ``(N, K)``.\n\n.. math:: a = b\n\n"
        "Args:\n    num_classes: \\K.\n    x: an image."
    )
    assert reference.restructured(docstring, "eenotes.exits") == wanted


def test_markup_of_docstrings_is_closed():
    left = {name.full: reference.MARKUP.sub("", name.docstring) for name in NAMES.values()}
    assert not [full for full, text in left.items() if "`" in text or "$" in text], (
        "an odd number of backticks or dollars"
    )
