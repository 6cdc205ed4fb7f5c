"""`notifygate db`: the tables of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json

if TYPE_CHECKING:
    from notifygate.config import GatewaySettings

app = typer.Typer(
    help="Look at the version of the ledger's tables, or bring them up to date.", no_args_is_help=True
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


def ledger_is_missing(settings: GatewaySettings) -> bool:
    """Whether the ledger is an SQLite file that is not there; opening it would make it."""
    from sqlalchemy.engine import make_url

    url = make_url(settings.ledger)
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    return not Path(url.database).exists()
