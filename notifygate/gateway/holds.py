"""Legal holds: placing, releasing and listing what stops erasure and retention for a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.errors import InvalidMessage, NotFound
from notifygate.ledger import holds, journal, people
from notifygate.message import check_unicode
from notifygate.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A legal hold in force. `contact_point` is None where its address was removed before the hold was placed."""

    hold_id: str
    contact_point: str | None = field(repr=False)
    reason: str = field(repr=False)
    placed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The holds that were released."""

    hold_ids: tuple[str, ...]
    released_at: datetime


def place(runtime: Runtime, point: ContactPoint, reason: str) -> Hold:
    """Place a hold. See `People.hold`."""
    if not reason.strip():
        raise InvalidMessage(
            "reason", "say why nothing about this person may be erased, such as a case number"
        )
    check_unicode("reason", reason)

    def write(conn: sa.Connection) -> Hold:
        now = runtime.clock()
        point_id = people.ensure(conn, runtime.ledger.fingerprints, [point], now)[point]
        people.lock_persons_of(conn, [point_id])
        hold_id = holds.place(conn, point_id, reason.strip(), now)
        journal.append(conn, [_entry(journal.Kind.HELD, hold_id, point_id, now)])
        return Hold(hold_id=hold_id, contact_point=str(point), reason=reason.strip(), placed_at=now)

    return runtime.ledger.transact(write)


def release(runtime: Runtime, point: ContactPoint) -> Release:
    """Release the holds on a person. See `People.release`."""

    def write(conn: sa.Connection) -> Release:
        now = runtime.clock()
        person = people.person_by_mailbox(conn, runtime.ledger.fingerprints, point)
        ids = list(people.point_ids_of(conn, [person])) if person else []
        people.lock_persons_of(conn, ids)
        released = holds.release(conn, ids, now)
        if not released:
            raise NotFound("no legal hold is in force on this person")
        kind = journal.Kind.HOLD_RELEASED
        entries = [_entry(kind, hold.hold_id, hold.contact_point_id, now) for hold in released]
        journal.append(conn, entries)
        return Release(hold_ids=tuple(hold.hold_id for hold in released), released_at=now)

    return runtime.ledger.transact(write)


def held(runtime: Runtime) -> tuple[Hold, ...]:
    """All holds in force. See `People.holds`."""
    with runtime.ledger.read() as conn:
        return tuple(
            Hold(
                hold_id=hold.hold_id,
                contact_point=f"{channel}:{address}" if address else None,
                reason=hold.reason,
                placed_at=hold.placed_at,
            )
            for hold, channel, address in holds.every(conn)
        )


def _entry(kind: journal.Kind, hold_id: str, contact_point_id: str, now: datetime) -> journal.Row:
    # Not the reason: somebody may have typed an address.
    return journal.Row(kind=kind, at=now, contact_point_id=contact_point_id, body={"hold_id": hold_id})
