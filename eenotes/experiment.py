"""Scale, device, seeds, settings and records: what a chapter needs around its experiment.

Environment: ``EENOTES_SCALE`` (tiny, reduced, full), ``EENOTES_DATA`` (a folder in torchvision's layout), ``EENOTES_DOWNLOAD=1``,
``EENOTES_CACHE`` (trained networks), ``EENOTES_RESULTS`` (records).
"""

import ast
import hashlib
import json
import math
import os
import platform
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

SCALES = ("tiny", "reduced", "full")
_START = time.perf_counter()  # a chapter imports this module first: its seconds count from here
_PACKAGE = Path(__file__).resolve().parent
_NOT_HASHED = ("eenotes.plots", "eenotes.experiment")  # they draw and record numbers; they do not make them
VERDICTS = {True: "holds", False: "does not hold", None: "not testable here"}  # of a claim


def scale() -> str:
    """The scale of this process: ``EENOTES_SCALE``, else ``tiny``.

    Raises:
        ValueError: for any other word.
    """
    name = os.environ.get("EENOTES_SCALE") or "tiny"
    if name not in SCALES:
        raise ValueError(f"EENOTES_SCALE={name!r} must be one of {', '.join(SCALES)}")
    return name


def choose_scale() -> str:
    """Set ``EENOTES_SCALE`` by the device, if nobody has set it: ``reduced`` where there is a GPU, ``tiny`` where there is none.

    The first cell of a chapter calls it in Colab, where one device is as easy to have as the other.  Elsewhere the scale is ``tiny``
    unless somebody says otherwise.

    Returns:
        A sentence for the reader: which scale, why, and how to have another.

    Raises:
        ValueError: if ``EENOTES_SCALE`` is set to something else than a scale.
    """
    asked, gpu = os.environ.get("EENOTES_SCALE"), torch.cuda.is_available()
    if not asked:
        os.environ["EENOTES_SCALE"] = "reduced" if gpu else "tiny"
    why = "as EENOTES_SCALE says" if asked else f"because this machine has {'a' if gpu else 'no'} GPU"
    return f"Scale {scale()}, {why}. To have another: restart, and set os.environ['EENOTES_SCALE'] before this cell runs."


def settings(chapter: str, at: str | None = None) -> SimpleNamespace:
    """The settings of a chapter (``"02-e2cm"``) at the present scale, or at ``at`` (a scale, or ``"study"``).

    Raises:
        ValueError: if the file has no such chapter or scale.
    """
    table = tomllib.loads(files("eenotes").joinpath("assets/settings.toml").read_text(encoding="utf-8"))
    at = at or scale()
    if chapter not in table or at not in table[chapter]:
        known = [f"{name}.{key}" for name, scales in table.items() for key in scales]
        raise ValueError(f"assets/settings.toml has no section {chapter}.{at}; it has {', '.join(known)}")
    return _namespace(table[chapter][at])


def device() -> torch.device:
    """Where the book computes: the device that accelerate picks."""
    from eenotes.training import accelerator

    return accelerator().device


def cache_dir() -> Path:
    """Where trained networks are kept: ``EENOTES_CACHE``, else ``~/.cache/eenotes``."""
    return Path(os.environ.get("EENOTES_CACHE") or Path.home() / ".cache" / "eenotes").expanduser()


def cached(name: str, *, seed: int, **facts) -> Path:
    """A file for the network ``name``, trained with these facts by the present code; any change of either gives another file.

    Raises:
        TypeError: facts that are not numbers, words, lists, dictionaries or namespaces of them: two tensors or functions could not be told
            apart.
    """
    code = code_hash(["eenotes.training", "eenotes.models.resnet", "eenotes.data.vision"])
    key = hashlib.sha256(_facts([code, seed, facts]).encode()).hexdigest()[:12]
    return cache_dir() / f"{name}-seed{seed}-{key}.safetensors"


def resumable(name: str, compute: Callable[[], dict], *, study: str, **facts) -> dict:
    """The numbers of ``compute()``, or those it gave before with the same facts and the same code: one step of a long study.

    The code is all that the module ``study`` can run.  With the numbers goes ``"seconds"``, what the step took then.

    Raises:
        TypeError: facts as in `cached`.
    """
    key = hashlib.sha256(_facts([study_hash(study), facts]).encode()).hexdigest()[:12]
    path = cache_dir() / "steps" / f"{name}-{key}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        start = time.perf_counter()
        numbers = compute() | {"seconds": round(time.perf_counter() - start, 1)}
        return json.loads(write_json(path, numbers).read_text(encoding="utf-8"))


