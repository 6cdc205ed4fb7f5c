"""Erasing a person (GDPR Art. 17): what was typed about them goes, ids, keyed fingerprints and facts stay.

The send log is not touched, so that its proof stays whole, and refusals are honoured by the fingerprints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.errors import InvalidMessage, NotFound, OnHold
from notifygate.ledger import erasing, holds, journal, people, suppressions
from notifygate.ledger.database import LedgerConflict
from notifygate.ledger.erasing import Counts, Kept
from notifygate.ledger.people import KnownPoint
from notifygate.runtime import Runtime
from notifygate.snapshot import SuppressionReason

_ID_BEGINS_WITH = "cp_"


class ErasureReason(StrEnum):
    """Why a person is erased, by the grounds of GDPR Art. 17(1). A closed list: it goes into the send log."""

    REQUEST = "request"
    NO_LONGER_NEEDED = "no_longer_needed"
    UNLAWFUL = "unlawful"
    OBLIGATION = "obligation"
    AGAIN = "again"
    """It was done before, and a backup that was restored brought the person back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What an erasure took away, or as a dry run would take away, and what it leaves.

    `contact_points` are the addresses as they were, `contact_point_ids` what the ledger calls them, before and after.
    `on_hold` says that a legal hold stands in the way; only a dry run returns that.
    """

    person_id: str
    contact_points: tuple[str, ...] = field(repr=False)
    contact_point_ids: tuple[str, ...]
    reason: ErasureReason
    taken: Counts
    kept: Kept
    on_hold: bool
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "person_id": self.person_id,
            "contact_points": list(self.contact_points),
            "contact_point_ids": list(self.contact_point_ids),
            "reason": self.reason.value,
            "taken": self.taken.to_json(),
            "kept": self.kept.to_json(),
            "on_hold": self.on_hold,
            "dry_run": self.dry_run,
        }


def erase(
    runtime: Runtime, contact_point: ContactPoint | str, reason: ErasureReason | str, *, dry_run: bool
) -> Erasure:
    """Erase the person behind a contact point in one transaction. See `People.erase`."""
    why = _reason(reason)
    if dry_run:
        with runtime.ledger.read() as conn:
            points = points_of_person(conn, runtime, contact_point)
            return _looked_at(conn, points, why, dry_run=True)

    def write(conn: sa.Connection) -> Erasure:
        points = points_of_person(conn, runtime, contact_point)
        lock(conn, points)
        done = _looked_at(conn, points, why, dry_run=False)
        if done.on_hold:
            raise OnHold("a legal hold is on this person: nothing was erased; see 'notifygate person holds'")
        now = runtime.clock()
        marks = _mark(conn, points, now)
        entries = [_entry(conn, point, why, now, marks.get(point.contact_point_id)) for point in points]
        take_away(conn, points, now)
        journal.append(conn, entries)
        return done

    return runtime.ledger.transact(write)


def points_of_person(
    conn: sa.Connection, runtime: Runtime, contact_point: ContactPoint | str
) -> list[KnownPoint]:
    """All contact points of the person behind an address, or behind the id of a contact point.

    Raises `NotFound` where the ledger holds nothing about it.
    """
    if isinstance(contact_point, str) and contact_point.startswith(_ID_BEGINS_WITH):
        person = people.persons_of(conn, [contact_point]).get(contact_point)
    else:
        point = runtime.point(contact_point)
        person = people.person_by_mailbox(conn, runtime.ledger.fingerprints, point)
    found = people.points_of(conn, [person]) if person else []
    if not found:
        raise NotFound("nothing is held about this contact point")
    return found


def lock(conn: sa.Connection, points: list[KnownPoint]) -> None:
    """Hold all that is about some persons until the transaction ends. Raises `LedgerConflict` if they changed."""
    ids = [point.contact_point_id for point in points]
    # INVARIANT(locks in one order): contact points, mailboxes, attempts, messages, persons, as workers and others do.
    erasing.hold(conn, ids)
    person_of = people.lock_persons_of(conn, ids)
    if people.point_ids_of(conn, set(person_of.values())).keys() != set(ids):
        raise LedgerConflict("a contact point was added to this person just now")


def take_away(conn: sa.Connection, points: list[KnownPoint], now: datetime) -> None:
    """Cancel what waits for persons who are held, and take away all that was typed about them.

    What is under way is in a worker's hands, with its text: it ends as it would have, and is recorded.
    """
    ids = [point.contact_point_id for point in points]
    cancelled = erasing.cancel_waiting(conn, ids)
    erasing.erase(conn, ids, _mailboxes(conn, ids))
    entries = [
        journal.Row(kind=journal.Kind.CANCELLED, at=now, reason="erased", body={}, **message)
        for message in cancelled
    ]
    journal.append(conn, entries)


def _looked_at(
    conn: sa.Connection, points: list[KnownPoint], why: ErasureReason, *, dry_run: bool
) -> Erasure:
    ids = [point.contact_point_id for point in points]
    return Erasure(
        person_id=points[0].person_id,
        contact_points=tuple(str(point) for point in points),
        contact_point_ids=tuple(ids),
        reason=why,
        taken=erasing.count(conn, ids, _mailboxes(conn, ids)),
        kept=erasing.kept(conn, ids),
        on_hold=bool(holds.in_force(conn, ids)),
        dry_run=dry_run,
    )


def _mailboxes(conn: sa.Connection, contact_point_ids: list[str]) -> list[str]:
    return people.mailboxes_of(conn, contact_point_ids)


def _mark(conn: sa.Connection, points: list[KnownPoint], now: datetime) -> dict[str, str]:
    """Mark every contact point as erased that is not yet: that never expires, and nothing is sent to it.

    Returns the ids of the marks, by contact point.
    """
    ids = [point.contact_point_id for point in points]
    marked = {
        mark.contact_point_id
        for mark in suppressions.of_points(conn, ids, now)
        if mark.reason is SuppressionReason.ERASED
    }
    return {
        point_id: suppressions.add(conn, point_id, SuppressionReason.ERASED, now, None)
        for point_id in ids
        if point_id not in marked
    }


def _entry(
    conn: sa.Connection, point: KnownPoint, why: ErasureReason, now: datetime, suppression_id: str | None
) -> journal.Row:
    ids = [point.contact_point_id]
    taken, kept = erasing.count(conn, ids, _mailboxes(conn, ids)), erasing.kept(conn, ids)
    return journal.Row(
        kind=journal.Kind.ERASED,
        at=now,
        contact_point_id=point.contact_point_id,
        channel=point.channel.value,
        reason=why.value,
        body={"suppression_id": suppression_id, "taken": taken.to_json(), "kept": kept.to_json()},
    )


def _reason(reason: ErasureReason | str) -> ErasureReason:
    try:
        return ErasureReason(reason)
    except ValueError as error:
        known = ", ".join(one.value for one in ErasureReason)
        raise InvalidMessage("reason", f"must be one of {known}") from error
