"""`notifygate init`: a config to start from."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from notifygate.cli import output
from notifygate.cli.files import there_already
from notifygate.cli.options import ConfigPath
from notifygate.cli.output import CommandError

EXAMPLES = """[bold]Examples[/bold]
  notifygate init
  notifygate init /etc/notifygate/notifygate.toml"""


def init(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="[PATH]", show_default=False, help="The file to write, or a folder for it."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False,
    config: ConfigPath = None,
) -> None:
    """Write a commented config that works at once and sends nothing out of this machine."""
    from notifygate.config import TEMPLATE

    chosen = path or config or Path(os.environ.get("NOTIFYGATE_CONFIG") or "notifygate.toml")
    target = chosen / "notifygate.toml" if chosen.is_dir() else chosen
    try:
        _write(target, TEMPLATE, replace=force)
    except FileExistsError as error:
        raise there_already(target) from error
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror or type(error).__name__}") from error
    aside = "" if target == Path("notifygate.toml") else f" --config {target}"
    output.say(f"Wrote {target}. Next:")
    output.say("  1. Put your own merchants and purposes in it.")
    output.say(f"  2. notifygate check{aside}    says whether it is in order.")
    output.say(
        f"  3. notifygate drain{aside}    sends what was submitted, here and now; to a file until you change that."
    )
    output.say(
        f"  4. notifygate up{aside}       does so all the time, with a queue and a worker, until Ctrl-C."
    )
    output.say(
        "Before the first real message, set secret_file: a ledger begun without a secret cannot take one on later."
    )


def _write(target: Path, text: str, *, replace: bool) -> None:
    """Write the file whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    half = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        half.chmod(0o644)
        if replace:
            half.replace(target)
        else:
            os.link(half, target)  # unlike a rename, this never replaces
    finally:
        half.unlink(missing_ok=True)
