"""The fixtures that integration and acceptance tests share. Servers are real; nothing leaves the machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import config as configs
from support.clock import SimulatedClock
from support.config import driver
from support.databases import Databases, PostgresDatabases, SqliteDatabases
from support.fixtures import ConfigFile, OpenGate, Outbox
from support.postgres import PostgresServer, running_server
from support.redis_server import RedisServer
from support.sinks import MailSink, SmsSink

from notifygate import Gateway


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest in one piece, so that nothing else waits for it at the end."""
    first = ("test_stateful.py", "test_benchmarks.py", "test_soak.py")
    items.sort(key=lambda item: item.path.name not in first)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the user who runs the tests must not reach the gateways under test."""
    for name in list(os.environ):
        if name.startswith("NOTIFYGATE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests of a session (under xdist, of a worker)."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> SqliteDatabases:
    return SqliteDatabases(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: PostgresServer) -> PostgresDatabases:
    return PostgresDatabases(postgres_server)


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> Databases:
    """Once those of SQLite and once those of PostgreSQL, which is not started for tests without it."""
    name = "sqlite_databases" if request.param == "sqlite" else "postgres_databases"
    found: Databases = request.getfixturevalue(name)
    return found


@pytest.fixture
def ledger_url(databases: Databases, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with the tables in place and no rows, once on SQLite and once on PostgreSQL."""
    with databases.fresh(tmp_path) as url:
        yield url


@pytest.fixture
def clock() -> SimulatedClock:
    """A clock that shows a Monday morning until it is moved."""
    return SimulatedClock()


@pytest.fixture
def config_file(tmp_path: Path, ledger_url: str) -> ConfigFile:
    """Writes a config over `ledger_url`: `config_file(gateway={"broker": url}, delivery={...})`.

    It is section 9's policy with file drivers and the broker "none"; tables given are laid over it.
    """

    def write(name: str = "notifygate.toml", **tables: dict[str, Any]) -> Path:
        return configs.write(tmp_path / name, {"gateway": {"ledger": ledger_url}}, tables)

    return write


@pytest.fixture
def open_gate(config_file: ConfigFile, clock: SimulatedClock) -> Iterator[OpenGate]:
    """Opens gateways on the simulated clock, with tables as for `config_file`; closes them at the end."""
    with ExitStack() as opened:

        def open_one(**tables: dict[str, Any]) -> Gateway:
            return opened.enter_context(Gateway.open(config_file(**tables), clock=clock))

        yield open_one


@pytest.fixture
def gate(open_gate: OpenGate) -> Gateway:
    """A gateway on a ledger without rows and the simulated clock."""
    return open_gate()


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """Reads what the file driver has sent so far."""
    path = tmp_path / "outbox.jsonl"

    def read() -> list[dict[str, Any]]:
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    return read


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="ng-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_server(short_folder: Path) -> Iterator[RedisServer]:
    """A Redis server that does not run yet."""
    server = RedisServer(short_folder)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def real_redis(redis_server: RedisServer) -> RedisServer:
    """A Redis server that runs."""
    redis_server.start()
    return redis_server


@pytest.fixture
def smtp_server() -> Iterator[MailSink]:
    """A real SMTP server that keeps what it is sent."""
    sink = MailSink()
    sink.start()
    try:
        yield sink
    finally:
        sink.stop()


@pytest.fixture
def sms_sink() -> Iterator[SmsSink]:
    """A real HTTP server that keeps the text messages it is sent."""
    sink = SmsSink()
    sink.start()
    try:
        yield sink
    finally:
        sink.stop()


@pytest.fixture
def servers(smtp_server: MailSink, sms_sink: SmsSink) -> dict[str, Any]:
    """The table `channels` of a config that sends to both sinks."""
    return {"email": driver(smtp_server.settings), "sms": driver(sms_sink.settings)}
