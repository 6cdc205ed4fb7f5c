"""Doubt is shown to people, and ends when the provider was asked: by a person, or by the driver's own look-up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from support.channel import ACCEPTED, FAILED, IN_DOUBT, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, delivered_purchase, newsletter, order_update, review_request

from notifygate import Gateway, InvalidMessage, NotFound, Status
from notifygate.channels import HandOffOutcome, Inquiry
from notifygate.message import Result

REFUSED = HandOffOutcome(result=Result.FAILED, detail="unknown to the provider")


class Knowing(ScriptedChannel):
    """A channel whose provider can be asked; it says what `answer` returns."""

    looks_up = True

    def __init__(self, *script: HandOffOutcome, answer: Callable[[], HandOffOutcome | None]) -> None:
        super().__init__(*script)
        self.answer = answer
        self.asked: list[Inquiry] = []
        self.known: set[str] = set()
        """The ids of messages that it knows, whatever `answer` says of others."""

    def look_up(self, inquiry: Inquiry) -> HandOffOutcome | None:
        if inquiry.message_id in self.known:
            return ACCEPTED
        self.asked.append(inquiry)
        return self.answer()

    def accept_one(self, gate: Gateway) -> None:
        """Be handed a message, and know it from then on."""
        self.script.insert(0, ACCEPTED)
        message_id = gate.submit(order_update(text="One that arrives.")).message_id
        gate.drain()
        assert gate.status(message_id) is Status.SENT
        self.known.add(message_id)


def doubtful(gate: Gateway, **more: Any) -> str:
    """The id of a message that was handed over once, and is in doubt."""
    install(gate, ScriptedChannel(IN_DOUBT))
    message_id = gate.submit(order_update(**more)).message_id
    gate.drain()
    assert gate.status(message_id) is Status.IN_DOUBT
    return message_id


class TestTheList:
    def test_shows_what_is_in_doubt_with_its_last_attempt(self, gate: Gateway, clock: SimulatedClock) -> None:
        first = doubtful(gate)
        clock.advance(minutes=1)
        second = doubtful(gate, merchant="postdanmark", text="Other.")

        found = gate.doubt.list()
        assert [one.message_id for one in found] == [first, second]
        assert found[0].reserved_at == clock.ago(minutes=1)
        assert found[0].detail == "connection lost after end of data"
        assert (found[0].attempts, found[0].attempt_id) == (1, gate.explain(first).attempts[0].attempt_id)
        assert gate.doubt.count() == 2
        assert [one.message_id for one in gate.doubt.list(merchant="postdanmark")] == [second]
        assert [one.message_id for one in gate.doubt.list(since=clock.now)] == [second]
        assert [one.message_id for one in gate.doubt.list(limit=1)] == [first]
        assert gate.doubt.list(purpose="newsletter") == []

    def test_leaves_out_what_is_sent_again_by_itself(self, gate: Gateway) -> None:
        install(gate, ScriptedChannel(IN_DOUBT))
        gate.submit(order_update(purpose="login_code"))
        gate.drain()

        assert gate.doubt.list() == []

    def test_shows_a_login_code_that_was_tried_to_the_end_once(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gate = open_gate(delivery={"max_attempts": 2})
        install(gate, ScriptedChannel(IN_DOUBT, IN_DOUBT))
        message_id = gate.submit(order_update(purpose="login_code")).message_id
        for _ in range(3):
            gate.drain()
            clock.advance(hours=1)

        [found] = gate.doubt.list()
        assert (found.message_id, found.attempts) == (message_id, 2)
        assert found.attempt_id == gate.explain(message_id).attempts[-1].attempt_id
        gate.doubt.resolve(message_id, "sent", evidence="log")
        assert gate.doubt.list() == []
        assert gate.status(message_id) is Status.SENT


class TestResolving:
    def test_as_sent_ends_the_doubt_for_good(self, gate: Gateway, clock: SimulatedClock) -> None:
        message_id = doubtful(gate)
        gate.doubt.resolve(message_id, "sent", evidence="mail log, queue id 4Xk2Z", actor="jb")
        clock.advance(days=1)
        gate.drain()

        story = gate.explain(message_id)
        assert (story.status, story.reason) == (Status.SENT, "mail log, queue id 4Xk2Z")
        assert [attempt.state for attempt in story.attempts] == ["accepted"]
        assert story.attempts[0].detail == "connection lost after end of data; resolved by a person"
        [row] = [row for row in gate.log.of_message(message_id) if row.kind == "resolution"]
        assert (row.outcome, row.reason) == ("accepted", "sent")
        assert (row.body["by"], row.body["actor"]) == ("person", "jb")
        assert row.body["attempt_id"] == story.attempts[0].attempt_id

    def test_as_not_sent_is_a_failure_and_sends_nothing(self, gate: Gateway, clock: SimulatedClock) -> None:
        message_id = doubtful(gate)
        sent = install(gate, ScriptedChannel())
        gate.doubt.resolve(message_id, "not_sent", evidence="ticket 4711")
        clock.advance(days=1)
        gate.drain()

        assert gate.status(message_id) is Status.FAILED
        assert sent.taken == []

    def test_as_not_sent_can_send_again_after_a_fresh_decision(self, gate: Gateway) -> None:
        message_id = doubtful(gate)
        sent = install(gate, ScriptedChannel())
        gate.doubt.resolve(message_id, "not_sent", send_again=True, evidence="ticket 4711")
        assert gate.status(message_id) is Status.QUEUED
        gate.drain()

        story = gate.explain(message_id)
        assert story.status is Status.SENT
        assert len(story.decisions) == 2
        assert len(sent.taken) == 1

    def test_a_fresh_decision_may_deny(self, gate: Gateway) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        install(gate, ScriptedChannel(IN_DOUBT))
        message_id = gate.submit(newsletter()).message_id
        gate.drain()
        gate.consent.withdraw(ANNA_EMAIL)
        gate.doubt.resolve(message_id, "not_sent", send_again=True, evidence="ticket 4711")
        gate.drain()

        assert gate.status(message_id) is Status.DENIED

    @pytest.mark.parametrize(("verdict", "asked"), [("sent", "denied"), ("not_sent", "sent")])
    def test_gives_the_ask_back_only_where_it_was_not_sent(
        self, gate: Gateway, clock: SimulatedClock, verdict: str, asked: str
    ) -> None:
        purchase = delivered_purchase(clock.now)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
        install(gate, ScriptedChannel(IN_DOUBT))
        first = gate.submit(review_request(purchase)).message_id
        gate.drain()
        gate.doubt.resolve(first, verdict, evidence="the provider's log")
        second = gate.submit(review_request(purchase)).message_id
        gate.drain()

        assert gate.status(second) == asked

    def test_twice_is_refused(self, gate: Gateway) -> None:
        message_id = doubtful(gate)
        gate.doubt.resolve(message_id, "sent", evidence="log")
        with pytest.raises(NotFound, match="is sent, and not in doubt"):
            gate.doubt.resolve(message_id, "not_sent", evidence="log")
        with pytest.raises(NotFound, match="no message"):
            gate.doubt.resolve("msg_none", "not_sent", evidence="log")
        assert gate.status(message_id) is Status.SENT

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"verdict": "perhaps", "evidence": "x"}, "verdict"),
            ({"verdict": "sent", "evidence": " "}, "evidence"),
            ({"verdict": "sent", "evidence": "\ud800"}, "evidence"),
            ({"verdict": "sent", "evidence": "x", "actor": "a\x00b"}, "actor"),
            ({"verdict": "sent", "evidence": "x", "send_again": True}, "send_again"),
            ({"verdict": "sent", "evidence": "x", "actor": "jb@example.dk"}, "actor"),
            ({"verdict": "sent", "evidence": "x", "actor": "+45 20 12 34 56"}, "actor"),
        ],
    )
    def test_wants_a_verdict_and_evidence(
        self, gate: Gateway, arguments: dict[str, object], field: str
    ) -> None:
        message_id = doubtful(gate)
        with pytest.raises(InvalidMessage) as raised:
            gate.doubt.resolve(message_id, **arguments)  # type: ignore[arg-type]  # wrong on purpose
        assert raised.value.field == field
        assert gate.status(message_id) is Status.IN_DOUBT

    def test_by_two_at_once_is_done_by_one(self, gate: Gateway) -> None:
        message_id = doubtful(gate)
        done: list[str] = []

        def resolve(verdict: str) -> None:
            try:
                gate.doubt.resolve(message_id, verdict, evidence="log")
            except NotFound:
                return
            done.append(verdict)

        threads = [threading.Thread(target=resolve, args=[one]) for one in ("sent", "not_sent") * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(done) == 1
        assert gate.status(message_id) == {"sent": "sent", "not_sent": "failed"}[done[0]]


class TestALookUp:
    def test_that_finds_the_message_ends_the_doubt(self, gate: Gateway, clock: SimulatedClock) -> None:
        found = HandOffOutcome(result=Result.ACCEPTED, detail="found", provider_id="P1")
        driver = Knowing(IN_DOUBT, answer=lambda: found)
        install(gate, driver)
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        handed_over_at = clock.now
        clock.advance(seconds=29)
        gate.drain()
        assert driver.asked == []
        clock.advance(seconds=1)
        gate.drain()

        story = gate.explain(message_id)
        assert story.status is Status.SENT
        assert story.attempts[0].provider_id == "P1"
        [asked] = driver.asked
        assert (asked.message_id, asked.at) == (message_id, handed_over_at)
        assert asked.attempt_id == story.attempts[0].attempt_id
        [row] = [row for row in gate.log.of_message(message_id) if row.kind == "resolution"]
        assert row.body["by"] == "look_up"

    def test_that_finds_nothing_lets_it_be_decided_and_sent_again(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        driver = Knowing(IN_DOUBT, ACCEPTED, answer=lambda: REFUSED)
        install(gate, driver)
        driver.accept_one(gate)
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        clock.advance(seconds=30)
        gate.drain()

        assert gate.status(message_id) is Status.SENT
        assert [attempt.state for attempt in gate.explain(message_id).attempts] == ["failed", "accepted"]

    def test_that_finds_nothing_at_all_is_not_believed(
        self, gate: Gateway, clock: SimulatedClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """INVARIANT(no second send on a wrong no)."""
        driver = Knowing(IN_DOUBT, answer=lambda: REFUSED)
        install(gate, driver)
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        clock.advance(minutes=1)
        gate.drain()
        assert gate.status(message_id) is Status.IN_DOUBT, "nothing was ever accepted to compare with"

        driver.accept_one(gate)
        driver.known.clear()
        clock.advance(hours=1)
        gate.drain()
        assert gate.status(message_id) is Status.IN_DOUBT, "it does not know what it has"
        assert "look_up_not_believed" in caplog.text

    def test_that_finds_nothing_is_not_believed_of_a_process_that_may_only_be_frozen(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        """INVARIANT(no second send on a wrong no)."""

        def frozen(hand_off: object) -> HandOffOutcome:
            clock.advance(minutes=6)
            gate.drain()
            clock.advance(minutes=1)
            gate.drain()
            return ACCEPTED

        driver = Knowing(answer=lambda: REFUSED)
        install(gate, driver)
        driver.accept_one(gate)
        driver.script.append(frozen)
        message_id = gate.submit(order_update()).message_id
        gate.drain()

        assert gate.status(message_id) is Status.SENT
        assert [one.message_id for one in driver.taken].count(message_id) == 1

    def test_that_cannot_say_is_repeated_less_and_less_often(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        driver = Knowing(IN_DOUBT, answer=lambda: None)
        install(gate, driver)
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        times: list[datetime] = []
        for _ in range(7 * 24 * 6):
            clock.advance(minutes=10)
            before = len(driver.asked)
            gate._runtime.look_up()
            times += [clock.now] * (len(driver.asked) - before)
        waits = [later - earlier for earlier, later in pairwise(times)]

        assert gate.status(message_id) is Status.IN_DOUBT
        assert waits == sorted(waits)
        assert waits[-1] == timedelta(days=1)
        assert len(times) < 20

    @pytest.mark.parametrize("answer", ["raises", "in doubt", "rejected"])
    def test_that_goes_wrong_leaves_the_doubt(
        self, gate: Gateway, clock: SimulatedClock, answer: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def look_up() -> HandOffOutcome | None:
            if answer == "raises":
                raise RuntimeError("anna@example.dk")
            return IN_DOUBT if answer == "in doubt" else HandOffOutcome(result=Result.REJECTED)

        install(gate, Knowing(IN_DOUBT, answer=look_up))
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        clock.advance(hours=1)
        gate.drain()

        assert gate.status(message_id) is Status.IN_DOUBT
        assert "anna" not in caplog.text

    def test_is_made_about_what_a_dead_process_left(self, gate: Gateway, clock: SimulatedClock) -> None:
        class Killed(BaseException):
            pass

        class Dying(Knowing):
            def send(self, batch):  # type: ignore[no-untyped-def]  # as in the protocol
                self.taken.append(next(iter(batch)))
                raise Killed

        install(gate, Dying(answer=lambda: HandOffOutcome(result=Result.ACCEPTED)))
        message_id = gate.submit(order_update()).message_id
        with pytest.raises(Killed):
            gate.drain()
        clock.advance(minutes=6)
        gate.drain()
        assert gate.status(message_id) is Status.IN_DOUBT
        clock.advance(seconds=30)
        gate.drain()

        assert gate.status(message_id) is Status.SENT

    def test_is_not_made_by_a_driver_that_is_not_set_up_for_it(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        driver = Knowing(IN_DOUBT, answer=lambda: REFUSED)
        driver.looks_up = False
        install(gate, driver)
        gate.submit(order_update())
        gate.drain()
        clock.advance(days=1)
        gate.drain()

        assert driver.asked == []

    def test_about_one_attempt_does_not_end_the_doubt_of_the_next(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        def late() -> HandOffOutcome:
            """While the provider ponders, a person has it sent again, which is in doubt as well."""
            driver.script.append(IN_DOUBT)
            gate.doubt.resolve(message_id, "not_sent", send_again=True, evidence="ticket")
            gate._runtime.work([message_id])
            assert gate.status(message_id) is Status.IN_DOUBT
            return REFUSED

        driver = Knowing(IN_DOUBT, answer=late)
        install(gate, driver)
        driver.accept_one(gate)
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        clock.advance(seconds=30)
        gate._runtime.look_up()
        gate.drain()

        assert gate.status(message_id) is Status.IN_DOUBT
        assert [one.message_id for one in driver.taken].count(message_id) == 2

    def test_comes_too_late_where_a_person_has_said(self, gate: Gateway, clock: SimulatedClock) -> None:
        def meanwhile() -> HandOffOutcome:
            gate.doubt.resolve(message_id, "sent", evidence="log")
            return FAILED

        install(gate, Knowing(IN_DOUBT, answer=meanwhile))
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        clock.advance(minutes=1)
        gate.drain()

        assert gate.status(message_id) is Status.SENT


def test_a_doubt_is_found_whatever_the_clocks_of_its_attempts(gate: Gateway, clock: SimulatedClock) -> None:
    clock.advance(minutes=9)
    message_id = doubtful(gate)
    clock.advance(minutes=-9)
    gate.doubt.resolve(message_id, "not_sent", send_again=True, evidence="ticket")
    install(gate, ScriptedChannel(IN_DOUBT))
    gate._runtime.work([message_id])
    clock.advance(minutes=10)
    gate.drain()

    assert [one.message_id for one in gate.doubt.list()] == [message_id]
    gate.doubt.resolve(message_id, "sent", evidence="log")
    assert gate.doubt.count() == 0


def test_a_login_code_in_doubt_for_good_still_hears_of_its_late_success(
    open_gate: OpenGate, clock: SimulatedClock
) -> None:
    gate = open_gate(delivery={"max_attempts": 1})

    def slow(hand_off: object) -> HandOffOutcome:
        clock.advance(minutes=6)
        gate.drain()
        return ACCEPTED

    install(gate, ScriptedChannel(slow))
    message_id = gate.submit(order_update(purpose="login_code")).message_id
    gate.drain()

    assert gate.status(message_id) is Status.SENT


def test_evidence_stays_out_of_the_send_log(gate: Gateway) -> None:
    message_id = doubtful(gate)
    gate.doubt.resolve(message_id, "sent", evidence="Anna says so: anna@example.dk")

    [row] = [row for row in gate.log.of_message(message_id) if row.kind == "resolution"]
    assert "anna" not in str(row.to_json()).lower()
    assert row.body["evidence_fingerprint"]


def test_what_the_slow_process_heard_in_the_end_does_not_undo_what_a_person_said(
    gate: Gateway, clock: SimulatedClock
) -> None:
    def slow(hand_off: object) -> HandOffOutcome:
        clock.advance(minutes=6)
        gate.drain()
        gate.doubt.resolve(message_id, "sent", evidence="log")
        return FAILED

    sent = install(gate, ScriptedChannel(slow))
    message_id = gate.submit(order_update()).message_id
    gate.drain()
    clock.advance(days=1)
    gate.drain()

    assert gate.status(message_id) is Status.SENT
    assert len(sent.taken) == 1
