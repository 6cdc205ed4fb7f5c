"""Options that many verbs share, and how their values are read."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from notifygate.gateway import Gateway


def instant(text: str) -> datetime:
    """Read an instant such as `2026-05-01T12:00:00+02:00`. One without a time zone is refused."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("write it as 2026-05-01T12:00:00+02:00") from error
    if found.utcoffset() is None:
        raise typer.BadParameter("has no time zone; write it as 2026-05-01T12:00:00+02:00 or ...Z")
    return found


ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="PATH",
        show_default=False,
        help="The config file; by default the one that NOTIFYGATE_CONFIG names, else ./notifygate.toml.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ContactPoint = Annotated[
    str,
    typer.Argument(metavar="CONTACT", show_default=False, help="sms:+4520123456 or email:anna@example.dk"),
]
MessageId = Annotated[
    str, typer.Argument(metavar="ID", show_default=False, help="The id of a message, such as msg_0198…")
]


def user_name() -> str | None:
    """Who runs the command, for what is recorded with a name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may run under a number that has no name
        return None


@contextmanager
def opened(config: Path | None) -> Iterator[Gateway]:
    """The gateway that the config describes, closed at the end."""
    from notifygate.gateway import Gateway

    with Gateway.open(config) as gate:
        yield gate
