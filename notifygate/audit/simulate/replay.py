"""The replay: what was logged is gone through once more, row by row, and decided by another policy.

What the log says of the world is taken as it is. What follows from decisions is simulated. A decision of the simulation
is made where the log made it, as long as the message is due at the same time there; else at the time when it is due.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from notifygate.audit.simulate import messages
from notifygate.audit.simulate.messages import Replayed
from notifygate.audit.simulate.past import Past, Tell, apply, ask_key, logged_content
from notifygate.audit.simulate.world import Attempt
from notifygate.config import Config
from notifygate.decision import Decision, Finding, Outcome
from notifygate.ledger import replays
from notifygate.ledger.database import Ledger
from notifygate.ledger.journal import Kind, read_body
from notifygate.ledger.replays import Logged
from notifygate.message import Result, Status
from notifygate.plugins import rules_of
from notifygate.policy import Policy, PurposeClass
from notifygate.restoring import RESTORED
from notifygate.rules import Rule, content, evaluate
from notifygate.snapshot import Ask, Request, Snapshot

Observe = Callable[[str, Decision, Logged | None], None]
"""Called for each decision of the simulation: message id, decision, and the row of the one that it stands for."""

_FIRST_OF_ALL = (datetime.min.replace(tzinfo=UTC), "")
_LONGEST_WAIT = 1.2  # of a retry, as a multiple of the shortest
_FACTS = frozenset(
    {
        Kind.SUBMITTED,
        Kind.CONSENT,
        Kind.SUPPRESSION,
        Kind.UNSUPPRESSION,
        Kind.ERASED,
        Kind.LINK,
        Kind.UNLINK,
        Kind.PURCHASE,
        Kind.ALIAS,
        Kind.ASK,
        Kind.REVIEW,
        Kind.CASE_OPENED,
        Kind.CASE_CLOSED,
        Kind.CANCELLED,
    }
)


class Replay:
    """One replay under the policy of a config. `run` may be called once."""

    def __init__(
        self, ledger: Ledger, config: Config, past: Past, since: datetime, observe: Observe | None = None
    ) -> None:
        self._ledger = ledger
        self._policy: Policy = config.policy
        self._delivery = config.settings.delivery
        self._past = past
        self._world = past.world
        self._since = since
        self._observe = observe
        self._rules = self._rules_with_known_texts()
        self._deciding: Replayed | None = None
        self._due: list[tuple[datetime, str]] = []
        self._timed = past.timed
        self._next_timed = 0
        self._about: defaultdict[str, list[Replayed]] = defaultdict(list)
        self._count = 0
        self.messages: dict[str, Replayed] = {}
        self.decisions = 0
        self.logged_by: Counter[str] = Counter()
        self.unsearched: set[str] = set()
        """Messages whose text was erased before this policy could search it."""
        self._handlers: Mapping[str, Callable[[Logged], None]] = {
            Kind.SUBMITTED: self._submitted,
            Kind.DECISION: self._decision,
            Kind.ATTEMPT: self._attempt,
            Kind.RESOLUTION: self._resolution,
            Kind.CANCELLED: self._cancelled,
            Kind.CONSENT: self._consent,
            Kind.SUPPRESSION: self._suppression,
            Kind.UNSUPPRESSION: self._unsuppression,
            Kind.ERASED: self._suppression,
            Kind.LINK: self._link,
            Kind.UNLINK: self._unlink,
            Kind.PURCHASE: self._purchase,
            Kind.ALIAS: self._purchase,
            Kind.ASK: self._ask,
            Kind.REVIEW: self._purchase,
            Kind.CASE_OPENED: self._purchase,
            Kind.CASE_CLOSED: self._case_closed,
        }

    def run(self, tell: Tell) -> None:
        """Go through the log, and then up to the end of the period."""
        for message in self._past.messages.values():
            if message.request.submitted_at < self._since:
                self._enter(message)
        for row in self._rows(tell):
            handle = self._handlers.get(row.kind)
            if handle is None:
                continue
            self._advance(row.at, first=None if row.kind in _FACTS else _FIRST_OF_ALL)
            self._happen_before(row.at)
            handle(row)
        while self._due and self._due[0][0] < self._past.until:
            self._decide_next()

    def _rows(self, tell: Tell) -> Iterator[Logged]:
        past = self._past
        for page in replays.stream(self._ledger, past.first, past.last):
            for row in page:
                if self._since <= row.at < past.until:
                    yield row
            tell(len(page))

    # Time

    def _happen_before(self, at: datetime) -> None:
        """Let happen what no row tells of, such as consents that were taken over in bulk."""
        while self._next_timed < len(self._timed) and self._timed[self._next_timed][0] < at:
            self._timed[self._next_timed][2]()
            self._next_timed += 1

    def _advance(self, at: datetime, *, first: tuple[datetime, str] | None) -> None:
        """Decide what fell due in the simulation alone: before `at`, and at that instant what comes before `first`.

        Workers take what is due in the order of due times and then of ids. Without `first`, all goes before the row.
        """
        while self._due and self._due[0][0] <= at:
            if self._due[0][0] == at and first is not None and self._due[0] > first:
                return
            self._decide_next()

    def _decide_next(self) -> None:
        due, message_id = heapq.heappop(self._due)
        self._happen_before(due)
        message = self.messages[message_id]
        if message.simulated.waits and message.simulated.due == due and not message.follows:
            self._decide(message, due, None, None)
            self._reschedule(message)

    def _reschedule(self, message: Replayed) -> None:
        life = message.simulated
        if life.waits and life.due is not None and not message.follows:
            heapq.heappush(self._due, (life.due, message.request.message_id))

    # Messages

    def _enter(self, message: Replayed) -> None:
        self.messages[message.request.message_id] = message
        if message.purchase_id is not None:
            self._about[self._world.purchases.now_called(message.purchase_id)].append(message)

    def _submitted(self, row: Logged) -> None:
        self._purchase(row)
        message = self._past.messages.get(row.message_id or "")
        if message is not None:
            self._enter(message)

    def _decision(self, row: Logged) -> None:
        message = self.messages.get(row.message_id or "")
        if message is None:
            return
        self.logged_by[row.policy or ""] += 1
        body = read_body(row.body)
        message_id = message.request.message_id
        self._advance(row.at, first=(message.logged.due or row.at, message_id))
        if message.follows:
            self._decide(message, row.at, row, body)
        messages.log_decision(message.logged, row, body)
        self._reschedule(message)

    def _attempt(self, row: Logged) -> None:
        message = self.messages.get(row.message_id or "")
        if message is None:
            return
        body = read_body(row.body)
        attempt_id = body["attempt_id"]
        is_sent_again = attempt_id in self._past.sent_again
        messages.log_attempt(message.logged, row, body, is_sent_again=is_sent_again)
        if row.reason == RESTORED:
            self._found_sent(message, row.at, attempt_id, body.get("ask_id"))
            return
        attempt = self._past.attempts.get(attempt_id)
        if attempt is not None and attempt.is_open:
            self._end(message, attempt, row, body, is_sent_again=is_sent_again)
        self._reschedule(message)

    def _end(
        self,
        message: Replayed,
        attempt: Attempt,
        row: Logged,
        body: Mapping[str, Any],
        *,
        is_sent_again: bool,
    ) -> None:
        """End an attempt of the simulation as the log ended it."""
        life = message.simulated
        attempt.state = row.outcome or ""
        if row.outcome == Result.ACCEPTED.value:
            life.status, attempt.is_open = Status.SENT, False
            del self._past.attempts[attempt.attempt_id]
        elif row.outcome == Result.IN_DOUBT.value:
            life.status = Status.IN_DOUBT
            purpose = self._policy.purposes.get(message.request.purpose)
            if purpose is None or purpose.on_doubt != "resend":
                return
            if is_sent_again:
                life.status, life.due, attempt.is_open = Status.QUEUED, None, False
            elif body["number"] < self._delivery.max_attempts:
                again_at = row.at + self._back_off(body["number"])
                life.status, life.due, attempt.is_open = Status.QUEUED, again_at, False
        else:
            self._release(message, attempt)
            if row.outcome == Result.FAILED.value:
                life.status, life.due = Status.QUEUED, None
            else:
                life.status = Status.FAILED

    def _back_off(self, attempts: int) -> timedelta:
        """The longest that a retry may be put off."""
        delivery = self._delivery
        doubled: timedelta = delivery.retry_after * 2 ** min(attempts - 1, 30)
        return min(doubled * _LONGEST_WAIT, delivery.retry_at_most)

    def _release(self, message: Replayed, attempt: Attempt) -> None:
        attempt.is_open = False
        self._past.attempts.pop(attempt.attempt_id, None)
        message.simulated.drop(attempt.attempt_id)
        self._world.release(attempt, message.request.contact_point_id, message.purchase_id)

    def _found_sent(self, message: Replayed, at: datetime, attempt_id: str, ask_id: str | None) -> None:
        """A ledger was restored; what waited in the backup may have been sent since. A fact, whatever the policy."""
        if message.simulated.waits:
            attempt = self._grant(message, at, attempt_id, ask_id)
            attempt.state = "in_doubt"
            message.simulated.status = Status.IN_DOUBT
            message.simulated.sent = (*message.simulated.sent, (attempt_id, at))

    def _resolution(self, row: Logged) -> None:
        message = self.messages.get(row.message_id or "")
        if message is None:
            return
        body = read_body(row.body)
        messages.log_resolution(message.logged, row, body)
        attempt = self._past.attempts.get(body["attempt_id"])
        if attempt is not None and attempt.state == "in_doubt":
            was_held = attempt.is_open
            if row.outcome == Result.ACCEPTED.value:
                attempt.is_open = False
            else:
                self._release(message, attempt)
            attempt.state = row.outcome or ""
            if was_held:
                messages.log_resolution(message.simulated, row, body)
        self._reschedule(message)

    def _cancelled(self, row: Logged) -> None:
        message = self.messages.get(row.message_id or "")
        if message is not None:
            message.logged.status = Status.CANCELLED
            if message.simulated.waits:
                message.simulated.status = Status.CANCELLED

    # Deciding

    def _decide(
        self, message: Replayed, now: datetime, row: Logged | None, body: Mapping[str, Any] | None
    ) -> None:
        request, life = message.request, message.simulated
        if message.is_erased and message.content is None and body is not None:
            message.content = logged_content(body)
        self._deciding = message
        purchase = self._world.purchases.of(message.purchase_id)
        snapshot = self._world.persons.snapshot(request.contact_point_id, purchase, now)
        decision = evaluate(request, snapshot, self._policy, now, rules=self._rules)
        self.decisions += 1
        if self._observe is not None:
            self._observe(request.message_id, decision, row)
        if decision.outcome is not Outcome.ALLOW:
            because = messages.reasons((found.rule, found.reason) for found in decision.determining)
            life.settle(decision.outcome.value, because, decision.until)
            return
        is_logged = row is not None and body is not None and row.outcome == Outcome.ALLOW.value
        attempt_id = body["attempt_id"] if is_logged and body is not None else self._new_id("att")
        self._grant(message, now, attempt_id, body.get("ask_id") if is_logged and body is not None else None)
        life.allow(attempt_id, now)
        if not is_logged:
            # Nobody knows what the provider would have said.
            self._past.attempts.pop(attempt_id)
            life.status = Status.SENT

    def _grant(self, message: Replayed, now: datetime, attempt_id: str, ask_id: str | None = None) -> Attempt:
        attempt = self._past.attempts[attempt_id] = Attempt(attempt_id, now)
        purpose = self._policy.purposes.get(message.request.purpose)
        asks = purpose is not None and purpose.purpose_class is PurposeClass.REVIEW
        ask_id = ask_id or self._past.ask_ids.get(attempt_id) or f"ask{attempt_id[3:]}"
        self._world.grant(attempt, message, asks=asks, ask_id=ask_id)
        return attempt

    def _new_id(self, prefix: str) -> str:
        """An id that sorts behind those that were logged at the same instant."""
        self._count += 1
        return f"{prefix}_~{self._count:012d}"

    def _rules_with_known_texts(self) -> Sequence[tuple[str, Rule]]:
        def searched(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
            message = self._deciding
            if message is None or message.content is None:
                return content.check(request, snapshot, policy, now)
            if message.is_erased:
                self.unsearched.add(request.message_id)
            return message.content

        return [(name, searched if rule is content.check else rule) for name, rule in rules_of(self._policy)]

    # Facts

    def _consent(self, row: Logged) -> None:
        record = self._past.consent.get(read_body(row.body).get("event_id", ""))
        if record is not None:
            self._world.persons.permit(record)

    def _suppression(self, row: Logged) -> None:
        mark = self._past.marks.get(read_body(row.body).get("suppression_id", ""))
        if mark is not None:
            self._world.persons.mark(mark)

    def _unsuppression(self, row: Logged) -> None:
        lifted = read_body(row.body).get("suppression_ids", ())
        self._world.persons.lift(row.contact_point_id or "", lifted)

    def _link(self, row: Logged) -> None:
        link_id = read_body(row.body)["link_id"]
        if link_id in self._past.links:
            self._world.persons.tie(link_id, *self._past.links[link_id])

    def _unlink(self, row: Logged) -> None:
        for link_id in read_body(row.body)["link_ids"]:
            if link_id in self._past.links:
                self._world.persons.untie(link_id, *self._past.links[link_id])

    def _purchase(self, row: Logged) -> None:
        if row.purchase_id is None:
            return
        purchases = self._world.purchases
        filled = apply(purchases, row)
        if row.kind == Kind.ALIAS and (joined := read_body(row.body)["joined"]):
            self._about[purchases.now_called(row.purchase_id)].extend(self._about.pop(joined, ()))
        if filled:
            self._wake(row.purchase_id, row.at)

    def _case_closed(self, row: Logged) -> None:
        self._purchase(row)
        self._wake(row.purchase_id or "", row.at)

    def _wake(self, purchase_id: str, at: datetime) -> None:
        """Let what is deferred about a purchase be decided now."""
        for message in self._about.get(self._world.purchases.now_called(purchase_id), ()):
            for life in (message.logged, message.simulated):
                if life.status is Status.DEFERRED and life.due is not None and life.due > at:
                    life.due = at
            self._reschedule(message)

    def _ask(self, row: Logged) -> None:
        self._purchase(row)
        body = read_body(row.body)
        known = self._past.asks_elsewhere.get(ask_key(row, body))
        asked_at = messages.instant(body["asked_at"])
        if asked_at is None:
            return
        ask = Ask(ask_id=known.popleft() if known else self._new_id("ask"), by=body["by"], at=asked_at)
        self._world.purchases.ask(row.purchase_id or "", ask)
        point = self._world.persons.points.get(row.contact_point_id or "")
        if point is not None:
            point.asks = (*point.asks, ask)
