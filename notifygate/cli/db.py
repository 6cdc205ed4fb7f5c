"""`notifygate db`: the tables of the ledger."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, instant
from notifygate.cli.output import CommandError

if TYPE_CHECKING:
    from notifygate.config import GatewaySettings

app = typer.Typer(
    help="Look at the version of the ledger's tables, bring them up to date, or make a restored ledger safe.",
    no_args_is_help=True,
)


@app.command("current")
def current(config: ConfigPath = None, json: Json = False) -> None:
    """Show which version the ledger's tables have; exit code 1 where this notifygate cannot work with it."""
    from notifygate.config import load
    from notifygate.ledger.database import HEAD, Ledger

    settings = load(config).settings.gateway
    version, usable = None, True
    if not ledger_is_missing(settings):
        ledger = Ledger(settings.ledger)
        try:
            version = ledger.version()
            usable = version is None or ledger.is_usable()
        finally:
            ledger.close()
    if json:
        output.json_line({"ledger": settings.ledger_shown, "version": version, "wanted": HEAD})
    elif version is None:
        output.say(f"{settings.ledger_shown}: no tables yet; they are made at first use, in version {HEAD}")
    elif version == HEAD:
        output.say(f"{settings.ledger_shown}: version {version}, as wanted")
    elif usable:
        output.say(f"{settings.ledger_shown}: version {version}, newer than {HEAD}, and works with it")
    else:
        output.say(
            f"{settings.ledger_shown}: version {version}; wanted is {HEAD}: run 'notifygate db upgrade'"
        )
    if not usable:
        raise typer.Exit(1)


@app.command("upgrade")
def upgrade(config: ConfigPath = None, json: Json = False) -> None:
    """Bring the ledger's tables up to date; nothing happens where they are."""
    from notifygate.config import load
    from notifygate.ledger.database import Ledger

    settings = load(config).settings.gateway
    ledger = Ledger(settings.ledger)
    try:
        before = ledger.version()
        after = ledger.upgrade()
    finally:
        ledger.close()
    if json:
        output.json_line({"ledger": settings.ledger_shown, "before": before, "version": after})
    elif before == after:
        output.say(f"{settings.ledger_shown}: version {after} already; nothing to do")
    else:
        output.say(f"{settings.ledger_shown}: now version {after} (it was {before or 'empty'})")


@app.command(
    "restored",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate db restored --dry-run\n"
    "  notifygate db restored --until 2026-05-01T14:05:00+02:00",
)
def restored(
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            metavar="INSTANT",
            parser=instant,
            show_default=False,
            help="When the lost ledger last took part in anything; by default now.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many messages are meant.")] = False,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Make a ledger that came from a backup safe to send from; run it before any worker.

    What the backup shows waiting may have been sent since. It is put in doubt: counted as sent, listed by 'notifygate
    doubt list', and not sent again unless somebody finds out that it was not sent.
    """
    from notifygate.config import load
    from notifygate.restoring import Restoration
    from notifygate.runtime import Runtime

    loaded = load(config)
    if ledger_is_missing(loaded.settings.gateway):
        raise CommandError(
            f"gateway.ledger: {loaded.settings.gateway.ledger_shown} is not there; restore it first"
        )
    runtime = Runtime(loaded)
    try:
        restoration = Restoration(runtime.ledger, runtime.config.policy, runtime.clock)
        at = until or runtime.clock()
        count = restoration.would_be_in_doubt(at) if dry_run else restoration.put_in_doubt(at)
    finally:
        runtime.close()
    if json:
        output.json_line({"in_doubt": count, "until": output.instant(at), "dry_run": dry_run})
        return
    messages = f"{count} message{'' if count == 1 else 's'} that may have been sent since the backup"
    if dry_run:
        output.say(f"{messages} would be put in doubt; nothing was changed")
    else:
        output.say(f"{messages}: now in doubt. See 'notifygate doubt list'. Workers may start.")


def ledger_is_missing(settings: GatewaySettings) -> bool:
    """Whether the ledger is an SQLite file that is not there, and that opening it would make."""
    from sqlalchemy.engine import make_url

    url = make_url(settings.ledger)
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    path = Path(url.database)
    return not path.exists() and path.parent.is_dir()
