"""Chapters side by side, how far they are, and one source for the seconds that the book tells."""

import os
import threading
from pathlib import Path

import chapters
import pytest
import seconds
import side_by_side


def test_jobs_run_side_by_side_the_longest_first():
    """Two at once: each of the first two waits until the other has begun."""
    begun, meet = [], threading.Barrier(2, timeout=30)

    def job(name, waits):
        def work():
            begun.append(name)
            if waits:
                meet.wait()
            return True

        return work

    jobs = {name: job(name, name in "bc") for name in "abc"}
    assert side_by_side.run(jobs, {"a": 1, "b": 3, "c": 2}, at_once=2)
    assert set(begun[:2]) == {"b", "c"} and begun[2] == "a"


def test_a_job_that_fails_ends_no_other():
    ran = []
    jobs = {name: lambda name=name: ran.append(name) or name != "a" for name in "abc"}
    assert side_by_side.run(jobs, {}, at_once=1) is False and ran == ["a", "b", "c"]


def test_progress_says_what_is_left_at_the_pace_so_far(capsys):
    """A third of the work took a minute, so two are left."""
    side_by_side._say({"a": 10, "b": 20}, ["b"], ["a"], 60.0, 1)
    assert capsys.readouterr().out == "  60 s: 1 of 2 done, about 2 minutes left\n"
    side_by_side._say({"a": 100, "b": 60}, ["a", "b"], [], 30.0, 2)
    assert "0 of 2 done, about 2 minutes in all" in capsys.readouterr().out


def test_a_machine_with_little_memory_runs_fewer(monkeypatch):
    page = side_by_side.os.sysconf("SC_PAGE_SIZE")
    for gigabytes, most in ((1, 1), (4, 2), (64, 4)):
        pages = gigabytes * 2**30 // page
        monkeypatch.setattr(side_by_side.os, "sched_getaffinity", lambda _: range(4), raising=False)
        sizes = {"SC_PAGE_SIZE": page, "SC_PHYS_PAGES": pages}
        monkeypatch.setattr(side_by_side.os, "sysconf", sizes.get)
        assert side_by_side.workers() == most


def test_only_tiny_runs_side_by_side_and_on_one_thread(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(side_by_side, "workers", lambda: 2)
    monkeypatch.setattr(side_by_side, "run", lambda jobs, _, at_once: seen.append(at_once) or True)
    monkeypatch.setattr(chapters, "write_timings", lambda scale: None)
    for scale in ("tiny", "reduced"):
        assert chapters.run(chapters.chapters(), scale, force=True)
    assert seen == [2, 1]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert chapters.environment("tiny", tmp_path)["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in chapters.environment("reduced", tmp_path)


@pytest.fixture
def machines():
    names = chapters.chapters()
    fast = dict(zip(names, range(30, 30 + len(names)), strict=True))
    slow = {name: 4 * s for name, s in fast.items()}
    return [
        seconds.Machine("fast", 2, False, fast, fast),
        seconds.Machine("slow", 2, True, slow, slow),
    ]


def test_every_place_tells_what_was_measured(machines):
    """Each place is there once; it tells both machines, and telling again changes nothing."""
    texts = set()
    for place in seconds.places():
        text = place.path.read_text(encoding="utf-8")
        once = seconds.told(place, text, machines)
        assert place.text(machines) in once and seconds.told(place, once, machines) == once
        texts.add(place.text(machines))
    last = 30 + len(chapters.chapters()) - 1
    assert f"30 to {4 * last} seconds" in texts and "30 to 120 s" in texts
    with pytest.raises(ValueError, match="0 places fit"):
        seconds.told(place, "", machines)


def test_the_places_tell_what_is_kept():
    for place in seconds.places() if seconds.kept() else ():
        text = place.path.read_text(encoding="utf-8")
        assert seconds.told(place, text, seconds.kept()) == text, place.path.name


def test_measuring_executes_all_chapters_cold_and_cached(monkeypatch):
    """Cold: in a folder where nothing is; the second time what the first has trained is there."""
    caches, clock = [], iter(range(1, 100))

    def execute(names, scale, *, force):
        caches.append([chapters.CACHE, sorted(os.listdir(chapters.CACHE))])
        Path(chapters.CACHE, "trained").touch()
        assert (names, scale, force) == (chapters.chapters(), "tiny", True)
        return True

    monkeypatch.setattr(chapters, "run", execute)
    monkeypatch.setattr(chapters, "CACHE", None)
    monkeypatch.setattr(chapters, "stamp", lambda *_: {"seconds": next(clock), "processor": 1})
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 5, 5))
    cold, cached = seconds.measure()
    assert [cold.cached, cached.cached] == [False, True] and list(cold.clock) == chapters.chapters()
    assert max(cold.clock.values()) < min(cached.clock.values())
    assert caches[0][0] == caches[1][0] and [seen for _, seen in caches] == [[], ["trained"]]


def test_nothing_is_measured_beside_other_programs(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1.4, 0, 0))
    with pytest.raises(ValueError, match=r"the load is 1\.4: these would not be"):
        seconds.measure()
