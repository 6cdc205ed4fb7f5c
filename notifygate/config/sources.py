"""Where a config comes from: the TOML file, the environment, and the files that hold secrets.

The two sources are read by pydantic-settings and kept apart until secrets have been seen to: a secret in the
environment is as it should be, the same secret in the file is a fault.
"""

from __future__ import annotations

import copy
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from notifygate.config.faults import Fault, KeyPath, driver_keys, suggest_key
from notifygate.config.schema import Tables
from notifygate.errors import ConfigError, ConfigFault

PREFIX = "NOTIFYGATE_"
DELIMITER = "__"
CONFIG_VARIABLE = "NOTIFYGATE_CONFIG"
DEFAULT_NAME = "notifygate.toml"
_TABLES_ALWAYS_THERE = (
    "gateway",
    "channels",
    "delivery",
    "monitoring",
    "log",
    "retention",
    "review_requests",
    "content",
)
_SECRETS = (("gateway", "secret"), ("log", "key"))


class _Document(BaseSettings, Tables):
    """The tables as pydantic-settings sees them: what may be set from where."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, env_ignore_empty=True, extra="forbid"
    )


class _Environment(EnvSettingsSource):
    """Environment variables. A list or table may be given as JSON; all else is text, whatever it looks."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            decoded = json.loads(value)
        except ValueError:
            return value
        return decoded if isinstance(decoded, dict | list) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What was read: the file, the environment, and the two as one (the environment wins).

    `files` are all that were read or should have been: the config and the files that hold secrets.
    """

    path: Path
    file: Mapping[str, Any]
    environment: Mapping[str, Any]
    merged: dict[str, Any]
    faults: tuple[Fault, ...]
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.path.parent


def read(path: Path | str | None) -> Sources:
    """Read the config file and the environment. Raises `ConfigError` where the file is missing or no TOML."""
    chosen = Path(path or os.environ.get(CONFIG_VARIABLE) or DEFAULT_NAME).expanduser().absolute()
    file = _read_toml(chosen)
    environment = _Environment(_Document)()
    faults = [*_written_secrets(file), *_unknown_variables()]
    merged = _merge(_without_replaced(file, environment), environment)
    for name in _TABLES_ALWAYS_THERE:
        merged.setdefault(name, {})
    files = [chosen]
    faults.extend(_read_secrets(merged, chosen.parent, files))
    return Sources(
        path=chosen,
        file=file,
        environment=environment,
        merged=merged,
        faults=tuple(faults),
        files=tuple(files),
    )


def variable(path: KeyPath) -> str:
    """The environment variable that sets a key."""
    return PREFIX + DELIMITER.join(str(part) for part in path).upper()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb"):
            pass
        # As read, not as called: a call puts the tables in the schema's order, and faults follow the file's.
        return dict(TomlConfigSettingsSource(_Document, toml_file=path).toml_data)
    except FileNotFoundError as error:
        problem = (
            "there is no such file; `notifygate init` writes one to start from, and --config or "
            f"{CONFIG_VARIABLE} names one elsewhere"
        )
        raise ConfigError(str(path), [ConfigFault(key="config", problem=problem)]) from error
    except OSError as error:
        problem = f"the file cannot be read: {error.strerror or type(error).__name__}"
        raise ConfigError(str(path), [ConfigFault(key="config", problem=problem)]) from error
    except UnicodeDecodeError as error:
        problem = "the file is no UTF-8 text; save it as UTF-8"
        raise ConfigError(str(path), [ConfigFault(key="config", problem=problem)]) from error
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rstrip(")").rpartition(" (at ")
        problem = f"this is not TOML: {what or error}; text stands in quotes, a table's name in brackets"
        raise ConfigError(str(path), [ConfigFault(key=where or "config", problem=problem)]) from error


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _channels(tables: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    channels = tables.get("channels")
    if isinstance(channels, dict):
        for name, table in channels.items():
            if isinstance(table, dict):
                yield name, table


def _written_secrets(file: Mapping[str, Any]) -> Iterator[Fault]:
    """A fault for every secret that stands in the file itself."""
    for name, key in _SECRETS:
        table = file.get(name)
        if isinstance(table, dict) and key in table:
            yield _written((name, key), f"{key}_file")
    for name, table in _channels(file):
        if "password" in table:
            yield _written(("channels", name, "password"), "password_file")
        secrets = table.get("secrets")
        if isinstance(secrets, dict):
            for key in secrets:
                yield _written(("channels", name, "secrets", key), f"secrets_files.{key}")
        elif "secrets" in table:
            yield _written(("channels", name, "secrets"), "secrets_files")


def _written(path: KeyPath, instead: str) -> Fault:
    return Fault(path, f"secrets are not written in the config; set {variable(path)}, or {instead}")


def _without_replaced(file: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """The file without the keys of a driver that the environment replaces by another."""
    kept = copy.deepcopy(dict(file))
    replaced = {name: table["driver"] for name, table in _channels(environment) if "driver" in table}
    for name, table in _channels(kept):
        old, new = driver_keys(name, table.get("driver")), driver_keys(name, replaced.get(name))
        if old and new:
            for key in old.keys() - new.keys():
                table.pop(key, None)
    return kept


def _read_secrets(merged: dict[str, Any], folder: Path, files: list[Path]) -> Iterator[Fault]:
    """Put what the secret files hold in place; add them to `files`, and yield a fault for each that cannot be read."""
    for table_name, key in _SECRETS:
        found = merged[table_name]
        if isinstance(found, dict):
            yield from _read_one(found, (table_name, f"{key}_file"), key, folder, files)
    for name, table in _channels(merged):
        known = driver_keys(name, table.get("driver")) or {}
        if "password_file" in known:
            yield from _read_one(table, ("channels", name, "password_file"), "password", folder, files)
        secrets_files = table.get("secrets_files")
        if "secrets_files" in known and isinstance(secrets_files, dict):
            secrets = table.setdefault("secrets", {})
            for key in secrets_files if isinstance(secrets, dict) else ():
                path = ("channels", name, "secrets_files", key)
                yield from _read_one(secrets, path, key, folder, files, secrets_files[key])


def _read_one(
    table: dict[str, Any],
    path: KeyPath,
    key: str,
    folder: Path,
    files: list[Path],
    location: object = None,
) -> Iterator[Fault]:
    location = table.get(str(path[-1])) if location is None else location
    if not isinstance(location, str) or not location.strip() or "\0" in location or key in table:
        return  # no path (the schema says so), or the environment has set the secret itself
    file = folder / Path(location).expanduser()
    files.append(file)
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        yield Fault(path, f"the file {file} cannot be read: {error.strerror or type(error).__name__}")
        return
    except UnicodeDecodeError:
        yield Fault(path, f"the file {file} is no UTF-8 text")
        return
    if not secret:
        yield Fault(path, f"the file {file} is empty; it must hold the secret and nothing else")
        return
    table[key] = secret


def _unknown_variables() -> Iterator[Fault]:
    """A fault for every variable that is meant for a table which does not exist.

    Variables without the delimiter are left alone: other programs may use the prefix as well.
    """
    for name in os.environ:
        first, delimiter, rest = name.upper().removeprefix(PREFIX).lower().partition(DELIMITER)
        if not name.upper().startswith(PREFIX) or not delimiter or not rest:
            continue
        if first not in Tables.model_fields:
            problem = f"{suggest_key(first, Tables)} (from the environment: {name})"
            yield Fault((first, *rest.split(DELIMITER)), problem)
