"""Contact points and the persons behind them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from notifygate.address import Channel, ContactPoint
from notifygate.fingerprint import Fingerprints
from notifygate.ids import new_id
from notifygate.ledger import rows
from notifygate.ledger.database import LedgerConflict
from notifygate.ledger.schema import contact_points, mailboxes, person_links, persons, suppressions


def _is_erased(mailbox_id: sa.Column[str]) -> sa.ColumnElement[bool]:
    """Whether the person of a mailbox is marked as erased, at whichever contact point."""
    mine, theirs, point = mailboxes.alias(), mailboxes.alias(), contact_points.alias()
    marked = (
        sa.select(sa.literal(1))
        .select_from(mine)
        .join(theirs, theirs.c.person_id == mine.c.person_id)
        .join(point, point.c.mailbox_id == theirs.c.mailbox_id)
        .join(suppressions, suppressions.c.contact_point_id == point.c.contact_point_id)
        .where(
            mine.c.mailbox_id == mailbox_id,
            suppressions.c.reason == "erased",
            suppressions.c.removed_at.is_(None),
        )
    )
    # Not `EXISTS`, for which PostgreSQL may read all marks at once.
    return marked.limit(1).correlate(mailbox_id.table).scalar_subquery().is_not(None)


_IS_WANTED = rows.is_among(contact_points.c.fingerprint, rows.listed("prints"))
_FIND_ALL = rows.Query(
    sa.select(contact_points.c.fingerprint, contact_points.c.contact_point_id).where(_IS_WANTED)
)
_FIND_AND_SHARE_ALL = rows.Query(
    sa.select(
        contact_points.c.fingerprint,
        contact_points.c.contact_point_id,
        contact_points.c.mailbox_id,
        contact_points.c.address.is_not(None),
        _is_erased(contact_points.c.mailbox_id),
    )
    .where(_IS_WANTED)
    # In one order for all, so that nobody waits in a ring.
    .order_by(contact_points.c.contact_point_id)
    .with_for_update(read=True)
)
_SHUT_POINTS = rows.Query(
    sa.select(contact_points.c.contact_point_id).where(
        rows.is_among(contact_points.c.contact_point_id, rows.listed("points")),
        contact_points.c.address.is_(None) | _is_erased(contact_points.c.mailbox_id),
    )
)
_ERASED_MAILBOXES = rows.Query(
    sa.select(mailboxes.c.mailbox_id).where(
        rows.is_among(mailboxes.c.mailbox_id, rows.listed("mailboxes")), _is_erased(mailboxes.c.mailbox_id)
    )
)
_POINT_IDS_OF = rows.Query(
    sa.select(contact_points.c.contact_point_id, mailboxes.c.person_id)
    .join(mailboxes, mailboxes.c.mailbox_id == contact_points.c.mailbox_id)
    .where(rows.is_among(mailboxes.c.person_id, rows.listed("persons")))
)
_LOCK = rows.Query(
    sa.select(persons.c.person_id)
    .where(rows.is_among(persons.c.person_id, rows.listed("persons")))
    .order_by(persons.c.person_id)
    .with_for_update()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPoint:
    """A contact point as the ledger has it. `address` is None once the person was erased."""

    contact_point_id: str
    person_id: str
    channel: Channel
    address: str | None = field(repr=False)

    def __str__(self) -> str:
        return f"{self.channel}:{self.address or '(erased)'}"


def find(conn: sa.Connection, fingerprints: Fingerprints, point: ContactPoint) -> str | None:
    """The id of a contact point, if the ledger knows it."""
    return find_all(conn, fingerprints, [point]).get(point)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """Contact points as they were made sure of: the id of each, and those whose person is erased.

    Of an erased person nothing that was typed may be kept.
    """

    ids: Mapping[ContactPoint, str]
    erased: frozenset[ContactPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    contact_point_id: str
    mailbox_id: str
    has_address: bool
    is_erased: bool


def find_all(
    conn: sa.Connection, fingerprints: Fingerprints, points: Iterable[ContactPoint]
) -> dict[ContactPoint, str]:
    """The ids of those contact points that the ledger knows."""
    by_print = {_address_print(fingerprints, point): point for point in points}
    return {by_print[fingerprint]: point_id for fingerprint, point_id in _FIND_ALL(conn, prints=by_print)}


def ensure(
    conn: sa.Connection, fingerprints: Fingerprints, points: Iterable[ContactPoint], now: datetime
) -> dict[ContactPoint, str]:
    """The ids of contact points, which are created where they are new; see `take_in`."""
    return dict(take_in(conn, fingerprints, points, now).ids)


def take_in(
    conn: sa.Connection, fingerprints: Fingerprints, points: Iterable[ContactPoint], now: datetime
) -> TakenIn:
    """Make sure of contact points: those that are new are created, and addresses that were removed come back.

    A new contact point joins the person of its mailbox, so that variants of an address are one person from birth.
    While a person is marked as erased, no address of theirs is written, be it old or new.
    """
    wanted = set(points)
    # INVARIANT(nothing is typed beside an erasure): it waits for whoever has taken a contact point in, and they for it;
    # of a new contact point they hold the mailbox, before they look whether the person is erased.
    known = _find_and_share(conn, fingerprints, wanted)
    ids = {point: found.contact_point_id for point, found in known.items()}
    erased = {point for point, found in known.items() if found.is_erased}
    missing = wanted - known.keys()
    bare = {point for point, found in known.items() if not found.has_address}
    if not missing and not bare:
        return TakenIn(ids=ids, erased=frozenset(erased))
    prints = {point: _mailbox_print(fingerprints, point) for point in missing}
    mailbox_ids, old = _ensure_mailboxes(conn, set(prints.values()), now)
    mailbox_of = {point: found.mailbox_id for point, found in known.items()}
    mailbox_of |= {point: mailbox_ids[prints[point]] for point in missing}
    # Of those that are bare once more: whoever erased them may have been waited for.
    shut = _erased_among(conn, old | {mailbox_of[point] for point in bare})
    erased |= {point for point in wanted if mailbox_of[point] in shut}
    if missing:
        new = [
            {
                "contact_point_id": new_id("cp"),
                "channel": point.channel.value,
                "fingerprint": _address_print(fingerprints, point),
                "address": None if point in erased else point.address,
                "mailbox_id": mailbox_of[point],
                "country": point.country,
                "zones": " ".join(point.zones),
                "created_at": now,
            }
            for point in missing
        ]
        # Sorted, so that two transactions that create the same rows wait for each other in one direction only.
        rows.insert_new(conn, contact_points, sorted(new, key=lambda one: str(one["fingerprint"])))
        ids |= find_all(conn, fingerprints, missing)
    for point in sorted(bare - erased, key=lambda point: ids[point]):
        _fill_in(conn, ids[point], point)
    return TakenIn(ids=ids, erased=frozenset(erased))


def _find_and_share(
    conn: sa.Connection, fingerprints: Fingerprints, points: Iterable[ContactPoint]
) -> dict[ContactPoint, _Found]:
    by_print = {_address_print(fingerprints, point): point for point in points}
    return {
        by_print[fingerprint]: _Found(
            contact_point_id=point_id,
            mailbox_id=mailbox_id,
            has_address=bool(has_address),
            is_erased=bool(is_erased),
        )
        for fingerprint, point_id, mailbox_id, has_address, is_erased in _FIND_AND_SHARE_ALL(
            conn, prints=by_print
        )
    }


def _fill_in(conn: sa.Connection, contact_point_id: str, point: ContactPoint) -> None:
    """Write the address of a contact point again that is known by its fingerprint only."""
    conn.execute(
        sa.update(contact_points)
        .where(contact_points.c.contact_point_id == contact_point_id, contact_points.c.address.is_(None))
        .values(address=point.address, country=point.country, zones=" ".join(point.zones))
    )


def _erased_among(conn: sa.Connection, mailbox_ids: Collection[str]) -> set[str]:
    """Those of some mailboxes whose person is marked as erased, at whichever contact point."""
    if not mailbox_ids:
        return set()
    return {str(row[0]) for row in _ERASED_MAILBOXES(conn, mailboxes=mailbox_ids)}


def shut_among(conn: sa.Connection, contact_point_ids: Collection[str]) -> set[str]:
    """Those of some contact points about which nothing that is typed may be kept.

    Their person is marked as erased, at whichever contact point, or the address is gone.
    """
    return {str(row[0]) for row in _SHUT_POINTS(conn, points=contact_point_ids)}


def person_by_mailbox(conn: sa.Connection, fingerprints: Fingerprints, point: ContactPoint) -> str | None:
    """The person whom a contact point belongs to, or would belong to if it were created now."""
    query = sa.select(mailboxes.c.person_id).where(
        mailboxes.c.fingerprint == _mailbox_print(fingerprints, point)
    )
    found: str | None = conn.execute(query).scalar()
    return found


def persons_of(conn: sa.Connection, contact_point_ids: Collection[str]) -> dict[str, str]:
    """The person behind each contact point, by their ids."""
    query = (
        sa.select(contact_points.c.contact_point_id, mailboxes.c.person_id)
        .join(mailboxes, mailboxes.c.mailbox_id == contact_points.c.mailbox_id)
        .where(rows.is_among(contact_points.c.contact_point_id, contact_point_ids))
    )
    return {str(row[0]): str(row[1]) for row in conn.execute(query)}


def points_of(conn: sa.Connection, person_ids: Collection[str]) -> list[KnownPoint]:
    """All contact points of some persons, oldest first."""
    query = (
        sa.select(
            contact_points.c.contact_point_id,
            mailboxes.c.person_id,
            contact_points.c.channel,
            contact_points.c.address,
        )
        .join(mailboxes, mailboxes.c.mailbox_id == contact_points.c.mailbox_id)
        .where(rows.is_among(mailboxes.c.person_id, person_ids))
        .order_by(contact_points.c.created_at, contact_points.c.contact_point_id)
    )
    return [
        KnownPoint(contact_point_id=row[0], person_id=row[1], channel=Channel(row[2]), address=row[3])
        for row in conn.execute(query)
    ]


def ids_after(conn: sa.Connection, person_id: str, limit: int) -> list[str]:
    """The next persons behind an id, in the order of their ids; the empty text is before all."""
    query = sa.select(persons.c.person_id).where(persons.c.person_id > person_id)
    return list(conn.execute(query.order_by(persons.c.person_id).limit(limit)).scalars())


def point(conn: sa.Connection, contact_point_id: str) -> KnownPoint | None:
    """One contact point by its id, if it is known."""
    person = persons_of(conn, [contact_point_id]).get(contact_point_id)
    found = points_of(conn, [person]) if person else []
    return next((known for known in found if known.contact_point_id == contact_point_id), None)


def has_address(conn: sa.Connection, contact_point_id: str) -> bool:
    """Whether the address of a contact point is there. Of one that has none nothing that is typed may be kept."""
    query = sa.select(contact_points.c.address).where(contact_points.c.contact_point_id == contact_point_id)
    return conn.execute(query).scalar() is not None


def point_ids_of(conn: sa.Connection, person_ids: Collection[str]) -> dict[str, str]:
    """The ids of all contact points of some persons, each with its person's."""
    return dict(_POINT_IDS_OF(conn, persons=person_ids))


