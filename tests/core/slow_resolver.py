"""Consent by the letter of DESIGN.md section 4, sentence by sentence: slow, and written without consent.py's algorithm.

It shares no code with `notifygate.consent`: it reads the fields of its records and of the policy, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from notifygate.consent import ConsentRecord, Query
from notifygate.policy import Policy

# "In a refusal the class `marketing` contains the class `review`. A refusal of `review` leaves marketing alone."
CLASSES_THAT_CONTAIN = {
    "service": {"service"},
    "marketing": {"marketing"},
    "review": {"review", "marketing"},
}


def permitted(
    records: Sequence[ConsentRecord], query: Query, policy: Policy, at: datetime, grounds: frozenset[str]
) -> bool:
    """Whether some permission on one of the `grounds` (states of a permission) covers the query at that instant."""
    return any(
        _is_good(candidate, records, query, policy, at) for candidate in records if candidate.state in grounds
    )


def refused(records: Sequence[ConsentRecord], query: Query, policy: Policy, at: datetime) -> bool:
    """Whether any refusal that counts at that instant covers the query."""
    return any(_refusal_covers(r, query, policy) and _counts(r, at) for r in records)


def _is_good(
    p: ConsentRecord, records: Sequence[ConsentRecord], query: Query, policy: Policy, at: datetime
) -> bool:
    # "P covers a query when it is for that same contact point, channel and purpose,
    #  and for that merchant or a group that holds it."
    if (p.contact_point_id, p.channel, p.purpose) != (query.contact_point_id, query.channel, query.purpose):
        return False
    if p.party not in parties_that_hold(query.merchant, policy):
        return False
    # "with P.occurred_at <= t < P.expires_at": "a permission dated in the future waits". One not yet written
    # down at t was not known at t.
    if p.occurred_at > at or p.recorded_at > at:
        return False
    if p.expires_at is not None and at >= p.expires_at:
        return False
    # "`invalidated` (of a permission's event id) voids that permission from the moment it is recorded."
    for other in records:
        if other.state == "invalidated" and other.invalidates == p.event_id and other.recorded_at <= at:
            return False
    # "and for every R that covers it ..."
    for r in records:
        if not _refusal_covers(r, query, policy) or not _counts(r, at):
            continue
        # "soft_opt_in never outlives any covering refusal, earlier or later."
        if p.state == "soft_opt_in":
            return False
        # "P.occurred_at > R.occurred_at and the scope of P lies within the scope of R". "Ties go to the refusal."
        if not (p.occurred_at > r.occurred_at and _scope_within(p, r, policy)):
            return False
    return True


def _counts(r: ConsentRecord, at: datetime) -> bool:
    # "A refusal counts from the moment it is recorded, however it is dated."
    return r.recorded_at <= at


def _refusal_covers(r: ConsentRecord, query: Query, policy: Policy) -> bool:
    # All records of a snapshot are those of one person, so the contact point says nothing.
    return (
        r.state in ("withdrawn", "objected", "refused")
        and r.channel in (query.channel, "*")
        and r.purpose in purposes_that_contain(query.purpose, policy)
        and r.party in parties_that_hold(query.merchant, policy) | {"*"}
    )


def _scope_within(p: ConsentRecord, r: ConsentRecord, policy: Policy) -> bool:
    return (
        r.channel in (p.channel, "*")
        and r.purpose in purposes_that_contain(p.purpose, policy)
        and r.party in parties_that_hold(p.party, policy) | {"*"}
    )


def parties_that_hold(party: str, policy: Policy) -> set[str]:
    """The party and, for a merchant, its group."""
    merchant = policy.merchants.get(party)
    return {party} | ({merchant.group} if merchant and merchant.group else set())


def purposes_that_contain(purpose: str, policy: Policy) -> set[str]:
    """The purpose, the classes that contain it, and `*`."""
    return {purpose, "*"} | CLASSES_THAT_CONTAIN[str(policy.purposes[purpose].purpose_class)]
