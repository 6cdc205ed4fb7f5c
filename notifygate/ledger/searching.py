"""Finding the newest rows of the send log by conditions that may fit most rows, or none of ten million.

The newest rows are looked through first, which is enough for what is common. What is left is rare, or was common long
ago: then the indexes decide. PostgreSQL weighs them itself. SQLite does not know how often a value occurs, and would as
soon sort a third of the log as read its newest rows: so it is counted, up to a limit, what each index would find, and
the one that finds least is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from notifygate.ledger.schema import IS_RARE_SQL, WENT_OTHERWISE_SQL, ledger

_LOOKED_THROUGH = {"sqlite": (20_000,), "postgresql": (20_000, 200_000)}
"""How many of the newest positions are looked through, lot after lot, before any index is thought of."""

_FEW = 20_000
"""What an index finds is counted up to here: more than so many rows are not worth looking up one by one."""

_SCOPE = ("merchant", "purpose", "channel")
_SUMMARISED = (*_SCOPE, "policy")
_COMMON_KINDS = ("submitted", "decision", "attempt")
_USUAL_OUTCOMES = ("allow", "accepted")


class _Plain(sa.sql.functions.FunctionElement[Any]):
    """A column that SQLite is to use no index for."""

    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_Plain)
def _just_the_column(element: _Plain, compiler: SQLCompiler, **settings: Any) -> str:
    (column,) = (compiler.process(clause, **settings) for clause in element.clauses)
    return str(column)


@compiles(_Plain, "sqlite")
def _no_index_on_sqlite(element: _Plain, compiler: SQLCompiler, **settings: Any) -> str:
    return f"+{_just_the_column(element, compiler, **settings)}"


def plain(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The column, for conditions that are checked row by row on SQLite."""
    return _Plain(column)


def is_equal(name: str, value: str) -> sa.ColumnElement[bool]:
    """The condition that a column holds a value; on SQLite it leads to an index only where that finds few rows."""
    column = ledger.c[name]
    return (column if name == "message_id" else plain(column)) == value


