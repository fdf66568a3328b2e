"""Scale, settings, records and where they come from."""

import ast
import json
import textwrap
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from eenotes_book import _gone, cache, records, settings
from eenotes_book import scale as book_scale

CHAPTER, STUDY = "02-e2cm", "eenotes.studies.chapter2"


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_RESULTS", str(tmp_path))
    monkeypatch.setenv("EENOTES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EENOTES_SCALE", "tiny")
    return tmp_path


def record() -> records.Record:
    found = records.Record(
        CHAPTER, study=STUDY, data={"digits": {"train": 3, "val": 1, "test": 2}}, seeds=[0, 1]
    )
    found.claim(
        "early is cheap", thesis="≈.88 at .36 (figure)", ours=0.91234567, spread=0.01, holds=True
    )
    found.claim("late is dear", thesis="not stated", ours="two stages", holds=None)
    return found


def test_scale_is_tiny_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv("EENOTES_SCALE", raising=False)
    assert book_scale.current() == "tiny"
    monkeypatch.setenv("EENOTES_SCALE", "huge")
    with pytest.raises(ValueError, match="tiny, reduced, full"):
        book_scale.current()


@pytest.mark.parametrize("gpu, wanted", [(True, "reduced"), (False, "tiny")])
def test_the_device_chooses_a_scale_that_nobody_has_set(monkeypatch, gpu, wanted):
    monkeypatch.setenv("EENOTES_SCALE", "")  # as good as not set; and put back after the test
    monkeypatch.setattr(_gone.torch.cuda, "is_available", lambda: gpu)
    assert book_scale.choose().startswith(
        f"Scale {wanted}, because this machine has {'a' if gpu else 'no'} GPU"
    )
    assert book_scale.current() == wanted
    # run twice, it changes nothing
    assert book_scale.choose().startswith(f"Scale {wanted}, as EENOTES_SCALE says")


def test_the_device_does_not_overrule_the_reader(monkeypatch):
    monkeypatch.setattr(_gone.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("EENOTES_SCALE", "tiny")
    assert book_scale.choose().startswith("Scale tiny, as EENOTES_SCALE says")
    monkeypatch.setenv("EENOTES_SCALE", "huge")
    with pytest.raises(ValueError, match="tiny, reduced, full"):
        book_scale.choose()


@pytest.mark.parametrize("chapter", ["01-why-leave-early", "02-e2cm"])
@pytest.mark.parametrize("scale", book_scale.SCALES)
def test_every_chapter_has_settings_at_every_scale(chapter, scale):
    assert vars(settings.load(chapter, scale))


def test_unknown_settings_say_what_there_is():
    with pytest.raises(ValueError, match=r"no section 99-none\.tiny; it has .*02-e2cm\.tiny"):
        settings.load("99-none", "tiny")


def test_a_record_carries_its_provenance_and_is_current_until_the_code_changes(
    results, monkeypatch
):
    path = record().save()
    assert path == results / "tiny" / f"{CHAPTER}.json" and not list(results.rglob("*.partial"))
    found = records.load(CHAPTER, "tiny")
    assert found["current"] and found["seeds"] == [0, 1] and found["data"]["digits"]["test"] == 2
    assert set(found["versions"]) == {"python", "torch", "torchvision", "numpy"} and found["device"]
    assert found["claims"][0]["ours"] == 0.9123  # four digits
    monkeypatch.setattr(_gone, "study_hash", lambda study: "another")
    assert not records.load(CHAPTER, "tiny")["current"]
    assert "an earlier version of the code" in records.describe_record(
        records.load(CHAPTER, "tiny")
    )


def test_a_record_is_described_by_what_is_shown_of_it():
    whole = {
        "data": {"a": {"train": 5}, "b": {"train": 7}},
        "seeds": [0, 1, 2],
        "device": "CPU",
        "recorded": "2026-01-01",
        "current": True,
    }
    assert records.describe_record(whole) == "a (5 train); b (7 train); 3 seeds; CPU; 2026-01-01"
    part = {"b": [{"counts": {"train": 7}}, {"counts": {"train": 7}}]}
    assert records.describe_record(whole, groups=part) == "b (7 train); 2 seeds; CPU; 2026-01-01"


def test_a_record_that_is_missing_is_none_and_a_damaged_one_is_said(results):
    assert records.load(CHAPTER, "tiny") is None
    path = record().save()
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="damaged"):
        records.load(CHAPTER, "tiny")


def test_the_table_of_claims_shows_number_spread_and_verdict(results):
    table = record().table()
    assert table["ours"].tolist() == ["0.9123 ± 0.01", "two stages"]
    assert table["here"].tolist() == ["holds", "not testable here"]


def test_comments_and_docstrings_do_not_change_a_hash():
    def meaning(source: str) -> str:
        return _gone._meaning(ast.parse(source))

    plain = "def f(x):\n    return x + 1\n"
    said = '"""A module."""\n\ndef f(x):\n    """Another."""\n    # why\n    return x   +   1\n'
    assert meaning(said) == meaning(plain)
    assert meaning("def f(x):\n    return x + 2\n") != meaning(plain)
    assert meaning("x = 'a'") != meaning("x = 'b'")
    assert meaning("x = None") != meaning("x = []")
    assert meaning("f(*x)") != meaning("f(x)")


