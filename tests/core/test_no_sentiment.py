"""Principle 8: the engine has no field for whether a customer is happy.

Nothing that correlates with it may change whether or how someone is asked for a review. A rule can read only what
stands in a `Request`, a `Snapshot` and the policy, so the fields of these are a closed list.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from notifygate.consent import ConsentRecord
from notifygate.message import Email, Message, Purchase, Sms
from notifygate.snapshot import Ask, Handover, PurchaseFacts, Request, Snapshot, Suppression

DOCUMENTED: dict[type[Any], set[str]] = {
    Request: {
        "message_id", "merchant", "purpose", "role", "channel", "contact_point_id", "dedupe_key", "submitted_at",
        "send_after", "expires_at", "timezone", "country", "zones", "text",
    },
    Snapshot: {"consent", "suppressions", "handovers", "asks", "purchase"},
    ConsentRecord: {
        "event_id", "state", "contact_point_id", "party", "channel", "purpose", "occurred_at", "recorded_at",
        "expires_at", "includes_service", "invalidates",
    },
    Suppression: {"suppression_id", "contact_point_id", "reason", "created_at", "expires_at"},
    Handover: {"message_id", "merchant", "purpose", "purpose_class", "channel", "dedupe_key", "at"},
    Ask: {"ask_id", "by", "at", "message_id"},
    PurchaseFacts: {
        "purchase_id", "seller", "known_since", "purchased_at", "delivered_at", "reviewed_at", "asks",
        # Section 6: an open case may hold the ask, off by default, the same for everyone, released whatever comes.
        "case_open_since",
    },
    Message: {
        "merchant", "purpose", "content", "role", "purchase", "idempotency_key", "dedupe_key", "send_after",
        "expires_at", "timezone", "language", "metadata",
    },
    Email: {"to", "subject", "text", "html"},
    Sms: {"to", "text"},
    Purchase: {"seller", "order_id", "purchased_at", "delivered_at"},
}  # fmt: skip


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: kind.__name__)
def test_no_field_was_added_that_a_rule_could_read_sentiment_from(kind: type[Any]) -> None:
    found = {field.name for field in fields(kind)}
    assert found == DOCUMENTED[kind], (
        f"The fields of {kind.__name__} changed: added {sorted(found - DOCUMENTED[kind])}, "
        f"removed {sorted(DOCUMENTED[kind] - found)}. Principle 8 of DESIGN.md (no sentiment): nothing that "
        "correlates with whether a customer is happy may change whether or how they are asked; that is review "
        "gating, and unlawful. If the new field cannot tell it, add it here and say why in docs/adr/."
    )


def test_the_metadata_of_a_message_reaches_no_rule() -> None:
    assert "metadata" not in DOCUMENTED[Request] | DOCUMENTED[Snapshot]
