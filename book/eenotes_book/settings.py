"""Settings of the chapters: read from the ``settings.toml`` of a chapter, checked and typed.

The module ``settings`` beside the file says which settings there are: a dataclass ``Settings`` with
a type and, where it needs one, a comment for each.
"""

import dataclasses
import os
import tomllib
import types
import typing
from importlib import import_module
from importlib.resources import files
from typing import Any

from eenotes_book import scale
from eenotes_book.chapters import folder


def load(chapter: str, at: str | None = None) -> Any:
    """The settings of a chapter (``"02-e2cm"``) at the present scale, or at ``at``.

    Args:
        chapter: one of `eenotes_book.chapters.FOLDERS`.
        at: a scale, or ``"study"``.

    Returns:
        The chapter's ``Settings``; for ``"study"`` its ``StudySettings``, if it has such a class.

    Raises:
        ValueError: if there is no such chapter or section, or a setting is missing, unknown or of
            another type.
        RuntimeError: if this is one of several processes, as of ``accelerate launch``: each would
            evaluate everything, and what they count together would count twice.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        what = f"a chapter runs in one process, and WORLD_SIZE is {os.environ['WORLD_SIZE']}"
        raise RuntimeError(f"{what}: start it alone; eenotes.training.fit can train in several")
    at = at or scale.current()
    table = tables(chapter)
    place = f"{folder(chapter)}/settings.toml"
    if at not in table:
        raise ValueError(f"{place} has no section {at!r}; it has {', '.join(table)}")
    module = import_module(f"eenotes_book.{folder(chapter)}.settings")
    kind = getattr(module, "StudySettings", module.Settings) if at == "study" else module.Settings
    return _build(kind, table[at], f"{place}, section {at}")


def tables(chapter: str) -> dict[str, dict[str, Any]]:
    """All sections of a chapter's settings, as they stand in the file."""
    path = files(f"eenotes_book.{folder(chapter)}").joinpath("settings.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _build(kind: type, table: Any, place: str) -> Any:
    """An instance of a dataclass from a table, with nothing missing and nothing left over."""
    if not isinstance(table, dict):
        raise ValueError(f"{place} must be a table, got {table!r}")
    hints = typing.get_type_hints(kind)
    absent = dataclasses.MISSING
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is absent and field.default_factory is absent
    }
    unknown, missing = table.keys() - hints.keys(), required - table.keys()
    if unknown or missing:
        raise ValueError(f"{place}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    values = {name: _value(hints[name], value, f"{place}, {name}") for name, value in table.items()}
    return kind(**values)


def _value(kind: Any, value: Any, place: str) -> Any:
    """A setting of the type that its dataclass names; a whole number is a float, too."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _one_of([part for part in arguments if part is not types.NoneType], value, place)
    plain = origin or kind
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # as written: it is part of what a record is tied to
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ValueError(f"{place} must be of type {plain.__name__}, got {value!r}")
    if plain is dict and arguments:
        return {name: _value(arguments[1], each, f"{place}.{name}") for name, each in value.items()}
    if plain is list and arguments:
        return [_value(arguments[0], each, f"{place}.{i}") for i, each in enumerate(value)]
    return value


def _one_of(kinds: list[Any], value: Any, place: str) -> Any:
    """A setting that may have one of several types: the first that fits, else the last's error."""
    for kind in kinds[:-1]:
        try:
            return _value(kind, value, place)
        except ValueError:
            continue
    return _value(kinds[-1], value, place)
