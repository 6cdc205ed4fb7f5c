"""`notifygate log`: finding things in the send log, the story of a message, and exporting."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.explain import evidence, show_attempts, show_decision
from notifygate.cli.options import ConfigPath, Json, JsonLines, Since, Until, reading
from notifygate.cli.output import Column
from notifygate.cli.records import shown_name

if TYPE_CHECKING:
    from notifygate.audit import PolicyText, Row, Story
    from notifygate.consent import ConsentEvent
    from notifygate.gateway import Gateway

app = typer.Typer(
    help="Search the append-only log of what was handed over, decided, sent, allowed and refused; export it.",
    no_args_is_help=True,
)

_NAMES = ("position", "at", "kind", "message", "merchant", "purpose", "channel", "outcome", "reason")
_LISTED = 20  # known names are all named where there are fewer
_OUTCOMES = (
    *("allow", "defer", "deny", "accepted", "rejected", "failed", "in_doubt"),
    *("granted", "soft_opt_in", "requested", "withdrawn", "objected", "refused", "invalidated"),
)
_OTHER_WORDS = {
    "sent": "accepted",
    "denied": "deny",
    "deferred": "defer",
    "allowed": "allow",
}  # statuses of messages


class ExportFormat(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


Kind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        show_default=False,
        help="submitted, decision, attempt, resolution, cancelled, consent, imported, suppression, unsuppression, "
        "link, unlink, purchase, alias, ask, review, case_opened, case_closed, held, hold_released, disclosed, erased, "
        "retention, restored or dropped.",
    ),
]
Merchant = Annotated[str | None, typer.Option("--merchant", metavar="NAME", show_default=False)]
Purpose = Annotated[str | None, typer.Option("--purpose", metavar="NAME", show_default=False)]
Channel = Annotated[str | None, typer.Option("--channel", show_default=False, help="sms or email")]
Outcome = Annotated[
    str | None,
    typer.Option(
        "--outcome",
        show_default=False,
        help="allow, defer, deny; accepted, rejected, failed, in_doubt; granted, withdrawn …",
    ),
]
Reason = Annotated[
    str | None, typer.Option("--reason", show_default=False, help="A reason code, such as cap_reached.")
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="HASH",
        show_default=False,
        help="Decided under this policy: its hash, or how that begins.",
    ),
]


@app.command(
    "search",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate log search --contact email:anna@example.dk\n"
    "  notifygate log search --kind decision --outcome deny --since 30d\n"
    "  notifygate log search --purchase myshop 1001 --limit 0 --json\n"
    "  notifygate log search --merchant myshop --since 30d --limit 0 --csv > rows.csv",
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
    person: Annotated[
        str | None,
        typer.Option(
            "--person", metavar="ID", show_default=False, help="Rows about this person, such as per_0198…"
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
    kind: Kind = None,
    message_id: Annotated[
        str | None,
        typer.Option("--message", metavar="ID", show_default=False, help="Rows about this message."),
    ] = None,
    attempt_id: Annotated[
        str | None,
        typer.Option(
            "--attempt", metavar="ID", show_default=False, help="Rows about this attempt, such as att_0198…"
        ),
    ] = None,
    merchant: Merchant = None,
    purpose: Purpose = None,
    channel: Channel = None,
    outcome: Outcome = None,
    reason: Reason = None,
    policy: Policy = None,
    since: Since = None,
    until: Until = None,
    after: Annotated[
        int | None,
        typer.Option(
            "--after",
            metavar="POSITION",
            min=1,
            show_default=False,
            help="Rows that are older than the one at this position: the next page.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many rows; 0 for all.")] = 100,
    config: ConfigPath = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    json: JsonLines = False,
) -> None:
    """List the rows that match all that is asked for, newest first."""
    if csv and json:
        raise typer.BadParameter("--csv and --json do not go together")
    with reading(config) as gate:
        rows = gate.log.search(
            contact_point=contact_point,
            person=person,
            purchase=purchase,
            kind=kind,
            message_id=message_id,
            attempt_id=attempt_id,
            merchant=merchant,
            purpose=purpose,
            channel=channel,
            outcome=outcome,
            reason=reason,
            policy=policy,
            since=since,
            until=until,
            after=after,
            limit=limit + 1 if limit else None,  # one more tells whether there is another page
        )
        if json:
            for row in islice(rows, limit or None):
                output.json_line(row.to_json())
        elif csv:
            _print_csv(islice(rows, limit or None))
        else:
            found = list(rows)
            _show_page(found, limit)
            if not found:
                for line in _hints(gate, merchant, purpose, outcome, reason):
                    output.complain(line, prefix="")


def _show_page(rows: Sequence[Row], limit: int) -> None:
    page = rows[:limit] if limit else rows
    _show_rows(page)
    if len(page) < len(rows):
        output.complain(
            f"There are more. The next page: the same with --after {page[-1].position}", prefix=""
        )


def _print_csv(rows: Iterable[Row]) -> None:
    import csv

    from notifygate.audit.export import cells, header

    writer = csv.writer(sys.stdout, lineterminator="\n")
    with output.until_hung_up():
        writer.writerow(header())
        writer.writerows(cells(row) for row in rows)


def _hints(
    gate: Gateway, merchant: str | None, purpose: str | None, outcome: str | None, reason: str | None
) -> Iterator[str]:
    """Why nothing may have matched: names that neither the config nor notifygate knows."""
    from notifygate.decision import Reason as Reasons

    policy = gate.config.policy
    for value, what, known in (
        (merchant, "merchant", [*policy.merchants, *policy.groups]),
        (purpose, "purpose", [*policy.purposes]),
        (outcome, "outcome", [*_OUTCOMES]),
        (reason, "reason", [one.value for one in Reasons]),
    ):
        if value is not None and value not in known:
            yield unknown(what, value, known)


def unknown(what: str, value: str, known: Sequence[str]) -> str:
    """A line about a name that is not known, with the one that was meant, or those there are."""
    same = _OTHER_WORDS.get(value, "") if what == "outcome" else ""
    like = [same] if same else get_close_matches(value, known, n=1)
    meant = f"; did you mean {like[0]}?" if like else ""
    if not like and len(known) < _LISTED:
        meant = f": {', '.join(known)}"
    where = "in the config" if what in ("merchant", "purpose") else "by that name"
    shown = repr(value) if shown_name(value) == value else "of that name"  # which may be an address
    return f"no {what} {shown} is known {where}{meant}"


def _show_rows(rows: Iterable[Row]) -> None:
    if output.is_terminal():
        shown: list[tuple[object, ...]] = [(row.position, output.instant(row.at), _what(row)) for row in rows]
        columns = [Column("position", whole=True), Column("when", whole=True), Column("what")]
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
    "  notifygate log show att_0198… --json\n"
    "  notifygate log show msg_0198… --policy",
)
def show(
    message_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            show_default=False,
            help="The id of a message, such as msg_0198…, or of an attempt to send it, such as att_0198…",
        ),
    ],
    with_policy: Annotated[
        bool, typer.Option("--policy", help="Print all rules that were in force, and their exact text.")
    ] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Tell the whole story of one message: who asked, what was decided on what permission by which rules, what was
    sent.

    It is for whoever must answer for it; 'notifygate explain' is shorter, and needs the message to be there still.
    """
    with reading(config) as gate:
        story = gate.log.story(message_id)
    if json:
        output.json_line(story.to_json())
        return
    _show_request(story)
    for row in story.rows:
        _show_row(row, story)
    if not story.rows:
        output.heading("The log holds no rows about it any more: the months of that time were dropped.")
    for event in story.consent:
        _show_consent(event)
    show_attempts(story.attempts)
    for policy in story.policies:
        _show_policy(policy, story, whole=with_policy)


