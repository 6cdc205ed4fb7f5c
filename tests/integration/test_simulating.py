"""What-if: the policy in force comes to every decision that was logged, another one to what would have been."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support import channel, history
from support.channel import FAILED, IN_DOUBT, REJECTED, ScriptedChannel
from support.clock import SimulatedClock
from support.fixtures import ConfigFile, OpenGate
from support.history import History
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)

from notifygate import Gateway, Purchase, config
from notifygate.audit.simulate import WhatIf, simulate
from notifygate.channels import HandOff, HandOffOutcome
from notifygate.decision import Decision
from notifygate.errors import InvalidMessage, NotFound
from notifygate.ledger import purchases
from notifygate.ledger.replays import Logged
from notifygate.ledger.schema import messages
from notifygate.restoring import Restoration


def replayed(
    gate: Gateway, since: datetime, until: datetime
) -> tuple[WhatIf, list[dict[str, Any]], list[dict[str, Any]]]:
    """What a replay with the gateway's own policy found, the decisions that it came to, and those logged."""
    made: list[dict[str, Any]] = []

    def observe(message_id: str, decision: Decision, row: Logged | None) -> None:
        made.append({"message": message_id, "is_logged": row is not None, **decision.to_json()})

    found = simulate(gate._runtime.ledger, gate.config, since=since, until=until, observe=observe)
    rows = list(gate.log.search(kind="decision", since=since, until=until, limit=None))[::-1]
    logged = [{"message": row.message_id, "is_logged": True, **dict(row.body)} for row in rows]
    for one in logged:
        del one["attempt_id"]
        one.pop("ask_id", None)
    return found, made, logged


def differences(made: dict[str, Any], logged: dict[str, Any]) -> list[Any]:
    """What a decision that was made and one that was logged say differently."""
    found: list[Any] = [
        (key, made[key], logged[key]) for key in made if key != "findings" and made[key] != logged[key]
    ]
    pairs = zip(made["findings"], logged["findings"], strict=True)
    return found + [(logged["message"], logged["at"], one, other) for one, other in pairs if one != other]


@pytest.mark.parametrize("seed", range(2))
def test_with_the_unchanged_policy_every_logged_decision_is_reproduced(
    open_gate: OpenGate, clock: SimulatedClock, seed: int
) -> None:
    gate = open_gate(**history.TABLES)
    start = clock.now
    play = History(gate, clock, seed)
    instants = [start]
    for _ in range(3):
        play.go_on(80)
        clock.advance(seconds=1)
        instants.append(clock.now)
    for since in instants[:-1]:
        for until in instants:
            if since >= until:
                continue
            found, made, logged = replayed(gate, since, until)
            for one, other in zip(made, logged, strict=False):
                assert differences(one, other) == []
            assert len(made) == len(logged)
            assert (found.sent.more, found.sent.fewer, found.sent.moved) == (0, 0, 0)
            assert found.left_out == 0
            assert found.changes == ()


def test_the_history_replayed_holds_whatever_can_happen(open_gate: OpenGate, clock: SimulatedClock) -> None:
    """So that the test above has looked at something."""
    gate = open_gate(**history.TABLES)
    for seed in (1, 2):
        History(gate, clock, seed).go_on(250)
    rows = list(gate.log.search(limit=None))

    assert {row.kind.value for row in rows} >= {
        *("submitted", "decision", "attempt", "resolution", "cancelled", "consent", "suppression"),
        *("unsuppression", "link", "unlink", "alias", "ask", "review", "case_opened", "case_closed"),
    }
    assert {row.outcome for row in rows if row.kind == "attempt"} == {
        *("accepted", "rejected", "failed", "in_doubt")
    }
    decisions = (row for row in rows if row.kind == "decision")
    assert {finding["reason"] for row in decisions for finding in row.body["findings"]} >= {
        *("cap_reached", "quiet_hours", "duplicate", "consent_missing", "consent_withdrawn", "expired"),
        *("suppressed_manual", "misdeclared_class", "purchase_already_asked", "person_asked_recently"),
        *("seller_asks_itself", "review_not_due", "review_exists", "not_the_buyer", "case_open"),
    }


