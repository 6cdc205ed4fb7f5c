"""What a replay begins with: its messages, and all that was known of their persons and purchases just before.

The tables tell what is known now. What rows from the beginning on say is taken out again, and comes back in its turn.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from notifygate.audit.simulate import messages
from notifygate.audit.simulate.messages import Replayed
from notifygate.audit.simulate.world import DATES, Attempt, Persons, Purchases, Seller, World, components
from notifygate.consent import ConsentRecord
from notifygate.decision import Finding
from notifygate.ledger import consents, replays
from notifygate.ledger.database import Ledger
from notifygate.ledger.journal import Kind, read_body
from notifygate.ledger.replays import KnownAsk, KnownPurchase, Logged
from notifygate.message import Result, Status
from notifygate.policy import Policy, PurposeClass
from notifygate.rules import content
from notifygate.snapshot import Ask, Handover, Request, Snapshot, Suppression

Tell = Callable[[int], None]
"""Called with the number of rows that were read."""

TimedFact = tuple[datetime, int, Callable[[], None]]

_NAMES_A_PURCHASE = frozenset(
    {Kind.SUBMITTED, Kind.PURCHASE, Kind.ALIAS, Kind.ASK, Kind.REVIEW, Kind.CASE_OPENED, Kind.CASE_CLOSED}
)
_GOES_ON = frozenset({Kind.DECISION, Kind.ATTEMPT, Kind.RESOLUTION, Kind.CANCELLED})
_ENDS_AN_ATTEMPT = frozenset({Kind.ATTEMPT, Kind.RESOLUTION})
_WAITED = frozenset({Kind.DECISION, Kind.CANCELLED})  # that a message did until then
_CAME_TO_NOTHING = frozenset({Result.REJECTED.value, Result.FAILED.value})


@dataclass(slots=True, kw_only=True)
class Past:
    """Where a replay begins. What is known by rows of the log is found by the ids that those rows name."""

    first: int
    last: int
    until: datetime
    messages: dict[str, Replayed] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    world: World
    consent: dict[str, ConsentRecord] = field(default_factory=dict)
    marks: dict[str, Suppression] = field(default_factory=dict)
    links: dict[str, tuple[str, str]] = field(default_factory=dict)
    asks_elsewhere: dict[tuple[Any, ...], deque[str]] = field(default_factory=dict)
    ask_ids: dict[str, str] = field(default_factory=dict)
    timed: list[TimedFact] = field(default_factory=list)
    sent_again: set[str] = field(default_factory=set)  # attempts in doubt after which another may follow
    left_out: int = 0


def load(ledger: Ledger, policy: Policy, since: datetime, until: datetime, tell: Tell) -> Past | None:
    """Read what a replay of the rows from `since` to before `until` begins with; None where there are no rows."""
    span = replays.span(ledger, since)
    if span is None:
        return None
    return _Loading(ledger, policy, since, until, *span).load(tell)


class _Loading:
    def __init__(
        self, ledger: Ledger, policy: Policy, since: datetime, until: datetime, first: int, last: int
    ) -> None:
        self._ledger, self._policy = ledger, policy
        self._since, self._until, self._first, self._last = since, until, first, last
        self._last_within = first
        self._messages: dict[str, Replayed] = {}
        self._first_step: dict[str, str] = {}  # of messages from before
        self._came_to_nothing: set[str] = set()  # messages, by an attempt that ended after the period
        self._ask_ids: dict[str, str] = {}  # of attempts from before
        self._sent_again: set[str] = set()
        self._consents_by_row: set[str] = set()
        self._marks_by_row: set[str] = set()
        self._lifted_by_row: set[str] = set()
        self._told: set[tuple[str, str]] = set()
        self._reviewed_by_row: set[str] = set()
        self._asks_by_row: list[tuple[Any, ...]] = []
        self._ask_rows_before: list[Logged] = []
        self._joined_later: set[str] = set()
        self._left_out = 0

    def load(self, tell: Tell) -> Past:
        self._read_rows(tell)
        open_attempts = self._read_messages_from_before()
        persons, links = self._persons()
        for message in list(self._messages.values()):
            if message.request.contact_point_id not in persons.points:
                del self._messages[message.request.message_id]
                self._left_out += 1
        merges = [row for row in replays.joinings(self._ledger) if read_body(row.body)["joined"]]
        purchases = self._purchases(merges)
        world = World(persons=persons, purchases=purchases)
        past = Past(
            first=self._first,
            last=self._last_within,
            until=self._until,
            messages=self._messages,
            world=world,
            links=links,
            sent_again=self._sent_again,
            left_out=self._left_out,
        )
        self._consents(past)
        self._marks(past)
        self._asks(past)
        self._handovers(past, open_attempts)
        past.timed.sort(key=lambda fact: fact[:2])
        return past

    # Messages

    def _read_rows(self, tell: Tell) -> None:
        doubted: dict[str, str] = {}
        for page in replays.stream(self._ledger, self._first, self._last, light=True):
            new: list[Replayed] = []
            for row in page:
                if row.at < self._since:
                    continue
                self._take_note(row)
                if row.message_id is not None and row.kind in _GOES_ON:
                    self._note_end(row, row.message_id, doubted)
                if row.at >= self._until:
                    continue
                self._last_within = row.position
                if row.message_id is None:
                    continue
                if row.kind == Kind.SUBMITTED:
                    message = messages.submitted(row)
                    self._messages[row.message_id] = message
                    new.append(message)
                elif row.kind in _GOES_ON and row.message_id not in self._messages:
                    self._first_step.setdefault(row.message_id, row.kind)
            self._search_texts(new)
            tell(len(page))
        self._sent_again.update(doubted[one] for one in replays.still_waiting(self._ledger, doubted))

    def _note_end(self, row: Logged, message_id: str, doubted: dict[str, str]) -> None:
        """Find out which attempts let another follow while they were in doubt, and which ended after the period."""
        if row.kind == Kind.ATTEMPT and row.outcome == Result.IN_DOUBT.value:
            doubted[message_id] = read_body(row.body)["attempt_id"]
        elif row.kind in _WAITED and message_id in doubted:
            self._sent_again.add(doubted[message_id])
        elif row.kind in _ENDS_AN_ATTEMPT:
            doubted.pop(message_id, None)
            if row.at >= self._until and row.outcome in _CAME_TO_NOTHING:
                self._came_to_nothing.add(message_id)

    def _take_note(self, row: Logged) -> None:
        """What this row says is no part of what was known before."""
        kind = row.kind
        if kind in _NAMES_A_PURCHASE and row.purchase_id is not None:
            body = read_body(row.body)
            self._told.update((row.purchase_id, name) for name in DATES if body.get(name))
            if kind == Kind.ASK:
                self._asks_by_row.append(ask_key(row, body))
            elif kind == Kind.REVIEW:
                self._reviewed_by_row.add(row.purchase_id)
        elif kind == Kind.CONSENT:
            self._consents_by_row.add(read_body(row.body).get("event_id", ""))
        elif kind in (Kind.SUPPRESSION, Kind.ERASED):
            self._marks_by_row.add(read_body(row.body).get("suppression_id", ""))
        elif kind == Kind.UNSUPPRESSION:
            self._lifted_by_row.update(read_body(row.body).get("suppression_ids", ()))

    def _read_messages_from_before(self) -> list[tuple[Replayed, Attempt]]:
        """Messages that were submitted before and had not ended; return the attempts that were still under way.

        An attempt that came to nothing after the period counted throughout, though its message is none of the period.
        """
        ids = {*self._first_step, *replays.waiting_since_before(self._ledger, self._since)}
        under_way: list[tuple[Replayed, Attempt]] = []
        begun: list[Replayed] = []
        lost = set(ids)
        wanted = (ids | self._came_to_nothing) - self._messages.keys()
        for rows in replays.of_messages(self._ledger, wanted, self._since):
            if rows[0].kind != Kind.SUBMITTED:
                continue
            message = messages.submitted(rows[0])
            lost.discard(message.request.message_id)
            logged_content = self._go_through(message, rows[1:])
            message_id = message.request.message_id
            life = message.logged
            if life.status is Status.IN_DOUBT and self._first_step.get(message_id) in _WAITED:
                life.status, life.due = Status.QUEUED, None
            message.begin_alike()
            message.content = logged_content
            if life.status in (Status.SENDING, Status.IN_DOUBT) and life.sent:
                state = "in_doubt" if life.status is Status.IN_DOUBT else "held"
                under_way.append((message, Attempt(*life.sent[-1], state=state)))
            if message_id in self._first_step or life.waits:
                self._messages[message_id] = message
                begun.append(message)
        self._left_out = len(lost)
        self._search_texts(begun)
        return under_way

    def _go_through(self, message: Replayed, rows: Iterable[Logged]) -> Finding | None:
        """Lead a logged life up to the beginning; return what the rule `content` found last."""
        found = None
        for row in rows:
            body = read_body(row.body)
            if "ask_id" in body:
                self._ask_ids[body["attempt_id"]] = body["ask_id"]
            if row.kind == Kind.DECISION:
                messages.log_decision(message.logged, row, body)
                found = logged_content(body)
            elif row.kind == Kind.ATTEMPT:
                messages.log_attempt(message.logged, row, body, is_sent_again=False)
            elif row.kind == Kind.RESOLUTION:
                messages.log_resolution(message.logged, row, body)
            elif row.kind == Kind.CANCELLED:
                message.logged.status = Status.CANCELLED
        return found

    def _search_texts(self, new: Iterable[Replayed]) -> None:
        """Let the rule that reads texts do so at once, so that no text is kept."""
        searched = {}
        for message in new:
            purpose = self._policy.purposes.get(message.request.purpose)
            if purpose is not None and purpose.purpose_class is PurposeClass.SERVICE:
                searched[message.request.message_id] = message
                message.is_erased = True
            else:
                message.content = None
        for told in replays.texts(self._ledger, searched):
            message = searched[told.message_id]
            if told.text is None:
                continue
            text = "\n".join(part for part in (told.subject, told.text, told.html) if part)
            message.content = _search(message.request, text, self._policy)
            message.is_erased = False

    # Persons

    def _persons(self) -> tuple[Persons, dict[str, tuple[str, str]]]:
        points = {message.request.contact_point_id for message in self._messages.values()}
        mailbox_of = replays.mailboxes_of(self._ledger, points)
        links = replays.links(self._ledger)
        joined = components((link.mailbox_a, link.mailbox_b) for link in links)
        wanted = set(mailbox_of.values())
        for mailbox in list(wanted):
            wanted |= joined.get(mailbox, set())
        persons = Persons(replays.points_of(self._ledger, wanted), self._policy.horizon)
        for link in links:
            if link.linked_at < self._since and (link.unlinked_at is None or link.unlinked_at >= self._since):
                persons.tie(link.link_id, link.mailbox_a, link.mailbox_b)
        return persons, {link.link_id: (link.mailbox_a, link.mailbox_b) for link in links}

    def _consents(self, past: Past) -> None:
        persons = past.world.persons
        for chunk in replays.by_chunks(persons.points):
            with self._ledger.read() as conn:
                found = consents.records_of(conn, chunk)
            for record in (record for records in found.values() for record in records):
                if record.recorded_at < self._since:
                    persons.permit(record)
                elif record.event_id in self._consents_by_row:
                    past.consent[record.event_id] = record
                else:
                    self._later(past, record.recorded_at, lambda record=record: persons.permit(record))  # type: ignore[misc]

    def _marks(self, past: Past) -> None:
        persons = past.world.persons
        for mark, removed_at in replays.marks(self._ledger, persons.points):
            if removed_at is not None and removed_at < self._since:
                continue
            if mark.created_at < self._since:
                persons.mark(mark)
            elif mark.suppression_id in self._marks_by_row:
                past.marks[mark.suppression_id] = mark
            else:
                self._later(past, mark.created_at, lambda mark=mark: persons.mark(mark))  # type: ignore[misc]
            if removed_at is not None and mark.suppression_id not in self._lifted_by_row:
                ids, point = (mark.suppression_id,), mark.contact_point_id
                self._later(past, removed_at, lambda ids=ids, point=point: persons.lift(point, ids))  # type: ignore[misc]

    @staticmethod
    def _later(past: Past, at: datetime, happens: Callable[[], None]) -> None:
        past.timed.append((at, len(past.timed), happens))

    def _handovers(self, past: Past, under_way: Iterable[tuple[Replayed, Attempt]]) -> None:
        points = past.world.persons.points
        waiting = {attempt.attempt_id: attempt for _, attempt in under_way}
        read = replays.counted(
            self._ledger, points, since=self._since - self._policy.horizon, before=self._since
        )
        for row in read:
            handover = Handover(
                message_id=row.message_id,
                merchant=row.merchant,
                purpose=row.purpose,
                purpose_class=PurposeClass(row.purpose_class),
                channel=row.channel,
                dedupe_key=row.dedupe_key,
                at=row.reserved_at,
            )
            point = points[row.contact_point_id]
            point.handovers = (*point.handovers, handover)
            if row.attempt_id in waiting:
                waiting[row.attempt_id].handover = handover
        for message, attempt in under_way:
            if message.request.contact_point_id in points:
                self._go_on_with(past, message, attempt)

    def _go_on_with(self, past: Past, message: Replayed, attempt: Attempt) -> None:
        """An attempt from before whose end is told later: it counted until then, and so did its ask."""
        request = message.request
        point = past.world.persons.points[request.contact_point_id]
        past.attempts[attempt.attempt_id] = attempt
        known = [one for one in point.asks if one.message_id == request.message_id and one.at == attempt.at]
        attempt.ask = known[0] if known else None
        if attempt.handover is not None:
            return
        asks = message.purpose_class is PurposeClass.REVIEW and not known
        ask_id = self._ask_ids.get(attempt.attempt_id) or f"ask{attempt.attempt_id[3:]}"
        past.world.grant(attempt, message, asks=asks, ask_id=ask_id)

    # Purchases

    def _purchases(self, merges: list[Logged]) -> Purchases:
        joined = components((row.purchase_id or "", read_body(row.body)["joined"]) for row in merges)
        wanted = {message.purchase_id for message in self._messages.values() if message.purchase_id}
        for purchase_id in list(wanted):
            wanted |= joined.get(purchase_id, set())
        self._joined_later = {
            purchase_id
            for row in merges
            if row.at >= self._since
            for purchase_id in joined[row.purchase_id or ""]
        }
        now = {known.purchase_id: known for known in replays.known_purchases(self._ledger, wanted)}
        told_later = {
            (other, name)
            for purchase_id, name in self._told
            for other in joined.get(purchase_id, {purchase_id})
        }
        before = {one.purchase_id for one in now.values() if one.known_since < self._since}
        before |= self._joined_later & wanted
        rows = replays.about_purchases(self._ledger, before, self._since)
        told_before = {
            (other, name)
            for row in rows
            for name in DATES
            if row.purchase_id and read_body(row.body).get(name)
            for other in joined.get(row.purchase_id, {row.purchase_id})
        }
        # Older rows do not say which dates were told: what nobody tells is taken to have been known all along.
        told = told_later | told_before
        sellers = {
            one.purchase_id: Seller(
                one.seller,
                {name: getattr(one, name) for name in DATES if (one.purchase_id, name) not in told},
            )
            for one in now.values()
        }
        purchases = Purchases(sellers)
        self._ask_rows_before = [row for row in rows if row.kind == Kind.ASK]
        for row in rows:
            apply(purchases, row)
        for one in now.values():
            self._as_it_was(purchases, one)
        return purchases

    def _as_it_was(self, purchases: Purchases, known: KnownPurchase) -> None:
        """Take from the table what rows that are gone said."""
        if known.known_since >= self._since or known.purchase_id in self._joined_later:
            return
        if purchases.now_called(known.purchase_id) != known.purchase_id:
            return
        purchases.mention(known.purchase_id, known.known_since, {})
        facts = purchases.facts[known.purchase_id]
        reviewed_at, case_open_since = facts.reviewed_at, facts.case_open_since
        if reviewed_at is None and known.purchase_id not in self._reviewed_by_row:
            reviewed_at = known.reviewed_at
        if known.case_open_since is not None and known.case_open_since < self._since:
            case_open_since = known.case_open_since
        purchases.facts[known.purchase_id] = replace(
            facts, known_since=known.known_since, reviewed_at=reviewed_at, case_open_since=case_open_since
        )

    def _asks(self, past: Past) -> None:
        purchases, points = past.world.purchases, past.world.persons.points
        sold = set(purchases.facts) | self._joined_later
        wanted = sold | {
            purchases.now_called(message.purchase_id)
            for message in self._messages.values()
            if message.purchase_id
        }
        known = replays.known_asks(self._ledger, purchase_ids=wanted, point_ids=points)
        elsewhere: defaultdict[tuple[Any, ...], deque[KnownAsk]] = defaultdict(deque)
        for ask in sorted(known.values(), key=lambda ask: ask.ask_id):
            if ask.message_id is None:
                elsewhere[(ask.by, ask.asked_at, ask.contact_point_id)].append(ask)
            elif ask.asked_at >= self._since:
                past.ask_ids[ask.attempt_id or ""] = ask.ask_id
        # Those that rows from the beginning on tell of were not known before; they were the last to be made.
        later = [elsewhere[key].pop() for key in reversed(self._asks_by_row) if elsewhere.get(key)]
        not_yet = {ask.ask_id for ask in later}
        for ask in sorted(later, key=lambda ask: ask.ask_id):
            key = (ask.by, ask.asked_at, ask.contact_point_id)
            past.asks_elsewhere.setdefault(key, deque()).append(ask.ask_id)
        about = self._purchases_of_asks(known.values(), purchases)
        for ask in known.values():
            if ask.ask_id in not_yet or (ask.message_id is not None and ask.asked_at >= self._since):
                continue
            made = Ask(ask_id=ask.ask_id, by=ask.by, at=ask.asked_at, message_id=ask.message_id)
            purchases.ask(about.get(ask.ask_id, ask.purchase_id), made)
            if ask.contact_point_id in points:
                point = points[ask.contact_point_id]
                point.asks = (*point.asks, made)

    def _purchases_of_asks(self, known: Iterable[KnownAsk], purchases: Purchases) -> dict[str, str]:
        """Which purchase each ask was about, where that has become part of another since."""
        moved = [ask for ask in known if ask.purchase_id in self._joined_later]
        asking = {ask.message_id for ask in moved if ask.message_id}
        asked = replays.purchases_of(self._ledger, asking, self._since)
        told = {ask_key(row, read_body(row.body)): row.purchase_id for row in self._ask_rows_before}
        about = {}
        for ask in moved:
            key = (ask.by, ask.asked_at, ask.contact_point_id)
            found = asked.get(ask.message_id) if ask.message_id else told.get(key)
            if found is not None:
                about[ask.ask_id] = purchases.now_called(found)
        return about


def apply(purchases: Purchases, row: Logged) -> bool:
    """What a row tells about a purchase, but for asks; say whether it filled in a date of one known before."""
    if row.kind not in _NAMES_A_PURCHASE or row.purchase_id is None:
        return False
    body = read_body(row.body)
    dates = {name: messages.instant(body.get(name)) for name in DATES}
    filled = purchases.mention(row.purchase_id, row.at, dates)
    if row.kind == Kind.ALIAS and body["joined"]:
        purchases.join(row.purchase_id, body["joined"])
    elif row.kind == Kind.REVIEW and (at := messages.instant(body["reviewed_at"])):
        purchases.review(row.purchase_id, at)
    elif row.kind == Kind.CASE_OPENED:
        purchases.case(row.purchase_id, row.at)
    elif row.kind == Kind.CASE_CLOSED:
        purchases.case(row.purchase_id, None)
    return filled


def ask_key(row: Logged, body: dict[str, Any]) -> tuple[Any, ...]:
    """What tells an ask made elsewhere from others."""
    return (body["by"], messages.instant(body["asked_at"]), row.contact_point_id)


def logged_content(body: Mapping[str, Any]) -> Finding | None:
    """What the rule `content` found in a logged decision; None where no rule ran."""
    for finding in body["findings"]:
        if finding["rule"] == "content":
            return Finding.from_json(finding)
    return None


def _search(request: Request, text: str, policy: Policy) -> Finding:
    return content.check(replace(request, text=text), Snapshot(), policy, request.submitted_at)
