"""Removing rows of the send log for good, so that its proof stays whole.

The hashes of what is removed stay in the seals, and a new row, which is sealed like all others, says which leaves it
were. It says so of all that were ever removed, so that an older row of its kind may go as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.errors import LedgerError
from notifygate.ledger import journal, seals
from notifygate.ledger.schema import ledger, to_micros

Runs = Sequence[tuple[int, int]]
"""Whole numbers in order, as the first and the last of each unbroken run."""

_AT_ONCE = 10_000
_NO_DELETE = "ledger_no_delete"


def record(conn: sa.Connection, positions: Runs, rows: int, now: datetime, body: Mapping[str, Any]) -> None:
    """Add the row that says that the rows at some positions are removed, which is to happen in the same transaction.

    Raises `LedgerError` where one of them has no place in the tree yet.
    """
    leaves = seals.leaves_of(conn, positions)
    if _count(leaves) != rows:
        raise LedgerError(
            "rows that are to be removed are not all sealed yet: workers do that within a second, and 'notifygate log "
            "checkpoint' at once"
        )
    earlier = [
        (int(first), int(last))
        for row in journal.of_kind(conn, journal.Kind.DROPPED)
        for first, last in row.body.get("leaves", ())
    ]
    gone = [list(run) for run in _joined([*earlier, *leaves])]
    row = journal.Row(kind=journal.Kind.DROPPED, at=now, body={**body, "leaves": gone})
    journal.append(conn, [row])


def runs_in(conn: sa.Connection, table: str) -> Runs:
    """The positions of the rows of a part of the send log."""
    query = sa.text(
        "SELECT min(position), max(position) FROM "  # noqa: S608  # a name of the schema
        f"(SELECT position, position - row_number() OVER (ORDER BY position) AS island FROM {table}) AS numbered "
        "GROUP BY island ORDER BY 1"
    )
    return [(int(first), int(last)) for first, last in conn.execute(query)]


def oldest_on_sqlite(conn: sa.Connection, since: datetime, until: datetime) -> list[int]:
    """The positions of some rows dated from one instant on and before another, in order, on SQLite."""
    query = (
        sa.select(ledger.c.position)
        .where(ledger.c.at >= since, ledger.c.at < until)
        .order_by(ledger.c.position)
        .limit(_AT_ONCE)
    )
    return sorted(conn.execute(query).scalars())


def delete_on_sqlite(conn: sa.Connection, positions: Sequence[int], since: datetime, until: datetime) -> None:
    """Delete the rows at some positions, and dated so, on SQLite."""
    trigger = conn.execute(
        sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name"), {"name": _NO_DELETE}
    ).scalar_one()
    # INVARIANT(append-only): the trigger is away within this transaction alone, in which nobody else can write.
    conn.exec_driver_sql(f"DROP TRIGGER {_NO_DELETE}")
    conn.exec_driver_sql(
        "DELETE FROM ledger WHERE position BETWEEN ? AND ? AND at >= ? AND at < ?",
        (positions[0], positions[-1], to_micros(since), to_micros(until)),
    )
    conn.exec_driver_sql(trigger)


def runs_of(positions: Iterable[int]) -> Runs:
    """Positions in order, as runs."""
    return _joined((position, position) for position in positions)


def _joined(runs: Iterable[tuple[int, int]]) -> Runs:
    found: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _count(runs: Runs) -> int:
    return sum(last - first + 1 for first, last in runs)
