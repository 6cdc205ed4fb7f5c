"""`notifygate cancel`: stop a message that still waits."""

from __future__ import annotations

from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, MessageId, opened


def cancel(
    message_id: MessageId,
    reason: Annotated[
        str, typer.Option("--reason", show_default=False, help="Why, for the record; no address or name.")
    ] = "",
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Stop a message that still waits; exit code 1 where it is being sent or has ended."""
    with opened(config) as gate:
        gate.cancel(message_id, reason)
    if json:
        output.json_line({"message_id": message_id, "status": "cancelled"})
    else:
        output.say(f"cancelled {message_id}")
