"""The facade: everything that an application does with notifygate goes through a `Gateway`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from notifygate import config, intake
from notifygate.audit import Log, report
from notifygate.audit.proving import Proofs
from notifygate.audit.report import Report
from notifygate.decision import Decision
from notifygate.errors import (
    IdempotencyConflict,
    InvalidMessage,
    NotCancellable,
    NotFound,
    NotifygateError,
)
from notifygate.failpoints import FailPoint, reach
from notifygate.gateway.consent import ConsentBook
from notifygate.gateway.doubt import DoubtBook
from notifygate.gateway.explanation import Explanation, explain
from notifygate.gateway.people import People
from notifygate.gateway.purchases import Purchases
from notifygate.gateway.retention import Retention
from notifygate.gateway.suppressions import Suppressions
from notifygate.intake import Prepared
from notifygate.ledger import journal, messages, vacuum
from notifygate.ledger.database import translated_errors
from notifygate.message import Message, Receipt, Status, check_aware
from notifygate.runtime import Runtime, system_clock
from notifygate.together import Together

_SUBMIT_BATCH = 500


class Gateway:
    """One gate that all messages go through. Open one in each process; it may be shared between threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._accept = Together(self._accept_all, then=self._enqueue_all, at_most=_SUBMIT_BATCH)
        self.consent = ConsentBook(runtime)
        self.suppressions = Suppressions(runtime)
        self.people = People(runtime)
        self.purchases = Purchases(runtime)
        self.doubt = DoubtBook(runtime)
        self.retention = Retention(runtime)
        self.log = Log(runtime)
        self.proofs = Proofs(runtime)

    @classmethod
    def open(cls, path: str | Path | None = None, *, clock: Callable[[], datetime] | None = None) -> Self:
        """Open the gateway that a config file describes.

        `path` defaults to $NOTIFYGATE_CONFIG, else `./notifygate.toml`. `clock` returns the instant that counts as
        now, timezone-aware; it is for tests and replays. An empty ledger is given its tables.

        Raises `ConfigError` with all faults of the file, `LedgerError`, `BrokerError` or `ChannelError`.
        """
        return cls(Runtime(config.load(path), _checked(clock) if clock else system_clock))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back connections and files."""
        self._runtime.close()

    @property
    def config(self) -> config.Config:
        """The config that the gateway was opened with."""
        return self._runtime.config

    def submit(self, message: Message, *, connection: sa.Connection | None = None) -> Receipt:
        """Hand over one message. When this returns, the message is safe in the ledger, and will be decided.

        Threads that call this at the same time share a transaction.

        With `connection`, it is inserted in the transaction that the caller has open on the ledger's database: it is
        there if, and only if, that commits, and is queued within about a second after. Until then other calls about
        the same contact point wait for that transaction: make them after it. On `LedgerConflict` (a `LedgerError`)
        roll back and do it all again.

        Raises `InvalidMessage` naming the argument at fault, `IdempotencyConflict` for a key that was used for
        other content, `LedgerError`. A queue that is down is no error: the message is queued later.
        """
        prepared = self._prepare(message)
        if connection is None:
            return self._accept([prepared])[0]
        if not isinstance(connection, sa.Connection):
            raise InvalidMessage(
                "connection", "a SQLAlchemy Connection is wanted; of a Session, give session.connection()"
            )
        fingerprints = self._runtime.ledger.fingerprints
        with translated_errors():
            return intake.accept(
                connection, [prepared], fingerprints, self._runtime.clock(), queue_within=timedelta(0)
            )[0]

    def submit_many(self, messages: Iterable[Message]) -> Iterator[Receipt]:
        """Hand over many messages, a few hundred in a transaction; yield their receipts in order.

        Nothing happens until the receipts are iterated over. Raises as `submit` does, at the message that is at
        fault: all before it have then been submitted, and none after it.
        """
        waiting = iter(messages)
        while batch := list(islice(waiting, _SUBMIT_BATCH)):
            prepared: list[Prepared] = []
            fault: InvalidMessage | None = None
            for message in batch:
                try:
                    prepared.append(self._prepare(message))
                except InvalidMessage as error:
                    fault = error
                    break
            yield from self._accept_in_order(prepared)
            if fault is not None:
                raise fault

    def check(self, message: Message) -> Decision:
        """Say what would be decided about a message now. Nothing is recorded. Raises `InvalidMessage`."""
        return self._runtime.gate.check(self._prepare(message))

    def status(self, message_id: str) -> Status:
        """Where a message is in its life. Raises `NotFound`."""
        with self._runtime.ledger.read() as conn:
            found = messages.get(conn, message_id)
        if found is None:
            raise NotFound(f"no message {message_id!r}")
        return found.status

    def explain(self, message_id: str) -> Explanation:
        """What became of a message and why: every decision with all its findings, every attempt.

        Raises `NotFound`.
        """
        with self._runtime.ledger.read() as conn:
            return explain(conn, message_id)

    def cancel(self, message_id: str, reason: str = "") -> None:
        """Stop a message that still waits; a message cancelled before stays so.

        Raises `NotFound`, and `NotCancellable` for one that is being sent or has ended.
        """

        def write(conn: sa.Connection) -> None:
            found = messages.get(conn, message_id)
            if found is None:
                raise NotFound(f"no message {message_id!r}")
            if found.status is Status.CANCELLED:
                return
            if not messages.cancel(conn, message_id, reason or "cancelled"):
                now = messages.get(conn, message_id)
                status = now.status if now else found.status
                raise NotCancellable(f"message {message_id} is {status}, and can no longer be cancelled")
            entry = journal.Row(
                kind=journal.Kind.CANCELLED,
                at=self._runtime.clock(),
                message_id=message_id,
                contact_point_id=found.contact_point_id,
                merchant=found.merchant,
                purpose=found.purpose,
                channel=found.channel.value,
                body={},  # not the reason: somebody may have typed an address
            )
            journal.append(conn, [entry])

        self._runtime.ledger.transact(write)

    def drain(self, limit: int | None = None) -> int:
        """Work off all that is due now, at most `limit` messages, here in this process; return how many.

        No queue is needed. It may run beside workers: each message is decided and sent once.
        """
        if limit is not None and limit < 0:
            raise InvalidMessage("limit", "must be 0 or more, or None for no limit")
        return self._runtime.drain(limit)

    def vacuum(self, *, patience_s: float = vacuum.PATIENCE_S) -> str | None:
        """Get what was erased out of the database's files; return what is in the way of that, None if it is done.

        Workers may go on meanwhile; they are waited for up to `patience_s` seconds. Raises `LedgerError`.
        """
        return vacuum.vacuum(self._runtime.ledger, patience_s=patience_s)

    def next_due(self) -> datetime | None:
        """When the next waiting message is to be decided; None if none waits. For replays on a simulated clock."""
        with self._runtime.ledger.read() as conn:
            return messages.next_due(conn)

    def report(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        month: str | None = None,
        last: timedelta | None = None,
        merchant: str | None = None,
    ) -> Report:
        """Figures over a period: volumes, asks made and prevented, opt-outs, doubts, and who was asked for reviews.

        `since` is the first instant that counts, by default 30 days before `until`, which is the first that does not,
        by default now. Or give a `month` of the configured time zone, such as "2026-05", or how much is the `last`.
        With `merchant`, the figures are those of that sender only. Nothing in them is personal data.

        Raises `InvalidMessage` for a period that makes no sense.
        """
        from notifygate import __version__

        return report.make(
            self._runtime,
            version=__version__,
            since=since,
            until=until,
            month=month,
            last=last,
            merchant=merchant,
        )

    def _prepare(self, message: Message) -> Prepared:
        if not isinstance(message, Message):
            raise InvalidMessage("message", f"Message is wanted, not {type(message).__name__}")
        return intake.prepare(message, self._runtime.config, self._runtime.ledger.fingerprints)

    def _accept_in_order(self, prepared: Sequence[Prepared]) -> Iterator[Receipt]:
        if not prepared:
            return
        try:
            receipts = self._accept(prepared)
        except IdempotencyConflict:
            # One by one, so that all before the conflict are submitted and none after it.
            for one in prepared:
                yield from self._accept([one])
            return
        yield from receipts

    def _accept_all(self, batches: Sequence[Sequence[Prepared]]) -> list[list[Receipt]]:
        """Insert the messages of several threads in one transaction; return the receipts of each thread."""
        runtime = self._runtime
        fingerprints = runtime.ledger.fingerprints
        together = [one for batch in batches for one in batch]
        receipts = iter(
            runtime.ledger.transact(
                lambda conn: intake.accept(
                    conn,
                    together,
                    fingerprints,
                    runtime.clock(),
                    queue_within=runtime.config.settings.delivery.requeue_after,
                ),
                hurries=len(batches) > 1,
            )
        )
        return [list(islice(receipts, len(batch))) for batch in batches]

    def _enqueue_all(
        self, batches: Sequence[Sequence[Prepared]], receipts: Sequence[Sequence[Receipt]]
    ) -> None:
        """Put what was inserted on the queue."""
        reach(FailPoint.SUBMIT_COMMITTED)
        now = self._runtime.clock()
        self._runtime.enqueue(
            [
                (receipt.message_id, one.purpose_class)
                for one, receipt in zip(chain(*batches), chain(*receipts), strict=True)
                if not receipt.duplicate and not (one.message.send_after and one.message.send_after > now)
            ]
        )
        reach(FailPoint.SUBMIT_QUEUED)


def _checked(clock: Callable[[], datetime]) -> Callable[[], datetime]:
    def checked() -> datetime:
        now = check_aware("clock", clock())
        if now is None:
            raise NotifygateError("clock: must return a timezone-aware datetime")
        return now

    return checked
