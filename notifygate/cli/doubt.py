"""`notifygate doubt`: messages that may or may not have arrived."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, JsonLines, Since, opened
from notifygate.cli.output import Column
from notifygate.errors import NotFound

app = typer.Typer(
    help="See what may or may not have arrived, and record what the provider says became of it.",
    no_args_is_help=True,
)


@app.command(
    "list",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate doubt list\n"
    "  notifygate doubt list --purpose review_request --since 30d --json",
)
def show(
    merchant: Annotated[str | None, typer.Option("--merchant", metavar="NAME", show_default=False)] = None,
    purpose: Annotated[str | None, typer.Option("--purpose", metavar="NAME", show_default=False)] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 for all.")] = 100,
    config: ConfigPath = None,
    json: JsonLines = False,
) -> None:
    """List the messages in doubt, oldest first. None of them is sent again by itself."""
    with opened(config) as gate:
        found = gate.doubt.list(merchant=merchant, purpose=purpose, since=since, limit=limit or None)
        count = gate.doubt.count()
    if json:
        for one in found:
            output.json_line(
                {
                    "message_id": one.message_id,
                    "attempt_id": one.attempt_id,
                    "merchant": one.merchant,
                    "purpose": one.purpose,
                    "channel": one.channel.value,
                    "attempts": one.attempts,
                    "reserved_at": output.instant(one.reserved_at),
                    "in_doubt_since": output.instant(one.since) or None,
                    "detail": one.detail,
                    "provider_id": one.provider_id,
                }
            )
        return
    if not found:
        output.say(
            "no message is in doubt" if count == 0 else f"none of the {count} in doubt is meant by that"
        )
        return
    columns = [
        Column("message", whole=True),
        Column("reserved", whole=True),
        Column("merchant"),
        Column("purpose"),
        Column("channel"),
        Column("why"),
        Column("provider's id"),
    ]
    output.table(
        columns,
        [
            (
                one.message_id,
                output.instant(one.reserved_at),
                one.merchant,
                one.purpose,
                one.channel.value,
                one.detail or "-",
                one.provider_id or "-",
            )
            for one in found
        ],
    )
    output.say(f"{len(found)} of {count} in doubt. 'notifygate explain MESSAGE' tells to whom it was to go.")


@app.command(
    "resolve",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate doubt resolve msg_0198… --sent --evidence 'mail log, queue id 4Xk2Z'\n"
    "  notifygate doubt resolve msg_0198… --not-sent --evidence 'ticket 4711 with the SMS provider'\n"
    "  notifygate doubt resolve msg_0198… --not-sent --send-again --evidence 'ticket 4711'",
)
def resolve(
    message_ids: Annotated[
        list[str],
        typer.Argument(metavar="ID...", show_default=False, help="Ids of messages in doubt."),
    ],
    evidence: Annotated[
        str,
        typer.Option(
            "--evidence",
            metavar="TEXT",
            show_default=False,
            help="How it is known. Kept with the message, and shown by 'notifygate explain'.",
        ),
    ],
    sent: Annotated[bool, typer.Option("--sent", help="The provider accepted it.")] = False,
    not_sent: Annotated[bool, typer.Option("--not-sent", help="The provider never accepted it.")] = False,
    send_again: Annotated[
        bool,
        typer.Option(
            "--send-again", help="With --not-sent: decide it afresh, and send it if it may be sent."
        ),
    ] = False,
    actor: Annotated[
        str | None,
        typer.Option(
            "--actor",
            metavar="NAME",
            show_default=False,
            help="Who says so, for the send log; by default the user who types.",
        ),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Record what became of messages in doubt, as the provider says; exit code 1 where one was not in doubt."""
    if sent == not_sent:
        raise typer.BadParameter("say either --sent or --not-sent")
    unknown = 0
    with opened(config) as gate:
        for message_id in message_ids:
            try:
                gate.doubt.resolve(
                    message_id,
                    "sent" if sent else "not_sent",
                    evidence=evidence,
                    send_again=send_again,
                    actor=actor or getpass.getuser(),
                )
            except NotFound as error:
                unknown += 1
                output.complain(str(error))
                continue
            status = gate.status(message_id)
            if json:
                output.json_line({"message_id": message_id, "status": status.value})
            else:
                output.say(f"{message_id}: {status}")
    if unknown:
        raise typer.Exit(1)
