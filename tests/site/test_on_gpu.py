"""The run on a borrowed GPU, tried on a processor; and what is estimated without one."""

import json
import time

import chapters
import on_gpu
import on_t4
import pytest


def record(device, **numbers):
    claims = [{"statement": name, "ours": value} for name, value in numbers.items()]
    return {"device": device, "claims": claims}


def test_numbers_are_compared_claim_by_claim():
    """Within .03, or 3 % of a number above one; what is no number, or new, is not compared."""
    there = record("CPU", same=0.5, near=0.52, far=0.5, big=100.0, word="yes", gone=1.0)
    here = record("GPU", same=0.5, near=0.5, far=0.6, big=102.0, word="yes", new=0.0)
    found = on_gpu.compared(here, there)
    assert found["there"] == "CPU" and found["compared"] == 4
    assert found["beyond"] == [{"statement": "far", "there": 0.5, "here": 0.6}]


@pytest.fixture
def book(monkeypatch, tmp_path):
    """Chapters whose execution writes a record: one agrees, one differs, one fails."""
    monkeypatch.setattr(chapters, "BUILD", tmp_path / "build")
    monkeypatch.setattr(chapters, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(chapters, "chapters", lambda: ["01-a", "02-b", "03-c", "04-d"])
    monkeypatch.setattr(chapters, "select", lambda wanted: chapters.chapters())
    monkeypatch.setenv("EENOTES_RESULTS", "")
    error = {"output_type": "error", "ename": "FileNotFoundError", "evalue": "no CIFAR-10\nmore"}
    failed = {"cells": [{"outputs": []}, {"outputs": [error]}]}
    numbers = {"01-a": 0.5, "02-b": 0.7, "04-d": 0.1}

    def execute(name, scale):
        if name not in numbers:
            chapters.write_json(chapters.BUILD / "failed" / scale / f"{name}.ipynb", failed)
            return False
        chapters.write_json(chapters.record_of(name, scale), record("GPU", x=numbers[name]))
        return True

    monkeypatch.setattr(chapters, "execute", execute)
    for name in ("01-a", "02-b"):
        path = chapters.RECORDS / "reduced" / f"{name}.json"
        chapters.write_json(path, record("CPU", x=0.5))


def test_one_run_says_what_agrees_and_what_was_not_possible(book, capsys):
    assert on_gpu.main(["--no-times"]) == 1
    found = json.loads((chapters.BUILD / "on_gpu.json").read_text())
    assert found["chapters"]["01-a"]["beyond"] == []
    assert found["chapters"]["02-b"]["beyond"][0]["here"] == 0.7
    assert found["cannot"][-2:] == [
        "03-c: failed: FileNotFoundError: no CIFAR-10",
        "04-d: not compared: there is no committed record at reduced",
    ]
    assert "no CIFAR-10" in capsys.readouterr().out


def test_no_chapter_is_begun_when_the_time_is_over(book):
    found = on_gpu.every_chapter(["01-a"], "reduced", until=time.monotonic() + 5)
    assert found == {"01-a": {"not run": "no time was left"}}


@pytest.mark.slow
def test_times_are_measured_on_this_device(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(on_gpu, "SIZES", (1, 8))
    found = on_gpu.inference(depth=8, rounds=1, images=64)
    assert set(found) == {"1", "8"}
    assert all(0 < ms < 1000 for times in found.values() for ms in times.values())
    tokens = on_gpu.decoding(width=64, layers=2, new=4, rounds=1)
    assert set(tokens) == {"greedy", "early exit", "self-speculative"} and min(tokens.values()) > 0


def test_the_first_page_tells_estimates_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(on_t4, "KEPT", tmp_path / "t4.json")
    name = chapters.chapters()[1]
    found = {"seconds": 150.0, "memory": 2.34e9, "steps": 1234.0, "macs": 5.6e13}
    chapters.write_json(on_t4.KEPT, {name: found})
    page = on_t4.fill(f"before\n{on_t4.MARKER}\nafter")
    assert "**an estimate, nothing of this was measured**" in page
    assert f"| [2]({name}.ipynb) | 2 min | 2.3 GB | 1,234 | 56.0·10¹² |" in page
    with pytest.raises(ValueError, match="exactly one line"):
        on_t4.fill("nothing")


def test_every_chapter_was_estimated_without_complaint():
    found = json.loads(on_t4.KEPT.read_text(encoding="utf-8"))
    assert set(found) <= set(chapters.chapters())
    assert not [said for estimate in found.values() for said in estimate["said"]]
