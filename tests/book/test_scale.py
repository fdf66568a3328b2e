"""Scale and settings: what a chapter computes with."""

import dataclasses

import pytest
import torch

from eenotes_book import scale, settings
from eenotes_book.chapters import FOLDERS

SECTIONS = [(chapter, at) for chapter in FOLDERS for at in settings.tables(chapter)]


def test_scale_is_tiny_unless_another_is_set(monkeypatch):
    monkeypatch.delenv("EENOTES_SCALE", raising=False)
    assert scale.current() == "tiny"
    monkeypatch.setenv("EENOTES_SCALE", "huge")
    for look in (scale.current, scale.choose):
        with pytest.raises(ValueError, match="tiny, reduced, full"):
            look()


@pytest.mark.parametrize("gpu, wanted", [(True, "reduced"), (False, "tiny")])
def test_the_device_chooses_a_scale_that_is_not_set(monkeypatch, gpu, wanted):
    monkeypatch.setenv("EENOTES_SCALE", "")  # as good as not set; and put back after the test
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    reason = f"because this machine has {'a' if gpu else 'no'} GPU"
    assert scale.choose().startswith(f"Scale {wanted}, {reason}")
    assert scale.current() == wanted
    assert scale.choose().startswith(f"Scale {wanted}, as EENOTES_SCALE says")  # a second time


# --- settings


@pytest.mark.parametrize("chapter, at", SECTIONS)
def test_every_section_of_every_chapter_loads_typed(chapter, at):
    assert dataclasses.is_dataclass(settings.load(chapter, at))


def test_every_chapter_has_every_scale():
    assert {(chapter, at) for chapter in FOLDERS for at in scale.SCALES} <= set(SECTIONS)


def test_an_unknown_chapter_or_section_is_an_error_that_lists_what_there_is():
    with pytest.raises(ValueError, match=r"no chapter '99-none'; there are .*02-e2cm"):
        settings.load("99-none", "tiny")
    with pytest.raises(ValueError, match=r"no section 'huge'; it has .*tiny"):
        settings.load("02-e2cm", "huge")


@dataclasses.dataclass(frozen=True)
class Part:
    depth: int


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float
    names: list[str]
    part: Part
    parts: dict[str, Part] = dataclasses.field(default_factory=dict)
    limit: int | None = None


GOOD = {"rate": 1, "names": ["a"], "part": {"depth": 2}, "parts": {"x": {"depth": 3}}}


@pytest.fixture
def read(monkeypatch):
    """``read(table)``: the settings that a file with this one section gives."""
    module = type("Module", (), {"Settings": Settings})
    monkeypatch.setattr(settings, "import_module", lambda name: module)

    def load(table: dict):
        monkeypatch.setattr(settings, "tables", lambda chapter: {"tiny": table})
        return settings.load("02-e2cm", "tiny")

    return load


def test_a_table_becomes_the_dataclass(read):
    found = read(GOOD)
    assert (found.rate, found.part, found.parts) == (1, Part(2), {"x": Part(3)})
    assert isinstance(found.rate, int), "as written: a record is tied to it"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"speed": 3}, r"unknown \['speed'\]"),
        ({"rate": None}, r"missing \['rate'\]"),
        ({"rate": "fast"}, "rate must be of type float, got 'fast'"),
        ({"rate": True}, "rate must be of type float, got True"),
        ({"limit": 1.5}, "limit must be of type int, got 1.5"),
        ({"names": "a"}, "names must be of type list, got 'a'"),
        ({"names": [1]}, "names.0 must be of type str, got 1"),
        ({"part": 3}, "part must be a table, got 3"),
        ({"part": {"depth": 2.5}}, "part, depth must be of type int, got 2.5"),
        ({"parts": {"x": {}}}, r"parts.x: missing \['depth'\]"),
    ],
)
def test_settings_that_do_not_fit_are_refused(read, change, message):
    table = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        read(table)
