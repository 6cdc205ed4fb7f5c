"""The gate: lock the persons concerned, see what is known, evaluate, and write decision and reservation together.

DESIGN.md section 7.2. Everything for one batch happens in one transaction, before any provider is called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from notifygate import metrics
from notifygate.address import Channel
from notifygate.decision import Decision, Outcome, Reason
from notifygate.failpoints import FailPoint, reach
from notifygate.ids import new_id
from notifygate.intake import Prepared
from notifygate.ledger import journal, messages, people, purchases, snapshots
from notifygate.ledger.database import Ledger, LedgerConflict
from notifygate.ledger.messages import Reservation, StoredMessage
from notifygate.message import Status
from notifygate.plugins import rules_of
from notifygate.policy import Policy, PurposeClass
from notifygate.rules import Rule, evaluate
from notifygate.snapshot import Ask, Handover, PurchaseFacts, Request

logger = logging.getLogger(__name__)

_UNSAVED = "unsaved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What became of a batch: the messages that were decided, and the reservations granted."""

    decisions: tuple[tuple[StoredMessage, Decision], ...] = ()
    reservations: tuple[Reservation, ...] = ()

    @property
    def count(self) -> int:
        return len(self.decisions)

    def split(self, jobs: Sequence[Sequence[str]]) -> list[Decided]:
        """What became of each of some jobs that were decided together; an id that two name is the first one's."""
        job_of: dict[str, int] = {}
        for number, job in enumerate(jobs):
            for message_id in job:
                job_of.setdefault(message_id, number)
        decisions: list[list[tuple[StoredMessage, Decision]]] = [[] for _ in jobs]
        reservations: list[list[Reservation]] = [[] for _ in jobs]
        for pair in self.decisions:
            decisions[job_of[pair[0].message_id]].append(pair)
        for reservation in self.reservations:
            reservations[job_of[reservation.message.message_id]].append(reservation)
        return [
            Decided(decisions=tuple(decisions[number]), reservations=tuple(reservations[number]))
            for number in range(len(jobs))
        ]


class Gate:
    """Decides messages under one policy. Holds no state of its own but whether the ledger knows the policy."""

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        clock: Callable[[], datetime],
        *,
        lease: timedelta,
        recognise: Callable[[], None],
    ) -> None:
        """`recognise` is called once connected, and raises where it is not the ledger it should be."""
        self._recognise = recognise
        self._ledger = ledger
        self._policy = policy
        self._rules = rules_of(policy)
        self._clock = clock
        self._lease = lease
        self._policy_is_known = False

    def check(self, prepared: Prepared) -> Decision:
        """Say what would be decided now, recording nothing."""
        now = self._clock()
        fingerprints = self._ledger.fingerprints
        with self._ledger.read() as conn:
            person = people.person_by_mailbox(conn, fingerprints, prepared.point)
            point_id = people.find(conn, fingerprints, prepared.point)
            view = snapshots.PersonView()
            if person is not None and (known := people.point_ids_of(conn, [person])):
                since = now - self._policy.horizon
                view = snapshots.load(conn, known, since=since, now=now)[person]
            purchase = _would_be_known(conn, prepared, now)
        request = _request_of_unsaved(prepared, point_id or _UNSAVED, now)
        return evaluate(request, view.snapshot(purchase), self._policy, now, rules=self._rules)

    def decide(
        self,
        conn: sa.Connection,
        message_ids: Sequence[str],
        *,
        without: Collection[Channel] = (),
        one_of: Collection[Channel] = (),
    ) -> Decided:
        """Decide those of the messages that are due, and reserve what is allowed, in the transaction at hand.

        Messages of the channels `without` are left out, and of each of `one_of` all but one. Once that is committed,
        `tell` must be called.

        Raises `LedgerConflict` where it must be done afresh.
        """
        self._recognise()
        claimed = messages.claim(conn, message_ids, self._clock(), without=without, one_of=one_of)
        if not claimed:
            return Decided()
        reach(FailPoint.DECIDE_CLAIMED)
        batch = self._lock_and_load(conn, claimed)
        if not self._policy_is_known:
            journal.know_policy(conn, self._policy, batch.now)
        for message in claimed:
            batch.decide(message)
        batch.write(conn)
        reach(FailPoint.DECIDE_WRITTEN)
        return Decided(decisions=tuple(batch.decisions), reservations=tuple(batch.reservations))

    def tell(self, decided: Decided, took_s: float) -> None:
        """Count and log decisions that were committed."""
        _tell(decided, took_s)
        self._policy_is_known = self._policy_is_known or decided.count > 0
        if decided.reservations:
            reach(FailPoint.DECIDE_COMMITTED)

    def _lock_and_load(self, conn: sa.Connection, claimed: Sequence[StoredMessage]) -> _Batch:
        person_of = {message.contact_point_id: message.person_id for message in claimed}
        purchase_of = {
            message.purchase_name_id: message.purchase_id
            for message in claimed
            if message.purchase_name_id and message.purchase_id
        }
        person_ids, purchase_ids = set(person_of.values()), set(purchase_of.values())
        # INVARIANT(lock before looking): persons, then purchases, each in sorted order, before their snapshot.
        people.lock(conn, person_ids)
        points = people.point_ids_of(conn, person_ids)
        if not person_of.items() <= points.items():
            raise LedgerConflict("a person was joined with another just now")
        purchases.lock(conn, purchase_ids)
        if purchases.by_name_ids(conn, purchase_of.keys()) != purchase_of:
            raise LedgerConflict("a purchase was joined with another just now")
        # INVARIANT(the clock is read under the locks): what others reserved while we waited lies in the past.
        now = self._clock()
        since = now - self._policy.horizon
        return _Batch(
            policy=self._policy,
            rules=self._rules,
            now=now,
            lease_until=now + self._lease,
            person_of=person_of,
            purchase_of=purchase_of,
            views=snapshots.load(conn, points, since=since, now=now),
            purchases=purchases.facts(conn, purchase_ids),
            slots={key: iter(free) for key, free in purchases.free_slots(conn, purchase_ids).items()},
        )


