"""Consent events: written once, never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from notifygate.consent import ConsentRecord, State
from notifygate.ledger.schema import consent_events

_RECORD_COLUMNS = [consent_events.c[field.name] for field in fields(ConsentRecord)]


def insert(conn: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Add consent events."""
    if rows:
        conn.execute(sa.insert(consent_events), list(rows))


def records_of(
    conn: sa.Connection, contact_point_ids: Collection[str] | sa.Select[Any]
) -> dict[str, list[ConsentRecord]]:
    """All consent events of some contact points, by contact point, as the rules read them."""
    found: defaultdict[str, list[ConsentRecord]] = defaultdict(list)
    query = sa.select(*_RECORD_COLUMNS).where(consent_events.c.contact_point_id.in_(contact_point_ids))
    for row in conn.execute(query):
        columns = dict(row._mapping)
        record = ConsentRecord(**columns | {"state": State(columns["state"])})
        found[record.contact_point_id].append(record)
    return found


def history(conn: sa.Connection, contact_point_ids: Collection[str]) -> list[dict[str, Any]]:
    """All columns of the consent events of some contact points, oldest first."""
    query = (
        sa.select(consent_events)
        .where(consent_events.c.contact_point_id.in_(contact_point_ids))
        .order_by(consent_events.c.recorded_at, consent_events.c.event_id)
    )
    return [dict(row._mapping) for row in conn.execute(query)]


def get(conn: sa.Connection, event_id: str) -> dict[str, Any] | None:
    """One consent event, all columns."""
    row = conn.execute(sa.select(consent_events).where(consent_events.c.event_id == event_id)).one_or_none()
    return dict(row._mapping) if row else None
