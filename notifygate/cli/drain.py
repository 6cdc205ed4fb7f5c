"""`notifygate drain`: work off what is due, here and now."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, opened


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
        handled = gate.drain(limit)
    if json:
        output.json_line({"handled": handled})
    else:
        output.say(f"handled {handled} message{'' if handled == 1 else 's'}")
