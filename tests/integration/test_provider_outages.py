"""While a provider cannot be reached its channel rests: an outage costs little, and ends by itself."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from support.channel import ACCEPTED, FAILED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, delivered_purchase, newsletter, order_update, review_request
from support.tables import row_counts

from notifygate import Gateway, LedgerError, Sms, Status
from notifygate.address import Channel
from notifygate.channels import HandOff, HandOffOutcome
from notifygate.gate import Decided
from notifygate.message import Result
from notifygate.resting import Rests

DOWN = HandOffOutcome(result=Result.FAILED, detail="connection refused", channel_down=True)
NOT_TRIED = HandOffOutcome(
    result=Result.FAILED, detail="not attempted after connection refused", attempted=False
)


def emails(count: int) -> list[str]:
    return [f"person{number}@example.dk" for number in range(count)]


def submit_emails(gate: Gateway, count: int) -> list[str]:
    return [
        receipt.message_id
        for receipt in gate.submit_many(order_update(to=address) for address in emails(count))
    ]


class Outage(ScriptedChannel):
    """A provider that cannot be reached until `is_over`."""

    is_over = False

    def send(self, batch):  # type: ignore[no-untyped-def]  # as in the protocol
        for number, hand_off in enumerate(batch):
            self.taken.append(hand_off)
            yield ACCEPTED if self.is_over else DOWN if number == 0 else NOT_TRIED


def test_a_long_outage_decides_few_of_the_messages_that_wait(
    gate: Gateway, clock: SimulatedClock, ledger_url: str
) -> None:
    outage = Outage()
    install(gate, outage)
    message_ids = submit_emails(gate, 300)
    before = row_counts(ledger_url)["ledger"]
    for _ in range(60):
        gate.drain()
        clock.advance(minutes=1)

    assert Counter(gate.status(one) for one in message_ids) == {Status.QUEUED: 300}
    assert len(outage.taken) <= 25 + 60
    assert row_counts(ledger_url)["ledger"] - before <= 2 * (25 + 60)

    outage.is_over = True
    clock.advance(hours=1)
    gate.drain()
    assert Counter(gate.status(one) for one in message_ids) == {Status.SENT: 300}


def test_the_first_message_that_gets_through_ends_the_rest(gate: Gateway, clock: SimulatedClock) -> None:
    install(gate, ScriptedChannel(DOWN))
    message_ids = submit_emails(gate, 3)
    gate.drain(limit=1)
    assert gate.drain() == 0

    clock.advance(seconds=5)
    assert gate.drain() == 2
    clock.advance(minutes=1)
    assert gate.drain() == 1
    assert Counter(gate.status(one) for one in message_ids) == {Status.SENT: 3}


def test_a_channel_that_rests_keeps_no_other_channel_waiting(gate: Gateway) -> None:
    install(gate, Outage(), Channel.EMAIL)
    install(gate, ScriptedChannel(), Channel.SMS)
    submit_emails(gate, 30)
    texts = [gate.submit(order_update(content=Sms(f"+452012345{number}", "Hi."))) for number in range(3)]
    gate.drain()

    assert {gate.status(receipt.message_id) for receipt in texts} == {Status.SENT}


def test_a_rest_that_is_over_slows_no_other_channel(gate: Gateway, clock: SimulatedClock) -> None:
    install(gate, Outage(), Channel.EMAIL)
    texts = install(gate, ScriptedChannel(), Channel.SMS)
    submit_emails(gate, 1)
    gate.drain()
    clock.advance(seconds=6)
    ids = [
        gate.submit(order_update(content=Sms(f"+452012345{number}", "Hi."))).message_id for number in range(9)
    ]
    decided_together = []
    decide = gate._runtime.gate.decide

    def counting(*args: Any, **more: Any) -> Decided:
        decided = decide(*args, **more)
        decided_together.append(decided.count)
        return decided

    gate._runtime.gate.decide = counting  # type: ignore[method-assign]  # watched, not changed
    gate._runtime.work(ids)

    assert decided_together == [9]
    assert len(texts.taken) == 9


def test_one_thread_at_a_time_tries_a_channel_again(clock: SimulatedClock) -> None:
    rests = Rests(clock)
    rests.found_down(Channel.EMAIL)
    clock.advance(seconds=6)
    with rests.trials() as mine, rests.trials() as others:
        assert (list(mine), list(others)) == ([Channel.EMAIL], [])
        assert rests.resting() == {Channel.EMAIL}
    with rests.trials() as again:
        assert again == {Channel.EMAIL}
    clock.advance(minutes=11)
    with rests.trials() as forgotten:
        assert not forgotten
        assert not rests.resting()


def test_the_ledger_out_of_reach_before_the_hand_off_leaves_no_doubt(
    gate: Gateway, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
    message_id = gate.submit(review_request(delivered_purchase(clock.now))).message_id
    with monkeypatch.context() as broken:

        def out_of_reach(*arguments: object) -> NoReturn:
            raise LedgerError("out of reach")

        broken.setattr("notifygate.ledger.purchases.order_ids", out_of_reach)
        gate.drain()
    assert gate.status(message_id) is Status.QUEUED
    clock.advance(minutes=1)
    gate.drain()

    assert gate.status(message_id) is Status.SENT


def test_a_slow_channel_is_given_small_groups(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill leaves few in doubt, and a stop waits for few."""
    parts = gate._runtime._configured
    assert parts.group_size == 25
    for took_s, size in ((0.001, 100), (3.125, 2), (2_500.0, 1), (0.25, 25), (0.0625, 100)):
        parts.pace(25, took_s)
        assert parts.group_size == size
    parts.pace(0, 9.0)
    assert parts.group_size == 100


