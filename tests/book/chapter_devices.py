"""The chapters in miniature on a device without double precision, which mixes with no other."""

import miniature
import on_t4
import pytest
import standin_device
import torch
from torch.utils.data import TensorDataset

from eenotes import training
from eenotes_book import settings
from eenotes_book.chapters import FOLDERS

standin_device.register()
CHAPTERS = [name for name, folder in FOLDERS.items() if folder in miniature.CHAPTERS]


@pytest.fixture
def device(monkeypatch, tmp_path):
    miniature.replace_data(monkeypatch, tmp_path)
    with standin_device.as_accelerator() as device:
        yield device


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_trains_and_evaluates_on_the_device(chapter, device):
    miniature.CHAPTERS[FOLDERS[chapter]](miniature.few(settings.load(chapter, "reduced")))


@pytest.fixture
def watch(device, monkeypatch):
    """What is estimated for a T4; training is shortened."""
    watch = on_t4.Watch()
    monkeypatch.setattr(standin_device, "WATCHERS", [watch])
    for name in ("fit", "_step", "progress_bar", "deque"):
        monkeypatch.setattr(training, name, getattr(training, name))
    on_t4.shorten_training(watch)
    return watch


def test_an_operation_takes_as_long_as_its_arithmetic_its_traffic_or_its_start(watch, device):
    x = torch.zeros(1000, 2000, device=device)
    watch.counts = on_t4.Counts()
    x.T, x[0], x.view(-1)
    assert watch.counts == on_t4.Counts(), "views are free"
    y = x @ x.T
    seconds, moved = 2 * 2e9 / on_t4.FLOPS, 4 * (2 * 2e6 + 1e6)
    assert watch.counts.macs == 2e9 and watch.counts.bytes == moved
    assert watch.counts.seconds == pytest.approx(seconds)
    y.add_(1)
    assert watch.counts.seconds == pytest.approx(seconds + 8e6 / on_t4.BYTES)
    y[0, 0].neg()
    assert watch.counts.seconds == pytest.approx(seconds + 8e6 / on_t4.BYTES + on_t4.START)
    most = watch.most
    del x, y
    assert most >= 8e6 + 4e6 and watch.memory <= most - 12e6


def test_of_a_training_two_steps_run_and_the_others_count_as_the_second(watch, device):
    """Four epochs of five steps.  A step: 40 MACs forward and for the weights, 10 samples."""
    data = TensorDataset(torch.randn(50, 4), torch.arange(50) % 10)
    calls = []

    def loss(net, batch):
        calls.append(1)
        return training.classification_loss(net, batch)

    options = {"loss": loss, "epochs": 4, "batch_size": 10, "augment": lambda x, _: x + 1}
    training.fit(torch.nn.Linear(4, 10), data, **options)
    assert len(calls) == 2 and watch.counts.steps == 20
    assert watch.counts.macs == pytest.approx(20 * 10 * 2 * 40)