def implied(wanted: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    """The conditions of partial indexes that follow from those given, in their very texts."""
    texts = []
    if "kind" in wanted and wanted["kind"] not in _COMMON_KINDS:
        texts.append(IS_RARE_SQL)
    if "outcome" in wanted and wanted["outcome"] not in _USUAL_OUTCOMES:
        texts.append(WENT_OTHERWISE_SQL)
    return [sa.text(text) for text in texts]  # type: ignore[misc]  # a text is a condition to `where`


def newest(
    conn: sa.Connection,
    wanted: Mapping[str, str],
    since: datetime | None,
    until: datetime | None,
    *,
    before: int | None,
    limit: int,
) -> list[sa.Row[Any]]:
    """The newest rows below a position that match all conditions."""
    if before is None:
        newest_position = sa.select(ledger.c.position).order_by(ledger.c.position.desc()).limit(1)
        before = (conn.execute(newest_position).scalar() or 0) + 1
    conditions = [is_equal(name, value) for name, value in wanted.items()] + implied(wanted)
    if since is not None:
        conditions.append(plain(ledger.c.at) >= since)
    if until is not None:
        conditions.append(plain(ledger.c.at) < until)
    found: list[sa.Row[Any]] = []
    for lot in _LOOKED_THROUGH[conn.dialect.name]:
        lowest = before - lot
        found += _read(conn, conditions, lowest=lowest, before=before, limit=limit - len(found))
        if len(found) == limit or lowest <= 1:
            return found
        before = lowest
    rest = limit - len(found)
    if conn.dialect.name == "postgresql":
        is_ordered = len(implied(wanted)) > 0 or "reason" in wanted
        is_in_summaries = any(name in wanted for name in _SUMMARISED) and not is_ordered
        return found + _read(
            conn, conditions, lowest=1, before=before, limit=rest, by_summaries=is_in_summaries
        )
    lowest, highest = positions_between(conn, since, until)
    before = min(before, highest + 1)
    if lowest >= before:
        return found
    way = _narrowest(conn, wanted, lowest, before)
    return found + _read(conn, conditions, lowest=lowest, before=before, limit=rest, way=way)


@dataclass(frozen=True, slots=True)
class _Way:
    """An index, as the conditions that lead to it. One that `is_read_whole` is looked through from end to end."""

    conditions: Sequence[sa.ColumnElement[bool]]
    is_read_whole: bool = False

    @property
    def position(self) -> sa.ColumnElement[int]:
        return plain(ledger.c.position) if self.is_read_whole else ledger.c.position

    def between(self, lowest: int, before: int) -> sa.ColumnElement[bool]:
        return sa.and_(self.position >= lowest, self.position < before)


def _narrowest(conn: sa.Connection, wanted: Mapping[str, str], lowest: int, before: int) -> _Way | None:
    """The index that finds least between two positions; None where all rows between them are fewer."""
    least, best = before - lowest, None
    for way in _ways_in(wanted):
        hits = sa.select(ledger.c.position).where(*way.conditions, way.between(lowest, before))
        some = hits.limit(_FEW + 1).subquery()
        count = conn.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
        if count < least:
            least, best = count, way
    return best


def positions_between(conn: sa.Connection, since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """The lowest and the highest position of rows in a span of time; the second is lower where there is none.

    Rows come in the order of their instants but for odd dates, so little but the span is between them. The index of
    instants holds all that is needed, and SQLite is kept from reading whole rows in the order of their positions.
    """
    lowest, highest = sa.select(sa.func.min(ledger.c.position)), sa.select(sa.func.max(ledger.c.position))
    if since is not None and until is not None:
        between = ledger.c.at >= since, ledger.c.at < until
        lowest = sa.select(sa.func.min(plain(ledger.c.position))).where(*between)
        highest = sa.select(sa.func.max(plain(ledger.c.position))).where(*between)
    elif since is not None:
        lowest = sa.select(sa.func.min(plain(ledger.c.position))).where(ledger.c.at >= since)
    elif until is not None:
        highest = sa.select(sa.func.max(plain(ledger.c.position))).where(ledger.c.at < until)
    first, last = conn.execute(lowest).scalar(), conn.execute(highest).scalar()
    return (1, 0) if first is None or last is None else (first, last)


def _ways_in(wanted: Mapping[str, str]) -> list[_Way]:
    """The indexes that may serve."""
    ways: list[_Way] = []
    column = ledger.c
    scope = [column[name] == wanted[name] for name in _SCOPE if name in wanted]
    if "merchant" in wanted:
        ways.append(_Way(scope))
    elif "purpose" in wanted:
        is_any = column.merchant.in_(_merchants()) | column.merchant.is_(None)
        ways.append(_Way([*scope, is_any]))
    ways += [_Way([column[name] == wanted[name]]) for name in ("policy", "reason") if name in wanted]
    for name, usual in (("outcome", _USUAL_OUTCOMES), ("kind", _COMMON_KINDS)):
        if name in wanted and wanted[name] not in usual:
            ways.append(_Way([column[name] == wanted[name], *implied({name: wanted[name]})]))
    if not ways and scope:  # a channel alone: one of two, so that few logs have only a few rows with it
        ways.append(_Way(scope, is_read_whole=True))
    return ways


def _merchants() -> sa.Select[Any]:
    """All merchants in the log, by one look into the index for each."""
    first = sa.select(sa.func.min(ledger.c.merchant).label("name")).cte("merchants", recursive=True)
    after = (
        sa.select(sa.func.min(ledger.c.merchant)).where(ledger.c.merchant > first.c.name).scalar_subquery()
    )
    all_of_them = first.union_all(sa.select(after).where(first.c.name.is_not(None)))
    return sa.select(all_of_them.c.name).where(all_of_them.c.name.is_not(None))


def _read(
    conn: sa.Connection,
    conditions: Sequence[sa.ColumnElement[bool]],
    *,
    lowest: int,
    before: int,
    limit: int,
    way: _Way | None = None,
    by_summaries: bool = False,
) -> list[sa.Row[Any]]:
    position = ledger.c.position
    between = (position >= lowest, position < before)
    order = position.desc()
    if way is not None:
        # Positions alone are sorted, not whole rows.
        chosen = sa.select(position).where(*way.conditions, *conditions, way.between(lowest, before))
        chosen = chosen.order_by(way.position.desc()).limit(limit)
        query = sa.select(ledger).where(position.in_(chosen.scalar_subquery()))
    else:
        query = sa.select(ledger).where(*conditions, *between).limit(limit)
        if by_summaries:
            # Else the key would give the order, by reading all rows from the newest on.
            order = (position + 0).desc()
    return list(conn.execute(query.order_by(order)).all())
