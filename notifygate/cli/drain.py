"""`notifygate drain`: work off what is due, here and now."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, opened

if TYPE_CHECKING:
    from notifygate import Gateway

_OUTCOMES: dict[tuple[str, str | None], str] = {
    ("attempt", "accepted"): "sent",
    ("decision", "deny"): "denied",
    ("decision", "defer"): "deferred",
    ("attempt", "failed"): "failed_for_now",
    ("attempt", "rejected"): "rejected",
    ("attempt", "in_doubt"): "in_doubt",
}


def drain(
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=0, show_default=False, help="At most so many messages; by default all."),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Decide and send everything that is due now, in this process; no worker is needed."""
    # The console channel prints what it sends; that must not mix with the JSON.
    aside = redirect_stdout(sys.stderr) if json else nullcontext()
    with opened(config) as gate, aside:
        newest = next(gate.log.search(limit=1), None)
        handled = gate.drain(limit)
        outcomes = _outcomes(gate, newest.position if newest else None)
    if json:
        output.json_line({"handled": handled, **outcomes})
        return
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in outcomes.items() if count)
    output.say(f"handled {handled} message{'' if handled == 1 else 's'}" + (f": {told}" if told else ""))


def _outcomes(gate: Gateway, after: int | None) -> dict[str, int]:
    """How often what came of the messages, by the ledger's rows since a position."""
    counts = dict.fromkeys(_OUTCOMES.values(), 0)
    for row in gate.log.search(limit=None):
        if after is not None and row.position is not None and row.position <= after:
            break
        if (name := _OUTCOMES.get((row.kind.value, row.outcome))) is not None:
            counts[name] += 1
    return counts
