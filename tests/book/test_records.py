"""Records and probes: what is written, and what makes a record out of date."""

import json
import sys
import textwrap
from importlib import import_module

import pytest

from eenotes_book import chapters, probes, records
from eenotes_book.statistics import Gate

CHAPTER = "99-made-up"

# A chapter in miniature: its experiment is the mean of a few seeded numbers, scaled.
FILES = {
    "__init__": "REVISION = 1",
    "experiment": """
        import torch

        def numbers(rows=4, seed=0):
            return torch.rand(rows, generator=torch.Generator().manual_seed(seed)).double()

        def scaled(x, factor=2.0):
            return factor * x.cumsum(0)
    """,
    "probe": """
        from eenotes_book.ch99_made_up import experiment

        def probe():
            x = experiment.numbers()
            return {"scaled": experiment.scaled(x), "mean": x.mean()}
    """,
}


class Chapter:
    """A chapter's folder that a test can edit."""

    def __init__(self, folder):
        self.folder = folder
        for name, source in FILES.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(source))
        (folder / "settings.toml").write_text("[tiny]\nrows = 2\n[study]\nrows = 4\n")

    def edit(self, name: str, before: str, after: str) -> None:
        path = self.folder / name
        assert path.read_text().count(before) >= 1
        path.write_text(path.read_text().replace(before, after))
        self.forget()

    def forget(self) -> None:
        for name in [name for name in sys.modules if ".ch99_made_up" in name]:
            del sys.modules[name]

    def probe(self) -> dict:
        """The numbers of the present code."""
        self.forget()
        return probes.run(CHAPTER)


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A chapter of its own, whose record and ``probe.json`` are those of the present code."""
    import eenotes_book

    folder = tmp_path / "ch99_made_up"
    folder.mkdir()
    monkeypatch.setattr(eenotes_book, "__path__", [*eenotes_book.__path__, str(tmp_path)])
    monkeypatch.setitem(chapters.FOLDERS, CHAPTER, "ch99_made_up")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("EENOTES_RESULTS", str(tmp_path / "records"))
    monkeypatch.setenv("EENOTES_SCALE", "tiny")
    made = Chapter(folder)
    (folder / "probe.json").write_text(json.dumps(made.probe()))
    yield made
    made.forget()


def record(at: str = "study") -> records.Record:
    found = records.Record(CHAPTER, data={"digits": {"train": 3}}, seeds=range(5), at=at)
    values = [0.91, 0.92, 0.93, 0.92, 0.9123456]
    found.claim("early is cheap", thesis=".46", thesis_value=0.46, values=values, where="curve")
    closed = Gate("at least nine networks", passed=False)
    found.claim("late is dear", thesis="not stated", values=[1.0], gate=closed, where="curve")
    found.check("parts add up", values=[0.0], holds=True, where="curve")
    found.number("networks", thesis="2", values=[3.0], where="curve")
    return found


def test_a_record_has_its_claims_with_verdicts_and_its_provenance(chapter, tmp_path):
    path = record().save()
    assert path == tmp_path / "records" / "study" / f"{CHAPTER}.json"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    found = records.load(CHAPTER, "study")
    assert found["current"] and found["seeds"] == [0, 1, 2, 3, 4] and found["device"]
    assert set(found["versions"]) == {"python", "torch", "torchvision", "numpy"}
    assert set(found["made_by"]) == {"settings", "revision", "commit", "probe"}
    claim, closed, check, number = found["claims"]
    assert (claim["kind"], claim["verdict"], claim["n"]) == ("claim", "holds", 5)
    assert (claim["ours"], claim["ratio"]) == (0.9185, 1.997), "four digits"
    assert 0 < claim["low"] < claim["ours"] < claim["high"]
    assert closed["verdict"] == "not testable here" and "nine networks" in closed["reason"]
    assert (check["kind"], number["kind"]) == ("check", "number")


def test_the_table_shows_claims_and_numbers(chapter):
    table = record().table()
    assert table["claim"].tolist() == ["early is cheap", "late is dear", "networks"]
    assert table["ours"][0] == "0.9185 ± 0.0079"
    assert table["verdict"].tolist() == ["holds", "not testable here", ""]


def test_a_record_is_described_by_what_is_shown_of_it():
    whole = {"data": {"a": {"train": 5}, "b": {"train": 7}}, "seeds": [0, 1, 2]}
    whole |= {"device": "CPU", "recorded": "2026-01-01", "current": True}
    assert records.describe_record(whole) == "a (5 train); b (7 train); 3 seeds; CPU; 2026-01-01"
    part = {"b": [{"counts": {"train": 7}}, {"counts": {"train": 7}}]}
    assert records.describe_record(whole, groups=part) == "b (7 train); 2 seeds; CPU; 2026-01-01"


def test_a_missing_record_is_none_one_without_provenance_old_and_a_damaged_one_an_error(chapter):
    assert records.load(CHAPTER, "study") is None
    path = record().save()
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["made_by"]
    path.write_text(json.dumps(content))
    assert not records.load(CHAPTER, "study")["current"]
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="damaged"):
        records.load(CHAPTER, "study")


# --- current or out of date

CUMSUM = "return factor * x.cumsum(0)"
CHECKED = f"if not len(x):\n        raise ValueError('no rows')\n    {CUMSUM}"


@pytest.mark.parametrize(
    "file, before, after",
    [
        ("experiment.py", "scaled", "stretched"),  # a rename; the probe follows
        ("experiment.py", CUMSUM, "y = x.cumsum(0)\n    return y.mul_(factor)"),  # another path
        ("experiment.py", CUMSUM, CHECKED),
        ("experiment.py", "import torch", "import torch\n\nUNUSED = 3"),
        ("probe.py", "import experiment", "import compute as experiment"),  # another module
    ],
)
def test_what_keeps_the_behaviour_keeps_a_record_current(chapter, file, before, after):
    record().save()
    if "compute" in after:
        (chapter.folder / "experiment.py").rename(chapter.folder / "compute.py")
    chapter.edit(file, before, after)
    if before == "scaled":
        chapter.edit("probe.py", "experiment.scaled", "experiment.stretched")
    assert not probes.moved(probes.stored(CHAPTER), chapter.probe())
    assert records.load(CHAPTER, "study")["current"]


@pytest.mark.parametrize(
    "before, after",
    [
        (CUMSUM, "return factor * x.cumsum(0) + 0.01"),  # a formula
        ("seed=0", "seed=1"),
        ("factor=2.0", "factor=2.01"),  # a default
        ("x.cumsum(0)", "x.flip(0).cumsum(0)"),  # the order of the data
        ("x.cumsum(0)", "x.cumsum(0)[:3]"),
    ],
)
def test_what_changes_the_behaviour_moves_the_probe(chapter, before, after):
    record().save()
    chapter.edit("experiment.py", before, after)
    now = chapter.probe()
    moved = probes.moved(probes.stored(CHAPTER), now)
    assert any(sentence.startswith("scaled") for sentence in moved)
    probes.path_of(CHAPTER).write_text(json.dumps(now))  # it was meant: then the record is old
    found = records.load(CHAPTER, "study")
    assert not found["current"] and found["outdated"] == moved
    assert "an earlier version of the code" in records.describe_record(found)


@pytest.mark.parametrize(
    "file, before, after, reason",
    [
        ("settings.toml", "rows = 4", "rows = 5", "other settings"),
        ("settings.toml", "rows = 2", "rows = 3", None),  # those of another scale
        ("__init__.py", "REVISION = 1", "REVISION = 2", "revision 1"),
    ],
)
def test_other_settings_or_another_revision_make_a_record_old(chapter, file, before, after, reason):
    record().save()
    chapter.edit(file, before, after)
    found = records.load(CHAPTER, "study")
    assert found["current"] == (reason is None)
    assert reason is None or reason in found["outdated"][0]


def test_moved_says_what_moved_and_ignores_what_rounding_does():
    before = {"a": [1.0, 2.0], "b": [0.0], "c": [1.0]}
    assert not probes.moved(before, {"a": [1.0, 2.0 + 1e-5], "b": [1e-6], "c": [1.0]})
    assert probes.moved(before, {"a": [1.0, 2.1], "b": [0.0, 1.0], "d": [1.0]}) == [
        "a[1] is 2.1 instead of 2",
        "b has 2 numbers instead of 1",
        "c is only in one of them",
        "d is only in one of them",
    ]


def test_a_probe_whose_numbers_are_not_finite_is_an_error(chapter):
    chapter.edit("experiment.py", "factor=2.0", "factor=float('nan')")
    with pytest.raises(ValueError, match="not finite: scaled"):
        chapter.probe()


# --- the real ones


@pytest.mark.slow
@pytest.mark.parametrize("name", chapters.FOLDERS)
def test_the_present_code_gives_the_numbers_of_the_probe(name):
    assert not probes.moved(probes.stored(name), probes.run(name))


def test_committed_records_are_whole():
    paths = list(records.results_folder().glob("*/*.json"))
    assert paths
    for path in paths:
        found = records.read(path)
        assert found["claims"] and found["seeds"] and found["data"] and found["device"], path
        assert import_module(f"eenotes_book.{chapters.folder(found['chapter'])}")
