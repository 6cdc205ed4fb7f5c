"""From submit to decision: asking beforehand, explaining afterwards, waiting, expiring, cancelling, draining."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.channel import FAILED, IN_DOUBT, REJECTED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate, Outbox
from support.messages import ANNA_EMAIL, delivered_purchase, newsletter, order_update, review_request
from support.tables import contents

from notifygate import Gateway, InvalidMessage, Message, NotCancellable, Outcome, Reason, Sms, Status
from notifygate.channels import HandOff, HandOffOutcome

TONIGHT = datetime(2026, 3, 2, 20, 0, tzinfo=UTC)  # 21:00 in Copenhagen
TOMORROW_MORNING = datetime(2026, 3, 3, 8, 0, tzinfo=UTC)  # 09:00 in Copenhagen


@pytest.fixture
def subscribed(gate: Gateway) -> Gateway:
    """A gateway where Anna has agreed to the newsletter and to review requests."""
    for purpose in ("newsletter", "review_request"):
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose=purpose)
    return gate


class TestCheck:
    def test_says_allow_deny_or_defer_as_a_drain_would(
        self, subscribed: Gateway, clock: SimulatedClock
    ) -> None:
        assert subscribed.check(newsletter()).outcome is Outcome.ALLOW
        denied = subscribed.check(newsletter(to="berit@example.dk"))
        assert (denied.outcome, denied.reasons) == (Outcome.DENY, (Reason.CONSENT_MISSING,))
        clock.set(TONIGHT)
        deferred = subscribed.check(newsletter())
        assert (deferred.outcome, deferred.until) == (Outcome.DEFER, TOMORROW_MORNING)

    def test_records_nothing(self, subscribed: Gateway, clock: SimulatedClock, ledger_url: str) -> None:
        subscribed.submit(newsletter())
        subscribed.drain()
        before = contents(ledger_url)

        for message in (
            newsletter(),
            newsletter(to="nobody.yet@example.dk"),
            order_update(content=Sms("+4531123456", "On its way")),
            review_request(delivered_purchase(clock.now, "unheard of")),
            order_update(idempotency_key="k"),
        ):
            subscribed.check(message)
        clock.set(TONIGHT)
        subscribed.check(newsletter(text="Other news."))

        assert contents(ledger_url) == before

    def test_of_a_purchase_never_heard_of_sees_the_dates_in_the_message(
        self, subscribed: Gateway, clock: SimulatedClock
    ) -> None:
        assert subscribed.check(review_request(delivered_purchase(clock.now))).outcome is Outcome.ALLOW
        early = delivered_purchase(clock.ago(days=-3))
        assert subscribed.check(review_request(early)).reasons == (Reason.REVIEW_NOT_DUE,)

    def test_refuses_what_submit_refuses(self, gate: Gateway) -> None:
        with pytest.raises(InvalidMessage, match="nobody"):
            gate.check(order_update(merchant="nobody"))


class TestExplain:
    def test_tells_the_story_of_a_message(self, subscribed: Gateway, clock: SimulatedClock) -> None:
        clock.set(TONIGHT)
        receipt = subscribed.submit(newsletter(metadata={"campaign": "spring"}))
        subscribed.drain()
        clock.set(TOMORROW_MORNING)
        subscribed.drain()

        story = subscribed.explain(receipt.message_id)

        assert (story.status, story.reason) == (Status.SENT, None)
        assert (story.merchant, story.purpose, story.purpose_class) == (
            "cykelpartner",
            "newsletter",
            "marketing",
        )
        assert story.contact_point == ANNA_EMAIL
        assert story.metadata == {"campaign": "spring"}
        assert story.submitted_at == TONIGHT
        assert [decision.outcome for decision in story.decisions] == [Outcome.DEFER, Outcome.ALLOW]
        assert story.decision == story.decisions[-1]
        [attempt] = story.attempts
        assert (attempt.state, attempt.reserved_at) == ("accepted", TOMORROW_MORNING)

    def test_shows_every_rules_finding_even_where_the_first_denies(self, gate: Gateway) -> None:
        gate.suppressions.add(ANNA_EMAIL, "complaint")
        receipt = gate.submit(newsletter())
        gate.drain()

        decision = gate.explain(receipt.message_id).decision

        assert decision is not None
        assert [finding.rule for finding in decision.findings] == [
            "suppression",
            "consent",
            "content",
            "review_request",
            "dedupe",
            "caps",
            "quiet_hours",
            "expiry",
        ]
        assert decision.reasons == (Reason.SUPPRESSED_COMPLAINT, Reason.CONSENT_MISSING)
        assert all(finding.text for finding in decision.findings)

    def test_before_the_first_decision_has_none(self, gate: Gateway) -> None:
        story = gate.explain(gate.submit(order_update()).message_id)

        assert (story.status, story.decision, story.attempts) == (Status.QUEUED, None, ())

    def test_names_the_purchase_as_the_seller_does(self, gate: Gateway, clock: SimulatedClock) -> None:
        purchase = delivered_purchase(clock.now)
        gate.purchases.alias(purchase, "postdanmark", "PD1")
        by_parcel = order_update(
            merchant="postdanmark", purchase=delivered_purchase(clock.now, "PD1", "postdanmark")
        )

        story = gate.explain(gate.submit(by_parcel).message_id)

        assert story.purchase == ("cykelpartner", "1001")

    def test_holds_the_policy_that_decided(self, gate: Gateway) -> None:
        receipt = gate.submit(order_update())
        gate.drain()

        decision = gate.explain(receipt.message_id).decision

        assert decision is not None
        assert decision.policy == gate.config.policy.hash
        assert gate.log.policy(decision.policy).text == gate.config.policy.text


class TestWaiting:
    def test_until_send_after_and_not_longer(
        self, gate: Gateway, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        when = clock.now + timedelta(hours=3)
        receipt = gate.submit(order_update(send_after=when))

        clock.set(when - timedelta(microseconds=1))
        assert gate.drain() == 0
        assert gate.status(receipt.message_id) is Status.QUEUED
        assert gate.next_due() == when
        clock.set(when)
        assert gate.drain() == 1
        assert len(outbox()) == 1

    def test_over_quiet_hours_is_deferred_and_then_sent(
        self, subscribed: Gateway, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        clock.set(TONIGHT)
        receipt = subscribed.submit(newsletter())

        assert subscribed.drain() == 1
        assert subscribed.drain() == 0
        assert subscribed.status(receipt.message_id) is Status.DEFERRED
        assert subscribed.next_due() == TOMORROW_MORNING
        assert outbox() == []
        clock.set(TOMORROW_MORNING)
        assert subscribed.drain() == 1
        assert subscribed.status(receipt.message_id) is Status.SENT
        assert len(outbox()) == 1

    def test_ends_in_a_decision_by_what_is_true_then(
        self, subscribed: Gateway, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        clock.set(TONIGHT)
        receipt = subscribed.submit(newsletter())
        subscribed.drain()
        subscribed.consent.withdraw(ANNA_EMAIL)
        clock.set(TOMORROW_MORNING)
        subscribed.drain()

        story = subscribed.explain(receipt.message_id)

        assert (story.status, story.reason) == (Status.DENIED, Reason.CONSENT_WITHDRAWN)
        assert outbox() == []

    def test_for_a_cap_ends_the_moment_a_place_frees(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        cap = {"limit": 1, "window": "2h", "per": "merchant", "over": "defer"}
        gate = open_gate(purposes={"order_update": {"caps": [cap]}})
        gate.submit(order_update(text="First."))
        gate.drain()
        first_at = clock.now
        clock.advance(minutes=30)
        receipt = gate.submit(order_update(text="Second."))
        gate.drain()

        assert gate.status(receipt.message_id) is Status.DEFERRED
        assert gate.next_due() == first_at + timedelta(hours=2)
        clock.set(first_at + timedelta(hours=2))
        gate.drain()
        assert gate.status(receipt.message_id) is Status.SENT

    def test_of_many_for_one_place_lets_one_through_at_a_time(
        self, open_gate: OpenGate, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        cap = {"limit": 1, "window": "1h", "per": "person", "over": "defer"}
        gate = open_gate(purposes={"order_update": {"caps": [cap]}})
        list(gate.submit_many(order_update(text=f"Message {number}") for number in range(3)))

        for hour in range(3):
            gate.drain()
            assert len(outbox()) == hour + 1
            clock.advance(hours=1)

    def test_has_no_next_instant_where_nothing_waits(self, gate: Gateway) -> None:
        assert gate.next_due() is None
        gate.submit(order_update())
        gate.drain()
        assert gate.next_due() is None


class TestExpiring:
    def test_past_its_time_a_message_is_expired_and_not_sent(
        self, gate: Gateway, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        receipt = gate.submit(order_update(expires_at=clock.now + timedelta(minutes=5)))
        clock.advance(minutes=5)
        gate.drain()

        story = gate.explain(receipt.message_id)
        assert (story.status, story.reason) == (Status.EXPIRED, Reason.EXPIRED)
        assert outbox() == []

    def test_just_before_its_time_it_is_sent(self, gate: Gateway, clock: SimulatedClock) -> None:
        receipt = gate.submit(order_update(expires_at=clock.now + timedelta(minutes=5)))
        clock.advance(minutes=5, microseconds=-1)
        gate.drain()

        assert gate.status(receipt.message_id) is Status.SENT

    def test_what_would_wait_past_its_time_is_expired_at_once(
        self, subscribed: Gateway, clock: SimulatedClock
    ) -> None:
        clock.set(TONIGHT)
        receipt = subscribed.submit(newsletter(expires_at=TOMORROW_MORNING))
        subscribed.drain()

        assert subscribed.status(receipt.message_id) is Status.EXPIRED

    def test_what_is_denied_as_well_is_called_denied(self, gate: Gateway, clock: SimulatedClock) -> None:
        receipt = gate.submit(newsletter(expires_at=clock.now + timedelta(minutes=5)))
        clock.advance(hours=1)
        gate.drain()

        assert gate.status(receipt.message_id) is Status.DENIED


class TestCancel:
    def test_a_queued_message_is_never_sent(self, gate: Gateway, outbox: Outbox) -> None:
        receipt = gate.submit(order_update())
        gate.cancel(receipt.message_id, reason="refunded")

        assert gate.drain() == 0
        story = gate.explain(receipt.message_id)
        assert (story.status, story.reason) == (Status.CANCELLED, "refunded")
        assert outbox() == []

    def test_a_deferred_message_is_never_sent(self, subscribed: Gateway, clock: SimulatedClock) -> None:
        clock.set(TONIGHT)
        receipt = subscribed.submit(newsletter())
        subscribed.drain()
        subscribed.cancel(receipt.message_id)
        clock.set(TOMORROW_MORNING)

        assert subscribed.drain() == 0
        assert subscribed.status(receipt.message_id) is Status.CANCELLED

    def test_twice_is_fine_and_recorded_once(self, gate: Gateway) -> None:
        receipt = gate.submit(order_update())
        gate.cancel(receipt.message_id, reason="refunded")
        gate.cancel(receipt.message_id, reason="again")

        assert gate.explain(receipt.message_id).reason == "refunded"
        kinds = [row.kind for row in gate.log.of_message(receipt.message_id)]
        assert kinds == ["submitted", "cancelled"]

    @pytest.mark.parametrize(
        ("status", "driver", "message"),
        [
            (Status.SENT, ScriptedChannel(), order_update()),
            (Status.FAILED, ScriptedChannel(REJECTED), order_update()),
            (Status.IN_DOUBT, ScriptedChannel(IN_DOUBT), order_update()),
            (Status.DENIED, ScriptedChannel(), newsletter()),
            (
                Status.EXPIRED,
                ScriptedChannel(),
                order_update(expires_at=datetime(2026, 3, 2, 9, tzinfo=UTC)),
            ),
        ],
        ids=lambda value: value.value if isinstance(value, Status) else "",
    )
    def test_what_has_ended_cannot_be_cancelled(
        self, gate: Gateway, status: Status, driver: ScriptedChannel, message: Message
    ) -> None:
        install(gate, ScriptedChannel(*driver.script))
        receipt = gate.submit(message)
        gate.drain()
        assert gate.status(receipt.message_id) is status

        with pytest.raises(NotCancellable, match=status.value):
            gate.cancel(receipt.message_id)
        assert gate.status(receipt.message_id) is status

    def test_what_is_being_sent_cannot_be_cancelled(self, gate: Gateway) -> None:
        refused: list[NotCancellable] = []

        def send(hand_off: HandOff) -> HandOffOutcome:
            with pytest.raises(NotCancellable, match="sending") as info:
                gate.cancel(hand_off.message_id)
            refused.append(info.value)
            return HandOffOutcome(result=FAILED.result)

        install(gate, ScriptedChannel(send))
        receipt = gate.submit(order_update())
        gate.drain()

        assert len(refused) == 1
        # It was not accepted and waits for another attempt: now it can be stopped.
        gate.cancel(receipt.message_id)
        assert gate.status(receipt.message_id) is Status.CANCELLED


class TestDrain:
    def test_does_at_most_so_many_the_longest_waiting_first(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        receipts = []
        for number in range(5):
            receipts.append(gate.submit(order_update(text=f"Message {number}")))
            clock.advance(seconds=1)

        assert gate.drain(limit=2) == 2
        assert [gate.status(receipt.message_id).value for receipt in receipts] == ["sent"] * 2 + [
            "queued"
        ] * 3
        assert gate.drain(limit=0) == 0
        assert gate.drain(limit=10) == 3

    def test_works_off_more_than_a_batch(self, gate: Gateway, outbox: Outbox) -> None:
        list(gate.submit_many(order_update(to=f"person{number}@example.dk") for number in range(250)))

        assert gate.drain() == 250
        assert len({sent["message_id"] for sent in outbox()}) == 250

    def test_counts_what_it_denied(self, gate: Gateway) -> None:
        gate.submit(newsletter())
        gate.submit(order_update())

        assert gate.drain() == 2

    def test_of_nothing_is_nothing(self, gate: Gateway) -> None:
        assert gate.drain() == 0

    def test_below_zero_makes_no_sense(self, gate: Gateway) -> None:
        with pytest.raises(InvalidMessage, match="limit"):
            gate.drain(limit=-1)


class TestContent:
    @pytest.mark.parametrize(
        "more",
        [
            {"text": "Rate us at https://dk.trustpilot.com/review/x"},
            {"content": Sms("+4520123456", "trustpilot.com")},
        ],
    )
    def test_a_service_message_that_points_at_a_review_site_is_denied(
        self, gate: Gateway, more: dict[str, Any]
    ) -> None:
        receipt = gate.submit(order_update(**more))
        gate.drain()

        assert gate.explain(receipt.message_id).reason == Reason.MISDECLARED_CLASS
