"""What was computed once: found again under the same facts, and under no others."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from eenotes.checkpoints import CheckpointWarning
from eenotes_book import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EENOTES_CACHE", str(tmp_path))
    monkeypatch.delenv("EENOTES_STEPS", raising=False)
    return tmp_path


def test_a_step_is_computed_once_per_revision_and_facts():
    calls = []

    def compute():
        calls.append(1)
        return {"value": len(calls)}

    for facts in ({"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 0, "recipe": {"rate": 1}}):
        cache.step("step", compute, revision=1, **facts)
    assert len(calls) == 3
    again = cache.step("step", compute, revision=1, seed=1)
    assert again["value"] == 2 and again["seconds"] >= 0
    assert cache.step("step", compute, revision=2, seed=1)["value"] == 4
    assert cache.kept("step", revision=1, seed=1) == again
    assert cache.kept("step", revision=3, seed=1) is None and len(calls) == 4


def test_a_network_is_named_by_what_it_follows_from(monkeypatch):
    def path(seed, **facts):
        return cache.network("net", seed=seed, **facts)

    paths = {path(seed, rate=rate) for seed in (0, 1) for rate in (0.1, 0.2)}
    assert len(paths) == 4 and path(0, rate=0.1) in paths
    assert path(0, s=SimpleNamespace(a=1)) == path(0, s={"a": 1})
    monkeypatch.setattr(cache, "REVISION", cache.REVISION + 1)
    assert path(0, rate=0.1) not in paths


@pytest.mark.parametrize("fact", [torch.zeros(2), lambda: 1, partial(max, 1), {1, 2}])
def test_facts_that_cannot_be_told_apart_are_refused(fact):
    with pytest.raises(TypeError, match="a fact must be a number"):
        cache.network("net", seed=0, data=fact)
    with pytest.raises(TypeError, match="a fact must be a number"):
        cache.step("step", dict, revision=1, recipe=SimpleNamespace(data=fact))


@pytest.mark.parametrize("content", ['{"value": ', "{}"])
def test_a_damaged_step_is_an_error_that_says_what_to_do(folder, content):
    cache.step("step", lambda: {"value": 1}, revision=1)
    (file,) = (folder / "steps").glob("*.json")
    file.write_text(content)
    with pytest.raises(ValueError, match="damaged.*delete it"):
        cache.step("step", lambda: {"value": 2}, revision=1)


def test_written_whole_or_not_at_all(folder):
    path = cache.write_json(folder / "a" / "b.json", {"x": "ü"})
    assert path.read_text(encoding="utf-8") == '{\n "x": "ü"\n}\n'
    with pytest.raises(ValueError):
        cache.write_json(path, {"x": float("nan")})
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.filterwarnings("error::eenotes.checkpoints.CheckpointWarning")
def test_tensors_are_computed_once(folder):
    calls, path = [], folder / "deep" / "a.safetensors"

    def remembered(of):
        def compute():
            calls.append(1)
            return {"a": torch.tensor([1.0], requires_grad=True) * len(calls)}

        found = cache.remember(path, compute, seeds=(0, 1), of=of)["a"]
        assert not found.requires_grad
        return found.item()

    assert [remembered(torch.zeros(4)) for _ in range(2)] == [1, 1]
    with pytest.warns(CheckpointWarning, match="computed anew: .*of: .* instead of"):
        assert remembered(torch.ones(4)) == 2
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match="damaged"):
        assert remembered(torch.ones(4)) == 3
    assert remembered(torch.ones(4)) == 3
