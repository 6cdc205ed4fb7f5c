"""Expiry: a message that has lost its meaning is not sent, nor kept for a time when it will have."""

from __future__ import annotations

from datetime import datetime

from notifygate.decision import Finding, Reason
from notifygate.snapshot import Request

_NONE_SET = Finding.allow(Reason.NOT_APPLICABLE, "The message has no expiry.").by("expiry")


def check(request: Request, now: datetime, *, until: datetime | None) -> Finding:
    """Deny past `expires_at`, or where the deferral of the other rules, to `until`, would pass it."""
    last = request.expires_at
    if last is None:
        return _NONE_SET
    evidence = {"expires_at": last.isoformat()}
    if now >= last:
        return Finding.deny(Reason.EXPIRED, f"The message expired at {last:%Y-%m-%d %H:%M} UTC.", **evidence)
    if until is not None and until >= last:
        return Finding.deny(
            Reason.EXPIRED,
            f"It would have to wait until {until:%Y-%m-%d %H:%M} UTC and expires at {last:%Y-%m-%d %H:%M} UTC.",
            **evidence,
            until=until.isoformat(),
        )
    return Finding.allow(Reason.PASSED, "The message has not expired.", **evidence)
