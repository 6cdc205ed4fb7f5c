"""`gate.people`: which contact points belong to one human."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.audit.subject import Subject, disclose
from notifygate.consent import REFUSALS, ConsentEvent
from notifygate.errors import InvalidMessage, NotFound
from notifygate.gateway import erasure
from notifygate.gateway.consent_writing import append_event
from notifygate.gateway.erasure import Erasure, ErasureReason
from notifygate.gateway.holds import Hold, Release, held, place, release
from notifygate.ledger import consents, holds, journal, people
from notifygate.message import check_unicode
from notifygate.runtime import Runtime

_NOT_COPIED = ("contact_point", "event_id", "recorded_at", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person: `contact_points` such as `email:anna@example.dk`, oldest first. Iterates over them."""

    person_id: str | None
    contact_points: tuple[str, ...] = field(repr=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self.contact_points)

    def __len__(self) -> int:
        return len(self.contact_points)

    def __contains__(self, contact_point: object) -> bool:
        return str(contact_point) in self.contact_points


class People:
    """Who is who. Obtained as `gate.people`. Two contact points not known to be linked are two persons."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def of(self, contact_point: ContactPoint | str) -> Person:
        """The person behind a contact point. One never seen before is a person of that one contact point."""
        point = self._runtime.point(contact_point)
        with self._runtime.ledger.read() as conn:
            person_id = people.person_by_mailbox(conn, self._runtime.ledger.fingerprints, point)
            known = people.points_of(conn, [person_id]) if person_id else []
            is_new = people.find(conn, self._runtime.ledger.fingerprints, point) is None
        shown = [str(one) for one in known]
        if is_new:  # of an erased one the address is not shown again, though it was typed
            shown.append(str(point))
        return Person(person_id=person_id, contact_points=tuple(shown))

    def link(self, a: ContactPoint | str, b: ContactPoint | str, evidence: str) -> Person:
        """Record that two contact points belong to one human; return the person that they are now.

        `evidence` says how that is known. From now on refusals, suppressions by erasure, caps, duplicates and asks
        count for both; permissions stay with the contact point that they were given for.
        """
        one, other = self._runtime.point(a), self._runtime.point(b)
        if not evidence.strip():
            raise InvalidMessage("evidence", "say how it is known that both belong to one person")
        check_unicode("evidence", evidence)
        runtime = self._runtime

        def write(conn: sa.Connection) -> None:
            now = runtime.clock()
            points = people.ensure(conn, runtime.ledger.fingerprints, [one, other], now)
            person_of = people.lock_to_move(conn, [points[one], points[other]])
            kept, gone = person_of[points[one]], person_of[points[other]]
            mailboxes = people.mailbox_of(conn, points[one]), people.mailbox_of(conn, points[other])
            if mailboxes[0] == mailboxes[1]:
                return  # variants of one address are one person from birth
            link_id = people.add_link(conn, *mailboxes, evidence, now)
            if kept != gone:
                people.move(conn, from_person=gone, to_person=kept)
            body = {"link_id": link_id, "person": kept, "joined": gone}
            journal.append(conn, _entries(journal.Kind.LINK, points.values(), now, body))

        runtime.ledger.transact(write)
        return self.of(one)

    def unlink(self, a: ContactPoint | str, b: ContactPoint | str) -> Person:
        """Record that two contact points do not belong to one human after all; return the person of `a`.

        What was refused while they were linked stays refused for both. Raises `NotFound` where no link was made
        between the two, and `InvalidMessage` for variants of one address, which always belong together.
        """
        one, other = self._runtime.point(a), self._runtime.point(b)
        runtime = self._runtime

        def write(conn: sa.Connection) -> None:
            now = runtime.clock()
            points = people.find_all(conn, runtime.ledger.fingerprints, [one, other])
            if len(points) < 2:
                raise NotFound("these two contact points are not linked")
            person_of = people.lock_to_move(conn, list(points.values()))
            mailboxes = [people.mailbox_of(conn, points[point]) for point in (one, other)]
            if mailboxes[0] == mailboxes[1]:
                raise InvalidMessage("b", "is a variant of the same address; the two always belong together")
            ended = people.end_links(conn, mailboxes[0], mailboxes[1], now)
            if not ended:
                raise NotFound("no link was made between these two contact points")
            person_id = person_of[points[one]]
            ties = people.linked_mailboxes(conn, person_id)
            leaving = _reachable(ties, mailboxes[1])
            new_person = None
            if mailboxes[0] not in leaving:
                new_person = people.split_off(conn, leaving, now)
                self._keep_refusals(conn, person_id, new_person, now)
                self._keep_holds(conn, person_id, new_person, now)
            body = {"link_ids": ended, "person": person_id, "split_off": new_person}
            journal.append(conn, _entries(journal.Kind.UNLINK, points.values(), now, body))

        runtime.ledger.transact(write)
        return self.of(one)

    def export(self, contact_point: ContactPoint | str, *, with_holds: bool = False) -> Subject:
        """Everything that the ledger holds about the person behind a contact point (GDPR Art. 15).

        That it was handed out is recorded, for each contact point. Whether a legal hold is on the person is told
        only `with_holds`: the law may forbid to tell. Raises `NotFound` where nothing is held.
        """
        point = self._runtime.point(contact_point)
        return disclose(self._runtime, point, with_holds=with_holds)

    def erase(
        self,
        contact_point: ContactPoint | str,
        reason: ErasureReason | str = ErasureReason.REQUEST,
        *,
        dry_run: bool = False,
    ) -> Erasure:
        """Erase the person behind a contact point (GDPR Art. 17): every address, text and typed evidence.

        `contact_point` may also be the id of one, as `Erasure` and the send log name it. What waits is cancelled;
        what is under way ends as it would have. All contact points are marked as erased, which never expires. With
        `dry_run` nothing is changed. The database's files still hold what was erased until `Gateway.vacuum`.

        Raises `NotFound` where nothing is held, `OnHold` for a person with a legal hold, `InvalidMessage` for
        another reason than those of `ErasureReason`.
        """
        return erasure.erase(self._runtime, contact_point, reason, dry_run=dry_run)

    def hold(self, contact_point: ContactPoint | str, reason: str) -> Hold:
        """Place a legal hold on a person: until it is released, nothing of them is erased or ages out.

        It makes no difference to what may be sent. `reason` stays out of the send log. A contact point never seen
        before is taken in, so that nothing can be erased that comes later. Raises `InvalidMessage`.
        """
        return place(self._runtime, self._runtime.point(contact_point), reason)

    def release(self, contact_point: ContactPoint | str) -> Release:
        """Release all legal holds on a person. Raises `NotFound` where none is in force."""
        return release(self._runtime, self._runtime.point(contact_point))

    def holds(self) -> tuple[Hold, ...]:
        """All legal holds in force, oldest first."""
        return held(self._runtime)

    def _keep_refusals(self, conn: sa.Connection, person: str, new_person: str, now: datetime) -> None:
        """Write the refusals that either side made for the other side as well."""
        sides = {
            one: [point.contact_point_id for point in people.points_of(conn, [one])]
            for one in (person, new_person)
        }
        refusals = {
            one: [row for row in consents.history(conn, points) if row["state"] in REFUSALS]
            for one, points in sides.items()
        }
        for made_by, holds_for in ((person, new_person), (new_person, person)):
            held = {_scope(row) for row in refusals[holds_for]}
            for row in refusals[made_by]:
                if _scope(row) in held:
                    continue  # said there already, at an earlier unlinking perhaps
                held.add(_scope(row))
                copied = {
                    name.name: row[name.name] for name in fields(ConsentEvent) if name.name not in _NOT_COPIED
                }
                source = f"unlinked from {row['event_id']}"
                event = ConsentEvent(contact_point="", source=source, **copied)
                append_event(conn, event, sides[holds_for][0], now)

    def _keep_holds(self, conn: sa.Connection, person: str, new_person: str, now: datetime) -> None:
        """Let the legal holds on either side hold for the other side as well: what they protect may be on both."""
        sides = [
            [point.contact_point_id for point in people.points_of(conn, [one])]
            for one in (person, new_person)
        ]
        for made_on, holds_for in (sides, sides[::-1]):
            if holds.in_force(conn, holds_for):
                continue
            for hold in holds.in_force(conn, made_on):
                holds.place(conn, holds_for[0], hold.reason, now)
                journal.append(conn, _entries(journal.Kind.HELD, holds_for[:1], now, {"from": hold.hold_id}))


def _scope(refusal: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a refusal says, whoever recorded it."""
    return tuple(refusal[name] for name in ("party", "channel", "purpose", "occurred_at", "includes_service"))


def _reachable(ties: Mapping[str, set[str]], start: str) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        for neighbour in ties[waiting.pop()] - found:
            found.add(neighbour)
            waiting.append(neighbour)
    return found


def _entries(
    kind: journal.Kind, contact_point_ids: Iterable[str], now: datetime, body: Mapping[str, object]
) -> list[journal.Row]:
    return [journal.Row(kind=kind, at=now, contact_point_id=point, body=body) for point in contact_point_ids]
