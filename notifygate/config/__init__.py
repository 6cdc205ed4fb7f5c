"""The config: one TOML file and the environment, turned into settings and a policy, or into a list of faults.

values       how single values are written
schema       the tables and their keys
faults       where a fault is and what would be right, in plain sentences
sources      the file, the environment, and the files that hold secrets
crosschecks  what one key says about another
build        settings for the edges, a policy for the core
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from notifygate.config import build, crosschecks, faults, sources
from notifygate.config.build import Sender, Settings
from notifygate.config.schema import (
    ConsoleSettings,
    DeliverySettings,
    EmailSettings,
    FileSettings,
    GatewaySettings,
    HttpSettings,
    KannelSettings,
    LogSettings,
    MonitoringSettings,
    NullSettings,
    RetentionSettings,
    SmsSettings,
    SmtpSettings,
    Tables,
)
from notifygate.errors import ConfigError, ConfigFault
from notifygate.policy import Policy

__all__ = [
    "TEMPLATE",
    "Config",
    "ConsoleSettings",
    "DeliverySettings",
    "EmailSettings",
    "FileSettings",
    "GatewaySettings",
    "HttpSettings",
    "KannelSettings",
    "LogSettings",
    "MonitoringSettings",
    "NullSettings",
    "RetentionSettings",
    "Sender",
    "Settings",
    "SmsSettings",
    "SmtpSettings",
    "load",
]

TEMPLATE: str = (files(__package__) / "template.toml").read_text(encoding="utf-8")
"""What `notifygate init` writes: a commented config that works at once; nothing leaves the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A config without faults. `notes` holds what is no fault, and still worth an admin's look.

    `files` are those it was read from: `source`, and the files that hold secrets.
    """

    source: Path
    files: tuple[Path, ...]
    settings: Settings
    policy: Policy
    notes: tuple[ConfigFault, ...] = ()


def load(path: Path | str | None = None) -> Config:
    """Read a config file and the environment, which wins over it.

    `path` defaults to $NOTIFYGATE_CONFIG, else `notifygate.toml` in the working directory. Relative paths in
    the file start from its own folder. Raises `ConfigError` with every fault found, in the order of the file,
    each at its key and with what would be right. No fault repeats a secret.
    """
    read = sources.read(path)
    found = [*read.faults, *crosschecks.check(read.merged)]
    tables: Tables | None = None
    try:
        tables = Tables.model_validate(read.merged, context={"folder": read.folder})
    except ValidationError as error:
        found.extend(faults.translate(error))
    if found or tables is None:
        # The cause is not chained: pydantic's report says the same in words that are not for admins.
        raise ConfigError(str(read.path), _composed(found, read))
    return Config(
        source=read.path,
        files=read.files,
        settings=build.settings(tables),
        policy=build.policy(tables),
        notes=tuple(_composed(crosschecks.notes(read.merged), read)),
    )


def _composed(found: Iterable[faults.Fault], read: sources.Sources) -> list[ConfigFault]:
    return faults.compose(found, read.file, read.environment, read.merged)