def _show_request(story: Story) -> None:
    is_waiting = story.status in ("queued", "deferred")
    output.facts(
        [
            ("message", story.message_id),
            ("status", story.status.value if story.status else "(the message itself is no longer kept)"),
            ("reason", story.reason),
            ("merchant", story.merchant),
            ("purpose", f"{story.purpose} ({story.purpose_class})" if story.purpose_class else story.purpose),
            ("to", story.contact_point or f"{story.channel}:(erased)"),
            ("contact point", story.contact_point_id),
            ("person", story.person_id),
            ("role", story.role),
            ("purchase", " ".join(story.purchase) if story.purchase else None),
            *(("also known as", " ".join(name)) for name in story.purchase_names[1:]),
            ("submitted", output.instant(story.submitted_at)),
            ("decided next", output.instant(story.due_at) if is_waiting else None),
            ("not before", output.instant(story.send_after)),
            ("expires", output.instant(story.expires_at)),
            ("time zone", story.timezone),
            ("language", story.language),
            *((f"metadata {key}", value) for key, value in story.metadata.items()),
        ]
    )


def _show_row(row: Row, story: Story) -> None:
    from notifygate.audit import Kind
    from notifygate.decision import Decision

    if row.kind is Kind.DECISION:
        show_decision(Decision.from_json(row.body), f"Row {row.position}, decision")
        return
    output.heading(f"Row {row.position}, {row.kind.value}, at {output.instant(row.at)}")
    output.facts(
        [
            ("outcome", row.outcome),
            ("reason", row.reason),
            # What the request says as well is told above.
            ("merchant", row.merchant if row.merchant != story.merchant else None),
            ("purpose", row.purpose if row.purpose != story.purpose else None),
            ("channel", row.channel if row.channel != story.channel else None),
            (
                "contact point",
                row.contact_point_id if row.contact_point_id != story.contact_point_id else None,
            ),
            *((name, evidence({name: value}).partition("=")[2]) for name, value in row.body.items()),
        ]
    )


