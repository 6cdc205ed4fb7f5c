"""Seeing from outside when all is worked off, at little cost to those who work; and that it was done right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa
from support.tables import plain_engine

from benchmarks.servers import WrongResult
from benchmarks.workers import Workers
from notifygate.ledger.schema import HELD_SQL, SERVICE_SQL, WAITING_SQL, to_micros

LOOK_EVERY_S = 0.01
_STUCK_AFTER_S = 300.0
# The order makes both databases read the partial index, of which the first entry is answer enough.
_DUE = sa.text(f"SELECT 1 FROM messages WHERE {WAITING_SQL} AND due_at <= :now ORDER BY due_at LIMIT 1")
_CAMPAIGN_DUE = sa.text(
    f"SELECT 1 FROM messages WHERE {WAITING_SQL} AND due_at <= :now AND NOT ({SERVICE_SQL}) ORDER BY due_at LIMIT 1"
)
_HELD = sa.text(f"SELECT 1 FROM reservations WHERE {HELD_SQL} ORDER BY lease_until LIMIT 1")
_SENT = sa.text("SELECT message_id FROM messages WHERE message_id IN :ids AND status = 'sent'").bindparams(
    sa.bindparam("ids", expanding=True)
)
_AT_ONCE = 500


class Watch:
    """A connection of our own to a ledger."""

    def __init__(self, conn: sa.Connection) -> None:
        self._conn = conn

    def is_anything_due(self) -> bool:
        """Whether a message is due and not decided."""
        now = {"now": to_micros(datetime.now(UTC))}
        return self._conn.execute(_DUE, now).first() is not None

    def is_campaign_due(self) -> bool:
        """Whether a message that is not of the class service is due and not decided."""
        now = {"now": to_micros(datetime.now(UTC))}
        return self._conn.execute(_CAMPAIGN_DUE, now).first() is not None

    def is_anything_open(self) -> bool:
        """Whether a message is due or in a worker's hands."""
        return self.is_anything_due() or self._conn.execute(_HELD).first() is not None

    def wait_until_nothing_is_open(self, workers: Workers) -> float:
        """Return the instant (`time.perf_counter`) at which nothing was open any more."""
        return wait_until(lambda: not self.is_anything_open(), workers, "the gate works off all messages")

    def are_sent(self, message_ids: Sequence[str]) -> set[str]:
        """Those of some messages that are recorded as sent."""
        rows = (
            self._conn.execute(_SENT, {"ids": message_ids[start : start + _AT_ONCE]})
            for start in range(0, len(message_ids), _AT_ONCE)
        )
        return {message_id for found in rows for (message_id,) in found}

    def check_sent(self, message_ids: Sequence[str]) -> None:
        """Raise `WrongResult` unless all of these messages are recorded as sent."""
        if missing := len(message_ids) - len(self.are_sent(message_ids)):
            raise WrongResult(f"{missing} of {len(message_ids)} messages were not sent")

    def check_that_all_are_sent(self, count: int) -> None:
        """Raise `WrongResult` unless so many messages were each decided, allowed, reserved and sent once."""
        found = {
            "messages": self._count("SELECT count(*) FROM messages"),
            "messages sent": self._count("SELECT count(*) FROM messages WHERE status = 'sent'"),
            "attempts": self._count("SELECT count(*) FROM reservations"),
            "attempts accepted": self.count_accepted(),
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

    def count_accepted(self) -> int:
        """How many attempts were accepted."""
        return self._count("SELECT count(*) FROM reservations WHERE state = 'accepted'")

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
