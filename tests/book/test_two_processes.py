"""Two processes train the networks of every chapter together; a chapter as a whole runs in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import miniature
import pytest

from eenotes_book import settings
from eenotes_book.chapters import FOLDERS


@pytest.mark.slow
def test_two_processes_train_the_networks_of_every_chapter_to_the_same_weights(tmp_path):
    here = Path(__file__)
    paths = [*sys.path, here.parent.parent]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    script = [sys.executable, here.with_name("two_processes.py")]
    started = [
        subprocess.Popen([*script, str(rank), tmp_path], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=1200)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    trained = {name for name, folder in FOLDERS.items() if folder in miniature.CHAPTERS}
    assert set(one) == trained and all(one.values()) and one == other


def test_a_chapter_is_not_run_in_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="one process, and WORLD_SIZE is 2: start it alone"):
        settings.load("01-why-leave-early", "tiny")
