"""Threads of their own for service messages, in each worker process: a campaign must not keep a login code waiting.

Dramatiq gives all queues of a process the same threads. What is of most importance goes first there, but no thread is
free while a campaign keeps all of them, and each is kept for a whole job.
"""

from __future__ import annotations

import logging
import threading

import dramatiq

from notifygate.broker import BULK_QUEUE, SERVICE_QUEUE

SERVICE_THREADS = 2
"""In each worker process, beside the threads for all else."""


class ServiceLane:
    """A second Dramatiq worker, for the service queue alone, that lives and ends with the first."""

    def __init__(self) -> None:
        self._worker: dramatiq.Worker | None = None
        self._stopping: threading.Thread | None = None

    def is_for(self, worker: dramatiq.Worker) -> bool:
        """Whether a worker is the one for service messages."""
        return worker is self._worker

    def prepare(self, broker: dramatiq.Broker, main: dramatiq.Worker) -> None:
        """Take the service queue away from the first worker, which has not started yet.

        One that was told to work off one queue only keeps all its threads for that.
        """
        if main.consumer_whitelist is not None and not main.consumer_whitelist >= {SERVICE_QUEUE, BULK_QUEUE}:
            return
        main.consumer_whitelist = (main.consumer_whitelist or {BULK_QUEUE}) - {SERVICE_QUEUE}
        self._worker = dramatiq.Worker(
            broker,
            queues={SERVICE_QUEUE},
            worker_timeout=main.worker_timeout,
            worker_threads=SERVICE_THREADS,
        )

    def start(self) -> None:
        if self._worker is None:
            return
        # Each worker listens to the broker by a middleware of the same type, and the broker warns of the second.
        log = self._worker.broker.logger
        log.addFilter(_is_no_such_warning)
        try:
            self._worker.start()
        finally:
            log.removeFilter(_is_no_such_warning)

    def begin_to_stop(self) -> None:
        """Let the threads end after what they have in hand, while the first worker's do the same."""
        if self._worker is not None:
            self._stopping = threading.Thread(target=self._worker.stop, name="notifygate-lane-stop")
            self._stopping.start()

    def finish_stopping(self) -> None:
        """Wait until the threads have ended."""
        if self._stopping is not None:
            self._stopping.join()


def _is_no_such_warning(record: logging.LogRecord) -> bool:
    return "middleware of the same type twice" not in record.getMessage()
