"""What is known of persons and purchases at one moment of a replay: what the rules are shown.

Facts are tuples, replaced when something is added: most persons have one contact point, whose tuples are the snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from notifygate.audit.simulate.messages import Replayed
from notifygate.consent import ConsentRecord
from notifygate.snapshot import Ask, Handover, PurchaseFacts, Snapshot, Suppression

DATES = ("purchased_at", "delivered_at")


@dataclass(slots=True, eq=False)
class Point:
    """A contact point. `person` holds all points of its person, this one too."""

    mailbox: str
    person: tuple[Point, ...] = ()
    consent: tuple[ConsentRecord, ...] = ()
    marks: tuple[Suppression, ...] = ()
    handovers: tuple[Handover, ...] = ()
    asks: tuple[Ask, ...] = ()


@dataclass(slots=True, eq=False)
class Attempt:
    """A hand-off: what it counts for, and whether how it ends may still be told. `state` is as the ledger's."""

    attempt_id: str
    at: datetime
    handover: Handover | None = None
    ask: Ask | None = None
    state: str = "held"
    is_open: bool = True


class Persons:
    """Who is who, and what each did and was sent."""

    def __init__(self, mailbox_of: Mapping[str, str], horizon: timedelta) -> None:
        self._horizon = horizon
        self._ties: defaultdict[str, dict[str, str]] = defaultdict(dict)  # mailbox: link and other mailbox
        self._by_mailbox: dict[str, tuple[Point, ...]] = {}
        self.points = {point_id: Point(mailbox) for point_id, mailbox in mailbox_of.items()}
        for point in self.points.values():
            self._by_mailbox[point.mailbox] = (*self._by_mailbox.get(point.mailbox, ()), point)
        for points in self._by_mailbox.values():
            for point in points:
                point.person = points

    def tie(self, link_id: str, a: str, b: str) -> None:
        """Two mailboxes belong to one person from now on."""
        if a in self._by_mailbox and b in self._by_mailbox:
            self._ties[a][link_id], self._ties[b][link_id] = b, a
            self._regroup(a)

    def untie(self, link_id: str, a: str, b: str) -> None:
        """That is no longer so."""
        for mailbox in (a, b):
            self._ties[mailbox].pop(link_id, None)
        for mailbox in (a, b):
            if mailbox in self._by_mailbox:
                self._regroup(mailbox)

    def _regroup(self, start: str) -> None:
        found, waiting = {start}, [start]
        while waiting:
            for other in self._ties.get(waiting.pop(), {}).values():
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        person = tuple(point for mailbox in sorted(found) for point in self._by_mailbox[mailbox])
        for point in person:
            point.person = person

    def snapshot(self, point_id: str, purchase: PurchaseFacts | None, now: datetime) -> Snapshot:
        """What is known of the person behind a contact point, as a decision made now sees it."""
        person = self.points[point_id].person
        since = now - self._horizon
        for point in person:
            if point.handovers and point.handovers[0].at <= since:
                point.handovers = tuple(one for one in point.handovers if one.at > since)
        if len(person) == 1:
            point = person[0]
            consent, marks, handovers, asks = point.consent, point.marks, point.handovers, point.asks
        else:
            consent = tuple(one for point in person for one in point.consent)
            marks = tuple(one for point in person for one in point.marks)
            handovers = tuple(one for point in person for one in point.handovers)
            asks = tuple(one for point in person for one in point.asks)
        return Snapshot(
            consent=consent,
            suppressions=tuple(one for one in marks if one.expires_at is None or one.expires_at > now)
            if marks
            else (),
            # What another machine's clock dates after now has happened all the same.
            handovers=tuple(one if one.at <= now else replace(one, at=now) for one in handovers),
            asks=tuple(one if one.at <= now else replace(one, at=now) for one in asks),
            purchase=purchase,
        )

    def permit(self, record: ConsentRecord) -> None:
        """Add a consent event."""
        point = self.points.get(record.contact_point_id)
        if point is not None and all(one.event_id != record.event_id for one in point.consent):
            point.consent = (*point.consent, record)

    def mark(self, mark: Suppression) -> None:
        """Add a do-not-send mark."""
        point = self.points.get(mark.contact_point_id)
        if point is not None and mark not in point.marks:
            point.marks = (*point.marks, mark)

    def lift(self, point_id: str, suppression_ids: Collection[str]) -> None:
        """Take do-not-send marks away."""
        if (point := self.points.get(point_id)) is not None:
            point.marks = tuple(one for one in point.marks if one.suppression_id not in suppression_ids)


@dataclass(frozen=True, slots=True)
class Seller:
    """What does not change of a purchase, and the dates that nobody knows when they became known."""

    name: str
    dates: Mapping[str, datetime | None] = field(default_factory=dict)


