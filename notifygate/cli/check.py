"""`notifygate check`: is the config in order?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json
from notifygate.errors import ChannelError, ConfigError, ConfigFault

if TYPE_CHECKING:
    from notifygate.config import Config

EXAMPLES = """[bold]Examples[/bold]
  notifygate check
  notifygate check --explain
  notifygate check --config staging.toml --json"""

CHANNELS = ("email", "sms")
_AT_KEY = re.compile(r"([A-Za-z_][\w.-]*): (.+)", re.DOTALL)


def check(
    config: ConfigPath = None,
    json: Json = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say in plain sentences what the config means.")
    ] = False,
) -> None:
    """Read the config and name every fault at its key; nothing is started or changed."""
    from notifygate import sentences

    try:
        loaded, notes = checked(config)
    except ConfigError as error:
        if not json:
            raise
        output.json_line({"ok": False, "source": error.source, "faults": _shown(error.faults), "notes": []})
        raise typer.Exit(2) from error
    if json:
        counts = _counts(loaded)
        output.json_line(
            {
                "ok": True,
                "source": str(loaded.source),
                "policy": loaded.policy.hash,
                **counts,
                "channels": _channels(loaded),
                "faults": [],
                "notes": _shown(notes),
                **({"explained": dict(sentences.explain(loaded.policy))} if explain else {}),
            }
        )
        return
    for note in notes:
        output.complain(f"{loaded.source}: note: {note}", prefix="")
    counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in _counts(loaded).items())
    channels = ", ".join(_channels(loaded)) or "none"
    if explain:
        for heading, said in sentences.explain(loaded.policy):
            output.say("\n".join((heading, *(f"  {sentence}" for sentence in said), "")))
    output.say(f"{loaded.source}: ok: {counted}, channels {channels}, policy {loaded.policy.hash}")


def checked(path: ConfigPath) -> tuple[Config, tuple[ConfigFault, ...]]:
    """A config that is wholly in order, and what is worth a look all the same.

    Stricter than loading: a group that nobody is in is a fault, and channels must open. Raises `ConfigError`.
    """
    from notifygate.config import load
    from notifygate.runtime import open_channels

    loaded = load(path)
    faults = [note for note in loaded.notes if note.key.startswith("groups.")]
    for name in CHANNELS:
        try:
            for driver in open_channels(only(loaded, name)).values():
                driver.close()
        except ChannelError as error:
            faults.append(_fault(name, str(error)))
    if faults:
        raise ConfigError(str(loaded.source), faults)
    return loaded, loaded.notes


def only(loaded: Config, channel: str) -> Config:
    """The config as if no other channel were set up, so that each is judged by itself."""
    others: dict[str, Any] = {name: None for name in CHANNELS if name != channel}
    return replace(loaded, settings=replace(loaded.settings, **others))


def _fault(channel: str, problem: str) -> ConfigFault:
    """A driver's error at its key, where it names one: `url: the host and port cannot be placeholders`."""
    if match := _AT_KEY.fullmatch(problem):
        return ConfigFault(key=f"channels.{channel}.{match[1]}", problem=match[2])
    return ConfigFault(key=f"channels.{channel}", problem=problem)


def _counts(loaded: Config) -> dict[str, int]:
    policy = loaded.policy
    return {
        "merchants": len(policy.merchants),
        "groups": len(policy.groups),
        "purposes": len(policy.purposes),
        "quiet_hours": len(policy.quiet_hours),
    }


def _channels(loaded: Config) -> list[str]:
    named = (("email", loaded.settings.email), ("sms", loaded.settings.sms))
    return [f"{name} ({found.driver})" for name, found in named if found is not None]


def _shown(faults: Sequence[ConfigFault]) -> list[dict[str, str]]:
    return [{"key": fault.key, "problem": fault.problem} for fault in faults]