def results_dir() -> Path:
    """Where records lie: ``EENOTES_RESULTS``, else inside the package, with which they travel."""
    return Path(os.environ.get("EENOTES_RESULTS") or _PACKAGE / "assets" / "results")


def code_hash(modules: list[str]) -> str:
    """A hash of what modules do: comments, docstrings and layout do not change it, nor does the Python that asks."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(name.encode() + _meaning(ast.parse(_source(name).read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:16]


def imported_by(module: str) -> list[str]:
    """The module and all of the package that it imports, directly or not, but for what only draws and records."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in _NOT_HASHED or _source(name) is None:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(_source(name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "eenotes":
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(found)


@cache
def study_hash(study: str) -> str:
    """A hash of all the code that a study can run; like `code_hash` blind to comments, docstrings and layout."""
    said = sorted(f"{module}: {_meaning(node)}" for module, _, node in reached_by(study))
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def reached_by(study: str) -> list[tuple[str, list[str], ast.AST]]:
    """What a study can run: its own module, and every definition of the package whose name occurs in what is reached already.

    So a change elsewhere in a module leaves a study alone.  Names are compared without asking whose they are: something may be
    counted that never runs, but nothing that runs is left out, unless it is looked up by a string.  A module among the studies that
    names no ``CHAPTER`` is part of those that import it, and as a whole.

    Returns:
        Module, the names that the statement defines, and the statement.
    """
    statements, homes, loose, parts = {}, defaultdict(list), defaultdict(list), {study}
    for module in imported_by(study):
        for number, (names, node) in enumerate(_statements(module)):
            statements[module, number] = module, names, node
            for home in (homes[name] for name in names) if names else [loose[module]]:
                home.append((module, number))
        if module.startswith("eenotes.studies.") and module not in {owner for owner, _ in homes["CHAPTER"]}:
            parts.add(module)

    def leads_to(key: tuple[str, int]) -> Iterator[tuple[str, int]]:
        yield from loose[key[0]]
        for word in _words(statements[key][2]):
            # what another module imports from elsewhere is its own affair
            yield from (home for home in homes.get(word, ()) if home[0] == key[0] or not _foreign(statements[home][2]))

    found, waiting = set(), [key for key in statements if key[0] in parts]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += leads_to(key)
    return [statements[key] for key in sorted(found)]


class Record:
    """The numbers of one chapter's run, claim by claim beside the thesis's, with where they come from.

    Args:
        chapter: ``"02-e2cm"``.
        study: the module with the chapter's experiment; its code, and all that it can run, is what the record is tied to.
        at: the scale, or ``"study"``; by default the present scale.
        data: data set name → ``{"train": n, "val": n, "test": n}``.
        seeds: the seeds of the runs behind the numbers.
    """

    def __init__(self, chapter: str, *, study: str, data: dict[str, dict[str, int]], seeds: list[int], at: str | None = None):
        self.chapter, self.study, self.at = chapter, study, at or scale()
        self.data, self.seeds = data, list(seeds)
        self.claims: list[dict[str, Any]] = []
        self.numbers: dict[str, Any] = {}

    def claim(
        self, statement: str, *, thesis: str, ours: float | str, holds: bool | None, spread: float | None = None, where: str = ""
    ) -> None:
        """Put our number beside the thesis's.

        Args:
            statement: what is claimed.
            thesis: its number with its source, "≈" where read off a figure; or "not stated".
            ours: our number, computed in this run.
            holds: whether the claim holds here; ``None``: cannot be tested at this scale.
            spread: standard deviation over the seeds.
            where: the label of the cell that made the number.
        """
        ours = float(f"{ours:.4g}") if isinstance(ours, float) else ours
        self.claims.append(
            {"statement": statement, "thesis": thesis, "ours": ours, "spread": spread, "holds": holds, "where": where}
        )

    def table(self):
        """The claims as a data frame, ready to be shown."""
        import pandas as pd

        rows = [
            {"claim": c["statement"], "thesis": c["thesis"], "ours": with_spread(c["ours"], c["spread"]), "here": VERDICTS[c["holds"]]}
            for c in self.claims
        ]
        return pd.DataFrame(rows)

    def save(self) -> Path:
        """Write ``results/<scale>/<chapter>.json``, atomically."""
        content = {
            "chapter": self.chapter,
            "scale": self.at,
            "data": self.data,
            "seeds": self.seeds,
            "claims": self.claims,
            "numbers": self.numbers,
            "device": device_name(),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "torchvision", "numpy")},
            "seconds": round(time.perf_counter() - _START, 1),
            "recorded": time.strftime("%Y-%m-%d"),
            "source": {"study": self.study, "hash": source_hash(self.chapter, self.at, self.study)},
        }
        return write_json(results_dir() / self.at / f"{self.chapter}.json", content)


