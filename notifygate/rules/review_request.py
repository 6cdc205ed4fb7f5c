"""Review requests: asked once, by the right one, at the right time, about the buyer's own purchase.

DESIGN.md section 6. Nothing here depends on anything that reflects whether a customer is content.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from notifygate.decision import Finding, Outcome, Reason
from notifygate.policy import (
    CASE_HOLDS_AT_MOST,
    Limit,
    Policy,
    PurposeClass,
    ReviewRequests,
    in_words,
)
from notifygate.snapshot import Ask, PurchaseFacts, Request, Snapshot

_NO_REQUEST = Finding.allow(Reason.NOT_APPLICABLE, "Not a review request.").by("review_request")


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Deny a second ask, defer an early one, and let the higher-ranked asker go first."""
    if policy.purposes[request.purpose].purpose_class is not PurposeClass.REVIEW:
        return _NO_REQUEST
    purchase = snapshot.purchase
    if purchase is None:
        return Finding.deny(Reason.PURCHASE_MISSING, "A review request must say which purchase it is about.")
    params = policy.review_requests
    for_good = (
        _about_role(request, policy),
        _about_review(purchase),
        _about_purchase(purchase, params),
        _about_precedence(request, purchase, policy, now),
        _about_time(purchase, params, now),
        _about_case(purchase, params, now),
    )
    if finding := _gravest(for_good):
        return finding
    # Windows move on: what they say counts when the request is due, and not when it merely waits.
    for_now = (
        _about_person(snapshot.asks, params.per_person, now),
        _about_person_and_merchant(snapshot.asks, params.per_person_and_merchant, request.merchant, now),
    )
    if finding := _gravest(for_now):
        return finding
    return Finding.allow(
        Reason.PASSED,
        "This purchase and this person may be asked now.",
        purchase=purchase.purchase_id,
        asks_of_purchase=len(purchase.asks),
    )


def _gravest(findings: Sequence[Finding | None]) -> Finding | None:
    """The first denial, else the longest deferral, else nothing."""
    made = [finding for finding in findings if finding is not None]
    for finding in made:
        if finding.outcome is Outcome.DENY:
            return finding
    return max(made, key=_until, default=None)


def _until(finding: Finding) -> datetime:
    if finding.until is None:
        raise ValueError("a finding that neither denies nor defers")
    return finding.until


def _about_role(request: Request, policy: Policy) -> Finding | None:
    if request.role == "buyer" or policy.purposes[request.purpose].audience == "recipient":
        return None
    return Finding.deny(
        Reason.NOT_THE_BUYER,
        "Only the buyer is asked for a review, and this person merely received the goods.",
    )


def _about_review(purchase: PurchaseFacts) -> Finding | None:
    if purchase.reviewed_at is None:
        return None
    return Finding.deny(
        Reason.REVIEW_EXISTS,
        f"A review of this purchase exists since {purchase.reviewed_at:%Y-%m-%d}.",
        purchase=purchase.purchase_id,
        reviewed_at=purchase.reviewed_at.isoformat(),
    )


def _about_purchase(purchase: PurchaseFacts, params: ReviewRequests) -> Finding | None:
    if len(purchase.asks) < params.asks_per_purchase:
        return None
    last = max(purchase.asks, key=_when)
    return Finding.deny(
        Reason.PURCHASE_ALREADY_ASKED,
        f"This purchase was asked about by {last.by} on {last.at:%Y-%m-%d}, "
        f"and at most {params.asks_per_purchase} may be made.",
        purchase=purchase.purchase_id,
        limit=params.asks_per_purchase,
        asks=[_shown(ask) for ask in sorted(purchase.asks, key=_when)],
    )


def _about_person(asks: Sequence[Ask], limit: Limit | None, now: datetime) -> Finding | None:
    if limit is None:
        return None
    recent = _within(asks, limit, now)
    if len(recent) < limit.limit:
        return None
    return Finding.deny(
        Reason.PERSON_ASKED_RECENTLY,
        f"This person was asked by {recent[-1].by} on {recent[-1].at:%Y-%m-%d}; "
        f"at most {limit.limit} in {in_words(limit.window)} over all merchants.",
        limit=limit.limit,
        window_seconds=int(limit.window.total_seconds()),
        asks=[_shown(ask) for ask in recent],
    )


def _about_person_and_merchant(
    asks: Sequence[Ask], limit: Limit | None, merchant: str, now: datetime
) -> Finding | None:
    if limit is None:
        return None
    recent = _within([ask for ask in asks if ask.by == merchant], limit, now)
    if len(recent) < limit.limit:
        return None
    return Finding.deny(
        Reason.PERSON_ASKED_BY_MERCHANT_RECENTLY,
        f"{merchant} asked this person on {recent[-1].at:%Y-%m-%d}; "
        f"at most {limit.limit} in {in_words(limit.window)} from one merchant.",
        limit=limit.limit,
        window_seconds=int(limit.window.total_seconds()),
        asks=[_shown(ask) for ask in recent],
    )


