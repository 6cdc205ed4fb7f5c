"""Taking personal data out of the tables. Ids, keyed fingerprints and facts stay, and so does the send log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.ledger import rows
from notifygate.ledger.messages import STRIPPED
from notifygate.ledger.schema import (
    FREE_TEXTS,
    HELD_SQL,
    WAITING_SQL,
    asks,
    consent_events,
    contact_points,
    legal_holds,
    mailboxes,
    messages,
    person_links,
    reservations,
    suppressions,
)
from notifygate.message import Status

OPEN = tuple(one.value for one in (Status.QUEUED, Status.DEFERRED, Status.SENDING, Status.IN_DOUBT))
"""What is still to become of a message that retention must not touch."""

# Of these the reason may be what somebody typed: why it was cancelled, or how a doubt was resolved.
_TYPED_REASONS = tuple(one.value for one in (Status.CANCELLED, Status.SENT, Status.FAILED, Status.QUEUED))
_HAS_TEXT = sa.or_(
    messages.c.deliver_to.is_not(None),
    messages.c.subject.is_not(None),
    messages.c.text.is_not(None),
    messages.c.html.is_not(None),
    messages.c.metadata != "{}",
)
_HAS_FREE_TEXT = sa.or_(*(consent_events.c[name].is_not(None) for name in FREE_TEXTS))
_HAS_ADDRESS = contact_points.c.address.is_not(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many rows hold personal data that an erasure takes away, by kind.

    `addresses` counts contact points, `messages` those with texts, addresses, metadata or a key, `waiting` those of
    them that are cancelled. `consent_texts` counts consent events with anything typed, `link_evidence` links,
    `provider_ids` attempts, `hold_reasons` holds that were released.
    """

    addresses: int = 0
    messages: int = 0
    waiting: int = 0
    consent_texts: int = 0
    link_evidence: int = 0
    provider_ids: int = 0
    hold_reasons: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        )

    def to_json(self) -> dict[str, int]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How much stays of a person, without address or text, by kind: rows that are ids, keyed hashes and facts."""

    messages: int
    consent_events: int
    attempts: int
    asks: int
    in_flight: int
    in_doubt: int

    def to_json(self) -> dict[str, int]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def hold(conn: sa.Connection, contact_point_ids: Collection[str]) -> None:
    """Hold contact points, and their mailboxes, attempts and messages, until the transaction ends.

    Before their persons are held, and in the order in which workers take them, so that nobody waits in a ring. Whoever
    has taken in a contact point, or a new one of a mailbox, and is about to write a message to it, is waited for.
    """
    points = sa.select(contact_points.c.contact_point_id).where(_of(contact_points, contact_point_ids))
    held = points.order_by(contact_points.c.contact_point_id).with_for_update(key_share=True)
    conn.execute(held).all()
    theirs = sa.select(contact_points.c.mailbox_id).where(_of(contact_points, contact_point_ids))
    boxes = sa.select(mailboxes.c.mailbox_id).where(mailboxes.c.mailbox_id.in_(theirs))
    conn.execute(boxes.order_by(mailboxes.c.mailbox_id).with_for_update()).all()
    mine = attempts_of(contact_point_ids)
    attempts = sa.select(reservations.c.attempt_id).where(mine).order_by(reservations.c.attempt_id)
    conn.execute(attempts.with_for_update()).all()
    hold_messages(conn, _of(messages, contact_point_ids))


def attempts_of(contact_point_ids: Collection[str]) -> sa.ColumnElement[bool]:
    """The attempts for messages to some contact points; by the messages, as no index finds all by contact point."""
    theirs = sa.select(messages.c.message_id).where(_of(messages, contact_point_ids))
    return reservations.c.message_id.in_(theirs)


def hold_messages(conn: sa.Connection, chosen: sa.ColumnElement[bool]) -> None:
    """Hold some messages until the transaction ends."""
    conn.execute(
        sa.select(messages.c.message_id).where(chosen).order_by(messages.c.message_id).with_for_update()
    ).all()


def count(conn: sa.Connection, contact_point_ids: Collection[str], mailbox_ids: Collection[str]) -> Counts:
    """What there is to take away from some contact points, and from the links of their mailboxes."""
    points = contact_point_ids
    return Counts(
        addresses=_count(conn, contact_points, _of(contact_points, points), _HAS_ADDRESS),
        messages=_count(conn, messages, _of(messages, points), _may_name()),
        waiting=_count(conn, messages, _of(messages, points), sa.text(WAITING_SQL)),
        consent_texts=_count(conn, consent_events, _of(consent_events, points), _HAS_FREE_TEXT),
        link_evidence=_count(conn, person_links, _links_of(mailbox_ids), person_links.c.evidence != ""),
        provider_ids=_count(conn, reservations, attempts_of(points), _has_provider_id()),
        hold_reasons=_count(conn, legal_holds, _of(legal_holds, points), _is_old_hold()),
    )


def kept(conn: sa.Connection, contact_point_ids: Collection[str]) -> Kept:
    """What stays of some contact points."""
    mine = _of(messages, contact_point_ids)
    return Kept(
        messages=_count(conn, messages, mine),
        consent_events=_count(conn, consent_events, _of(consent_events, contact_point_ids)),
        attempts=_count(conn, reservations, attempts_of(contact_point_ids)),
        asks=_count(conn, asks, _of(asks, contact_point_ids)),
        in_flight=_count(conn, messages, mine, messages.c.status == Status.SENDING.value),
        in_doubt=_count(conn, messages, mine, messages.c.status == Status.IN_DOUBT.value),
    )


def cancel_waiting(conn: sa.Connection, contact_point_ids: Collection[str]) -> list[dict[str, Any]]:
    """Cancel the messages that wait, for the reason `erased`; return id, contact point, merchant, purpose, channel."""
    waiting = sa.and_(_of(messages, contact_point_ids), sa.text(WAITING_SQL))
    columns = ("message_id", "contact_point_id", "merchant", "purpose", "channel")
    query = sa.select(*(messages.c[name] for name in columns)).where(waiting).order_by(messages.c.message_id)
    found = [dict(row._mapping) for row in conn.execute(query)]
    chosen = rows.is_among(messages.c.message_id, [row["message_id"] for row in found])
    conn.execute(sa.update(messages).where(chosen).values(status=Status.CANCELLED.value, reason="erased"))
    return found


def erase(conn: sa.Connection, contact_point_ids: Collection[str], mailbox_ids: Collection[str]) -> None:
    """Take everything away that `count` counts. The persons must be held, and what waited be cancelled."""
    points = contact_point_ids
    _strip(conn, _of(messages, points))
    conn.execute(
        sa.update(reservations).where(attempts_of(points), _has_provider_id()).values(provider_id=None)
    )
    forget_consent_texts(conn, _of(consent_events, points))
    conn.execute(sa.update(person_links).where(_links_of(mailbox_ids)).values(evidence=""))
    conn.execute(sa.update(legal_holds).where(_of(legal_holds, points), _is_old_hold()).values(reason=""))
    # Last: whoever submits waits for this row, and finds the person marked.
    conn.execute(
        sa.update(contact_points).where(_of(contact_points, points), _HAS_ADDRESS).values(address=None)
    )


def _strip(conn: sa.Connection, chosen: sa.ColumnElement[bool]) -> None:
    conn.execute(sa.update(messages).where(chosen, _may_name()).values(STRIPPED))
    typed = sa.and_(chosen, _has_typed_reason())
    conn.execute(sa.update(messages).where(typed).values(reason=None))


def forget_consent_texts(conn: sa.Connection, chosen: sa.ColumnElement[bool]) -> int:
    """Take away what was typed into some consent events; return of how many."""
    nothing = dict.fromkeys(FREE_TEXTS)
    return conn.execute(sa.update(consent_events).where(chosen, _HAS_FREE_TEXT).values(nothing)).rowcount


# --- what retention looks for


def ended_before(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Messages with texts that ended before an instant, whatever happened to them."""
    later = sa.select(reservations.c.attempt_id).where(
        reservations.c.message_id == messages.c.message_id,
        sa.or_(
            reservations.c.ended_at >= cutoff,
            reservations.c.reserved_at >= cutoff,
            sa.text(f"reservations.{HELD_SQL}"),
        ),
    )
    return sa.and_(
        _HAS_TEXT,
        messages.c.status.not_in(OPEN),
        messages.c.submitted_at < cutoff,
        messages.c.due_at < cutoff,
        ~later.exists(),
    )


