"""The chapters where Colab would run them: no repository around, the package from a wheel,
everything else already there.

What stands in for Colab is a new environment with nothing in it, which sees what is installed here
through a folder of links, all but eenotes.  The real resolver is asked besides what it would
install on the versions that Colab has.  No network anywhere.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import chapters
import nbformat
import newest
import numpy
import pytest
import torch
import torchvision
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = chapters.ROOT
NAMES = chapters.chapters()
KEPT = ("torch", "torchvision", "numpy")
QUICK = "02-e2cm"  # the whole chapter that is run
TRAINS = "01-why-leave-early"  # the chapter that is cut off while it trains
TRAINING = r"networks\.train_or_load\("  # in this cell
NOWHERE = "http://127.0.0.1:9"

# What Colab has of what the package needs; the rest it lacks.
COLAB = newest.pins((ROOT / "constraints-colab.txt").read_text(encoding="utf-8"))


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


def code_cells(name: str, up_to: str | None = None) -> list[str]:
    """A chapter's code cells, up to the first one that matches."""
    cells = chapters.read_notebook(chapters.BOOK / f"{name}.ipynb")["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    if up_to is None:
        return code
    return code[: next(i for i, source in enumerate(code) if re.search(up_to, source)) + 1]


def new_environment(folder: Path) -> Path:
    """An environment with nothing in it; its folder of packages."""
    assert run(sys.executable, "-m", "venv", "--without-pip", folder).returncode == 0
    (packages,) = folder.glob("lib/python3.*/site-packages")
    return packages


# --- what pip would do in Colab


def install_arguments(name: str, wheel: Path, installed: dict[str, str]) -> list[str]:
    """The first cell's `%pip install ...`, with the wheel in the place of the repository."""
    (line,) = re.findall(r"%pip install (.*)", code_cells(name)[0])
    before, requirement = re.fullmatch(r'(.*\{kept\}) "(.*) @ git\+https://\S+"', line).groups()
    kept = " ".join(f"{package}=={installed[package]}" for package in KEPT)
    return [*before.replace("{kept}", kept).split(), f"{requirement} @ {wheel.as_uri()}"]


def metadata(name: str, version: str) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def machine(tmp_path):
    """``machine(installed, *arguments)``: what pip would install where these versions are, and all
    else there is to have is newer.

    Both are packages without content: pip reads of them what it would read of the real ones, names
    and versions.
    """
    links, home, report = tmp_path / "links", tmp_path / "machine", tmp_path / "report.json"
    links.mkdir()
    for name in [*COLAB, "torchmetrics", "torch-pruning"]:
        stem = f"{name.replace('-', '_')}-99.0"
        with zipfile.ZipFile(links / f"{stem}-py3-none-any.whl", "w") as archive:
            files = {"METADATA": metadata(name, "99.0"), "WHEEL": WHEEL, "RECORD": ""}
            for file, content in files.items():
                archive.writestr(f"{stem}.dist-info/{file}", content)
    pip = [sys.executable, "-m", "pip", "--python", home / "bin" / "python"]
    pip += ["--disable-pip-version-check", "install", "--dry-run", "--report", report]
    pip += ["--no-index", "--find-links", links]

    def ask(installed: dict[str, str], *arguments: str) -> tuple[dict[str, str], str]:
        packages = new_environment(home)
        for name, version in installed.items():
            info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(metadata(name, version))
        done = run(*pip, *arguments)
        if done.returncode != 0:
            return {}, done.stderr
        found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
        return {canonicalize_name(entry["name"]): entry["version"] for entry in found}, done.stderr

    return ask


def test_pip_adds_in_colab_what_is_missing_and_changes_nothing(machine, wheel):
    found, _ = machine(COLAB, *install_arguments(QUICK, wheel, COLAB))
    assert found == {"eenotes": found["eenotes"], "torchmetrics": "99.0", "torch-pruning": "99.0"}


def test_pip_renews_only_what_is_too_old(machine, wheel):
    older = COLAB | {"transformers": "4.57.1"}
    found, _ = machine(older, *install_arguments("06-class-aware-init", wheel, older))
    assert set(found) == {"eenotes", "torchmetrics", "torch-pruning", "transformers"}


def test_pip_says_so_where_torch_is_too_old_and_does_not_replace_it(machine, wheel):
    older = COLAB | {"torch": "2.5.1+cu121"}
    found, complaint = machine(older, *install_arguments(QUICK, wheel, older))
    assert not found and "torch" in complaint and "ResolutionImpossible" in complaint


# --- what the chapters do there


@dataclass
class Colab:
    """A machine with Python and packages, and no eenotes."""

    environment: Path
    packages: Path
    content: Path  # the working directory
    wheel: Path
    variables: dict[str, str]

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    def forget(self) -> None:
        for path in self.packages.glob("eenotes*"):
            shutil.rmtree(path)

    def install(self) -> None:
        self.forget()
        pip = (self.python, "-m", "pip", "install", "-q", "--no-deps", self.wheel)
        done = run(*pip, env=self.variables)
        assert done.returncode == 0, done.stderr

    def script(self, code: str, *arguments, **variables: str) -> subprocess.CompletedProcess:
        command, environment = (self.python, "-c", code, *arguments), self.variables | variables
        return run(*command, cwd=self.content, env=environment)

    def notebook(self, cells: list[str], *, seconds: int = 600):
        """Run cells in a kernel, as Colab would; the wheel takes the repository's place."""
        address, wheel = re.compile(r"git\+https://[^\s\"]+"), self.wheel.as_uri()
        cells = [nbformat.v4.new_code_cell(address.sub(wheel, source)) for source in cells]
        folders = [str(self.environment / "kernels")]
        specs = KernelSpecManager(kernel_dirs=folders, ensure_native_kernel=False)
        kernel = AsyncKernelManager(kernel_name="colab", kernel_spec_manager=specs)
        notebook = nbformat.v4.new_notebook(cells=cells)
        place = {"metadata": {"path": str(self.content)}}
        client = NotebookClient(notebook, km=kernel, timeout=seconds, resources=place)
        return client.execute(env=self.variables)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def colab(wheel, tmp_path_factory) -> Colab:
    home = tmp_path_factory.mktemp("colab")
    environment, seen, content = home / "env", home / "seen", home / "content"
    own = new_environment(environment)
    seen.mkdir()
    content.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(folder).iterdir():
            if "eenotes" not in path.name and path.suffix != ".pth":
                (seen / path.name).symlink_to(path)
    (own / "seen.pth").write_text(f"{seen}\n")
    write(own / "google" / "colab" / "__init__.py", "")
    # Colab's kernel has done so before the first cell
    startup = home / "ipython" / "profile_default" / "startup" / "colab.py"
    write(startup, "import google.colab\n")
    python = str(environment / "bin" / "python")
    spec = {"argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    spec |= {"display_name": "Colab", "language": "python"}
    write(environment / "kernels" / "colab" / "kernel.json", json.dumps(spec))
    proxies = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    variables = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
    variables |= dict.fromkeys(proxies, NOWHERE) | {"no_proxy": "localhost,127.0.0.1"}
    variables |= dict.fromkeys(("PIP_NO_INDEX", "PIP_DISABLE_PIP_VERSION_CHECK"), "1")
    variables |= {"HOME": str(home), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    variables |= {"IPYTHONDIR": str(home / "ipython"), "CUDA_VISIBLE_DEVICES": ""}
    return Colab(environment, own, content, wheel, variables)


LOOK = """
import json, os, sys, eenotes_book, numpy, torch, torchvision
print(json.dumps({
    "package": eenotes_book.__file__, "settings": len(vars(s)),
    "variables": [os.environ["EENOTES_SCALE"], os.environ["EENOTES_DOWNLOAD"]],
    "versions": [module.__version__ for module in (torch, torchvision, numpy)],
}))
"""


def printed(cell: dict) -> str:
    return "".join(output.get("text", "") for output in cell["outputs"])


def test_first_cells_of_every_chapter(colab):
    """They install, choose the scale and say so, import and have their settings; and nothing but
    eenotes is new on the machine.  The first cell is the same everywhere, and runs once.
    """
    colab.forget()
    before = {path.name for path in colab.packages.iterdir()}
    cells = [code_cells(NAMES[0])[0]]
    for name in NAMES:
        cells += [*code_cells(name, r"= settings\.load\(")[1:], LOOK]
    first, *ran = colab.notebook(cells).cells
    assert "Scale tiny, because this machine has no GPU." in printed(first)
    looks = [json.loads(printed(cell)) for cell in ran if cell["source"] == LOOK]
    assert len(looks) == len(NAMES) and all(seen["settings"] for seen in looks)
    for seen in looks:
        assert Path(seen["package"]) == colab.packages / "eenotes_book" / "__init__.py"
        assert seen["variables"] == ["tiny", "1"]
        assert seen["versions"] == [module.__version__ for module in (torch, torchvision, numpy)]
    added = {path.name for path in colab.packages.iterdir()} - before
    assert {re.sub(r"-.*", "", name) for name in added} == {"eenotes", "eenotes_book"}, added


ASSETS = """
import csv, os, sys
from importlib.resources import files
from eenotes_book import records, scale, settings
from eenotes_book.data import scenes, text, vision
for chapter in sys.argv[1:]:
    assert all(vars(settings.load(chapter, at)) for at in scale.SCALES)
assert vision.load("digits").counts and scenes.load("drawn", train=2, val=1, test=1).counts
assert text.load("python-manual", train=5000, val=500, test=500).counts
with files("eenotes_book.ch01_leaving").joinpath("models.csv").open(encoding="utf-8") as file:
    assert len(list(csv.DictReader(file))) > 10
there = [records.load(chapter, at) for chapter in sys.argv[1:] for at in ("reduced", "study")]
print(sum(record is not None for record in there))
"""


def test_settings_records_tables_and_embedded_data_come_with_the_wheel(colab):
    colab.install()
    done = colab.script(ASSETS, *NAMES)
    assert done.returncode == 0, done.stderr
    committed = [p for at in ("reduced", "study") for p in (chapters.RECORDS / at).glob("*.json")]
    assert int(done.stdout) == len(committed) > 0


WHOLE = [pytest.param(n, marks=() if n == QUICK else pytest.mark.colab) for n in NAMES]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_chapter(colab, name):
    colab.forget()
    ran = colab.notebook(code_cells(name), seconds=chapters.CELL_TIMEOUT["tiny"])
    assert not [o for cell in ran.cells for o in cell["outputs"] if o["output_type"] == "error"]
    path = colab.packages / "eenotes_book" / "records" / "tiny" / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["claims"] and record["scale"] == "tiny"
    assert not list(colab.content.iterdir()), "it writes nothing into the working directory"


@pytest.mark.colab
def test_reduced_trains_in_miniature(colab):
    colab.install()
    tests = [ROOT / "tests" / "book" / "test_miniature.py", "-k", "reduced"]
    given = ["-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT]
    # not from the repository's folder, which Python would import the package from
    done = run(colab.python, "-m", "pytest", *given, *tests, cwd=colab.content, env=colab.variables)
    assert done.returncode == 0, done.stdout


# --- a run that was cut off

# Runs a chapter's cells; says after which epochs the training wrote its checkpoint, and can die
# then as a lost machine dies.
CUT_OFF = """
import json, os, signal, sys
from IPython.core.inputtransformer2 import TransformerManager
from eenotes import training
save = training.save_run
def watched(path, run, model, optimizer, history):
    save(path, run, model, optimizer, history)
    print("epoch", len(history), flush=True)
    if len(history) == int(os.environ.get("DIE_AFTER", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
training.save_run = watched
for source in json.loads(sys.argv[1]):
    exec(TransformerManager().transform_cell(source))
"""


def test_a_chapter_that_was_cut_off_goes_on_with_what_it_had(colab):
    """From the folder that is used where nothing is said.  That the same network comes out, cut off
    or not, is for tests/eenotes/test_training.py.
    """
    colab.install()
    cache = Path(colab.variables["HOME"], ".cache", "eenotes")
    shutil.rmtree(cache, ignore_errors=True)
    cells, attempts = json.dumps(code_cells(TRAINS, TRAINING)), []
    for variables in ({"DIE_AFTER": "2"}, {}):
        done = colab.script(CUT_OFF, cells, **variables)
        attempts.append((done.returncode, list(map(int, re.findall(r"epoch (\d+)", done.stdout)))))
    died, (finished, epochs) = attempts
    assert died == (-9, [1, 2]) and finished == 0, done.stderr
    assert epochs and epochs == list(range(3, epochs[-1] + 1)), "it begins anew"
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
