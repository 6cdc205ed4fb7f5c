"""DESIGN.md section 6: at most one hand-off per purchase, and per person within the window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.channel import FAILED, IN_DOUBT, REJECTED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.config import driver
from support.fixtures import OpenGate, Outbox
from support.messages import ANNA_EMAIL, ANNA_SMS, delivered_purchase, review_request
from support.sinks import MailSink

from notifygate import Gateway, InvalidMessage, Outcome, Purchase, Reason, Status

BERIT_EMAIL = "email:berit@example.dk"
MERCHANTS = ("cykelpartner", "postdanmark", "stars", "florist", "headoffice")


def let_everybody_ask(gate: Gateway) -> Gateway:
    """Have Anna and Berit agree to review requests from all merchants, so that consent is in nobody's way."""
    for merchant in MERCHANTS:
        for point in (ANNA_EMAIL, ANNA_SMS, BERIT_EMAIL):
            gate.consent.grant(point, party=merchant, purpose="review_request")
    return gate


@pytest.fixture
def asking(gate: Gateway) -> Gateway:
    return let_everybody_ask(gate)


@pytest.fixture
def flowers(clock: SimulatedClock) -> Purchase:
    """A purchase at a shop that leaves the asking to others."""
    return delivered_purchase(clock.now, "F1", "florist")


def outcome(gate: Gateway, message_id: str) -> tuple[Status, str | None]:
    story = gate.explain(message_id)
    return story.status, story.reason


ASKED = (Status.DENIED, Reason.PURCHASE_ALREADY_ASKED)


