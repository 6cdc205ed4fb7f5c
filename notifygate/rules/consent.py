"""Consent: is there a permission that covers this message, and no refusal that overrules it?"""

from __future__ import annotations

from datetime import datetime

from notifygate.consent import (
    ConsentRecord,
    Query,
    Standing,
    State,
    effective,
    pending_requests,
    service_refusal,
)
from notifygate.decision import Finding, Reason
from notifygate.policy import Accepts, Policy, Purpose, PurposeClass
from notifygate.snapshot import Request, Snapshot

_REFUSAL_REASONS = {
    State.WITHDRAWN: (Reason.CONSENT_WITHDRAWN, "withdrew consent"),
    State.OBJECTED: (Reason.CONSENT_OBJECTED, "objected (GDPR Art. 21)"),
    State.REFUSED: (Reason.CONSENT_REFUSED, "declined when asked"),
}
_ABSENT_REASONS = {
    Standing.PENDING: (
        Reason.CONSENT_PENDING,
        "Permission was asked for (double opt-in) and not yet confirmed.",
    ),
    Standing.EXPIRED: (Reason.CONSENT_EXPIRED, "The permission that covered this has expired."),
    Standing.INVALIDATED: (
        Reason.CONSENT_INVALIDATED,
        "The permission that covered this was found to be void.",
    ),
    Standing.MISSING: (
        Reason.CONSENT_MISSING,
        "No permission covers this contact point, merchant, channel and purpose.",
    ),
}


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Allow on the grounds that the purpose accepts; deny on any refusal that covers it. DESIGN.md section 4."""
    purpose = policy.purposes[request.purpose]
    query = Query(
        contact_point_id=request.contact_point_id,
        merchant=request.merchant,
        channel=request.channel,
        purpose=request.purpose,
    )
    if purpose.confirms:
        return _about_confirmation(request, snapshot, query, policy, now)
    if not purpose.accepts and purpose.purpose_class is PurposeClass.SERVICE:
        refusal = service_refusal(snapshot.consent, query, policy, now)
        if refusal is not None:
            return _refused(refusal)
        return Finding.allow(
            Reason.CONSENT_NOT_NEEDED, "A service message, which needs no permission; none was refused."
        )
    found = effective(snapshot.consent, query, policy, now, accepts=purpose.accepts)
    if found.permitted and found.event is not None:
        return _permitted(found.event)
    if found.standing is Standing.REFUSED and found.event is not None:
        return _refused(found.event)
    if _is_neutral_post_sale(request, snapshot, purpose, now):
        return Finding.allow(
            Reason.CONSENT_NEUTRAL_POST_SALE,
            "The seller's own neutral review email in direct continuation of the sale; nothing was refused.",
            within_days=purpose.neutral_within.days,
        )
    reason, text = _ABSENT_REASONS[found.standing]
    if found.event is None:
        return Finding.deny(reason, text)
    return Finding.deny(reason, text, event=found.event.event_id)


def _about_confirmation(
    request: Request, snapshot: Snapshot, query: Query, policy: Policy, now: datetime
) -> Finding:
    """A double opt-in permits one message that asks to confirm it, and nothing else."""
    pending = pending_requests(snapshot.consent, query, policy, now)
    if not pending:
        reason, _ = _ABSENT_REASONS[Standing.MISSING]
        return Finding.deny(reason, "No double opt-in is pending that this message could ask to confirm.")
    sent = sorted(
        (
            handover
            for handover in snapshot.handovers
            if handover.purpose == request.purpose
            and handover.merchant == request.merchant
            and handover.message_id != request.message_id
            and handover.at >= pending[0].occurred_at
        ),
        key=lambda handover: (handover.at, handover.message_id),
    )
    events = [record.event_id for record in pending]
    if len(sent) >= len(pending):
        return Finding.deny(
            Reason.CONFIRMATION_SENT,
            f"The message that asks to confirm was sent on {sent[-1].at:%Y-%m-%d}; there is one for each request.",
            events=events,
            messages=[handover.message_id for handover in sent],
        )
    return Finding.allow(
        Reason.CONSENT_REQUESTED,
        "Asks the person to confirm a double opt-in, which permits this once.",
        events=events,
    )


def _permitted(event: ConsentRecord) -> Finding:
    since = event.occurred_at.date().isoformat()
    evidence = {
        "event": event.event_id,
        "party": event.party,
        "occurred_at": event.occurred_at.isoformat(),
        "expires_at": event.expires_at.isoformat() if event.expires_at else None,
    }
    if event.state is State.SOFT_OPT_IN:
        text = f"An existing customer of {event.party} since {since}, who was offered to opt out and did not."
        return Finding.allow(Reason.CONSENT_SOFT_OPT_IN, text, **evidence)
    return Finding.allow(
        Reason.CONSENT_GRANTED, f"Consent was given to {event.party} on {since}.", **evidence
    )


def _refused(event: ConsentRecord) -> Finding:
    reason, verb = _REFUSAL_REASONS[event.state]
    scope = f"party {event.party}, channel {event.channel}, purpose {event.purpose}"
    return Finding.deny(
        reason,
        f"The person {verb} on {event.occurred_at:%Y-%m-%d} ({scope}).",
        event=event.event_id,
        party=event.party,
        channel=event.channel,
        purpose=event.purpose,
        occurred_at=event.occurred_at.isoformat(),
    )


def _is_neutral_post_sale(request: Request, snapshot: Snapshot, purpose: Purpose, now: datetime) -> bool:
    """The narrow Danish exception for a seller's own neutral review email right after the sale.

    Source: the Danish Consumer Ombudsman's guidance on customer satisfaction surveys (DESIGN.md section 4).
    """
    purchase = snapshot.purchase
    return (
        Accepts.NEUTRAL_POST_SALE in purpose.accepts
        and purchase is not None
        and purchase.seller == request.merchant
        and request.channel == "email"
        and purchase.purchased_at is not None
        and purchase.purchased_at <= now < purchase.purchased_at + purpose.neutral_within
    )
