"""Refusals, and what went out after them: nothing should have.

Judged by what was known at each moment: by the links and the consent recorded by then, and by the class that the
message had when it was reserved. Merchants and groups are those of the policy of today.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from notifygate.audit.report.values import AfterRefusal, OptOuts
from notifygate.consent import (
    REFUSALS,
    ConsentRecord,
    Query,
    effective,
    pending_requests,
    recorded_by,
    refuses,
)
from notifygate.ledger import consents, figures
from notifygate.ledger.figures import Handover, Span, Tie
from notifygate.policy import ANY, Policy, Purpose, PurposeClass

LISTED = 1_000
"""So many messages are listed at most."""


def count(conn: sa.Connection, span: Span, policy: Policy, now: datetime) -> OptOuts:
    """The refusals recorded in the period, with the messages handed over up to `now` that they cover."""
    by_state: Counter[str] = Counter()
    breaches, in_flight = _Longest(), _Longest()
    judge = _Judge(policy)
    parties = _parties(span.merchant, policy)
    for page in figures.refusals(conn, span, parties):
        by_state.update(record.state.value for record in page)
        persons = _Persons.load(conn, page)
        seen: set[str] = set()
        since = min(refusal.recorded_at for refusal in page)
        for handover in figures.handovers_to(conn, persons.points, since, span.merchant):
            if handover.message_id in seen:
                continue  # sent again after a doubt, and counted
            for refusal in persons.refusals_before(handover, _end_of(handover, now)):
                at = max(handover.reserved_at, refusal.recorded_at)
                if not judge.stands(refusal, persons.permissions(refusal, at), handover, at):
                    continue
                # By the earliest refusal only, so that no message counts twice, on whichever page it comes up.
                if refusal.event_id in persons.asked_about:
                    seen.add(handover.message_id)
                    if handover.reserved_at > refusal.recorded_at:
                        breaches.add(refusal, handover, handover.reserved_at)
                    else:
                        in_flight.add(refusal, handover, _end_of(handover, now))
                if _is_counted(refusal, span, parties):
                    break
    return OptOuts(
        refusals=by_state.total(),
        by_state=dict(sorted(by_state.items())),
        breaches=breaches.count,
        longest_breach=breaches.longest,
        breaches_listed=breaches.listed(),
        in_flight=in_flight.count,
        longest_in_flight=in_flight.longest,
        in_flight_listed=in_flight.listed(),
    )


class _Persons:
    """The persons behind a page of refusals: their contact points, links and consent, as they were at any moment."""

    def __init__(
        self,
        refusals: Iterable[ConsentRecord],
        points: Mapping[str, str],
        ties: Iterable[Tie],
        records: Mapping[str, Sequence[ConsentRecord]],
    ) -> None:
        self.asked_about = {refusal.event_id for refusal in refusals}
        self.points = points
        self._ties: defaultdict[str, list[tuple[str, Tie]]] = defaultdict(list)
        for tie in ties:
            self._ties[tie.a].append((tie.b, tie))
            self._ties[tie.b].append((tie.a, tie))
        self._records: defaultdict[str, list[ConsentRecord]] = defaultdict(list)
        for point, found in records.items():
            self._records[points[point]].extend(found)

    @classmethod
    def load(cls, conn: sa.Connection, refusals: Sequence[ConsentRecord]) -> _Persons:
        mailboxes = set(
            figures.mailboxes_of(conn, {refusal.contact_point_id for refusal in refusals}).values()
        )
        ties = figures.ties_of(conn, mailboxes)
        points = figures.points_in(conn, mailboxes | {end for tie in ties for end in (tie.a, tie.b)})
        return cls(refusals, points, ties, consents.records_of(conn, points))

    def refusals_before(self, handover: Handover, end: datetime) -> list[ConsentRecord]:
        """The refusals of the person that were recorded before a hand-over ended, the earliest first."""
        mailbox = self.points[handover.contact_point_id]
        found = [
            record
            for one in self._ever_linked(mailbox)
            for record in self._records[one]
            if record.state in REFUSALS
            and record.recorded_at < end
            and self.points[record.contact_point_id]
            in self._person(mailbox, max(record.recorded_at, handover.reserved_at))
        ]
        return sorted(found, key=lambda record: (record.recorded_at, record.event_id))

    def permissions(self, refusal: ConsentRecord, at: datetime) -> list[ConsentRecord]:
        """What was known at an instant of the person who refused, but for refusals."""
        person = self._person(self.points[refusal.contact_point_id], at)
        found = [record for one in person for record in self._records[one] if record.state not in REFUSALS]
        return recorded_by(found, at)

    def _ever_linked(self, mailbox: str) -> set[str]:
        return self._reached(mailbox, None)

    def _person(self, mailbox: str, at: datetime) -> set[str]:
        """The mailboxes that were known to belong to one person with this one, at an instant."""
        return self._reached(mailbox, at)

    def _reached(self, mailbox: str, at: datetime | None) -> set[str]:
        found, waiting = {mailbox}, [mailbox]
        while waiting:
            for other, tie in self._ties.get(waiting.pop(), ()):
                if other not in found and (at is None or _is_in_force(tie, at)):
                    found.add(other)
                    waiting.append(other)
        return found


class _Judge:
    """Says whether a refusal stands against a hand-over."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._policies: dict[tuple[str, PurposeClass], Policy] = {}

    def stands(
        self, refusal: ConsentRecord, known: Sequence[ConsentRecord], handover: Handover, at: datetime
    ) -> bool:
        """Whether a refusal covers a hand-over, and no later permission that lies within its scope undid it by `at`."""
        policy = self._policy_for(handover.purpose, handover.purpose_class)
        purpose = policy.purposes[handover.purpose]
        query = Query(
            contact_point_id=handover.contact_point_id,
            merchant=handover.merchant,
            channel=handover.channel,
            purpose=handover.purpose,
        )
        if not refuses(refusal, query, policy):
            return False
        records = [refusal, *known]
        if purpose.confirms:
            return not pending_requests(records, query, policy, at)
        is_service = purpose.purpose_class is PurposeClass.SERVICE and not purpose.accepts
        if is_service and not refusal.includes_service:
            return False
        return not effective(records, query, policy, at).permitted

    def _policy_for(self, purpose: str, purpose_class: PurposeClass) -> Policy:
        """The policy of today, in which the purpose has the class that it had when the message was handed in."""
        found = self._policy.purposes.get(purpose)
        if found is not None and found.purpose_class is purpose_class:
            return self._policy
        key = (purpose, purpose_class)
        if key not in self._policies:
            then = Purpose(purpose_class=purpose_class, accepts=frozenset())
            self._policies[key] = replace(self._policy, purposes={**self._policy.purposes, purpose: then})
        return self._policies[key]