class TestAnotherPolicy:
    """What would have been: `what_if(purposes=...)` replays all that was logged with tables changed."""

    @pytest.fixture
    def changed(self, config_file: ConfigFile) -> Any:
        return lambda **tables: config.load(config_file("changed.toml", **tables))

    def test_an_ask_that_is_now_denied_leaves_the_purchase_to_another(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        for point in (ANNA_EMAIL, ANNA_SMS):
            gate.consent.grant(point, party="cykelpartner", purpose="review_request")
        purchase = delivered_purchase(clock.now)
        first = gate.submit(review_request(purchase, ANNA_EMAIL)).message_id
        gate.drain()
        clock.advance(minutes=5)
        second = gate.submit(review_request(purchase, ANNA_SMS, role="buyer")).message_id
        gate.drain()
        assert (gate.status(first), gate.status(second)) == ("sent", "denied")
        cap = {
            "limit": 1,
            "window": "7d",
            "per": "person",
            "channels": ["email"],
            "purposes": ["order_update"],
        }

        found = gate.log.simulate(
            changed(purposes={"review_request": {"permission": ["soft_opt_in"]}}),
            since=clock.ago(days=1),
            until=clock.advance(minutes=1),
        )
        assert (found.sent.more, found.sent.fewer) == (0, 1)

        gate.consent.object(ANNA_EMAIL, purpose="newsletter")
        found = gate.log.simulate(
            changed(purposes={"review_request": {"caps": [cap]}}),
            since=clock.ago(days=1),
            until=clock.advance(minutes=1),
        )
        assert found.changes == ()

    def test_what_is_denied_gives_its_place_in_a_cap_to_what_comes_after(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        ids = []
        for text in ("Rate us at trustpilot.com", "New bells", "New bells", "New tyres"):
            ids.append(gate.submit(newsletter(text=text)).message_id)
            gate.drain()
            clock.advance(hours=1)
        assert [gate.status(one) for one in ids] == ["sent", "sent", "denied", "denied"]

        # As a service message the first may not name a review site; nothing asks for consent then, nor counts twice.
        found = gate.log.simulate(
            changed(purposes={"newsletter": {"class": "service", "permission": "none", "quiet_hours": None}}),
            since=clock.ago(days=1),
            until=clock.now,
        )

        effects = {change.message_id: change.effect for change in found.changes}
        assert effects == {ids[0]: "fewer", ids[3]: "more"}
        assert found.by_rule[("content", "misdeclared_class")].fewer == 1
        assert found.by_rule[("caps", "cap_reached")].more == 1

    def test_where_a_text_was_erased_what_was_found_in_it_then_is_taken(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        kept = gate.submit(order_update(text="Rate us at trustpilot.com")).message_id
        gone = gate.submit(order_update(text="Praise us at trustpilot.com")).message_id
        gate.drain()
        with gate._runtime.ledger.begin() as conn:
            erased = sa.update(messages).where(messages.c.message_id == gone)
            conn.execute(erased.values(text=None, subject=None, html=None))

        same = gate.log.simulate(since=clock.ago(days=1), until=clock.advance(minutes=1))
        assert (same.changes, same.texts_erased) == ((), 1)
        found = gate.log.simulate(
            changed(content={"review_domains": ["elsewhere.example"]}),
            since=clock.ago(days=1),
            until=clock.advance(minutes=1),
        )
        assert [change.message_id for change in found.changes] == [kept]

    def test_a_merchant_that_the_new_policy_lacks_sends_nothing(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        gate.submit(order_update())
        gate.drain()

        found = gate.log.simulate(
            changed(merchants={"cykelpartner": None}),
            since=clock.ago(days=1),
            until=clock.advance(minutes=1),
        )

        assert found.by_rule[("policy", "unknown_merchant")].fewer == 1

    def test_what_was_sent_before_the_period_counts_in_it(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        for text in ("Bells", "Tyres"):
            gate.submit(newsletter(text=text))
            gate.drain()
            clock.advance(days=1)
        tighter = {"caps": [{"limit": 1, "window": "7d", "per": "merchant"}]}

        found = gate.log.simulate(
            changed(purposes={"newsletter": tighter}), since=clock.ago(hours=30), until=clock.now
        )

        assert (found.messages, found.sent.before, found.sent.after) == (1, 1, 0)

    def test_a_message_that_is_only_sent_later_is_counted_apart(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        gate.submit(newsletter())
        gate.drain()
        clock.advance(days=2)
        hours = {"mon-sat": None, "mon-sun": "18:00-20:00"}

        found = gate.log.simulate(
            changed(quiet_hours={"evenings": {"allow": hours}}), since=clock.ago(days=3), until=clock.now
        )

        assert (found.sent.more, found.sent.fewer, found.sent.moved) == (0, 0, 1)
        (change,) = found.changes
        assert change.after.sent_at == clock.now.replace(hour=17) - timedelta(days=2)

    def test_a_message_that_would_wait_still_is_fewer_for_now(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        gate.submit(newsletter())
        gate.drain()
        clock.advance(hours=1)
        hours = {"mon-sat": None, "mon-sun": "18:00-20:00"}

        found = gate.log.simulate(
            changed(quiet_hours={"evenings": {"allow": hours}}), since=clock.ago(days=3), until=clock.now
        )

        assert (found.sent.fewer, found.fewer_wait) == (1, 1)

    @pytest.mark.parametrize(("outcome", "sends"), [(FAILED, 1), (REJECTED, 0), (IN_DOUBT, 1)])
    def test_attempts_that_were_logged_end_as_they_did(
        self, gate: Gateway, clock: SimulatedClock, changed: Any, outcome: Any, sends: int
    ) -> None:
        channel.install(gate, ScriptedChannel(outcome))
        gate.submit(order_update())
        gate.drain()
        for _ in range(3):
            clock.advance(hours=1)
            gate.drain()

        found = gate.log.simulate(
            changed(purposes={"order_update": {"dedupe": "1h"}}), since=clock.ago(days=1), until=clock.now
        )

        assert (found.sent.before, found.sent.after, found.changes) == (sends, sends, ())

    @pytest.mark.parametrize("news", ["a date", "a closed case"])
    def test_what_wakes_a_message_wakes_it_under_the_new_policy_too(
        self, open_gate: OpenGate, clock: SimulatedClock, changed: Any, news: str
    ) -> None:
        holds = {"hold_for_cases": True}
        gate = open_gate(review_requests=holds)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
        bought = Purchase("cykelpartner", "1001", purchased_at=clock.ago(days=29))
        purchase = delivered_purchase(clock.now) if news == "a closed case" else bought
        if news == "a closed case":
            gate.purchases.open_case(purchase)
        gate.submit(review_request(purchase))
        gate.drain()
        clock.advance(hours=1)
        if news == "a closed case":
            gate.purchases.close_case(purchase)
        else:
            gate.purchases.alias(
                Purchase("cykelpartner", "1001", delivered_at=clock.ago(days=9)), "postdanmark", "P1"
            )
        gate.drain()
        clock.advance(minutes=5)

        # By this policy the message would wait for another time, unless it is woken.
        other = changed(review_requests=holds | {"delay": "6d", "delay_without_delivery": "35d"})
        found = gate.log.simulate(other, since=clock.ago(days=1), until=clock.now)

        assert (found.sent.before, found.changes) == (1, ())

    def test_what_falls_due_at_one_instant_goes_in_the_order_of_its_ids(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        """As workers take it, though one is logged at that instant and the other is not."""
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        clock.advance(hours=12)
        first = gate.submit(newsletter()).message_id  # waits for the morning under both policies
        time.sleep(0.002)  # ids of one millisecond are in no order
        second = gate.submit(order_update()).message_id  # only under the new one
        gate.drain()
        clock.set(gate.next_due() or clock.now)
        gate.drain()
        assert (gate.status(first), gate.status(second)) == ("sent", "sent")
        cap = {"limit": 1, "window": "7d", "per": "person", "classes": ["service", "marketing"]}
        tables = {"newsletter": {"caps": [cap]}, "order_update": {"caps": [cap], "quiet_hours": "evenings"}}

        found = gate.log.simulate(
            changed(purposes=tables), since=clock.ago(days=2), until=clock.advance(minutes=1)
        )

        assert [(change.message_id, change.effect) for change in found.changes] == [(second, "fewer")]

    def test_a_mark_lifted_before_the_period_is_gone(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.suppressions.add(ANNA_EMAIL, "manual")
        gate.suppressions.remove(ANNA_EMAIL)
        begins = clock.advance(minutes=1)
        gate.submit(order_update())
        gate.drain()

        _, made, logged = replayed(gate, begins, clock.advance(minutes=1))
        assert ([one["outcome"] for one in logged], made) == (["allow"], logged)

    def test_an_erasure_and_its_lifting_within_one_instant_are_told_apart(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        begins = clock.now
        gate.submit(order_update())
        gate.drain()
        for _ in range(2):
            gate.people.erase(ANNA_EMAIL)
            gate.people.erase(ANNA_EMAIL)  # which finds it marked
            gate.submit(order_update(text="Once more"))
            gate.drain()
            gate.suppressions.remove(ANNA_EMAIL, "erased")
            gate.submit(order_update(text="Once more"))
            gate.drain()

        found, made, logged = replayed(gate, begins, clock.advance(minutes=1))

        assert [one["outcome"] for one in logged] == ["allow", "deny", "allow", "deny", "allow"]
        assert (made, found.changes) == (logged, ())

    def test_what_stayed_in_doubt_is_sent_again_where_the_new_policy_says_so(
        self, gate: Gateway, clock: SimulatedClock, changed: Any
    ) -> None:
        channel.install(gate, ScriptedChannel(IN_DOUBT))
        gate.submit(order_update())
        gate.drain()
        clock.advance(hours=1)
        tables = {"order_update": {"on_doubt": "resend"}}

        found = gate.log.simulate(changed(purposes=tables), since=clock.ago(days=1), until=clock.now)

        assert (found.decisions, found.sent.before, found.sent.after) == (2, 1, 1)

    def test_rows_that_do_not_tell_the_dates_of_a_purchase_take_those_known_now(
        self, gate: Gateway, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As rows were before they told the dates."""
        monkeypatch.setattr(purchases, "dates_told", lambda purchase: {})
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
        gate.submit(review_request(delivered_purchase(clock.now)))
        gate.drain()

        _, made, logged = replayed(gate, clock.ago(days=1), clock.now + timedelta(minutes=1))
        assert (made, len(made)) == (logged, 1)

    def test_a_date_that_was_learnt_later_was_not_known_before(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
        bought = clock.ago(days=12)
        gate.submit(review_request(Purchase("cykelpartner", "1001", purchased_at=bought)))
        gate.drain()
        clock.advance(hours=1)
        known = Purchase("cykelpartner", "1001", delivered_at=clock.ago(days=9))
        gate.purchases.open_case(known)
        gate.drain()

        found, made, logged = replayed(gate, clock.ago(days=1), clock.now + timedelta(minutes=1))
        assert [one["outcome"] for one in logged] == ["defer", "allow"]
        assert (made, found.sent.after) == (logged, 1)

    def test_what_a_restored_ledger_had_to_doubt_is_taken_as_it_is(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.submit(order_update())
        Restoration(gate._runtime.ledger, gate.config.policy, clock).put_in_doubt(clock.now)
        clock.advance(minutes=5)
        gate.submit(order_update())
        gate.drain()

        found, made, logged = replayed(gate, clock.ago(days=1), clock.now + timedelta(minutes=1))
        assert (made, len(made), found.sent.before) == (logged, 1, 2)

    @pytest.mark.parametrize("verdict", ["sent", "not_sent"])
    def test_so_is_what_it_had_to_doubt_before_the_period(
        self, gate: Gateway, clock: SimulatedClock, verdict: str
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        doubted = gate.submit(newsletter(text="Bells")).message_id
        Restoration(gate._runtime.ledger, gate.config.policy, clock).put_in_doubt(clock.now)
        begins = clock.advance(minutes=1)
        for text in ("Tyres", "Lamps"):
            gate.submit(newsletter(text=text))
            gate.drain()
        clock.advance(minutes=1)
        gate.doubt.resolve(doubted, verdict, evidence="asked")
        gate.submit(newsletter(text="Locks"))
        gate.drain()

        found, made, logged = replayed(gate, begins, clock.advance(minutes=1))
        last = "deny" if verdict == "sent" else "allow"
        assert [one["outcome"] for one in logged] == ["allow", "deny", last]
        assert (made, found.changes) == (logged, ())

    def test_so_is_what_it_may_have_asked_about_a_purchase_that_was_joined_with_another_since(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.grant(ANNA_SMS, party="cykelpartner", purpose="review_request")
        purchase = delivered_purchase(clock.now)
        gate.purchases.alias(purchase, "postdanmark", "P1")
        gate.submit(review_request(purchase))
        Restoration(gate._runtime.ledger, gate.config.policy, clock).put_in_doubt(clock.now)
        begins = clock.advance(minutes=1)
        gate.submit(review_request(purchase, ANNA_SMS))
        gate.drain()
        ends = clock.advance(minutes=1)
        gate.purchases.alias(Purchase("cykelpartner", "1002"), "postdanmark", "P1")

        _, made, logged = replayed(gate, begins, ends)
        assert ([one["reasons"] for one in logged], made) == ([["purchase_already_asked"]], logged)


class TestRunLater:
    """What came after a period is known by then, and must not count in it."""

    @pytest.mark.parametrize("wait", [timedelta(minutes=1), timedelta(days=400)])
    def test_a_doubt_from_before_counts_in_a_period_that_it_outlasted(
        self, gate: Gateway, clock: SimulatedClock, wait: timedelta
    ) -> None:
        channel.install(gate, ScriptedChannel(IN_DOUBT))
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        doubted = gate.submit(newsletter(text="Bells")).message_id
        gate.drain()
        begins = clock.advance(minutes=1)
        for text in ("Tyres", "Lamps", "Bells"):
            gate.submit(newsletter(text=text))
            gate.drain()
            clock.advance(minutes=1)
        ends = clock.now
        before = replayed(gate, begins, ends)
        clock.advance(seconds=wait.total_seconds())
        gate.doubt.resolve(doubted, "not_sent", evidence="asked")

        found, made, logged = replayed(gate, begins, ends)

        assert [one["outcome"] for one in logged] == ["allow", "deny", "deny"]
        assert made == logged
        assert (found, made, logged) == before

    @pytest.mark.parametrize("again", [False, True])
    def test_so_does_an_ask_in_doubt(self, gate: Gateway, clock: SimulatedClock, again: bool) -> None:
        channel.install(gate, ScriptedChannel(IN_DOUBT))
        for point in (ANNA_EMAIL, ANNA_SMS):
            gate.consent.grant(point, party="cykelpartner", purpose="review_request")
        purchase = delivered_purchase(clock.now)
        doubted = gate.submit(review_request(purchase, ANNA_EMAIL)).message_id
        gate.drain()
        begins = clock.advance(minutes=1)
        gate.submit(review_request(purchase, ANNA_SMS))  # of another person, about the same purchase
        gate.submit(review_request(delivered_purchase(clock.now, "1002"), ANNA_EMAIL))  # of the same person
        gate.drain()
        ends = clock.advance(minutes=1)
        before = replayed(gate, begins, ends)
        gate.doubt.resolve(doubted, "not_sent", evidence="asked", send_again=again)

        found, made, logged = replayed(gate, begins, ends)

        reasons = [one["reasons"] for one in logged]
        assert reasons == [["purchase_already_asked"], ["person_asked_recently"]]
        assert made == logged
        assert (found, made, logged) == before

    def test_so_does_what_was_under_way_when_it_began_and_when_it_ended(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        """As a period may be shorter than a hand-off."""
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        period: list[datetime] = []

        def slow(hand_off: HandOff) -> HandOffOutcome:
            period.append(clock.advance(seconds=1))
            gate.submit(newsletter(text="Tyres"))
            gate.submit(newsletter(text="Lamps"))
            gate.drain()
            period.append(clock.advance(seconds=1))
            return REJECTED

        channel.install(gate, ScriptedChannel(slow))
        gate.submit(newsletter(text="Bells"))
        gate.drain()

        _, made, logged = replayed(gate, *period)
        assert ([one["outcome"] for one in logged], made) == (["allow", "deny"], logged)

    @pytest.mark.parametrize("then", ["decided", "cancelled"])
    def test_what_is_in_doubt_and_waits_to_be_sent_again_waits_as_long_as_it_did(
        self, gate: Gateway, clock: SimulatedClock, then: str
    ) -> None:
        """Though it was due before the period ended: workers were late."""
        channel.install(gate, ScriptedChannel(IN_DOUBT))
        begins = clock.now
        late = gate.submit(order_update(purpose="login_code")).message_id
        gate.drain()
        ends = clock.advance(hours=1)
        before = replayed(gate, begins, ends)
        if then == "cancelled":
            gate.cancel(late)
        gate.drain()

        found, made, logged = replayed(gate, begins, ends)

        assert [one["outcome"] for one in logged] == ["allow"]
        assert made == logged
        assert (found, made, logged) == before
        _, made, logged = replayed(gate, begins, clock.advance(hours=1))
        assert (made, len(made)) == (logged, 2 if then == "decided" else 1)


class TestAPeriod:
    def test_that_holds_nothing_is_refused_with_what_the_log_holds(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        with pytest.raises(NotFound, match="the log is empty"):
            gate.log.simulate(since=clock.ago(days=1))
        gate.submit(order_update())
        with pytest.raises(NotFound, match="the log goes from 2026-03-02T10:00:00Z to 2026-03-02T10:00:00Z"):
            gate.log.simulate(since=clock.ago(days=9), until=clock.ago(days=8))

    def test_that_ends_before_it_begins_is_refused(self, gate: Gateway, clock: SimulatedClock) -> None:
        with pytest.raises(InvalidMessage, match="must lie before"):
            gate.log.simulate(since=clock.now)

    def test_that_ends_in_the_future_is_refused(self, gate: Gateway, clock: SimulatedClock) -> None:
        with pytest.raises(InvalidMessage, match="lies in the future"):
            gate.log.simulate(since=clock.now, until=clock.now + timedelta(days=1))

    def test_without_a_time_zone_is_refused(self, gate: Gateway, clock: SimulatedClock) -> None:
        with pytest.raises(InvalidMessage, match="since"):
            gate.log.simulate(since=clock.now.replace(tzinfo=None))

    def test_reports_its_progress_up_to_the_end(self, gate: Gateway, clock: SimulatedClock) -> None:
        for _ in range(2):
            gate.submit(order_update())
            gate.drain()
            clock.advance(minutes=1)
        told: list[tuple[int, int]] = []
        gate.log.simulate(
            since=clock.ago(days=1),
            until=clock.ago(seconds=90),
            progress=lambda done, total: told.append((done, total)),
        )
        assert told[-1][0] == told[-1][1]


def test_a_purchase_or_a_date_that_no_other_row_tells_of_gets_a_row(
    gate: Gateway, clock: SimulatedClock
) -> None:
    gate.purchases.close_case(Purchase("cykelpartner", "1001"))
    gate.purchases.close_case(Purchase("cykelpartner", "1001"))
    gate.purchases.close_case(Purchase("cykelpartner", "1001", delivered_at=clock.now))
    gate.purchases.close_case(Purchase("cykelpartner", "1001", delivered_at=clock.now))

    told = [dict(row.body) for row in gate.log.search(kind="purchase")]
    assert told == [{"delivered_at": clock.now.isoformat()}, {}]
