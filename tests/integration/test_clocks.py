"""Clocks that are set back, and machines whose clocks differ: nobody is asked twice, and nothing waits for ever."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
from support.channel import ACCEPTED, FAILED, ScriptedChannel, install
from support.clock import A_MONDAY_MORNING, SimulatedClock
from support.fixtures import ConfigFile
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)

from notifygate import Gateway, Status
from notifygate.channels import HandOff, HandOffOutcome
from notifygate.failpoints import FailPoint, armed

HOUR = timedelta(hours=1)


class Ended(Exception):
    """A worker that ends here, as far as the ledger can tell."""


def test_a_clock_set_back_in_the_midst_of_sending_makes_nothing_sent_twice(
    gate: Gateway, clock: SimulatedClock
) -> None:
    def answer(hand_off: HandOff) -> HandOffOutcome:
        clock.set(A_MONDAY_MORNING - HOUR)
        return ACCEPTED

    channel = install(gate, ScriptedChannel(answer))
    message_ids = [gate.submit(order_update(to=f"p{number}@example.dk")).message_id for number in range(5)]
    for _ in range(30):
        gate.drain()
        clock.advance(minutes=5)

    assert Counter(taken.message_id for taken in channel.taken) == Counter(message_ids)
    assert {gate.status(message_id) for message_id in message_ids} == {Status.SENT}


def test_an_ask_made_before_the_clock_was_set_back_is_not_made_again(
    gate: Gateway, clock: SimulatedClock
) -> None:
    purchase = delivered_purchase(clock(), seller="cykelpartner")
    other = delivered_purchase(clock(), "1002", seller="cykelpartner")
    for point in (ANNA_EMAIL, ANNA_SMS):
        gate.consent.grant(
            point, party="cykelpartner", purpose="review_request", occurred_at=clock.ago(days=1)
        )
    gate.people.link(ANNA_EMAIL, ANNA_SMS, evidence="same account")
    channel = install(gate, ScriptedChannel())
    gate.submit(review_request(purchase))
    gate.drain()
    clock.set(A_MONDAY_MORNING - HOUR)

    again = gate.submit(review_request(purchase, to=ANNA_SMS)).message_id
    about_another = gate.submit(review_request(other, to=ANNA_SMS)).message_id
    for _ in range(26):
        gate.drain()
        clock.advance(minutes=5)

    assert len(channel.taken) == 1
    assert gate.status(again) is Status.DENIED
    assert gate.status(about_another) is Status.DENIED


def test_what_was_sent_before_the_clock_was_set_back_counts_in_caps(
    gate: Gateway, clock: SimulatedClock
) -> None:
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", occurred_at=clock.ago(days=1))
    channel = install(gate, ScriptedChannel())
    for text in ("One.", "Two."):
        gate.submit(newsletter(text=text))
    gate.drain()
    clock.set(A_MONDAY_MORNING - HOUR)
    third, same = (gate.submit(newsletter(text=text)).message_id for text in ("Three.", "One."))
    gate.drain()

    assert len(channel.taken) == 2
    for message_id in (third, same):
        assert gate.status(message_id) is Status.DENIED
    assert reasons(gate, third) == {"cap_reached"}
    assert reasons(gate, same) == {"cap_reached", "duplicate"}


def test_a_lease_ends_after_the_clock_was_set_back(gate: Gateway, clock: SimulatedClock) -> None:
    message_id = gate.submit(order_update()).message_id
    end_at(FailPoint.DECIDE_COMMITTED, gate)
    clock.set(A_MONDAY_MORNING - HOUR)
    gate.drain()
    assert gate.status(message_id) is Status.SENDING

    clock.set(A_MONDAY_MORNING + timedelta(minutes=5, seconds=1))
    gate.drain()

    assert gate.status(message_id) is Status.IN_DOUBT


def test_what_is_deferred_is_sent_once_and_not_early_though_the_clock_is_set_back(
    gate: Gateway, clock: SimulatedClock
) -> None:
    clock.set(A_MONDAY_MORNING.replace(hour=4))  # five in Copenhagen
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", occurred_at=clock.ago(days=1))
    channel = install(gate, ScriptedChannel())
    message_id = gate.submit(newsletter()).message_id
    gate.drain()
    assert gate.status(message_id) is Status.DEFERRED

    clock.set(clock.ago(hours=1))
    sent_at: list[datetime] = []
    for _ in range(60):
        gate.drain()
        if channel.taken and not sent_at:
            sent_at.append(clock())
        clock.advance(minutes=10)

    assert sent_at == [A_MONDAY_MORNING.replace(hour=8)]
    assert len(channel.taken) == 1


def test_what_failed_for_now_is_tried_again_though_the_clock_is_set_back(
    gate: Gateway, clock: SimulatedClock
) -> None:
    channel = install(gate, ScriptedChannel(FAILED))
    message_id = gate.submit(order_update()).message_id
    gate.drain()
    clock.set(A_MONDAY_MORNING - HOUR)
    for _ in range(14):
        gate.drain()
        clock.advance(minutes=5)

    assert gate.status(message_id) is Status.SENT
    assert len(channel.taken) == 2


@pytest.fixture
def clocks() -> tuple[SimulatedClock, SimulatedClock]:
    """One that is right, and one that is an hour ahead."""
    return SimulatedClock(), SimulatedClock(A_MONDAY_MORNING + HOUR)


class TestTwoMachinesWhoseClocksDifferByAnHour:
    def test_ask_once(self, config_file: ConfigFile, clocks: tuple[SimulatedClock, SimulatedClock]) -> None:
        right, ahead = clocks
        purchase = delivered_purchase(right())
        config = config_file()
        with Gateway.open(config, clock=right) as one, Gateway.open(config, clock=ahead) as other:
            one.consent.grant(
                ANNA_EMAIL, party="cykelpartner", purpose="review_request", occurred_at=right.ago(days=1)
            )
            channels = [install(gate, ScriptedChannel()) for gate in (one, other)]
            asks = [gate.submit(review_request(purchase)).message_id for gate in (other, one, other, one)]
            other.drain()
            one.drain()

            assert [len(channel.taken) for channel in channels] == [0, 1]
            assert Counter(one.status(message_id).value for message_id in asks) == {"sent": 1, "denied": 3}

    @pytest.mark.parametrize("first", ["right", "ahead"])
    def test_keep_caps_together(
        self, first: str, config_file: ConfigFile, clocks: tuple[SimulatedClock, SimulatedClock]
    ) -> None:
        right, ahead = clocks
        config = config_file()
        with Gateway.open(config, clock=right) as one, Gateway.open(config, clock=ahead) as other:
            one.consent.grant(
                ANNA_EMAIL, party="cykelpartner", purpose="newsletter", occurred_at=right.ago(days=1)
            )
            gates = [one, other] if first == "right" else [other, one]
            channels = [install(gate, ScriptedChannel()) for gate in gates]
            for number in range(4):
                gate = gates[number % 2]
                gate.submit(newsletter(text=f"News {number}."))
                gate.drain()

            assert sum(len(channel.taken) for channel in channels) == 2

    def test_send_once_what_one_puts_in_doubt_while_the_other_sends_it(
        self, config_file: ConfigFile, clocks: tuple[SimulatedClock, SimulatedClock]
    ) -> None:
        right, ahead = clocks
        config = config_file()
        with Gateway.open(config, clock=right) as one, Gateway.open(config, clock=ahead) as other:
            seen: list[Status] = []

            def answer(hand_off: HandOff) -> HandOffOutcome:
                other.drain()  # by its clock, the lease has run out
                seen.append(other.status(hand_off.message_id))
                return ACCEPTED

            channels = [install(gate, ScriptedChannel(answer)) for gate in (one, other)]
            message_id = one.submit(order_update()).message_id
            one.drain()
            other.drain()

            assert seen == [Status.IN_DOUBT]
            assert one.status(message_id) is Status.SENT
            assert [len(channel.taken) for channel in channels] == [1, 0]

    def test_both_take_up_what_the_other_left(
        self, config_file: ConfigFile, clocks: tuple[SimulatedClock, SimulatedClock]
    ) -> None:
        right, ahead = clocks
        config = config_file()
        with Gateway.open(config, clock=right) as one, Gateway.open(config, clock=ahead) as other:
            channels = [install(gate, ScriptedChannel()) for gate in (one, other)]
            submitted_ahead = other.submit(order_update()).message_id
            one._runtime.work([submitted_ahead])  # as a worker does with what is on the queue
            submitted_behind = one.submit(order_update(to="bo@example.dk")).message_id
            other.drain()

            assert one.status(submitted_ahead) is Status.SENT
            assert one.status(submitted_behind) is Status.SENT
            assert [len(channel.taken) for channel in channels] == [1, 1]


def test_a_refusal_holds_though_the_clock_is_set_back_to_before_it(
    gate: Gateway, clock: SimulatedClock
) -> None:
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", occurred_at=clock.ago(days=1))
    gate.consent.withdraw(ANNA_EMAIL)
    clock.set(A_MONDAY_MORNING - HOUR)
    channel = install(gate, ScriptedChannel())
    message_id = gate.submit(newsletter()).message_id
    gate.drain()

    assert gate.status(message_id) is Status.DENIED
    assert channel.taken == []


def reasons(gate: Gateway, message_id: str) -> set[str]:
    decision = gate.explain(message_id).decision
    assert decision is not None
    return {str(finding.reason) for finding in decision.determining}


def end_at(point: FailPoint, gate: Gateway) -> None:
    def end() -> None:
        raise Ended

    with armed(point, end), pytest.raises(Ended):
        gate.drain()
