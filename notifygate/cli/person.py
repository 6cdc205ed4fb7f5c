"""`notifygate person`: which contact points belong to one human, what is held about them, and forgetting them."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import files, output
from notifygate.cli.options import ConfigPath, ContactPoint, Json, JsonLines, opened, reading
from notifygate.cli.output import Column, CommandError

if TYPE_CHECKING:
    from notifygate.gateway import Gateway
    from notifygate.gateway.erasure import Erasure
    from notifygate.gateway.people import Person

app = typer.Typer(
    help="See, join and part the contact points of one person; answer, hold and erase a person.",
    no_args_is_help=True,
)

OtherContactPoint = Annotated[
    str, typer.Argument(metavar="OTHER", show_default=False, help="Another contact point of the same person.")
]


@app.command("show")
def show(contact_point: ContactPoint, config: ConfigPath = None, json: Json = False) -> None:
    """Show the person behind a contact point, with all contact points known to be theirs."""
    with opened(config) as gate:
        found = gate.people.of(contact_point)
    _show(found, json=json)


@app.command(
    "link",
    epilog="[bold]Example[/bold]\n"
    "  notifygate person link sms:+4520123456 email:anna@example.dk --evidence 'same account, order 1001'",
)
def link(
    contact_point: ContactPoint,
    other: OtherContactPoint,
    evidence: Annotated[
        str, typer.Option("--evidence", show_default=False, help="How it is known that both are one person.")
    ],
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Record that two contact points belong to one person: refusals and caps then count for both."""
    with opened(config) as gate:
        found = gate.people.link(contact_point, other, evidence)
    _show(found, json=json)


@app.command("unlink")
def unlink(
    contact_point: ContactPoint, other: OtherContactPoint, config: ConfigPath = None, json: Json = False
) -> None:
    """Record that two contact points are not one person after all; what was refused stays refused for both."""
    with opened(config) as gate:
        found = gate.people.unlink(contact_point, other)
    _show(found, json=json)


