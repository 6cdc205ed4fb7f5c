"""`notifygate consent`: what people allow and refuse."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifygate.cli import consent_evidence, consent_export, consent_import, output
from notifygate.cli.forms import Wrong, check_named
from notifygate.cli.options import ConfigPath, ContactPoint, Json, instant, opened, user_name
from notifygate.cli.output import Column

if TYPE_CHECKING:
    from notifygate.consent import ConsentEvent
    from notifygate.gateway import Gateway

app = typer.Typer(help="Record what people allow and refuse, and see where they stand.", no_args_is_help=True)

app.command("import", epilog=consent_import.EXAMPLES)(consent_import.import_)
app.command("export", epilog=consent_export.EXAMPLES)(consent_export.export)
app.add_typer(consent_evidence.app, name="evidence")

_ANY = "*"
_SHOWN_IN_JSON = (
    "event_id",
    "state",
    "contact_point",
    "party",
    "channel",
    "purpose",
    "basis",
    "source",
    "evidence",
    "notice_version",
    "sale_ref",
    "opt_out_offered",
    "includes_service",
    "invalidates",
    "actor",
)

RefusedParty = Annotated[
    str, typer.Option("--party", metavar="NAME", help="The merchant or group that is refused; * for all.")
]
RefusedChannel = Annotated[str, typer.Option("--channel", help="sms, email, or * for both.")]
RefusedPurpose = Annotated[
    str, typer.Option("--purpose", metavar="NAME", help="A purpose, a class such as marketing, or * for all.")
]
IncludesService = Annotated[
    bool,
    typer.Option("--includes-service", help="Refuse service messages too, as STOP to a US carrier does."),
]
OccurredAt = Annotated[
    datetime | None,
    typer.Option(
        "--occurred-at",
        metavar="INSTANT",
        parser=instant,
        show_default=False,
        help="When it was said, such as 2026-05-01T12:00:00+02:00; by default now.",
    ),
]
Source = Annotated[
    str, typer.Option("--source", metavar="TEXT", help="Where it was said, such as checkout or phone.")
]
Evidence = Annotated[
    str | None,
    typer.Option("--evidence", metavar="TEXT", show_default=False, help="Where the proof is kept."),
]
NoticeVersion = Annotated[
    str | None,
    typer.Option(
        "--notice-version", metavar="TEXT", show_default=False, help="Which text the person was shown."
    ),
]
Actor = Annotated[
    str | None,
    typer.Option(
        "--actor", metavar="NAME", show_default=False, help="Who records it; by default your user name."
    ),
]


@app.command(
    "grant",
    epilog="[bold]Example[/bold]\n"
    "  notifygate consent grant email:anna@example.dk --party myshop --purpose newsletter \\\n"
    "    --evidence https://myshop.example/signups/17 --notice-version 2026-05",
)
def grant(
    contact_point: ContactPoint,
    party: Annotated[
        str,
        typer.Option(
            "--party", metavar="NAME", show_default=False, help="The merchant or group it is given to."
        ),
    ],
    purpose: Annotated[
        str, typer.Option("--purpose", metavar="NAME", show_default=False, help="The one purpose it is for.")
    ],
    channel: Annotated[
        str | None,
        typer.Option("--channel", show_default=False, help="sms or email; by default that of CONTACT."),
    ] = None,
    occurred_at: OccurredAt = None,
    expires_at: Annotated[
        datetime | None,
        typer.Option(
            "--expires-at",
            metavar="INSTANT",
            parser=instant,
            show_default=False,
            help="When it ends, if it does.",
        ),
    ] = None,
    basis: Annotated[str, typer.Option("--basis", metavar="TEXT", help="On what legal ground.")] = "consent",
    source: Source = "command line",
    evidence: Evidence = None,
    notice_version: NoticeVersion = None,
    actor: Actor = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Record that a person allowed one merchant or group to write to them for one purpose."""
    if occurred_at is not None and occurred_at > datetime.now(UTC):
        raise typer.BadParameter("lies in the future; say when it was given", param_hint="--occurred-at")
    with opened(config) as gate:
        _check_names(gate, party, purpose, *gate.config.policy.purposes)
        event_id = gate.consent.grant(
            contact_point,
            party=party,
            purpose=purpose,
            channel=channel,
            occurred_at=occurred_at,
            expires_at=expires_at,
            basis=basis,
            source=source,
            evidence=evidence,
            notice_version=notice_version,
            actor=actor or user_name(),
        )
    _recorded(event_id, json=json)


