"""The chapters in miniature on a device without double precision, which mixes with no other."""

import accelerate
import miniature
import pytest
import standin_device
import torch

from eenotes import training
from eenotes_book import settings
from eenotes_book.chapters import FOLDERS

standin_device.register()
CHAPTERS = [name for name, folder in FOLDERS.items() if folder in miniature.CHAPTERS]


class OnCpu:
    """A generator of the CPU, whichever device is asked for."""

    kind = torch.Generator

    def __new__(cls, *_, **__):
        return cls.kind()


@pytest.fixture
def device(monkeypatch, tmp_path):
    """The device, as the one that accelerate has found; its random numbers are the CPU's."""
    miniature.replace_data(monkeypatch, tmp_path)
    monkeypatch.setattr(training, "precision", lambda: "no")
    with standin_device.device() as device:
        state = accelerate.PartialState()
        monkeypatch.setitem(state._shared_state, "device", device)
        monkeypatch.setattr(torch, "Generator", OnCpu)
        assert training.accelerator().device == device
        yield device


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_trains_and_evaluates_on_the_device(chapter, device):
    miniature.CHAPTERS[FOLDERS[chapter]](miniature.few(settings.load(chapter, "reduced")))
