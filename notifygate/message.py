"""What an application hands over, and what it gets back. Frozen values, checked as they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from notifygate.errors import InvalidMessage

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_NUL = "\x00"

# Longest texts that are taken in. An SMS of 1,600 characters is 11 parts, the limit of the large gateways.
MAX_SMS_CHARACTERS = 1_600
MAX_BODY_CHARACTERS = 2_000_000
MAX_SUBJECT_CHARACTERS = 998  # RFC 5322 section 2.1.1
MAX_KEY_CHARACTERS = 200


MetadataValue = str | int | float | bool | None


class Status(StrEnum):
    """Where a message is in its life (DESIGN.md section 7)."""

    QUEUED = "queued"
    DEFERRED = "deferred"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"


class Result(StrEnum):
    """How an attempt to hand a message to a provider ended."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"


WAITING = frozenset({Status.QUEUED, Status.DEFERRED})
"""The statuses in which a message still waits for its decision, and can be cancelled."""


def check_aware(name: str, value: datetime | None) -> datetime | None:
    """Return `value` in UTC. A naive datetime raises `InvalidMessage`: its instant is unknown."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidMessage(name, f"a timezone-aware datetime is wanted, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidMessage(name, "has no time zone; use datetime.now(UTC) or add tzinfo")
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidMessage(name, "lies outside the years that can be told in UTC") from error


def _check_text(name: str, value: object, *, longest: int, one_line: bool = False) -> None:
    if not isinstance(value, str):
        raise InvalidMessage(name, f"text is wanted, not {type(value).__name__}")
    if not value.strip():
        raise InvalidMessage(name, "is empty")
    if len(value) > longest:
        raise InvalidMessage(name, f"has {len(value)} characters; at most {longest} are allowed")
    if one_line and _CONTROL.search(value):
        raise InvalidMessage(name, "must be one line without control characters (header injection)")
    check_unicode(name, value)


def check_unicode(name: str, value: str) -> None:
    """Refuse text that not every database can hold. Raises `InvalidMessage`."""
    if _NUL in value:
        raise InvalidMessage(name, "holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidMessage(name, "holds half of a surrogate pair; it is no valid Unicode text") from error


@dataclass(frozen=True, slots=True)
class Email:
    """An email: `to` as typed, a one-line `subject`, plain `text`, and `html` if there is a richer version."""

    to: str = field(repr=False)
    subject: str = field(repr=False)
    _: KW_ONLY
    text: str = field(repr=False)
    html: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_text("content.to", self.to, longest=320, one_line=True)
        _check_text("content.subject", self.subject, longest=MAX_SUBJECT_CHARACTERS, one_line=True)
        _check_text("content.text", self.text, longest=MAX_BODY_CHARACTERS)
        if self.html is not None:
            _check_text("content.html", self.html, longest=MAX_BODY_CHARACTERS)


@dataclass(frozen=True, slots=True)
class Sms:
    """A text message: `to` as typed (with country code, or in the configured default region) and `text`."""

    to: str = field(repr=False)
    text: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_text("content.to", self.to, longest=64, one_line=True)
        _check_text("content.text", self.text, longest=MAX_SMS_CHARACTERS)


@dataclass(frozen=True, slots=True)
class Purchase:
    """One order at one seller. `(seller, order_id)` is its name; a carrier may use its own reference."""

    seller: str
    order_id: str
    _: KW_ONLY
    purchased_at: datetime | None = None
    delivered_at: datetime | None = None

    def __post_init__(self) -> None:
        _check_text("purchase.seller", self.seller, longest=MAX_KEY_CHARACTERS, one_line=True)
        _check_text("purchase.order_id", self.order_id, longest=MAX_KEY_CHARACTERS, one_line=True)
        for name in ("purchased_at", "delivered_at"):
            object.__setattr__(self, name, check_aware(f"purchase.{name}", getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message, from one merchant, for one purpose, to one contact point.

    `role` says what the recipient is in the purchase: its `buyer`, or merely its `recipient`.
    `idempotency_key` makes handing over the same request twice harmless (unique per merchant).
    `dedupe_key` names the content; without one a fingerprint of the normalised text is used.
    `send_after` and `expires_at` bound when it may go out. `timezone` (IANA name) is the recipient's, if known.
    `language` (BCP 47, such as `da`) chooses the wording of lines that the gateway adds.
    `metadata` is kept with the message and handed back by `explain`; it takes no part in any decision.

    Raises `InvalidMessage`, which names the argument at fault.
    """

    merchant: str
    purpose: str
    content: Email | Sms
    role: Literal["buyer", "recipient"] = "buyer"
    purchase: Purchase | None = None
    idempotency_key: str | None = None
    dedupe_key: str | None = None
    send_after: datetime | None = None
    expires_at: datetime | None = None
    timezone: str | None = None
    language: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("merchant", "purpose"):
            _check_text(name, getattr(self, name), longest=MAX_KEY_CHARACTERS, one_line=True)
        if not isinstance(self.content, Email | Sms):
            raise InvalidMessage("content", f"Email or Sms is wanted, not {type(self.content).__name__}")
        if self.role not in ("buyer", "recipient"):
            raise InvalidMessage("role", "must be 'buyer' or 'recipient'")
        if self.purchase is not None and not isinstance(self.purchase, Purchase):
            raise InvalidMessage("purchase", f"Purchase is wanted, not {type(self.purchase).__name__}")
        for name in ("idempotency_key", "dedupe_key", "timezone", "language"):
            if getattr(self, name) is not None:
                _check_text(name, getattr(self, name), longest=MAX_KEY_CHARACTERS, one_line=True)
        for name in ("send_after", "expires_at"):
            object.__setattr__(self, name, check_aware(name, getattr(self, name)))
        if self.send_after and self.expires_at and self.expires_at <= self.send_after:
            raise InvalidMessage("expires_at", "must be later than send_after")
        object.__setattr__(self, "metadata", MappingProxyType(_checked_metadata(self.metadata)))

    def __reduce__(self) -> tuple[object, ...]:
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"metadata": dict(self.metadata)}
        return _remake, (values,)


def _remake(values: dict[str, object]) -> Message:
    return Message(**values)  # type: ignore[arg-type]  # the very values that __reduce__ took from a Message


def _checked_metadata(metadata: object) -> dict[str, MetadataValue]:
    if not isinstance(metadata, Mapping):
        raise InvalidMessage("metadata", f"a mapping is wanted, not {type(metadata).__name__}")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str | int | float | bool | None):
            raise InvalidMessage("metadata", "keys must be text, and values text, numbers, booleans or None")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidMessage("metadata", "numbers must be finite: JSON has no others")
        for text in (key, value):
            if isinstance(text, str):
                check_unicode("metadata", text)
    return dict(metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What `submit` returns. `duplicate` is true when this idempotency key had been handed over before."""

    message_id: str
    status: Status
    duplicate: bool = False