class Purchases:
    """What is known of purchases, and which names mean the same one."""

    def __init__(self, sellers: Mapping[str, Seller]) -> None:
        self._sellers = sellers
        self._joined: dict[str, str] = {}
        self.facts: dict[str, PurchaseFacts] = {}

    def now_called(self, purchase_id: str) -> str:
        """The purchase that one which had this id has become part of."""
        while purchase_id in self._joined:
            purchase_id = self._joined[purchase_id]
        return purchase_id

    def of(self, purchase_id: str | None) -> PurchaseFacts | None:
        """What is known of a purchase now."""
        return self.facts.get(self.now_called(purchase_id)) if purchase_id else None

    def mention(self, purchase_id: str, at: datetime, dates: Mapping[str, datetime | None]) -> bool:
        """Somebody names a purchase and tells dates of it; say whether that filled in one of a purchase known before.

        A date that is known stays.
        """
        purchase_id = self.now_called(purchase_id)
        seller = self._sellers.get(purchase_id)
        if seller is None:
            return False
        known = self.facts.get(purchase_id)
        if known is None:
            told: dict[str, Any] = {name: dates.get(name) or seller.dates.get(name) for name in DATES}
            self.facts[purchase_id] = PurchaseFacts(
                purchase_id=purchase_id, seller=seller.name, known_since=at, **told
            )
            return False
        news: dict[str, Any] = {
            name: dates[name] for name in DATES if dates.get(name) and getattr(known, name) is None
        }
        if news:
            self.facts[purchase_id] = replace(known, **news)
        return bool(news)

    def join(self, into: str, other: str) -> None:
        """Make one purchase of two: dates fill gaps, of two reviews the earlier counts, and asks keep counting."""
        into, other = self.now_called(into), self.now_called(other)
        if into == other:
            return
        self._joined[other] = into
        gone, kept = self.facts.pop(other, None), self.facts.get(into)
        if gone is None or kept is None:
            if gone is not None and into in self._sellers:
                self.facts[into] = replace(gone, purchase_id=into, seller=self._sellers[into].name)
            return
        self.facts[into] = replace(
            kept,
            known_since=min(kept.known_since, gone.known_since),
            purchased_at=kept.purchased_at or gone.purchased_at,
            delivered_at=kept.delivered_at or gone.delivered_at,
            reviewed_at=_earlier(kept.reviewed_at, gone.reviewed_at),
            case_open_since=_earlier(kept.case_open_since, gone.case_open_since),
            asks=(*kept.asks, *gone.asks),
        )

    def review(self, purchase_id: str, at: datetime) -> None:
        """A review exists; the earliest date stays."""
        if (known := self.of(purchase_id)) is not None:
            self.facts[known.purchase_id] = replace(known, reviewed_at=_earlier(known.reviewed_at, at))

    def case(self, purchase_id: str, open_since: datetime | None) -> None:
        """A case is open, or with None none is."""
        if (known := self.of(purchase_id)) is not None:
            self.facts[known.purchase_id] = replace(known, case_open_since=open_since)

    def ask(self, purchase_id: str, ask: Ask) -> None:
        """An ask was made."""
        if (known := self.of(purchase_id)) is not None:
            self.facts[known.purchase_id] = replace(known, asks=(*known.asks, ask))

    def unask(self, purchase_id: str, ask: Ask) -> None:
        """An ask definitely came to nothing."""
        if (known := self.of(purchase_id)) is not None:
            left = tuple(one for one in known.asks if one.ask_id != ask.ask_id)
            self.facts[known.purchase_id] = replace(known, asks=left)


@dataclass(slots=True, kw_only=True)
class World:
    """Persons and purchases, and how the messages of a replay change what is known of them."""

    persons: Persons
    purchases: Purchases

    def grant(self, attempt: Attempt, message: Replayed, *, asks: bool, ask_id: str) -> None:
        """Let a message that is handed over count for the person and, where it asks for a review, for the purchase."""
        request, purchase_id = message.request, message.purchase_id
        point = self.persons.points[request.contact_point_id]
        attempt.handover = Handover(
            message_id=request.message_id,
            merchant=request.merchant,
            purpose=request.purpose,
            purpose_class=message.purpose_class,
            channel=request.channel,
            dedupe_key=request.dedupe_key,
            at=attempt.at,
        )
        point.handovers = (*point.handovers, attempt.handover)
        if asks and purchase_id is not None:
            attempt.ask = Ask(
                ask_id=ask_id, by=request.merchant, at=attempt.at, message_id=request.message_id
            )
            point.asks = (*point.asks, attempt.ask)
            self.purchases.ask(purchase_id, attempt.ask)

    def release(self, attempt: Attempt, point_id: str, purchase_id: str | None) -> None:
        """Give back the places of an attempt that definitely came to nothing."""
        point = self.persons.points[point_id]
        point.handovers = tuple(one for one in point.handovers if one is not attempt.handover)
        if (ask := attempt.ask) is not None:
            point.asks = tuple(one for one in point.asks if one.ask_id != ask.ask_id)
            if purchase_id is not None:
                self.purchases.unask(purchase_id, ask)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    known = [at for at in (one, other) if at is not None]
    return min(known, default=None)


def components(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """For each of some things all those that it is joined with, itself too, directly or by others."""
    found: dict[str, set[str]] = {}
    for a, b in pairs:
        one, other = found.get(a, {a}), found.get(b, {b})
        if one is other:
            continue
        if len(one) < len(other):
            one, other = other, one
        one |= other
        for thing in (a, b, *other):
            found[thing] = one
    return found
