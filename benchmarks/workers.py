"""Worker processes under measurement: the gateway's, or those of a Dramatiq application of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from support.processes import environment

from benchmarks.servers import Stage
from benchmarks.sizes import PROCESSES, THREADS

GATE = ("notifygate", "worker", "--processes", str(PROCESSES), "--threads", str(THREADS))
_READY = "Worker process is ready for action."
_READY_WITHIN_S = 60.0
_ENDED_WITHIN_S = 10.0


def dramatiq_app(setup: str) -> tuple[str, ...]:
    """The command of an application's workers, as many as the gateway's."""
    return ("dramatiq", setup, "--processes", str(PROCESSES), "--threads", str(THREADS))


class Workers:
    """The processes of one command, all of them ready."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def check(self) -> None:
        """Raise `RuntimeError` where they have ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the workers ended:\n{self.log_end()}")

    def processes(self) -> list[psutil.Process]:
        """The worker processes themselves, without those that look after them."""
        descendants = psutil.Process(self._process.pid).children(recursive=True)
        return [one for one in descendants if one.num_threads() > THREADS]

    def peak_mb(self) -> float:
        """The most memory that one of them has had, in megabytes of resident set."""
        return max(_peak_bytes(one) for one in self.processes()) / 1e6

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        while self._log.read_text("utf-8", "replace").count(_READY) < PROCESSES:
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the workers are not ready:\n{self.log_end()}")
            time.sleep(0.02)

    def end(self) -> None:
        """Kill them: what was measured is recorded, and nobody looks at their ledger again."""
        family = []
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self._process.pid)
            family = [top, *top.children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(family, timeout=_ENDED_WITHIN_S)

    def log_end(self) -> str:
        """What they wrote last."""
        return self._log.read_text("utf-8", "replace")[-3000:]


@contextmanager
def running(
    stage: Stage, command: Sequence[str], config: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[Workers]:
    """Start workers; yield them when all take work; end them with the block."""
    log = config.parent / "workers.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment(config, **(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=stage.group,
        )
    workers = Workers(process, log)
    try:
        workers.wait_until_ready()
        yield workers
    finally:
        workers.end()


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    resident: int = process.memory_info().rss  # where the kernel keeps no peak: what it is at the end
    return resident


def core_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
