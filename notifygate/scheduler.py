"""The scheduler: queues what is due, also what the queue lost, lets leases run out, and has doubts looked up.

It also has the send log sealed, and its months ahead made. It runs beside the work in every worker process. Any number
of them may run: rows are claimed in the ledger.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from notifygate import metrics
from notifygate.broker import BULK_QUEUE, SERVICE_QUEUE, WorkQueue
from notifygate.errors import BrokerError, NotifygateError
from notifygate.failpoints import FailPoint, reach
from notifygate.ledger import messages, partitions
from notifygate.ledger.database import Ledger

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_BATCH = 500
_LOOK_UPS = "notifygate-look-ups"


class Scheduler:
    """Sweeps the ledger about once a second until stopped."""

    def __init__(
        self,
        ledger: Ledger,
        queue: WorkQueue,
        clock: Callable[[], datetime],
        *,
        expire_leases: Callable[[int], int],
        look_up: Callable[[], object],
        mark: Callable[[], None],
        seal: Callable[[], object],
        requeue_after: Callable[[], timedelta],
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._clock = clock
        self._expire_some_leases = expire_leases
        self._requeue_after = requeue_after
        self._stopped = threading.Event()
        # A look-up may wait long for its provider, and must keep no sweep waiting.
        works = {
            "notifygate-sweeps": self.sweep,
            _LOOK_UPS: look_up,
            "notifygate-marks": mark,
            "notifygate-seals": seal,
        }
        if ledger.dialect == "postgresql":
            works["notifygate-months"] = partitions.MonthsAhead(ledger, clock).make
        self._threads = [
            threading.Thread(target=self._repeat, args=[work], name=name, daemon=True)
            for name, work in works.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after what is under way; only a look-up, which may take long and can be repeated, is left behind."""
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive() and thread.name != _LOOK_UPS:
                thread.join()

    def sweep(self) -> int:
        """Sweep once; return how many messages were put on the queue."""
        self._expire_leases()
        if self._queue.is_left_alone():
            return 0
        # A campaign must not keep a login code waiting.
        queued = self._fill(SERVICE_QUEUE) + self._fill(BULK_QUEUE)
        metrics.swept(queued)
        return queued

    def _expire_leases(self) -> None:
        while not self._stopped.is_set() and self._expire_some_leases(_BATCH) == _BATCH:
            pass

    def _fill(self, queue: str) -> int:
        """Put on a queue what is due, as long as there is something and the queue is not long already."""
        total = 0
        # A long queue is not fed: what waits in the ledger is in better order there, and what seems lost from a long
        # queue mostly is on it still.
        while not self._stopped.is_set() and not self._queue.is_long(queue):
            count = self._queue_due(service=queue == SERVICE_QUEUE)
            total += count
            if count < _BATCH:
                break
        return total

    def _queue_due(self, *, service: bool) -> int:
        taken = self._ledger.transact(
            lambda conn: messages.claim_for_queue(
                conn,
                self._clock(),
                service=service,
                again_after=self._requeue_after(),
                limit=_BATCH,
            )
        )
        if taken:
            reach(FailPoint.SWEEP_CLAIMED)
        try:
            self._queue.put(taken)
        except BrokerError:
            ids = [message_id for message_id, _ in taken]
            self._ledger.transact(lambda conn: messages.queue_again(conn, ids, self._clock()))
            raise
        if taken:
            reach(FailPoint.SWEEP_QUEUED)
        return len(taken)

    def _repeat(self, work: Callable[[], object]) -> None:
        while not self._stopped.is_set():
            try:
                work()
            except NotifygateError as error:
                metrics.broke_off("sweep")
                logger.warning("sweep_failed", extra={"error": str(error)})
            except Exception as error:  # noqa: BLE001  # the thread must go on, whatever it was
                metrics.broke_off("sweep")
                # Not the error's own words: they may quote a message.
                logger.error("sweep_failed", extra={"error": type(error).__name__})  # noqa: TRY400
            # Not all processes at the same moment.
            self._stopped.wait(_TICK_S * random.uniform(0.8, 1.2))
