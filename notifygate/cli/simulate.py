"""`notifygate simulate`: what would have become of the messages of a period under another policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, Since, Until, reading
from notifygate.cli.output import Column

if TYPE_CHECKING:
    from notifygate.audit.simulate import Change, Standing, Tally, WhatIf

EXAMPLES = """[bold]Examples[/bold]
  notifygate simulate new.toml --since 30d
  notifygate simulate --config new.toml --since 30d --list
  notifygate simulate new.toml --since 90d --fail-if-newly-allowed"""

_EFFECTS = ("before", "after", "more", "fewer", "moved")
_UNNAMED = {"": "(no rule)"}


def simulate(
    new: Annotated[
        Path | None,
        typer.Argument(
            metavar="NEW",
            show_default=False,
            help="The changed config. Left out, it is that of --config, whose ledger must then be the "
            "one in use.",
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List the messages that would be treated differently.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="List at most so many; 0 for all.")] = 100,
    fails: Annotated[
        bool,
        typer.Option(
            "--fail-if-newly-allowed",
            help="End with exit code 1 where any message that was not sent would be sent.",
        ),
    ] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Replay the requests of a period under a changed policy: how many more and fewer would be sent, and why.

    Nothing is sent and nothing is written. What would have been denied uses up no cap and no ask, and what would have
    been sent counts against what came after it.
    """
    if since is None:
        raise typer.BadParameter("say how far back to look, such as --since 30d", param_hint="'--since'")
    from notifygate import config as configs

    changed = configs.load(new) if new is not None else None
    with reading(config) as gate, output.progress("replaying") as progress:
        found = gate.log.simulate(changed, since=since, until=until, progress=progress)
    if json:
        output.json_line(found.to_json())
    else:
        _show(found)
        if listed:
            _list(found, limit)
    if fails and found.allows_more:
        output.complain(f"{output.counted(found.sent.more, 'message')} would be sent, and not sent before")
        raise typer.Exit(1)


def _show(found: WhatIf) -> None:
    sent = found.sent
    policies = ", ".join(
        f"{name[:12]} ({output.counted(count, 'decision')})"
        for name, count in sorted(found.logged_by.items())
    )
    output.facts(
        [
            ("period", f"{output.instant(found.since)} to {output.instant(found.until)}"),
            ("changed policy", found.policy[:12]),
            ("logged under", policies),
            ("messages", found.messages),
            ("sent", sent.before),
            ("would be sent", sent.after),
            ("more", _with_note(sent.more, found.more_waited, "waited still when the period ended")),
            ("fewer", _with_note(sent.fewer, found.fewer_wait, "would wait still when the period ends")),
            ("at another time", sent.moved),
            ("stopped for another reason", found.otherwise_stopped),
        ]
    )
    if set(found.logged_by) == {found.policy}:
        output.say()
        output.say("This is the policy that made all the decisions of the period: nothing in it has changed.")
    if found.by_rule:
        output.heading("By what stops, or stopped, a message")
        output.table(
            [Column("rule"), Column("reason"), Column("more"), Column("fewer")],
            (
                (_UNNAMED.get(rule, rule), reason, tally.more, tally.fewer)
                for (rule, reason), tally in found.by_rule.items()
            ),
        )
    _group("merchant", found.by_merchant)
    _group("purpose", found.by_purpose)
    _group("class", found.by_class)
    _notes(found)


def _with_note(count: int, of_them: int, note: str) -> str:
    return f"{count} ({of_them} of them {note})" if of_them else str(count)


def _group(name: str, tallies: Mapping[str, Tally]) -> None:
    output.heading(f"By {name}")
    columns = [Column(name), *(Column(effect) for effect in _EFFECTS)]
    output.table(
        columns, ((key, *(getattr(tally, one) for one in _EFFECTS)) for key, tally in tallies.items())
    )


def _notes(found: WhatIf) -> None:
    from notifygate.audit.simulate import ASSUMPTIONS

    output.heading("What this cannot know")
    for sentence in ASSUMPTIONS:
        output.say(f"* {sentence}")
    if found.texts_erased:
        output.say(
            f"* The text of {found.texts_erased} service messages was erased: what was found in it then is taken."
        )
    if found.left_out:
        output.say(
            f"* Left out: {output.counted(found.left_out, 'message')} whose submission the log no longer holds."
        )


def _list(found: WhatIf, limit: int) -> None:
    shown: Iterator[Change] = iter(found.changes) if limit == 0 else islice(found.changes, limit)
    output.heading("Messages that would be treated differently")
    output.table(
        [
            Column("effect"),
            Column("message", whole=True),
            Column("merchant"),
            Column("purpose"),
            Column("was"),
            Column("would be"),
        ],
        (
            (
                change.effect,
                change.message_id,
                change.merchant,
                change.purpose,
                _standing(change.before),
                _standing(change.after),
            )
            for change in shown
        ),
    )
    if limit and len(found.changes) > limit:
        output.say(f"{len(found.changes) - limit} more; --limit 0 lists all")


def _standing(standing: Standing) -> str:
    if standing.sent_at is not None:
        return f"sent {output.instant(standing.sent_at)}"
    reasons = ", ".join(reason for _, reason in standing.because)
    return f"{standing.status}: {reasons}" if reasons else standing.status