def lock_persons_of(conn: sa.Connection, contact_point_ids: Collection[str]) -> dict[str, str]:
    """Hold the persons behind contact points; return them, by contact point.

    Raises `LedgerConflict` where one was joined with another while we waited.
    """
    person_of = persons_of(conn, contact_point_ids)
    lock(conn, set(person_of.values()))
    # INVARIANT(lock before looking): whom we hold must still be whom the contact points belong to.
    if persons_of(conn, contact_point_ids) != person_of:
        raise LedgerConflict("a person was joined with another just now")
    return person_of


def lock_to_move(conn: sa.Connection, contact_point_ids: Collection[str]) -> dict[str, str]:
    """As `lock_persons_of`, where mailboxes of these persons are to be given away."""
    # INVARIANT(locks in one order): mailboxes, then persons, as erasing takes them.
    theirs = rows.is_among(mailboxes.c.person_id, set(persons_of(conn, contact_point_ids).values()))
    held = sa.select(mailboxes.c.mailbox_id).where(theirs).order_by(mailboxes.c.mailbox_id)
    conn.execute(held.with_for_update(key_share=True)).all()
    return lock_persons_of(conn, contact_point_ids)


def lock(conn: sa.Connection, person_ids: Collection[str]) -> None:
    """Hold some persons until the transaction ends. Always in sorted order, so that nobody waits in a ring."""
    _LOCK(conn, persons=person_ids)


