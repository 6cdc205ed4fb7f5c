"""Retention: what is older than the config lets it become goes, what decisions look at stays."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from support.channel import IN_DOUBT, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, delivered_purchase, newsletter, order_update, review_request
from support.tables import contents, plain_engine

from notifygate import Gateway, Status
from notifygate.gateway.retention import Removal
from notifygate.ledger import removal
from notifygate.ledger.partitions import Dropped


def run(gate: Gateway, **more: Any) -> dict[str, Removal]:
    return {one.kind: one for one in gate.retention.run(**more)}


def texts(url: str) -> set[object]:
    return {row["text"] for row in contents(url)["messages"]} - {None}


def test_nothing_is_removed_unless_configured(gate: Gateway, clock: SimulatedClock, ledger_url: str) -> None:
    gate.submit(order_update())
    gate.drain()
    clock.advance(days=20_000)
    before = contents(ledger_url)

    assert run(gate) == {}
    assert contents(ledger_url) == before


class TestTexts:
    def test_go_so_long_after_the_message_ended_and_not_before(
        self, open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
    ) -> None:
        gate = open_gate(retention={"texts": "90d"})
        gate.submit(order_update(text="old", idempotency_key="k", metadata={"note": "x"}))
        # Submitted as early, and ended later.
        gate.submit(order_update(text="late", send_after=clock.now + timedelta(days=10)))
        gate.drain()
        clock.advance(days=10)
        gate.drain()
        clock.advance(days=80)
        assert run(gate)["texts"].before == 0  # exactly 90 days, and not older

        clock.advance(seconds=1)
        done = run(gate)["texts"]

        assert (done.before, done.removed, done.after) == (1, 1, 0)
        assert texts(ledger_url) == {"late"}
        [row] = [row for row in contents(ledger_url)["messages"] if row["text"] is None]
        assert (row["deliver_to"], row["subject"], row["html"], row["metadata"]) == (None, None, None, "{}")
        # The same request handed over again is still the same request.
        assert gate.submit(order_update(text="old", idempotency_key="k")).duplicate
        assert gate.people.of(ANNA_EMAIL).contact_points == (ANNA_EMAIL,)

    def test_count_from_when_a_message_was_to_go_out_or_did_not_from_when_it_was_submitted(
        self, open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
    ) -> None:
        gate = open_gate(retention={"texts": "90d"})
        cancelled = gate.submit(order_update(text="cancelled", send_after=clock.now + timedelta(days=50)))
        gate.submit(order_update(text="queued for long"))
        clock.advance(days=49)
        gate.cancel(cancelled.message_id)
        gate.drain()
        clock.advance(days=50)

        assert run(gate)["texts"].before == 0
        clock.advance(days=42)
        assert run(gate)["texts"].removed == 2

    def test_of_what_waits_is_under_way_or_in_doubt_stay(
        self, open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
    ) -> None:
        gate = open_gate(retention={"texts": "1d", "contact_points": "1d"})

        def run_meanwhile(hand_off: Any) -> Any:
            clock.advance(days=50)
            assert run(gate)["texts"].removed == 0
            return IN_DOUBT

        channel = install(gate, ScriptedChannel(run_meanwhile))
        doubt = gate.submit(order_update(text="doubt"))
        gate.drain()
        waiting = gate.submit(order_update(text="waiting", send_after=clock.now + timedelta(days=4000)))
        clock.advance(days=1000)

        assert {one.removed for one in run(gate).values()} == {0}
        assert texts(ledger_url) == {"doubt", "waiting"}
        assert gate.status(doubt.message_id) is Status.IN_DOUBT
        clock.advance(days=4000)
        gate.drain()
        assert gate.status(waiting.message_id) is Status.SENT
        assert channel.taken[-1].text == "waiting"

    def test_go_in_short_transactions_that_may_be_broken_off(
        self, open_gate: OpenGate, clock: SimulatedClock, ledger_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = open_gate(retention={"texts": "90d"})
        list(gate.submit_many(order_update(to=f"p{number}@example.dk") for number in range(25)))
        gate.drain()
        clock.advance(days=100)
        ledger = gate._runtime.ledger
        transact, count = ledger.transact, 0

        def break_off(work: Callable[..., Any], **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == 2:
                raise KeyboardInterrupt
            return transact(work, **more)

        monkeypatch.setattr(ledger, "transact", break_off)
        with pytest.raises(KeyboardInterrupt):
            run(gate, batch=10)
        monkeypatch.undo()

        assert sum(row["text"] is None for row in contents(ledger_url)["messages"]) == 10
        done = run(gate, batch=10)["texts"]
        assert (done.before, done.removed) == (15, 15)
        rows = [row for row in contents(ledger_url)["ledger"] if row["kind"] == "retention"]
        bodies = [str(row["body"]) for row in rows]
        assert ['"complete":false' in body for body in bodies] == [True, False]
        assert ['"removed":10' in body for body in bodies] == [True, False]


class TestPersons:
    def test_who_was_not_heard_of_lose_their_addresses_and_their_refusals_hold(
        self, open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
    ) -> None:
        gate = open_gate(retention={"contact_points": "3y"})
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", source="form")
        gate.consent.withdraw(ANNA_EMAIL, source="link")
        gate.submit(order_update(idempotency_key="anna"))
        gate.drain()
        clock.advance(days=1000)
        gate.submit(order_update(to="bo@example.dk"))
        gate.drain()
        clock.advance(days=96)

        done = run(gate)["contact_points"]

        assert (done.before, done.removed, done.keep) == (1, 1, timedelta(days=1095))
        rows = contents(ledger_url)
        assert [row["address"] for row in rows["contact_points"]].count(None) == 1
        assert "anna" not in str(rows).casefold()
        assert rows["suppressions"] == []
        # She comes back without anybody's doing, and what she refused is refused.
        update, news = gate.submit(order_update()), gate.submit(newsletter())
        gate.drain()
        assert gate.status(update.message_id) is Status.SENT
        assert gate.explain(news.message_id).reason == "consent_withdrawn"
        assert gate.people.of(ANNA_EMAIL).contact_points == (ANNA_EMAIL,)

    @pytest.mark.parametrize(
        "event",
        [
            lambda gate, clock: gate.submit(order_update()),
            lambda gate, clock: gate.consent.withdraw(ANNA_EMAIL),
            lambda gate, clock: gate.suppressions.add(ANNA_EMAIL, "manual"),
            lambda gate, clock: gate.people.link(ANNA_EMAIL, "email:other@example.dk", "said so"),
            lambda gate, clock: gate.submit(order_update(to="anna+shop@example.dk")),
            lambda gate, clock: gate.purchases.record_ask(
                delivered_purchase(clock.now), "cykelpartner", clock.now, contact_point=ANNA_EMAIL
            ),
            lambda gate, clock: gate.purchases.record_ask(
                delivered_purchase(clock.now),
                "cykelpartner",
                clock.ago(days=290),
                contact_point="email:anna+old@example.dk",
            ),
            lambda gate, clock: (gate.people.hold(ANNA_EMAIL, "case"), gate.people.release(ANNA_EMAIL)),
        ],
        ids=["message", "consent", "mark", "link", "variant", "ask", "old ask told now", "hold"],
    )
    def test_any_event_at_any_of_their_contact_points_keeps_them(
        self, open_gate: OpenGate, clock: SimulatedClock, event: Callable[..., object], ledger_url: str
    ) -> None:
        gate = open_gate(retention={"contact_points": "1y"})
        list(gate.submit_many([order_update(), order_update(to="other@example.dk")]))
        gate.drain()
        clock.advance(days=300)
        event(gate, clock)
        gate.drain()
        clock.advance(days=100)

        run(gate)
        assert "anna@example.dk" in {row["address"] for row in contents(ledger_url)["contact_points"]}
        clock.advance(days=300)
        run(gate)
        assert {row["address"] for row in contents(ledger_url)["contact_points"]} == {None}


def test_typed_consent_goes_and_what_it_permits_stays(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    gate = open_gate(retention={"consent_texts": "2y"})
    gate.consent.grant(
        ANNA_EMAIL, party="cykelpartner", purpose="newsletter", source="form", evidence="10.0.0.1"
    )
    clock.advance(days=731)
    gate.consent.grant(
        ANNA_EMAIL, party="cykelpartner", purpose="review_request", source="form 2", evidence="10.0.0.2"
    )

    assert run(gate)["consent_texts"].removed == 1

    assert {row["evidence"] for row in contents(ledger_url)["consent_events"]} == {None, "10.0.0.2"}
    assert gate.check(newsletter()).outcome.value == "allow"


def test_decisions_are_the_same_before_and_after_a_run(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    """Caps, duplicates, asks and consent are read from what retention leaves alone."""
    gate = open_gate(retention={"texts": "1d", "consent_texts": "1d", "contact_points": "1d"})
    purchase = delivered_purchase(clock.now)
    for purpose in ("newsletter", "review_request"):
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose=purpose, source="form")
    list(gate.submit_many([newsletter(text=f"Issue {number}") for number in (1, 2)]))
    gate.submit(review_request(purchase))
    gate.drain()
    clock.advance(days=3)
    messages = [
        newsletter(text="Issue 3"),
        newsletter(text="Issue 1"),
        review_request(purchase),
        order_update(),
    ]

    before = [gate.check(message).to_json() for message in messages]
    assert {one["outcome"] for one in before} == {"allow", "deny"}
    done = run(gate)

    assert done["texts"].removed == 3
    assert done["contact_points"].removed == 1
    assert [gate.check(message).to_json() for message in messages] == before


def test_a_dry_run_counts_and_changes_nothing(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    gate = open_gate(
        retention={"texts": "1d", "consent_texts": "1d", "contact_points": "1d", "send_log": "1y"}
    )
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", source="form")
    gate.submit(order_update())
    gate.drain()
    clock.advance(days=800)
    before = contents(ledger_url)

    looked = run(gate, dry_run=True)
    assert contents(ledger_url) == before
    done = run(gate)

    assert {kind: one.removed for kind, one in looked.items()} == {
        kind: one.removed for kind, one in done.items()
    }
    assert done["texts"].removed == done["contact_points"].removed == 1


def test_each_run_leaves_one_row_for_each_kind_that_says_what_went(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    gate = open_gate(retention={"texts": "1d", "consent_texts": "1d"})
    gate.submit(order_update())
    gate.drain()
    clock.advance(days=3)
    run(gate)

    rows = [row for row in contents(ledger_url)["ledger"] if row["kind"] == "retention"]
    assert [row["reason"] for row in rows] == ["texts", "consent_texts"]
    assert '"cutoff":"2026-03-04T10:00:00+00:00"' in str(rows[0]["body"])
    assert '"removed":1' in str(rows[0]["body"])
    assert {row["contact_point_id"] for row in rows} == {None}


def test_months_of_the_send_log_go_and_its_proof_stays_whole(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    gate = open_gate(retention={"send_log": "1y"})
    gate.submit(order_update())
    gate.drain()
    clock.advance(days=500)

    done = run(gate)["send_log"]

    assert (done.before, done.removed) == (3, 3)
    kinds = [row["kind"] for row in contents(ledger_url)["ledger"]]
    assert kinds == ["dropped", "retention"]
    gate.proofs.checkpoint()
    found = gate.proofs.verify()
    assert found.is_intact, found.problems
    assert (found.removed, found.unsealed) == (3, 0)


def test_months_of_the_send_log_about_a_person_on_hold_stay(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    gate = open_gate(retention={"send_log": "1y"})
    gate.submit(order_update(to="bo@example.dk"))
    gate.drain()
    clock.advance(days=60)
    gate.submit(order_update())
    gate.drain()
    gate.people.hold(ANNA_EMAIL, reason="case 12")
    clock.advance(days=500)

    would, done = run(gate, dry_run=True)["send_log"], run(gate)["send_log"]

    for one in (would, done):
        assert (one.before, one.removed, one.on_hold) == (7, 3, 4)
    clock.advance(days=1)
    gate.people.release(ANNA_EMAIL)
    assert run(gate)["send_log"].removed == 4
    gate.proofs.checkpoint()
    assert gate.proofs.verify().is_intact


def test_a_decision_about_a_person_on_hold_keeps_its_month_though_the_submission_is_gone(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    gate = open_gate(retention={"send_log": "1y"})
    gate.submit(order_update(send_after=clock.now + timedelta(days=60)))
    clock.advance(days=60)
    gate.drain()
    clock.advance(days=370)
    assert run(gate)["send_log"].removed == 1
    gate.people.hold(ANNA_EMAIL, reason="case 12")
    clock.advance(days=60)

    done = run(gate)["send_log"]

    assert (done.removed, done.on_hold) == (0, 2)
    kinds = [row["kind"] for row in contents(ledger_url)["ledger"]]
    assert kinds[:2] == ["decision", "attempt"]


def test_a_hold_placed_while_months_are_dropped_keeps_all_that_is_left(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = open_gate(retention={"send_log": "1y"})
    for _ in range(3):
        gate.submit(order_update(text=f"As of {clock.now}."))
        gate.drain()
        clock.advance(days=31)
    clock.advance(days=500)
    before = {row["position"] for row in contents(ledger_url)["ledger"]}
    ledger = gate._runtime.ledger
    transact, is_held = ledger.transact, False

    def hold_after_the_first(work: Callable[..., Any], **more: Any) -> Any:
        nonlocal is_held
        done = transact(work, **more)
        if isinstance(done, Dropped) and not is_held:
            is_held = True
            gate.people.hold(ANNA_EMAIL, reason="case 12")
        return done

    monkeypatch.setattr(ledger, "transact", hold_after_the_first)
    monkeypatch.setattr(removal, "_AT_ONCE", 2)  # on SQLite a month takes several transactions

    done = run(gate)["send_log"]

    assert is_held
    gone = before - {row["position"] for row in contents(ledger_url)["ledger"]}
    assert len(gone) == (2 if ledger.dialect == "sqlite" else 3)
    assert (done.before, done.removed) == (9, len(gone))
    gate.proofs.checkpoint()
    assert gate.proofs.verify().is_intact


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_a_person_who_is_written_to_just_now_does_not_age_out(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    """INVARIANT(nobody is silent who is written to just now). On SQLite nobody else writes meanwhile."""
    gate = open_gate(retention={"contact_points": "1y"})
    gate.submit(order_update())
    gate.drain()
    clock.advance(days=800)
    with ThreadPoolExecutor(1) as pool:
        with plain_engine(ledger_url) as engine, engine.connect() as conn, conn.begin():
            gate.submit(order_update(text="Your code."), connection=conn)
            running = pool.submit(run, gate)
            with pytest.raises(TimeoutError):
                running.result(timeout=1)

        assert running.result()["contact_points"].removed == 0
    assert "Your code." in texts(ledger_url)
    gate.drain()
    assert [row["status"] for row in contents(ledger_url)["messages"]] == ["sent", "sent"]
