"""`notifygate up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath
from notifygate.cli.output import CommandError
from notifygate.cli.worker import usable_for_workers

if TYPE_CHECKING:
    from notifygate.config import Config

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GONE_WITHIN_S = 2.0


def up(
    processes: Annotated[
        int, typer.Option("--processes", "-p", min=1, help="How many worker processes.")
    ] = 1,
    threads: Annotated[int, typer.Option("--threads", "-t", min=1, help="How many threads in each.")] = 4,
    config: ConfigPath = None,
) -> None:
    """Start the queue and a worker on this machine, and stop both with Ctrl-C."""
    from notifygate.embedded import EmbeddedRedis

    loaded = usable_for_workers(config)
    gateway = loaded.settings.gateway
    embedded = EmbeddedRedis(gateway.data_dir) if gateway.broker == "embedded" else None
    workers = _Workers()
    workers.take_signals()
    try:
        if embedded is not None:
            embedded.start()
        _say_where_things_are(loaded)
        failed = workers.run(processes, threads, str(loaded.source))
    finally:
        if embedded is not None:
            embedded.stop()
    if failed:
        raise CommandError("the worker ended by itself; what it said above tells why")
    output.say("Stopped.")


class _Workers:
    """`notifygate worker` as a child in a process group of its own, so that it hears of a Ctrl-C from us only."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = 0

    def take_signals(self) -> None:
        for number in _STOP:
            signal.signal(number, self._stop)

    def run(self, processes: int, threads: int, config: str) -> bool:
        """Run until asked to stop; say whether it ended without having been asked."""
        if self._asked:
            return False
        arguments = ["worker", "--processes", str(processes), "--threads", str(threads), "--config", config]
        with subprocess.Popen(  # noqa: S603  # our own arguments
            [sys.executable, "-m", "notifygate", *arguments], start_new_session=True
        ) as child:
            self._child = child
            if self._asked:
                child.terminate()
            child.wait()
        if child.returncode < 0:  # it was killed, and could not take its processes with it
            self._kill_group()
            self._wait_for_group()
        return not self._asked

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks the worker to finish what it has in hand; a second one does not wait for that."""
        self._asked += 1
        if self._child is None or self._child.poll() is not None:
            return
        if self._asked == 1:
            self._child.terminate()
        else:
            self._kill_group()

    def _kill_group(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _wait_for_group(self) -> None:
        """Wait until those killed are gone: until then they count as users of the embedded queue."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        with suppress(ProcessLookupError):
            while self._child is not None and time.monotonic() < deadline:
                os.killpg(self._child.pid, 0)
                time.sleep(0.02)


def _say_where_things_are(loaded: Config) -> None:
    settings = loaded.settings
    channels = []
    for name, found in (("email", settings.email), ("sms", settings.sms)):
        if found is not None:
            where = getattr(found, "path", None) or getattr(found, "host", None) or getattr(found, "url", "")
            channels.append((name, f"{found.driver} {str(where).partition('?')[0]}".strip()))
    output.facts(
        [
            ("config", loaded.source),
            ("ledger", settings.gateway.ledger_shown),
            ("queue", settings.gateway.broker_shown),
            *channels,
        ]
    )
    output.say("Running. Hand over messages with 'notifygate submit'; stop with Ctrl-C.")
    output.flush()