def test_a_stop_leaves_the_rest_of_a_job_to_others(gate: Gateway) -> None:
    def stop(hand_off: HandOff) -> HandOffOutcome:
        gate._runtime.stop_working()
        return ACCEPTED

    install(gate, ScriptedChannel(stop))
    message_ids = submit_emails(gate, 60)

    assert gate._runtime.work(message_ids) == 25
    assert Counter(gate.status(one) for one in message_ids) == {Status.SENT: 25, Status.QUEUED: 35}
    assert gate._runtime.scheduler.sweep() == 35


def test_a_temporary_failure_of_one_message_lets_no_channel_rest(gate: Gateway) -> None:
    install(gate, ScriptedChannel(FAILED))
    submit_emails(gate, 2)
    gate.drain(limit=1)

    assert gate.drain() == 1


def test_rests_grow_to_a_minute_and_no_further(gate: Gateway, clock: SimulatedClock) -> None:
    outage = Outage()
    install(gate, outage)
    submit_emails(gate, 50)
    pauses = []
    for _ in range(7):
        tried = len(outage.taken)
        waited = 0
        while len(outage.taken) == tried:
            gate.drain(limit=1)
            clock.advance(seconds=1)
            waited += 1
        pauses.append(waited)

    assert pauses == [1, 5, 10, 20, 40, 60, 60]


def test_a_clock_set_back_does_not_lengthen_a_rest(gate: Gateway, clock: SimulatedClock) -> None:
    outage = Outage()
    install(gate, outage)
    submit_emails(gate, 2)
    gate.drain(limit=1)
    outage.is_over = True

    clock.advance(hours=-1)
    late = gate.submit(order_update())
    gate.drain()
    assert gate.status(late.message_id) is Status.SENT


def test_crowds_disperse_also_at_the_longest_wait(open_gate: OpenGate, clock: SimulatedClock) -> None:
    gate = open_gate(delivery={"retry_after": "1h", "retry_at_most": "1h"})
    install(gate, ScriptedChannel(*[FAILED] * 20))
    submit_emails(gate, 20)
    gate.drain()

    tried_again = []
    for _ in range(60):
        clock.advance(minutes=1)
        tried_again += [clock.now] * gate.drain()
    assert len(tried_again) == 20
    assert len(set(tried_again)) > 5


def test_by_default_a_message_is_tried_for_about_a_day(gate: Gateway, clock: SimulatedClock) -> None:
    submitted_at = clock.now
    message_id = gate.submit(order_update()).message_id
    install(gate, ScriptedChannel(*[FAILED] * 100))
    while (due := gate.next_due()) is not None:
        clock.set(due)
        gate.drain()

    assert gate.status(message_id) is Status.FAILED
    assert timedelta(hours=18) < clock.now - submitted_at < timedelta(hours=30)


def test_a_refusal_between_two_attempts_ends_them(gate: Gateway, clock: SimulatedClock) -> None:
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
    sent = install(gate, ScriptedChannel(FAILED))
    message_id = gate.submit(newsletter()).message_id
    gate.drain()
    gate.consent.withdraw(ANNA_EMAIL)
    clock.advance(minutes=1)
    gate.drain()

    story = gate.explain(message_id)
    assert (story.status, story.reason) == (Status.DENIED, "consent_withdrawn")
    assert len(sent.taken) == 1
