"""The servers of a run, with full durability, and the databases on them. All end with this process, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from support.databases import migrate
from support.postgres import running_server
from support.redis_server import RedisServer
from support.tables import plain_engine

from benchmarks.workload import write_config
from notifygate.ledger.database import Ledger

Kind = Literal["sqlite", "postgresql"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")


class WrongResult(Exception):
    """Something was measured that did not do what it should have done, so that its speed means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One ledger's database, with a folder of its own that holds the config of a gateway over it."""

    kind: Kind
    name: str
    url: str
    folder: Path
    broker: str

    def config(self, *, queued: bool = False) -> Path:
        """The config of a gateway over this ledger, with the run's Redis as its queue or with none."""
        folder = self.folder / ("queued" if queued else "plain")
        folder.mkdir(exist_ok=True)
        return write_config(folder, ledger=self.url, broker=self.broker if queued else "none")


class Stage:
    """The folder of a run, its Redis, and its databases. PostgreSQL is started when it is first wanted."""

    def __init__(self, folder: Path, redis: RedisServer, group: int, postgres: Iterator[sa.Engine]) -> None:
        self.folder = folder
        self.redis = redis
        self.group = group
        """The process group of all that must not outlive this process."""
        self._postgres = postgres
        self._admin: sa.Engine | None = None
        self._numbers = count(1)

    def empty(self, kind: Kind) -> Database:
        """A new database without tables."""
        database = self._named(kind)
        if kind == "postgresql":
            self._order(f'CREATE DATABASE "{database.name}"')
        return database

    def prepared(self, kind: Kind) -> Database:
        """A new database with the ledger's tables and its keys, and no other rows."""
        database = self.empty(kind)
        migrate(database.url)
        ledger = Ledger(database.url)
        try:
            ledger.prepare()
        finally:
            ledger.close()
        return database

    def copied(self, original: Database) -> Database:
        """A copy of a database that nobody is connected to."""
        database = self._named(original.kind)
        if original.kind == "postgresql":
            self._order(f'CREATE DATABASE "{database.name}" TEMPLATE "{original.name}"')
        else:
            if Path(f"{_file(original)}-wal").exists():
                raise RuntimeError("somebody is connected to the database that is to be copied")
            shutil.copyfile(_file(original), _file(database))
        self.settle(database)
        return database

    def drop(self, database: Database) -> None:
        if database.kind == "postgresql":
            self._order(f'DROP DATABASE "{database.name}" WITH (FORCE)')
        shutil.rmtree(database.folder)

    def settle(self, database: Database) -> None:
        """Let what was written so far reach the disk now, and not in the middle of a measurement."""
        if database.kind == "postgresql":
            self._order("CHECKPOINT")
        else:
            with plain_engine(database.url) as engine, engine.connect() as conn:
                conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            with _file(database).open("rb+") as file:
                os.fsync(file.fileno())

    def _named(self, kind: Kind) -> Database:
        name = f"bench_{next(self._numbers)}"
        folder = self.folder / name
        folder.mkdir()
        url = f"sqlite:///{folder / 'ledger.db'}"
        if kind == "postgresql":
            url = self._server().url.set(database=name).render_as_string(hide_password=False)
        return Database(kind=kind, name=name, url=url, folder=folder, broker=self.redis.url)

    def _order(self, statement: str) -> None:
        with self._server().connect() as conn:
            conn.exec_driver_sql(statement)

    def _server(self) -> sa.Engine:
        if self._admin is None:
            self._admin = next(self._postgres)
        return self._admin


def _file(database: Database) -> Path:
    return database.folder / "ledger.db"


@contextmanager
def opened() -> Iterator[Stage]:
    """Start what a run needs; end it with the block, and remove all files."""
    with ExitStack() as started:
        folder = Path(tempfile.mkdtemp(prefix="ngbench-"))
        started.callback(shutil.rmtree, folder, ignore_errors=True)
        group = started.enter_context(_group_that_ends_with_us())
        redis = RedisServer(folder, process_group=group)
        started.callback(redis.kill)
        redis.start()
        yield Stage(folder, redis, group, _durable_postgres(started))


def _durable_postgres(started: ExitStack) -> Iterator[sa.Engine]:
    """The server's own engine, once it runs and keeps whatever it has committed."""
    url = started.enter_context(running_server()).url("postgres")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as conn:
        # The tests' server goes without, which is the one thing that they and a benchmark must not share.
        for setting in ("fsync", "synchronous_commit"):
            conn.exec_driver_sql(f"ALTER SYSTEM SET {setting} = on")
        conn.exec_driver_sql("SELECT pg_reload_conf()")
    with engine.connect() as conn:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            found = conn.exec_driver_sql(f"SHOW {setting}").scalar_one()
            if found != "on":
                raise WrongResult(f"PostgreSQL runs with {setting} = {found}")
    yield engine


@contextmanager
def _group_that_ends_with_us() -> Iterator[int]:
    """A process group for others to join, all of which is killed at the end of the block, or when we are."""
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", "cat; kill -9 0"],
        stdin=subprocess.PIPE,  # it ends when we do: nobody else holds the other end
        stdout=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield keeper.pid
    finally:
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.communicate()
