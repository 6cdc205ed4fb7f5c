"""Taking up a changed config without losing work: a file with faults is refused, and the old policy stays in force.

Each worker process looks at its config file, and at the files that hold secrets, about once a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from notifygate import config, metrics
from notifygate.errors import ConfigError, NotifygateError
from notifygate.runtime import Runtime

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0

_REFUSED_TRIED_AGAIN_AFTER_S = 30.0

_Looks = tuple[tuple[int, ...] | None, ...]


class Reloader:
    """Watches the files of a runtime's config, in a thread of its own."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifygate-reloader", daemon=True)
        self._files = runtime.config.files
        # Unknown: the files may have changed since they were read.
        self._taken_up: _Looks | None = None
        self._refused_at: float | None = None
        self._seen_last = looks_of(self._files)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> bool:
        """Take up the config if its files have changed since it was last taken up; say whether they have.

        Files must look the same twice in a row: one that is being written is left alone until it is whole.
        """
        if (
            self._refused_at is not None
            and time.monotonic() > self._refused_at + _REFUSED_TRIED_AGAIN_AFTER_S
        ):
            self._taken_up = None  # what was missing, such as a new file with a secret, may have come
        now = looks_of(self._files)
        is_settled, self._seen_last = now == self._seen_last, now
        if now == self._taken_up or not is_settled:
            return False
        self._taken_up = now
        self._reload()
        return True

    def _reload(self) -> None:
        before, self._refused_at = self._runtime.config, None
        try:
            new = config.load(before.source)
            if new == before:
                return
            self._runtime.reload(new)
        except ConfigError as error:
            self._refused_at = time.monotonic()
            metrics.config_reloaded("refused")
            for fault in error.faults:
                logger.error("config_refused", extra={"error": str(fault)})  # noqa: TRY400  # a user's mistake
        except NotifygateError as error:
            self._refused_at = time.monotonic()
            metrics.config_reloaded("refused")
            logger.error("config_refused", extra={"error": str(error)})  # noqa: TRY400  # a user's mistake
        else:
            if new.files != self._files:
                self._files, self._taken_up = new.files, None
            metrics.config_reloaded("reloaded")
            logger.info("config_reloaded", extra={"policy": new.policy.hash})
            for table in ("purposes", "merchants"):
                if gone := sorted(set(getattr(before.policy, table)) - set(getattr(new.policy, table))):
                    logger.warning("config_without", extra={table: gone})  # what waits for these is denied

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY_S):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  # the thread must go on, whatever it was
                metrics.config_reloaded("refused")
                # Not the error's own words: they may quote the file.
                logger.error("config_refused", extra={"error": type(error).__name__})  # noqa: TRY400


def looks_of(files: Iterable[Path]) -> _Looks:
    """What tells a changed file from the one that was there before; None for one that is not there."""
    return tuple(_look(file) for file in files)


def _look(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