def _about_precedence(
    request: Request, purchase: PurchaseFacts, policy: Policy, now: datetime
) -> Finding | None:
    """A lower-ranked asker yields to a seller that asks for reviews itself."""
    params = policy.review_requests
    seller = policy.merchants.get(purchase.seller)
    if seller is None or not seller.asks_for_reviews or request.merchant == purchase.seller:
        return None
    own = _rank(request.merchant, policy)
    if own <= _rank(purchase.seller, policy):
        return None
    evidence = {"seller": purchase.seller, "precedence": [kind.value for kind in params.precedence]}
    if params.yield_for is None:
        return Finding.deny(
            Reason.SELLER_ASKS_ITSELF,
            f"{purchase.seller} sold this and asks for reviews itself, so {request.merchant} does not.",
            **evidence,
        )
    higher = sorted((ask for ask in purchase.asks if _rank(ask.by, policy) < own), key=_when)
    if higher:
        return Finding.deny(
            Reason.SELLER_ASKS_ITSELF,
            f"{higher[-1].by} asked about this purchase while {request.merchant} waited its turn.",
            **evidence,
            asks=[_shown(ask) for ask in higher],
        )
    turn = _due(purchase, params) + params.yield_for
    if now >= turn:
        return None
    return Finding.defer(
        turn,
        Reason.SELLER_ASKS_ITSELF,
        f"{purchase.seller} sold this and goes first; {request.merchant} waits until {turn:%Y-%m-%d %H:%M} UTC.",
        **evidence,
    )


def _about_time(purchase: PurchaseFacts, params: ReviewRequests, now: datetime) -> Finding | None:
    due = _due(purchase, params)
    last = _delivered(purchase, params) + params.expires
    evidence = {"due": due.isoformat(), "not_after": last.isoformat()}
    if now > last:
        return Finding.deny(
            Reason.REVIEW_TOO_LATE,
            f"The time to ask about this purchase ended on {last:%Y-%m-%d}.",
            **evidence,
        )
    if now < due:
        return Finding.defer(
            due,
            Reason.REVIEW_NOT_DUE,
            f"Not before {due:%Y-%m-%d %H:%M} UTC, after the goods arrived.",
            **evidence,
        )
    return None


def _about_case(purchase: PurchaseFacts, params: ReviewRequests, now: datetime) -> Finding | None:
    """Hold the ask while a case is open: the same for everyone, and released whatever the outcome.

    The hold never makes a request too late, for then an open case would decide who is asked.
    """
    if not params.hold_for_cases or purchase.case_open_since is None:
        return None
    due = _due(purchase, params)
    released = min(due + CASE_HOLDS_AT_MOST, _delivered(purchase, params) + params.expires)
    if now < due or now >= released:
        return None
    return Finding.defer(
        released,
        Reason.CASE_OPEN,
        f"A case about this purchase is open; it is asked about when that is closed, or on {released:%Y-%m-%d}.",
        purchase=purchase.purchase_id,
        case_open_since=purchase.case_open_since.isoformat(),
        due=due.isoformat(),
    )


def _due(purchase: PurchaseFacts, params: ReviewRequests) -> datetime:
    return _delivered(purchase, params) + params.delay


def _delivered(purchase: PurchaseFacts, params: ReviewRequests) -> datetime:
    """When the goods arrived, or as good a late guess as the policy makes from the day of the purchase.

    Where neither date is known, the purchase is no younger than the gateway's first word of it.
    """
    if purchase.delivered_at is not None:
        return purchase.delivered_at
    bought = purchase.purchased_at or purchase.known_since
    return bought + params.delay_without_delivery - params.delay


def _rank(merchant: str, policy: Policy) -> int:
    """The place in the precedence: 0 asks first. Kinds that are not named come after all that are."""
    precedence = policy.review_requests.precedence
    found = policy.merchants.get(merchant)
    if found is None or found.kind not in precedence:
        return len(precedence)
    return precedence.index(found.kind)


def _within(asks: Sequence[Ask], limit: Limit, now: datetime) -> list[Ask]:
    return sorted((ask for ask in asks if now - limit.window < ask.at <= now), key=_when)


def _when(ask: Ask) -> tuple[datetime, str]:
    return (ask.at, ask.ask_id)


def _shown(ask: Ask) -> dict[str, str | None]:
    return {"by": ask.by, "at": ask.at.isoformat(), "message": ask.message_id}
