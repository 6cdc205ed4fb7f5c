"""Many rows at once: what a batch reads and writes is one statement, whose text is the same whatever its size.

Only a text that stays the same is prepared once. Ids therefore travel as one parameter, a JSON array; that also leaves
no limit to how many there may be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from notifygate.ledger.schema import Instant, to_micros

Row = Mapping[str, Any]
_Read = Callable[[Row], list[Any]]


class _IsAmong(sa.sql.functions.FunctionElement[bool]):
    """A column, and a JSON array of texts as a parameter."""

    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: object = None) -> _IsAmong:
        """Itself: for SQLite the library would make `... = 1` of it, which no index serves."""
        return self


@compiles(_IsAmong, "sqlite")
def _is_among_sqlite(element: _IsAmong, compiler: SQLCompiler, **settings: Any) -> str:
    column, values = (compiler.process(clause, **settings) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # made by the compiler


@compiles(_IsAmong, "postgresql")
def _is_among_postgresql(element: _IsAmong, compiler: SQLCompiler, **settings: Any) -> str:
    column, values = (compiler.process(clause, **settings) for clause in element.clauses)
    return f"{column} = ANY (ARRAY(SELECT json_array_elements_text(CAST({values} AS json))))"


def is_among(column: sa.ColumnElement[Any], values: Iterable[str]) -> sa.ColumnElement[bool]:
    """The condition that a column holds one of some texts, any number of them."""
    return _IsAmong(column, sa.literal(orjson.dumps(list(values)).decode(), sa.Text()))


def is_pair(
    first: sa.ColumnElement[str], second: sa.ColumnElement[str], pairs: Iterable[tuple[str, str]]
) -> sa.ColumnElement[bool]:
    """The condition that two columns hold one of some pairs, in a form that makes SQLite use their index.

    Of `(a, b) IN (...)` it makes a scan of the whole table.
    """
    seconds: defaultdict[str, list[str]] = defaultdict(list)
    for one, other in pairs:
        seconds[one].append(other)
    return sa.or_(*(sa.and_(first == one, is_among(second, others)) for one, others in seconds.items()))


def insert(conn: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows, which all name the same columns.

    A constraint that refuses one of them is an `IntegrityError`.
    """
    if not rows:
        return
    names = tuple(rows[0])
    read = _reader(table, names)
    if conn.dialect.driver == "psycopg":
        _copy(conn, _sql_of_copy(table, names), map(read, rows))
    elif (
        conn.dialect.name == "postgresql"
    ):  # whoever submits in a transaction of their own may use another driver
        conn.exec_driver_sql(_sql_of_json(table, names), (_as_json(names, map(read, rows)),))
    else:
        conn.exec_driver_sql(_sql_of_insert(table, names), [tuple(read(row)) for row in rows])


def insert_new(conn: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows, leaving out those that a unique constraint knows already."""
    if not rows:
        return
    names = tuple(rows[0])
    read = _reader(table, names)
    if conn.dialect.name == "postgresql":
        sql = f"{_sql_of_json(table, names)} ON CONFLICT DO NOTHING"
        conn.exec_driver_sql(sql, (_as_json(names, map(read, rows)),))
    else:
        sql = f"{_sql_of_insert(table, names)} ON CONFLICT DO NOTHING"
        conn.exec_driver_sql(sql, [tuple(read(row)) for row in rows])


def change(conn: sa.Connection, table: sa.Table, key: str, rows: Sequence[Row]) -> None:
    """Set columns of rows that are there, each found by its `key`; all name the same columns."""
    if not rows:
        return
    names = (*(name for name in rows[0] if name != key), key)
    read = _reader(table, names)
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(_sql_of_change(table, names), (_as_json(names, map(read, rows)),))
    else:
        *changed, last = (_quoted(name) for name in names)
        told = ", ".join(f"{name} = ?" for name in changed)
        conn.exec_driver_sql(
            f"UPDATE {table.name} SET {told} WHERE {last} = ?",  # noqa: S608  # names of the schema
            [tuple(read(row)) for row in rows],
        )


@lru_cache(maxsize=64)
def _reader(table: sa.Table, names: tuple[str, ...]) -> _Read:
    """What turns a row into the values that the driver takes, in the order of `names`."""
    pick = itemgetter(*names)
    instants = [index for index, name in enumerate(names) if isinstance(table.c[name].type, Instant)]

    def read(row: Row) -> list[Any]:
        values = list(pick(row))
        for index in instants:
            if values[index] is not None:
                values[index] = to_micros(values[index])
        return values

    return read


def _copy(conn: sa.Connection, sql: str, rows: Iterable[Sequence[Any]]) -> None:
    """Insert by COPY, the fastest way that PostgreSQL has."""
    driver: Any = conn.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(sql) as copy:
            for row in rows:
                copy.write_row(row)
    except conn.dialect.loaded_dbapi.Error as error:
        raise sa.exc.DBAPIError.instance(
            sql, None, error, conn.dialect.loaded_dbapi.Error, hide_parameters=True, dialect=conn.dialect
        ) from error


def _as_json(names: Collection[str], rows: Iterable[Sequence[Any]]) -> str:
    return orjson.dumps([dict(zip(names, row, strict=True)) for row in rows]).decode()


@lru_cache(maxsize=64)
def _sql_of_insert(table: sa.Table, names: tuple[str, ...]) -> str:
    places = ", ".join("?" for _ in names)
    return f"INSERT INTO {table.name} ({_listed(names)}) VALUES ({places})"  # noqa: S608  # names of the schema


@lru_cache(maxsize=64)
def _sql_of_copy(table: sa.Table, names: tuple[str, ...]) -> str:
    return f"COPY {table.name} ({_listed(names)}) FROM STDIN"


@lru_cache(maxsize=64)
def _sql_of_json(table: sa.Table, names: tuple[str, ...]) -> str:
    return (
        f"INSERT INTO {table.name} ({_listed(names)}) "  # noqa: S608  # names of the schema
        f"SELECT {_listed(names)} FROM json_to_recordset(%s) AS new ({_typed(table, names)})"
    )


@lru_cache(maxsize=64)
def _sql_of_change(table: sa.Table, names: tuple[str, ...]) -> str:
    *changed, key = names
    told = ", ".join(f"{_quoted(name)} = new.{_quoted(name)}" for name in changed)
    return (
        f"UPDATE {table.name} SET {told} "  # noqa: S608  # names of the schema
        f"FROM json_to_recordset(%s) AS new ({_typed(table, names)}) "
        f"WHERE {table.name}.{_quoted(key)} = new.{_quoted(key)}"
    )


def _typed(table: sa.Table, names: Iterable[str]) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # untyped in the library
    return ", ".join(f"{_quoted(name)} {table.c[name].type.compile(dialect)}" for name in names)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_quoted(name) for name in names)


def _quoted(name: str) -> str:
    return f'"{name}"'
