"""What must hold of a gateway, said again in a few lines and with none of its code. DESIGN.md sections 3, 4, 6, 11.

The model is told what people say and do, what the provider was handed and what it answered, and reads the ledger's
committed rows. It never predicts the one outcome: it says which outcomes are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

Name = tuple[str, str]
Point = str
Thing = TypeVar("Thing")
Answer = Literal["accepted", "refused", "unknown"]

GROUP_OF = {"florist": "interflora", "headoffice": "interflora"}
CLASS_OF = {
    "order_update": "service",
    "login_code": "service",
    "newsletter": "marketing",
    "review_request": "review",
}
SENT_AGAIN_IN_DOUBT = "login_code"
ASKS_FOR_REVIEWS_ITSELF = "cykelpartner"
LOWER_RANKED = ("postdanmark", "stars")
_CLASSES_REFUSED_BY = {"service": {"service"}, "review": {"review"}, "marketing": {"marketing", "review"}}
_HOME = ZoneInfo("Europe/Copenhagen")


@dataclass(slots=True, kw_only=True)
class Permission:
    """A grant, or with `soft` an existing customer's soft opt-in."""

    point: Point
    party: str
    purpose: str
    at: datetime
    soft: bool = False


@dataclass(slots=True, kw_only=True)
class Refusal:
    """A refusal; `points` are those at which it was made, or to which an unlinking copied it."""

    points: set[Point]
    party: str
    channel: str
    purpose: str
    at: datetime


@dataclass(slots=True, kw_only=True, eq=False)
class Wanted:
    """A message that somebody submitted. `exists` is None while it is not known whether that committed."""

    tag: int
    merchant: str
    purpose: str
    point: Point
    text: str
    purchase: Name | None
    send_after: datetime | None
    expires_at: datetime | None
    key: str | None
    message_id: str | None = None
    exists: bool | None = None
    is_cancelled: bool = False
    is_denied: bool = False

    @property
    def kind(self) -> str:
        return CLASS_OF[self.purpose]

    @property
    def may_be_sent_again(self) -> bool:
        return self.purpose == SENT_AGAIN_IN_DOUBT


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """A reservation that was committed. `state` is the ledger's word, the rest is what truly happened."""

    attempt_id: str
    wanted: Wanted
    at: datetime
    state: str = "held"
    taken: bool = False
    answer: Answer | None = None
    arrived: bool = False
    found_not_sent: bool = False

    @property
    def came_to_nothing(self) -> bool:
        """Whether its place in caps and its ask are free again, or should be as soon as that is recorded."""
        was_let_go = not self.taken and self.state == "failed"
        return self.answer == "refused" or self.found_not_sent or was_let_go


@dataclass(slots=True, kw_only=True)
class Ask:
    """An ask that counts: by us or made elsewhere (`attempt` None)."""

    purchase: Name
    by: str
    at: datetime
    point: Point | None
    attempt: Attempt | None = None


