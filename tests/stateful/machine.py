"""The machine: everything that may happen to a gateway, one step at a time, with the model looking on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from stateful.model import Answer, Ask, Attempt, Decision, Permission, Refusal, Wanted
from stateful.world import (
    ANNA,
    ANSWERS,
    ASKERS,
    BO,
    DELIVERED,
    POINTS,
    PURCHASES,
    Crash,
    Jobs,
    Provider,
    Told,
    World,
    model_at_the_start,
)
from support.clock import SimulatedClock

from notifygate import (
    Email,
    Gateway,
    IdempotencyConflict,
    Message,
    NotCancellable,
    NotFound,
    Purchase,
    Sms,
    Status,
)
from notifygate.channels import HandOff, Inquiry
from notifygate.failpoints import FailPoint, armed
from notifygate.ledger.schema import from_micros

_MANY = st.integers(0, 30)
_ROUNDS_UNTIL_QUIET = 80


@dataclass(frozen=True)
class Submit:
    """A message to be submitted; the machine gives it its tag."""

    purpose: str
    merchant: str
    point: str
    text: int
    purchase: tuple[str, str]
    key: int | None
    waits: timedelta | None
    lasts: timedelta | None


@dataclass(frozen=True)
class Event:
    """Something that somebody does; each `what` takes of the rest what it needs."""

    what: str
    points: tuple[str, str]
    purchase: tuple[str, str]
    party: str
    purpose: str
    days_ago: int
    number: int


@dataclass(frozen=True)
class Work:
    """Take a job off the queue and do it; with `again`, it is on the queue after that as well."""

    job: int
    again: bool


@dataclass(frozen=True)
class Drain:
    limit: int | None


@dataclass(frozen=True)
class Sweep:
    pass


@dataclass(frozen=True)
class Resolve:
    """Find out the truth about a message in doubt, and record it."""

    doubt: int
    send_again: bool


Action = Submit | Work | Drain | Sweep | Resolve

_MERCHANTS_OF = {
    "order_update": ("cykelpartner", "postdanmark"),
    "login_code": ("cykelpartner",),
    "newsletter": ("cykelpartner", "florist"),
    "review_request": ASKERS,
}
_HOUR, _DAYS = timedelta(hours=1), timedelta(days=4)
_TIMES = ((None, None),) * 7 + ((_HOUR, None), (None, _HOUR), (_HOUR, _DAYS), (_DAYS, None))
# Some more often than others, so that what happens has to do with what happened before.
_OFTEN = (*POINTS, ANNA, ANNA, BO)
_FORWARD = (1, 6, 6, 25 * 60, 25 * 60, 8 * 1_440, 33 * 1_440)  # minutes
_BACK = (1, 40, 3_700, 30_000)  # seconds
_NAMES = (*PURCHASES, ("postdanmark", "P2"))


@st.composite
def _submissions(draw: st.DrawFn) -> Submit:
    purpose = draw(
        st.sampled_from(
            ("review_request", "review_request", "newsletter", "newsletter", "order_update", "login_code")
        )
    )
    waits, lasts = draw(st.sampled_from(_TIMES))
    return Submit(
        purpose=purpose,
        merchant=draw(st.sampled_from(_MERCHANTS_OF[purpose])),
        point=draw(st.sampled_from(_OFTEN)),
        text=draw(st.integers(0, 1)),
        purchase=draw(st.sampled_from(PURCHASES)),
        key=draw(st.sampled_from((None, None, None, 1, 2))),
        waits=waits,
        lasts=lasts,
    )


SUBMISSIONS = _submissions()


@st.composite
def _alike(draw: st.DrawFn) -> list[Submit]:
    """A message and one to three others for the same purpose, each of which differs from it in one thing or two."""
    first = draw(SUBMISSIONS)
    batch = [replace(first, waits=None, lasts=None, key=None)]
    for name in draw(st.lists(st.sampled_from(("point", "purchase", "merchant", "text")), max_size=3)):
        other = draw(SUBMISSIONS)
        if name != "merchant" or other.purpose == first.purpose:
            batch.append(replace(batch[0], **{name: getattr(other, name)}))
    return [*batch, batch[0]]


ALIKE = _alike()
WORK = st.builds(Work, _MANY, st.booleans())
DRAIN = st.builds(Drain, st.sampled_from((None, 1, 2)))
SWEEP = st.just(Sweep())
RESOLVE = st.builds(Resolve, _MANY, st.booleans())

_WORKING = (
    FailPoint.DECIDE_CLAIMED,
    FailPoint.DECIDE_WRITTEN,
    FailPoint.DECIDE_COMMITTED,
    FailPoint.HAND_OFF_STARTED,
    FailPoint.HAND_OFF_ANSWERED,
    FailPoint.RECORD_WRITTEN,
    FailPoint.RECORD_COMMITTED,
)
_SUBMITTING = (FailPoint.SUBMIT_INSERTED, FailPoint.SUBMIT_COMMITTED, FailPoint.SUBMIT_QUEUED)
_SWEEPING = (FailPoint.SWEEP_CLAIMED, FailPoint.SWEEP_QUEUED)
_IN_A_TRANSACTION = {
    FailPoint.SUBMIT_INSERTED,
    FailPoint.DECIDE_CLAIMED,
    FailPoint.DECIDE_WRITTEN,
    FailPoint.RECORD_WRITTEN,
    FailPoint.LEASES_EXPIRED,
    FailPoint.DOUBT_RESOLVED,
}
FAULTS: st.SearchStrategy[tuple[Action, FailPoint]] = st.one_of(
    st.tuples(DRAIN | WORK, st.sampled_from(_WORKING)),
    st.tuples(SUBMISSIONS, st.sampled_from(_SUBMITTING)),
    st.tuples(SWEEP, st.sampled_from(_SWEEPING)),
    st.tuples(SWEEP | DRAIN, st.just(FailPoint.LEASES_EXPIRED)),
    st.tuples(RESOLVE, st.just(FailPoint.DOUBT_RESOLVED)),
)
INTERRUPTIONS = FAULTS.filter(lambda pair: pair[1] not in _IN_A_TRANSACTION)


def _events(*what: str) -> st.SearchStrategy[Event]:
    return st.builds(
        Event,
        st.sampled_from(what),
        st.tuples(st.sampled_from(_OFTEN), st.sampled_from(_OFTEN)),
        st.sampled_from(PURCHASES),
        st.sampled_from(("*", "*", "cykelpartner", "florist", "interflora")),
        st.sampled_from(("*", "*", "marketing", "review", "newsletter", "review_request")),
        st.sampled_from((0, 0, 0, 5, 40)),
        _MANY,
    )


_DEEDS = (
    "grant",
    "grant",
    "refuse",
    "refuse",
    "link",
    "link",
    "link",
    "unlink",
    "suppress or lift",
    "alias",
    "alias",
    "ask elsewhere",
    "review",
    "cancel",
    "config is taken up anew",
    "provider can be asked, or not",
)
EVENTS = _events(*_DEEDS)
INTERRUPTING = _events("drain", "same job", "sweep") | _events("lease runs out") | EVENTS
CLOCKS = _events("time passes", "clock is set back")
MOODS = st.lists(st.sampled_from(ANSWERS), max_size=3)
SELDOM = st.sampled_from((False, False, False, True))


class GatewayMachine(RuleBasedStateMachine):
    """One ledger, gateways that come and go, a provider with moods, and time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.begin_anew()
        self.clock = SimulatedClock()
        self.model = model_at_the_start()
        self.provider = Provider(self._taken, self._has)
        self.jobs = Jobs()
        self.gates = [self._opened(), self._opened()]
        self.requests: list[tuple[Message, Wanted]] = []
        self.fault: Exception | None = None
        self.links: list[tuple[str, str]] = []
        self._read_to = 0
        self._set_back_s = 0
        self._job_in_hand: list[str] = []

    # What applications do.

    @rule(batch=st.lists(SUBMISSIONS, min_size=1, max_size=4), queue_is_down=SELDOM)
    def submit(self, batch: list[Submit], queue_is_down: bool) -> None:
        self.jobs.is_down = queue_is_down
        try:
            for wanted in batch:
                self._submit(wanted)
        finally:
            self._mend_the_queue()

    @rule(wanted=SUBMISSIONS, commits=st.booleans())
    def submit_in_the_callers_transaction(self, wanted: Submit, commits: bool) -> None:
        message, told = self._request(wanted)
        earlier = self._with_the_same_key(told)
        with self.world.application.connect() as conn:
            try:
                receipt = self.gates[0].submit(message, connection=conn)
            except IdempotencyConflict:
                self._expect_conflict(told, earlier)
                return
            if commits:
                conn.commit()
        if earlier is None and not commits:
            told.exists = False
            with suppress(NotFound):
                self.gates[0].status(receipt.message_id)
                raise AssertionError("a message of a transaction that was rolled back exists")
            return
        self._receive(told, earlier, receipt.message_id, duplicate=receipt.duplicate)

    @rule(indices=st.lists(_MANY, min_size=1, max_size=3))
    def submit_the_same_again(self, indices: list[int]) -> None:
        for index in indices:
            if self.requests:
                message, first = self.requests[index % len(self.requests)]
                copied = replace(first, message_id=None, exists=None, is_cancelled=False, is_denied=False)
                self.model.wanted.append(copied)
                self._hand_in(self.gates[0], message, copied)

    @rule(
        events=st.lists(EVENTS, min_size=1, max_size=3),
        batch=st.lists(SUBMISSIONS, max_size=2),
        drain=st.none() | DRAIN,
    )
    def people_act(self, events: list[Event], batch: list[Submit], drain: Drain | None) -> None:
        for event in events:
            self._happen(self.gates[0], event)
        for wanted in batch:
            self._submit(wanted)
        if drain is not None:
            self._do(drain)

    @rule(
        batch=ALIKE,
        events=st.lists(EVENTS | CLOCKS, min_size=1, max_size=3),
        script=MOODS,
    )
    def something_comes_in_between(self, batch: list[Submit], events: list[Event], script: list[str]) -> None:
        """One message is sent, and then something happens that may keep others like it from being sent."""
        first, *others = batch
        self.provider.script = script.copy()
        self._submit(first)
        self._do(Drain(None))
        for event in events:
            self._happen(self.gates[0], _about(first, event))
        for wanted in others:
            self._submit(wanted)
            self._do(Drain(None))

    # What workers do, and what befalls them.

    @rule(work=st.lists(WORK, min_size=1, max_size=3))
    def work(self, work: list[Work]) -> None:
        for one in work:
            self._do(one)

    @rule(drain=DRAIN)
    def drain(self, drain: Drain) -> None:
        self._do(drain)

    @rule(wipe=st.booleans(), work=st.lists(WORK, max_size=3))
    def sweep(self, wipe: bool, work: list[Work]) -> None:
        """Put on the queue what is due, perhaps after all of it was lost, and do some jobs."""
        if wipe:
            self.jobs.waiting.clear()
        self._do(Sweep())
        for one in work:
            self._do(one)

    @rule(resolve=RESOLVE)
    def resolve(self, resolve: Resolve) -> None:
        self._do(resolve)

    @rule(
        script=MOODS,
        batch=st.lists(SUBMISSIONS, max_size=2),
        drain=DRAIN,
    )
    def the_provider_is_moody(self, script: list[str], batch: list[Submit], drain: Drain) -> None:
        self.provider.script = script.copy()
        for wanted in batch:
            self._submit(wanted)
        self._do(drain)

    @rule(batch=st.lists(SUBMISSIONS, max_size=3), fault=FAULTS, at=st.integers(1, 2), wipe=st.booleans())
    def crash(self, batch: list[Submit], fault: tuple[Action, FailPoint], at: int, wipe: bool) -> None:
        """Stop the process at a point, and start another. The queue may be lost with it."""
        for wanted in batch:
            self._submit(wanted)
        action, point = fault

        def stop() -> None:
            raise Crash

        with armed(point, stop, at=at):
            self._do(action)
        if wipe:
            self.jobs.waiting.clear()

    @rule(batch=st.lists(SUBMISSIONS, max_size=3), interruption=INTERRUPTIONS, event=INTERRUPTING)
    def meanwhile(self, batch: list[Submit], interruption: tuple[Action, FailPoint], event: Event) -> None:
        """Let something else happen, in another process, in the middle of what one is about."""
        for wanted in batch:
            self._submit(wanted)
        action, where = interruption
        if event.what == "lease runs out" and where is FailPoint.HAND_OFF_STARTED:
            return  # between looking at the clock and calling the provider nothing can be done about it

        def happen() -> None:
            with self._noting_faults():
                self._happen(self.gates[1], event)
                self._look()

        with armed(where, happen):
            self._do(action)

    @rule(
        batch=st.lists(SUBMISSIONS, min_size=1, max_size=3),
        where=st.sampled_from((FailPoint.DECIDE_COMMITTED, FailPoint.HAND_OFF_ANSWERED)),
        script=MOODS,
    )
    def the_process_freezes(self, batch: list[Submit], where: FailPoint, script: list[str]) -> None:
        """By the time that it goes on, its lease has run out and another has taken over."""
        for wanted in batch:
            self._submit(wanted)
        self.provider.script = script.copy()
        with armed(where, self._take_over):
            self._do(Drain(None))

    @rule(event=CLOCKS)
    def clocks_move(self, event: Event) -> None:
        self._happen(self.gates[0], event)

    # What is looked at.

    @invariant()
    def nothing_was_done_that_must_not_be(self) -> None:
        self._look()

    def teardown(self) -> None:
        try:
            if self.fault is None:
                self._let_everything_end()
        finally:
            for gate in self.gates:
                gate._runtime.close()
            self.world.disconnect()

    # Doing.

    def _do(self, action: Action) -> None:
        """Do something on the first gateway; where its process ends in the middle, open another."""
        gate = self.gates[0]
        try:
            match action:
                case Submit():
                    self._submit(action)
                case Work():
                    self._work(gate, action)
                case Drain():
                    gate.drain(action.limit)
                case Sweep():
                    gate._runtime.scheduler.sweep()
                case Resolve():
                    self._resolve(gate, action)
        except Crash:
            self.world.disconnect()
            self.gates[0] = self._opened()

    def _work(self, gate: Gateway, work: Work) -> None:
        if not self.jobs.waiting:
            return
        job = self.jobs.waiting.pop(work.job % len(self.jobs.waiting))
        if work.again:
            self.jobs.waiting.append(job)
        self._job_in_hand = job
        gate._runtime.work(job)

    def _resolve(self, gate: Gateway, resolve: Resolve) -> None:
        doubts = gate.doubt.list()
        if not doubts:
            return
        doubt = doubts[resolve.doubt % len(doubts)]
        attempt = self.model.attempts[doubt.attempt_id]
        if attempt.arrived:
            gate.doubt.resolve(doubt.message_id, "sent", evidence="ticket 1")
            return
        # Told beforehand: in a crash one cannot know whether it was recorded, but the truth stays the truth.
        attempt.found_not_sent = True
        gate.doubt.resolve(doubt.message_id, "not_sent", evidence="ticket 1", send_again=resolve.send_again)

    def _happen(self, gate: Gateway, event: Event) -> None:
        self._look()  # what was decided before is judged by what was so before
        a, b = event.points
        match event.what:
            case "drain":
                gate.drain()
            case "same job":
                gate._runtime.work(self._job_in_hand)
            case "sweep":
                gate._runtime.scheduler.sweep()
            case "lease runs out":
                self._let_a_lease_run_out(gate)
            case "time passes":
                self.clock.advance(minutes=_FORWARD[event.number % len(_FORWARD)])
            case "clock is set back":
                seconds = _BACK[event.number % len(_BACK)]
                self.clock.advance(seconds=-seconds)
                self._set_back_s += seconds
            case "provider can be asked, or not":
                self.provider.looks_up = not self.provider.looks_up
            case "config is taken up anew":
                self.world.reload(gate, self.provider)
            case "grant":
                self._grant(gate, event)
            case "refuse":
                self._refuse(gate, event)
            case "link":
                gate.people.link(a, b, evidence="one order form")
                self.model.link(a, b)
                self.links.append((a, b))
            case "unlink":
                self._unlink(gate, *self._linked(event))
            case "suppress or lift":
                self._suppress_or_lift(gate, a)
            case "alias":
                one, other = event.purchase, _NAMES[event.number % len(_NAMES)]
                if event.party == "*":
                    one, other = other, one
                gate.purchases.alias(_purchase(one), *other)
                self.model.alias(one, other)
            case "ask elsewhere":
                self._record_ask(gate, event)
            case "review":
                gate.purchases.record_review(_purchase(event.purchase), self.clock.now)
                self.model.reviewed.add(event.purchase)
            case "cancel":
                self._cancel(gate, event.number)

    def _take_over(self) -> None:
        with self._noting_faults():
            self._look()
            self._let_a_lease_run_out(self.gates[1])
            self._look()

    def _let_a_lease_run_out(self, gate: Gateway) -> None:
        self.clock.advance(minutes=6)
        gate._runtime.scheduler.sweep()
        self.clock.advance(minutes=1)
        gate.drain()

    def _submit(self, wanted: Submit) -> None:
        message, told = self._request(wanted)
        self._hand_in(self.gates[0], message, told)

    def _hand_in(self, gate: Gateway, message: Message, told: Wanted) -> None:
        earlier = self._with_the_same_key(told)
        try:
            receipt = gate.submit(message)
        except IdempotencyConflict:
            self._expect_conflict(told, earlier)
            return
        except Crash:
            self._find_out_whether_it_exists(told, earlier)
            raise
        self._receive(told, earlier, receipt.message_id, duplicate=receipt.duplicate)

    def _receive(self, told: Wanted, earlier: Wanted | None, message_id: str, *, duplicate: bool) -> None:
        assert duplicate == (earlier is not None), "duplicates are those whose key is known, and no others"
        if earlier is not None:
            told.exists = False
            assert message_id == earlier.message_id, "a known key gives the first message again"
            return
        told.exists = True
        assert told.message_id in (None, message_id)
        told.message_id = message_id

    def _find_out_whether_it_exists(self, told: Wanted, earlier: Wanted | None) -> None:
        found = self._message_ids().get(told.tag)
        told.exists = found is not None
        told.message_id = found
        assert not (earlier and found), "a known key made a second message"

    def _expect_conflict(self, told: Wanted, earlier: Wanted | None) -> None:
        told.exists = False
        assert earlier is not None, "a conflict with nothing"
        assert _request_of(earlier) != _request_of(told), "the same request again is no conflict"

    def _request(self, wanted: Submit) -> tuple[Message, Wanted]:
        now = self.clock.now
        about = wanted.purchase if wanted.purpose == "review_request" else None
        told = Wanted(
            tag=len(self.model.wanted),
            merchant=wanted.merchant,
            purpose=wanted.purpose,
            point=wanted.point,
            text=f"Text {wanted.text}",
            purchase=about,
            send_after=now + wanted.waits if wanted.waits else None,
            expires_at=now + wanted.lasts if wanted.lasts else None,
            key=None if wanted.key is None else f"key {wanted.key}",
        )
        self.model.wanted.append(told)
        message = _message(told)
        self.requests.append((message, told))
        return message, told

    def _with_the_same_key(self, told: Wanted) -> Wanted | None:
        if told.key is None:
            return None
        same = (
            one
            for one in self.model.wanted
            if one is not told and one.exists and (one.merchant, one.key) == (told.merchant, told.key)
        )
        return next(same, None)

    def _grant(self, gate: Gateway, event: Event) -> None:
        point, purpose, at = event.points[0], event.purpose, self.clock.ago(days=event.days_ago)
        party = event.party if event.party != "*" else "cykelpartner"
        soft = event.number % 2 == 0 and party != "interflora"
        if purpose not in ("newsletter", "review_request"):
            purpose = "review_request"
        if soft:
            gate.consent.soft_opt_in(
                point, party=party, purpose=purpose, sale_ref="1001", opt_out_offered=True, occurred_at=at
            )
        else:
            gate.consent.grant(point, party=party, purpose=purpose, occurred_at=at)
        self.model.permissions.append(Permission(point=point, party=party, purpose=purpose, at=at, soft=soft))

    def _refuse(self, gate: Gateway, event: Event) -> None:
        point, at = event.points[0], self.clock.ago(days=event.days_ago)
        channel = ("*", "*", "email", "sms")[event.number % 4]
        say = gate.consent.object if event.number % 2 else gate.consent.withdraw
        say(point, party=event.party, channel=channel, purpose=event.purpose, occurred_at=at)
        self.model.refusals.append(
            Refusal(points={point}, party=event.party, channel=channel, purpose=event.purpose, at=at)
        )

    def _linked(self, event: Event) -> tuple[str, str]:
        """Two contact points that were linked, or where none are, any two."""
        pairs = [pair for pair in self.links if self.model.is_linked(*pair)]
        return pairs[event.number % len(pairs)] if pairs else event.points

    def _unlink(self, gate: Gateway, a: str, b: str) -> None:
        if self.model.mailbox_of[a] == self.model.mailbox_of[b]:
            return  # variants of one address always belong together
        if self.model.is_linked(a, b):
            gate.people.unlink(a, b)
            self.model.unlink(a, b)
            return
        with suppress(NotFound):
            gate.people.unlink(a, b)
            raise AssertionError("what was never linked was unlinked")

    def _suppress_or_lift(self, gate: Gateway, point: str) -> None:
        if point in self.model.suppressed:
            gate.suppressions.remove(point, "manual")
            self.model.suppressed.remove(point)
        else:
            gate.suppressions.add(point, "manual")
            self.model.suppressed.add(point)

    def _record_ask(self, gate: Gateway, event: Event) -> None:
        at, by = self.clock.ago(days=event.days_ago), ("trustpilot", "florist")[event.number % 2]
        point = event.points[0] if event.number % 3 else None
        gate.purchases.record_ask(_purchase(event.purchase), by, at, contact_point=point)
        self.model.asked_elsewhere.append(Ask(purchase=event.purchase, by=by, at=at, point=point))

    def _cancel(self, gate: Gateway, index: int) -> None:
        known = [wanted for wanted in self.model.wanted if wanted.message_id]
        if not known:
            return
        wanted = known[index % len(known)]
        with suppress(NotCancellable):
            gate.cancel(wanted.message_id or "")
            wanted.is_cancelled = True

    def _opened(self) -> Gateway:
        return self.world.open(self.clock, self.provider, self.jobs)

    def _mend_the_queue(self) -> None:
        self.jobs.is_down = False
        for gate in self.gates:
            gate._runtime.queue._left_alone_until = 0.0  # it would wait for seconds of real time

    # Looking.

    def _taken(self, hand_off: HandOff) -> Told:
        attempt: Attempt | None = None
        with self._noting_faults():
            self._observe()
            attempt = self.model.taken(hand_off.attempt_id, hand_off.message_id)

        def told(*, arrived: bool, answer: Answer) -> None:
            if attempt is not None:
                attempt.arrived, attempt.answer = arrived, answer

        return told

    def _has(self, inquiry: Inquiry) -> bool:
        attempt = self.model.attempts[inquiry.attempt_id]
        attempt.found_not_sent = not attempt.arrived
        return attempt.arrived

    @contextmanager
    def _noting_faults(self) -> Iterator[None]:
        """The gateway takes what a driver raises for the driver's bug: keep it until the step is over."""
        try:
            yield
        except Exception as fault:  # noqa: BLE001  # whatever it is, it is a fault of the test's own or found by it
            self.fault = self.fault or fault

    def _look(self) -> None:
        if self.fault is not None:
            raise self.fault
        self._observe()

    def _observe(self) -> None:
        """Tell the model what has been committed since the last look."""
        with self.world.observer.connect() as conn:
            decisions = conn.execute(
                sa.text(
                    "SELECT position, message_id, at, outcome, body FROM ledger"
                    " WHERE kind = 'decision' AND position > :read_to ORDER BY position"
                ),
                {"read_to": self._read_to},
            ).all()
            states = conn.execute(sa.text("SELECT attempt_id, state FROM reservations")).all()
        # The states first: what was let go in this step makes room for what was decided later in it.
        for attempt_id, state in states:
            if attempt_id in self.model.attempts:
                self.model.found(self.model.attempts[attempt_id], state)
        for position, message_id, at, outcome, body in decisions:
            self._read_to = position
            decision = _decision(from_micros(at), outcome, json.loads(body))
            self.model.decided(self._wanted(message_id), decision)
        for attempt_id, state in states:
            assert attempt_id in self.model.attempts, "a reservation without a decision"
            self.model.attempts[attempt_id].state = state

    def _wanted(self, message_id: str) -> Wanted:
        for wanted in self.model.wanted:
            if wanted.message_id == message_id:
                return wanted
        tags = {found: tag for tag, found in self._message_ids().items()}
        wanted = next(one for one in self.model.wanted if one.tag == tags[message_id] and not one.message_id)
        wanted.message_id = message_id
        return wanted

    def _message_ids(self) -> dict[int, str]:
        """The newest message of each tag."""
        with self.world.observer.connect() as conn:
            rows = conn.execute(sa.text("SELECT message_id, metadata FROM messages ORDER BY message_id"))
            return {json.loads(metadata)["tag"]: message_id for message_id, metadata in rows}

    # The end.

    def _let_everything_end(self) -> None:
        """No more faults, and an empty queue: let time pass, and sweep, until nothing waits; then judge it all."""
        self.provider.script.clear()
        self.jobs.waiting.clear()
        # What was put on the queue and lost before the clock was set back is put there again when that is made up for.
        self.clock.advance(seconds=self._set_back_s)
        gate = self._opened()
        self.gates.append(gate)
        for _ in range(_ROUNDS_UNTIL_QUIET):
            self.clock.advance(minutes=6)
            gate._runtime.scheduler.sweep()
            while self.jobs.waiting:
                gate._runtime.work(self.jobs.waiting.pop(0))
            self._look()
            next_at = self._next_event()
            if next_at is None:
                break
            self.clock.set(max(self.clock.now, next_at))
        self._judge_the_end(gate)

    def _next_event(self) -> datetime | None:
        """When something falls due or a lease runs out."""
        with self.world.observer.connect() as conn:
            found = conn.execute(
                sa.text(
                    "SELECT min(due) FROM ("
                    " SELECT due_at AS due FROM messages WHERE status IN ('queued', 'deferred')"
                    " UNION ALL SELECT lease_until AS due FROM reservations WHERE state = 'held'"
                    ") AS waiting"
                )
            ).scalar()
        return None if found is None else from_micros(int(found))

    def _judge_the_end(self, gate: Gateway) -> None:
        with self.world.observer.connect() as conn:
            rows = conn.execute(sa.text("SELECT message_id, status FROM messages"))
            statuses = {str(message_id): str(status) for message_id, status in rows}
            logged = conn.execute(
                sa.text("SELECT kind, body FROM ledger WHERE kind IN ('decision', 'attempt')")
            ).all()
        existing = {wanted.message_id or "": wanted for wanted in self.model.wanted if wanted.exists}
        assert statuses.keys() == existing.keys(), "the ledger has other messages than were submitted"
        for message_id, wanted in existing.items():
            self.model.ended(wanted, statuses[message_id])
        named = {
            kind: {json.loads(body).get("attempt_id") for found, body in logged if found == kind}
            for kind in ("decision", "attempt")
        }
        for attempt_id in self.model.attempts:
            assert attempt_id in named["decision"], "an attempt that no decision names"
            assert attempt_id in named["attempt"], "an attempt that ended and is not in the send log"
        self._judge_the_constraints()
        gate.proofs.checkpoint()
        proof = gate.proofs.verify()
        assert proof.is_intact, proof.problems
        assert proof.unsealed == 0, "a row of the send log that nobody seals"
        in_doubt = {message_id for message_id, status in statuses.items() if status == "in_doubt"}
        assert {doubt.message_id for doubt in gate.doubt.list()} == in_doubt, "a doubt that is not shown"
        for message_id in in_doubt:
            assert gate.status(message_id) is Status.IN_DOUBT

    def _judge_the_constraints(self) -> None:
        """No code stands between a second reservation, ask or request and the ledger but the database itself."""
        for table, (other, condition) in _COPIES.items():
            with self.world.application.connect() as conn:
                columns = [column["name"] for column in sa.inspect(conn).get_columns(table)]
                copied = ", ".join(other.get(name, f'"{name}"') for name in columns)
                names = ", ".join(f'"{name}"' for name in columns)
                source = f"SELECT {copied} FROM {table} {condition} LIMIT 1"
                if not conn.execute(sa.text(source)).all():
                    continue
                with suppress(sa.exc.IntegrityError):
                    conn.execute(sa.text(f"INSERT INTO {table} ({names}) {source}"))
                    raise AssertionError(f"the database takes a second row in {table}")


