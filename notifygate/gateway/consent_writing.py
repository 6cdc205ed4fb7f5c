"""How a consent event is written: the event itself, and its row of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.consent import PERMISSIONS, ConsentEvent
from notifygate.ids import new_id
from notifygate.ledger import consents, journal, people
from notifygate.ledger.schema import FREE_TEXTS
from notifygate.policy import ANY

STORED = tuple(field.name for field in fields(ConsentEvent) if field.name != "contact_point")
"""The fields that a consent event has as columns; its contact point is kept by id."""

# What goes into the ledger row. Free texts stay in the consent event: a reader may have typed an address there.
_LOGGED = (
    *("event_id", "state", "party", "channel", "purpose", "basis", "notice_version", "opt_out_offered"),
    *("includes_service", "invalidates"),
)


def append_event(conn: sa.Connection, event: ConsentEvent, contact_point_id: str, now: datetime) -> str:
    """Write an event that was found to be in order, recorded `now`, and its ledger row; return its id."""
    event = replace(event, event_id=new_id("evt"))
    append_events(conn, [(event, contact_point_id)], now)
    return str(event.event_id)


def append_events(conn: sa.Connection, events: Sequence[tuple[ConsentEvent, str]], now: datetime) -> None:
    """Write events that have their ids and were found to be in order, each with its contact point's id.

    The persons must be held: nothing that is typed about one who is erased is kept, but of a permission.
    """
    shut = people.shut_among(conn, {contact_point_id for _, contact_point_id in events})
    stored, logged = [], []
    for told, contact_point_id in events:
        event = _kept_of_erased(told) if contact_point_id in shut else told
        row = {name: getattr(event, name) for name in STORED}
        row |= {"state": str(event.state), "contact_point_id": contact_point_id}
        row |= {"recorded_at": now, "occurred_at": event.occurred_at or now}
        stored.append(row)
        logged.append(
            journal.Row(
                kind=journal.Kind.CONSENT,
                at=now,
                contact_point_id=contact_point_id,
                merchant=None if event.party == ANY else event.party,
                purpose=None if event.purpose == ANY else event.purpose,
                channel=None if event.channel == ANY else event.channel,
                outcome=str(event.state),
                body={name: row[name] for name in _LOGGED}
                | {"occurred_at": row["occurred_at"].isoformat()}
                | {"expires_at": event.expires_at.isoformat() if event.expires_at else None},
            )
        )
    consents.insert(conn, stored)
    journal.append(conn, logged)


def _kept_of_erased(event: ConsentEvent) -> ConsentEvent:
    """What may be kept of an event about an erased person: of all but a permission the fact, which is honoured alone.

    Nothing that is typed about an erased person may pile up.
    """
    nothing: dict[str, Any] = dict.fromkeys(FREE_TEXTS)
    return event if event.state in PERMISSIONS else replace(event, **nothing)
