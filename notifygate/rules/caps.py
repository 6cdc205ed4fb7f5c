"""Frequency caps: so many messages in a rolling window, exact at its edges."""

from __future__ import annotations

from datetime import datetime

from notifygate.decision import Finding, Outcome, Reason
from notifygate.policy import Cap, Over, Per, Policy, in_words
from notifygate.snapshot import Handover, Request, Snapshot


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Deny, or defer to the moment a place frees, where any cap of the purpose is reached.

    A cap that names neither purposes nor classes counts messages of the purpose that it belongs to. Messages
    reserved at `t` count while `now - window < t <= now`.
    """
    caps = policy.purposes[request.purpose].caps
    if not caps:
        return Finding.allow(Reason.NOT_APPLICABLE, "The purpose sets no frequency cap.")
    findings = [_check_one(cap, request, snapshot, policy, now) for cap in caps]
    for finding in findings:
        if finding.outcome is Outcome.DENY:
            return finding
    waits = [finding for finding in findings if finding.until is not None]
    if waits:
        return max(waits, key=lambda finding: finding.until or now)
    counts = [
        {"limit": cap.limit, "count": f.evidence["count"]} for cap, f in zip(caps, findings, strict=True)
    ]
    return Finding.allow(Reason.PASSED, "All frequency caps have room.", caps=counts)


def _check_one(cap: Cap, request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    if cap.channels and request.channel not in cap.channels:
        return Finding.allow(Reason.NOT_APPLICABLE, "The cap is for other channels.", count=0)
    times = sorted(
        handover.at
        for handover in snapshot.handovers
        if now - cap.window < handover.at <= now
        and handover.message_id != request.message_id
        and _counts(cap, handover, request, policy)
    )
    evidence = {
        "per": cap.per.value,
        "limit": cap.limit,
        "window_seconds": int(cap.window.total_seconds()),
        "count": len(times),
    }
    if len(times) < cap.limit:
        return Finding.allow(Reason.PASSED, "The cap has room.", **evidence)
    text = f"{len(times)} of at most {cap.limit} messages per {cap.per.value} in {in_words(cap.window)} were sent"
    if cap.over is Over.DENY:
        return Finding.deny(Reason.CAP_REACHED, f"{text}.", **evidence)
    frees = times[len(times) - cap.limit] + cap.window
    return Finding.defer(
        frees, Reason.CAP_REACHED, f"{text}; a place frees at {frees:%Y-%m-%d %H:%M} UTC.", **evidence
    )


def _counts(cap: Cap, handover: Handover, request: Request, policy: Policy) -> bool:
    if cap.channels and handover.channel not in cap.channels:
        return False
    if cap.purposes or cap.classes:
        if handover.purpose not in cap.purposes and handover.purpose_class not in cap.classes:
            return False
    elif handover.purpose != request.purpose:
        return False
    if cap.per is Per.PERSON or handover.merchant == request.merchant:
        return True
    group = policy.group_of(request.merchant)
    return cap.per is Per.GROUP and group is not None and policy.group_of(handover.merchant) == group
