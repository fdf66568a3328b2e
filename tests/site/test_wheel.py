"""The wheel: what is in it, what it requires, and what it does without any extra."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import distribution

import chapters
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = chapters.ROOT


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_has_both_packages_with_their_settings_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {p.relative_to(ROOT).as_posix() for p in chapters.package_files("tiny")}
    wanted = {name.removeprefix("book/") for name in files}
    chapter = "eenotes_book/ch01_leaving"
    assert {f"{chapter}/settings.toml", f"{chapter}/models.csv"} <= wanted
    assert any("/records/study/" in name for name in wanted)
    assert inside == wanted, f"only here {wanted - inside}, only in the wheel {inside - wanted}"


def test_wheel_says_what_it_is(wheel, metadata):
    said = [metadata[key] for key in ("Name", "License-Expression", "License-File")]
    assert said == ["eenotes", "MIT", "LICENSE"] and metadata["Requires-Python"] == ">=3.11"
    addresses = dict(entry.split(", ") for entry in metadata.get_all("Project-URL"))
    assert set(addresses) == {"Source", "Changelog", "Book"}
    assert all(url.startswith("https://") for url in addresses.values())
    assert "# eenotes" in metadata.get_payload()


# --- without extras

EXTRAS = {
    "matplotlib",
    "scikit-learn",
    "seaborn",
    "ipywidgets",
    "ipython",
    "transformers",
    "torch-pruning",
}
BARE = """
import sys

sys.path[:0] = sys.argv[1:]
sys.modules["eenotes_book"] = None  # importing it is an error

import torch
import eenotes
from eenotes import collect, count_macs, predict, split
from eenotes.methods import cbt, e2cm, eeprune, pruning
from eenotes.thresholds import best_within_budget, thresholds_for_budgets

assert eenotes.__file__.startswith(sys.argv[1]), eenotes.__file__
torch.manual_seed(0)
backbone = torch.nn.Sequential(
    torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(64, 3),
).eval()
labels = torch.arange(60) % 3
images = torch.randn(60, 1, 8, 8) + labels[:, None, None, None]
batches = [(images[:30], labels[:30]), (images[30:], labels[30:])]
net = e2cm.fit(split(backbone, at=["1"], example=images[:2]), batches, num_classes=3)
costs = count_macs(net, images[:1])
choices = thresholds_for_budgets(*collect(net, batches), e2cm.rule(net), costs)
chosen = best_within_budget(choices, budget=float(choices.relative_cost.max()))
outcome = predict(net, images, e2cm.rule(net, chosen.thresholds))
assert len(outcome.prediction) == 60
"""


def needed_by(requires: list[str]) -> set[str]:
    """The names of all distributions behind some requirements, extras left out."""
    found, waiting = set(), list(requires)
    while waiting:
        requirement = Requirement(waiting.pop())
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        if name not in found and (marker is None or marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += distribution(name).requires or []
    return found


def test_the_bare_wheel_splits_fits_chooses_and_predicts(wheel, metadata, tmp_path):
    """On a Python that sees the wheel and what it requires, and nothing else that is installed."""
    needed = needed_by(metadata.get_all("Requires-Dist"))
    assert "torch" in needed and not needed & EXTRAS
    seen, package = tmp_path / "seen", tmp_path / "package"
    seen.mkdir()
    for name in needed:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files} - {"..", "bin", "__pycache__"}:
            if not (seen / top).exists():
                (seen / top).symlink_to(installed.locate_file(top))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(package)
    command = [sys.executable, "-I", "-S", "-c", BARE, str(package), str(seen)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