def load_record(chapter: str, at: str) -> dict[str, Any] | None:
    """A record, or ``None`` if that run has not been made.  ``["current"]`` says whether the present code is the one that made it.

    Raises:
        ValueError: if the file is damaged.
    """
    return read_record(results_dir() / at / f"{chapter}.json")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file, as `load_record` gives it; ``None`` if there is no such file.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        source = record["source"]
        current = source["hash"] == source_hash(record["chapter"], record["scale"], source["study"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): delete it and run the chapter again") from error
    return record | {"current": current}


def source_hash(chapter: str, at: str, study: str) -> str:
    """What made a record: all the code that a study can run, and the chapter's settings."""
    parts = [study_hash(study), _facts(settings(chapter, at))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def device_name() -> str:
    """The device in words: a GPU's name, or the processor's capability and threads."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads > 1)})"


def describe(*, data: dict[str, dict[str, int]], seeds: list[int]) -> str:
    """One line for a figure or a table: scale, data, counts, seeds, device."""
    return f"Scale {scale()}; {_sizes(data)}seeds {', '.join(map(str, seeds))}; {device_name()}"


def describe_record(record: dict[str, Any], *, groups: Mapping[str, Sequence[dict]] | None = None) -> str:
    """One line on where a record's numbers come from, and whether the present code made them.

    Args:
        record: from `load_record`.
        groups: what is shown of it, if not all: data set → runs, one per seed, each with its ``"counts"``.
    """
    data, seeds = record["data"], len(record["seeds"])
    if groups is not None:
        data, seeds = {name: runs[0]["counts"] for name, runs in groups.items()}, max(map(len, groups.values()))
    age = "" if record["current"] else "; recorded with an earlier version of the code"
    return f"{_sizes(data)}{seeds} seeds; {record['device']}; {record['recorded']}{age}"


def write_json(path: Path, content: Any) -> Path:
    """Write JSON: complete under its name, or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial_file.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial_file, path)
    return path


def _facts(value: Any) -> str:
    """JSON that is the same for equal facts."""

    def plain(fact: Any) -> dict:
        if isinstance(fact, SimpleNamespace):
            return vars(fact)
        raise TypeError(f"a fact must be a number, a word, a list, a dictionary or a namespace, got {type(fact).__name__}: {fact!r}")

    return json.dumps(value, sort_keys=True, default=plain)


def _source(module: str) -> Path | None:
    """The file of a module of this package, if there is one."""
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_name(f"{path.name}.py"), path / "__init__.py") if file.is_file()), None)


def _sizes(data: dict[str, dict[str, int]]) -> str:
    return "".join(f"{name} ({', '.join(f'{n:,} {split}' for split, n in counts.items())}); " for name, counts in data.items())


def with_spread(value: float | str, spread: float | None) -> str:
    """A number with the standard deviation over its seeds, if it has one: ``"0.9123 ± 0.01"``; words stay as they are."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if spread is None or math.isnan(spread) else f"{value:.4g} ± {spread:.2g}"


def _namespace(value: Any) -> Any:
    return SimpleNamespace(**{k: _namespace(v) for k, v in value.items()}) if isinstance(value, dict) else value


def _statements(module: str) -> Iterator[tuple[list[str], ast.AST]]:
    """The top-level statements of a module that run on import, each with the names that it defines; imports one name at a time."""
    for node in ast.parse(_source(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)
                yield [(alias.asname or alias.name).split(".")[0]], one
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield [node.name], node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            targets = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
            # table["key"] = value defines nothing: it runs on import
            yield [part.id for part in targets] if all(isinstance(part, ast.Name) for part in targets) else [], node
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            continue
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):  # a docstring
            yield [], node


def _foreign(node: ast.AST) -> bool:
    """Whether a statement imports something that is not of this package."""
    return isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "eenotes")


def _words(node: ast.AST) -> set[str]:
    """Every name that occurs in code."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            found.add(part.id)
        elif isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.alias):
            found.update(part.name.split("."))
    return found


def _meaning(node: Any) -> str:
    """Code as a text that comments, docstrings, layout and the Python version leave alone: the syntax tree, without what is empty."""
    if isinstance(node, list):
        return f"[{','.join(map(_meaning, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if documented and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    # "kind" remembers the prefix of a string; newer Pythons have more fields, empty in code that an older one can read.
    said = [f"{name}={_meaning(value)}" for name, value in fields.items() if name != "kind" and value not in (None, [])]
    return f"{type(node).__name__}({','.join(said)})"
