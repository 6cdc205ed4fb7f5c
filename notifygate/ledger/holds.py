"""Legal holds: what stops erasure and retention for a person. No rule knows of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from notifygate.ids import new_id
from notifygate.ledger import rows
from notifygate.ledger.schema import NO_STEP_SQL, contact_points, ledger, legal_holds, mailboxes, messages

_COLUMNS = (
    legal_holds.c.hold_id,
    legal_holds.c.contact_point_id,
    legal_holds.c.reason,
    legal_holds.c.placed_at,
    legal_holds.c.released_at,
)
_IN_FORCE = legal_holds.c.released_at.is_(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """A hold as the ledger has it."""

    hold_id: str
    contact_point_id: str
    reason: str
    placed_at: datetime
    released_at: datetime | None


def place(conn: sa.Connection, contact_point_id: str, reason: str, now: datetime) -> str:
    """Place a hold on a contact point; return its id."""
    hold_id = new_id("hld")
    row = {
        "hold_id": hold_id,
        "contact_point_id": contact_point_id,
        "reason": reason,
        "placed_at": now,
    }
    rows.insert(conn, legal_holds, [row])
    return hold_id


def release(conn: sa.Connection, contact_point_ids: Collection[str], now: datetime) -> list[HoldRow]:
    """Release the holds in force on some contact points; return them as they were."""
    found = in_force(conn, contact_point_ids)
    chosen = rows.is_among(legal_holds.c.hold_id, [hold.hold_id for hold in found])
    conn.execute(sa.update(legal_holds).where(chosen, _IN_FORCE).values(released_at=now))
    return found


def in_force(conn: sa.Connection, contact_point_ids: Collection[str]) -> list[HoldRow]:
    """The holds in force on some contact points, oldest first."""
    return [hold for hold in of_points(conn, contact_point_ids) if hold.released_at is None]


def of_points(conn: sa.Connection, contact_point_ids: Collection[str]) -> list[HoldRow]:
    """All holds ever placed on some contact points, oldest first."""
    query = (
        sa.select(*_COLUMNS)
        .where(rows.is_among(legal_holds.c.contact_point_id, contact_point_ids))
        .order_by(legal_holds.c.placed_at, legal_holds.c.hold_id)
    )
    return [HoldRow(**row._mapping) for row in conn.execute(query)]


def every(conn: sa.Connection) -> list[tuple[HoldRow, str, str | None]]:
    """All holds in force, oldest first, each with the channel and the address of its contact point."""
    query = (
        sa.select(*_COLUMNS, contact_points.c.channel, contact_points.c.address)
        .join(contact_points, contact_points.c.contact_point_id == legal_holds.c.contact_point_id)
        .where(_IN_FORCE)
        .order_by(legal_holds.c.placed_at, legal_holds.c.hold_id)
    )
    return [
        (HoldRow(**dict(zip(_NAMES, row[:-2], strict=True))), row[-2], row[-1]) for row in conn.execute(query)
    ]


def held_points(conn: sa.Connection) -> list[str]:
    """The ids of all contact points of all persons that a hold is on."""
    theirs = mailboxes.alias()
    held = contact_points.alias()
    query = (
        sa.select(contact_points.c.contact_point_id)
        .distinct()
        .join(mailboxes, mailboxes.c.mailbox_id == contact_points.c.mailbox_id)
        .join(theirs, theirs.c.person_id == mailboxes.c.person_id)
        .join(held, held.c.mailbox_id == theirs.c.mailbox_id)
        .join(legal_holds, legal_holds.c.contact_point_id == held.c.contact_point_id)
        .where(_IN_FORCE)
    )
    return [str(row[0]) for row in conn.execute(query)]


def oldest_row(conn: sa.Connection, before: datetime) -> datetime | None:
    """When the first row of the send log that is about a person on hold is dated, of those before an instant."""
    points = held_points(conn)
    theirs = sa.select(messages.c.message_id).where(rows.is_among(messages.c.contact_point_id, points))
    ways = (
        sa.and_(sa.text(NO_STEP_SQL), rows.is_among(ledger.c.contact_point_id, points)),
        # Decisions and attempts by their messages, whose first rows may have gone with an earlier month.
        ledger.c.message_id.in_(theirs),
    )
    query = sa.select(sa.func.min(ledger.c.at)).where(ledger.c.at < before)
    found: list[datetime | None] = [conn.execute(query.where(way)).scalar() for way in ways]
    return min((at for at in found if at is not None), default=None)


_NAMES = tuple(column.name for column in _COLUMNS)