def move(conn: sa.Connection, *, from_person: str, to_person: str) -> None:
    """Give all mailboxes of one person to another. Both must be locked."""
    conn.execute(sa.update(mailboxes).where(mailboxes.c.person_id == from_person).values(person_id=to_person))


def mailbox_of(conn: sa.Connection, contact_point_id: str) -> str:
    """The mailbox that a contact point belongs to."""
    query = sa.select(contact_points.c.mailbox_id).where(
        contact_points.c.contact_point_id == contact_point_id
    )
    return str(conn.execute(query).scalar_one())


def mailboxes_of(conn: sa.Connection, contact_point_ids: Collection[str]) -> list[str]:
    """The mailboxes that some contact points belong to."""
    query = sa.select(contact_points.c.mailbox_id).where(
        rows.is_among(contact_points.c.contact_point_id, contact_point_ids)
    )
    return sorted({str(row[0]) for row in conn.execute(query)})


def add_link(conn: sa.Connection, mailbox_a: str, mailbox_b: str, evidence: str, now: datetime) -> str:
    """Record that two mailboxes belong to one human; return the id of the link."""
    link_id = new_id("lnk")
    conn.execute(
        sa.insert(person_links).values(
            link_id=link_id, mailbox_a=mailbox_a, mailbox_b=mailbox_b, evidence=evidence, linked_at=now
        )
    )
    return link_id


