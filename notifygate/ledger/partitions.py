"""The send log in months: what there is, the months ahead, and dropping what need not be kept.

On PostgreSQL each month of `at` is a partition of its own; what was there before the first of them is one partition,
and rows dated where no month is made are in another. On SQLite the send log is one table: there is nothing to make, and
what is dropped is deleted row by row.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from notifygate.errors import LedgerError, NotifygateError
from notifygate.ledger import holds, journal, removal
from notifygate.ledger.database import Ledger, LedgerConflict
from notifygate.ledger.schema import from_micros, ledger, to_micros

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 3
"""How many months are made before they begin."""

_ODD_DATES = "ledger_default"
_LOCK = 7_239_501_121  # any fixed number: the PostgreSQL advisory lock of whoever makes or drops a month
# Whoever comes later waits behind a lock that is waited for, so that nobody waits for one long.
_LOCK_TIMEOUT_MS = 1_000
_LOCK_TRIES = 20
_AFTER_SUCCESS_S = 3600.0
_AFTER_FAILURE_S = 300.0
_COUNTED_UP_TO_BYTES = 32 * 2**20
_INSTANT = timedelta(microseconds=1)
_BOUNDS = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'(-?\d+)')\) TO \('(-?\d+)'\)")
_MONTH = re.compile(r"(\d{4})-(\d{2})")


class MonthError(NotifygateError, ValueError):
    """A month that cannot be meant, or whose time is not over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A part of the send log: rows dated from `since` on and before `until`.

    The oldest part may have no `since`; the one for rows of all other dates has neither. `rows` is an estimate of the
    database's where `is_estimate`.
    """

    name: str
    since: datetime | None
    until: datetime | None
    rows: int
    is_estimate: bool
    size_bytes: int

    def lies_before(self, month: datetime) -> bool:
        """Whether all its rows are older than a month."""
        return self.until is not None and self.until <= month

    def reaches_into(self, month: datetime) -> bool:
        """Whether rows of a month are, or would be, in it by its bounds."""
        if self.until is None:
            return False
        return (self.since is None or self.since < next_month(month)) and month < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A part of the send log that was dropped, as the send log says; the positions are None where it had no rows."""

    name: str
    since: datetime | None
    until: datetime
    rows: int
    first_position: int | None
    last_position: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "partition": self.name,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat(),
            "rows": self.rows,
            "first_position": self.first_position,
            "last_position": self.last_position,
        }


