"""Faults of a config: where, in the file's own notation, and what would be right, in plain sentences."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from notifygate.config.schema import ChannelsTable, Table, Tables
from notifygate.config.values import either, nearest, shown
from notifygate.errors import ConfigFault

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SENTENCES = {
    "string_type": "must be text in quotes",
    "list_type": "must be a list in square brackets",
    "tuple_type": "must be a list in square brackets",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault before its path is written out."""

    path: KeyPath
    problem: str


def driver_keys(channel: str, driver: object) -> Mapping[str, Any] | None:
    """The keys that a driver of a channel takes; None where there is no such driver."""
    model = _drivers(channel).get(driver) if isinstance(driver, str) else None
    return known_keys(model) if model else None


def known_keys(model: type[Table]) -> dict[str, FieldInfo]:
    """The fields of a table by their names in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def suggest_key(key: object, model: type[Table] | None) -> str:
    """Say that a key is unknown, and which was meant."""
    known = sorted(known_keys(model)) if model else []
    if near := nearest(key, known):
        return f'unknown key; did you mean "{near}"?'
    return f"unknown key; known here: {', '.join(known)}" if known else "unknown key"


def written(path: KeyPath) -> str:
    """A key path in TOML notation: `purposes.newsletter.caps[0].purposes[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


def translate(error: ValidationError) -> Iterator[Fault]:
    """Turn what pydantic found into faults: the file's names for keys, and sentences for its error types."""
    for details in error.errors(include_url=False, include_input=True):
        path, model, field = _resolve(details["loc"])
        kind = details["type"]
        if kind == "default_factory_not_called":
            continue  # a default that hangs on another key of the table, which has a fault of its own
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            yield _about_driver(path, details)
        elif kind == "extra_forbidden":
            yield Fault(path, suggest_key(path[-1], model))
        elif kind == "missing":
            right = f"; it must be {field.description}" if field and field.description else ""
            yield Fault(path, f"missing{right}")
        elif kind == "value_error":
            yield Fault(path, str(details["ctx"]["error"]))
        else:
            yield Fault(path, _SENTENCES.get(kind, "is not of the form that is wanted here"))


def compose(
    faults: Iterable[Fault],
    file: Mapping[str, Any],
    environment: Mapping[str, Any],
    merged: Mapping[str, Any],
) -> list[ConfigFault]:
    """Put faults in the order of the file, the first of each key, and mark those of the environment."""
    first: dict[KeyPath, Fault] = {}
    for fault in faults:
        first.setdefault(fault.path, fault)
    ordered = sorted(
        first.values(), key=lambda fault: (_position(fault.path, file, merged), written(fault.path))
    )
    return [
        ConfigFault(key=written(fault.path), problem=fault.problem + _origin(fault.path, file, environment))
        for fault in ordered
    ]


def _origin(path: KeyPath, file: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    here: Any = environment
    for part in path:
        if not isinstance(here, Mapping):
            return " (from the environment)"
        if part not in here:
            return ""
        here = here[part]
    return "" if isinstance(here, Mapping) and _holds(file, path) else " (from the environment)"


def _holds(tables: Any, path: KeyPath) -> bool:
    for part in path:
        if not isinstance(tables, Mapping) or part not in tables:
            return False
        tables = tables[part]
    return True


def _position(path: KeyPath, file: Mapping[str, Any], merged: Mapping[str, Any]) -> tuple[int, ...]:
    """Where a key stands among its siblings, from the outermost table inwards; missing ones come last."""
    places: list[int] = []
    trees: list[Any] = [file, merged]
    for part in path:
        names = [name for tree in trees if isinstance(tree, Mapping) for name in tree]
        if isinstance(part, int):
            places.append(part)
            trees = [tree[part] if isinstance(tree, list) and part < len(tree) else None for tree in trees]
        else:
            places.append(names.index(part) if part in names else len(names))
            trees = [tree.get(part) if isinstance(tree, Mapping) else None for tree in trees]
    return tuple(places)


def _about_driver(path: KeyPath, details: ErrorDetails) -> Fault:
    table = details["input"]
    if not isinstance(table, Mapping):
        return Fault(path, "must be a table with a driver")
    channel = str(path[-1])
    known = list(_drivers(channel))
    key = (*path, "driver")
    if "driver" not in table:
        return Fault(key, f"missing; it must be {either(known)}")
    driver = table["driver"]
    other = [
        name for name in ChannelsTable.model_fields if driver in list(_drivers(name)) and name != channel
    ]
    aside = f"; that driver is for channels.{other[0]}" if other else ""
    return Fault(key, f"must be {either(known)}, not {shown(driver)}{aside}")


def _drivers(channel: str) -> dict[str, type[Table]]:
    field = ChannelsTable.model_fields.get(channel)
    return {_tag(model): model for model in _models(field.annotation)} if field else {}


def _tag(model: type[Table]) -> str:
    return str(get_args(model.model_fields["driver"].annotation)[0])


def _models(annotation: Any) -> list[type[Table]]:
    """The tables that an annotation allows for: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in _models(member)]
    return []


def _resolve(location: Sequence[str | int]) -> tuple[KeyPath, type[Table] | None, FieldInfo | None]:
    """The key path of pydantic's location, the table that the last key is in, and the key's field if known.

    Left out is what pydantic adds: the driver, which tells members of a union apart, and the mark for a
    fault of the key itself.
    """
    path: list[str | int] = []
    annotation: Any = Tables
    model: type[Table] | None = None
    field: FieldInfo | None = None
    for part in location:
        if part == "[key]":
            continue
        models = _models(annotation)
        if len(models) > 1:
            annotation = next((member for member in models if _tag(member) == part), None)
            continue
        path.append(part)
        if models:
            model = models[0]
            field = known_keys(model).get(str(part))
            annotation = field.annotation if field else None
        else:
            field = None
            arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
            annotation = arguments[-1] if arguments else None
    return tuple(path), model, field
