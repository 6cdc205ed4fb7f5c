"""What the send log refers to and is kept beside it: policies, and consent events. Are they what the log says?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa

from notifygate.ledger import consents, journal, seals
from notifygate.ledger.schema import to_micros

_CONSENT = b'"kind":"consent"'
_POLICY = re.compile(rb',"policy":"([0-9a-f]{64})",')


@dataclass(slots=True)
class Tally:
    """Of which ids a collection is, whatever their order, in a few bytes."""

    sum: int = 0
    count: int = 0

    def add(self, name: str) -> None:
        self.sum += int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
        self.count += 1


def policies_named(forms: Iterable[bytes]) -> Iterator[str]:
    """The hashes of the policies that rows in their canonical form were decided under."""
    for form in forms:
        if (found := _POLICY.search(form, form.rfind(b',"policy":"'))) is not None:
            yield found[1].decode()


def consent_rows(forms: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """Those rows that are about consent, of rows in their canonical form; none that is not as the gateway writes it."""
    for form in forms:
        if _CONSENT in form:
            try:
                row = orjson.loads(form)
            except ValueError:
                continue
            if row["kind"] == journal.Kind.CONSENT.value and isinstance(row["body"], dict):
                yield row


def events_told(logged: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """The ids of the events that rows about consent tell of, and the instant of each row."""
    for row in logged:
        yield str(row["body"].get("event_id")), row["at"]


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


def unlogged_events(conn: sa.Connection, *, since: datetime | None) -> Iterator[str]:
    """The ids of consent events, recorded at an instant or later, that the log knows nothing of."""
    rows = seals.rows_of_kind(conn, journal.Kind.CONSENT.value)
    logged = {event_id for event_id, _ in events_told(consent_rows(row.data for row in rows))}
    for event_id in consents.every_id(conn, since=since):
        if event_id not in logged:
            yield event_id


def altered_policies(conn: sa.Connection, named: Collection[str]) -> Iterator[tuple[str, str]]:
    """Of policies, kept or `named`, those whose text is not there or another: the hash, and what is wrong."""
    known = set()
    for policy_hash, text in journal.every_policy(conn):
        known.add(policy_hash)
        told = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else b""
        if hashlib.sha256(told).hexdigest() != policy_hash:
            yield policy_hash, "is not the one that it is the hash of"
    for policy_hash in sorted(set(named) - known):
        yield policy_hash, "is missing, though decisions name it"


def _differing(event: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    body = row["body"]
    told = {name: body[name] for name in body if name not in ("occurred_at", "expires_at")}
    told |= {"contact_point_id": row["contact_point_id"], "recorded_at": row["at"]}
    told |= {name: _instant(body.get(name)) for name in ("occurred_at", "expires_at")}
    return sorted(name for name, value in told.items() if name in event and event[name] != value)


def _instant(text: Any) -> Any:
    """As it is kept; what is no instant as it stands."""
    try:
        return None if text is None else to_micros(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return text
