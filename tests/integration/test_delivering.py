"""DESIGN.md sections 7.3 and 7.4: what becomes of a message after each outcome of a hand-off."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from support.channel import ACCEPTED, FAILED, IN_DOUBT, REJECTED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.config import driver
from support.fixtures import OpenGate
from support.messages import order_update
from support.sinks import MailSink, SmsSink

from notifygate import Gateway, Message, Sms, Status
from notifygate.channels import HandOff, HandOffOutcome
from notifygate.message import Result

LEASE = timedelta(minutes=5)


class Killed(BaseException):
    """Stands for the end of the process: no code of ours may catch it."""


def login_code(text: str = "Your code is 1234.") -> Message:
    """A message of the one purpose in the config that is sent again where in doubt."""
    return order_update(purpose="login_code", text=text)


def to_each(count: int) -> list[Message]:
    return [order_update(to=f"person{number}@example.dk") for number in range(count)]


def submit_all(gate: Gateway, messages: list[Message]) -> list[str]:
    return [receipt.message_id for receipt in gate.submit_many(messages)]


def statuses(gate: Gateway, message_ids: list[str]) -> list[Status]:
    return [gate.status(message_id) for message_id in message_ids]


def attempts(gate: Gateway, message_id: str) -> list[str]:
    return [attempt.state for attempt in gate.explain(message_id).attempts]


def die(hand_off: HandOff) -> HandOffOutcome:
    raise Killed


class TestATemporaryFailure:
    def test_is_tried_again_after_longer_and_longer_waits(self, gate: Gateway, clock: SimulatedClock) -> None:
        install(gate, ScriptedChannel(FAILED, FAILED, FAILED))
        message_id = gate.submit(order_update()).message_id

        for wait_s in (30, 60, 120):
            failed_at = clock.now
            assert gate.drain() == 1
            assert gate.explain(message_id).reason == "smtp 451"
            due = gate.next_due()
            assert due is not None
            assert timedelta(seconds=wait_s) <= due - failed_at <= timedelta(seconds=wait_s * 1.2)
            clock.set(due - timedelta(microseconds=1))
            assert gate.drain() == 0
            clock.set(due)
        gate.drain()

        assert gate.status(message_id) is Status.SENT
        assert gate.explain(message_id).reason is None
        assert attempts(gate, message_id) == ["failed", "failed", "failed", "accepted"]

    def test_never_waits_longer_than_the_config_says(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gate = open_gate(delivery={"retry_after": "30s", "retry_at_most": "60s"})
        install(gate, ScriptedChannel(*[FAILED] * 6))
        gate.submit(order_update())

        for _ in range(6):
            gate.drain()
            due = gate.next_due()
            assert due is not None
            assert due - clock.now <= timedelta(seconds=60)
            clock.set(due)

    def test_waits_as_long_as_the_provider_asks(self, gate: Gateway, clock: SimulatedClock) -> None:
        busy = HandOffOutcome(result=Result.FAILED, detail="http 429", retry_after=timedelta(minutes=20))
        install(gate, ScriptedChannel(busy))
        gate.submit(order_update())
        gate.drain()

        assert gate.next_due() == clock.now + timedelta(minutes=20)

    def test_ends_in_failure_after_so_many_attempts(self, open_gate: OpenGate, clock: SimulatedClock) -> None:
        gate = open_gate(delivery={"max_attempts": 3})
        sent = install(gate, ScriptedChannel(*[FAILED] * 9))
        message_id = gate.submit(order_update()).message_id
        for _ in range(6):
            gate.drain()
            clock.advance(hours=2)

        assert len(sent.taken) == 3
        story = gate.explain(message_id)
        assert (story.status, story.reason) == (Status.FAILED, "smtp 451")
        assert gate.next_due() is None

    def test_of_a_server_that_is_down_is_one(self, open_gate: OpenGate) -> None:
        with socket.socket() as not_listening:
            not_listening.bind(("127.0.0.1", 0))
            port = not_listening.getsockname()[1]
            server = {"driver": "smtp", "host": "127.0.0.1", "port": port, "tls": "none"}
            gate = open_gate(channels={"email": driver(server)})
            message_ids = submit_all(gate, to_each(2))
            gate.drain()

        assert [attempts(gate, message_id) for message_id in message_ids] == [["failed"], ["failed"]]
        assert statuses(gate, message_ids) == [Status.QUEUED, Status.QUEUED]

    def test_is_decided_again_by_a_decision_of_its_own(self, gate: Gateway, clock: SimulatedClock) -> None:
        install(gate, ScriptedChannel(FAILED))
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        clock.advance(minutes=1)
        gate.drain()

        assert len(gate.explain(message_id).decisions) == 2


class TestARejection:
    def test_is_final(self, gate: Gateway, clock: SimulatedClock) -> None:
        sent = install(gate, ScriptedChannel(REJECTED))
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        clock.advance(days=1)
        gate.drain()

        story = gate.explain(message_id)
        assert (story.status, story.reason) == (Status.FAILED, "smtp 550")
        assert len(sent.taken) == 1


class TestDoubt:
    def test_is_held_and_never_sent_again(self, gate: Gateway, clock: SimulatedClock) -> None:
        sent = install(gate, ScriptedChannel(IN_DOUBT))
        message_id = gate.submit(order_update()).message_id
        for _ in range(5):
            gate.drain()
            clock.advance(days=1)

        assert gate.status(message_id) is Status.IN_DOUBT
        assert len(sent.taken) == 1

    def test_about_a_login_code_is_sent_again(self, gate: Gateway, clock: SimulatedClock) -> None:
        install(gate, ScriptedChannel(IN_DOUBT))
        message_id = gate.submit(login_code()).message_id
        gate.drain()
        assert gate.status(message_id) is Status.QUEUED
        clock.advance(minutes=1)
        gate.drain()

        assert gate.status(message_id) is Status.SENT
        assert attempts(gate, message_id) == ["in_doubt", "accepted"]

    def test_about_a_login_code_stays_doubt_after_so_many_attempts(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gate = open_gate(delivery={"max_attempts": 2})
        sent = install(gate, ScriptedChannel(*[IN_DOUBT] * 5))
        message_id = gate.submit(login_code()).message_id
        for _ in range(4):
            gate.drain()
            clock.advance(hours=2)

        assert gate.status(message_id) is Status.IN_DOUBT
        assert len(sent.taken) == 2


class TestADeadProcess:
    def test_leaves_doubt_once_its_lease_has_run_out(self, gate: Gateway, clock: SimulatedClock) -> None:
        sent = install(gate, ScriptedChannel(die))
        message_id = gate.submit(order_update()).message_id
        with pytest.raises(Killed):
            gate.drain()
        assert gate.status(message_id) is Status.SENDING

        clock.advance(seconds=LEASE.total_seconds())
        gate.drain()
        assert gate.status(message_id) is Status.SENDING
        clock.advance(microseconds=1)
        gate.drain()

        story = gate.explain(message_id)
        assert (story.status, story.reason) == (Status.IN_DOUBT, "lease ran out")
        clock.advance(days=1)
        gate.drain()
        assert len(sent.taken) == 1

    def test_does_not_keep_a_login_code_from_being_sent_again(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        install(gate, ScriptedChannel(die))
        message_id = gate.submit(login_code()).message_id
        with pytest.raises(Killed):
            gate.drain()
        clock.advance(minutes=6)
        gate.drain()
        clock.advance(minutes=1)
        gate.drain()

        assert gate.status(message_id) is Status.SENT
        assert attempts(gate, message_id) == ["in_doubt", "accepted"]

    def test_leaves_few_of_a_batch_in_doubt(self, gate: Gateway, clock: SimulatedClock) -> None:
        install(gate, ScriptedChannel(*[ACCEPTED] * 260, die))
        message_ids = submit_all(gate, to_each(300))
        with pytest.raises(Killed):
            gate.drain()
        clock.advance(minutes=6)
        install(gate, ScriptedChannel())
        gate.drain()

        found = statuses(gate, message_ids)
        assert 1 <= found.count(Status.IN_DOUBT) <= 100
        assert set(found) == {Status.SENT, Status.IN_DOUBT}


class TestASlowProcess:
    """The hand-off outlasts its lease: others count the message as in doubt, and then the outcome comes."""

    def outlast(self, gate: Gateway, clock: SimulatedClock, outcome: HandOffOutcome) -> ScriptedChannel:
        def send(hand_off: HandOff) -> HandOffOutcome:
            clock.advance(minutes=6)
            gate.drain()
            return outcome

        return install(gate, ScriptedChannel(send))

    def test_that_was_heard_in_the_end_resolves_the_doubt(self, gate: Gateway, clock: SimulatedClock) -> None:
        self.outlast(gate, clock, ACCEPTED)
        message_id = gate.submit(order_update()).message_id
        gate.drain()

        assert gate.status(message_id) is Status.SENT
        assert attempts(gate, message_id) == ["accepted"]
        details = [row.outcome for row in gate.log.of_message(message_id) if row.kind == "attempt"]
        assert details == ["in_doubt", "accepted"]

    def test_that_failed_in_the_end_is_tried_again(self, gate: Gateway, clock: SimulatedClock) -> None:
        self.outlast(gate, clock, FAILED)
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        assert gate.status(message_id) is Status.QUEUED
        clock.advance(minutes=1)
        gate.drain()

        assert gate.status(message_id) is Status.SENT

    def test_with_a_login_code_leaves_the_second_attempt_as_it_is(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        def send(hand_off: HandOff) -> HandOffOutcome:
            clock.advance(minutes=6)
            gate.drain()
            clock.advance(minutes=1)
            gate.drain()
            return FAILED

        sent = install(gate, ScriptedChannel(send))
        message_id = gate.submit(login_code()).message_id
        gate.drain()
        clock.advance(hours=1)
        gate.drain()

        assert gate.status(message_id) is Status.SENT
        assert attempts(gate, message_id) == ["in_doubt", "accepted"]
        assert len(sent.taken) == 2

    def test_hands_nothing_over_after_its_lease(self, gate: Gateway, clock: SimulatedClock) -> None:
        """INVARIANT(no hand-off after the lease)."""

        def send(hand_off: HandOff) -> HandOffOutcome:
            clock.advance(seconds=LEASE.total_seconds())
            return ACCEPTED

        sent = install(gate, ScriptedChannel(send))
        message_ids = submit_all(gate, to_each(3))
        gate.drain(limit=3)

        assert len(sent.taken) == 1
        assert sorted(statuses(gate, message_ids)) == [Status.QUEUED, Status.QUEUED, Status.SENT]
        clock.advance(minutes=1)
        gate.drain()
        assert set(statuses(gate, message_ids)) == {Status.SENT}
        assert len(sent.taken) == 3


class TestADriverWithABug:
    def crash(self, hand_off: HandOff) -> HandOffOutcome:
        raise RuntimeError("a bug")

    def test_that_raises_leaves_that_message_in_doubt_and_the_rest_is_tried_again(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        sent = install(gate, ScriptedChannel(ACCEPTED, self.crash))
        message_ids = submit_all(gate, to_each(4))
        gate.drain()

        assert sorted(statuses(gate, message_ids)) == ["in_doubt", "queued", "queued", "sent"]
        clock.advance(minutes=1)
        gate.drain()
        assert sorted(statuses(gate, message_ids)) == ["in_doubt", "sent", "sent", "sent"]
        assert len({hand_off.message_id for hand_off in sent.taken}) == len(sent.taken) == 4

    def test_that_stops_early_leaves_what_it_took_in_doubt(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        class StopsEarly(ScriptedChannel):
            def send(self, batch):  # type: ignore[no-untyped-def]  # it does not keep to the protocol
                taking = iter(batch)
                self.taken.append(next(taking))
                yield ACCEPTED
                self.taken.append(next(taking))

        install(gate, StopsEarly())
        message_ids = submit_all(gate, to_each(3))
        gate.drain()

        assert sorted(statuses(gate, message_ids)) == ["in_doubt", "queued", "sent"]

    def test_that_says_too_much_is_not_believed_about_what_it_did_not_take(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        class SaysTooMuch(ScriptedChannel):
            def send(self, batch):  # type: ignore[no-untyped-def]  # it does not keep to the protocol
                self.taken.append(next(iter(batch)))
                yield ACCEPTED
                yield ACCEPTED
                yield ACCEPTED

        install(gate, SaysTooMuch())
        message_ids = submit_all(gate, to_each(3))
        gate.drain()

        assert sorted(statuses(gate, message_ids)) == ["queued", "queued", "sent"]


class TestWhatNoDatabaseHolds:
    def test_in_a_providers_words_keeps_no_outcome_of_the_group_from_being_recorded(
        self, gate: Gateway
    ) -> None:
        odd = HandOffOutcome(result=Result.ACCEPTED, detail="ok\x00", provider_id="P\ud800-\x00-1")
        install(gate, ScriptedChannel(ACCEPTED, odd, ACCEPTED))
        message_ids = submit_all(gate, to_each(3))
        gate.drain()

        assert statuses(gate, message_ids) == [Status.SENT] * 3
        provider_ids = {gate.explain(message_id).attempts[0].provider_id for message_id in message_ids}
        assert "P\ufffd-\ufffd-1" in provider_ids


class TestRealServers:
    def test_both_channels_of_one_batch_arrive(
        self, open_gate: OpenGate, servers: dict[str, object], smtp_server: MailSink, sms_sink: SmsSink
    ) -> None:
        gate = open_gate(channels=servers)
        email = gate.submit(order_update())
        sms = gate.submit(order_update(content=Sms("20 12 34 56", "På vej")))
        gate.drain()

        assert smtp_server.message_ids == [email.message_id]
        [request] = sms_sink.requests
        assert (request["message_id"], request["to"], request["text"]) == (
            sms.message_id,
            "+4520123456",
            "På vej",
        )
        assert statuses(gate, [email.message_id, sms.message_id]) == [Status.SENT, Status.SENT]
        assert gate.explain(email.message_id).attempts[0].provider_id == "TEST1"
