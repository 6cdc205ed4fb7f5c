"""`notifygate report`: figures over a period, on the terminal, as JSON, or as a page for an auditor."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import files, output
from notifygate.cli.log import unknown
from notifygate.cli.options import ConfigPath, Json, moment, reading
from notifygate.cli.output import Column

if TYPE_CHECKING:
    from notifygate.audit.report.values import AfterRefusal, Report
    from notifygate.gateway import Gateway

EXAMPLES = (
    "[bold]Examples[/bold]\n"
    "  notifygate report\n"
    "  notifygate report --month 2026-05 --html may.html\n"
    "  notifygate report --last 7d --merchant myshop --json\n"
    "  notifygate report --since 2026-05-01T00:00:00+02:00 --until 2026-06-01T00:00:00+02:00"
)
_LISTED = 10


def _span(text: str) -> timedelta:
    from notifygate.config.values import span

    try:
        return span(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def report(
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            metavar="INSTANT",
            parser=moment,
            show_default=False,
            help="From this instant on, such as 2026-05-01T00:00:00+02:00, or 60d for 60 days ago; by default 30 days "
            "before the end.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            metavar="INSTANT",
            parser=moment,
            show_default=False,
            help="Before this instant, in the same forms; by default now.",
        ),
    ] = None,
    month: Annotated[
        str | None,
        typer.Option(
            "--month",
            metavar="YYYY-MM",
            show_default=False,
            help="A month in the configured time zone, such as 2026-05; of this month, what is over.",
        ),
    ] = None,
    last: Annotated[
        timedelta | None,
        typer.Option(
            "--last",
            metavar="SPAN",
            parser=_span,
            show_default=False,
            help="The last 7d, 24h, 4w … until now.",
        ),
    ] = None,
    merchant: Annotated[
        str | None,
        typer.Option("--merchant", metavar="NAME", show_default=False, help="Only what this merchant sends."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            show_default=False,
            help="Write a page with charts to this file, which needs no network to be read.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Show what was sent, denied and prevented in a period, by sender, purpose, outcome and reason.

    The figures are volumes, asks for reviews and second asks prevented, messages after an opt-out (there should be
    none), hand-offs in doubt, and who of those that could be asked was asked. No figure is personal data.
    """
    if html is None and force:
        raise typer.BadParameter("goes with --html", param_hint="--force")
    if html is not None:
        files.check(html, force=force)
    with reading(config) as gate:
        made = gate.report(since=since, until=until, month=month, last=last, merchant=merchant)
        hint = _hint(gate, merchant)
    if html is not None:
        from notifygate.audit.report.page import render

        files.write(html, render(made), force=force)
    if json:
        output.json_line(made.to_json())
    elif html is not None:
        output.say(f"wrote {html}")
    else:
        _show(made)
    if hint:
        output.complain(hint, prefix="")


def _hint(gate: Gateway, merchant: str | None) -> str | None:
    """Why all may be zeros: neither the config nor the log knows the merchant."""
    known = gate.config.policy.merchants
    if merchant is None or merchant in known or any(gate.log.search(merchant=merchant, limit=1)):
        return None
    return unknown("merchant", merchant, [*known])


def _show(made: Report) -> None:
    period = made.period
    output.facts(
        [
            ("period", f"{output.instant(period.since)} to before {output.instant(period.until)}"),
            ("days counted in", period.timezone),
            ("senders", made.merchant or "all"),
            ("made", f"{output.instant(made.made_at)} by notifygate {made.version}"),
            ("ledger", made.ledger_id),
            (
                "log begins",
                f"{output.instant(made.log_begins)}; what came before was dropped"
                if made.log_begins
                else None,
            ),
            *(
                ("policy", f"{one.hash} ({output.counted(one.decisions, 'decision')})")
                for one in made.policies
            ),
        ]
    )
    _show_volumes(made)
    _show_asks(made)
    _show_opt_outs(made)
    _show_doubts(made)
    _show_neutrality(made)


