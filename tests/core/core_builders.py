"""Small worlds for the tests of the pure core: one policy, and values with defaults that a test can override.

Merchants `m1` and `m2` are florists in the group `g`; `m3` is a shop of its own; `post` carries, `trust` reviews.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

from notifygate.consent import ConsentRecord, State
from notifygate.decision import Finding
from notifygate.policy import (
    Accepts,
    Cap,
    Group,
    Limit,
    Merchant,
    MerchantKind,
    Per,
    Policy,
    Purpose,
    PurposeClass,
    QuietHours,
    ReviewRequests,
)
from notifygate.snapshot import (
    Ask,
    Handover,
    PurchaseFacts,
    Request,
    Snapshot,
    Suppression,
    SuppressionReason,
)

TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
NOW = datetime(2026, 5, 12, 12, 0, tzinfo=UTC)  # a Tuesday, 14:00 in Copenhagen

CONSENT = frozenset({Accepts.CONSENT})
SOFT = frozenset({Accepts.SOFT_OPT_IN})
EITHER = CONSENT | SOFT

MERCHANTS = {
    "m1": Merchant(name="Florist One", kind=MerchantKind.SHOP, group="g"),
    "m2": Merchant(name="Florist Two", kind=MerchantKind.SHOP, group="g"),
    "m3": Merchant(name="Shop Three", kind=MerchantKind.SHOP),
    "post": Merchant(name="Post", kind=MerchantKind.CARRIER),
    "trust": Merchant(name="Trust", kind=MerchantKind.PLATFORM),
}
PURPOSES = {
    "newsletter": Purpose(purpose_class=PurposeClass.MARKETING, accepts=EITHER),
    "offers": Purpose(purpose_class=PurposeClass.MARKETING, accepts=CONSENT),
    "order_update": Purpose(purpose_class=PurposeClass.SERVICE, accepts=frozenset()),
    "review_request": Purpose(purpose_class=PurposeClass.REVIEW, accepts=EITHER),
    "confirmation": Purpose(purpose_class=PurposeClass.SERVICE, accepts=frozenset(), confirms=True),
    "neutral_review": Purpose(
        purpose_class=PurposeClass.REVIEW, accepts=CONSENT | {Accepts.NEUTRAL_POST_SALE}
    ),
}
POLICY = Policy(
    merchants=MERCHANTS,
    purposes=PURPOSES,
    groups={"g": Group(name="Flower chain")},
    review_domains=("trustpilot.com", "reviews.example"),
    promotion_markers=("discount", "20% off"),
    default_timezone="Europe/Copenhagen",
    default_country="DK",
)

_ids = itertools.count(1)


def purpose(name: str, policy: Policy = POLICY, **changes: Any) -> Policy:
    """The policy with one purpose changed."""
    return replace(policy, purposes={**policy.purposes, name: replace(policy.purposes[name], **changes)})


def merchant(name: str, policy: Policy = POLICY, **changes: Any) -> Policy:
    """The policy with one merchant changed."""
    return replace(policy, merchants={**policy.merchants, name: replace(policy.merchants[name], **changes)})


def reviews(policy: Policy = POLICY, **changes: Any) -> Policy:
    """The policy with other rules for review requests."""
    return replace(policy, review_requests=replace(policy.review_requests, **changes))


def request(**changes: Any) -> Request:
    """A newsletter from `m1` to the email address `email-1`."""
    values: dict[str, Any] = {
        "message_id": "msg-now",
        "merchant": "m1",
        "purpose": "newsletter",
        "role": "buyer",
        "channel": "email",
        "contact_point_id": "email-1",
        "dedupe_key": "key",
        "submitted_at": NOW - DAY,
    }
    return Request(**values | changes)


def record(state: str, **changes: Any) -> ConsentRecord:
    """A consent event at `email-1`; permissions name `m1`, `email` and `newsletter`, refusals everything."""
    broad = state in ("withdrawn", "objected", "refused")
    values: dict[str, Any] = {
        "event_id": f"evt-{next(_ids):06d}",
        "contact_point_id": "email-1",
        "party": "*" if broad else "m1",
        "channel": "*" if broad else "email",
        "purpose": "*" if broad else "newsletter",
        "occurred_at": NOW - 10 * DAY,
    }
    values |= changes
    values.setdefault("recorded_at", values["occurred_at"])
    return ConsentRecord(state=State(state), **values)


def suppression(reason: str, **changes: Any) -> Suppression:
    """A mark on `email-1`, for good."""
    values: dict[str, Any] = {
        "suppression_id": f"sup-{next(_ids):06d}",
        "contact_point_id": "email-1",
        "created_at": NOW - DAY,
    }
    return Suppression(reason=SuppressionReason(reason), **values | changes)


def handover(at: datetime, **changes: Any) -> Handover:
    """An earlier newsletter from `m1`, of the same content."""
    values: dict[str, Any] = {
        "message_id": f"msg-{next(_ids):06d}",
        "merchant": "m1",
        "purpose": "newsletter",
        "channel": "email",
        "dedupe_key": "key",
    }
    values |= changes
    values.setdefault("purpose_class", PURPOSES[values["purpose"]].purpose_class)
    return Handover(at=at, **values)


def ask(by: str, at: datetime, **changes: Any) -> Ask:
    """A review request that was made."""
    values: dict[str, Any] = {"ask_id": f"ask-{next(_ids):06d}", "message_id": None}
    return Ask(by=by, at=at, **values | changes)


def purchase(**changes: Any) -> PurchaseFacts:
    """A purchase at `m1`, delivered ten days ago, that nobody has asked about."""
    values: dict[str, Any] = {
        "purchase_id": "pur-1",
        "seller": "m1",
        "known_since": NOW - 12 * DAY,
        "purchased_at": NOW - 12 * DAY,
        "delivered_at": NOW - 10 * DAY,
    }
    return PurchaseFacts(**values | changes)


def asked_by(
    check: Callable[[Request, Snapshot, Policy, datetime], Finding],
    req: Request | None = None,
    policy: Policy = POLICY,
    now: datetime = NOW,
    **known: Any,
) -> Finding:
    """What one rule finds; `known` are fields of the snapshot."""
    return check(req or request(), Snapshot(**known), policy, now)


def hours(*days: int, windows: str = "09:00-20:00", holidays: bool = False) -> QuietHours:
    """Allowed windows on these weekdays (0 is Monday); all seven if none is named. `24:00` is midnight."""
    spans = []
    for window in windows.split(","):
        start, _, end = window.strip().partition("-")
        spans.append((time.fromisoformat(start), time.fromisoformat(end.replace("24:00", "00:00"))))
    allow: Mapping[int, tuple[tuple[time, time], ...]] = {day: tuple(spans) for day in days or range(7)}
    return QuietHours(allow=allow, holidays=holidays)


RICH_POLICY = Policy(
    merchants={
        **MERCHANTS,
        "m1": Merchant(
            name="Florist One",
            kind=MerchantKind.SHOP,
            group="g",
            asks_for_reviews=True,
            timezone="Europe/Copenhagen",
        ),
    },
    purposes={
        **PURPOSES,
        "newsletter": Purpose(
            purpose_class=PurposeClass.MARKETING,
            accepts=EITHER,
            dedupe=timedelta(hours=24),
            caps=(
                Cap(limit=2, window=7 * DAY, per=Per.MERCHANT),
                Cap(
                    limit=5,
                    window=7 * DAY,
                    per=Per.PERSON,
                    purposes=frozenset({"newsletter", "offers"}),
                    classes=frozenset({PurposeClass.MARKETING, PurposeClass.REVIEW}),
                    channels=frozenset({"email", "sms"}),
                ),
            ),
            quiet_hours="evenings",
        ),
        "review_request": Purpose(purpose_class=PurposeClass.REVIEW, accepts=EITHER, quiet_hours="evenings"),
    },
    groups={"g": Group(name="Flower chain")},
    quiet_hours={"evenings": hours(0, 1, 2, 3, 4, 5, windows="09:00-12:00,13:00-20:00", holidays=True)},
    review_requests=ReviewRequests(
        per_person=Limit(limit=1, window=30 * DAY),
        per_person_and_merchant=Limit(limit=1, window=180 * DAY),
        yield_for=14 * DAY,
    ),
    review_domains=("trustpilot.com", "reviews.example"),
    promotion_markers=("discount", "20% off"),
    rule_settings={"blackout": {"region": "DK", "days": 3}},
    default_timezone="Europe/Copenhagen",
    default_country="DK",
)
"""A policy in which every parameter is set somewhere."""