def month_of(at: datetime) -> datetime:
    """The first instant of a month, in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def parse_month(text: str) -> datetime:
    """Read a month such as `2025-01`. Raises `MonthError`."""
    found = _MONTH.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        return datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)
    except ValueError:
        raise MonthError("a month is written as 2025-01") from None


def of_ledger(conn: sa.Connection) -> list[Partition]:
    """All parts of the send log, oldest first, the one for odd dates last; none on SQLite."""
    if conn.dialect.name != "postgresql":
        return []
    found = conn.execute(
        sa.text(
            "SELECT part.relname, pg_get_expr(part.relpartbound, part.oid), part.reltuples::bigint, "
            "pg_relation_size(part.oid), pg_total_relation_size(part.oid) "
            "FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid "
            "WHERE inhparent = 'ledger'::regclass"
        )
    )
    parts = [_partition(conn, *row) for row in found.all()]
    return sorted(parts, key=lambda part: (part.until is None, part.until, part.name))


def make_ahead(of: Ledger, now: datetime, *, tries: int = _LOCK_TRIES) -> list[str]:
    """Make the partitions of this month and of those ahead that are missing; return their names.

    Any number of processes may do it at once. Rows that were written meanwhile are moved to their month. Raises
    `LedgerError` where the database refuses, or where others keep the partition for odd dates busy: that is tried
    `tries` times, for a second each.
    """
    if of.dialect != "postgresql":
        return []
    with of.read() as conn:
        missing = _not_made(conn, _months_from(month_of(now)))
    return [_name(month) for month in missing if of.transact(partial(make, month=month, tries=tries))]


def make(conn: sa.Connection, month: datetime, *, tries: int = _LOCK_TRIES) -> bool:
    """Make the partition of a month, with the rows of it that there are; say whether it was missing."""
    _take_turns(conn)
    if not _not_made(conn, [month]):
        return False
    name, start, end = _name(month), to_micros(month), to_micros(next_month(month))
    # Not `CREATE TABLE ... PARTITION OF`, for which all who write would have to wait.
    _execute_patiently(conn, f"LOCK TABLE {_ODD_DATES} IN ACCESS EXCLUSIVE MODE", tries)
    conn.exec_driver_sql(f"CREATE TABLE {name} (LIKE ledger INCLUDING DEFAULTS)")
    conn.exec_driver_sql(
        f"INSERT INTO {name} SELECT * FROM {_ODD_DATES} WHERE at >= {start} AND at < {end}"  # noqa: S608
    )
    _remove_moved(conn, name)
    conn.exec_driver_sql(f"ALTER TABLE ledger ATTACH PARTITION {name} FOR VALUES FROM ({start}) TO ({end})")
    # INVARIANT(append-only): a trigger for TRUNCATE is not inherited from the parent.
    conn.exec_driver_sql(
        f"CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} "
        "FOR EACH STATEMENT EXECUTE FUNCTION notifygate_append_only()"
    )
    return True


class MonthsAhead:
    """Has the months ahead made while a process works: soon after its start, and about once an hour from then on."""

    def __init__(self, of: Ledger, clock: Callable[[], datetime]) -> None:
        self._ledger = of
        self._clock = clock
        self._next_at = -math.inf

    def make(self) -> None:
        """Make what is missing, if it is time to look. A failure is logged, and tried again within minutes.

        It stops nothing: rows of a month without a partition have a place all the same.
        """
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _AFTER_FAILURE_S
        try:
            made = make_ahead(self._ledger, self._clock(), tries=1)
        except LedgerError as error:
            logger.warning("months_not_made", extra={"error": str(error)})
            return
        self._next_at = time.monotonic() + _AFTER_SUCCESS_S
        if made:
            logger.info("months_made", extra={"partitions": made})


def may_go_before(conn: sa.Connection, month: datetime) -> datetime:
    """The month before which all may go, at most the one that is wished for: a legal hold keeps what it is about."""
    oldest = holds.oldest_row(conn, month)
    return month if oldest is None else month_of(oldest)


def older_than(conn: sa.Connection, month: datetime) -> list[Dropped]:
    """What `drop_before` would drop, oldest first: also what lies among odd dates, month by month."""
    month = may_go_before(conn, month)
    whole = [_measured(conn, part) for part in of_ledger(conn) if part.lies_before(month)]
    table = _ODD_DATES if conn.dialect.name == "postgresql" else "ledger"
    odd = [_measured_month(conn, one, table) for one in _odd_months(conn, month, table)]
    return sorted(whole + odd, key=lambda part: part.until)


def rows_between(conn: sa.Connection, since: datetime, until: datetime) -> int:
    """How many rows are dated from one instant on and before another."""
    query = sa.select(sa.func.count()).select_from(ledger)
    return int(conn.execute(query.where(ledger.c.at >= since, ledger.c.at < until)).scalar_one())


def drop_before(of: Ledger, month: datetime, now: datetime, *, actor: str) -> list[Dropped]:
    """Drop the whole months of the send log that lie before one; return what was dropped, oldest first.

    Each is dropped in a transaction of its own, which also adds a row to the send log that says so; on SQLite a large
    month in several. Breaking off and doing it again is safe. Parts that reach into that month stay, and so do all from
    the first on that has a row about a person on legal hold, also where the hold is placed meanwhile.

    Raises `MonthError` where the month has not begun yet, `LedgerError` where the database refuses, where others keep
    the send log busy, or where rows of such a month are not sealed yet.
    """
    check_begun(month, now)
    if of.dialect != "postgresql":
        return list(_drop_on_sqlite(of, month, now, actor))
    with of.read() as conn:
        month = may_go_before(conn, month)
        odd = list(_odd_months(conn, month))
    for one in odd:
        of.transact(partial(make, month=one))
    with of.read() as conn:
        names = [part.name for part in of_ledger(conn) if part.lies_before(month)]
    dropped = (of.transact(partial(_drop, name=name, month=month, now=now, actor=actor)) for name in names)
    return [part for part in dropped if part is not None]


def _drop_on_sqlite(of: Ledger, month: datetime, now: datetime, actor: str) -> Iterator[Dropped]:
    with of.read() as conn:
        found = older_than(conn, month)
    for whole in found:
        drop = partial(
            _drop_some_on_sqlite, since=month_of(whole.until - _INSTANT), month=month, now=now, actor=actor
        )
        dropped = list(iter(partial(of.transact, drop), None))
        if dropped:
            yield replace(
                whole,
                rows=sum(some.rows for some in dropped),
                first_position=dropped[0].first_position,
                last_position=dropped[-1].last_position,
            )


def check_begun(month: datetime, now: datetime) -> None:
    """Raise `MonthError` for a month that has not begun: dropping what lies before it would take the current one."""
    if month > month_of(now):
        raise MonthError(f"that month has not begun: drop what lies before {now:%Y-%m}, or less")


def was_dropped(conn: sa.Connection, position: int, since: datetime) -> bool:
    """Whether the send log says, at `since` or later, that the row at a position was dropped with its month."""
    query = sa.select(ledger.c.body).where(ledger.c.at >= since, ledger.c.kind == journal.Kind.DROPPED.value)
    return any(_holds(body, position) for body in conn.execute(query).scalars())


def _holds(body: str, position: int) -> bool:
    dropped = journal.read_body(body)
    first, last = dropped["first_position"], dropped["last_position"]
    return first is not None and first <= position <= last


def _take_turns(conn: sa.Connection) -> None:
    conn.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _name(month: datetime) -> str:
    return f"ledger_{month.year:04}_{month.month:02}"


def _months_from(month: datetime) -> Iterator[datetime]:
    for _ in range(MONTHS_AHEAD + 1):
        yield month
        month = next_month(month)


def _not_made(conn: sa.Connection, months: Iterator[datetime] | list[datetime]) -> list[datetime]:
    parts = of_ledger(conn)
    return [month for month in months if not any(part.reaches_into(month) for part in parts)]


def _partition(conn: sa.Connection, name: str, bounds: str, rows: int, size: int, total: int) -> Partition:
    found = _BOUNDS.fullmatch(bounds)
    is_estimate = rows >= 0 and size > _COUNTED_UP_TO_BYTES
    if not is_estimate:
        rows = conn.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar_one()  # noqa: S608
    return Partition(
        name=name,
        since=from_micros(int(found[1])) if found and found[1] else None,
        until=from_micros(int(found[2])) if found else None,
        rows=rows,
        is_estimate=is_estimate,
        size_bytes=total,
    )


def _remove_moved(conn: sa.Connection, name: str) -> None:
    """Remove from the odd dates the rows that the new table has. No other transaction sees it without them."""
    moved = conn.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()  # noqa: S608
    if not moved:
        return
    conn.exec_driver_sql(f"ALTER TABLE {_ODD_DATES} DISABLE TRIGGER USER")
    removed = conn.exec_driver_sql(
        f"DELETE FROM {_ODD_DATES} AS old USING {name} AS new "  # noqa: S608
        "WHERE old.position = new.position AND old.at = new.at"
    )
    conn.exec_driver_sql(f"ALTER TABLE {_ODD_DATES} ENABLE TRIGGER USER")
    if removed.rowcount != moved:
        raise LedgerError(f"{moved} rows were to be moved to {name}, and {removed.rowcount} were found")


def _odd_months(conn: sa.Connection, before: datetime, table: str = _ODD_DATES) -> Iterator[datetime]:
    """The months before one of which there are rows in a table that has all months, oldest first."""
    since = -(2**63)
    oldest = sa.text(f"SELECT min(at) FROM {table} WHERE at >= :since AND at < :before")  # noqa: S608
    while (at := conn.execute(oldest, {"since": since, "before": to_micros(before)}).scalar()) is not None:
        month = month_of(from_micros(at))
        yield month
        since = to_micros(next_month(month))


def _measured(conn: sa.Connection, part: Partition) -> Dropped:
    assert part.until is not None  # noqa: S101  # else it lies before nothing
    return _measure(conn, part.name, part.name, part.since, part.until)


def _measured_month(conn: sa.Connection, month: datetime, table: str) -> Dropped:
    return _measure(conn, table, _name(month), month, next_month(month))


def _measure(conn: sa.Connection, table: str, name: str, since: datetime | None, until: datetime) -> Dropped:
    begin = -(2**63) if since is None else to_micros(since)
    rows, first, last = conn.exec_driver_sql(
        f"SELECT count(*), min(position), max(position) FROM {table} "  # noqa: S608
        f"WHERE at >= {begin} AND at < {to_micros(until)}"
    ).one()
    return Dropped(name=name, since=since, until=until, rows=rows, first_position=first, last_position=last)


def _drop(conn: sa.Connection, *, name: str, month: datetime, now: datetime, actor: str) -> Dropped | None:
    _take_turns(conn)
    part = next((one for one in of_ledger(conn) if one.name == name), None)
    if part is None or part.until is None or not part.lies_before(month):
        return None  # another process was quicker
    if holds.oldest_row(conn, part.until) is not None:
        return None  # a hold was placed meanwhile
    # From here on nobody adds a row to it, so that what is recorded is what is dropped.
    conn.exec_driver_sql(f"LOCK TABLE {name} IN SHARE MODE")
    dropped = _measured(conn, part)
    _record(conn, dropped, removal.runs_in(conn, name), month, now, actor)
    _execute_patiently(conn, f"LOCK TABLE ONLY ledger, ONLY {name} IN ACCESS EXCLUSIVE MODE")
    # INVARIANT(no hold overlooked): whoever places a hold, or links a person, adds a row to the send log before the
    # commit. So it was seen to its end, or comes after ours.
    if holds.oldest_row(conn, part.until) is not None:
        raise LedgerConflict("a legal hold was placed just now")
    conn.exec_driver_sql(f"DROP TABLE {name}")
    return dropped


def _record(
    conn: sa.Connection, dropped: Dropped, runs: removal.Runs, month: datetime, now: datetime, actor: str
) -> None:
    body = dropped.to_json() | {"before": f"{month:%Y-%m}", "actor": actor}
    removal.record(conn, runs, dropped.rows, now, body)


def _drop_some_on_sqlite(
    conn: sa.Connection, *, since: datetime, month: datetime, now: datetime, actor: str
) -> Dropped | None:
    """Delete some rows of the month that begins at `since`; None where none is left, or a legal hold keeps the rest."""
    until = next_month(since)
    if holds.oldest_row(conn, until) is not None:
        return None
    positions = removal.oldest_on_sqlite(conn, since, until)
    if not positions:
        return None
    dropped = Dropped(
        name=_name(since),
        since=since,
        until=until,
        rows=len(positions),
        first_position=positions[0],
        last_position=positions[-1],
    )
    _record(conn, dropped, removal.runs_of(positions), month, now, actor)
    removal.delete_on_sqlite(conn, positions, since, until)
    return dropped


def _execute_patiently(conn: sa.Connection, sql: str, tries: int = _LOCK_TRIES) -> None:
    """Execute what needs a table for itself; where others are slow, let them, and those behind us, go first."""
    for left in reversed(range(tries)):
        try:
            with conn.begin_nested():
                conn.exec_driver_sql(sql)
        except sa.exc.OperationalError as error:
            if not left or getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                raise
            time.sleep(_LOCK_TIMEOUT_MS / 1000)
        else:
            return
