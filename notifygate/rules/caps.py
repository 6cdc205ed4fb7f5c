"""Frequency caps: so many messages in a rolling window, exact at its edges."""

from __future__ import annotations

from datetime import datetime

from notifygate.decision import Finding, Outcome, Reason
from notifygate.policy import Cap, Over, Per, Policy, in_words
from notifygate.snapshot import Request, Snapshot

_NONE_SET = Finding.allow(Reason.NOT_APPLICABLE, "The purpose sets no frequency cap.").by("caps")


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Deny, or defer to the moment a place frees, where any cap of the purpose is reached.

    A cap that names neither purposes nor classes counts messages of the purpose that it belongs to. Messages
    reserved at `t` count while `now - window < t <= now`.
    """
    caps = policy.purposes[request.purpose].caps
    if not caps:
        return _NONE_SET
    counted = [_counted(cap, request, snapshot, policy, now) for cap in caps]
    full = [_full(cap, times) for cap, times in zip(caps, counted, strict=True) if len(times) >= cap.limit]
    for finding in full:
        if finding.outcome is Outcome.DENY:
            return finding
    if full:
        return max(full, key=lambda finding: finding.until or now)
    counts = [{"limit": cap.limit, "count": len(times)} for cap, times in zip(caps, counted, strict=True)]
    return Finding.allow(Reason.PASSED, "All frequency caps have room.", caps=counts)


def _counted(cap: Cap, request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> list[datetime]:
    """When the messages that a cap counts were reserved; none where it is for other channels."""
    channels = cap.channels
    if channels and request.channel not in channels:
        return []
    names_none = not cap.purposes and not cap.classes
    purposes = frozenset({request.purpose}) if names_none else cap.purposes
    merchants = _merchants(cap.per, request.merchant, policy)
    since = now - cap.window
    return [
        handover.at
        for handover in snapshot.handovers
        if since < handover.at <= now
        and (handover.purpose in purposes or (cap.classes and handover.purpose_class in cap.classes))
        and (merchants is None or handover.merchant in merchants)
        and (not channels or handover.channel in channels)
        and handover.message_id != request.message_id
    ]


def _merchants(per: Per, merchant: str, policy: Policy) -> frozenset[str] | None:
    """Whose messages count beside those of a merchant; None for everyone's."""
    if per is Per.PERSON:
        return None
    group = policy.group_of(merchant) if per is Per.GROUP else None
    return frozenset({merchant}) if group is None else policy.members[group]


def _full(cap: Cap, times: list[datetime]) -> Finding:
    evidence = {
        "per": cap.per.value,
        "limit": cap.limit,
        "window_seconds": int(cap.window.total_seconds()),
        "count": len(times),
    }
    text = f"{len(times)} of at most {cap.limit} messages per {cap.per.value} in {in_words(cap.window)} were sent"
    if cap.over is Over.DENY:
        return Finding.deny(Reason.CAP_REACHED, f"{text}.", **evidence)
    frees = sorted(times)[len(times) - cap.limit] + cap.window
    return Finding.defer(
        frees, Reason.CAP_REACHED, f"{text}; a place frees at {frees:%Y-%m-%d %H:%M} UTC.", **evidence
    )
