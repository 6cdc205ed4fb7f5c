"""How much waits, and how long: what an operator watches, read from the ledger with few and bounded steps.

Every count stops at `AT_MOST`: a backlog of a million must not make its being watched a burden. Queries use the very
texts of the partial indexes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from notifygate.ledger import seals
from notifygate.ledger.schema import (
    HELD_SQL,
    IN_DOUBT_SQL,
    SERVICE_SQL,
    WAITING_SQL,
    messages,
    reservations,
)

AT_MOST = 100_000
"""No count goes further."""

_STATEMENT_TIMEOUT_MS = 2_000
_IS_WAITING = sa.text(WAITING_SQL)
_IS_SERVICE = sa.text(SERVICE_SQL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is due in one queue; `age` is that of the oldest, None where there is none."""

    due: int
    age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """One reading. Counts of `AT_MOST` mean at least so many."""

    service: Backlog
    bulk: Backlog
    deferred: int
    in_doubt: int
    held: int
    unsealed: int


def read(conn: sa.Connection, now: datetime) -> Gauges:
    """Read all gauges: a few statements, each over one index."""
    if conn.dialect.name == "postgresql":
        conn.execute(sa.text(f"SET LOCAL statement_timeout = {_STATEMENT_TIMEOUT_MS}"))
    return Gauges(
        service=_backlog(conn.execute(service_due(now)).one(), now),
        bulk=_backlog(conn.execute(bulk_due(now)).one(), now),
        deferred=_count(conn, deferred(now)),
        in_doubt=_count(conn, in_doubt()),
        held=_count(conn, held()),
        unsealed=_unsealed(conn),
    )


def _unsealed(conn: sa.Connection) -> int:
    """How many rows wait for their seal; where seals were altered, so that nothing is sealed any more, the most."""
    try:
        return seals.count_unsealed(conn, AT_MOST)
    except KeyError:
        return AT_MOST


def service_due(now: datetime) -> sa.Select[int, Any]:
    """How many messages of the class service are due, and since when the first has been.

    By their own index, so that they are seen however long the other queue is. It is in the order in which the scheduler
    looks at them, which all but a few of those due come first in.
    """
    columns = messages.c
    first = (
        sa.select(columns.due_at).where(_IS_WAITING, _IS_SERVICE).order_by(columns.sweep_at).limit(AT_MOST)
    ).subquery()
    is_due = first.c.due_at <= now
    return sa.select(sa.func.count(sa.case((is_due, 1))), sa.func.min(sa.case((is_due, first.c.due_at))))


def bulk_due(now: datetime) -> sa.Select[int, Any]:
    """The same of all other messages, among the first so many of all that are due."""
    columns = messages.c
    is_service = sa.case((_IS_SERVICE, 1), else_=0).label("is_service")
    first = (
        sa.select(columns.due_at, is_service)
        .where(_IS_WAITING, columns.due_at <= now)
        .order_by(columns.due_at)
        .limit(AT_MOST)
    ).subquery()
    is_bulk = first.c.is_service == 0
    return sa.select(sa.func.count(sa.case((is_bulk, 1))), sa.func.min(sa.case((is_bulk, first.c.due_at))))


def deferred(now: datetime) -> sa.Select[Any]:
    """Messages that wait for a later time."""
    return _counted(sa.select(messages.c.due_at).where(_IS_WAITING, messages.c.due_at > now))


def in_doubt() -> sa.Select[Any]:
    """Messages that may or may not have arrived."""
    return _counted(sa.select(messages.c.message_id).where(sa.text(IN_DOUBT_SQL)))


def held() -> sa.Select[Any]:
    """Reservations whose end is not recorded."""
    return _counted(sa.select(reservations.c.lease_until).where(sa.text(HELD_SQL)))


def _counted(rows: sa.Select[Any]) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(rows.limit(AT_MOST).subquery())


def _count(conn: sa.Connection, query: sa.Select[Any]) -> int:
    return int(conn.execute(query).scalar_one())


def _backlog(row: sa.Row[int, Any], now: datetime) -> Backlog:
    due, oldest = row
    return Backlog(due=due, age=None if oldest is None else now - oldest)
