"""`notifygate consent evidence`: the files that consent rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.attachments import is_kept_unaltered, written
from notifygate.cli.options import ConfigPath, Json, opened

app = typer.Typer(help="Check the files that consent rests on.", no_args_is_help=True)

_SENTENCES = {
    "unaltered": "the file is there, and is the one that was recorded",
    "altered": "the file kept under this hash is no longer the one that was recorded",
    "missing": "the folder does not hold the file",
}


@app.command(
    "verify",
    epilog="[bold]Example[/bold]\n  notifygate consent evidence verify evt_0198… --evidence-dir forms",
)
def verify(
    event_id: Annotated[
        str, typer.Argument(metavar="EVENT", show_default=False, help="The id of a consent event.")
    ],
    evidence_dir: Annotated[
        Path,
        typer.Option(
            "--evidence-dir",
            metavar="DIR",
            show_default=False,
            help="Where the files are, under their hashes or any name.",
        ),
    ],
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Say whether the file that an event names by hash is there and unaltered; exit code 1 means that it is not."""
    if not evidence_dir.is_dir():
        raise typer.BadParameter("--evidence-dir must be a folder")
    with opened(config) as gate:
        attachment = written(gate.consent.get(event_id).evidence)
    if attachment is None:
        raise output.CommandError(f"{event_id} names no file by hash as its evidence")
    try:
        found = is_kept_unaltered(evidence_dir, attachment)
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise output.CommandError(f"--evidence-dir: a file cannot be read: {problem}") from error
    outcome = {True: "unaltered", False: "altered", None: "missing"}[found]
    if json:
        told = {"sha256": attachment.sha256, "size": attachment.size, "media_type": attachment.media_type}
        output.json_line({"event_id": event_id, "outcome": outcome, **told})
    else:
        output.say(f"{outcome}: {_SENTENCES[outcome]} (sha256 {attachment.sha256})")
    if outcome != "unaltered":
        raise typer.Exit(1)
