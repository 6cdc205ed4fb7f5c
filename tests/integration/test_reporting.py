"""A report counts what happened: every figure is compared with a story whose outcome is known."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support.channel import FAILED, IN_DOUBT, REJECTED, ScriptedChannel, install
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
from support.plans import recorded
from support.tables import plain_engine

from notifygate import ConsentEvent, Gateway, InvalidMessage, Purchase, Status
from notifygate.audit.report.values import Report
from notifygate.ledger import figures
from notifygate.ledger.schema import to_micros

BERIT = "email:berit@example.dk"
CARL = "email:carl@example.dk"
DORA = "email:dora@example.dk"
MERCHANTS = ("cykelpartner", "postdanmark", "stars", "florist")


def let_ask(gate: Gateway, *points: str) -> None:
    for merchant in MERCHANTS:
        for point in points:
            gate.consent.grant(point, party=merchant, purpose="review_request")


def nonzero(counts: Any) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


class Story:
    """Asks by several parties, of which most must not go out."""

    def __init__(self, gate: Gateway, clock: SimulatedClock) -> None:
        let_ask(gate, ANNA_EMAIL, BERIT, CARL, DORA)
        flowers = delivered_purchase(clock.now, "F1", "florist")
        bicycle = delivered_purchase(clock.now, "1001", "cykelpartner")
        parcel = Purchase("postdanmark", "PD1", delivered_at=clock.ago(days=8))
        gate.purchases.alias(flowers, "postdanmark", "PD1")
        self.sent = gate.submit(review_request(flowers)).message_id
        gate.drain()
        clock.advance(hours=1)
        # Of the same purchase, by the carrier's name for it and to another person.
        self.by_purchase = gate.submit(review_request(parcel, to=BERIT)).message_id
        # Of the same person, about another purchase.
        self.by_person = gate.submit(
            review_request(delivered_purchase(clock.now, "F2", "florist"), merchant="stars")
        ).message_id
        # By a carrier, where the shop asks itself.
        self.by_precedence = gate.submit(review_request(bicycle, to=CARL, merchant="postdanmark")).message_id
        # Not due yet.
        self.early = gate.submit(
            review_request(Purchase("florist", "F3", delivered_at=clock.now), to=CARL)
        ).message_id
        # Nobody agreed to it.
        self.unasked = gate.submit(newsletter(to="eve@example.dk")).message_id
        self.update = gate.submit(order_update(to="eve@example.dk")).message_id
        gate.drain()
        clock.advance(hours=1)
        # No decision yet.
        self.waiting = gate.submit(order_update(to="finn@example.dk", text="Later.")).message_id
        self.cancelled = gate.submit(
            order_update(to="finn@example.dk", text="Never.", send_after=clock.now + timedelta(days=1))
        ).message_id
        gate.cancel(self.cancelled)
        clock.advance(minutes=1)


@pytest.fixture
def story(gate: Gateway, clock: SimulatedClock) -> Story:
    return Story(gate, clock)


class TestVolumes:
    def test_count_each_message_once_by_its_last_word(self, gate: Gateway, story: Story) -> None:
        volumes = gate.report().volumes

        assert volumes.submitted == volumes.messages == 9
        assert nonzero(volumes.outcomes) == {
            "sent": 2,
            "denied": 4,
            "deferred": 1,
            "waiting": 1,
            "cancelled": 1,
        }
        assert Counter((one.merchant, one.outcome, one.reason) for one in volumes.by) == {
            ("cykelpartner", "sent", None): 1,
            ("cykelpartner", "denied", "consent_missing"): 1,
            ("cykelpartner", "waiting", None): 1,
            ("cykelpartner", "cancelled", None): 1,
            ("florist", "sent", None): 1,
            ("florist", "deferred", "review_not_due"): 1,
            ("postdanmark", "denied", "purchase_already_asked"): 1,
            ("postdanmark", "denied", "seller_asks_itself"): 1,
            ("stars", "denied", "person_asked_recently"): 1,
        }

    def test_agree_with_what_each_message_says_of_itself(self, gate: Gateway, story: Story) -> None:
        ids = [value for value in vars(story).values() if isinstance(value, str)]
        statuses = Counter(str(gate.status(one)) for one in ids)
        statuses["waiting"] = statuses.pop("queued")

        assert nonzero(gate.report().volumes.outcomes) == dict(statuses)

    def test_of_a_period_that_is_over_do_not_change(
        self, gate: Gateway, story: Story, clock: SimulatedClock
    ) -> None:
        until = clock.now
        before = gate.report(until=until)
        clock.advance(days=8)
        gate.drain()
        after = gate.report(until=until)

        assert gate.status(story.early) is Status.SENT
        assert after.volumes == before.volumes
        assert after.neutrality == before.neutrality
        clock.advance(minutes=1)
        # The early one, and the one that had no decision.
        assert gate.report(since=until).volumes.outcomes["sent"] == 2

    def test_of_one_merchant_leave_out_the_others(self, gate: Gateway, story: Story) -> None:
        report = gate.report(merchant="postdanmark")

        assert {one.merchant for one in report.volumes.by} == {"postdanmark"}
        assert report.volumes.messages == 2
        assert report.asks.made == 0
        assert nonzero(report.asks.prevented) == {"purchase": 1, "precedence": 1}
        assert [one.merchant for one in report.neutrality.by_asker] == ["postdanmark"]

    def test_tell_a_failure_from_a_further_try(self, gate: Gateway, clock: SimulatedClock) -> None:
        install(gate, ScriptedChannel(REJECTED, FAILED))
        gate.submit(order_update(text="One."))
        gate.drain()
        gate.submit(order_update(text="Two."))
        gate.drain()
        clock.advance(seconds=1)
        tried = clock.now
        assert nonzero(gate.report().volumes.outcomes) == {"failed": 1, "waiting": 1}

        clock.advance(hours=6)
        gate.drain()
        clock.advance(seconds=1)
        assert nonzero(gate.report().volumes.outcomes) == {"failed": 1, "sent": 1}
        assert nonzero(gate.report(until=tried).volumes.outcomes) == {"failed": 1, "waiting": 1}

    def test_tell_what_expired_from_what_was_denied(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.submit(order_update(expires_at=clock.now + timedelta(hours=1)))
        clock.advance(hours=2)
        gate.drain()
        clock.advance(hours=2)

        assert nonzero(gate.report().volumes.outcomes) == {"expired": 1}

    @pytest.mark.parametrize(
        ("at", "day"),
        [
            ("2026-03-28T22:59:59Z", "2026-03-28"),
            ("2026-03-28T23:00:00Z", "2026-03-29"),  # midnight in Copenhagen, an hour before UTC's
            ("2026-03-29T21:59:59Z", "2026-03-29"),
            ("2026-03-29T22:00:00Z", "2026-03-30"),  # two hours before: summer time began on the 29th
        ],
    )
    def test_count_days_by_the_clocks_of_the_zone(
        self, gate: Gateway, clock: SimulatedClock, at: str, day: str
    ) -> None:
        clock.set(datetime.fromisoformat(at))
        gate.submit(order_update())
        gate.drain()
        clock.set(datetime(2026, 4, 5, tzinfo=UTC))

        days = {one.day.isoformat(): one.outcomes["sent"] for one in gate.report().volumes.days}
        assert nonzero(days) == {day: 1}
        assert len(days) == 31


class TestAsks:
    def test_are_told_by_asker_and_seller(self, gate: Gateway, story: Story, clock: SimulatedClock) -> None:
        gate.purchases.record_ask(
            Purchase("cykelpartner", "77"), by="stars", at=clock.ago(days=1), contact_point=DORA
        )
        gate.purchases.record_ask(Purchase("cykelpartner", "78"), by="stars", at=clock.ago(days=60))

        asks = gate.report().asks
        assert asks.made == 2
        assert [(one.asker, one.seller, one.here, one.elsewhere) for one in asks.made_by] == [
            ("florist", "florist", 1, 0),
            ("stars", "cykelpartner", 0, 1),
        ]

    def test_that_would_have_been_second_ones_are_counted_by_their_ground(
        self, gate: Gateway, story: Story
    ) -> None:
        asks = gate.report().asks

        assert asks.prevented == {"purchase": 1, "person": 1, "precedence": 1}
        assert asks.waiting == {"purchase": 0, "person": 0, "precedence": 0}
        # The parcel is the florist's sale, though the carrier never said so.
        assert [
            (one.because, one.reason, one.asker, one.seller, one.denied) for one in asks.prevented_by
        ] == [
            ("purchase", "purchase_already_asked", "postdanmark", "florist", 1),
            ("person", "person_asked_recently", "stars", "florist", 1),
            ("precedence", "seller_asks_itself", "postdanmark", "cykelpartner", 1),
        ]

    def test_count_purchases_and_persons_once(self, gate: Gateway, clock: SimulatedClock) -> None:
        let_ask(gate, ANNA_EMAIL)
        flowers = delivered_purchase(clock.now, "F1", "florist")
        for merchant in ("florist", "stars", "stars"):
            gate.submit(review_request(flowers, merchant=merchant, dedupe_key=str(clock.now)))
            gate.drain()
            clock.advance(minutes=1)

        asks = gate.report().asks
        assert asks.prevented["purchase"] == 2
        [concerned] = asks.concerned
        assert (concerned.purchases, concerned.persons) == (1, 1)

    def test_that_wait_their_turn_are_told_apart_from_denials(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gate = open_gate(review_requests={"yield": "14d"})
        let_ask(gate, CARL)
        gate.submit(review_request(delivered_purchase(clock.now), to=CARL, merchant="postdanmark"))
        gate.drain()
        clock.advance(minutes=1)

        asks = gate.report().asks
        assert asks.prevented["precedence"] == 0
        assert asks.waiting["precedence"] == 1


class TestOptOuts:
    @pytest.fixture
    def reader(self, gate: Gateway, clock: SimulatedClock) -> Gateway:
        """Anna had a newsletter, and refuses an hour later."""
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        gate.submit(newsletter())
        gate.drain()
        clock.advance(hours=1)
        gate.consent.withdraw(ANNA_EMAIL)
        clock.advance(hours=1)
        return gate

    def test_followed_by_nothing_show_no_breach(self, reader: Gateway, clock: SimulatedClock) -> None:
        reader.submit(newsletter(text="More."))
        reader.submit(order_update())  # which needs no permission, and is no breach
        reader.drain()
        clock.advance(hours=1)

        found = reader.report().opt_outs
        assert (found.refusals, found.by_state) == (1, {"withdrawn": 1})
        assert (found.breaches, found.longest_breach, found.in_flight) == (0, None, 0)

    def test_show_a_reservation_that_was_forged_after_them(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        forge(ledger_url, "att_forged", reserved_at=clock.now)
        clock.advance(hours=1)

        found = reader.report().opt_outs
        [breach] = found.breaches_listed
        assert found.breaches == 1
        assert found.longest_breach == breach.delay == timedelta(hours=1)
        assert breach.message_id == message_of(ledger_url, "att_forged")

    @pytest.mark.parametrize(
        "changed",
        [
            {"purpose": "order_update", "purpose_class": "service"},
            {"state": "failed", "blocks": False},
        ],
        ids=["service", "never handed over"],
    )
    def test_do_not_show_what_they_do_not_cover(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock, changed: dict[str, Any]
    ) -> None:
        forge(ledger_url, "att_forged", reserved_at=clock.now, **changed)

        assert reader.report().opt_outs.breaches == 0

    def test_show_a_breach_of_a_purpose_that_is_no_longer_in_the_config(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        forge(ledger_url, "att_forged", reserved_at=clock.now, purpose="old_news")

        assert reader.report().opt_outs.breaches == 1

    def test_show_a_service_message_after_a_stop_that_includes_it(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        reader.consent.record(
            ConsentEvent(state="withdrawn", contact_point=ANNA_EMAIL, includes_service=True)
        )
        clock.advance(minutes=1)
        forge(
            ledger_url, "att_forged", reserved_at=clock.now, purpose="order_update", purpose_class="service"
        )

        found = reader.report().opt_outs
        assert found.breaches == 1
        assert found.longest_breach == timedelta(minutes=1)

    def test_count_a_message_once_however_many_refusals_cover_it(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        reader.consent.object(ANNA_EMAIL, purpose="marketing")
        clock.advance(hours=1)
        forge(ledger_url, "att_forged", reserved_at=clock.now)

        found = reader.report().opt_outs
        assert (found.refusals, found.breaches) == (2, 1)
        assert found.longest_breach == timedelta(hours=2)  # after the first of them

    def test_are_undone_by_a_later_grant_within_their_scope(
        self, reader: Gateway, clock: SimulatedClock
    ) -> None:
        reader.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        clock.advance(days=1)
        sent = reader.submit(newsletter(text="Welcome back.")).message_id
        reader.drain()
        clock.advance(hours=1)

        assert reader.status(sent) is Status.SENT
        assert reader.report().opt_outs.breaches == 0

    def test_hold_for_the_other_contact_points_of_the_person(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        reader.people.link(ANNA_EMAIL, ANNA_SMS, evidence="one account")
        clock.advance(hours=1)
        forge(ledger_url, "att_forged", reserved_at=clock.now, to="sms", channel="sms")

        assert reader.report().opt_outs.breaches == 1

    def test_do_not_hold_before_it_was_known_that_two_are_one_person(
        self, reader: Gateway, clock: SimulatedClock
    ) -> None:
        reader.consent.grant(BERIT, party="cykelpartner", purpose="newsletter", occurred_at=clock.ago(days=1))
        sent = reader.submit(newsletter(to="berit@example.dk", text="To Berit.")).message_id
        reader.drain()
        clock.advance(hours=1)
        reader.people.link(ANNA_EMAIL, BERIT, evidence="one account")
        clock.advance(hours=1)

        assert reader.status(sent) is Status.SENT
        assert reader.report().opt_outs.breaches == 0

    def test_let_a_new_double_opt_in_be_confirmed(self, open_gate: OpenGate, clock: SimulatedClock) -> None:
        confirm = {"class": "service", "permission": "none", "confirms": True}
        gate = open_gate(purposes={"confirm": confirm})
        gate.consent.record(ConsentEvent(state="withdrawn", contact_point=ANNA_EMAIL, includes_service=True))
        clock.advance(hours=1)
        gate.consent.request(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        sent = gate.submit(order_update(purpose="confirm", text="Is it you?")).message_id
        gate.drain()
        clock.advance(hours=1)

        assert gate.status(sent) is Status.SENT
        assert gate.report().opt_outs.breaches == 0

    def test_show_what_was_in_flight_apart(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        refused_at = clock.ago(hours=1)
        forge(
            ledger_url,
            "att_forged",
            reserved_at=refused_at - timedelta(seconds=2),
            ended_at=refused_at + timedelta(seconds=3),
        )

        found = reader.report().opt_outs
        assert (found.breaches, found.in_flight) == (0, 1)
        assert found.longest_in_flight == timedelta(seconds=3)

    def test_of_another_period_are_not_counted(
        self, reader: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        forge(ledger_url, "att_forged", reserved_at=clock.now)
        clock.advance(hours=1)

        found = reader.report(last=timedelta(minutes=90)).opt_outs
        assert (found.refusals, found.breaches) == (0, 0)

    def test_that_name_another_merchant_are_left_out_of_the_report_of_one(
        self, reader: Gateway, clock: SimulatedClock
    ) -> None:
        reader.consent.withdraw(ANNA_EMAIL, party="interflora")
        clock.advance(hours=1)

        assert reader.report(merchant="cykelpartner").opt_outs.refusals == 1
        assert reader.report(merchant="florist").opt_outs.refusals == 2  # which is of that group


class TestDoubts:
    def test_are_told_by_how_they_ended(self, gate: Gateway, clock: SimulatedClock) -> None:
        install(gate, ScriptedChannel(*[IN_DOUBT] * 4))
        doubtful = [gate.submit(order_update(text=f"No. {number}.")).message_id for number in range(4)]
        gate.drain()
        clock.advance(hours=1)
        gate.doubt.resolve(doubtful[0], "sent", evidence="mail log")
        gate.doubt.resolve(doubtful[1], "not_sent", evidence="mail log")
        clock.advance(hours=1)

        report = gate.report()
        found = report.doubts
        assert found.opened == 4
        assert {(one.how, one.verdict): one.attempts for one in found.ended} == {
            ("person", "sent"): 1,
            ("person", "not_sent"): 1,
        }
        assert (found.still_open, found.open_now) == (2, 2)
        assert found.oldest_message_id in doubtful[2:]
        assert found.oldest_since == clock.ago(hours=2)
        assert nonzero(report.volumes.outcomes) == {"sent": 1, "failed": 1, "in_doubt": 2}

    def test_of_an_earlier_period_are_only_seen_as_open_now(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        install(gate, ScriptedChannel(IN_DOUBT))
        gate.submit(order_update())
        gate.drain()
        clock.advance(days=40)

        found = gate.report().doubts
        assert (found.opened, found.still_open, found.open_now) == (0, 0, 1)

    def test_of_a_code_that_is_sent_again_have_ended(self, gate: Gateway, clock: SimulatedClock) -> None:
        install(gate, ScriptedChannel(IN_DOUBT))
        gate.submit(order_update(purpose="login_code"))
        gate.drain()
        clock.advance(hours=1)
        gate.drain()
        clock.advance(hours=1)

        found = gate.report().doubts
        assert [(one.how, one.attempts) for one in found.ended] == [("decided_again", 1)]
        assert (found.still_open, found.open_now) == (0, 0)


class TestNeutrality:
    def test_tells_what_came_of_each_purchase_and_why(self, gate: Gateway, story: Story) -> None:
        found = gate.report().neutrality

        assert found.purchases == 4
        assert nonzero(found.outcomes) == {"sent": 1, "denied": 2, "deferred": 1}
        assert {(one.outcome, one.reason): one.purchases for one in found.by} == {
            ("sent", None): 1,
            ("deferred", "review_not_due"): 1,
            ("denied", "person_asked_recently"): 1,
            ("denied", "seller_asks_itself"): 1,
        }
        assert {one.merchant: nonzero(one.outcomes) for one in found.by_asker} == {
            "florist": {"sent": 1, "deferred": 1},
            "postdanmark": {"denied": 2},
            "stars": {"denied": 1},
        }
        # The flowers were asked about, whoever else was denied.
        assert {one.merchant: nonzero(one.outcomes) for one in found.by_seller} == {
            "cykelpartner": {"denied": 1},
            "florist": {"sent": 1, "deferred": 1, "denied": 1},
        }

    def test_adds_up(self, gate: Gateway, story: Story) -> None:
        found = gate.report().neutrality
        for one in (*found.by_asker, *found.by_seller):
            assert sum(standing.purchases for standing in one.by) == one.purchases
        assert sum(one.purchases for one in found.by_seller) == found.purchases


class TestThePeriod:
    def test_without_anything_gives_a_report_of_zeros(self, gate: Gateway) -> None:
        report = gate.report()

        assert report.volumes.messages == report.asks.made == report.neutrality.purchases == 0
        assert not nonzero(report.volumes.outcomes)
        assert report.policies == ()
        assert len(report.volumes.days) == 31

    def test_is_told_with_what_the_figures_rest_on(
        self, gate: Gateway, story: Story, clock: SimulatedClock
    ) -> None:
        report = gate.report()

        assert report.period.since == clock.ago(days=30)
        assert report.period.until == report.made_at == clock.now
        assert report.period.timezone == "Europe/Copenhagen"
        assert report.ledger_id == gate._runtime.ledger.id
        [policy] = report.policies
        assert (policy.hash, policy.decisions) == (gate.config.policy.hash, 7)

    def test_may_be_a_month_of_the_configured_zone(self, gate: Gateway, clock: SimulatedClock) -> None:
        february = gate.report(month="2026-02").period
        march = gate.report(month="2026-03").period

        assert february.since == datetime(2026, 1, 31, 23, tzinfo=UTC)
        assert february.until == march.since == datetime(2026, 2, 28, 23, tzinfo=UTC)
        assert march.until == clock.now

    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            ({"since": datetime(2027, 1, 1, tzinfo=UTC)}, "since"),
            ({"until": datetime(2027, 1, 1, tzinfo=UTC)}, "until"),
            (
                {"since": datetime(2026, 2, 2, tzinfo=UTC), "until": datetime(2026, 2, 1, tzinfo=UTC)},
                "since",
            ),
            ({"since": datetime(2026, 1, 1)}, "since"),  # noqa: DTZ001
            ({"since": datetime(1926, 1, 1, tzinfo=UTC)}, "since"),
            ({"month": "2026-04"}, "month"),
            ({"month": "2026-3-1"}, "month"),
            ({"month": "2026-02", "last": timedelta(days=1)}, "period"),
        ],
    )
    def test_that_makes_no_sense_is_refused(self, gate: Gateway, asked: dict[str, Any], told: str) -> None:
        with pytest.raises(InvalidMessage) as error:
            gate.report(**asked)
        assert error.value.field == told


def test_figures_do_not_depend_on_how_much_is_read_at_a_time(
    gate: Gateway, story: Story, ledger_url: str, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for point in (ANNA_EMAIL, BERIT, CARL):
        gate.consent.withdraw(point)
        gate.consent.object(point, purpose="marketing")
    clock.advance(hours=1)
    forge(ledger_url, "att_forged", reserved_at=clock.now)
    install(gate, ScriptedChannel(*[IN_DOUBT] * 3))
    for number in range(3):
        gate.submit(order_update(text=f"No. {number}."))
    gate.drain()
    clock.advance(hours=1)
    whole = gate.report()
    assert (whole.opt_outs.refusals, whole.opt_outs.breaches, whole.doubts.opened) == (6, 1, 3)

    monkeypatch.setattr(figures, "_PAGE", 1)
    assert gate.report() == whole


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)  # PostgreSQL reads a small table as a whole
def test_a_short_period_is_found_by_an_index(gate: Gateway, story: Story) -> None:
    engine = gate._runtime.ledger.engine
    with recorded(engine) as statements:
        gate.report(last=timedelta(hours=1))
    with plain_engine(str(engine.url)) as plain, plain.connect() as conn:
        plans = [
            str(step[3])
            for sql, parameters in statements.items()
            for step in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        ]
    steps = [plan for plan in plans if re.search(r"\bledger\b", plan)]

    assert any("ix_ledger_at" in plan for plan in steps)
    assert [plan for plan in steps if plan.startswith("SCAN")] == []


def test_a_report_is_json_and_holds_no_address_and_no_text(gate: Gateway, story: Story) -> None:
    shown = json.dumps(gate.report().to_json())

    for personal in ("@", "+45", "4520123456", "berit", "bicycles"):
        assert personal not in shown


def test_a_report_reads_and_does_not_write(gate: Gateway, story: Story, ledger_url: str) -> None:
    def count() -> int:
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            return int(conn.execute(sa.text("SELECT count(*) FROM ledger")).scalar_one())

    before = count()
    first: Report = gate.report()
    assert gate.report() == first
    assert count() == before


def forge(url: str, attempt_id: str, *, reserved_at: datetime, to: str = "email", **changed: Any) -> None:
    """Copy a reservation as somebody would who goes round the gate: to the first contact point of a channel."""
    with plain_engine(url) as engine, engine.begin() as conn:
        row = dict(conn.execute(sa.text("SELECT * FROM reservations LIMIT 1")).one()._mapping)
        point = conn.execute(
            sa.text("SELECT contact_point_id FROM contact_points WHERE channel = :channel"), {"channel": to}
        ).scalars()
        row |= {"attempt_id": attempt_id, "contact_point_id": next(iter(point)), "blocks": False}
        row |= {"reserved_at": reserved_at, "lease_until": reserved_at + timedelta(minutes=5)}
        row |= {"ended_at": reserved_at} | changed
        values = {
            key: to_micros(value) if isinstance(value, datetime) else value for key, value in row.items()
        }
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        conn.execute(sa.text(f"INSERT INTO reservations ({names}) VALUES ({marks})"), values)


def message_of(url: str, attempt_id: str) -> str:
    with plain_engine(url) as engine, engine.connect() as conn:
        query = sa.text("SELECT message_id FROM reservations WHERE attempt_id = :attempt")
        return str(conn.execute(query, {"attempt": attempt_id}).scalar_one())
