"""`notifygate db`: the tables of the ledger."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, JsonLines, instant
from notifygate.cli.output import Column, CommandError

if TYPE_CHECKING:
    from notifygate.config import GatewaySettings
    from notifygate.ledger.database import Ledger
    from notifygate.ledger.partitions import Dropped, Partition


def _month(text: str) -> datetime:
    from notifygate.ledger import partitions

    try:
        return partitions.parse_month(text)
    except partitions.MonthError as error:
        raise typer.BadParameter(str(error)) from error


app = typer.Typer(
    help="Look at the ledger's tables, bring them up to date, drop old months, or make a restored ledger safe.",
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
    """Bring the ledger's tables up to date, with the months ahead of its send log; nothing happens where they are."""
    from notifygate.config import load
    from notifygate.ledger import partitions
    from notifygate.ledger.database import Ledger

    settings = load(config).settings.gateway
    ledger = Ledger(settings.ledger)
    try:
        before = ledger.version()
        after = ledger.upgrade()
        made = partitions.make_ahead(ledger, datetime.now(UTC))
    finally:
        ledger.close()
    if json:
        output.json_line(
            {"ledger": settings.ledger_shown, "before": before, "version": after, "months_made": made}
        )
    elif before == after and made:
        output.say(f"{settings.ledger_shown}: version {after} already; made {', '.join(made)}")
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
        restoration = Restoration(
            runtime.ledger, runtime.config.policy, runtime.clock, runtime.sealer.attest_restored
        )
        at = until or runtime.clock()
        count = restoration.would_be_in_doubt(at) if dry_run else restoration.put_in_doubt(at)
        has_key = runtime.sealer.keys.signer is not None
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
    if not has_key:
        output.complain(
            "the key of the send log is not on this machine: run it where that is as well, or nothing more is signed"
        )


@app.command("partitions")
def show_partitions(config: ConfigPath = None, json: JsonLines = False) -> None:
    """List the months that the send log is kept in, with their rows and sizes; PostgreSQL only."""
    from notifygate.config import load
    from notifygate.ledger import partitions

    settings = load(config).settings.gateway
    if _is_one_table(settings):
        if not json:
            output.say(f"{settings.ledger_shown}: SQLite keeps the send log in one table, without months")
        return
    with _ledger_with_tables(settings) as ledger, ledger.read() as conn:
        parts = partitions.of_ledger(conn)
    if json:
        for part in parts:
            output.json_line(
                {
                    "partition": part.name,
                    "since": output.instant(part.since) or None,
                    "until": output.instant(part.until) or None,
                    "rows": part.rows,
                    "is_estimate": part.is_estimate,
                    "bytes": part.size_bytes,
                }
            )
        return
    columns = [Column("dated"), Column("partition", whole=True), Column("rows"), Column("size", whole=True)]
    output.table(
        columns,
        [
            (_dates(part), part.name, f"{'about ' * part.is_estimate}{part.rows}", _size(part.size_bytes))
            for part in parts
        ],
    )


