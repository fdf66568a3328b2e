"""Records: the numbers of a chapter's run, claim by claim beside the thesis's.

A record is tied to behaviour: to the chapter's settings, to its revision, and to the numbers of its
probe.  It is current while all three are those of the present code (see `eenotes_book.probes`).

Environment: ``EENOTES_RESULTS`` (default: ``records`` in this package, with which they travel).
"""

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML

from eenotes_book import claims_table, probes, scale, settings, statistics
from eenotes_book.cache import write_json
from eenotes_book.chapters import folder

_HERE = Path(__file__).parent
_START = time.perf_counter()  # a chapter imports this module first: its seconds count from here


def results_folder() -> Path:
    """Where records lie."""
    return Path(os.environ.get("EENOTES_RESULTS") or _HERE / "records")


class Record:
    """The numbers of one run, and its claims.

    Args:
        chapter: ``"02-e2cm"``.
        data: data set name → ``{"train": n, "val": n, "test": n}``.
        seeds: the seeds of the runs behind the numbers.
        at: the scale, or ``"study"``; by default the present scale.
    """

    def __init__(
        self,
        chapter: str,
        *,
        data: dict[str, dict[str, int]],
        seeds: Sequence[int],
        at: str | None = None,
    ):
        self.chapter, self.at = chapter, at or scale.current()
        self.data, self.seeds = data, list(seeds)
        self.claims: list[dict[str, Any]] = []
        self.numbers: dict[str, Any] = {}

    def claim(
        self,
        statement: str,
        *,
        thesis: str,
        values: Sequence[float],
        differences: Sequence[float] | None = None,
        wanted: statistics.Wanted = "ahead",
        margin: float = 0.0,
        gate: statistics.Gate | None = None,
        at_thesis_setting: bool = False,
        thesis_value: float | None = None,
        over: str = "seeds",
        where: str = "",
    ) -> None:
        """Put our number beside the thesis's, with the verdict of `statistics.judge`.

        Args:
            statement: what is claimed, with the number that is tested.
            thesis: its number with its source, "≈" where read off a figure; or "not stated".
            values: our number, one per seed.
            differences: what is judged, one per seed and positive where the claim is right; by
                default the values themselves.
            wanted: see `statistics.judge`.
            margin: see `statistics.judge`; in the units of the differences.
            gate: the condition under which the experiment can decide.
            at_thesis_setting: whether model, data and size are the thesis's.
            thesis_value: the thesis's number, if ours is to be divided by it.
            over: see `statistics.judge`.
            where: the label of the cell that makes the number.
        """
        differences = values if differences is None else differences
        judged = statistics.judge(differences, wanted=wanted, margin=margin, gate=gate, over=over)
        ours = statistics.mean(values)
        self._add(
            "claim", statement, thesis, values, where,
            verdict=judged.word, reason=judged.reason, difference=_short(judged.mean),
            low=_short(judged.low), high=_short(judged.high), wanted=wanted, margin=margin,
            at_thesis_setting=at_thesis_setting,
            ratio=_short(ours / thesis_value) if thesis_value else None,
        )  # fmt: skip

    def check(
        self, statement: str, *, values: Sequence[float], holds: bool, where: str = ""
    ) -> None:
        """List what holds by construction: a check of the code, and no claim about the world."""
        self._add(
            "check",
            statement,
            "by construction",
            values,
            where,
            verdict="holds" if holds else "fails",
        )

    def number(
        self, statement: str, *, thesis: str, values: Sequence[float], where: str = ""
    ) -> None:
        """Put our number beside the thesis's where nothing is claimed."""
        self._add("number", statement, thesis, values, where)

    def _add(
        self, kind: str, statement: str, thesis: str, values: Sequence[float], where: str, **more
    ) -> None:
        values = list(values)
        row = {"kind": kind, "statement": statement, "thesis": thesis}
        row |= {
            "ours": _short(statistics.mean(values)),
            "spread": _short(statistics.spread(values)),
        }
        self.claims.append(row | {"n": len(values), "where": where} | more)

    def table(self) -> pd.DataFrame:
        """The claims and numbers as a table, ready to be shown; checks are left out."""
        rows = [
            {
                "claim": row["statement"],
                "thesis": row["thesis"],
                "ours": with_spread(row["ours"], row["spread"]),
                "verdict": row.get("verdict", ""),
            }
            for row in self.claims
            if row["kind"] != "check"
        ]
        return pd.DataFrame(rows)

    def show(self, *, caption: str = "") -> HTML:
        """The claims as the results page shows them: the thesis's apart from ours."""
        return claims_table.show(self.claims, caption=caption)

    def save(self) -> Path:
        """Write ``<scale>/<chapter>.json``, atomically.

        The record of scale ``tiny`` is made anew with every build; the others are committed, and
        carry the numbers of the probe.
        """
        content = {
            "chapter": self.chapter,
            "scale": self.at,
            "data": self.data,
            "seeds": self.seeds,
            "claims": self.claims,
            "numbers": self.numbers,
            "device": scale.device_name(),
            "versions": _versions(),
            "seconds": round(time.perf_counter() - _START, 1),
            "recorded": time.strftime("%Y-%m-%d"),
            "made_by": made_by(self.chapter, self.at, probe={} if self.at == "tiny" else None),
        }
        return write_json(results_folder() / self.at / f"{self.chapter}.json", content)


