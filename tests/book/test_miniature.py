"""What cannot be run here at its size is run in miniature: every scale that needs real data."""

import miniature
import pytest

from eenotes_book import settings
from eenotes_book.chapters import FOLDERS


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["reduced", "full"])
@pytest.mark.parametrize("chapter", FOLDERS)
def test_every_section_trains_in_miniature(chapter, scale, monkeypatch, tmp_path):
    miniature.replace_data(monkeypatch, tmp_path)
    found = settings.load(chapter, scale)
    if FOLDERS[chapter] not in miniature.CHAPTERS:
        trains = [name for name in _names(settings.tables(chapter)[scale]) if "epochs" in name]
        assert not trains, f"{chapter} trains: it needs a miniature here"
        pytest.skip("nothing is trained in this chapter")
    miniature.CHAPTERS[FOLDERS[chapter]](miniature.few(found))


def _names(table):
    for name, value in table.items():
        yield name
        if isinstance(value, dict):
            yield from _names(value)