def _show_consent(event: ConsentEvent) -> None:
    output.heading(f"Consent event {event.event_id}: {event.state}, on {output.instant(event.occurred_at)}")
    output.facts(
        [
            ("contact point", str(event.contact_point)),
            ("party", event.party),
            ("channel", event.channel),
            ("purpose", event.purpose),
            ("basis", event.basis),
            ("source", event.source),
            ("evidence", event.evidence),
            ("notice version", event.notice_version),
            ("sale", event.sale_ref),
            ("opt-out offered", _yes_or_no(event.opt_out_offered)),
            ("service as well", "yes" if event.includes_service else None),
            ("makes void", event.invalidates),
            ("recorded", output.instant(event.recorded_at)),
            ("recorded by", event.actor),
            ("expires", output.instant(event.expires_at)),
        ]
    )


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _show_policy(policy: PolicyText, story: Story, *, whole: bool) -> None:
    output.heading(f"Rules in force: policy {policy.hash}")
    output.say(f"First applied at {output.instant(policy.first_seen_at)}.")
    sections = policy.in_sentences() if whole else policy.in_sentences_about(story.merchant, story.purpose)
    for title, sentences in sections:
        output.heading(title)
        output.bullets(sentences)
    if not sections:
        output.say("This version of notifygate cannot put it into sentences.")
    if whole or not sections:
        output.heading("The exact text")
        output.say(jsons.dumps(jsons.loads(policy.text), indent=2, ensure_ascii=False))
    else:
        output.say()
        output.say("--policy tells all of it.")


@app.command(
    "export",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate log export --out may.csv --since 2026-05-01T00:00:00+02:00 --until 2026-06-01T00:00:00+02:00\n"
    "  notifygate log export --out exports/ --format parquet --merchant myshop\n"
    "  notifygate log check-export may.csv.manifest.json",
)
def export(
    to: Annotated[
        str,
        typer.Option(
            "--out",
            "--to",
            metavar="FILE|FOLDER",
            show_default=False,
            help="The file to write, or a folder in which the file is named by the time.",
        ),
    ],
    form: Annotated[
        ExportFormat | None,
        typer.Option("--format", show_default=False, help="By default the name of the file tells."),
    ] = None,
    kind: Kind = None,
    merchant: Merchant = None,
    purpose: Purpose = None,
    channel: Channel = None,
    outcome: Outcome = None,
    reason: Reason = None,
    policy: Policy = None,
    since: Since = None,
    until: Until = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Write the log to a file, oldest rows first, with a manifest beside it. It holds no address and no text."""
    with reading(config) as gate, output.progress("exporting") as progress:
        done = gate.log.export(
            _place(to),
            format=form.value if form else None,
            kind=kind,
            merchant=merchant,
            purpose=purpose,
            channel=channel,
            outcome=outcome,
            reason=reason,
            policy=policy,
            since=since,
            until=until,
            force=force,
            progress=progress,
        )
    if json:
        output.json_line({"file": str(done.path), "manifest": str(done.manifest), "rows": done.rows})
    else:
        output.say(f"{output.counted(done.rows, 'row')} in {done.path}")
        output.say(f"described by {done.manifest}")


def _place(to: str) -> Path:
    """Where to write: what ends in a slash is a folder, which is made if it is not there."""
    place = Path(to)
    if to.endswith("/"):
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output.CommandError(f"{to} cannot be made: {error.strerror}") from error
    return place


@app.command(
    "check-export",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate log check-export may.csv.manifest.json\n"
    "  notifygate log check-export may.csv.manifest.json --with-log",
)
def check_export(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", show_default=False, help="The manifest of an export.")
    ],
    with_log: Annotated[
        bool,
        typer.Option(
            "--with-log", help="Also verify the log, and compare each row with what is sealed of it there."
        ),
    ] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Read an export again and say whether it is what its manifest says; exit code 1 means that it is not.

    It needs neither the config nor the ledger, but for --with-log.
    """
    from notifygate.audit.exported import check_export as check

    if with_log:
        with reading(config) as gate, output.progress("verifying") as progress:
            found = gate.log.check_export(manifest, progress=progress)
    else:
        found = check(manifest)
    if json:
        output.json_line({"whole": found.is_whole, "rows": found.rows, "problems": list(found.problems)})
    elif found.is_whole:
        sealed = " and the log has sealed" if with_log else ""
        output.say(f"yes: {output.counted(found.rows, 'row')}, as the manifest says{sealed}")
    else:
        for problem in found.problems:
            output.say(f"no: {problem}")
    if not found.is_whole:
        raise typer.Exit(1)
