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
        here, tiny = (_training(settings.tables(chapter)[at]) for at in (scale, "tiny"))
        assert here == tiny, f"{chapter} trains otherwise than at tiny: it needs a miniature"
        pytest.skip("what this chapter trains, it trains at tiny, too")
    miniature.CHAPTERS[FOLDERS[chapter]](miniature.few(found))


def _training(table):
    """The settings of training, wherever they stand."""
    parts = [_training(value) for value in table.values() if isinstance(value, dict)]
    return [table[name] for name in ("train", "epochs", "batch_size") if name in table] + parts