def made_by(chapter: str, at: str, *, probe: probes.Values | None = None) -> dict[str, Any]:
    """What a record is tied to: settings, revision, commit, and the numbers of the probe.

    The probe is run now, if its numbers are not given.
    """
    return {
        "commit": _commit(),
        "revision": revision(chapter),
        "settings": settings.tables(chapter)[at],
        "probe": probes.run(chapter) if probe is None else probe,
    }


def revision(chapter: str) -> int:
    """``REVISION`` of a chapter: raised by hand when its experiment means something else."""
    return import_module(f"eenotes_book.{folder(chapter)}").REVISION


def load(chapter: str, at: str) -> dict[str, Any] | None:
    """A record, or ``None`` if that run has not been made.

    ``["current"]`` says whether it belongs to the present code, ``["outdated"]`` why it does not.

    Raises:
        ValueError: if the file is damaged.
    """
    return read(results_folder() / at / f"{chapter}.json")


def read(path: Path) -> dict[str, Any] | None:
    """The record in a file, as `load` gives it; ``None`` if there is no such file.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record | {"outdated": reasons(record), "current": not reasons(record)}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): delete it and run the chapter again"
        ) from error


def reasons(record: Mapping[str, Any]) -> list[str]:
    """Why a record is out of date, a sentence each; empty if it is current.

    The probe is compared with the numbers in the chapter's ``probe.json``; ``make test`` and the
    build check that the present code gives those.
    """
    chapter, made = record["chapter"], record.get("made_by")
    if made is None:
        return ["it was made before records were tied to behaviour"]
    found = []
    if made["settings"] != settings.tables(chapter).get(record["scale"]):
        found.append("it was made with other settings")
    if made["revision"] != revision(chapter):
        found.append(f"it was made at revision {made['revision']} of the experiment")
    if record["scale"] != "tiny":
        found += probes.moved(made["probe"], probes.stored(chapter))
    return found


def describe(*, data: dict[str, dict[str, int]], seeds: Sequence[int]) -> str:
    """One line for a figure or a table: scale, data, counts, seeds, device."""
    listed = ", ".join(map(str, seeds))
    return f"Scale {scale.current()}; {_sizes(data)}seeds {listed}; {scale.device_name()}"


def describe_record(
    record: Mapping[str, Any], *, groups: Mapping[str, Sequence[dict]] | None = None
) -> str:
    """One line on where a record's numbers come from, and whether it is current.

    Args:
        record: from `load`.
        groups: what is shown of it, if not all: data set → runs, one per seed, each with its
            ``"counts"``.
    """
    data, seeds = record["data"], len(record["seeds"])
    if groups is not None:
        data = {name: runs[0]["counts"] for name, runs in groups.items()}
        seeds = max(map(len, groups.values()))
    age = "" if record["current"] else "; recorded with an earlier version of the code"
    count = f"{seeds} seed{'s' * (seeds != 1)}"
    return f"{_sizes(data)}{count}; {record['device']}; {record['recorded']}{age}"


def with_spread(value: float | str, spread: float | None) -> str:
    """A number with its spread over seeds, ``"0.9123 ± 0.01"``; words stay as they are."""
    if isinstance(value, str):
        return value
    certain = spread is None or math.isnan(spread)
    return f"{value:.4g}" if certain else f"{value:.4g} ± {spread:.2g}"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _sizes(data: Mapping[str, Mapping[str, int]]) -> str:
    return "".join(
        f"{name} ({', '.join(f'{n:,} {split}' for split, n in counts.items())}); "
        for name, counts in data.items()
    )


def _versions() -> dict[str, str]:
    libraries = ("torch", "torchvision", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def _commit() -> str | None:
    """The commit of the code, with "+" if files were changed; ``None`` outside a checkout."""
    command = ["git", "-C", str(_HERE), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            or None
        )
    except (OSError, subprocess.CalledProcessError):
        return None