@app.command(
    "export",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate person export sms:+4520123456 --html anna.html --out anna.json\n"
    "  notifygate person export sms:+4520123456 --json | jq .messages",
)
def export(
    contact_point: ContactPoint,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", show_default=False, help="Write a page for the person to read."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", show_default=False, help="Write JSON, for programs."),
    ] = None,
    with_holds: Annotated[
        bool, typer.Option("--with-holds", help="Tell of legal holds; the law may forbid that.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Hand out everything that is held about a person (GDPR Art. 15), and record that it was handed out.

    Files are readable for their owner only.
    """
    if not (html or out or json):
        raise typer.BadParameter("say where to: --html FILE, --out FILE, or --json to print it")
    targets = [path for path in (html, out) if path is not None]
    for path in targets:
        files.check(path, force=force)
    with reading(config) as gate, _no_if_unknown():
        found = gate.people.export(contact_point, with_holds=with_holds)
    if out is not None:
        text = json_format.dumps(found.to_json(), ensure_ascii=False, indent=2)
        files.write(out, f"{text}\n", force=force, is_private=True)
    if html is not None:
        files.write(html, found.to_html(), force=force, is_private=True)
    if json:
        output.json_line(found.to_json())
        return
    for path in targets:
        output.say(f"wrote {path}")
    output.facts([(name.replace("_", " "), count) for name, count in found.counts().items()])


@app.command(
    "erase",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate person erase sms:+4520123456              look first: nothing is changed\n"
    "  notifygate person erase sms:+4520123456 --yes\n"
    "  notifygate person erase --ids erased.txt --reason again --yes",
)
def erase(
    contact_point: Annotated[
        str | None,
        typer.Argument(
            metavar="CONTACT", show_default=False, help="sms:+4520123456 or email:anna@example.dk"
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            metavar="FILE",
            show_default=False,
            help="Erase those whose contact point ids are in a file, one a line: after restoring a backup.",
        ),
    ] = None,
    reason: Annotated[
        str,
        typer.Option("--reason", help="Why: request, no_longer_needed, unlawful, obligation or again."),
    ] = "request",
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without, it is only shown what would go.")
    ] = False,
    no_vacuum: Annotated[
        bool,
        typer.Option(
            "--no-vacuum",
            help="Leave the database's files for 'notifygate db vacuum': for many erasures in a row.",
        ),
    ] = False,
    config: ConfigPath = None,
    json: JsonLines = False,
) -> None:
    """Erase a person (GDPR Art. 17): every address, text and typed evidence, for good. Without --yes, a dry run.

    It does not reach what lies elsewhere: files of the file driver, exports, backups, what providers keep; see
    docs/data-subjects.md.

    Exit code 1 where a legal hold stands in the way, nothing is held, or the files could not be cleaned up.
    """
    if (contact_point is None) == (ids is None):
        raise typer.BadParameter("give either CONTACT or --ids FILE")
    wanted = [contact_point] if contact_point is not None else _read_ids(ids)
    is_refused = False
    with opened(config) as gate:
        done = False
        for one in wanted:
            outcome = _erase(
                gate, one, reason, dry_run=not yes, json=json, name=None if contact_point else one
            )
            is_refused = is_refused or outcome is None or outcome.on_hold
            done = done or (outcome is not None and yes)
        left = None
        if done and not no_vacuum:
            left = gate.vacuum()
    if left is not None:
        tell_of_vacuum(left)
    if is_refused or left is not None:
        raise typer.Exit(1)


def _read_ids(path: Path | None) -> list[str]:
    try:
        lines = path.read_text("utf-8").splitlines() if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--ids: {path} cannot be read as text") from error
    found = [line.strip() for line in lines if line.strip()]
    for number, line in enumerate(found, start=1):
        if not line.startswith("cp_"):
            raise CommandError(
                f"--ids: entry {number} of {path} is no id of a contact point, such as cp_0198…"
            )
    return list(dict.fromkeys(found))


def _erase(
    gate: Gateway, contact_point: str, reason: str, *, dry_run: bool, json: bool, name: str | None
) -> Erasure | None:
    """Erase one person and tell of it; None where that was refused."""
    from notifygate.errors import NotFound, OnHold

    try:
        outcome = gate.people.erase(contact_point, reason, dry_run=dry_run)
    except (NotFound, OnHold) as error:
        output.complain(f"{name}: {error}" if name else str(error))
        return None
    if json:
        output.json_line(outcome.to_json())
    else:
        _show_erasure(outcome)
    return outcome


_TAKEN = {
    "addresses": "addresses",
    "messages": "messages: text, address, metadata, idempotency key",
    "waiting": "messages that wait: cancelled",
    "consent_texts": "consent events: source, evidence, sale, actor",
    "link_evidence": "links between addresses: evidence",
    "provider_ids": "attempts: the provider's own ids",
    "hold_reasons": "released legal holds: reasons",
}
_KEPT = {
    "messages": "messages: when, what for, what was decided (they show that the rules were kept)",
    "consent_events": "consent events: what was permitted or refused (refusals must be honoured)",
    "attempts": "attempts: when, with what outcome (caps count them)",
    "asks": "review requests made (no purchase is asked about twice)",
    "in_flight": "messages under way now: they end as they would have",
    "in_doubt": "messages in doubt: they are looked up by id",
}


_ELSEWHERE = (
    "Not reached: what the file driver wrote, exports, backups, what providers keep (docs/data-subjects.md)."
)


def _show_erasure(outcome: Erasure) -> None:
    output.facts([("person", outcome.person_id), ("contact points", ", ".join(outcome.contact_points))])
    output.heading("would go" if outcome.dry_run else "gone")
    output.facts([(str(outcome.taken.to_json()[name]), label) for name, label in _TAKEN.items()])
    output.heading("stays, without address or text, under ids and keyed hashes")
    output.facts([(str(outcome.kept.to_json()[name]), label) for name, label in _KEPT.items()])
    output.say()
    if outcome.on_hold:
        output.say(
            "A legal hold is on this person, so nothing would be erased: see 'notifygate person holds'."
        )
    elif outcome.dry_run:
        output.say(_ELSEWHERE)
        output.say("Nothing was changed. Say --yes to erase for good.")
    else:
        output.say(_ELSEWHERE)
        output.say(
            "Erased. Keep the ids of the contact points: a backup that is restored brings the person back."
        )
        for one in outcome.contact_point_ids:
            output.say(f"  {one}")


def tell_of_vacuum(problem: str) -> None:
    """Say that what was erased is still in the database's files, and what to do."""
    output.complain(
        f"the rows are erased, but bytes of them may still be in the database's files: {problem}. "
        "Run 'notifygate db vacuum' again, if need be with the workers stopped"
    )


@app.command("erased")
def erased(config: ConfigPath = None, json: JsonLines = False) -> None:
    """List the ids of all contact points that were erased, for 'erase --ids' after a backup was restored.

    Keep the list outside the database: one id a line, no address.
    """
    with opened(config) as gate:
        rows = list(gate.log.search(kind="erased", limit=None))
    seen: set[str] = set()
    for row in reversed(rows):
        if row.contact_point_id is None or row.contact_point_id in seen:
            continue
        seen.add(row.contact_point_id)
        if json:
            output.json_line({"contact_point_id": row.contact_point_id, "at": output.instant(row.at)})
        else:
            output.say(row.contact_point_id)


@app.command(
    "hold", epilog="[bold]Example[/bold]\n  notifygate person hold sms:+4520123456 --reason 'case 2026-17'"
)
def hold(
    contact_point: ContactPoint,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", show_default=False, help="Why nothing may be erased, such as a case number."
        ),
    ],
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Place a legal hold on a person: nothing of them is erased or ages out. It permits no message."""
    with opened(config) as gate:
        is_known = gate.people.of(contact_point).person_id is not None
        placed = gate.people.hold(contact_point, reason)
    if not is_known:
        output.complain(
            "nothing was held about this contact point until now: is it written right?", prefix="note: "
        )
    if json:
        output.json_line({"hold_id": placed.hold_id, "placed_at": output.instant(placed.placed_at)})
    else:
        output.say(f"on hold: {placed.hold_id}")


@app.command("release")
def release(contact_point: ContactPoint, config: ConfigPath = None, json: Json = False) -> None:
    """Release all legal holds on a person; exit code 1 where there is none."""
    with opened(config) as gate, _no_if_unknown():
        released = gate.people.release(contact_point)
    if json:
        output.json_line({"released": list(released.hold_ids)})
    else:
        output.say(f"released: {', '.join(released.hold_ids)}")


@app.command("holds")
def show_holds(config: ConfigPath = None, json: JsonLines = False) -> None:
    """List all legal holds in force, oldest first."""
    with opened(config) as gate:
        found = gate.people.holds()
    if json:
        for one in found:
            output.json_line(
                {
                    "hold_id": one.hold_id,
                    "contact_point": one.contact_point,
                    "reason": one.reason,
                    "placed_at": output.instant(one.placed_at),
                }
            )
        return
    if not found:
        output.say("no legal holds in force")
        return
    columns = [
        Column("hold", whole=True),
        Column("contact point"),
        Column("since", whole=True),
        Column("reason"),
    ]
    output.table(
        columns,
        [
            (one.hold_id, one.contact_point or "(erased)", output.instant(one.placed_at), one.reason)
            for one in found
        ],
    )


@contextmanager
def _no_if_unknown() -> Iterator[None]:
    """Answer with no, exit code 1, where nothing is known of what was asked about."""
    from notifygate.errors import NotFound

    try:
        yield
    except NotFound as error:
        output.complain(str(error))
        raise typer.Exit(1) from None


def _show(person: Person, *, json: bool) -> None:
    if json:
        output.json_line({"person_id": person.person_id, "contact_points": list(person.contact_points)})
        return
    first, *others = person.contact_points
    output.facts(
        [
            ("person", person.person_id or "not seen before"),
            ("contact points", first),
            *((" ", other) for other in others),
        ]
    )