class TestAPurchase:
    @pytest.mark.parametrize("in_one_drain", [True, False])
    @pytest.mark.parametrize(
        "second",
        [
            {"merchant": "stars"},
            {"to": ANNA_SMS},
            {"to": BERIT_EMAIL},
            {"to": BERIT_EMAIL, "merchant": "postdanmark"},
        ],
        ids=["another merchant", "another channel", "another person", "all of it"],
    )
    def test_is_asked_about_once(
        self,
        asking: Gateway,
        flowers: Purchase,
        clock: SimulatedClock,
        outbox: Outbox,
        second: dict[str, str],
        in_one_drain: bool,
    ) -> None:
        first = asking.submit(review_request(flowers))
        if not in_one_drain:
            asking.drain()
        clock.advance(minutes=1)
        other = asking.submit(review_request(flowers, **second))
        asking.drain()

        assert outcome(asking, first.message_id) == (Status.SENT, None)
        assert outcome(asking, other.message_id) == ASKED
        assert len(outbox()) == 1

    def test_is_asked_about_as_often_as_the_config_says(
        self, open_gate: OpenGate, flowers: Purchase, outbox: Outbox
    ) -> None:
        gate = let_everybody_ask(open_gate(review_requests={"asks_per_purchase": 2}))
        for merchant, to in (("florist", ANNA_EMAIL), ("stars", BERIT_EMAIL), ("headoffice", ANNA_SMS)):
            gate.submit(review_request(flowers, to=to, merchant=merchant))
        gate.drain()

        assert len(outbox()) == 2

    def test_keeps_its_first_dates_so_that_a_later_message_cannot_move_the_ask(
        self, asking: Gateway, clock: SimulatedClock
    ) -> None:
        fresh = Purchase("florist", "F1", delivered_at=clock.ago(days=1))
        asking.submit(review_request(fresh))
        asking.submit(review_request(Purchase("florist", "F1", delivered_at=clock.ago(days=20)), to=ANNA_SMS))
        asking.drain()

        assert asking.next_due() == clock.ago(days=1) + timedelta(days=7)

    def test_with_a_review_is_not_asked_about(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        receipt = asking.submit(review_request(flowers))
        asking.purchases.record_review(flowers, at=clock.ago(hours=1))
        asking.drain()

        assert outcome(asking, receipt.message_id) == (Status.DENIED, Reason.REVIEW_EXISTS)

    def test_with_a_review_known_by_the_parcel_is_not_asked_about(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        parcel = Purchase("postdanmark", "PD1")
        asking.purchases.record_review(parcel, at=clock.now)
        asking.purchases.alias(flowers, "postdanmark", "PD1")

        assert asking.check(review_request(flowers)).reasons == (Reason.REVIEW_EXISTS,)

    def test_waits_for_its_delay_and_is_then_asked_about(
        self, asking: Gateway, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        asking.submit(review_request(Purchase("florist", "F1", delivered_at=clock.now)))
        asking.drain()

        assert asking.next_due() == clock.now + timedelta(days=7)
        clock.advance(days=7)
        asking.drain()
        assert len(outbox()) == 1

    def test_is_not_asked_about_after_its_time(self, asking: Gateway, clock: SimulatedClock) -> None:
        old = Purchase("florist", "F1", delivered_at=clock.ago(days=61))

        assert asking.check(review_request(old)).reasons == (Reason.REVIEW_TOO_LATE,)

    def test_is_not_asked_about_to_the_one_who_received_it(self, asking: Gateway, flowers: Purchase) -> None:
        decision = asking.check(review_request(flowers, role="recipient"))

        assert decision.reasons == (Reason.NOT_THE_BUYER,)


class TestAliases:
    """A carrier knows the purchase by its parcel number only."""

    PARCEL = Purchase("postdanmark", "PD1")

    def parcel(self, clock: SimulatedClock) -> Purchase:
        return delivered_purchase(clock.now, "PD1", "postdanmark")

    def test_learnt_before_the_first_message(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        asking.purchases.alias(flowers, "postdanmark", "PD1")
        asking.submit(review_request(flowers))
        asking.drain()
        other = asking.submit(review_request(self.parcel(clock), to=BERIT_EMAIL))
        asking.drain()

        assert outcome(asking, other.message_id) == ASKED
        assert len(outbox()) == 1

    def test_learnt_while_both_messages_wait(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        asking.submit(review_request(flowers))
        asking.submit(review_request(self.parcel(clock), to=BERIT_EMAIL))
        asking.purchases.alias(flowers, "postdanmark", "PD1")
        asking.drain()

        assert len(outbox()) == 1

    def test_learnt_after_the_first_ask(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        asking.submit(review_request(self.parcel(clock), to=BERIT_EMAIL))
        asking.drain()
        asking.purchases.alias(flowers, "postdanmark", "PD1")
        shop = asking.submit(review_request(flowers))
        asking.drain()

        assert outcome(asking, shop.message_id) == ASKED
        assert len(outbox()) == 1

    def test_learnt_after_both_have_asked_keeps_both_asks(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        asking.submit(review_request(self.parcel(clock), to=BERIT_EMAIL))
        asking.submit(review_request(flowers))
        asking.drain()
        asking.purchases.alias(flowers, "postdanmark", "PD1")

        decision = asking.check(review_request(flowers, merchant="stars", to=ANNA_SMS))

        [finding] = decision.determining
        assert sorted(ask["by"] for ask in finding.evidence["asks"]) == ["florist", "postdanmark"]

    def test_join_purchases_over_several_parties(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        asking.purchases.alias(flowers, "postdanmark", "PD1")
        asking.purchases.alias(self.PARCEL, "stars", "S1")
        asking.submit(review_request(delivered_purchase(clock.now, "S1", "stars"), to=BERIT_EMAIL))
        asking.drain()

        assert asking.check(review_request(flowers)).reasons == (Reason.PURCHASE_ALREADY_ASKED,)

    def test_twice_is_as_good_as_once(self, asking: Gateway, flowers: Purchase, ledger_url: str) -> None:
        asking.purchases.alias(flowers, "postdanmark", "PD1")
        asking.purchases.alias(flowers, "postdanmark", "PD1")
        asking.purchases.alias(self.PARCEL, "florist", "F1")

        assert asking.check(review_request(flowers)).outcome is Outcome.ALLOW

    def test_of_a_carrier_nobody_knows_are_refused(self, asking: Gateway, flowers: Purchase) -> None:
        with pytest.raises(InvalidMessage, match="carrier"):
            asking.purchases.alias(flowers, "dhl", "D1")
        with pytest.raises(InvalidMessage, match=r"purchase\.seller"):
            asking.purchases.alias(Purchase("amazon", "A1"), "postdanmark", "PD1")


class TestAsksMadeElsewhere:
    def test_count_for_the_purchase(self, asking: Gateway, flowers: Purchase, clock: SimulatedClock) -> None:
        asking.purchases.record_ask(flowers, "a florist's own letter", clock.ago(days=1))

        assert asking.check(review_request(flowers)).reasons == (Reason.PURCHASE_ALREADY_ASKED,)

    def test_count_under_every_name_of_the_purchase(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        asking.purchases.record_ask(Purchase("postdanmark", "PD1"), "postdanmark", clock.ago(days=1))
        asking.purchases.alias(flowers, "postdanmark", "PD1")

        assert asking.check(review_request(flowers)).reasons == (Reason.PURCHASE_ALREADY_ASKED,)

    def test_count_for_the_person_where_the_contact_point_is_told(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        bicycle = delivered_purchase(clock.now)
        asking.purchases.record_ask(flowers, "florist", clock.ago(days=1))
        assert asking.check(review_request(bicycle)).outcome is Outcome.ALLOW

        other = Purchase("florist", "F2")
        asking.purchases.record_ask(other, "florist", clock.ago(days=1), contact_point=ANNA_EMAIL)
        assert asking.check(review_request(bicycle)).reasons == (Reason.PERSON_ASKED_RECENTLY,)

    def test_are_accepted_beyond_the_limit_for_they_have_happened(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        for by in ("one", "other", "third"):
            asking.purchases.record_ask(flowers, by, clock.now)

        [finding] = asking.check(review_request(flowers)).determining
        assert len(finding.evidence["asks"]) == 3

    def test_in_the_future_or_by_nobody_are_refused(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        with pytest.raises(InvalidMessage, match="future"):
            asking.purchases.record_ask(flowers, "florist", clock.now + timedelta(microseconds=1))
        with pytest.raises(InvalidMessage, match="by"):
            asking.purchases.record_ask(flowers, " ", clock.now)
        with pytest.raises(InvalidMessage, match="time zone"):
            asking.purchases.record_ask(flowers, "florist", datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(InvalidMessage, match="future"):
            asking.purchases.record_review(flowers, clock.now + timedelta(microseconds=1))


class TestAPerson:
    MICROSECOND = timedelta(microseconds=1)

    def ask(self, gate: Gateway, clock: SimulatedClock, seller: str, order: str, to: str = ANNA_EMAIL) -> str:
        message = review_request(delivered_purchase(clock.now, order, seller), to=to)
        receipt = gate.submit(message)
        gate.drain()
        return receipt.message_id

    def test_is_asked_again_after_exactly_30_days_by_another_merchant(
        self, asking: Gateway, clock: SimulatedClock
    ) -> None:
        self.ask(asking, clock, "florist", "F1")
        again_at = clock.now + timedelta(days=30)

        clock.set(again_at - self.MICROSECOND)
        early = review_request(delivered_purchase(clock.now))
        assert asking.check(early).reasons == (Reason.PERSON_ASKED_RECENTLY,)
        clock.set(again_at)
        assert asking.check(review_request(delivered_purchase(clock.now))).outcome is Outcome.ALLOW

    def test_is_asked_again_after_exactly_180_days_by_the_same_merchant(
        self, asking: Gateway, clock: SimulatedClock
    ) -> None:
        self.ask(asking, clock, "florist", "F1")
        again_at = clock.now + timedelta(days=180)

        clock.set(again_at - self.MICROSECOND)
        early = review_request(delivered_purchase(clock.now, "F2", "florist"))
        assert asking.check(early).reasons == (Reason.PERSON_ASKED_BY_MERCHANT_RECENTLY,)
        clock.set(again_at)
        on_time = review_request(delivered_purchase(clock.now, "F2", "florist"))
        assert asking.check(on_time).outcome is Outcome.ALLOW

    @pytest.mark.parametrize("linked", ["before", "after", "never"])
    def test_is_one_over_linked_contact_points(
        self, asking: Gateway, clock: SimulatedClock, linked: str
    ) -> None:
        if linked == "before":
            asking.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")
        self.ask(asking, clock, "florist", "F1")
        if linked == "after":
            asking.people.link(ANNA_EMAIL, ANNA_SMS, "customer account")

        second = self.ask(asking, clock, "cykelpartner", "1001", to=ANNA_SMS)

        if linked == "never":
            assert outcome(asking, second) == (Status.SENT, None)
        else:
            assert outcome(asking, second) == (Status.DENIED, Reason.PERSON_ASKED_RECENTLY)

    def test_is_asked_once_by_one_drain_about_two_purchases(
        self, asking: Gateway, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        asking.submit(review_request(delivered_purchase(clock.now, "F1", "florist")))
        asking.submit(review_request(delivered_purchase(clock.now)))
        asking.drain()

        assert len(outbox()) == 1


class TestAfterAFailure:
    def test_that_an_smtp_server_made_definite_the_place_is_free_again(
        self, open_gate: OpenGate, flowers: Purchase, smtp_server: MailSink
    ) -> None:
        gate = let_everybody_ask(open_gate(channels={"email": driver(smtp_server.settings)}))
        smtp_server.answers["anna@example.dk"] = "550 5.1.1 No such user"
        first = gate.submit(review_request(flowers))
        gate.drain()
        assert outcome(gate, first.message_id) == (Status.FAILED, "smtp 550")

        second = gate.submit(review_request(flowers, to=BERIT_EMAIL))
        gate.drain()

        assert gate.status(second.message_id) is Status.SENT
        assert smtp_server.message_ids == [second.message_id]

    def test_that_is_definite_the_person_may_be_asked_about_something_else(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        install(asking, ScriptedChannel(REJECTED))
        asking.submit(review_request(flowers))
        asking.drain()

        assert asking.check(review_request(delivered_purchase(clock.now))).outcome is Outcome.ALLOW

    def test_that_is_temporary_another_may_take_the_place_and_then_keeps_it(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock
    ) -> None:
        sent = install(asking, ScriptedChannel(FAILED))
        first = asking.submit(review_request(flowers))
        asking.drain()
        second = asking.submit(review_request(flowers, to=BERIT_EMAIL))
        asking.drain()
        clock.advance(hours=1)
        asking.drain()

        assert outcome(asking, first.message_id) == ASKED
        assert asking.status(second.message_id) is Status.SENT
        assert [hand_off.message_id for hand_off in sent.taken] == [first.message_id, second.message_id]

    def test_that_leaves_doubt_the_place_stays_taken(self, asking: Gateway, flowers: Purchase) -> None:
        install(asking, ScriptedChannel(IN_DOUBT))
        first = asking.submit(review_request(flowers))
        asking.drain()
        assert asking.status(first.message_id) is Status.IN_DOUBT

        decision = asking.check(review_request(flowers, to=BERIT_EMAIL))
        assert decision.reasons == (Reason.PURCHASE_ALREADY_ASKED,)


class TestPrecedence:
    @pytest.mark.parametrize("asker", ["postdanmark", "stars"])
    def test_where_the_seller_asks_itself_others_are_denied(
        self, asking: Gateway, clock: SimulatedClock, asker: str
    ) -> None:
        bicycle = delivered_purchase(clock.now)
        receipt = asking.submit(review_request(bicycle, merchant=asker))
        asking.drain()

        assert outcome(asking, receipt.message_id) == (Status.DENIED, Reason.SELLER_ASKS_ITSELF)
        assert asking.check(review_request(bicycle)).outcome is Outcome.ALLOW

    def test_where_the_seller_does_not_ask_others_may(self, asking: Gateway, flowers: Purchase) -> None:
        assert asking.check(review_request(flowers, merchant="postdanmark")).outcome is Outcome.ALLOW

    def test_who_yields_gets_a_turn_that_is_decided_afresh(
        self, open_gate: OpenGate, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        gate = let_everybody_ask(open_gate(review_requests={"yield": "14d"}))
        bicycle = delivered_purchase(clock.now)
        gate.submit(review_request(bicycle, merchant="postdanmark"))
        gate.drain()

        assert bicycle.delivered_at is not None
        a_sunday = bicycle.delivered_at + timedelta(days=7 + 14)
        assert gate.next_due() == a_sunday
        clock.set(a_sunday)
        gate.drain()
        assert gate.next_due() == datetime(2026, 3, 16, 8, tzinfo=UTC)  # quiet hours, until Monday morning
        clock.set(datetime(2026, 3, 16, 8, tzinfo=UTC))
        gate.drain()
        assert [sent["sender"] for sent in outbox()] == ["Post Danmark <pakke@postdanmark.example>"]

    def test_who_yields_gets_no_turn_where_the_seller_has_asked(
        self, open_gate: OpenGate, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        gate = let_everybody_ask(open_gate(review_requests={"yield": "14d", "asks_per_purchase": 2}))
        bicycle = delivered_purchase(clock.now)
        carrier = gate.submit(review_request(bicycle, to=BERIT_EMAIL, merchant="postdanmark"))
        gate.drain()
        clock.advance(days=3)
        gate.submit(review_request(bicycle))
        gate.drain()
        clock.advance(days=11)
        gate.drain()

        assert outcome(gate, carrier.message_id) == (Status.DENIED, Reason.SELLER_ASKS_ITSELF)
        assert len(outbox()) == 1


class TestWhatTheCustomerSees:
    def test_names_who_asks_who_sold_and_what(
        self, asking: Gateway, flowers: Purchase, outbox: Outbox
    ) -> None:
        asking.submit(review_request(flowers, merchant="stars", language="da-DK"))
        asking.drain()

        [sent] = outbox()
        assert sent["text"].endswith("\n\nStars spørger om din ordre F1 hos Florist.")

    def test_names_the_sellers_order_where_the_carrier_asks_about_its_parcel(
        self, asking: Gateway, flowers: Purchase, clock: SimulatedClock, outbox: Outbox
    ) -> None:
        asking.purchases.alias(flowers, "postdanmark", "PD1")
        asking.submit(review_request(delivered_purchase(clock.now, "PD1", "postdanmark")))
        asking.drain()

        [sent] = outbox()
        assert sent["text"].endswith("Post Danmark asks about your order F1 from Florist.")
