"""Removing rows of the send log for good, so that its proof stays whole.

The hashes of what is removed stay in the seals, and a new row, which is sealed like all others, says which leaves it
were. It says so of all that were ever removed, so that an older row of its kind may go as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from notifygate.errors import LedgerError
from notifygate.ledger import journal, seals
from notifygate.ledger.schema import from_micros, ledger, to_micros

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
    earlier = [run for told in told_of(conn) if not told.fault for run in told.leaves]
    gone = [list(run) for run in joined([*earlier, *leaves])]
    row = journal.Row(kind=journal.Kind.DROPPED, at=now, body={**body, "leaves": gone})
    journal.append(conn, [row])


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one row says of a removal.

    `leaves` are those of all removals up to it, as runs that do not touch. `earlier` is how many of them were removed
    by removals whose own rows are gone. Where the row says what cannot be, `fault` is what that is.
    """

    position: int
    leaf: int | None
    at: datetime | None
    actor: str = "?"
    part: str = "?"
    until: datetime | None = None
    """What was removed is older."""
    rows: int = 0
    leaves: Runs = ()
    earlier: int = 0
    fault: str = ""


def told_of(conn: sa.Connection) -> Iterator[Told]:
    """What the send log says that was removed from it, oldest first, by rows that are leaves or are yet to be.

    Raises `KeyError` where the last seal is not whole.
    """
    settled, size = seals.settled_up_to(conn), seals.size(conn)
    known: Runs | None = None
    for row in seals.rows_of_kind(conn, journal.Kind.DROPPED.value):
        try:
            sealed = seals.leaf_of(conn, row.position)
        except KeyError:
            yield Told(position=row.position, leaf=None, at=None, fault="may be in a seal that is not whole")
            continue
        if row.position <= settled if sealed is None else row.hash != sealed[1]:
            continue  # it was put in or altered: a finding of its own
        leaf, end = (None, size) if sealed is None else (sealed[0], sealed[0])
        try:
            told = _read(row, leaf)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            yield Told(position=row.position, leaf=leaf, at=None, fault="cannot be read")
            continue
        told = _judged(told, known, end)
        if not told.fault:
            known = told.leaves
        yield told


def _read(row: seals.SealedRow, leaf: int | None) -> Told:
    found = orjson.loads(row.data)
    body = found["body"]
    until = body.get("until")
    leaves = [(int(first), int(last)) for first, last in body.get("leaves", ())]
    return Told(
        position=row.position,
        leaf=leaf,
        at=from_micros(found["at"]),
        actor=str(body.get("actor")),
        part=str(body.get("partition")),
        until=None if until is None else datetime.fromisoformat(until),
        rows=int(body["rows"]),
        leaves=joined(leaves) if "leaves" in body else (),
    )


def _judged(told: Told, known: Runs | None, end: int) -> Told:
    """The same with what is wrong about it: `known` are the leaves of those before it, `end` is the first after them.

    What was removed before the log was sealed has no leaves.
    """
    if not told.leaves:
        return replace(told, leaves=known or ())
    leaves = joined([*(known or ()), *told.leaves])
    added = _count(leaves) - _count(known or ())
    if told.leaves[0][0] < 0 or told.leaves[-1][1] >= end:
        return replace(told, fault="names rows that came after it")
    if added < told.rows or (known is not None and added > told.rows):
        return replace(told, fault=f"names {added:,} rows, and says that {told.rows:,} were removed")
    return replace(told, leaves=leaves, earlier=added - told.rows)


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
    return joined((position, position) for position in positions)


def joined(runs: Iterable[tuple[int, int]]) -> Runs:
    """The same numbers, as runs that do not touch."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _count(runs: Runs) -> int:
    return sum(last - first + 1 for first, last in runs)
