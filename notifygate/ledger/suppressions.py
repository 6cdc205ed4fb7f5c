"""Do-not-send marks on contact points."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.ids import new_id
from notifygate.ledger import rows
from notifygate.ledger.schema import contact_points, suppressions
from notifygate.snapshot import Suppression, SuppressionReason

_OF_POINTS = rows.Query(
    sa.select(
        suppressions.c.suppression_id,
        suppressions.c.contact_point_id,
        suppressions.c.reason,
        suppressions.c.created_at,
        suppressions.c.expires_at,
    ).where(
        suppressions.c.removed_at.is_(None),
        suppressions.c.expires_at.is_(None) | (suppressions.c.expires_at > rows.instant("now")),
        rows.is_among(suppressions.c.contact_point_id, rows.listed("points")),
    )
)
_LIFTED_UNNAMED = (SuppressionReason.HARD_BOUNCE, SuppressionReason.MANUAL, SuppressionReason.COMPLAINT)


def add(
    conn: sa.Connection,
    contact_point_id: str,
    reason: SuppressionReason,
    now: datetime,
    expires_at: datetime | None,
) -> str:
    """Mark a contact point; return the id of the mark."""
    suppression_id = new_id("sup")
    conn.execute(
        sa.insert(suppressions).values(
            suppression_id=suppression_id,
            contact_point_id=contact_point_id,
            reason=reason.value,
            created_at=now,
            expires_at=expires_at,
        )
    )
    return suppression_id


def remove(
    conn: sa.Connection, contact_point_id: str, now: datetime, reason: SuppressionReason | None
) -> list[str]:
    """Lift the marks for one reason, or all but those of an erasure; return their ids."""
    in_force = _in_force(now).where(suppressions.c.contact_point_id == contact_point_id)
    lifted = _LIFTED_UNNAMED if reason is None else (reason,)
    in_force = in_force.where(suppressions.c.reason.in_([one.value for one in lifted]))
    ids = [row.suppression_id for row in conn.execute(in_force)]
    conn.execute(sa.update(suppressions).where(suppressions.c.suppression_id.in_(ids)).values(removed_at=now))
    return ids


def of_points(conn: sa.Connection, contact_point_ids: Collection[str], now: datetime) -> list[Suppression]:
    """The marks in force on some contact points."""
    return [
        Suppression(
            suppression_id=suppression_id,
            contact_point_id=contact_point_id,
            reason=SuppressionReason(reason),
            created_at=created_at,
            expires_at=expires_at,
        )
        for suppression_id, contact_point_id, reason, created_at, expires_at in _OF_POINTS(
            conn, points=contact_point_ids, now=now
        )
    ]


def every(conn: sa.Connection, now: datetime) -> Iterator[tuple[Suppression, str, str | None]]:
    """All marks in force, oldest first, each with the channel and the address of its contact point."""
    query = (
        _in_force(now)
        .add_columns(contact_points.c.channel, contact_points.c.address)
        .join(contact_points, contact_points.c.contact_point_id == suppressions.c.contact_point_id)
        .order_by(suppressions.c.created_at, suppressions.c.suppression_id)
    )
    for row in conn.execute(query):
        yield _suppression(row), row.channel, row.address


def _in_force(now: datetime) -> sa.Select[Any]:
    columns = suppressions.c
    return sa.select(suppressions).where(
        columns.removed_at.is_(None),
        columns.expires_at.is_(None) | (columns.expires_at > now),
    )


def _suppression(row: sa.Row[Any]) -> Suppression:
    return Suppression(
        suppression_id=row.suppression_id,
        contact_point_id=row.contact_point_id,
        reason=SuppressionReason(row.reason),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
