"""Many rows at once: what a batch reads and writes is one statement, whose text is the same whatever its size.

Only a text that stays the same is prepared once. Ids therefore travel as one parameter, a JSON array; that also leaves
no limit to how many there may be. What is run for every batch is written with SQLAlchemy, compiled once, and then given
to the driver as it is: for a small batch the library takes longer over a statement than the database.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from notifygate.ledger.schema import Instant, from_micros, to_micros

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


class _IsPair(_IsAmong):
    """Two columns, and a JSON array of pairs of texts as a parameter."""

    inherit_cache = True


@compiles(_IsPair, "sqlite")
def _is_pair_sqlite(element: _IsPair, compiler: SQLCompiler, **settings: Any) -> str:
    first, second, pairs = (compiler.process(clause, **settings) for clause in element.clauses)
    read = f"SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each({pairs})"  # noqa: S608
    return f"({first}, {second}) IN ({read})"


@compiles(_IsPair, "postgresql")
def _is_pair_postgresql(element: _IsPair, compiler: SQLCompiler, **settings: Any) -> str:
    first, second, pairs = (compiler.process(clause, **settings) for clause in element.clauses)
    read = f"SELECT pair->>0, pair->>1 FROM json_array_elements(CAST({pairs} AS json)) AS pair"  # noqa: S608
    return f"({first}, {second}) IN ({read})"


def is_among(
    column: sa.ColumnElement[Any], values: Iterable[str] | sa.BindParameter[str]
) -> sa.ColumnElement[bool]:
    """The condition that a column holds one of some texts, any number of them, or of those that a parameter lists."""
    if not isinstance(values, sa.BindParameter):
        values = sa.literal(_listing(values), sa.Text())
    return _IsAmong(column, values)


def is_pair(
    first: sa.ColumnElement[str], second: sa.ColumnElement[str], pairs: sa.BindParameter[str]
) -> sa.ColumnElement[bool]:
    """The condition that two columns hold one of the pairs that a parameter lists."""
    return _IsPair(first, second, pairs)


def listed(name: str) -> sa.BindParameter[str]:
    """A parameter that takes any number of texts, or of pairs of them."""
    return sa.bindparam(name, type_=sa.Text())


def instant(name: str) -> sa.BindParameter[datetime]:
    """A parameter that takes an aware datetime."""
    return sa.bindparam(name, type_=Instant())


class Query:
    """A query that is asked for every batch: compiled once for each kind of database, and run by the driver itself."""

    def __init__(self, statement: sa.Select[Any]) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, Mapping[str, Any], Sequence[str] | None]] = {}
        columns = list(statement.selected_columns)
        self._read = {
            index: _READERS[type(column.type)]
            for index, column in enumerate(columns)
            if type(column.type) in _READERS
        }

    def __call__(self, conn: sa.Connection, **values: Any) -> list[Any]:
        """Ask with a value for each parameter: a datetime, a number, a text, or texts for one that is `listed`.

        Returns rows with a value for each column, in order. A fault of the database is a `DBAPIError`.
        """
        sql, params, order = self._for(conn.dialect)
        params = {**params, **{name: _told(value) for name, value in values.items()}}
        with _cursor(conn, sql) as cursor:
            cursor.execute(sql, params if order is None else [params[name] for name in order])
            found: list[Any] = cursor.fetchall()
        if not self._read:
            return found
        return [self._row(row) for row in found]

    def _row(self, row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        for index, read in self._read.items():
            if values[index] is not None:
                values[index] = read(values[index])
        return values

    def _for(self, dialect: sa.Dialect) -> tuple[str, Mapping[str, Any], Sequence[str] | None]:
        key = f"{dialect.name}+{dialect.driver}"
        if (known := self._compiled.get(key)) is None:
            compiled = self._statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
            order = list(compiled.positiontup or ()) if compiled.positional else None
            known = self._compiled[key] = (str(compiled), dict(compiled.params), order)
        return known


_READERS: Mapping[type, Callable[[Any], Any]] = {Instant: from_micros, sa.Boolean: bool}


def _told(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_micros(value)
    return value if isinstance(value, str | int) else _listing(value)


def _listing(values: Iterable[Any]) -> str:
    return orjson.dumps(list(values)).decode()


@contextmanager
def _cursor(conn: sa.Connection, sql: str) -> Iterator[Any]:
    """The driver's own cursor, in the transaction of the connection, with the library's errors."""
    if not conn.in_transaction():
        conn.begin()  # as the library would: whoever submits in a transaction of their own may not have begun it
    cursor: Any = None
    try:
        cursor = conn.connection.cursor()
        yield cursor
    except conn.dialect.loaded_dbapi.Error as error:
        told = _without_values(error)
        base = conn.dialect.loaded_dbapi.Error
        # Not chained, for the same reason.
        raise sa.exc.DBAPIError.instance(
            sql, None, told, base, hide_parameters=True, dialect=conn.dialect
        ) from None
    finally:
        if cursor is not None:
            cursor.close()


def insert(conn: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows, which all name the same columns.

    A constraint that refuses one of them is an `IntegrityError`.
    """
    if not rows:
        return
    names = tuple(rows[0])
    read = _reader(table, names)
    if conn.dialect.driver == "psycopg" and not conn.dialect.is_async:
        _copy(conn, _sql_of_copy(table, names), map(read, rows))
    elif conn.dialect.name == "postgresql":
        # Whoever submits in a transaction of their own may use another driver.
        _execute(conn, _sql_of_json(table, names), (_as_json(names, map(read, rows)),))
    else:
        _execute_many(conn, _sql_of_insert(table, names), map(read, rows))


