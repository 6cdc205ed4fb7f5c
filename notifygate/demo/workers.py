"""The workers of the demo, and the Redis that they share: started, watched, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from notifygate.embedded import EmbeddedRedis

PROCESSES = 2
COMMAND = (
    *(sys.executable, "-m", "dramatiq", "notifygate.actors:setup"),
    *("--processes", str(PROCESSES), "--threads", "4", "--worker-shutdown-timeout", "5000"),
)
LOG_NAME = "worker.log"

_END_WITHIN_S = 15.0
_TAIL_LINES = 25


class DemoFailed(Exception):
    """The play broke off. `log` is the end of what the workers had to say."""

    def __init__(self, problem: str, log: str = "") -> None:
        self.log = log
        super().__init__(problem)


class Workers:
    """Two worker processes, under the one of Dramatiq that minds them."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, redis: EmbeddedRedis) -> None:
        self._process = process
        self._log = log
        self._redis = redis

    def check(self) -> None:
        """Raise `DemoFailed` where they have ended on their own."""
        if self._process.poll() is not None:
            raise DemoFailed(f"the workers ended early (exit code {self._process.returncode})", self.log())

    def log(self) -> str:
        """The last lines of their log."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])

    def left_over(self) -> list[str]:
        """What is not as it should be once all has ended."""
        found = []
        if self._process.poll() != 0:
            found.append(f"the workers did not end cleanly (exit code {self._process.returncode})")
        if _group_lives(self._process.pid):
            found.append("a worker process is still running")
        if self._redis.is_running():
            found.append("Redis is still running")
        return found


@contextmanager
def running(config: Path, data_dir: Path) -> Iterator[Workers]:
    """Run Redis and the workers for the config; end both afterwards, at the worst by force."""
    log = config.with_name(LOG_NAME)
    redis = EmbeddedRedis(data_dir)
    process: subprocess.Popen[bytes] | None = None
    try:
        # Held by this process as well, so that Redis is there for the first message, and goes even if a worker dies.
        redis.start()
        with log.open("wb") as out:
            # In a session of their own: Ctrl-C is for this process, which ends them in good order.
            process = subprocess.Popen(  # noqa: S603  # our own arguments
                COMMAND,
                env=os.environ | {"NOTIFYGATE_CONFIG": str(config)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        yield Workers(process, log, redis)
    finally:
        with _undisturbed():
            if process is not None:
                _end(process)
            redis.stop()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if _group_lives(process.pid):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _group_lives(group: int) -> bool:
    # Ended workers may take a moment to be gone, where it is for another process to bury them.
    for _ in range(20):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Do not let an impatient second Ctrl-C break into the ending."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {kind: signal.signal(kind, signal.SIG_IGN) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
