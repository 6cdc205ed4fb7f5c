"""The stage: a folder, the ledger, Redis, the sinks, the nursery. All end with this process, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from support import config as configs
from support.config import driver
from support.databases import migrate
from support.postgres import RestartablePostgres, restartable_server
from support.processes import environment
from support.redis_server import RedisServer

from soak.story import CONFIG
from soak.submitting import Plan

_DATABASE = "soak"
_DELIVERY = {
    "lease": "4s",
    "requeue_after": "2s",
    "retry_after": "1s",
    "retry_at_most": "3s",
    "max_attempts": 40,
}
_TIMEOUT = "2s"


class Nursery:
    """Our end of the nursery: gives it orders, from any thread."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._answer()

    def order(self, do: str, to: str) -> dict[str, Any]:
        """Have something done, and return what it answers. `done` says whether there was anybody to do it to."""
        with self._lock:
            stdin = self._process.stdin
            assert stdin is not None
            stdin.write(json.dumps({"do": do, "to": to}).encode() + b"\n")
            stdin.flush()
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the nursery has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Stage:
    """Everything that runs. `postgres` is None where the ledger is SQLite."""

    def __init__(
        self, plan: Plan, redis: RedisServer, postgres: RestartablePostgres | None, nursery: Nursery
    ) -> None:
        self.plan = plan
        self.redis = redis
        self.postgres = postgres
        self.nursery = nursery
        self.keeps_folder = False

    def arrivals(self) -> tuple[Path, Path]:
        """The lists of the two sinks."""
        return self.plan.folder / "email.arrivals", self.plan.folder / "sms.arrivals"


@contextmanager
def opened(*, ledger: str, seed: int, workers: int, threads: int, lanes: int) -> Iterator[Stage]:
    """Start everything; end it with the block.

    The folder is kept where `keeps_folder` was set, or where the block raises: then a note of the error names it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ngsoak-"))
    keeps_folder = False
    try:
        with ExitStack() as started:
            stage = _opened(folder, started, ledger, seed, workers, threads, lanes)
            yield stage
            keeps_folder = stage.keeps_folder
    except Exception as error:
        keeps_folder = True
        error.add_note(f"what is left of the run is in {folder}")
        raise
    finally:
        if not keeps_folder:
            shutil.rmtree(folder, ignore_errors=True)


def _opened(
    folder: Path, started: ExitStack, ledger: str, seed: int, workers: int, threads: int, lanes: int
) -> Stage:
    postgres = None
    url = f"sqlite:///{folder / 'ledger.db'}"
    if ledger == "postgresql":
        postgres = started.enter_context(restartable_server())
        postgres.start()
        postgres.create(_DATABASE)
        url = postgres.url(_DATABASE)
    migrate(url)
    plan = Plan(folder=folder, ledger=url, seed=seed, lanes=lanes, began_at=datetime.now(UTC))
    group = started.enter_context(_group_that_ends_with_us())
    redis = RedisServer(folder, process_group=group)
    started.callback(redis.kill)
    redis.start()
    config = folder / "notifygate.toml"
    ports = {
        channel: started.enter_context(_sink(channel, plan, config, group)) for channel in ("email", "sms")
    }
    channels: dict[str, dict[str, Any]] = {
        "email": {"driver": "smtp", "host": "127.0.0.1", "port": ports["email"], "tls": "none"},
        "sms": {"driver": "http", "url": f"http://127.0.0.1:{ports['sms']}/send"},
    }
    configs.write(
        config,
        {
            "gateway": {"ledger": url, "broker": redis.url},
            "channels": {name: driver(one | {"timeout": _TIMEOUT}) for name, one in channels.items()},
            "delivery": _DELIVERY,
        },
        CONFIG,
    )
    nursery = started.enter_context(_nursery(plan, config, workers, threads))
    return Stage(plan, redis, postgres, nursery)


@contextmanager
def _group_that_ends_with_us() -> Iterator[int]:
    """A process group for others to join, all of which is killed at the end of the block, or when we are."""
    keeper = subprocess.Popen(
        ["sh", "-c", "cat; kill -9 0"],
        stdin=subprocess.PIPE,  # it ends when we do: nobody else holds the other end
        stdout=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        yield keeper.pid
    finally:
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.communicate()


@contextmanager
def _sink(channel: str, plan: Plan, config: Path, group: int) -> Iterator[int]:
    """Start a sink; yield its port."""
    with (plan.folder / f"{channel}.log").open("wb") as log:
        arguments = [channel, str(plan.folder / f"{channel}.arrivals"), plan.ledger, str(plan.seed)]
        process = _started(["soak.sinks", *arguments], config, log, process_group=group)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _nursery(plan: Plan, config: Path, workers: int, threads: int) -> Iterator[Nursery]:
    given = {
        "folder": str(plan.folder),
        "ledger": plan.ledger,
        "seed": plan.seed,
        "lanes": plan.lanes,
        "began_at": plan.began_at.isoformat(),
    }
    with (plan.folder / "processes.log").open("wb") as log:
        # A group of its own, so that Ctrl-C is for us: it ends when its standard input does, and its children with it.
        arguments = ["soak.nursery", json.dumps(given), str(workers), str(threads)]
        process = _started(arguments, config, log, process_group=0)
    try:
        yield Nursery(process)
    finally:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def _started(
    arguments: list[str], config: Path, log: IO[bytes], *, process_group: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment(config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        process_group=process_group,
    )
