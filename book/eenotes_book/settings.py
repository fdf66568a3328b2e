"""Settings of the chapters: read from the ``settings.toml`` in a chapter's folder, checked and typed.

The module ``settings`` beside the file says which settings there are: a dataclass ``Settings`` with a
type and, where it needs one, a comment for each.
"""

import dataclasses
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
    """
    at = at or scale.current()
    table = tables(chapter)
    place = f"{folder(chapter)}/settings.toml"
    if at not in table:
        raise ValueError(f"{place} has no section {at!r}; it has {', '.join(table)}")
    try:
        module = import_module(f"eenotes_book.{folder(chapter)}.settings")
    except ModuleNotFoundError:  # TODO: until every chapter has one
        return _namespace(table[at])
    kind = getattr(module, "StudySettings", module.Settings) if at == "study" else module.Settings
    return _build(kind, table[at], f"{place}, section {at}")


def tables(chapter: str) -> dict[str, dict[str, Any]]:
    """All sections of a chapter's settings, as they stand in the file."""
    path = files("eenotes_book").joinpath(folder(chapter), "settings.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _build(kind: type, table: dict[str, Any], place: str) -> Any:
    """An instance of a dataclass from a table, with nothing missing and nothing left over."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    required = {f.name for f in fields if f.default is dataclasses.MISSING}
    unknown, missing = table.keys() - hints.keys(), required - table.keys()
    if unknown or missing:
        raise ValueError(f"{place}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    values = {name: _value(hints[name], value, f"{place}, {name}") for name, value in table.items()}
    return kind(**values)


def _value(kind: Any, value: Any, place: str) -> Any:
    """A setting of the type that its dataclass names: a whole number is a float, too."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, place)
    if origin is dict:
        inner = typing.get_args(kind)[1]
        return {name: _value(inner, entry, f"{place}.{name}") for name, entry in value.items()}
    if origin in (typing.Union, types.UnionType):
        kinds = [part for part in typing.get_args(kind) if part is not type(None)]
        return _value(kinds[0], value, place)
    plain = origin or kind
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # as written: it is part of what a record is tied to
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ValueError(f"{place} must be of type {plain.__name__}, got {value!r}")
    return value


def _namespace(table: dict[str, Any]) -> types.SimpleNamespace:
    nested = {
        key: _namespace(value) if isinstance(value, dict) else value for key, value in table.items()
    }
    return types.SimpleNamespace(**nested)
