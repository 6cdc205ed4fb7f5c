"""Seeing from outside when all is worked off, at little cost to those who work; and that it was done right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from support.tables import plain_engine

from benchmarks.servers import WrongResult
from benchmarks.workers import Workers
from notifygate.ledger.schema import HELD_SQL, WAITING_SQL

LOOK_EVERY_S = 0.01
_STUCK_AFTER_S = 300.0
# The order makes both databases read the partial index, of which the first entry is answer enough.
_OPEN = (
    f"SELECT 1 FROM messages WHERE {WAITING_SQL} ORDER BY due_at LIMIT 1",
    f"SELECT 1 FROM reservations WHERE {HELD_SQL} ORDER BY lease_until LIMIT 1",
)


class Watch:
    """A connection of our own to a ledger."""

    def __init__(self, conn: sa.Connection) -> None:
        self._conn = conn

    def is_anything_open(self) -> bool:
        """Whether a message waits or is in a worker's hands."""
        return any(self._conn.exec_driver_sql(one).first() is not None for one in _OPEN)

    def wait_until_nothing_is_open(self, workers: Workers) -> float:
        """Return the instant (`time.perf_counter`) at which nothing was open any more."""
        return wait_until(lambda: not self.is_anything_open(), workers, "the gate works off all messages")

    def are_sent(self, message_ids: list[str]) -> set[str]:
        """Those of some messages that are recorded as sent."""
        query = sa.text("SELECT message_id FROM messages WHERE status = 'sent' AND message_id IN :ids")
        rows = self._conn.execute(query.bindparams(sa.bindparam("ids", expanding=True)), {"ids": message_ids})
        return {row[0] for row in rows}

    def count_sent(self) -> int:
        return self._count("SELECT count(*) FROM messages WHERE status = 'sent'")

    def check_that_all_are_sent(self, count: int) -> None:
        """Raise `WrongResult` unless so many messages were each decided, allowed, reserved and sent once."""
        found = {
            "messages": self._count("SELECT count(*) FROM messages"),
            "messages sent": self.count_sent(),
            "attempts": self._count("SELECT count(*) FROM reservations"),
            "attempts accepted": self._count("SELECT count(*) FROM reservations WHERE state = 'accepted'"),
            "decisions": self._count("SELECT count(*) FROM ledger WHERE kind = 'decision'"),
            "decisions to allow": self._count(
                "SELECT count(*) FROM ledger WHERE kind = 'decision' AND outcome = 'allow'"
            ),
            "submissions recorded": self._count("SELECT count(*) FROM ledger WHERE kind = 'submitted'"),
            "attempts recorded": self._count("SELECT count(*) FROM ledger WHERE kind = 'attempt'"),
        }
        wrong = {name: value for name, value in found.items() if value != count}
        if wrong:
            raise WrongResult(f"{count} messages were to be sent, and the ledger has {wrong}")

    def _count(self, query: str) -> int:
        return int(self._conn.exec_driver_sql(query).scalar_one())


@contextmanager
def watching(url: str) -> Iterator[Watch]:
    with plain_engine(url) as engine, engine.connect() as plain:
        yield Watch(plain.execution_options(isolation_level="AUTOCOMMIT"))


def wait_until(holds: Callable[[], bool], workers: Workers, what: str) -> float:
    """Return the instant (`time.perf_counter`) at which something held. Raises `WrongResult` where it does not come."""
    deadline = time.perf_counter() + _STUCK_AFTER_S
    while not holds():
        workers.check()
        if time.perf_counter() > deadline:
            raise WrongResult(f"not within {_STUCK_AFTER_S:.0f} seconds: {what}\n{workers.log_end()}")
        time.sleep(LOOK_EVERY_S)
    return time.perf_counter()
