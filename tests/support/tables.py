"""Looking into a ledger's database from outside: not by the code that is under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


@contextmanager
def plain_engine(url: str) -> Iterator[sa.Engine]:
    """An engine as any application would make it, with none of the ledger's own settings."""
    engine = sa.create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def table_names(conn: sa.Connection) -> list[str]:
    """The tables of the schema, without the parts that one of them may be kept in."""
    return [name for name in sa.inspect(conn).get_table_names() if not name.startswith("ledger_")]


def row_counts(url: str) -> dict[str, int]:
    """How many rows each table has."""
    with plain_engine(url) as engine, engine.connect() as conn:
        return {
            name: conn.execute(sa.text(f'SELECT count(*) FROM "{name}"')).scalar_one()
            for name in table_names(conn)
        }


def contents(url: str) -> dict[str, list[dict[str, object]]]:
    """All rows of all tables, as the database has them."""
    with plain_engine(url) as engine, engine.connect() as conn:
        return {
            name: [dict(row._mapping) for row in conn.execute(sa.text(f'SELECT * FROM "{name}"'))]
            for name in table_names(conn)
        }