@app.command(
    "drop-before",
    epilog="[bold]Examples[/bold]\n"
    "  notifygate db drop-before 2025-01 --dry-run\n"
    "  notifygate db drop-before 2025-01 --yes",
)
def drop_before(
    month: Annotated[
        datetime,
        typer.Argument(
            metavar="MONTH", parser=_month, show_default=False, help="The first month that is kept: 2025-01"
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigPath = None,
    json: JsonLines = False,
) -> None:
    """Drop the whole months of the send log that lie before one, for good.

    The send log itself says which were dropped, and its proof stays whole. Messages, consent and what caps count are in
    other tables, and stay.
    """
    from notifygate.config import load
    from notifygate.ledger import partitions
    from notifygate.runtime import system_clock
    from notifygate.sealing import Sealer

    now = datetime.now(UTC)
    partitions.check_begun(month, now)
    settings = load(config).settings
    if ledger_is_missing(settings.gateway):
        raise CommandError(f"{settings.gateway.ledger_shown}: there is no such file; it is made at first use")
    with _ledger_with_tables(settings.gateway) as ledger:
        with ledger.read() as conn:
            found = partitions.older_than(conn, month)
            free_before = partitions.may_go_before(conn, month)
            reaching = [part for part in partitions.of_ledger(conn) if _is_cut(part, month)]
        if found and not dry_run:
            _make_sure(found, is_agreed=yes)
            Sealer(ledger, lambda: settings.log, settings.gateway.data_dir, system_clock).seal(patiently=True)
            actor = getpass.getuser().partition("@")[0]  # no address belongs in the send log
            found = partitions.drop_before(ledger, month, now, actor=actor)
    if json:
        for dropped in found:
            output.json_line(dropped.to_json() | {"dry_run": dry_run})
        return
    if free_before < month:
        output.complain(
            f"from {free_before:%Y-%m} on all stays: it is about persons on legal hold", prefix=""
        )
    for part in reaching:
        output.complain(f"{part.name} stays: it goes only as a whole, once all of it is older", prefix="")
    if not found:
        output.say(f"no month before {month:%Y-%m} is there; nothing was dropped")
        return
    for dropped in found:
        output.say(f"{'would drop' if dry_run else 'dropped'} {dropped.name}: {_rows(dropped.rows)}")
    if dry_run:
        output.say("nothing was changed")


@app.command("vacuum")
def vacuum(
    patience: Annotated[
        int, typer.Option("--patience", metavar="SECONDS", min=0, help="How long others are waited for.")
    ] = 60,
    config: ConfigPath = None,
) -> None:
    """Get what was erased out of the database's files; workers may go on. Exit code 1 where that did not succeed."""
    from notifygate.cli.person import tell_of_vacuum
    from notifygate.config import load
    from notifygate.ledger.vacuum import vacuum as clean

    settings = load(config).settings.gateway
    if ledger_is_missing(settings):
        raise CommandError(f"gateway.ledger: {settings.ledger_shown} is not there")
    with _ledger_with_tables(settings) as ledger:
        left = clean(ledger, patience_s=patience)
    if left is not None:
        tell_of_vacuum(left)
        raise typer.Exit(1)
    output.say(f"{settings.ledger_shown}: what was erased is out of its files")


def _make_sure(found: list[Dropped], *, is_agreed: bool) -> None:
    """Ask whoever is at the terminal; where nobody is, insist on `--yes`."""
    if is_agreed:
        return
    if not output.is_terminal():
        raise CommandError("dropping is for good: say --yes, or look with --dry-run first")
    names = ", ".join(part.name for part in found)
    rows = _rows(sum(part.rows for part in found))
    if not typer.confirm(f"Drop {names} with {rows}, for good?"):
        raise typer.Exit(1)


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _is_cut(part: Partition, month: datetime) -> bool:
    """Whether a part would have to be cut in two to keep what is not older than a month."""
    return part.rows > 0 and part.since is None and part.until is not None and not part.lies_before(month)


def _dates(part: Partition) -> str:
    if part.until is None:
        return "otherwise"
    return f"before {part.until:%Y-%m}" if part.since is None else f"{part.since:%Y-%m}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


def _is_one_table(settings: GatewaySettings) -> bool:
    from sqlalchemy.engine import make_url

    return make_url(settings.ledger).get_backend_name() == "sqlite"


@contextmanager
def _ledger_with_tables(settings: GatewaySettings) -> Iterator[Ledger]:
    """The ledger, closed at the end. Raises `CommandError` where it has no tables, or not those that we know."""
    from notifygate.ledger.database import HEAD, Ledger

    ledger = Ledger(settings.ledger)
    try:
        version = ledger.version()
        if version is None:
            raise CommandError(f"{settings.ledger_shown}: no tables yet; they are made at first use")
        if not ledger.is_usable():
            raise CommandError(
                f"{settings.ledger_shown}: version {version}; wanted is {HEAD}: run 'notifygate db upgrade'"
            )
        yield ledger
    finally:
        ledger.close()


def ledger_is_missing(settings: GatewaySettings) -> bool:
    """Whether the ledger is an SQLite file that is not there, and that opening it would make."""
    from sqlalchemy.engine import make_url

    url = make_url(settings.ledger)
    if url.get_backend_name() != "sqlite" or not url.database:
        return False
    path = Path(url.database)
    return not path.exists() and path.parent.is_dir()
