"""Other processes: Dramatiq workers, and what is true of all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def environment(config: Path, **more: str) -> dict[str, str]:
    """The environment of a process that works with that config and with this checkout."""
    path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")])
    return os.environ | {"NOTIFYGATE_CONFIG": str(config), "PYTHONPATH": path} | more


def wait_until(holds: Callable[[], bool], *, within_s: float = 30, what: str) -> None:
    """Wait for something that other processes bring about. Raises `AssertionError` that says what did not come."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} seconds: {what}"
        time.sleep(0.05)


class DramatiqWorkers:
    """The processes of one `dramatiq` command; its output goes to a file."""

    def __init__(
        self,
        config: Path,
        log: Path,
        *,
        app: str = "notifygate.actors:setup",
        processes: int = 2,
        threads: int = 4,
        cwd: Path = CHECKOUT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        command = [sys.executable, "-m", "dramatiq", app, "-p", str(processes), "-t", str(threads)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment(config, **(env or {})),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what a failed test leaves behind can be ended as a whole
            )
        self._count = processes

    @property
    def pid(self) -> int:
        """The process that started the workers, and is their parent."""
        return self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8", "replace")

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        """Wait until every process takes work."""
        started = "Worker process is ready for action."
        deadline = time.monotonic() + 40
        while self.output.count(started) < self._count:
            assert not self.has_ended, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def children(self) -> list[int]:
        """The ids of the processes that the command has started: its workers, and what runs beside them."""
        pid = self._process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def terminate(self) -> None:
        """Ask the workers to end, as a service manager does."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, within_s: float = 40) -> int:
        """Wait for their end; return the exit code."""
        return self._process.wait(within_s)

    def stop(self) -> int:
        """Ask the workers to end, and wait; return the exit code."""
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        """Leave nothing behind."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
