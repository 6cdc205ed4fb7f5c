"""Databases for ledgers, fresh for each test: empty, or with the tables in place, which is a good deal quicker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from notifygate.ledger.database import Ledger
from support.postgres import PostgresServer

_TEMPLATE = "ledger_template"


def migrate(url: str) -> None:
    """Give an empty database its tables, and no row in any of them."""
    ledger = Ledger(url)
    try:
        ledger.upgrade()
    finally:
        ledger.close()


class SqliteDatabases:
    """Files in the folder of each test."""

    def __init__(self, folder: Path) -> None:
        template = folder / "template.db"
        migrate(f"sqlite:///{template}")
        self._migrated = template.read_bytes()

    @contextmanager
    def fresh(self, folder: Path, *, empty: bool = False) -> Iterator[str]:
        """Yield the URL of a database in that folder; with `empty`, of one that does not exist yet."""
        path = folder / "ledger.db"
        if not empty:
            path.write_bytes(self._migrated)
        yield f"sqlite:///{path}"


class PostgresDatabases:
    """Databases of one server."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        server.create(_TEMPLATE)
        migrate(server.url(_TEMPLATE))

    @contextmanager
    def fresh(self, folder: Path, *, empty: bool = False) -> Iterator[str]:
        """Yield the URL of a database that is dropped at the end of the block."""
        with self._server.database(template=None if empty else _TEMPLATE) as url:
            yield url


Databases = SqliteDatabases | PostgresDatabases
