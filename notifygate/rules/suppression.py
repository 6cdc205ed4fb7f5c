"""Suppression: the contact point, or for an erasure the person, is marked do-not-send."""

from __future__ import annotations

from datetime import datetime

from notifygate.decision import Finding, Reason
from notifygate.policy import Policy
from notifygate.snapshot import Request, Snapshot, SuppressionReason

_REASONS = {
    SuppressionReason.HARD_BOUNCE: (Reason.SUPPRESSED_HARD_BOUNCE, "it bounced for good"),
    SuppressionReason.COMPLAINT: (Reason.SUPPRESSED_COMPLAINT, "a complaint came from it"),
    SuppressionReason.ERASED: (Reason.SUPPRESSED_ERASED, "the person was erased at their request"),
    SuppressionReason.MANUAL: (Reason.SUPPRESSED_MANUAL, "it was put on the do-not-send list by hand"),
}
# The gravest first: it is the one that a reader must see.
_GRAVITY = (
    SuppressionReason.ERASED,
    SuppressionReason.COMPLAINT,
    SuppressionReason.MANUAL,
    SuppressionReason.HARD_BOUNCE,
)

_NO_MARK = Finding.allow(Reason.PASSED, "No do-not-send mark is in force.").by("suppression")


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Deny while a mark on this contact point, or an erasure of its person, is in force."""
    marks = [
        mark
        for mark in snapshot.suppressions
        if (mark.contact_point_id == request.contact_point_id or mark.reason is SuppressionReason.ERASED)
        and (mark.expires_at is None or now < mark.expires_at)
    ]
    if not marks:
        return _NO_MARK
    mark = min(marks, key=lambda mark: (_GRAVITY.index(mark.reason), mark.created_at, mark.suppression_id))
    reason, because = _REASONS[mark.reason]
    return Finding.deny(
        reason,
        f"The contact point is marked do-not-send since {mark.created_at:%Y-%m-%d}: {because}.",
        suppression=mark.suppression_id,
        since=mark.created_at.isoformat(),
        expires_at=mark.expires_at.isoformat() if mark.expires_at else None,
    )
