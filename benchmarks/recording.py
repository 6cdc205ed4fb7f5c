"""What a gateway asks of its database, statement by statement; and asking it again with nothing decided in between.

Recorded where the driver is called, so that nothing which reaches the database is missed, however it was issued.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import psycopg
import sqlalchemy as sa
from psycopg.copy import LibpqWriter

from benchmarks.servers import WrongResult

_NOT_NEEDED = frozenset({"", ";", "select 1"})  # pings


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of the driver, on one of some connections, of which some had a transaction open.

    `given` are parameters, or the data of a COPY.
    """

    connection: int
    is_within_transaction: bool
    call: Literal["execute", "executemany", "copy", "commit", "rollback"]
    statement: Any = None
    given: Any = field(default=None, repr=False)


class Recording:
    """Steps in the order in which they were made, by one thread or several."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._connections: dict[int, int] = {}

    @property
    def connections(self) -> int:
        """How many connections were used."""
        return len(self._connections)

    def clear(self) -> None:
        """Forget the steps made so far."""
        self.steps.clear()

    def add(self, connection: Any, call: Any, statement: Any = None, given: Any = None) -> None:
        text = statement.strip().lower() if isinstance(statement, str) else ""
        if statement is not None and (text in _NOT_NEEDED or text.startswith("pragma")):
            return
        number = self._connections.setdefault(id(connection), len(self._connections))
        within = _is_within_transaction(connection)
        self.steps.append(
            Step(connection=number, is_within_transaction=within, call=call, statement=statement, given=given)
        )


@contextmanager
def recording() -> Iterator[Recording]:
    """Record what is asked on all connections that are opened within the block."""
    made = Recording()

    def connect(dialect: sa.Dialect, record: object, args: Any, settings: dict[str, Any]) -> Any:
        if dialect.name == "postgresql":
            return _postgresql(made).connect(*args, **settings)
        settings["factory"] = _sqlite(made)
        return None

    sa.event.listen(sa.Engine, "do_connect", connect)
    try:
        yield made
    finally:
        sa.event.remove(sa.Engine, "do_connect", connect)


def replay(steps: Iterable[Step], connections: list[Any]) -> None:
    """Ask all of it again, and read every answer to its end.

    Raises `WrongResult` where the recording lacks the beginning or the end of a transaction.
    """
    for step in steps:
        connection = connections[step.connection]
        if _is_within_transaction(connection) != step.is_within_transaction:
            raise WrongResult(
                "a replay is not within a transaction where the gate was, or the other way round"
            )
        if step.call == "commit":
            connection.commit()
        elif step.call == "rollback":
            connection.rollback()
        else:
            _ask(connection.cursor(), step)


def _is_within_transaction(connection: Any) -> bool:
    if isinstance(connection, sqlite3.Connection):
        return connection.in_transaction
    status: psycopg.pq.TransactionStatus = connection.info.transaction_status
    return status is not psycopg.pq.TransactionStatus.IDLE


def _ask(cursor: Any, step: Step) -> None:
    if step.call == "copy":
        with cursor.copy(step.statement) as copy:
            for data in step.given:
                copy.write(data)
    elif step.call == "executemany":
        cursor.executemany(step.statement, step.given)
    else:
        cursor.execute(step.statement, step.given)
        if cursor.description is not None:
            cursor.fetchall()
    cursor.close()


def _sqlite(made: Recording) -> type[sqlite3.Connection]:
    class Cursor(sqlite3.Cursor):
        def execute(self, statement: str, given: Any = (), /) -> Self:
            made.add(self.connection, "execute", statement, given)
            return super().execute(statement, given)

        def executemany(self, statement: str, given: Any, /) -> Self:
            rows = list(given)
            made.add(self.connection, "executemany", statement, rows)
            return super().executemany(statement, rows)

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = None) -> Any:
            return super().cursor(factory or Cursor)

        def execute(self, statement: str, given: Any = (), /) -> sqlite3.Cursor:
            found: sqlite3.Cursor = self.cursor().execute(statement, given)
            return found

        def executemany(self, statement: str, given: Any, /) -> sqlite3.Cursor:
            found: sqlite3.Cursor = self.cursor().executemany(statement, given)
            return found

        def commit(self) -> None:
            made.add(self, "commit")
            super().commit()

        def rollback(self) -> None:
            made.add(self, "rollback")
            super().rollback()

    return Connection


def _postgresql(made: Recording) -> type[psycopg.Connection[Any]]:
    class Writer(LibpqWriter):
        def __init__(self, cursor: psycopg.Cursor[Any], data: list[Any]) -> None:
            super().__init__(cursor)
            self._data = data

        def write(self, data: Any) -> None:
            self._data.append(bytes(data))
            super().write(data)

    class Cursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            made.add(self.connection, "execute", query, params)
            return super().execute(query, params, **more)

        def executemany(self, query: Any, params_seq: Any, **more: Any) -> None:
            rows = list(params_seq)
            made.add(self.connection, "executemany", query, rows)
            super().executemany(query, rows, **more)

        def copy(self, statement: Any, params: Any = None, *, writer: Any = None) -> Any:
            data: list[Any] = []
            made.add(self.connection, "copy", statement, data)
            return super().copy(statement, params, writer=writer or Writer(self, data))

    class Connection(psycopg.Connection[Any]):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.cursor_factory = Cursor

        def commit(self) -> None:
            made.add(self, "commit")
            super().commit()

        def rollback(self) -> None:
            made.add(self, "rollback")
            super().rollback()

    return Connection