class _Longest:
    """Counts messages, and keeps those with the longest delays."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[tuple[timedelta, str, AfterRefusal]] = []

    def add(self, refusal: ConsentRecord, handover: Handover, until: datetime) -> None:
        self.count += 1
        delay = until - refusal.recorded_at
        one = AfterRefusal(
            message_id=handover.message_id,
            refusal_id=refusal.event_id,
            refused_at=refusal.recorded_at,
            reserved_at=handover.reserved_at,
            delay=delay,
        )
        heapq.heappush(self._kept, (delay, one.message_id, one))
        if len(self._kept) > LISTED:
            heapq.heappop(self._kept)

    @property
    def longest(self) -> timedelta | None:
        return max((delay for delay, _, _ in self._kept), default=None)

    def listed(self) -> tuple[AfterRefusal, ...]:
        return tuple(one for _, _, one in sorted(self._kept, key=lambda kept: (-kept[0], kept[1])))


def _parties(merchant: str | None, policy: Policy) -> list[str] | None:
    """The parties that a refusal may name to concern a merchant; None for all."""
    if merchant is None:
        return None
    group = policy.group_of(merchant)
    return [ANY, merchant, *([group] if group else [])]


def _is_counted(refusal: ConsentRecord, span: Span, parties: Sequence[str] | None) -> bool:
    is_named = parties is None or refusal.party in parties
    return is_named and span.since <= refusal.recorded_at < span.until


def _is_in_force(tie: Tie, at: datetime) -> bool:
    return tie.linked_at <= at and (tie.unlinked_at is None or at < tie.unlinked_at)


def _end_of(handover: Handover, now: datetime) -> datetime:
    """When a hand-off ended: with its lease at the latest, for a doubt may be resolved much later."""
    return min(handover.ended_at or now, handover.lease_until, now)
