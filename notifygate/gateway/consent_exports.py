"""All consent events, told so that they are complete on their own: for another system, or an empty ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.address import ContactPoint
from notifygate.consent import REFUSALS, ConsentEvent, purposes_refused_with
from notifygate.errors import InvalidConsent
from notifygate.gateway.consent_writing import STORED
from notifygate.ledger import consents, people
from notifygate.ledger.people import KnownPoint
from notifygate.message import check_aware
from notifygate.policy import ANY, Policy, PurposeClass
from notifygate.runtime import Runtime

_PERSONS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An event as it is handed on. `key` is unlike that of any other: import it as the row's key.

    `spread_from` is the id of the event that this one repeats: a refusal made at another contact point of the person.
    `erased` says that the address is gone; the event's contact point is then told by its id.
    """

    event: ConsentEvent = field(repr=False)
    key: str
    person_id: str
    contact_point_id: str
    spread_from: str | None = None
    erased: bool = False


def export_events(
    runtime: Runtime,
    *,
    party: str | None,
    purpose: str | None,
    contact_point: ContactPoint | str | None,
    since: datetime | None,
) -> Iterator[Exported]:
    """See `gate.consent.export`. What is wrong with the arguments is raised at once, not at the first event."""
    policy = runtime.config.policy
    parties = _parties(party, policy) if party is not None else None
    purposes = _purposes(purpose, policy) if purpose is not None else None
    point = runtime.point(contact_point) if contact_point is not None else None
    begin = check_aware("since", since)

    def events() -> Iterator[Exported]:
        with runtime.ledger.read() as conn:
            if conn.dialect.name == "postgresql":
                # INVARIANT(one state of the ledger): persons joined meanwhile must be neither missed nor told twice.
                conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            for one in _of_all(conn) if point is None else _of_one(runtime, conn, point):
                event = one.event
                if (
                    (parties is None or event.party in parties)
                    and (purposes is None or event.purpose in purposes)
                    and (begin is None or (event.recorded_at is not None and event.recorded_at >= begin))
                ):
                    yield one

    return events()


def _parties(party: str, policy: Policy) -> set[str] | None:
    """The parties whose events bear on one: itself, its group or the merchants in it, and all. None for any."""
    if party == ANY:
        return None
    if party not in {*policy.merchants, *policy.groups}:
        raise InvalidConsent("party", "no such merchant or group in the config")
    members = {name for name in policy.merchants if policy.group_of(name) == party}
    return {party, ANY, policy.group_of(party) or party} | members


def _purposes(purpose: str, policy: Policy) -> set[str] | None:
    """The purposes whose events bear on one: itself, the classes that hold it or purposes in it, and all."""
    if purpose == ANY:
        return None
    if purpose not in {*policy.purposes, *PurposeClass}:
        raise InvalidConsent("purpose", "no such purpose or class in the config")
    within = {name for name in policy.purposes if purpose in purposes_refused_with(name, policy)}
    return {purpose, ANY} | purposes_refused_with(purpose, policy) | within


def _of_one(runtime: Runtime, conn: sa.Connection, point: ContactPoint) -> Iterator[Exported]:
    point_id = people.find(conn, runtime.ledger.fingerprints, point)
    person = people.person_by_mailbox(conn, runtime.ledger.fingerprints, point)
    if person is not None and point_id is not None:
        yield from (one for one in _of_persons(conn, [person]) if one.contact_point_id == point_id)


def _of_all(conn: sa.Connection) -> Iterator[Exported]:
    last = ""
    while persons := people.ids_after(conn, last, _PERSONS):
        yield from _of_persons(conn, persons)
        last = persons[-1]


def _of_persons(conn: sa.Connection, person_ids: Sequence[str]) -> Iterator[Exported]:
    points: defaultdict[str, list[KnownPoint]] = defaultdict(list)
    for known in people.points_of(conn, person_ids):
        points[known.person_id].append(known)
    events: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    ids = [known.contact_point_id for of_person in points.values() for known in of_person]
    for row in consents.history(conn, ids):
        events[row["contact_point_id"]].append(row)
    for person_id in person_ids:
        for known in points[person_id]:
            others = [other for other in points[person_id] if _is_elsewhere(other, known)]
            told = [_exported(row, known, own=True) for row in events[known.contact_point_id]]
            # INVARIANT(refusals spread): elsewhere nobody knows that these contact points are one person's.
            told += [
                _exported(row, known, own=False)
                for other in others
                for row in events[other.contact_point_id]
                if row["state"] in REFUSALS
            ]
            yield from sorted(told, key=_order)


def _is_elsewhere(other: KnownPoint, known: KnownPoint) -> bool:
    """Whether another contact point is one that whoever reads the export cannot know to be the same person's."""
    if other.contact_point_id == known.contact_point_id:
        return False
    if other.address is None or known.address is None:
        return True
    return ContactPoint.parse(str(other)).mailbox != ContactPoint.parse(str(known)).mailbox


def _order(one: Exported) -> tuple[datetime | None, bool, str]:
    """As recorded; what voids a permission comes behind it, though both were recorded at the same instant."""
    return (one.event.recorded_at, one.event.invalidates is not None, one.key)


def _exported(row: dict[str, Any], known: KnownPoint, *, own: bool) -> Exported:
    erased = known.address is None
    point_id = known.contact_point_id
    event = ConsentEvent(
        # An erased one has no address to parse; its id serves nobody who does not have this ledger.
        contact_point=point_id if erased else str(known),
        **{name: row[name] for name in STORED},
    )
    return Exported(
        event=event if own else replace(event, event_id=None),
        key=row["event_id"] if own else f"{row['event_id']}@{point_id}",
        person_id=known.person_id,
        contact_point_id=point_id,
        spread_from=None if own else row["event_id"],
        erased=erased,
    )
