"""The compiled rules of a config file: frozen parameters that the pure core reads, and their hash.

Two configs that mean the same have the same policy, and so the same SHA-256. Everything that can change a decision
is in here; nothing else is (hosts, ports and passwords are not).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import time, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

import rfc8785

ANY = "*"


PENDING_FOR = timedelta(days=7)
"""How long a double opt-in may be confirmed, and so how long its one confirmation message may be sent."""

PLUGIN_HORIZON = timedelta(days=180)
"""How far back rules of other packages are shown the messages of a person."""

CASE_HOLDS_AT_MOST = timedelta(days=14)
"""How long an open case may hold a review request, from the time when it first fell due."""


class PurposeClass(StrEnum):
    """What kind of message a purpose is, in the eyes of the law."""

    SERVICE = "service"
    MARKETING = "marketing"
    REVIEW = "review"


class MerchantKind(StrEnum):
    """What an organisation is to a purchase."""

    SHOP = "shop"
    CARRIER = "carrier"
    PLATFORM = "platform"


class Accepts(StrEnum):
    """A ground on which a purpose may be sent."""

    CONSENT = "consent"
    SOFT_OPT_IN = "soft_opt_in"
    NEUTRAL_POST_SALE = "neutral_post_sale"


class Per(StrEnum):
    """Whose messages a frequency cap counts together."""

    MERCHANT = "merchant"
    GROUP = "group"
    PERSON = "person"


class Over(StrEnum):
    """What becomes of a message over the cap."""

    DENY = "deny"
    DEFER = "defer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Merchants that belong together, such as a flower chain and its florists."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merchant:
    """An organisation that sends in its own name."""

    name: str
    kind: MerchantKind
    group: str | None = None
    asks_for_reviews: bool = False
    timezone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """At most `limit` messages in the rolling `window`.

    Messages of `purposes` and of `classes` count; where both are empty, those of the purpose that the cap belongs to.
    `channels` narrows the cap to some channels; empty means all.
    """

    limit: int
    window: timedelta
    per: Per
    purposes: frozenset[str] = frozenset()
    classes: frozenset[PurposeClass] = frozenset()
    channels: frozenset[str] = frozenset()
    over: Over = Over.DENY


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """Why messages are sent, and on what conditions.

    `accepts` is empty for a purpose that needs no permission. `audience` is who may be asked for a review.
    `on_doubt` says whether a message that may have arrived is sent again. A purpose that `confirms` asks the person to
    confirm a double opt-in: one message for each request that is pending.
    """

    purpose_class: PurposeClass
    accepts: frozenset[Accepts]
    dedupe: timedelta | None = None
    caps: tuple[Cap, ...] = ()
    quiet_hours: str | None = None
    audience: str = "buyer"
    on_doubt: str = "hold"
    confirms: bool = False
    neutral_within: timedelta = timedelta(days=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietHours:
    """When messages may go out, in the recipient's local time.

    `allow` maps each weekday (0 is Monday) to windows from the first to before the second time; a window whose
    end is not after its start runs past midnight. On public holidays nothing goes out if `holidays` is set.
    """

    allow: Mapping[int, tuple[tuple[time, time], ...]] = field(hash=False)
    holidays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """So many in a rolling window."""

    limit: int
    window: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRequests:
    """How often, when and by whom a customer may be asked for a review. DESIGN.md section 6.

    `yield_for` is None where lower-ranked askers are denied, else how long they wait. With `hold_for_cases` an open
    case about the purchase holds the request back, for at most `CASE_HOLDS_AT_MOST`, whatever its outcome.
    """

    asks_per_purchase: int = 1
    per_person: Limit | None = Limit(limit=1, window=timedelta(days=30))
    per_person_and_merchant: Limit | None = Limit(limit=1, window=timedelta(days=180))
    precedence: tuple[MerchantKind, ...] = (MerchantKind.SHOP, MerchantKind.PLATFORM, MerchantKind.CARRIER)
    yield_for: timedelta | None = None
    delay: timedelta = timedelta(days=7)
    delay_without_delivery: timedelta = timedelta(days=30)
    expires: timedelta = timedelta(days=60)
    hold_for_cases: bool = False


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Everything that the rules go by. Immutable; known by `hash`, the SHA-256 of its canonical `text`.

    `rule_settings` names the rules of other packages that take part, with the settings of each.
    """

    merchants: Mapping[str, Merchant]
    purposes: Mapping[str, Purpose]
    groups: Mapping[str, Group] = field(default_factory=dict)
    quiet_hours: Mapping[str, QuietHours] = field(default_factory=dict)
    review_requests: ReviewRequests = ReviewRequests()
    review_domains: tuple[str, ...] = ()
    promotion_markers: tuple[str, ...] = ()
    rule_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    default_timezone: str | None = None
    default_country: str | None = None

    @cached_property
    def text(self) -> str:
        """The policy as canonical JSON (RFC 8785): the form that is hashed and kept in the ledger."""
        return rfc8785.dumps(_plain(self)).decode()

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `text`, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def horizon(self) -> timedelta:
        """How far back any rule looks at messages: older ones cannot change a decision.

        What limits review requests looks at asks, and all of those are known. Nobody knows how far rules of other
        packages look: for them it is never less than `PLUGIN_HORIZON`.
        """
        windows = [PLUGIN_HORIZON if self.rule_settings else timedelta(0)]
        for purpose in self.purposes.values():
            if purpose.confirms:
                windows.append(PENDING_FOR)
            windows.extend(cap.window for cap in purpose.caps)
            if purpose.dedupe is not None:
                windows.append(purpose.dedupe)
        return max(windows)

    @cached_property
    def members(self) -> Mapping[str, frozenset[str]]:
        """The merchants in each group that has any."""
        groups = {merchant.group for merchant in self.merchants.values() if merchant.group is not None}
        return {
            group: frozenset(name for name, merchant in self.merchants.items() if merchant.group == group)
            for group in groups
        }

    def group_of(self, merchant: str) -> str | None:
        """The group that holds a merchant, if any."""
        found = self.merchants.get(merchant)
        return found.group if found else None


def in_words(span: timedelta) -> str:
    """A span as people say it, exact: whole days from two on, else whole hours, minutes or seconds."""
    seconds = span.days * 86_400 + span.seconds
    if seconds % 86_400 == 0 and seconds != 86_400:
        return counted(seconds // 86_400, "day")
    for unit, length in (("hour", 3_600), ("minute", 60)):
        if seconds % length == 0:
            return counted(seconds // length, unit)
    return counted(seconds, "second")


def counted(count: int, unit: str) -> str:
    """A number and its unit: `1 day`, `2 days`."""
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _plain(value: Any) -> Any:
    """Turn policy values into what JSON knows. Sets are sorted, spans are whole microseconds."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset):
        return sorted(_plain(inner) for inner in value)
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, timedelta):
        return {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds}
    if isinstance(value, time):
        return value.isoformat()
    return value
