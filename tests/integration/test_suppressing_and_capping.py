"""Do-not-send marks, duplicates and frequency caps, over the history that the ledger keeps."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from support.channel import FAILED, IN_DOUBT, REJECTED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, ANNA_SMS, newsletter, order_update

from notifygate import Gateway, InvalidMessage, NotFound, Outcome, Reason, Sms, Status
from notifygate.channels import HandOffOutcome


@pytest.fixture
def subscribed(gate: Gateway) -> Gateway:
    """Anna agreed to the newsletters of three merchants, by email and SMS."""
    for merchant in ("cykelpartner", "florist", "headoffice"):
        for point in (ANNA_EMAIL, ANNA_SMS):
            gate.consent.grant(point, party=merchant, purpose="newsletter")
    return gate


class TestSuppressions:
    @pytest.mark.parametrize("reason", ["hard_bounce", "complaint", "erased", "manual"])
    def test_stop_even_service_messages_to_that_contact_point(self, gate: Gateway, reason: str) -> None:
        gate.suppressions.add(ANNA_EMAIL, reason)

        assert gate.check(order_update()).reasons == (f"suppressed_{reason}",)
        assert gate.check(order_update(to="berit@example.dk")).outcome is Outcome.ALLOW

    def test_made_while_a_message_waits_stop_it(self, gate: Gateway) -> None:
        receipt = gate.submit(order_update())
        gate.suppressions.add(ANNA_EMAIL, "complaint")
        gate.drain()

        assert gate.explain(receipt.message_id).reason == Reason.SUPPRESSED_COMPLAINT

    def test_for_a_hard_bounce_last_exactly_30_days(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.suppressions.add(ANNA_EMAIL, "hard_bounce")
        ends = clock.now + timedelta(days=30)

        clock.set(ends - timedelta(microseconds=1))
        assert gate.check(order_update()).reasons == (Reason.SUPPRESSED_HARD_BOUNCE,)
        clock.set(ends)
        assert gate.check(order_update()).outcome is Outcome.ALLOW
        assert gate.suppressions.list() == ()

    def test_last_until_the_instant_that_is_given(self, gate: Gateway, clock: SimulatedClock) -> None:
        ends = clock.now + timedelta(days=2)
        gate.suppressions.add(ANNA_EMAIL, "manual", expires_at=ends)

        clock.set(ends - timedelta(microseconds=1))
        assert gate.check(order_update()).outcome is Outcome.DENY
        clock.set(ends)
        assert gate.check(order_update()).outcome is Outcome.ALLOW

    def test_for_a_complaint_do_not_end(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.suppressions.add(ANNA_EMAIL, "complaint")
        clock.advance(days=20 * 365)

        assert gate.check(order_update()).reasons == (Reason.SUPPRESSED_COMPLAINT,)

    def test_can_be_removed_by_reason_or_altogether(self, gate: Gateway) -> None:
        for reason in ("manual", "manual", "hard_bounce", "complaint"):
            gate.suppressions.add(ANNA_EMAIL, reason)

        assert gate.suppressions.remove(ANNA_EMAIL, "manual") == 2
        assert {mark.reason for mark in gate.suppressions.list()} == {"hard_bounce", "complaint"}
        assert gate.suppressions.remove("email:ANNA@example.dk") == 2
        assert gate.check(order_update()).outcome is Outcome.ALLOW
        for contact_point in (ANNA_EMAIL, "email:nobody@example.dk"):
            with pytest.raises(NotFound):
                gate.suppressions.remove(contact_point)

    def test_are_listed_oldest_first(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.suppressions.add(ANNA_SMS, "manual")
        clock.advance(hours=1)
        mark_id = gate.suppressions.add(ANNA_EMAIL, "hard_bounce")

        first, second = gate.suppressions.list()

        assert (first.contact_point, first.expires_at) == (ANNA_SMS, None)
        assert (second.suppression_id, second.expires_at) == (mark_id, clock.now + timedelta(days=30))

    def test_that_make_no_sense_are_refused(self, gate: Gateway, clock: SimulatedClock) -> None:
        with pytest.raises(InvalidMessage, match="reason"):
            gate.suppressions.add(ANNA_EMAIL, "dislike")
        with pytest.raises(InvalidMessage, match="expires_at"):
            gate.suppressions.add(ANNA_EMAIL, "complaint", expires_at=clock.now + timedelta(days=1))
        with pytest.raises(InvalidMessage, match="expires_at"):
            gate.suppressions.add(ANNA_EMAIL, "manual", expires_at=clock.now)
        with pytest.raises(InvalidMessage, match="time zone"):
            gate.suppressions.add(ANNA_EMAIL, "manual", expires_at=datetime(2030, 1, 1))  # noqa: DTZ001
        assert gate.suppressions.list() == ()


class TestDedupe:
    def test_finds_the_same_text_however_it_is_spaced_and_names_the_first(self, subscribed: Gateway) -> None:
        first = subscribed.submit(newsletter(text="New bicycles are here."))
        subscribed.drain()

        [finding] = subscribed.check(newsletter(text="  NEW bicycles\nare  here. ")).determining

        assert finding.reason == Reason.DUPLICATE
        assert finding.evidence["message"] == first.message_id

    def test_finds_it_on_the_persons_other_channel(self, subscribed: Gateway) -> None:
        text_message = newsletter(content=Sms("+4520123456", "New bicycles are here."))
        subscribed.submit(newsletter())
        subscribed.drain()
        assert subscribed.check(text_message).outcome is Outcome.ALLOW

        subscribed.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        assert subscribed.check(text_message).reasons == (Reason.DUPLICATE,)

    def test_finds_it_within_one_drain(self, subscribed: Gateway) -> None:
        receipts = [subscribed.submit(newsletter()) for _ in range(3)]
        subscribed.drain()

        statuses = [subscribed.status(receipt.message_id) for receipt in receipts]
        assert statuses == [Status.SENT, Status.DENIED, Status.DENIED]

    def test_goes_by_the_key_where_one_is_given(self, subscribed: Gateway) -> None:
        subscribed.submit(newsletter(dedupe_key="spring"))
        subscribed.drain()

        assert subscribed.check(newsletter(text="Other words.", dedupe_key="spring")).outcome is Outcome.DENY
        assert subscribed.check(newsletter(dedupe_key="summer")).outcome is Outcome.ALLOW

    def test_ends_exactly_with_its_window(self, subscribed: Gateway, clock: SimulatedClock) -> None:
        subscribed.submit(newsletter())
        subscribed.drain()
        ends = clock.now + timedelta(hours=24)

        clock.set(ends - timedelta(microseconds=1))
        assert subscribed.check(newsletter()).reasons == (Reason.DUPLICATE,)
        clock.set(ends)
        assert subscribed.check(newsletter()).outcome is Outcome.ALLOW

    def test_leaves_other_merchants_alone(self, subscribed: Gateway) -> None:
        subscribed.submit(newsletter())
        subscribed.drain()

        assert subscribed.check(newsletter(merchant="florist")).outcome is Outcome.ALLOW

    def test_does_not_count_what_definitely_failed(self, subscribed: Gateway) -> None:
        install(subscribed, ScriptedChannel(REJECTED))
        subscribed.submit(newsletter())
        subscribed.drain()

        assert subscribed.check(newsletter()).outcome is Outcome.ALLOW

    def test_does_not_stand_in_the_way_of_a_messages_own_next_attempt(
        self, subscribed: Gateway, clock: SimulatedClock
    ) -> None:
        install(subscribed, ScriptedChannel(FAILED))
        receipt = subscribed.submit(newsletter())
        subscribed.drain()
        clock.advance(minutes=1)
        subscribed.drain()

        assert subscribed.status(receipt.message_id) is Status.SENT


class TestCaps:
    def test_hold_within_one_drain_and_free_a_place_exactly_with_the_window(
        self, subscribed: Gateway, clock: SimulatedClock
    ) -> None:
        receipts = [subscribed.submit(newsletter(text=f"News {number}")) for number in range(3)]
        subscribed.drain()
        reasons = [subscribed.explain(receipt.message_id).reason for receipt in receipts]
        assert reasons == [None, None, Reason.CAP_REACHED]

        frees = clock.now + timedelta(days=7)
        clock.set(frees - timedelta(microseconds=1))
        assert subscribed.check(newsletter(text="News 4")).reasons == (Reason.CAP_REACHED,)
        clock.set(frees)
        assert subscribed.check(newsletter(text="News 4")).outcome is Outcome.ALLOW

    @pytest.mark.parametrize(
        ("per", "reached_by"),
        [("merchant", []), ("group", ["headoffice"]), ("person", ["headoffice", "cykelpartner"])],
    )
    def test_count_per_merchant_group_or_person(
        self, open_gate: OpenGate, per: str, reached_by: list[str]
    ) -> None:
        caps = [{"limit": 1, "window": "7d", "per": per}]
        gate = open_gate(purposes={"newsletter": {"caps": caps, "dedupe": None}})
        for merchant in ("cykelpartner", "florist", "headoffice"):
            gate.consent.grant(ANNA_EMAIL, party=merchant, purpose="newsletter")
        gate.submit(newsletter(merchant="florist"))
        gate.drain()

        denied = [
            merchant
            for merchant in ("headoffice", "cykelpartner")
            if gate.check(newsletter(merchant=merchant)).reasons == (Reason.CAP_REACHED,)
        ]
        assert denied == reached_by

    @pytest.mark.parametrize(
        ("outcome", "is_counted"), [(IN_DOUBT, True), (REJECTED, False), (FAILED, False)]
    )
    def test_count_what_is_in_doubt_and_not_what_failed(
        self, open_gate: OpenGate, outcome: HandOffOutcome, is_counted: bool
    ) -> None:
        gate = open_gate(purposes={"order_update": {"caps": [{"limit": 1, "window": "7d", "per": "person"}]}})
        install(gate, ScriptedChannel(outcome))
        gate.submit(order_update())
        gate.drain()

        expected = Outcome.DENY if is_counted else Outcome.ALLOW
        assert gate.check(order_update(text="Another.")).outcome is expected