@dataclass(slots=True, kw_only=True)
class Decision:
    """A decision's row in the ledger, as far as the model looks at it."""

    outcome: str
    at: datetime
    attempt_id: str | None
    consent_allows: bool
    reasons: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Model:
    """`mailbox_of` gives each contact point's mailbox: variants of one address share it from birth."""

    mailbox_of: dict[Point, str]
    delivered: dict[Name, datetime]
    permissions: list[Permission] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    links: set[frozenset[str]] = field(default_factory=set)
    aliases: set[frozenset[Name]] = field(default_factory=set)
    suppressed: set[Point] = field(default_factory=set)
    reviewed: set[Name] = field(default_factory=set)
    asked_elsewhere: list[Ask] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    attempts: dict[str, Attempt] = field(default_factory=dict)

    # Who is who, and what is what.

    def person(self, point: Point) -> set[Point]:
        """All contact points that are known to belong to the same human."""
        mailboxes = _joined(self.mailbox_of[point], self.links)
        return {one for one, mailbox in self.mailbox_of.items() if mailbox in mailboxes}

    def names(self, purchase: Name) -> set[Name]:
        """All names of a purchase."""
        return _joined(purchase, self.aliases)

    def link(self, a: Point, b: Point) -> None:
        if self.mailbox_of[a] != self.mailbox_of[b]:
            self.links.add(self._edge(a, b))

    def is_linked(self, a: Point, b: Point) -> bool:
        """Whether these two were linked themselves, and not merely by way of others."""
        return self._edge(a, b) in self.links

    def unlink(self, a: Point, b: Point) -> None:
        """What was refused while they were linked stays refused for both."""
        together = self.person(a)
        self.links.remove(self._edge(a, b))
        if b not in self.person(a):
            for refusal in self.refusals:
                if refusal.points & together:
                    refusal.points |= together

    def alias(self, one: Name, other: Name) -> None:
        if one != other:
            self.aliases.add(frozenset((one, other)))

    def _edge(self, a: Point, b: Point) -> frozenset[str]:
        return frozenset((self.mailbox_of[a], self.mailbox_of[b]))

    # Section 4.

    def permits(self, point: Point, merchant: str, purpose: str, at: datetime) -> bool:
        """Whether a permission covers the message, and outlives every refusal that does."""
        person, channel = self.person(point), point.partition(":")[0]
        refusals = [
            refusal
            for refusal in self.refusals
            if refusal.points & person
            and refusal.channel in (channel, "*")
            and _party_lies_within(merchant, refusal.party)
            and _purpose_lies_within(purpose, refusal.purpose)
        ]
        return any(
            all(_outlives(permission, refusal) for refusal in refusals)
            for permission in self.permissions
            if permission.point == point
            and permission.purpose == purpose
            and permission.party in (merchant, GROUP_OF.get(merchant))
            and permission.at <= at
        )

    # What the ledger says, row by row as it commits.

    def decided(self, wanted: Wanted, decision: Decision) -> None:
        """Judge a decision that was made a moment ago, while nothing else happened."""
        who = f"{wanted.purpose} {wanted.tag}"
        assert wanted.exists is not False, f"{who} was decided and does not exist"
        assert not wanted.is_cancelled, f"{who} was decided after it was cancelled"
        assert not wanted.is_denied, f"{who} was decided after it was denied"
        if wanted.kind == "service":
            assert decision.consent_allows, f"{who}: a service message was refused for want of consent"
            is_forbidden = wanted.point in self.suppressed or self._is_late(wanted, decision.at)
            assert decision.outcome == "allow" or is_forbidden, f"{who}: a service message was not allowed"
        else:
            permits = self.permits(wanted.point, wanted.merchant, wanted.purpose, decision.at)
            assert decision.consent_allows == permits, f"{who}: consent should be {permits}"
        wanted.is_denied = decision.outcome == "deny"
        if wanted.purchase is not None:
            self._check_reasons(wanted, wanted.purchase, decision)
        if decision.outcome != "allow":
            assert decision.attempt_id is None
            return
        assert decision.attempt_id is not None, f"{who} was allowed without an attempt"
        self._check_allowed(wanted, decision.at)
        self.attempts[decision.attempt_id] = Attempt(
            attempt_id=decision.attempt_id, wanted=wanted, at=decision.at
        )

    def found(self, attempt: Attempt, state: str) -> None:
        """Judge what the ledger says of an attempt now."""
        who = f"{attempt.wanted.purpose} {attempt.wanted.tag}"
        attempt.state = state
        if state == "accepted":
            assert attempt.arrived, f"{who} counts as accepted and did not arrive"
            assert attempt.answer != "refused", f"{who} counts as accepted and was refused"
        if state == "rejected":
            assert attempt.answer == "refused", f"{who} counts as rejected and was not"
        if state == "failed":
            assert attempt.came_to_nothing, f"{who} counts as failed and may have arrived"

    def taken(self, attempt_id: str, message_id: str) -> Attempt:
        """Judge a hand-off that the provider is about to be given; `found` has just been told the states."""
        attempt = self.attempts.get(attempt_id)
        assert attempt is not None, "a hand-off without a committed decision"
        wanted = attempt.wanted
        who = f"{wanted.purpose} {wanted.tag}"
        assert wanted.message_id == message_id, f"{who} was handed over as another message"
        assert attempt.state == "held", f"{who} was handed over on a reservation that is {attempt.state}"
        assert not attempt.taken, f"{who}: one attempt was handed over twice"
        assert not wanted.is_cancelled, f"{who} was handed over after it was cancelled"
        for other in self._attempts_of(wanted):
            if other is not attempt:
                is_doubt_to_end = wanted.may_be_sent_again and other.state == "in_doubt"
                assert other.state == "failed" or is_doubt_to_end, (
                    f"{who} was handed over again after an attempt that is {other.state}"
                )
        attempt.taken = True
        return attempt

    def _check_allowed(self, wanted: Wanted, at: datetime) -> None:
        who = f"{wanted.purpose} {wanted.tag}"
        assert wanted.point not in self.suppressed, f"{who}: allowed to a suppressed contact point"
        assert not self._is_late(wanted, at), f"{who}: allowed after it expired"
        assert wanted.send_after is None or at >= wanted.send_after, f"{who}: allowed before its time"
        if wanted.purpose == "newsletter":
            self._check_newsletter(wanted, at)
        if wanted.purchase is not None and wanted.purpose == "review_request":
            self._check_ask(wanted, wanted.purchase, at)

    def _check_newsletter(self, wanted: Wanted, at: datetime) -> None:
        who = f"newsletter {wanted.tag}"
        local = at.astimezone(_HOME)
        assert local.isoweekday() <= 6, f"{who}: allowed on a Sunday"
        assert 9 <= local.hour < 20, f"{who}: allowed in quiet hours"
        person = self.person(wanted.point)
        others = [
            attempt
            for attempt in self.attempts.values()
            if attempt.wanted.purpose == "newsletter"
            and attempt.wanted is not wanted
            and attempt.wanted.point in person
            and not attempt.came_to_nothing
        ]
        in_a_week = [attempt for attempt in others if attempt.at > at - timedelta(days=7)]
        from_this_merchant = [one for one in in_a_week if one.wanted.merchant == wanted.merchant]
        assert len(in_a_week) < 5, f"{who}: the sixth in a week for one person"
        assert len(from_this_merchant) < 2, f"{who}: the third in a week from one merchant"
        for attempt in from_this_merchant:
            is_same = attempt.wanted.text == wanted.text and attempt.at > at - timedelta(hours=24)
            assert not is_same, f"{who}: the same text within a day"

    def _check_ask(self, wanted: Wanted, purchase: Name, at: datetime) -> None:
        who = f"review request {wanted.tag}"
        names = self.names(purchase)
        assert not names & self.reviewed, f"{who}: allowed although a review exists"
        due = min(self.delivered[name] for name in names if name in self.delivered) + timedelta(days=7)
        assert at >= due, f"{who}: allowed before it was due"
        if names == {purchase} and purchase[0] == ASKS_FOR_REVIEWS_ITSELF:
            assert wanted.merchant not in LOWER_RANKED, f"{who}: allowed although the seller asks itself"
        asks = [ask for ask in self._asks() if ask.attempt is None or ask.attempt.wanted is not wanted]
        assert not [ask for ask in asks if ask.purchase in names], f"{who}: the purchase was asked about"
        person = self.person(wanted.point)
        of_person = [ask for ask in asks if ask.point in person]
        recent = [ask for ask in of_person if ask.at > at - timedelta(days=30)]
        assert not recent, f"{who}: the person was asked within 30 days"
        by_merchant = [
            ask for ask in of_person if ask.by == wanted.merchant and ask.at > at - timedelta(days=180)
        ]
        assert not by_merchant, f"{who}: the merchant asked this person within 180 days"

    def _check_reasons(self, wanted: Wanted, purchase: Name, decision: Decision) -> None:
        """What came to nothing must not keep anybody from asking, once that is recorded."""
        who = f"review request {wanted.tag}"
        asks = [
            ask
            for ask in self._asks(as_recorded=True)
            if ask.attempt is None or ask.attempt.wanted is not wanted
        ]
        if "purchase_already_asked" in decision.reasons:
            names = self.names(purchase)
            assert [ask for ask in asks if ask.purchase in names], f"{who}: the purchase was not asked about"
        if "person_asked_recently" in decision.reasons:
            person, since = self.person(wanted.point), decision.at - timedelta(days=30)
            recent = [ask for ask in asks if ask.point in person and ask.at > since]
            assert recent, f"{who}: the person was not asked"

    def _asks(self, *, as_recorded: bool = False) -> Iterator[Ask]:
        """All asks that count in truth; with `as_recorded`, those that the ledger may count."""
        yield from self.asked_elsewhere
        for attempt in self.attempts.values():
            wanted = attempt.wanted
            is_over = attempt.state in ("rejected", "failed") if as_recorded else attempt.came_to_nothing
            if wanted.purpose == "review_request" and wanted.purchase and not is_over:
                yield Ask(
                    purchase=wanted.purchase,
                    by=wanted.merchant,
                    at=attempt.at,
                    point=wanted.point,
                    attempt=attempt,
                )

    @staticmethod
    def _is_late(wanted: Wanted, at: datetime) -> bool:
        return wanted.expires_at is not None and at >= wanted.expires_at

    def _attempts_of(self, wanted: Wanted) -> list[Attempt]:
        return [attempt for attempt in self.attempts.values() if attempt.wanted is wanted]

    # At the end, when nothing happens any more.

    def ended(self, wanted: Wanted, status: str) -> None:
        """Judge where a message is in the end."""
        who = f"{wanted.purpose} {wanted.tag}"
        attempts = self._attempts_of(wanted)
        arrivals = sum(attempt.arrived for attempt in attempts)
        states = [attempt.state for attempt in attempts]
        finals = ("sent", "denied", "expired", "cancelled", "failed", "in_doubt")
        assert status in finals, f"{who} is {status} and nothing will ever end it"
        assert "held" not in states, f"{who} has a reservation that nobody ended"
        if status == "sent":
            assert arrivals, f"{who} counts as sent and never arrived"
            assert "accepted" in states, f"{who} counts as sent and no attempt does"
        if "accepted" in states:
            assert status == "sent", f"{who} was accepted and is {status}"
        if wanted.is_cancelled:
            assert status == "cancelled", f"{who} was cancelled and is {status}"
        if not wanted.may_be_sent_again:
            assert arrivals <= 1, f"{who} arrived {arrivals} times"
            if arrivals:
                assert status in ("sent", "in_doubt"), f"{who} arrived and is {status}"
            if status != "in_doubt":
                assert "in_doubt" not in states, f"{who} is {status} with an attempt in doubt"


def _joined(start: Thing, edges: Iterable[frozenset[Thing]]) -> set[Thing]:
    found, waiting = {start}, [start]
    while waiting:
        one = waiting.pop()
        near = {other for edge in edges if one in edge for other in edge} - found
        found |= near
        waiting.extend(near)
    return found


def _outlives(permission: Permission, refusal: Refusal) -> bool:
    return (
        not permission.soft
        and permission.at > refusal.at
        and _party_lies_within(permission.party, refusal.party)
        and _purpose_lies_within(permission.purpose, refusal.purpose)
    )


def _party_lies_within(party: str, scope: str) -> bool:
    return scope in ("*", party, GROUP_OF.get(party))


def _purpose_lies_within(purpose: str, scope: str) -> bool:
    return scope in ("*", purpose) or CLASS_OF[purpose] in _CLASSES_REFUSED_BY.get(scope, ())
