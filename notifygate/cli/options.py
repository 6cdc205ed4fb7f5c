"""Options that many verbs share, and how their values are read."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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


def moment(text: str) -> datetime:
    """Read an instant, or a span such as `30d`, which means so long ago."""
    from notifygate.config.values import span

    if text[:1].isdigit() and text[-1:].isalpha() and "T" not in text:
        try:
            return datetime.now(UTC) - span(text)
        except (ValueError, OverflowError) as error:
            raise typer.BadParameter(f"{error}") from error
    try:
        return instant(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error.message}, or as 30d for 30 days ago") from error


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
JsonLines = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for programs.")]
ContactPoint = Annotated[
    str,
    typer.Argument(metavar="CONTACT", show_default=False, help="sms:+4520123456 or email:anna@example.dk"),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        metavar="INSTANT",
        parser=moment,
        show_default=False,
        help="From this instant on, such as 2026-05-01T00:00:00+02:00, or 30d for 30 days ago.",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until",
        metavar="INSTANT",
        parser=moment,
        show_default=False,
        help="Before this instant, in the same forms.",
    ),
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


@contextmanager
def reading(config: Path | None) -> Iterator[Gateway]:
    """The same for a verb that only reads: where there is no ledger it says so, instead of beginning an empty one."""
    from notifygate.cli.db import ledger_is_missing
    from notifygate.cli.output import CommandError
    from notifygate.config import load

    gateway = load(config).settings.gateway
    if ledger_is_missing(gateway):
        raise CommandError(
            f"there is no ledger at {gateway.ledger_shown}: give the config in use with --config, "
            "or correct [gateway] ledger in it"
        )
    with opened(config) as gate:
        yield gate
