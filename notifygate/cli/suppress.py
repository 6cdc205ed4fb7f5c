"""`notifygate suppress`: do-not-send marks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, ContactPoint, Json, JsonLines, instant, opened
from notifygate.cli.output import Column

app = typer.Typer(help="Mark contact points do-not-send, whatever the consent says.", no_args_is_help=True)


@app.command(
    "add", epilog="[bold]Example[/bold]\n  notifygate suppress add email:anna@example.dk --reason complaint"
)
def add(
    contact_point: ContactPoint,
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            help="Why: hard_bounce (lasts 30 days), complaint or erased (never end), or manual.",
        ),
    ] = "manual",
    expires_at: Annotated[
        datetime | None,
        typer.Option(
            "--expires-at",
            metavar="INSTANT",
            parser=instant,
            show_default=False,
            help="When the mark ends, such as 2026-05-01T12:00:00+02:00.",
        ),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Mark a contact point do-not-send."""
    with opened(config) as gate:
        suppression_id = gate.suppressions.add(contact_point, reason, expires_at)
    if json:
        output.json_line({"suppression_id": suppression_id})
    else:
        output.say(f"marked do-not-send: {suppression_id}")


@app.command("remove")
def remove(
    contact_point: ContactPoint,
    reason: Annotated[
        str | None,
        typer.Option("--reason", show_default=False, help="Only marks for this reason; by default all."),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Lift the do-not-send marks on a contact point."""
    with opened(config) as gate:
        count = gate.suppressions.remove(contact_point, reason)
    if json:
        output.json_line({"removed": count})
    else:
        output.say(f"lifted {count} mark{'' if count == 1 else 's'}")


@app.command("list")
def show(config: ConfigPath = None, json: JsonLines = False) -> None:
    """List all do-not-send marks in force, oldest first."""
    with opened(config) as gate:
        marks = gate.suppressions.list()
    if json:
        for mark in marks:
            output.json_line(
                {
                    "suppression_id": mark.suppression_id,
                    "contact_point": mark.contact_point,
                    "reason": mark.reason.value,
                    "created_at": output.instant(mark.created_at),
                    "expires_at": output.instant(mark.expires_at) or None,
                }
            )
        return
    if not marks:
        output.say("no marks in force")
        return
    columns = [
        Column("contact point"),
        Column("reason"),
        Column("since", whole=True),
        Column("until", whole=True),
    ]
    rows = [
        (
            mark.contact_point or "(erased)",
            mark.reason.value,
            output.instant(mark.created_at),
            output.instant(mark.expires_at) or "for good",
        )
        for mark in marks
    ]
    output.table(columns, rows)