@dataclass(slots=True, kw_only=True)
class _Batch:
    """A batch under decision: what is known, with what the batch itself has granted so far, and what to write."""

    policy: Policy
    rules: Sequence[tuple[str, Rule]]
    now: datetime
    lease_until: datetime
    person_of: dict[str, str]
    purchase_of: dict[str, str]
    views: dict[str, snapshots.PersonView]
    purchases: dict[str, PurchaseFacts]
    slots: dict[str, Iterator[int]]
    reservations: list[Reservation] = field(default_factory=list)
    asks: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    entries: list[journal.Row] = field(default_factory=list)
    decisions: list[tuple[StoredMessage, Decision]] = field(default_factory=list)

    def decide(self, message: StoredMessage) -> None:
        view = self.views[self.person_of[message.contact_point_id]]
        purchase_id = self.purchase_of[message.purchase_name_id] if message.purchase_name_id else None
        purchase = self.purchases[purchase_id] if purchase_id else None
        decision = evaluate(
            _request(message, self.policy), view.snapshot(purchase), self.policy, self.now, rules=self.rules
        )
        self.decisions.append((message, decision))
        granted: dict[str, str | None] = {"attempt_id": None}
        if decision.outcome is Outcome.ALLOW:
            granted = self._grant(message, view, purchase)
        self.statuses.append(_status_after(message, decision))
        self.entries.append(_entry(message, decision, purchase_id, granted))

    def write(self, conn: sa.Connection) -> None:
        # INVARIANT(reserve, then send): decision and reservation commit together, and before any hand-off.
        messages.reserve(conn, self.reservations)
        purchases.add_asks(conn, self.asks)
        messages.set_status(conn, self.statuses)
        messages.strip(conn, [m.message_id for m, decision in self.decisions if _is_of_erased(decision)])
        journal.append(conn, self.entries)

    def _grant(
        self, message: StoredMessage, view: snapshots.PersonView, purchase: PurchaseFacts | None
    ) -> dict[str, str | None]:
        """Reserve, and let it count for what comes after it; return the ids of what was granted."""
        attempt_id = new_id("att")
        self.reservations.append(
            Reservation(
                attempt_id=attempt_id,
                message=message,
                number=message.attempts + 1,
                reserved_at=self.now,
                lease_until=self.lease_until,
            )
        )
        view.handovers.append(
            Handover(
                message_id=message.message_id,
                merchant=message.merchant,
                purpose=message.purpose,
                purpose_class=message.purpose_class,
                channel=message.channel.value,
                dedupe_key=message.dedupe_key,
                at=self.now,
            )
        )
        asks = self.policy.purposes[message.purpose].purpose_class is PurposeClass.REVIEW
        granted: dict[str, str | None] = {"attempt_id": attempt_id}
        if purchase is not None and asks:
            # An ask that comes to nothing is removed, and later decisions may have named it: its id is kept here.
            granted["ask_id"] = self._grant_ask(message, view, purchase, attempt_id)
        return granted

    def _grant_ask(
        self,
        message: StoredMessage,
        view: snapshots.PersonView,
        purchase: PurchaseFacts,
        attempt_id: str,
    ) -> str:
        ask = Ask(ask_id=new_id("ask"), by=message.merchant, at=self.now, message_id=message.message_id)
        view.asks.append(ask)
        self.purchases[purchase.purchase_id] = replace(purchase, asks=(*purchase.asks, ask))
        self.asks.append(
            {
                "ask_id": ask.ask_id,
                "purchase_id": purchase.purchase_id,
                "slot": next(self.slots[purchase.purchase_id]),
                "by": ask.by,
                "asked_at": ask.at,
                "message_id": message.message_id,
                "attempt_id": attempt_id,
                "contact_point_id": message.contact_point_id,
            }
        )
        return ask.ask_id