def typed_before(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Consent events with anything typed that were recorded before an instant."""
    return sa.and_(_HAS_FREE_TEXT, consent_events.c.recorded_at < cutoff)


def silent_since(cutoff: datetime) -> sa.ColumnElement[bool]:
    """Contact points with an address whose person was not heard of since an instant, and awaits nothing."""
    mine, theirs, point = mailboxes.alias(), mailboxes.alias(), contact_points.alias()
    same_person = (
        sa.select(point.c.contact_point_id)
        .join(theirs, theirs.c.mailbox_id == point.c.mailbox_id)
        .join(mine, mine.c.person_id == theirs.c.person_id)
        .where(mine.c.mailbox_id == contact_points.c.mailbox_id)
        .correlate(contact_points)
    )

    def seen(table: sa.Table, *when: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        found = sa.select(sa.literal(1)).where(
            table.c.contact_point_id == point.c.contact_point_id, sa.or_(*when)
        )
        return found.correlate(point).exists()

    attempted = (
        sa.select(sa.literal(1))
        .select_from(messages)
        .join(reservations, reservations.c.message_id == messages.c.message_id)
        .where(
            messages.c.contact_point_id == point.c.contact_point_id,
            sa.or_(reservations.c.reserved_at >= cutoff, reservations.c.ended_at >= cutoff),
        )
    )
    columns = person_links.c
    linked = sa.select(sa.literal(1)).where(
        sa.or_(columns.mailbox_a == point.c.mailbox_id, columns.mailbox_b == point.c.mailbox_id),
        sa.or_(columns.linked_at >= cutoff, columns.unlinked_at >= cutoff),
    )
    heard = sa.or_(
        point.c.created_at >= cutoff,
        seen(
            messages,
            messages.c.submitted_at >= cutoff,
            messages.c.due_at >= cutoff,
            messages.c.status.in_(OPEN),
        ),
        attempted.correlate(point).exists(),
        seen(consent_events, consent_events.c.recorded_at >= cutoff, consent_events.c.expires_at >= cutoff),
        seen(suppressions, suppressions.c.created_at >= cutoff, suppressions.c.removed_at >= cutoff),
        seen(asks, asks.c.asked_at >= cutoff),
        seen(legal_holds, legal_holds.c.placed_at >= cutoff, legal_holds.c.released_at >= cutoff),
        linked.correlate(point).exists(),
    )
    return sa.and_(_HAS_ADDRESS, ~same_person.where(heard).exists())


def chosen_points(conn: sa.Connection, chosen: sa.ColumnElement[bool]) -> set[str]:
    """The ids of the contact points that match."""
    return set(conn.execute(sa.select(contact_points.c.contact_point_id).where(chosen)).scalars())


def forget_texts(conn: sa.Connection, chosen: sa.ColumnElement[bool]) -> int:
    """Take texts, typed addresses and metadata from messages, not their idempotency keys; return from how many."""
    nothing = {name: value for name, value in STRIPPED.items() if name != "idempotency_key"}
    return conn.execute(sa.update(messages).where(chosen).values(nothing)).rowcount


def _may_name() -> sa.ColumnElement[bool]:
    return sa.or_(_HAS_TEXT, messages.c.idempotency_key.is_not(None), _has_typed_reason())


def _has_typed_reason() -> sa.ColumnElement[bool]:
    return sa.and_(
        messages.c.status.in_(_TYPED_REASONS), messages.c.reason.is_not(None), messages.c.reason != "erased"
    )


def _has_provider_id() -> sa.ColumnElement[bool]:
    # Without it a doubt could not be looked up; and what is under way has none yet.
    return sa.and_(reservations.c.provider_id.is_not(None), reservations.c.state.not_in(["held", "in_doubt"]))


def _is_old_hold() -> sa.ColumnElement[bool]:
    return sa.and_(legal_holds.c.released_at.is_not(None), legal_holds.c.reason != "")


def _links_of(mailbox_ids: Collection[str]) -> sa.ColumnElement[bool]:
    return sa.or_(
        rows.is_among(person_links.c.mailbox_a, mailbox_ids),
        rows.is_among(person_links.c.mailbox_b, mailbox_ids),
    )


def _of(table: sa.Table, contact_point_ids: Collection[str]) -> sa.ColumnElement[bool]:
    return rows.is_among(table.c.contact_point_id, contact_point_ids)


def _count(conn: sa.Connection, table: sa.Table, *conditions: Any) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(*conditions)
    return int(conn.execute(query).scalar_one())
