"""What the send log refers to and is kept beside it: policies, and consent events. Are they what the log says?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from notifygate.ledger import consents, journal
from notifygate.ledger.schema import to_micros

_CONSENT = b'"kind":"consent"'


def consent_rows(forms: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """Those rows that are about consent, of rows in their canonical form."""
    for form in forms:
        if _CONSENT in form:
            row = orjson.loads(form)
            if row["kind"] == journal.Kind.CONSENT.value:
                yield row


def altered_events(conn: sa.Connection, logged: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Of consent events, each as the log has it, those that are kept otherwise: the id, and what is wrong."""
    by_id = {str(row["body"].get("event_id")): row for row in logged}
    kept = consents.facts_of(conn, by_id)
    for event_id, row in by_id.items():
        event = kept.get(event_id)
        if event is None:
            yield event_id, "is missing"
        elif names := _differing(event, row):
            yield event_id, f"says something else than the log: {', '.join(names)}"


def unlogged_events(conn: sa.Connection) -> Iterator[str]:
    """The ids of consent events that the log knows nothing of."""
    logged = {str(row.body.get("event_id")) for row in journal.of_kind(conn, journal.Kind.CONSENT)}
    for event_id in consents.every_id(conn):
        if event_id not in logged:
            yield event_id


def altered_policies(conn: sa.Connection) -> Iterator[str]:
    """The hashes of policies whose text is another than the hash is of."""
    for policy_hash, text in journal.every_policy(conn):
        if hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() != policy_hash:
            yield policy_hash


def _differing(event: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    body = row["body"]
    told = {name: body[name] for name in body if name not in ("occurred_at", "expires_at")}
    told |= {"contact_point_id": row["contact_point_id"], "recorded_at": row["at"]}
    told |= {name: _micros(body.get(name)) for name in ("occurred_at", "expires_at")}
    return sorted(name for name, value in told.items() if name in event and event[name] != value)


def _micros(text: str | None) -> int | None:
    return None if text is None else to_micros(datetime.fromisoformat(text))
