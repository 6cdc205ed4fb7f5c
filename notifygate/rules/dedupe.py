"""Dedupe: the same content, from the same merchant, for the same purpose, to the same person, once in a while."""

from __future__ import annotations

from datetime import datetime

from notifygate.decision import Finding, Reason
from notifygate.policy import Policy
from notifygate.snapshot import Request, Snapshot

_NONE_SET = Finding.allow(Reason.NOT_APPLICABLE, "The purpose sets no window for duplicates.").by("dedupe")
_NOTHING_ALIKE = Finding.allow(Reason.PASSED, "Nothing alike was sent within the window.").by("dedupe")


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Deny content that the person was sent within the purpose's `dedupe` window, on whatever channel."""
    window = policy.purposes[request.purpose].dedupe
    if window is None:
        return _NONE_SET
    earlier = [
        handover
        for handover in snapshot.handovers
        if handover.dedupe_key == request.dedupe_key  # rarely true, and so asked first
        and handover.merchant == request.merchant
        and handover.purpose == request.purpose
        and handover.message_id != request.message_id
        and now - window < handover.at <= now
    ]
    if not earlier:
        return _NOTHING_ALIKE
    last = max(earlier, key=lambda handover: (handover.at, handover.message_id))
    return Finding.deny(
        Reason.DUPLICATE,
        f"The same content went to this person by {last.channel} on {last.at:%Y-%m-%d %H:%M} UTC.",
        message=last.message_id,
        at=last.at.isoformat(),
        window_seconds=int(window.total_seconds()),
    )
