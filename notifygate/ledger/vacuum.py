"""Getting what was erased out of the database's files: a database only marks the room of removed data as free."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import sqlalchemy as sa

from notifygate.ledger.database import Ledger, translated_errors

PATIENCE_S = 60.0
"""How long others who use the database are waited for."""

_AGAIN_AFTER_S = 0.05
_WITH_PERSONAL_DATA = (
    "contact_points",
    "messages",
    "consent_events",
    "person_links",
    "reservations",
    "legal_holds",
)
_OLDER = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND (age(backend_xmin) >= age(CAST(:mark AS xid)) OR age(backend_xid) >= age(CAST(:mark AS xid)))"
)


def vacuum(ledger: Ledger, *, patience_s: float = PATIENCE_S) -> str | None:
    """Rewrite the parts of the database that held what was erased; return what is in the way, or None if it is done.

    Workers may go on. On SQLite the file is rewritten and its write-ahead log emptied. On PostgreSQL the tables with
    personal data are vacuumed, once no transaction is left that may still see what was erased. Raises `LedgerError`
    where the database cannot be reached.
    """
    give_up_at = time.monotonic() + patience_s
    with translated_errors():
        if ledger.dialect == "sqlite":
            return _vacuum_sqlite(ledger.engine, give_up_at)
        return _vacuum_postgresql(ledger.engine, give_up_at)


def _vacuum_sqlite(engine: sa.Engine, give_up_at: float) -> str | None:
    raw = engine.raw_connection()
    try:
        driver: Any = raw.driver_connection
        busy_timeout = driver.execute("PRAGMA busy_timeout").fetchone()[0]
        driver.execute("PRAGMA busy_timeout = 0")  # it sleeps for long, and others' turns are short
        try:
            if not _patiently(driver, "VACUUM", give_up_at):
                return "another process kept writing to the database file"
            if not _patiently(driver, "PRAGMA wal_checkpoint(TRUNCATE)", give_up_at):
                return "another process kept reading from the database file, so its -wal file could not be emptied"
        finally:
            driver.execute(f"PRAGMA busy_timeout = {busy_timeout}")
    finally:
        raw.close()
    return None


def _patiently(driver: Any, sql: str, give_up_at: float) -> bool:
    """Execute until nobody is in the way; say whether it came to that in time."""
    while True:
        try:
            answer = driver.execute(sql).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise sa.exc.OperationalError(None, None, error, hide_parameters=True) from error
        else:
            # A checkpoint that others are in the way of is no error: it says so in its first column.
            if answer is None or answer[0] == 0:
                return True
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(_AGAIN_AFTER_S)


def _vacuum_postgresql(engine: sa.Engine, give_up_at: float) -> str | None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        mark = str(conn.exec_driver_sql("SELECT pg_current_xact_id()::xid::text").scalar_one())
        while conn.execute(_OLDER, {"mark": mark}).scalar_one():
            if time.monotonic() >= give_up_at:
                return "a transaction that began before is still open, and may see what was erased"
            time.sleep(_AGAIN_AFTER_S)
        for table in _WITH_PERSONAL_DATA:
            conn.exec_driver_sql(f"VACUUM {table}")
    return None
