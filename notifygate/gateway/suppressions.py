"""`gate.suppressions`: do-not-send marks, which hold whatever the consent says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.errors import InvalidMessage, NotFound
from notifygate.ledger import journal, people, suppressions
from notifygate.message import check_aware
from notifygate.runtime import Runtime
from notifygate.snapshot import SuppressionReason

HARD_BOUNCE_LASTS = timedelta(days=30)
"""How long a hard bounce marks a contact point, unless `expires_at` says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A do-not-send mark in force. `contact_point` is None once the person was erased."""

    suppression_id: str
    contact_point: str | None = field(repr=False)
    reason: SuppressionReason
    created_at: datetime
    expires_at: datetime | None


class Suppressions:
    """The do-not-send list. Obtained as `gate.suppressions`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def add(
        self,
        contact_point: ContactPoint | str,
        reason: SuppressionReason | str,
        expires_at: datetime | None = None,
    ) -> str:
        """Mark a contact point do-not-send; return the mark's id.

        `reason` is `hard_bounce` (30 days unless `expires_at` is given), `complaint` or `erased` (which never
        expire), or `manual`. Raises `InvalidMessage` for another reason, or for a mark that would not hold.
        """
        runtime, kind, point = self._runtime, _reason(reason), self._runtime.point(contact_point)
        until = check_aware("expires_at", expires_at)
        if until is not None and kind in (SuppressionReason.COMPLAINT, SuppressionReason.ERASED):
            raise InvalidMessage(
                "expires_at", f"a mark for the reason {kind.value!r} never expires; leave it out"
            )

        def write(conn: sa.Connection) -> str:
            now = runtime.clock()
            if until is not None and until <= now:
                raise InvalidMessage("expires_at", "lies in the past, so the mark would never hold")
            ends = until
            if ends is None and kind is SuppressionReason.HARD_BOUNCE:
                ends = now + HARD_BOUNCE_LASTS
            point_id = people.ensure(conn, runtime.ledger.fingerprints, [point], now)[point]
            people.lock_persons_of(conn, [point_id])
            suppression_id = suppressions.add(conn, point_id, kind, now, ends)
            body = {"suppression_id": suppression_id, "expires_at": ends.isoformat() if ends else None}
            journal.append(conn, [_entry(journal.Kind.SUPPRESSION, point_id, point, kind, now, body)])
            return suppression_id

        return runtime.ledger.transact(write)

    def remove(self, contact_point: ContactPoint | str, reason: SuppressionReason | str | None = None) -> int:
        """Lift the marks on a contact point for one reason; return how many.

        Without a reason, all are lifted but those for `erased`, which has to be named. Raises `NotFound` where none
        is in force.
        """
        runtime, point = self._runtime, self._runtime.point(contact_point)
        kind = None if reason is None else _reason(reason)

        def write(conn: sa.Connection) -> int:
            now = runtime.clock()
            point_id = people.find(conn, runtime.ledger.fingerprints, point)
            lifted = suppressions.remove(conn, point_id, now, kind) if point_id else []
            if not lifted or not point_id:
                raise NotFound("no do-not-send mark is in force on this contact point for that")
            body = {"suppression_ids": lifted}
            journal.append(conn, [_entry(journal.Kind.UNSUPPRESSION, point_id, point, kind, now, body)])
            return len(lifted)

        return runtime.ledger.transact(write)

    def list(self) -> tuple[Mark, ...]:
        """All marks in force, oldest first."""
        with self._runtime.ledger.read() as conn:
            return tuple(
                Mark(
                    suppression_id=mark.suppression_id,
                    contact_point=f"{channel}:{address}" if address else None,
                    reason=mark.reason,
                    created_at=mark.created_at,
                    expires_at=mark.expires_at,
                )
                for mark, channel, address in suppressions.every(conn, self._runtime.clock())
            )


def _reason(reason: SuppressionReason | str) -> SuppressionReason:
    try:
        return SuppressionReason(reason)
    except ValueError as error:
        known = ", ".join(one.value for one in SuppressionReason)
        raise InvalidMessage("reason", f"must be one of {known}") from error


def _entry(
    kind: journal.Kind,
    contact_point_id: str,
    point: ContactPoint,
    reason: SuppressionReason | None,
    now: datetime,
    body: Mapping[str, object],
) -> journal.Row:
    return journal.Row(
        kind=kind,
        at=now,
        contact_point_id=contact_point_id,
        channel=point.channel.value,
        reason=reason.value if reason else None,
        body=body,
    )
