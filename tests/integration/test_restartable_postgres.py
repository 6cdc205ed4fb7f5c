"""The PostgreSQL server that tests kill: it must be a fair test of what survives, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from support.postgres import RestartablePostgres, restartable_server
from support.processes import environment, wait_until


def connected(server: RestartablePostgres, *, autocommit: bool = True) -> psycopg.Connection[tuple[int]]:
    return psycopg.connect(server.url("rows").replace("+psycopg", ""), autocommit=autocommit)


def test_committed_rows_outlive_a_kill_and_others_do_not() -> None:
    with restartable_server() as server:
        server.start()
        server.create("rows")
        with connected(server) as conn:
            conn.execute("CREATE TABLE numbers (number INT)")
            conn.execute("INSERT INTO numbers VALUES (1)")
        unfinished = connected(server, autocommit=False)
        unfinished.execute("INSERT INTO numbers VALUES (2)")

        server.kill()

        with pytest.raises(psycopg.OperationalError):
            unfinished.execute("SELECT 1")
        unfinished.close()
        with pytest.raises(psycopg.OperationalError):
            connected(server)
        server.start()
        with connected(server) as conn:
            assert conn.execute("SELECT number FROM numbers").fetchall() == [(1,)]


def test_nothing_is_left_of_it_where_the_test_itself_is_killed(tmp_path: Path) -> None:
    script = """
from support.postgres import restartable_server
with restartable_server() as server:
    server.start()
    server.kill()
    server.start()
    print(server._folder, server._process.pid, flush=True)
    input()
"""
    test = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment(tmp_path / "none.toml"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert test.stdout is not None
        folder, pid = test.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
    finally:
        test.kill()
        test.communicate()

    wait_until(lambda: not psutil.pid_exists(int(pid)) and not Path(folder).exists(), what="all is tidied up")
