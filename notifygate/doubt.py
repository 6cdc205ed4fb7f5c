"""Resolving doubt: what became of a hand-off that may or may not have been accepted.

A person may say so who has asked the provider, or the channel's driver may look it up. Nothing else ends a doubt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

import sqlalchemy as sa

from notifygate.channels import Inquiry
from notifygate.delivery import LEASE_RAN_OUT, LOOKED_UP_AFTER, Delivery
from notifygate.failpoints import FailPoint, reach
from notifygate.ledger import journal, messages, people, purchases
from notifygate.ledger.database import Ledger
from notifygate.ledger.messages import Attempt, Doubt
from notifygate.message import Result, Status

logger = logging.getLogger(__name__)

_BY = {"person": "a person", "look_up": "a look-up"}
_LATEST = timedelta(days=1)


class Verdict(StrEnum):
    """What became of a message that was in doubt."""

    SENT = "sent"
    NOT_SENT = "not_sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """An end of doubt. `by` is `person` or `look_up`; `evidence` is kept with the message, outside the send log.

    With `again` a message that was not sent waits for a fresh decision; without, it has failed.
    """

    verdict: Verdict
    by: Literal["person", "look_up"]
    evidence: str
    again: bool = False
    actor: str | None = None
    provider_id: str | None = None


class Doubts:
    """Ends doubts. One a process; safe to share between threads."""

    def __init__(self, ledger: Ledger, delivery: Delivery, clock: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._clock = clock

    def resolve(self, message_id: str, resolution: Resolution, *, attempt_id: str | None = None) -> bool:
        """End the doubt about a message; say whether it was in doubt, by that attempt if one is named."""

        def write(conn: sa.Connection) -> bool:
            doubt = messages.hold_doubt(conn, message_id, attempt_id)
            if doubt is None:
                return False
            self._write(conn, doubt, resolution)
            reach(FailPoint.DOUBT_RESOLVED)
            return True

        return self._ledger.transact(write)

    def look_up(self) -> bool:
        """Ask the provider about one doubt whose turn it is; say whether there was one.

        A doubt is looked up half a minute after the hand-off, and then at longer and longer intervals.
        """
        channels = self._delivery.channels_that_look_up()
        if not channels:
            return False
        now = self._clock()
        claimed = self._ledger.transact(
            lambda conn: messages.claim_doubt(conn, now, channels, soonest=LOOKED_UP_AFTER, latest=_LATEST)
        )
        if claimed is None:
            return False
        outcome = self._delivery.look_up(claimed.channel, _inquiry(claimed))
        if outcome is None:
            return True
        sent = outcome.result is Result.ACCEPTED
        if sent or self._is_to_be_believed(claimed):
            resolution = Resolution(
                verdict=Verdict.SENT if sent else Verdict.NOT_SENT,
                by="look_up",
                evidence=outcome.detail or "found by a look-up",
                again=True,
                provider_id=outcome.provider_id,
            )
            # By the attempt that was asked about: meanwhile another may have followed it, and be in doubt itself.
            self.resolve(claimed.message_id, resolution, attempt_id=claimed.attempt_id)
        return True

    def _is_to_be_believed(self, doubt: Doubt) -> bool:
        """Whether a provider that says that it never had a message is to be believed, and the message sent again."""
        # INVARIANT(no second send on a wrong no): a process whose lease ran out may be frozen, and still hand over.
        if doubt.detail == LEASE_RAN_OUT:
            return False
        with self._ledger.read() as conn:
            # Of a restored ledger the provider may know the message by an attempt that was lost with the rest.
            if journal.was_restored_since(conn, doubt.reserved_at):
                return False
            # A look-up that is set up wrongly says no to everything: it must find what the provider certainly has.
            control = messages.last_accepted(conn, doubt.channel)
        outcome = None
        if control is not None:
            outcome = self._delivery.look_up(doubt.channel, _inquiry(control))
        if outcome is not None and outcome.result is Result.ACCEPTED:
            return True
        logger.warning("look_up_not_believed", extra={"message_id": doubt.message_id})
        return False

    def _write(self, conn: sa.Connection, doubt: Doubt, resolution: Resolution) -> None:
        now = self._clock()
        sent = resolution.verdict is Verdict.SENT
        result = Result.ACCEPTED if sent else Result.FAILED
        provider_id = resolution.provider_id or doubt.provider_id
        messages.resolve_attempt(
            conn,
            doubt.attempt_id,
            result,
            detail=f"{doubt.detail}; resolved by {_BY[resolution.by]}",
            provider_id=provider_id,
            now=now,
        )
        if not sent:
            purchases.release_asks(conn, [doubt.attempt_id])
        is_erased = not people.has_address(conn, doubt.contact_point_id)
        messages.set_status(conn, [_status_after(doubt, resolution, now, is_erased=is_erased)])
        evidence = self._ledger.fingerprints.of("evidence", resolution.evidence)
        journal.append(conn, [_entry(doubt, resolution, result, evidence, now)])


def _status_after(doubt: Doubt, resolution: Resolution, now: datetime, *, is_erased: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "message_id": doubt.message_id,
        "status": Status.SENT.value,
        "reason": None if is_erased else resolution.evidence,  # nothing is typed about an erased person
        "due_at": now,
        "sweep_at": now,
        "attempts": doubt.attempts,
    }
    if resolution.verdict is Verdict.SENT:
        return row
    if resolution.again:
        return row | {"status": Status.QUEUED.value}
    return row | {"status": Status.FAILED.value}


def _inquiry(about: Doubt | Attempt) -> Inquiry:
    return Inquiry(
        message_id=about.message_id,
        attempt_id=about.attempt_id,
        provider_id=about.provider_id,
        at=about.reserved_at,
    )


def _entry(doubt: Doubt, resolution: Resolution, result: Result, evidence: str, now: datetime) -> journal.Row:
    return journal.Row(
        kind=journal.Kind.RESOLUTION,
        at=now,
        message_id=doubt.message_id,
        contact_point_id=doubt.contact_point_id,
        purchase_id=doubt.purchase_id,
        merchant=doubt.merchant,
        purpose=doubt.purpose,
        channel=doubt.channel.value,
        outcome=result.value,
        reason=resolution.verdict.value,
        body={
            "attempt_id": doubt.attempt_id,
            "by": resolution.by,
            "actor": resolution.actor,
            "again": resolution.again and resolution.verdict is Verdict.NOT_SENT,
            "evidence_fingerprint": evidence,
            "provider_id": resolution.provider_id,
        },
    )