def _show_volumes(made: Report) -> None:
    from notifygate.audit.report.words import LABELS

    volumes = made.volumes
    output.heading("Volumes: each message once, by its last word in the period")
    output.facts(
        [
            ("handed in", volumes.submitted),
            ("with a word", volumes.messages),
            *((LABELS[outcome], count) for outcome, count in volumes.outcomes.items()),
        ]
    )
    if not volumes.by:
        return
    output.say()
    if output.is_terminal():
        # Two lines a row, for 80 columns.
        output.table(
            [Column("sender"), Column("purpose"), Column("outcome"), Column("messages", whole=True)],
            [
                (
                    one.merchant,
                    f"{one.purpose}\n{one.channel}",
                    f"{LABELS[one.outcome]}\n{one.reason or ''}",
                    one.messages,
                )
                for one in volumes.by
            ],
        )
        return
    output.table(
        [Column("sender"), Column("purpose"), Column("channel"), Column("outcome"), Column("messages")],
        [
            (one.merchant, one.purpose, one.channel, _with_reason(one.outcome, one.reason), one.messages)
            for one in volumes.by
        ],
    )


def _show_asks(made: Report) -> None:
    from notifygate.audit.report.words import BECAUSE
    from notifygate.policy import counted

    asks = made.asks
    output.heading("Asks for reviews")
    output.facts(
        [
            ("asks made", asks.made),
            *(
                (f"second asks prevented: {BECAUSE[ground]}", count)
                for ground, count in asks.prevented.items()
            ),
            ("second asks deferred", sum(asks.waiting.values())),
        ]
    )
    if asks.made_by:
        output.say()
        output.table(
            [Column("asker"), Column("seller"), Column("made"), Column("elsewhere")],
            [(one.asker, one.seller, one.here, one.elsewhere) for one in asks.made_by],
        )
    if asks.prevented_by:
        output.say()
        output.table(
            [Column("prevented"), Column("asker"), Column("seller"), Column("denied"), Column("deferred")],
            [
                (one.reason, one.asker, one.seller or "not known", one.denied, one.deferred)
                for one in asks.prevented_by
            ],
        )
    for one in asks.concerned:
        output.say(
            f"{one.reason}: about {counted(one.purchases, 'purchase')} of {counted(one.persons, 'person')}"
        )


def _show_opt_outs(made: Report) -> None:
    from notifygate.audit.report.words import in_short

    found = made.opt_outs
    output.heading("Opt-outs")
    output.facts(
        [
            ("refusals", found.refusals),
            ("messages reserved after one that covers them", f"{found.breaches} (there should be none)"),
            ("longest delay", in_short(found.longest_breach) if found.longest_breach else None),
            ("in flight when refused", found.in_flight),
            ("longest in flight", in_short(found.longest_in_flight) if found.longest_in_flight else None),
        ]
    )
    _list_messages("reserved after a refusal", found.breaches_listed)
    _list_messages("in flight when refused", found.in_flight_listed)


def _list_messages(title: str, found: tuple[AfterRefusal, ...]) -> None:
    from notifygate.audit.report.words import in_short

    if found:
        output.say()
        output.table(
            [Column(title, whole=True), Column("delay", whole=True)],
            [(one.message_id, in_short(one.delay)) for one in found[:_LISTED]],
        )
        if len(found) > _LISTED:
            output.say("more are in --json and --html")


def _show_doubts(made: Report) -> None:
    from notifygate.audit.report.words import HOW

    found = made.doubts
    output.heading("In doubt")
    output.facts(
        [
            ("opened in the period", found.opened),
            *(
                (f"  {HOW.get(one.how, one.how)}", f"{one.attempts} {(one.verdict or '').replace('_', ' ')}")
                for one in found.ended
            ),
            ("  still open", found.still_open),
            ("open now, all", found.open_now),
            (
                "oldest",
                f"{found.oldest_message_id} since {output.instant(found.oldest_since)}"
                if found.oldest_since
                else None,
            ),
        ]
    )


def _show_neutrality(made: Report) -> None:
    found = made.neutrality
    output.heading("Neutrality: of the purchases with a review request, what came of them")
    output.facts([("purchases", found.purchases), ("asked about", found.asked)])
    rows = [
        (
            one.merchant,
            _with_reason(standing.outcome, standing.reason),
            standing.purchases,
            _share(standing.purchases, one.purchases),
        )
        for one in found.by_asker
        for standing in one.by
    ]
    if rows:
        output.say()
        output.table(
            [Column("asker"), Column("outcome"), Column("purchases"), Column("share", whole=True)], rows
        )
    output.say()
    output.say(
        "No rule knows whether a customer is content. What this does not prove is that\n"
        "requests were handed in for all purchases alike: compare the number of\n"
        "purchases with each merchant's own sales, and look at those cancelled."
    )


def _with_reason(outcome: str, reason: str | None) -> str:
    from notifygate.audit.report.words import LABELS

    return f"{LABELS[outcome]}: {reason}" if reason else LABELS[outcome]


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %"