def _is_of_erased(decision: Decision) -> bool:
    """Whether a message is denied as its person is erased: then nothing of it is kept."""
    return any(finding.reason == Reason.SUPPRESSED_ERASED for finding in decision.determining)


def _tell(decided: Decided, took_s: float) -> None:
    """Count and log what was committed."""
    metrics.decided(((m.purpose_class, one.at - m.due_at, one) for m, one in decided.decisions), took_s)
    if logger.isEnabledFor(logging.DEBUG):
        for message, decision in decided.decisions:
            told = {"message_id": message.message_id, "outcome": decision.outcome.value}
            logger.debug("decided", extra=told | {"reasons": [str(reason) for reason in decision.reasons]})


def _status_after(message: StoredMessage, decision: Decision) -> dict[str, Any]:
    row = {
        "message_id": message.message_id,
        "status": Status.DENIED.value,
        "reason": decision.reason,
        "due_at": message.due_at,
        "sweep_at": message.sweep_at,
        "attempts": message.attempts,
    }
    if decision.outcome is Outcome.ALLOW:
        return row | {"status": Status.SENDING.value, "attempts": message.attempts + 1}
    if decision.until is not None:
        return row | {"status": Status.DEFERRED.value, "due_at": decision.until, "sweep_at": decision.until}
    if all(finding.rule == "expiry" for finding in decision.determining):
        return row | {"status": Status.EXPIRED.value}
    return row


def _entry(
    message: StoredMessage, decision: Decision, purchase_id: str | None, granted: Mapping[str, str | None]
) -> journal.Row:
    shown = decision.to_json()
    return journal.Row(
        kind=journal.Kind.DECISION,
        at=decision.at,
        message_id=message.message_id,
        contact_point_id=message.contact_point_id,
        purchase_id=purchase_id,
        merchant=message.merchant,
        purpose=message.purpose,
        channel=message.channel.value,
        outcome=decision.outcome.value,
        reason=decision.reason,
        policy=decision.policy,
        body={**shown, **granted},
    )


def _request(message: StoredMessage, policy: Policy) -> Request:
    texts = (message.subject, message.text, message.html)
    # By the policy of now: the class may have changed since the message was submitted.
    purpose = policy.purposes.get(message.purpose)
    is_searched = purpose is not None and purpose.purpose_class is PurposeClass.SERVICE
    return Request(
        message_id=message.message_id,
        merchant=message.merchant,
        purpose=message.purpose,
        role=message.role,
        channel=message.channel.value,
        contact_point_id=message.contact_point_id,
        dedupe_key=message.dedupe_key,
        submitted_at=message.submitted_at,
        send_after=message.send_after,
        expires_at=message.expires_at,
        timezone=message.timezone,
        country=message.country,
        zones=message.zones,
        text="\n".join(text for text in texts if text) if is_searched else "",
    )


def _request_of_unsaved(prepared: Prepared, contact_point_id: str, now: datetime) -> Request:
    message, content = prepared.message, prepared.message.content
    texts = (getattr(content, "subject", None), content.text, getattr(content, "html", None))
    return Request(
        message_id=_UNSAVED,
        merchant=message.merchant,
        purpose=message.purpose,
        role=message.role,
        channel=prepared.point.channel.value,
        contact_point_id=contact_point_id,
        dedupe_key=prepared.dedupe_key,
        submitted_at=now,
        send_after=message.send_after,
        expires_at=message.expires_at,
        timezone=message.timezone,
        country=prepared.point.country,
        zones=prepared.point.zones,
        text="\n".join(text for text in texts if text),
    )


def _would_be_known(conn: sa.Connection, prepared: Prepared, now: datetime) -> PurchaseFacts | None:
    """The purchase as it would be known once the message were submitted."""
    told = prepared.message.purchase
    if told is None:
        return None
    name = (told.seller, told.order_id)
    found = purchases.find_names(conn, [name]).get(name)
    if found is None:
        return PurchaseFacts(
            purchase_id=_UNSAVED,
            seller=told.seller,
            known_since=now,
            purchased_at=told.purchased_at,
            delivered_at=told.delivered_at,
        )
    facts = purchases.facts(conn, [found[1]])[found[1]]
    return replace(
        facts,
        purchased_at=facts.purchased_at or told.purchased_at,
        delivered_at=facts.delivered_at or told.delivered_at,
    )
