"""Scenarios: a history, a question, and the right answer, in TOML files that admins write and run themselves.

forms        how values are written, and the tables that steps and questions share
steps        what can have happened: one class a step
files        reading files, with every fault at its key
stage        the gateway that a scenario is played on
playing      the steps and questions of a scenario, in order of time
differences  how an answer differs from the right one

docs/scenarios.md teaches writing them; `notifygate rules test DIR` runs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from notifygate.config import Config, load
from notifygate.config.sources import CONFIG_VARIABLE, DEFAULT_NAME
from notifygate.errors import ConfigError
from notifygate.scenarios import files
from notifygate.scenarios.errors import ScenarioError
from notifygate.scenarios.files import Scenario
from notifygate.scenarios.playing import Result, play
from notifygate.scenarios.stage import Stages

__all__ = ["Result", "Scenario", "ScenarioError", "Stages", "collect", "play", "run"]


def run(directory: Path, config: Path | None = None) -> Iterator[Result]:
    """Play every scenario below a directory, in the order of `collect`; yield what came of each.

    Each is played on a gateway of its own, with a ledger that lasts as long as the scenario: nothing that the config
    names is opened, and nothing leaves the machine. Raises as `collect` does.
    """
    found = collect(directory, config)
    with Stages() as stages:
        for scenario in found:
            yield play(scenario, stages)


def collect(directory: Path, config: Path | None = None) -> list[Scenario]:
    """Read the scenarios of all `*.toml` files below a directory (or of one file), sorted by path.

    A file that says `config = "policy.toml"` is read against that config, in its own folder; all others against
    `config`, by default $NOTIFYGATE_CONFIG, else `./notifygate.toml`. Configs that lie among the scenarios are not
    taken for scenarios. What is wrong with a file or scenario is in its `faults`.

    Raises `ScenarioError` where there is no such directory, or no scenario file in it, and `ConfigError` where
    `config` is needed and has faults.
    """
    documents = {path: files.document(path) for path in _paths(directory)}
    tables = {path: table for path, table in documents.items() if isinstance(table, dict)}
    own = {path: path.parent / table["config"] for path, table in tables.items() if _names_config(table)}
    admins = Path(config or os.environ.get(CONFIG_VARIABLE) or DEFAULT_NAME).expanduser()
    configs = _Configs(admins)
    no_scenarios = {path.resolve() for path in (*own.values(), admins)}
    found: list[Scenario] = []
    for path, document in documents.items():
        if path.resolve() in no_scenarios:
            continue
        if isinstance(document, str):
            found.append(Scenario(file=path, name="", faults=(document,)))
            continue
        loaded = configs.of(document, own.get(path)) if "scenario" in document else ()
        found.extend(files.scenarios(path, document, loaded))
    if not found:
        raise ScenarioError(f"there is no scenario file (*.toml) in {directory}")
    return found


class _Configs:
    """The configs that scenarios are played against, each loaded once."""

    def __init__(self, admins: Path) -> None:
        self._admins = admins
        self._loaded: dict[Path, Config | tuple[str, ...]] = {}

    def of(self, table: Mapping[str, Any], own: Path | None) -> Config | tuple[str, ...]:
        """The config of one file, or what is wrong with it. Raises `ConfigError` for faults of the admin's."""
        if own is None and "config" in table:
            return ('must be the path of a config in quotes, such as "policy.toml"',)
        path = own or self._admins
        if path not in self._loaded:
            try:
                self._loaded[path] = load(path)
            except ConfigError as error:
                if own is None:
                    raise
                self._loaded[path] = tuple(f"{own.name}: {fault}" for fault in error.faults)
        return self._loaded[path]


def _paths(directory: Path) -> list[Path]:
    if directory.is_file():
        return [directory]
    if not directory.is_dir():
        raise ScenarioError(f"there is no directory {directory}")
    return sorted(path for path in directory.rglob("*.toml") if path.is_file())


def _names_config(table: Mapping[str, Any]) -> bool:
    return isinstance(table.get("config"), str) and bool(table["config"].strip())