def end_links(conn: sa.Connection, mailbox_a: str, mailbox_b: str, now: datetime) -> list[str]:
    """End the links made between two mailboxes, either way round; return the ids of those that were in force."""
    between = sa.or_(
        sa.and_(person_links.c.mailbox_a == mailbox_a, person_links.c.mailbox_b == mailbox_b),
        sa.and_(person_links.c.mailbox_a == mailbox_b, person_links.c.mailbox_b == mailbox_a),
    )
    in_force = sa.and_(between, person_links.c.unlinked_at.is_(None))
    ids = [str(row[0]) for row in conn.execute(sa.select(person_links.c.link_id).where(in_force))]
    conn.execute(sa.update(person_links).where(in_force).values(unlinked_at=now))
    return ids


def linked_mailboxes(conn: sa.Connection, person_id: str) -> Mapping[str, set[str]]:
    """The mailboxes of a person, each with those that a link in force ties it to."""
    ids = [
        str(row[0])
        for row in conn.execute(sa.select(mailboxes.c.mailbox_id).where(mailboxes.c.person_id == person_id))
    ]
    ties: dict[str, set[str]] = {mailbox_id: set() for mailbox_id in ids}
    query = sa.select(person_links.c.mailbox_a, person_links.c.mailbox_b).where(
        person_links.c.unlinked_at.is_(None),
        person_links.c.mailbox_a.in_(ids) | person_links.c.mailbox_b.in_(ids),
    )
    for a, b in conn.execute(query):
        if a in ties and b in ties:
            ties[a].add(b)
            ties[b].add(a)
    return ties


def split_off(conn: sa.Connection, mailbox_ids: Collection[str], now: datetime) -> str:
    """Make mailboxes a person of their own; return the new person's id."""
    person_id = _new_persons(conn, 1, now)[0]
    conn.execute(
        sa.update(mailboxes).where(mailboxes.c.mailbox_id.in_(mailbox_ids)).values(person_id=person_id)
    )
    return person_id


def _ensure_mailboxes(
    conn: sa.Connection, prints: Collection[str], now: datetime
) -> tuple[dict[str, str], set[str]]:
    """The ids of mailboxes by their fingerprints, created where they are new, and the ids of those that were not.

    The latter are held until the transaction ends.
    """
    if not prints:
        return {}, set()
    known = _hold_by_print(conn, prints)
    created: set[str] = set()
    if missing := sorted(set(prints) - known.keys()):
        person_ids = _new_persons(conn, len(missing), now)
        new = [
            {"mailbox_id": new_id("mbx"), "fingerprint": fingerprint, "person_id": person_id}
            for fingerprint, person_id in zip(missing, person_ids, strict=True)
        ]
        rows.insert_new(conn, mailboxes, new)
        created = {one["mailbox_id"] for one in new}
        known |= _hold_by_print(conn, missing)
    return known, set(known.values()) - created


def _hold_by_print(conn: sa.Connection, prints: Collection[str]) -> dict[str, str]:
    """Hold mailboxes as whoever inserts a contact point does: erasing waits for that, giving them away does not."""
    query = (
        sa.select(mailboxes.c.fingerprint, mailboxes.c.mailbox_id)
        .where(rows.is_among(mailboxes.c.fingerprint, prints))
        .order_by(mailboxes.c.mailbox_id)
        .with_for_update(read=True, key_share=True)
    )
    return {str(row[0]): str(row[1]) for row in conn.execute(query)}


def _new_persons(conn: sa.Connection, count: int, now: datetime) -> list[str]:
    new = [{"person_id": new_id("per"), "created_at": now} for _ in range(count)]
    rows.insert(conn, persons, new)
    return [str(one["person_id"]) for one in new]


def _address_print(fingerprints: Fingerprints, point: ContactPoint) -> str:
    return fingerprints.of("contact point", point.channel.value, point.address)


def _mailbox_print(fingerprints: Fingerprints, point: ContactPoint) -> str:
    return fingerprints.of("mailbox", point.channel.value, point.mailbox)
