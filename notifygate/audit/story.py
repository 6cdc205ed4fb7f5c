"""The whole story of one message: who asked, what was decided on what permission under which rules, what was sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.audit.policies import PolicyText
from notifygate.consent import ConsentEvent
from notifygate.decision import Decision
from notifygate.errors import NotFound
from notifygate.ledger import consents, journal, messages, people, purchases
from notifygate.ledger.journal import Kind, Row
from notifygate.ledger.messages import Attempt, StoredMessage
from notifygate.message import MetadataValue, Status

_ATTEMPT, _EVENT = "att_", "evt_"
_OF_EVENT = tuple(one.name for one in fields(ConsentEvent) if one.name != "contact_point")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that is known of one message.

    `rows` are the rows of the send log about it, oldest first; `decisions` are those among them that decided, and
    `consent` the events that these name, as what permitted or refused. `policies` are the rules that they went by.
    `purchase_names` are all names of the purchase as `(party, reference)`, the first of them the seller's order id.

    `contact_point` is None once the person was erased. `status`, `due_at` and `metadata` are None, or empty, where the
    message itself is no longer kept, and `rows` is empty where the months that held them were dropped.
    """

    message_id: str
    status: Status | None
    reason: str | None
    merchant: str
    purpose: str
    purpose_class: str
    role: str
    channel: str
    contact_point: str | None = field(repr=False)
    contact_point_id: str
    person_id: str | None
    purchase_names: tuple[tuple[str, str], ...]
    submitted_at: datetime
    due_at: datetime | None
    send_after: datetime | None
    expires_at: datetime | None
    timezone: str | None
    language: str | None
    metadata: Mapping[str, MetadataValue] = field(repr=False)
    rows: tuple[Row, ...]
    decisions: tuple[Decision, ...]
    consent: tuple[ConsentEvent, ...]
    attempts: tuple[Attempt, ...]
    policies: tuple[PolicyText, ...]

    @property
    def purchase(self) -> tuple[str, str] | None:
        """The purchase that it is about, as `(seller, order_id)`."""
        return self.purchase_names[0] if self.purchase_names else None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON-compatible values; instants are ISO 8601 in UTC."""
        seller, order_id = self.purchase or (None, None)
        return {
            "message_id": self.message_id,
            "status": self.status.value if self.status else None,
            "reason": self.reason,
            "merchant": self.merchant,
            "purpose": self.purpose,
            "class": self.purpose_class,
            "role": self.role,
            "channel": self.channel,
            "contact_point": self.contact_point,
            "contact_point_id": self.contact_point_id,
            "person_id": self.person_id,
            "purchase": {"seller": seller, "order_id": order_id} if self.purchase else None,
            "purchase_names": [{"party": party, "reference": name} for party, name in self.purchase_names],
            "submitted_at": _shown(self.submitted_at),
            "due_at": _shown(self.due_at),
            "send_after": _shown(self.send_after),
            "expires_at": _shown(self.expires_at),
            "timezone": self.timezone,
            "language": self.language,
            "metadata": dict(self.metadata),
            "rows": [row.to_json() for row in self.rows],
            "decisions": [decision.to_json() for decision in self.decisions],
            "consent": [_as_json(asdict(event)) for event in self.consent],
            "attempts": [_as_json(asdict(attempt)) for attempt in self.attempts],
            "policies": [policy.to_json() for policy in self.policies],
        }


def read_story(conn: sa.Connection, message_or_attempt_id: str) -> Story:
    """Read the story of a message, by its id or that of an attempt to send it. Raises `NotFound`."""
    message_id = message_or_attempt_id
    if message_id.startswith(_ATTEMPT):
        found = messages.message_of(conn, message_id)
        if found is None:
            raise NotFound(f"no attempt {message_id!r}")
        message_id = found
    message, rows = messages.get(conn, message_id), tuple(journal.of_message(conn, message_id))
    if message is None and not rows:
        raise NotFound(f"no message {message_id!r}")
    decisions = tuple(Decision.from_json(row.body) for row in rows if row.kind is Kind.DECISION)
    asked = _as_stored(message) if message else _as_logged(rows)
    purchase_id = asked.pop("purchase_id") or next((row.purchase_id for row in rows if row.purchase_id), None)
    point = people.point(conn, asked["contact_point_id"])
    return Story(
        message_id=message_id,
        **asked,
        contact_point=str(point) if point and point.address else None,
        person_id=point.person_id if point else None,
        purchase_names=_names(conn, purchase_id),
        rows=rows,
        decisions=decisions,
        consent=_consent_behind(conn, decisions),
        attempts=tuple(messages.attempts_of(conn, message_id)),
        policies=_policies(conn, decisions),
    )


def _as_stored(message: StoredMessage) -> dict[str, Any]:
    same = (
        "status",
        "reason",
        "merchant",
        "purpose",
        "role",
        "contact_point_id",
        "purchase_id",
        "submitted_at",
    )
    more = ("due_at", "send_after", "expires_at", "timezone", "language", "metadata")
    found = {name: getattr(message, name) for name in (*same, *more)}
    return found | {"purpose_class": message.purpose_class.value, "channel": message.channel.value}


def _as_logged(rows: Sequence[Row]) -> dict[str, Any]:
    """What the send log knows of a message that is itself no longer kept."""
    first = rows[0]
    body = first.body if first.kind is Kind.SUBMITTED else {}
    return {
        "status": None,
        "reason": None,
        "merchant": first.merchant or "",
        "purpose": first.purpose or "",
        "purpose_class": body.get("class", ""),
        "role": body.get("role", ""),
        "channel": first.channel or "",
        "contact_point_id": first.contact_point_id or "",
        "purchase_id": first.purchase_id,
        "submitted_at": first.at,
        "due_at": None,
        "send_after": _instant(body.get("send_after")),
        "expires_at": _instant(body.get("expires_at")),
        "timezone": body.get("timezone"),
        "language": body.get("language"),
        "metadata": {},
    }


def _names(conn: sa.Connection, purchase_id: str | None) -> tuple[tuple[str, str], ...]:
    """All names of a purchase, the seller's own first."""
    if purchase_id is None:
        return ()
    own = purchases.order_ids(conn, [purchase_id]).get(purchase_id)
    names = purchases.names_of(conn, purchase_id)
    return tuple(sorted(names, key=lambda name: name != own))


def _consent_behind(conn: sa.Connection, decisions: Sequence[Decision]) -> tuple[ConsentEvent, ...]:
    """The consent events that findings name, and the permissions that these make void."""
    evidence = [finding.evidence for decision in decisions for finding in decision.findings]
    wanted = {text for text in _texts(evidence) if text.startswith(_EVENT)}
    found = consents.get_all(conn, wanted)
    if void := {row["invalidates"] for row in found.values() if row["invalidates"]} - wanted:
        found |= consents.get_all(conn, void)
    points = {row["contact_point_id"]: people.point(conn, row["contact_point_id"]) for row in found.values()}
    return tuple(
        ConsentEvent(
            contact_point=str(points[row["contact_point_id"]]), **{name: row[name] for name in _OF_EVENT}
        )
        for row in found.values()
    )


def _texts(value: Any) -> Iterator[str]:
    """All texts in JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _policies(conn: sa.Connection, decisions: Sequence[Decision]) -> tuple[PolicyText, ...]:
    hashes = list(dict.fromkeys(decision.policy for decision in decisions))
    seen = journal.policies_seen(conn, hashes)
    return tuple(
        PolicyText(hash=one, text=seen[one][0], first_seen_at=seen[one][1]) for one in hashes if one in seen
    )


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shown(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _shown(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
