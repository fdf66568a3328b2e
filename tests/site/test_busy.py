"""The chapter that takes longest, on a machine that has other things to do: ``make busy``."""

import os
import subprocess
import sys

import chapters
import pytest
import seconds

pytestmark = [pytest.mark.slow, pytest.mark.busy]


@pytest.fixture
def busy():
    """A loop without end on each core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


def cores() -> int:
    return os.cpu_count() or 1


def slowest() -> str:
    """By what is kept of earlier builds; else the one with most code."""
    names = chapters.chapters()
    known = {name: max(seconds._of(name, seconds.kept()), default=0) for name in names}
    if any(known.values()):
        return max(known, key=known.get)
    return max(names, key=lambda name: (chapters.BOOK / f"{name}.ipynb").stat().st_size)


def test_the_slowest_chapter_runs_beside_a_busy_loop_on_each_core(busy, tmp_path, monkeypatch):
    """From nothing trained, on one thread: so it takes more of the clock than of a processor."""
    monkeypatch.setattr(chapters, "BUILD", tmp_path)
    monkeypatch.setattr(chapters, "ROOT", tmp_path.parent)
    monkeypatch.setattr(chapters, "chapter_key", lambda chapter, scale: "key")
    monkeypatch.setenv("EENOTES_RESULTS", str(tmp_path / "results"))
    name = slowest()
    assert chapters.execute(name, "tiny")
    assert 0 < chapters.stamp(name, "tiny")["processor"] < chapters.stamp(name, "tiny")["seconds"]