@app.command(
    "withdraw",
    epilog="[bold]Example[/bold]\n  notifygate consent withdraw sms:+4520123456 --party myshop --purpose marketing",
)
def withdraw(
    contact_point: ContactPoint,
    party: RefusedParty = _ANY,
    channel: RefusedChannel = _ANY,
    purpose: RefusedPurpose = _ANY,
    includes_service: IncludesService = False,
    occurred_at: OccurredAt = None,
    source: Source = "command line",
    evidence: Evidence = None,
    notice_version: NoticeVersion = None,
    actor: Actor = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Record that a person takes consent back, for everything unless narrowed."""
    with opened(config) as gate:
        _check_names(gate, party, purpose, *gate.config.policy.purposes, *_classes())
        event_id = gate.consent.withdraw(
            contact_point,
            party=party,
            channel=channel,
            purpose=purpose,
            includes_service=includes_service,
            occurred_at=occurred_at,
            source=source,
            evidence=evidence,
            notice_version=notice_version,
            actor=actor or user_name(),
        )
    _recorded(event_id, json=json)


@app.command("object")
def object_(
    contact_point: ContactPoint,
    party: RefusedParty = _ANY,
    channel: RefusedChannel = _ANY,
    purpose: RefusedPurpose = _ANY,
    includes_service: IncludesService = False,
    occurred_at: OccurredAt = None,
    source: Source = "command line",
    evidence: Evidence = None,
    notice_version: NoticeVersion = None,
    actor: Actor = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Record that a person objects (GDPR Art. 21), to everything unless narrowed."""
    with opened(config) as gate:
        _check_names(gate, party, purpose, *gate.config.policy.purposes, *_classes())
        event_id = gate.consent.object(
            contact_point,
            party=party,
            channel=channel,
            purpose=purpose,
            includes_service=includes_service,
            occurred_at=occurred_at,
            source=source,
            evidence=evidence,
            notice_version=notice_version,
            actor=actor or user_name(),
        )
    _recorded(event_id, json=json)


@app.command(
    "show",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate consent show email:anna@example.dk\n"
    "  notifygate consent show email:anna@example.dk --party myshop --purpose newsletter",
)
def show(
    contact_point: ContactPoint,
    merchant: Annotated[
        str | None,
        typer.Option(
            "--party",
            "--merchant",
            metavar="NAME",
            show_default=False,
            help="Ask whether this merchant may write",
        ),
    ] = None,
    purpose: Annotated[
        str | None, typer.Option("--purpose", metavar="NAME", show_default=False, help="for this purpose.")
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at", metavar="INSTANT", parser=instant, show_default=False, help="Ask what was right then."
        ),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Show what a person has allowed and refused; with --party and --purpose, exit code 1 means not permitted."""
    if (merchant is None) != (purpose is None):
        raise typer.BadParameter("--party and --purpose go together")
    if at is not None and merchant is None:
        raise typer.BadParameter("--at goes with --party and --purpose")
    with opened(config) as gate:
        events = gate.consent.history(contact_point)
        answer = None
        if merchant is not None and purpose is not None:
            _check_names(gate, merchant, purpose, *gate.config.policy.purposes)
            answer = _answer(gate, contact_point, merchant, purpose, at)
    if json:
        output.json_line({"events": [_event_as_json(event) for event in events], "effective": answer})
    else:
        _show_history(events)
        if answer is not None:
            output.say()
            output.say(answer["sentence"])
    if answer is not None and not answer["permitted"]:
        raise typer.Exit(1)


def _answer(
    gate: Gateway, contact_point: str, merchant: str, purpose: str, at: datetime | None
) -> dict[str, Any]:
    found = gate.consent.effective(contact_point, merchant=merchant, purpose=purpose, at=at)
    standing, event = found.standing.value, found.event.event_id if found.event else None
    rules = gate.config.policy.purposes[purpose]
    if found.permitted and rules.purpose_class == "service" and not rules.accepts and not rules.confirms:
        standing = "needs no permission"
    verb = "may" if found.permitted else "may not"
    by = f", by event {event}" if event else ""
    sentence = f"{merchant} {verb} write for {purpose}: {standing}{by}."
    return {"permitted": found.permitted, "standing": standing, "event": event, "sentence": sentence}


def _show_history(events: tuple[ConsentEvent, ...]) -> None:
    if not events:
        output.say("nothing is recorded about this person")
        return
    if output.is_terminal():
        columns = [Column("recorded", whole=True), Column("state"), Column("for"), Column("contact point")]
        rows: list[tuple[object, ...]] = [
            (
                output.instant(event.recorded_at),
                f"{event.state}{' (service too)' if event.includes_service else ''}",
                f"{event.party} {event.channel} {event.purpose}"
                + (f" until {output.instant(event.expires_at)}" if event.expires_at else ""),
                str(event.contact_point),
            )
            for event in events
        ]
    else:
        names = (
            "recorded",
            "occurred",
            "state",
            "party",
            "channel",
            "purpose",
            "expires",
            "contact point",
            "event",
        )
        columns = [Column(name) for name in names]
        rows = [
            (
                output.instant(event.recorded_at),
                output.instant(event.occurred_at),
                str(event.state),
                event.party,
                event.channel,
                event.purpose,
                output.instant(event.expires_at) or "-",
                str(event.contact_point),
                event.event_id,
            )
            for event in events
        ]
    output.table(columns, rows)


def _event_as_json(event: ConsentEvent) -> dict[str, Any]:
    shown: dict[str, Any] = {
        name: value if isinstance(value := getattr(event, name), bool | None) else str(value)
        for name in _SHOWN_IN_JSON
    }
    for name in ("occurred_at", "recorded_at", "expires_at"):
        at: datetime | None = getattr(event, name)
        shown[name] = at.isoformat() if at else None
    return shown


def _check_names(gate: Gateway, party: str, purpose: str, *purposes: str) -> None:
    """Check what was typed against the config, as `submit` does. What else may not be, the gateway says."""
    policy = gate.config.policy
    try:
        if party != _ANY:
            check_named({"party": party}, "party", [*policy.merchants, *policy.groups])
        if purpose not in (_ANY, *_classes()):
            check_named({"purpose": purpose}, "purpose", purposes)
    except Wrong as error:
        raise output.CommandError(str(error)) from error


def _classes() -> list[str]:
    from notifygate.policy import PurposeClass

    return [one.value for one in PurposeClass]


def _recorded(event_id: str, *, json: bool) -> None:
    if json:
        output.json_line({"event_id": event_id})
    else:
        output.say(f"recorded as {event_id}")
