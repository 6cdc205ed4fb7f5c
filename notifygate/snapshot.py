"""What a decision looks at: the request, and everything relevant that was known when it was made."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from notifygate.consent import ConsentRecord
from notifygate.policy import PurposeClass


class SuppressionReason(StrEnum):
    """Why a contact point must not be sent to, whatever the consent says."""

    HARD_BOUNCE = "hard_bounce"
    COMPLAINT = "complaint"
    ERASED = "erased"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One message as the rules see it: ids and facts; the text only for the rule that reads it.

    `country` and `zones` are those of a phone number. `timezone` is what the application said.
    """

    message_id: str
    merchant: str
    purpose: str
    role: Literal["buyer", "recipient"]
    channel: str
    contact_point_id: str
    dedupe_key: str
    submitted_at: datetime
    send_after: datetime | None = None
    expires_at: datetime | None = None
    timezone: str | None = None
    country: str | None = None
    zones: tuple[str, ...] = ()
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """A do-not-send mark on a contact point."""

    suppression_id: str
    contact_point_id: str
    reason: SuppressionReason
    created_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """An earlier message that counts: sent, in flight, or in doubt. `at` is when it was reserved."""

    message_id: str
    merchant: str
    purpose: str
    purpose_class: PurposeClass
    channel: str
    dedupe_key: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One review request about one purchase, by us (`message_id`) or made elsewhere (None)."""

    ask_id: str
    by: str
    at: datetime
    message_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseFacts:
    """What is known of a purchase under all its names. `known_since` is when the gateway first heard of it."""

    purchase_id: str
    seller: str
    known_since: datetime
    purchased_at: datetime | None = None
    delivered_at: datetime | None = None
    reviewed_at: datetime | None = None
    case_open_since: datetime | None = None
    asks: tuple[Ask, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything known of the person behind the contact point, and of the purchase.

    `consent`, `suppressions`, `handovers` and `asks` are those of all contact points of the person. Older
    handovers than the policy's horizon may be left out.
    """

    consent: tuple[ConsentRecord, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    handovers: tuple[Handover, ...] = ()
    asks: tuple[Ask, ...] = ()
    purchase: PurchaseFacts | None = None