def test_a_hash_is_the_same_for_every_python():
    """Spelled out, because only one Python runs here: newer ones add empty fields and print
    f-strings differently.
    """
    tree = ast.parse("def f(x):\n    return f'{x:.2f} {x[\"a\"]}'\n")
    text = _gone._meaning(tree)
    assert text == (
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='x')]),body=[Return(value=JoinedStr(values=["
        "FormattedValue(value=Name(id='x',ctx=Load()),conversion=-1,format_spec=JoinedStr(values=[Constant(value='.2f')])),"
        "Constant(value=' '),FormattedValue(value=Subscript(value=Name(id='x',ctx=Load()),slice=Constant(value='a'),ctx=Load()),"
        "conversion=-1)]))])])"
    )


def test_imported_by_follows_imports_and_leaves_out_what_only_draws():
    found = _gone.imported_by(STUDY)
    assert {
        "eenotes.e2cm",
        "eenotes.means",
        "eenotes.rules",
        "eenotes.models.resnet",
        STUDY,
    } <= set(found)
    assert not {"eenotes.plots", "eenotes.experiment"} & set(found)


PACKAGE = {
    "studies/mine.py": """
        from eenotes import parts
        from eenotes.studies import half, other
        CHAPTER = "01-mine"
        def study():
            return parts.used() + half.also() + other.borrowed()
    """,
    "studies/half.py": "def also(): pass\ndef shown_in_the_notebook(): pass",
    "studies/other.py": "CHAPTER = '02-other'\ndef borrowed(): pass\ndef its_own(): pass",
    "parts.py": """
        import math
        from typing import TYPE_CHECKING
        from eenotes.tools import help_out as helper
        if TYPE_CHECKING:
            from eenotes.tools import never
        TABLE = {}
        TABLE["set"] = "on import"
        def used(): return helper() + math.pi
        def idle(): return TABLE
    """,
    "tools.py": "import math\nLIMIT = 3\ndef help_out(): return LIMIT\ndef never(): pass",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of one study, made of two modules, which borrows from another."""
    for name, source in PACKAGE.items():
        path = tmp_path / "eenotes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    monkeypatch.setattr(_gone, "_PACKAGE", tmp_path / "eenotes")
    return tmp_path / "eenotes"


def test_a_study_reaches_what_its_code_names(package):
    found = {name for _, names, _ in _gone.reached_by("eenotes.studies.mine") for name in names}
    assert {
        "study",
        "used",
        "helper",
        "help_out",
        "LIMIT",
        "also",
        "shown_in_the_notebook",
        "borrowed",
        "TABLE",
    } <= found
    assert not {"idle", "never", "its_own", "TYPE_CHECKING"} & found


@pytest.mark.parametrize(
    "file, before, after, changed",
    [
        ("tools.py", "LIMIT = 3", "LIMIT = 4", True),
        ("parts.py", '"on import"', '"at once"', True),
        ("studies/half.py", "notebook(): pass", "notebook(): return 1", True),
        ("parts.py", "import math", "import cmath as math", True),
        ("tools.py", "import math", "import cmath as math", False),
        ("tools.py", "never(): pass", "never(): return 1", False),
        ("parts.py", "idle(): return TABLE", "idle(): return 1", False),
        ("studies/other.py", "its_own(): pass", "its_own(): return 1", False),
        (
            "tools.py",
            "def help_out(): return LIMIT",
            "def help_out():\n    # why\n    return LIMIT",
            False,
        ),
    ],
)
def test_a_record_is_out_of_date_only_by_what_its_study_reaches(
    package, file, before, after, changed
):
    def now():
        _gone.study_hash.cache_clear()
        return _gone.study_hash("eenotes.studies.mine")

    earlier, path = now(), package / file
    path.write_text(path.read_text().replace(before, after))
    assert path.read_text().count(after) == 1
    assert (now() != earlier) == changed


def test_a_step_is_computed_once_per_state_of_code_and_facts(results, monkeypatch):
    calls = []

    def step():
        calls.append(1)
        return {"value": 7}

    for _ in range(2):
        assert cache.step("step", step, study=STUDY, seed=0)["value"] == 7
    assert len(calls) == 1
    cache.step("step", step, study=STUDY, seed=1)
    assert len(calls) == 2
    monkeypatch.setattr(_gone, "study_hash", lambda study: "another")
    cache.step("step", step, study=STUDY, seed=0)
    assert len(calls) == 3


@pytest.mark.parametrize("fact", [torch.zeros(2), lambda: 1, partial(max, 1), {1, 2}])
def test_facts_that_cannot_be_told_apart_are_refused(results, fact):
    with pytest.raises(TypeError, match="a fact must be a number"):
        cache.network("net", seed=0, data=fact)
    with pytest.raises(TypeError, match="a fact must be a number"):
        cache.step("step", dict, study="eenotes.studies.e2cm", recipe=SimpleNamespace(data=fact))


def test_a_step_that_was_cut_off_while_writing_is_computed_again(results):
    cache.step("step", lambda: {"value": 1}, study=STUDY)
    (file,) = (results / "cache" / "steps").glob("*.json")
    file.write_text('{"value": ')
    assert cache.step("step", lambda: {"value": 2}, study=STUDY)["value"] == 2


def test_committed_records_are_whole():
    for path in (_gone._PACKAGE / "assets" / "results").rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["claims"] and found["seeds"] and found["data"] and found["device"], path