def insert_new(conn: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows, leaving out those that a unique constraint knows already."""
    if not rows:
        return
    names = tuple(rows[0])
    read = _reader(table, names)
    if conn.dialect.name == "postgresql":
        sql = f"{_sql_of_json(table, names)} ON CONFLICT DO NOTHING"
        _execute(conn, sql, (_as_json(names, map(read, rows)),))
    else:
        _execute_many(conn, f"{_sql_of_insert(table, names)} ON CONFLICT DO NOTHING", map(read, rows))


def change(conn: sa.Connection, table: sa.Table, key: str, rows: Sequence[Row]) -> None:
    """Set columns of rows that are there, each found by its `key`; all name the same columns."""
    if not rows:
        return
    names = (*(name for name in rows[0] if name != key), key)
    read = _reader(table, names)
    if conn.dialect.name == "postgresql":
        _execute(conn, _sql_of_change(table, names), (_as_json(names, map(read, rows)),))
    else:
        *changed, last = (_quoted(name) for name in names)
        told = ", ".join(f"{name} = ?" for name in changed)
        sql = f"UPDATE {table.name} SET {told} WHERE {last} = ?"  # noqa: S608  # names of the schema
        _execute_many(conn, sql, map(read, rows))


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


def _without_values(error: Exception) -> Exception:
    """The error without what PostgreSQL adds to its first line: the row at hand, with its address and text."""
    first_line = getattr(getattr(error, "diag", None), "message_primary", None)
    return error if first_line is None else type(error)(first_line)


def _execute(conn: sa.Connection, sql: str, values: Sequence[Any]) -> None:
    """Execute a statement of ours that names its one parameter `%s`, which not every driver does."""
    if conn.dialect.paramstyle == "numeric_dollar":
        sql = sql.replace("%s", "$1")
    with _cursor(conn, sql) as cursor:
        cursor.execute(sql, values)


def _execute_many(conn: sa.Connection, sql: str, rows: Iterable[Sequence[Any]]) -> None:
    with _cursor(conn, sql) as cursor:
        cursor.executemany(sql, list(rows))


def _copy(conn: sa.Connection, sql: str, rows: Iterable[Sequence[Any]]) -> None:
    """Insert by COPY, the fastest way that PostgreSQL has."""
    with _cursor(conn, sql) as cursor, cursor.copy(sql) as copy:
        for row in rows:
            copy.write_row(row)


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
