"""What must not let the gate lose, hold up or multiply anything: faults in the wrong moment, and changed configs."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support.channel import ACCEPTED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import ConfigFile, OpenGate
from support.messages import ANNA_EMAIL, ANNA_SMS, delivered_purchase, newsletter, order_update
from support.tables import plain_engine

from notifygate import Gateway, Purchase, Status
from notifygate import delivery as deliveries
from notifygate.channels import HandOffOutcome
from notifygate.errors import LedgerError
from notifygate.ledger import messages
from notifygate.message import Result

UNTRIED = HandOffOutcome(result=Result.FAILED, detail="not attempted after a timeout", attempted=False)


def test_what_was_never_attempted_uses_up_no_attempt(open_gate: OpenGate, clock: SimulatedClock) -> None:
    gate = open_gate(delivery={"max_attempts": 2})
    install(gate, ScriptedChannel(*[UNTRIED] * 5, ACCEPTED))
    message_id = gate.submit(order_update()).message_id

    for _ in range(6):
        gate.drain()
        clock.advance(hours=2)

    assert gate.status(message_id) is Status.SENT


def test_outcomes_are_recorded_once_the_ledger_is_back(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = install_counting(gate)
    real, faults = messages.end_attempts, [LedgerError("out of reach"), LedgerError("out of reach")]

    def failing(*args: Any) -> None:
        if faults:
            raise faults.pop()
        real(*args)

    monkeypatch.setattr(deliveries, "_RECORD_AGAIN_AFTER_S", 0.01)
    monkeypatch.setattr(messages, "end_attempts", failing)
    message_ids = [gate.submit(order_update(to=f"p{number}@example.dk")).message_id for number in range(3)]
    gate.drain()

    assert [gate.status(message_id) for message_id in message_ids] == [Status.SENT] * 3
    assert len(channel.taken) == 3


def test_a_number_that_no_database_counts_to_is_handed_back_as_it_was(gate: Gateway) -> None:
    metadata = {"large": 2**70, "huge": 10**400, "text": "\u2028"}
    message_id = gate.submit(order_update(metadata=metadata)).message_id
    other = gate.submit(order_update(text="Another.")).message_id

    assert gate.drain() == 2
    assert gate.status(message_id) is gate.status(other) is Status.SENT
    with gate._runtime.ledger.read() as conn:
        found = messages.get(conn, message_id)
    assert found is not None
    assert found.metadata == metadata


def install_counting(gate: Gateway) -> ScriptedChannel:
    channel = ScriptedChannel()
    install(gate, channel)
    return channel


def test_a_class_that_has_changed_since_is_judged_as_it_is_now(
    config_file: ConfigFile, clock: SimulatedClock
) -> None:
    with Gateway.open(config_file(), clock=clock) as gate:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        message_id = gate.submit(newsletter(text="Review us at trustpilot.com!")).message_id
    changed = {"class": "service", "permission": "none"}
    with Gateway.open(config_file(purposes={"newsletter": changed}), clock=clock) as gate:
        gate.drain()
        decision = gate.explain(message_id).decision

    assert decision is not None
    assert decision.reasons == ("misdeclared_class",)


def test_linking_and_unlinking_again_and_again_copies_a_refusal_once(gate: Gateway) -> None:
    gate.consent.withdraw(ANNA_SMS)
    for _ in range(5):
        gate.people.link(ANNA_EMAIL, ANNA_SMS, evidence="an order")
        gate.people.unlink(ANNA_EMAIL, ANNA_SMS)

    assert len(gate.consent.history(ANNA_EMAIL)) == 1
    assert len(gate.consent.history(ANNA_SMS)) == 1


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_two_transactions_that_tell_a_date_each_keep_both(
    gate: Gateway, clock: SimulatedClock, ledger_url: str
) -> None:
    """SQLite lets in one writer at a time, so there is nothing to be found there."""
    gate.submit(order_update(purchase=Purchase("cykelpartner", "1001")))
    told = delivered_purchase(clock.now)
    delivered = Purchase("cykelpartner", "1001", delivered_at=told.delivered_at)
    purchased = Purchase("cykelpartner", "1001", purchased_at=told.purchased_at)
    with plain_engine(ledger_url) as engine, engine.connect() as conn:
        gate.submit(order_update(to="b@example.dk", purchase=delivered), connection=conn)
        other = threading.Thread(
            target=gate.submit, args=[order_update(to="c@example.dk", purchase=purchased)]
        )
        other.start()
        other.join(timeout=0.5)
        conn.commit()
        other.join(timeout=20)
        known = conn.execute(sa.text("SELECT purchased_at, delivered_at FROM purchases")).one()

    assert None not in known


def test_a_worker_whose_clock_is_behind_does_not_leave_a_fresh_message_lying(
    gate: Gateway, clock: SimulatedClock
) -> None:
    message_id = gate.submit(order_update()).message_id
    clock.now -= timedelta(seconds=2)

    assert gate._runtime.work([message_id]) == 1
    assert gate.status(message_id) is Status.SENT