def _about(first: Submit, event: Event) -> Event:
    """The event, so that it has to do with a message."""
    touching = replace(event, points=(first.point, event.points[1]), purchase=first.purchase)
    if event.what == "grant":
        return replace(touching, party=first.merchant, purpose=first.purpose)
    return touching


_COPIES = {
    "reservations": ({"attempt_id": "'another'"}, "WHERE blocks"),
    "asks": ({"ask_id": "'another'", "attempt_id": "NULL"}, ""),
    "messages": ({"message_id": "'another'"}, "WHERE idempotency_key IS NOT NULL"),
}


def _decision(at: datetime, outcome: str, body: dict[str, Any]) -> Decision:
    consent = [finding["outcome"] for finding in body["findings"] if finding["rule"] == "consent"]
    return Decision(
        outcome=outcome,
        at=at,
        attempt_id=body["attempt_id"],
        consent_allows=consent == ["allow"],
        reasons=tuple(body["reasons"]),
    )


def _message(told: Wanted) -> Message:
    channel, _, address = told.point.partition(":")
    content = Email(address, "A subject", text=told.text) if channel == "email" else Sms(address, told.text)
    return Message(
        merchant=told.merchant,
        purpose=told.purpose,
        content=content,
        purchase=_purchase(told.purchase) if told.purchase else None,
        idempotency_key=told.key,
        send_after=told.send_after,
        expires_at=told.expires_at,
        metadata={"tag": told.tag},
    )


def _request_of(told: Wanted) -> tuple[object, ...]:
    return (told.merchant, told.purpose, told.point, told.text, told.purchase)


def _purchase(name: tuple[str, str]) -> Purchase:
    return Purchase(*name, delivered_at=DELIVERED.get(name))
