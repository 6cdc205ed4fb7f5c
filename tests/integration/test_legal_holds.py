"""A legal hold stops erasure and retention for a person, and makes no difference to any decision."""

from __future__ import annotations

import pytest
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)
from support.tables import contents

from notifygate import Gateway, InvalidMessage, NotFound, OnHold


def test_a_hold_on_one_contact_point_keeps_all_of_the_person_whenever_linked(gate: Gateway) -> None:
    gate.submit(order_update())
    gate.people.hold(ANNA_SMS, "case 7")
    gate.people.erase(ANNA_EMAIL)  # not known to be the same person yet
    gate.people.link(ANNA_EMAIL, ANNA_SMS, "one account")

    with pytest.raises(OnHold):
        gate.people.erase(ANNA_EMAIL)

    gate.people.release(ANNA_EMAIL)
    assert gate.people.erase(ANNA_SMS).taken.addresses == 1


def test_when_a_person_is_parted_the_hold_stays_on_both(gate: Gateway) -> None:
    gate.people.link(ANNA_EMAIL, ANNA_SMS, "one account")
    gate.people.hold(ANNA_EMAIL, "case 7")
    gate.people.unlink(ANNA_EMAIL, ANNA_SMS)

    for point in (ANNA_EMAIL, ANNA_SMS):
        with pytest.raises(OnHold):
            gate.people.erase(point)
    assert [one.reason for one in gate.people.holds()] == ["case 7", "case 7"]


def test_holds_are_listed_and_released_and_recorded_without_their_reason(
    gate: Gateway, clock: SimulatedClock, ledger_url: str
) -> None:
    first = gate.people.hold(ANNA_EMAIL, "Anna against the shop")
    clock.advance(days=1)
    second = gate.people.hold(ANNA_EMAIL, "another case")
    assert gate.people.holds() == (first, second)
    assert (first.contact_point, first.reason) == (ANNA_EMAIL, "Anna against the shop")

    assert gate.people.release(ANNA_EMAIL).hold_ids == (first.hold_id, second.hold_id)

    assert gate.people.holds() == ()
    rows = contents(ledger_url)["ledger"]
    assert [row["kind"] for row in rows] == ["held", "held", "hold_released", "hold_released"]
    assert "Anna" not in str(rows)
    with pytest.raises(NotFound):
        gate.people.release(ANNA_EMAIL)
    with pytest.raises(NotFound):
        gate.people.release(ANNA_SMS)


def test_a_hold_needs_a_reason(gate: Gateway) -> None:
    with pytest.raises(InvalidMessage, match="reason: say why"):
        gate.people.hold(ANNA_EMAIL, " ")
    with pytest.raises(InvalidMessage, match="reason: holds"):
        gate.people.hold(ANNA_EMAIL, "a\x00b")


def test_decisions_are_the_same_with_and_without_a_hold(gate: Gateway, clock: SimulatedClock) -> None:
    purchase = delivered_purchase(clock.now)
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", source="form")
    sms = review_request(purchase, to=ANNA_SMS)
    messages = [order_update(), newsletter(), review_request(purchase), sms]

    def decided() -> list[object]:
        return [gate.check(message).to_json() for message in messages]

    without = decided()
    for point in (ANNA_EMAIL, ANNA_SMS):
        gate.people.hold(point, "case 7")
    assert decided() == without
    assert {one["outcome"] for one in without if isinstance(one, dict)} == {"allow", "deny"}

    gate.people.release(ANNA_EMAIL)
    gate.people.erase(ANNA_EMAIL)
    erased = decided()
    gate.people.hold(ANNA_EMAIL, "case 8")
    assert decided() == erased


def test_a_person_who_is_held_before_anything_is_known_is_held_all_the_same(gate: Gateway) -> None:
    gate.people.hold(ANNA_EMAIL, "case 7")
    gate.submit(order_update(to="anna+shop@example.dk"))
    with pytest.raises(OnHold):
        gate.people.erase("email:anna+shop@example.dk")


def test_a_held_person_does_not_age_out(open_gate: OpenGate, clock: SimulatedClock) -> None:
    gate = open_gate(retention={"texts": "90d", "contact_points": "1y", "consent_texts": "1y"})
    for name in ("anna", "bo"):
        gate.consent.grant(
            f"email:{name}@example.dk", party="cykelpartner", purpose="newsletter", source="form"
        )
        gate.submit(order_update(to=f"{name}@example.dk"))
    gate.drain()
    gate.people.hold(ANNA_EMAIL, "case 7")
    clock.advance(days=800)

    found = {one.kind: (one.before, one.removed, one.on_hold, one.after) for one in gate.retention.run()}

    assert found == dict.fromkeys(("texts", "consent_texts", "contact_points"), (2, 1, 1, 1))
    assert gate.people.of(ANNA_EMAIL).contact_points == (ANNA_EMAIL,)
    assert gate.people.export(ANNA_EMAIL).to_json()["messages"][0]["text"]
