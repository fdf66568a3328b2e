"""The wheel that is built from this repository."""

import shutil
import subprocess
import sys
from pathlib import Path

import chapters
import pytest

ROOT = chapters.ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, as pip builds it from a clone: what lies around here stays out of it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("eenotes", "book/eenotes_book"):
        ignored = shutil.ignore_patterns("__pycache__", "tiny")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "-w", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built
