"""What statements read to answer: whole tables, or what an index finds for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from notifygate.ledger import rows, schema
from support.tables import plain_engine

_PLANNED = ("SELECT", "UPDATE", "DELETE", "WITH")
_TABLES = frozenset(schema.metadata.tables)
_PARTIAL = frozenset(
    index.name
    for table in schema.metadata.tables.values()
    for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None
)
"""Indexes that hold few rows, all of which may be read."""
_SCAN = re.compile(r"SCAN (\w+?)(?:_\d+)?(?: USING (?:COVERING )?INDEX (\w+))?$")

Statements = dict[str, Any]
"""Statements by their text, with the parameters that each was first executed with."""


@contextmanager
def recorded(engine: sa.Engine) -> Iterator[Statements]:
    """Yield the statements with a plan that an engine executes in the block."""
    seen: Statements = {}

    def note(sql: str, parameters: Any) -> None:
        if sql.lstrip().upper().startswith(_PLANNED):
            seen.setdefault(sql, tuple(parameters) if isinstance(parameters, list) else parameters)

    def record(conn: sa.Connection, cursor: Any, sql: str, parameters: Any, context: Any, many: bool) -> None:
        note(sql, parameters[0] if many else parameters)

    class Recording:
        """The driver's own cursor, which the ledger uses for what it does most."""

        def __init__(self, cursor: Any) -> None:
            self._cursor = cursor

        def execute(self, sql: str, parameters: Any) -> Any:
            note(sql, parameters)
            return self._cursor.execute(sql, parameters)

        def executemany(self, sql: str, parameters: Any) -> Any:
            note(sql, parameters[0])
            return self._cursor.executemany(sql, parameters)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cursor, name)

    @contextmanager
    def recording(conn: sa.Connection, sql: str) -> Iterator[Recording]:
        with plain(conn, sql) as cursor:
            yield Recording(cursor)

    plain = rows._cursor
    sa.event.listen(engine, "before_cursor_execute", record)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "_cursor", recording)
        yield seen
    sa.event.remove(engine, "before_cursor_execute", record)


def scans(url: str, statements: Statements) -> list[str]:
    """Which statements read a whole table: a line each, with what is read and the statement."""
    find = _scans_of_sqlite if url.startswith("sqlite") else _scans_of_postgresql
    with plain_engine(url) as engine, engine.connect() as conn:
        return [
            f"{found}: {' '.join(sql.split())}"
            for sql, parameters in statements.items()
            for found in find(conn, sql, parameters)
            if not _reads_the_end(sql)
        ]


def sorts(url: str, statements: Statements) -> list[str]:
    """Which statements sort what they read, where an index might give it in order."""
    explain, sort = ("EXPLAIN QUERY PLAN", "TEMP B-TREE") if url.startswith("sqlite") else ("EXPLAIN", "Sort")
    with plain_engine(url) as engine, engine.connect() as conn:
        if not url.startswith("sqlite"):
            conn.exec_driver_sql("SET enable_sort = off")
        return [
            f"{line}: {' '.join(sql.split())}"
            for sql, parameters in statements.items()
            for *_, line in conn.exec_driver_sql(f"{explain} {sql}", parameters)
            if sort in line
        ]


def _reads_the_end(sql: str) -> bool:
    """Whether a statement asks for the newest rows of the send log or its seals, which come first in their keys.

    Of the seals it may ask for the newest that an earlier one has settled, which is one of the last few. The table of
    keys has a dozen rows.
    """
    newest = r"FROM (ledger\s+|checkpoints\s+|seals\s+(WHERE .+\s+)?)ORDER BY \w+\.\w+ DESC\s+LIMIT"
    return bool(re.search(rf"{newest}|FROM keys\s", sql, re.DOTALL))


def _scans_of_sqlite(conn: sa.Connection, sql: str, parameters: Any) -> Iterator[str]:
    for *_, detail in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters):
        found = _SCAN.match(detail)
        if found and found[1] in _TABLES and found[2] not in _PARTIAL:
            yield detail


def _scans_of_postgresql(conn: sa.Connection, sql: str, parameters: Any) -> Iterator[str]:
    # In tables as small as those of a test reading all of it is cheapest. Forbidden to do so, it does so only where no
    # index serves.
    for cheaper in ("seqscan", "hashjoin", "mergejoin"):
        conn.exec_driver_sql(f"SET enable_{cheaper} = off")
    plan = conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters).scalar_one()
    (top,) = json.loads(plan) if isinstance(plan, str) else plan
    yield from _scans_in(conn, top["Plan"])


def _scans_in(conn: sa.Connection, node: Mapping[str, Any]) -> Iterator[str]:
    kind, index = node["Node Type"], node.get("Index Name")
    if kind == "Seq Scan":
        yield f"Seq Scan on {node['Relation Name']}"
    elif index is not None and "Index Cond" not in node and not _is_partial(conn, index):
        yield f"{kind} of all of {index}"
    children: Sequence[Mapping[str, Any]] = node.get("Plans", ())
    for child in children:
        yield from _scans_in(conn, child)


def _is_partial(conn: sa.Connection, index: str) -> bool:
    found = sa.text("SELECT indpred IS NOT NULL FROM pg_index WHERE indexrelid = CAST(:name AS regclass)")
    return bool(conn.execute(found, {"name": index}).scalar_one())
