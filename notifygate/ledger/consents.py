"""Consent events: written once, never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.consent import ConsentRecord, State
from notifygate.ledger import rows
from notifygate.ledger.schema import FREE_TEXTS, Instant, consent_events

_RECORD_NAMES = [field.name for field in fields(ConsentRecord)]
_RECORDS_OF = rows.Query(
    sa.select(*(consent_events.c[name] for name in _RECORD_NAMES)).where(
        rows.is_among(consent_events.c.contact_point_id, rows.listed("points"))
    )
)

_FACTS = tuple(
    sa.type_coerce(column, sa.BigInteger).label(column.name) if isinstance(column.type, Instant) else column
    for column in consent_events.columns
    if column.name not in FREE_TEXTS
)


def insert(conn: sa.Connection, events: Sequence[dict[str, Any]]) -> None:
    """Add consent events."""
    rows.insert(conn, consent_events, events)


def records_of(conn: sa.Connection, contact_point_ids: Collection[str]) -> dict[str, list[ConsentRecord]]:
    """All consent events of some contact points, by contact point, as the rules read them."""
    found: defaultdict[str, list[ConsentRecord]] = defaultdict(list)
    for row in _RECORDS_OF(conn, points=contact_point_ids):
        columns = dict(zip(_RECORD_NAMES, row, strict=True))
        columns["state"] = State(columns["state"])
        record = ConsentRecord(**columns)
        found[record.contact_point_id].append(record)
    return found


def history(conn: sa.Connection, contact_point_ids: Collection[str]) -> list[dict[str, Any]]:
    """All columns of the consent events of some contact points, oldest first."""
    query = (
        sa.select(consent_events)
        .where(rows.is_among(consent_events.c.contact_point_id, contact_point_ids))
        .order_by(consent_events.c.recorded_at, consent_events.c.event_id)
    )
    return [dict(row._mapping) for row in conn.execute(query)]


def get(conn: sa.Connection, event_id: str) -> dict[str, Any] | None:
    """One consent event, all columns."""
    row = conn.execute(sa.select(consent_events).where(consent_events.c.event_id == event_id)).one_or_none()
    return dict(row._mapping) if row else None


def get_all(conn: sa.Connection, event_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Some consent events with all columns, by their ids, in the order in which they were recorded."""
    query = sa.select(consent_events).where(rows.is_among(consent_events.c.event_id, event_ids))
    found = conn.execute(query.order_by(consent_events.c.recorded_at, consent_events.c.event_id))
    return {row.event_id: dict(row._mapping) for row in found}


def facts_of(conn: sa.Connection, event_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Some consent events by their ids, without free texts; instants in microseconds since 1970, as they are kept."""
    query = sa.select(*_FACTS).where(rows.is_among(consent_events.c.event_id, event_ids))
    return {row.event_id: dict(row._mapping) for row in conn.execute(query)}


def every_id(conn: sa.Connection, *, since: datetime | None = None) -> Iterator[str]:
    """The ids of all consent events, or of those recorded at an instant or later."""
    query = sa.select(consent_events.c.event_id)
    if since is not None:
        query = query.where(consent_events.c.recorded_at >= since)
    for event_id in conn.execute(query.execution_options(yield_per=10_000)).scalars():
        yield str(event_id)
