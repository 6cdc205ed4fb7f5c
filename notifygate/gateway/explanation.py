"""The story of one message, from the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.decision import Decision
from notifygate.errors import NotFound
from notifygate.ledger import journal, messages, people, purchases
from notifygate.ledger.messages import Attempt
from notifygate.message import MetadataValue, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What became of a message and why. `contact_point` is None once the person was erased.

    `decisions` and `attempts` are in the order in which they were made. `reason` is that of the status. `purchase`
    is `(seller, order_id)`.
    """

    message_id: str
    status: Status
    reason: str | None
    merchant: str
    purpose: str
    purpose_class: str
    role: str
    channel: str
    contact_point: str | None = field(repr=False)
    person_id: str
    purchase: tuple[str, str] | None
    submitted_at: datetime
    due_at: datetime
    send_after: datetime | None
    expires_at: datetime | None
    metadata: Mapping[str, MetadataValue] = field(repr=False)
    decisions: tuple[Decision, ...]
    attempts: tuple[Attempt, ...]

    @property
    def decision(self) -> Decision | None:
        """The last decision, which is the one that counts; None before the first."""
        return self.decisions[-1] if self.decisions else None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON-compatible values; instants are ISO 8601 in UTC."""
        seller, order_id = self.purchase or (None, None)
        return {
            "message_id": self.message_id,
            "status": self.status.value,
            "reason": self.reason,
            "merchant": self.merchant,
            "purpose": self.purpose,
            "class": self.purpose_class,
            "role": self.role,
            "channel": self.channel,
            "contact_point": self.contact_point,
            "person_id": self.person_id,
            "purchase": {"seller": seller, "order_id": order_id} if self.purchase else None,
            "submitted_at": _shown(self.submitted_at),
            "due_at": _shown(self.due_at),
            "send_after": _shown(self.send_after),
            "expires_at": _shown(self.expires_at),
            "metadata": dict(self.metadata),
            "decisions": [decision.to_json() for decision in self.decisions],
            "attempts": [
                {
                    name: _shown(value) if isinstance(value, datetime) else value
                    for name, value in asdict(attempt).items()
                    if name != "message_id"
                }
                for attempt in self.attempts
            ],
        }


def explain(conn: sa.Connection, message_id: str) -> Explanation:
    """Read the story of a message. Raises `NotFound`."""
    message = messages.get(conn, message_id)
    if message is None:
        raise NotFound(f"no message {message_id!r}")
    known = people.point(conn, message.contact_point_id)
    purchase = None
    if message.purchase_id is not None:
        purchase = purchases.order_ids(conn, [message.purchase_id])[message.purchase_id]
    decisions = [
        Decision.from_json(row.body)
        for row in journal.of_message(conn, message_id)
        if row.kind is journal.Kind.DECISION
    ]
    return Explanation(
        message_id=message_id,
        status=message.status,
        reason=message.reason,
        merchant=message.merchant,
        purpose=message.purpose,
        purpose_class=message.purpose_class.value,
        role=message.role,
        channel=message.channel.value,
        contact_point=str(known) if known and known.address else None,
        person_id=known.person_id if known else "",
        purchase=purchase,
        submitted_at=message.submitted_at,
        due_at=message.due_at,
        send_after=message.send_after,
        expires_at=message.expires_at,
        metadata=message.metadata,
        decisions=tuple(decisions),
        attempts=tuple(messages.attempts_of(conn, message_id)),
    )


def _shown(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
