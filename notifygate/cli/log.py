"""`notifygate log`: finding things in the send log."""

from __future__ import annotations

import json as jsons
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifygate.cli import output
from notifygate.cli.explain import evidence, show_decision
from notifygate.cli.options import ConfigPath, Json, MessageId, instant, opened
from notifygate.cli.output import Column

if TYPE_CHECKING:
    from collections.abc import Iterable

    from notifygate.ledger.journal import Row

app = typer.Typer(
    help="Search the append-only log of what was handed over, decided, sent, allowed and refused.",
    no_args_is_help=True,
)

_NAMES = ("position", "at", "kind", "message", "merchant", "purpose", "channel", "outcome", "reason")


@app.command(
    "search",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate log search --contact email:anna@example.dk\n"
    "  notifygate log search --kind decision --outcome deny --since 2026-05-01T00:00:00+02:00\n"
    "  notifygate log search --purchase myshop 1001 --limit 0 --json",
)
def search(
    contact_point: Annotated[
        str | None,
        typer.Option(
            "--contact",
            "--contact-point",
            metavar="CONTACT",
            show_default=False,
            help="Rows about this person, by any of their contact points, such as sms:+4520123456.",
        ),
    ] = None,
    purchase: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--purchase",
            metavar="PARTY REFERENCE",
            show_default=False,
            help="Rows about this purchase: the seller and its order id, or the carrier and its parcel number.",
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            show_default=False,
            help="submitted, decision, attempt, resolution, cancelled, consent, suppression, unsuppression, link, "
            "unlink, purchase, alias, ask, review, case_opened, case_closed, restored or dropped.",
        ),
    ] = None,
    message_id: Annotated[
        str | None,
        typer.Option("--message", metavar="ID", show_default=False, help="Rows about this message."),
    ] = None,
    merchant: Annotated[str | None, typer.Option("--merchant", metavar="NAME", show_default=False)] = None,
    purpose: Annotated[str | None, typer.Option("--purpose", metavar="NAME", show_default=False)] = None,
    channel: Annotated[str | None, typer.Option("--channel", show_default=False, help="sms or email")] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            "--outcome",
            show_default=False,
            help="allow, defer, deny; accepted, rejected, failed, in_doubt; granted, withdrawn …",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", show_default=False, help="A reason code, such as cap_reached.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="HASH", show_default=False, help="Decided under this policy."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            metavar="INSTANT",
            parser=instant,
            show_default=False,
            help="From this instant on, such as 2026-05-01T00:00:00+02:00.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until", metavar="INSTANT", parser=instant, show_default=False, help="Before this instant."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many rows; 0 for all.")] = 100,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """List the rows that match all that is asked for, newest first."""
    with opened(config) as gate:
        rows = gate.log.search(
            contact_point=contact_point,
            purchase=purchase,
            kind=kind,
            message_id=message_id,
            merchant=merchant,
            purpose=purpose,
            channel=channel,
            outcome=outcome,
            reason=reason,
            policy=policy,
            since=since,
            until=until,
            limit=limit or None,
        )
        if json:
            for row in rows:
                output.json_line(row.to_json())
        else:
            _show_rows(rows)


def _show_rows(rows: Iterable[Row]) -> None:
    if output.is_terminal():
        shown: list[tuple[object, ...]] = [(output.instant(row.at), _what(row)) for row in rows]
        columns = [Column("when", whole=True), Column("what")]
    else:
        columns = [Column(name) for name in _NAMES]
        shown = [
            (
                row.position,
                output.instant(row.at),
                row.kind.value,
                *(
                    value or "-"
                    for value in (
                        row.message_id,
                        row.merchant,
                        row.purpose,
                        row.channel,
                        row.outcome,
                        row.reason,
                    )
                ),
            )
            for row in rows
        ]
    if shown:
        output.table(columns, shown)
    else:
        output.complain("nothing in the log matches", prefix="")


def _what(row: Row) -> str:
    """A row in two lines, for 80 columns."""
    happened = [row.kind.value, row.outcome, row.reason]
    about = [row.message_id, row.merchant, row.purpose, row.channel]
    lines = (" ".join(part for part in parts if part) for parts in (happened, about))
    return "\n".join(line for line in lines if line)


@app.command(
    "show",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate log show msg_0198…\n"
    "  notifygate log show msg_0198… --policy --json",
)
def show(
    message_id: MessageId,
    with_policy: Annotated[
        bool, typer.Option("--policy", help="Print the rules that were in force as well.")
    ] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Show all that the log holds about one message: who asked, what was decided by which rules, what was sent."""
    with opened(config) as gate:
        rows = gate.log.of_message(message_id)
        hashes = dict.fromkeys(row.policy for row in rows if row.policy)
        texts = {one: gate.log.policy(one).text for one in hashes} if with_policy else {}
    if json:
        story: dict[str, Any] = {"message_id": message_id, "rows": [row.to_json() for row in rows]}
        if with_policy:
            story["policies"] = [{"hash": one, "text": text} for one, text in texts.items()]
        output.json_line(story)
        return
    output.facts([("message", message_id)])
    for row in rows:
        _show_row(row)
    for one, text in texts.items():
        output.heading(f"Policy {one}")
        output.say(jsons.dumps(jsons.loads(text), indent=2, ensure_ascii=False))


def _show_row(row: Row) -> None:
    from notifygate.decision import Decision
    from notifygate.ledger.journal import Kind

    if row.kind is Kind.DECISION:
        show_decision(Decision.from_json(row.body), f"Row {row.position}, decision")
        return
    output.heading(f"Row {row.position}, {row.kind.value}, at {output.instant(row.at)}")
    output.facts(
        [
            ("outcome", row.outcome),
            ("reason", row.reason),
            ("merchant", row.merchant),
            ("purpose", row.purpose),
            ("channel", row.channel),
            ("contact point", row.contact_point_id),
            ("purchase", row.purchase_id),
            *((name, evidence({name: value}).partition("=")[2]) for name, value in row.body.items()),
        ]
    )
