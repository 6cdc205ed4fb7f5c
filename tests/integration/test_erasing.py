"""Erasing a person: every address and text goes, from every table and file; what must hold goes on holding."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.channel import ACCEPTED, FAILED, IN_DOUBT, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, delivered_purchase, order_update
from support.tables import contents, plain_engine

from notifygate import (
    Email,
    Gateway,
    InvalidMessage,
    Message,
    NotFound,
    OnHold,
    Purchase,
    Sms,
    Status,
)
from notifygate.channels import HandOff, HandOffOutcome
from notifygate.consent import ConsentEvent
from notifygate.gateway.consent_imports import ImportRow
from notifygate.ledger import people, vacuum
from notifygate.message import Result

EMAIL = "email:Kirsten.Olsen+gave@example.dk"
PLAIN_EMAIL = "email:kirsten.olsen@example.dk"
SMS = "sms:+45 26 71 48 39"
TEXT = "En overraskelse til dig."
SECRETS = (
    "kirsten",
    "olsen",
    "26714839",
    "26 71 48 39",
    "overraskelse",
    "hemmelig",
    "klokke",
    "personnummer",
)


def secrets_in(text: str) -> list[str]:
    folded = text.casefold()
    return [secret for secret in SECRETS if secret in folded]


def traces(url: str) -> dict[str, list[str]]:
    """The secrets that are found in any column of any table, by table."""
    found: dict[str, list[str]] = {}
    for table, rows in contents(url).items():
        for row in rows:
            for column, value in row.items():
                if secrets_in(str(value)):
                    found.setdefault(f"{table}.{column}", []).append(str(value))
    return found


def email(purpose: str = "order_update", to: str = EMAIL, **more: Any) -> Message:
    content = Email(to.partition(":")[2], "Hemmelig", text=TEXT, html="<p>Klokke</p>")
    basics: dict[str, Any] = {"merchant": "florist", "purpose": purpose, "content": content}
    return Message(**basics | {"metadata": {"note": "personnummer 1"}} | more)


def sms(purpose: str = "order_update", to: str = SMS, **more: Any) -> Message:
    basics: dict[str, Any] = {"merchant": "florist", "purpose": purpose}
    return Message(**basics | {"content": Sms(to.partition(":")[2], TEXT)} | more)


def live(gate: Gateway, clock: SimulatedClock) -> None:
    """Let everything happen to her that leaves something behind."""
    install(
        gate,
        ScriptedChannel(
            FAILED,
            IN_DOUBT,
            lambda hand_off: HandOffOutcome(result=Result.ACCEPTED, provider_id=f"<{hand_off.to}>"),
        ),
    )
    for point in (EMAIL, SMS):
        gate.consent.grant(
            point, party="florist", purpose="newsletter", source="olsen's form", evidence="klokke 10"
        )
    gate.consent.soft_opt_in(
        EMAIL,
        party="florist",
        purpose="review_request",
        sale_ref="olsen-1",
        opt_out_offered=True,
        actor="kirsten",
    )
    purchase = delivered_purchase(clock.now, "F1", "florist")
    gate.purchases.alias(purchase, "postdanmark", "PD1")
    first = gate.submit(email(idempotency_key="kirsten.olsen@example.dk/1"))
    list(
        gate.submit_many(
            [
                email("newsletter", idempotency_key="olsen-2"),
                email("review_request", purchase=purchase),
                sms("newsletter"),
                sms(send_after=clock.now.replace(year=2027)),
                email(to=PLAIN_EMAIL),
            ]
        )
    )
    gate.cancel(gate.submit(sms()).message_id, reason="Kirsten called")
    gate.drain()
    clock.advance(hours=1)
    gate.drain()
    gate.people.link(EMAIL, SMS, "kirsten wrote from both")
    gate.consent.withdraw(SMS, source="phone call with Olsen")
    gate.suppressions.add(SMS, "hard_bounce")
    gate.people.hold(SMS, "Olsen against the florist")
    gate.people.release(SMS)
    for doubt in gate.doubt.list():
        gate.doubt.resolve(doubt.message_id, "sent", evidence="olsen said she has it", actor="me")
    assert gate.status(first.message_id) is not Status.QUEUED


class TestErasing:
    def test_leaves_no_trace_of_address_or_text_in_any_table(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        live(gate, clock)
        before = traces(ledger_url)
        # So that the test looks at something.
        assert {place.partition(".")[0] for place in before} == {
            "contact_points",
            "messages",
            "consent_events",
            "person_links",
            "legal_holds",
        }

        gate.people.erase(SMS)

        assert traces(ledger_url) == {}

    def test_touches_nothing_of_anybody_else(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        other = gate.submit(
            Message(
                merchant="florist", purpose="order_update", content=Email("bo@example.dk", "Hej", text="Bo!")
            )
        )
        gate.consent.grant("email:bo@example.dk", party="florist", purpose="newsletter", source="his form")
        live(gate, clock)

        def rows_of_bo() -> list[object]:
            rows = contents(ledger_url)
            [point] = [row for row in rows["contact_points"] if row["address"] == "bo@example.dk"]
            mine = point["contact_point_id"]
            return [row for table in rows.values() for row in table if row.get("contact_point_id") == mine]

        before = rows_of_bo()
        gate.people.erase(EMAIL)
        assert rows_of_bo() == before
        assert gate.status(other.message_id) is Status.SENT

    def test_leaves_every_row_of_the_send_log_as_it_was(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        live(gate, clock)
        before = contents(ledger_url)["ledger"]

        gate.people.erase(EMAIL)

        after = contents(ledger_url)["ledger"]
        assert after[: len(before)] == before
        added = [(row["kind"], row["reason"]) for row in after[len(before) :]]
        assert sorted(map(str, added)) == sorted(
            map(str, [("cancelled", "erased"), *[("erased", "request")] * 3])
        )

    def test_as_a_dry_run_changes_nothing_and_counts_what_the_real_one_takes(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        live(gate, clock)
        before = contents(ledger_url)

        looked = gate.people.erase(EMAIL, dry_run=True)
        assert contents(ledger_url) == before
        done = gate.people.erase(EMAIL)

        assert looked.taken == done.taken
        assert (looked.dry_run, done.dry_run) == (True, False)
        assert (done.taken.addresses, done.taken.waiting, done.taken.consent_texts) == (3, 1, 4)
        assert done.taken.messages == 7
        assert (done.taken.link_evidence, done.taken.hold_reasons) == (1, 1)
        again = gate.people.erase(EMAIL)
        assert set(again.taken.to_json().values()) == {0}

    def test_cancels_what_waits(self, gate: Gateway, clock: SimulatedClock) -> None:
        waiting = gate.submit(sms(send_after=clock.now.replace(year=2027)))

        gate.people.erase(SMS)

        story = gate.explain(waiting.message_id)
        assert (story.status, story.reason, story.contact_point) == (Status.CANCELLED, "erased", None)

    def test_of_nobody_known_says_so(self, gate: Gateway) -> None:
        with pytest.raises(NotFound) as raised:
            gate.people.erase(EMAIL)
        assert secrets_in(str(raised.value)) == []
        with pytest.raises(NotFound):
            gate.people.erase("cp_unknown")

    def test_takes_only_grounds_that_it_knows(self, gate: Gateway) -> None:
        gate.submit(email())
        with pytest.raises(InvalidMessage, match="reason: must be one of request,"):
            gate.people.erase(EMAIL, reason="kirsten asked")

    def test_can_be_done_again_by_the_ids_after_a_backup_brought_the_person_back(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        live(gate, clock)
        looked = gate.people.erase(EMAIL, dry_run=True)
        [one, *_] = looked.contact_point_ids

        done = gate.people.erase(one, reason="again")

        assert done.contact_point_ids == looked.contact_point_ids
        assert traces(ledger_url) == {}


class TestAfterwards:
    def test_a_message_to_any_of_her_addresses_is_denied_and_nothing_of_it_is_kept(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        live(gate, clock)
        gate.people.erase(EMAIL)

        ids = [
            gate.submit(message).message_id
            for message in (
                email(),
                sms(),
                email(idempotency_key="olsen-2"),
                email(to="email:kirsten.olsen+ny@example.dk"),
                email(send_after=clock.now.replace(year=2027)),
            )
        ]
        assert traces(ledger_url) == {}  # at once: it may wait for long
        gate.drain()

        assert traces(ledger_url) == {}
        for message_id in ids[:-1]:
            story = gate.explain(message_id)
            assert (story.status, story.reason) == (Status.DENIED, "suppressed_erased")

    def test_nothing_is_kept_of_a_message_that_was_taken_in_before_the_mark_was_seen(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        """As by a transaction that was under way; here by a person who was linked to an erased one."""
        gate.submit(sms())
        gate.people.erase(SMS)
        receipt = gate.submit(email())
        gate.people.link(EMAIL, SMS, "one account")

        gate.drain()

        assert gate.explain(receipt.message_id).reason == "suppressed_erased"
        found = traces(ledger_url)
        assert set(found) <= {"person_links.evidence"}

    def test_of_an_address_that_is_found_to_be_hers_nothing_more_is_kept(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        gate.submit(sms())
        gate.people.erase(SMS)
        gate.submit(order_update())
        gate.drain()
        gate.people.link(ANNA_EMAIL, SMS, "one account")

        receipt = gate.submit(
            order_update(text=TEXT, idempotency_key="olsen-3", send_after=clock.now.replace(year=2027))
        )
        gate.consent.withdraw(ANNA_EMAIL, source="olsen rang", evidence="kirsten", actor="olsen")

        assert traces(ledger_url) == {}
        [row] = [row for row in contents(ledger_url)["messages"] if row["message_id"] == receipt.message_id]
        assert row["deliver_to"] is None

    @pytest.mark.parametrize("how", ["recorded", "imported"])
    def test_nothing_is_kept_of_what_is_typed_when_a_permission_of_hers_is_declared_void(
        self, gate: Gateway, ledger_url: str, how: str
    ) -> None:
        """Whatever contact point that is told for."""
        permission = gate.consent.grant(EMAIL, party="florist", purpose="newsletter", source="form")
        gate.people.erase(EMAIL)
        event = ConsentEvent(
            state="invalidated",
            contact_point=ANNA_EMAIL,
            invalidates=permission,
            source="olsen rang",
            evidence="kirsten",
        )

        if how == "recorded":
            gate.consent.record(event)
        else:
            [row] = gate.consent.import_events([ImportRow(event=event)], source="mailchimp")
            assert row.outcome == "written"

        assert traces(ledger_url) == {}
        assert [one.state for one in gate.consent.history(EMAIL)] == ["granted", "invalidated"]

    def test_her_refusal_is_honoured_even_once_the_mark_is_lifted(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.grant(EMAIL, party="florist", purpose="newsletter", source="form")
        gate.consent.withdraw(EMAIL, source="link")
        gate.people.erase(EMAIL)
        gate.suppressions.remove(EMAIL, "erased")

        receipt = gate.submit(email("newsletter"))
        gate.drain()

        assert gate.explain(receipt.message_id).reason == "consent_withdrawn"

    def test_a_new_refusal_is_recorded_and_nothing_that_was_typed_with_it(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        gate.submit(email())
        gate.people.erase(EMAIL)

        gate.consent.withdraw(EMAIL, source="olsen rang", evidence="kirsten", actor="olsen")

        assert traces(ledger_url) == {}
        [event] = gate.consent.history(EMAIL)
        assert event.state == "withdrawn"

    def test_asks_and_caps_count_what_was_sent_before(self, gate: Gateway, clock: SimulatedClock) -> None:
        purchase = delivered_purchase(clock.now, "F1", "florist")
        for point in (EMAIL, "email:bo@example.dk"):
            gate.consent.grant(point, party="florist", purpose="review_request", source="form")
        gate.submit(email("review_request", purchase=purchase))
        gate.drain()
        gate.people.erase(EMAIL)

        other = gate.submit(email("review_request", to="email:bo@example.dk", purchase=purchase))
        gate.drain()

        assert gate.explain(other.message_id).reason == "purchase_already_asked"

    def test_she_comes_back_with_a_new_consent_once_the_mark_is_lifted(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.withdraw(EMAIL)
        gate.submit(email())
        gate.people.erase(EMAIL)
        clock.advance(days=1)
        gate.consent.grant(EMAIL, party="florist", purpose="newsletter", source="new form")
        assert gate.people.of(EMAIL).contact_points[0] == "email:(erased)"

        gate.suppressions.remove(EMAIL, "erased")
        channel = install(gate, ScriptedChannel(ACCEPTED))
        receipt = gate.submit(email("newsletter"))
        gate.drain()

        assert gate.status(receipt.message_id) is Status.SENT
        assert [hand_off.to for hand_off in channel.taken] == ["Kirsten.Olsen+gave@example.dk"]
        assert "email:kirsten.olsen+gave@example.dk" in gate.people.of(EMAIL)

    def test_a_message_left_without_text_is_not_sent_empty_when_the_mark_is_lifted(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        channel = install(gate, ScriptedChannel())
        gate.submit(email())
        gate.drain()
        gate.people.erase(EMAIL)
        receipt = gate.submit(email(send_after=clock.now.replace(year=2027)))
        gate.suppressions.remove(EMAIL, "erased")
        gate.consent.history(EMAIL)
        gate.submit(email())  # brings the address back
        clock.set(clock.now.replace(year=2028))
        gate.drain()

        assert gate.status(receipt.message_id) is Status.FAILED
        assert all(hand_off.text for hand_off in channel.taken)


class TestAMessageUnderWay:
    def test_is_sent_as_it_was_and_recorded_and_nothing_of_it_is_kept(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        def erase_meanwhile(hand_off: HandOff) -> HandOffOutcome:
            kept = gate.people.erase(EMAIL).kept
            assert kept.in_flight == 1
            return HandOffOutcome(result=Result.ACCEPTED, provider_id="abc-1")

        channel = install(gate, ScriptedChannel(erase_meanwhile))
        receipt = gate.submit(email())
        gate.drain()

        [taken] = channel.taken
        assert (taken.to, taken.text) == ("Kirsten.Olsen+gave@example.dk", TEXT)
        assert gate.status(receipt.message_id) is Status.SENT
        assert traces(ledger_url) == {}

    def test_is_not_tried_again(self, gate: Gateway, clock: SimulatedClock, ledger_url: str) -> None:
        def erase_and_fail(hand_off: HandOff) -> HandOffOutcome:
            gate.people.erase(EMAIL)
            return FAILED

        channel = install(gate, ScriptedChannel(erase_and_fail))
        receipt = gate.submit(email())
        gate.drain()
        clock.advance(hours=2)
        gate.drain()

        assert len(channel.taken) == 1
        assert gate.explain(receipt.message_id).reason == "suppressed_erased"
        assert traces(ledger_url) == {}

    def test_in_doubt_keeps_its_place_and_can_be_resolved(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        install(gate, ScriptedChannel(IN_DOUBT))
        receipt = gate.submit(email())
        gate.drain()

        assert gate.people.erase(EMAIL).kept.in_doubt == 1
        assert traces(ledger_url) == {}
        gate.doubt.resolve(receipt.message_id, "sent", evidence="log line 7", actor="me")
        assert gate.status(receipt.message_id) is Status.SENT


def test_what_a_provider_calls_a_message_is_not_kept_where_it_is_made_of_the_address(
    gate: Gateway, ledger_url: str
) -> None:
    """It would stand in the send log, where nothing can be taken away."""
    ids = ["4526714839-77", "q-1"]
    install(gate, ScriptedChannel(*[HandOffOutcome(result=Result.ACCEPTED, provider_id=one) for one in ids]))
    receipts = [gate.submit(sms()), gate.submit(sms())]
    gate.drain()

    named = [gate.explain(one.message_id).attempts[0].provider_id for one in receipts]
    assert sorted(named, key=str) == sorted([None, "q-1"], key=str)
    assert set(traces(ledger_url)) == {"contact_points.address", "messages.deliver_to", "messages.text"}


_STEPS = st.lists(
    st.sampled_from(
        [
            "submit email",
            "submit sms",
            "submit variant",
            "later",
            "drain",
            "link",
            "unlink",
            "grant",
            "withdraw",
            "erase",
            "advance",
            "lift",
        ]
    ),
    min_size=3,
    max_size=14,
)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(steps=_STEPS)
def test_whatever_happened_before_an_erasure_and_after_it_nothing_is_found(
    steps: list[str], databases: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from support import config as configs

    folder = tmp_path_factory.mktemp("story")
    with databases.fresh(folder) as url:
        path = configs.write(folder / "n.toml", {"gateway": {"ledger": url}}, {})
        clock = SimulatedClock()
        with Gateway.open(path, clock=clock) as gate:
            install(gate, ScriptedChannel(FAILED, IN_DOUBT, ACCEPTED, FAILED, IN_DOUBT))
            gate.submit(email())
            for step in steps:
                _do(step, gate, clock)
            for point in (EMAIL, SMS):
                try:
                    gate.people.erase(point)
                except NotFound:
                    continue
            assert traces(url) == {}
            gate.submit(email())
            if "submit sms" in steps:
                gate.submit(sms())
            assert traces(url) == {}
            clock.advance(days=400)
            gate.drain()
            assert traces(url) == {}


def _do(step: str, gate: Gateway, clock: SimulatedClock) -> None:
    match step:
        case "submit email":
            gate.submit(email("newsletter", idempotency_key=f"olsen-{clock.now}"))
        case "submit sms":
            gate.submit(sms())
        case "submit variant":
            gate.submit(email(to="email:kirsten.olsen+x@example.dk"))
        case "later":
            gate.submit(email(send_after=clock.now.replace(year=2027)))
        case "drain":
            gate.drain()
        case "link":
            gate.people.link(EMAIL, SMS, "kirsten wrote from both")
        case "unlink":
            try:
                gate.people.unlink(EMAIL, SMS)
            except NotFound:
                return
        case "grant":
            gate.consent.grant(EMAIL, party="florist", purpose="newsletter", source="olsen's form")
        case "withdraw":
            gate.consent.withdraw(EMAIL, evidence="kirsten called")
        case "erase":
            gate.people.erase(EMAIL)
        case "lift":
            try:
                gate.suppressions.remove(EMAIL, "erased")
            except NotFound:
                return
        case "advance":
            clock.advance(hours=30)


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
class TestTheFileOfSqlite:
    def read(self, tmp_path: Path) -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))

    def test_holds_nothing_of_her_after_the_vacuum_and_did_before(
        self, gate: Gateway, clock: SimulatedClock, tmp_path: Path
    ) -> None:
        live(gate, clock)
        gate.people.erase(EMAIL)
        assert secrets_in(self.read(tmp_path).decode("latin-1")) != []  # which is why it is needed

        assert gate.vacuum() is None

        assert secrets_in(self.read(tmp_path).decode("latin-1")) == []
        assert not (tmp_path / "ledger.db-wal").stat().st_size

    def test_is_said_to_be_unclean_where_others_are_in_the_way(
        self, gate: Gateway, clock: SimulatedClock, tmp_path: Path, ledger_url: str
    ) -> None:
        live(gate, clock)
        with plain_engine(ledger_url) as engine, engine.connect() as reader:
            reader.execute(sa.text("SELECT count(*) FROM messages")).scalar_one()
            reader.exec_driver_sql("BEGIN")
            reader.exec_driver_sql("SELECT count(*) FROM messages").fetchall()
            gate.people.erase(EMAIL)
            left = gate.vacuum(patience_s=0.3)
            assert left is not None
            assert "reading" in left
            reader.exec_driver_sql("ROLLBACK")
            writer = reader
            writer.exec_driver_sql("BEGIN IMMEDIATE")
            left = gate.vacuum(patience_s=0.3)
            assert left is not None
            assert "writing" in left
            writer.exec_driver_sql("ROLLBACK")
        assert gate.vacuum() is None
        assert secrets_in(self.read(tmp_path).decode("latin-1")) == []


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_on_postgresql_a_transaction_that_still_sees_her_is_waited_for_and_told_of(
    gate: Gateway, ledger_url: str
) -> None:
    gate.submit(email())
    with plain_engine(ledger_url) as engine, engine.connect() as reader:
        reader.execution_options(isolation_level="REPEATABLE READ")
        reader.execute(sa.text("SELECT count(*) FROM messages")).scalar_one()
        gate.people.erase(EMAIL)
        left = gate.vacuum(patience_s=0.3)
        assert left is not None
        assert "still open" in left
        reader.rollback()
    assert gate.vacuum() is None


def test_two_processes_that_erase_while_workers_send_end_with_nothing_kept(
    open_gate: OpenGate, clock: SimulatedClock, ledger_url: str
) -> None:
    """Erasing takes locks in the order in which workers do: threads of both kinds get through."""
    gates = [open_gate() for _ in range(3)]
    for number in range(30):
        gates[0].submit(email(idempotency_key=f"olsen-{number}"))
    faults: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # told below
            faults.append(error)

    def submit_more() -> None:
        for _ in range(20):
            gates[2].submit(email(to="email:kirsten.olsen+a@example.dk"))

    threads = [
        threading.Thread(target=run, args=(work,))
        for work in (gates[0].drain, gates[1].drain, lambda: gates[2].people.erase(EMAIL), submit_more)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    gates[0].drain()
    assert traces(ledger_url) == {}


def test_a_hold_stops_it(gate: Gateway, ledger_url: str) -> None:
    gate.submit(email())
    gate.people.hold(EMAIL, "case 7")
    before = contents(ledger_url)

    with pytest.raises(OnHold):
        gate.people.erase(EMAIL)
    assert gate.people.erase(EMAIL, dry_run=True).on_hold

    assert contents(ledger_url) == before


def test_vacuum_names_tables_that_are_there(ledger_url: str) -> None:
    assert set(vacuum._WITH_PERSONAL_DATA) <= set(contents(ledger_url))


def test_a_purchase_keeps_its_names(gate: Gateway, clock: SimulatedClock) -> None:
    """The order number is the seller's, and the buyer may be somebody else: asked once must hold for them."""
    purchase = delivered_purchase(clock.now, "F1", "florist")
    gate.purchases.record_ask(purchase, "florist", clock.now, contact_point=EMAIL)
    gate.people.erase(EMAIL)
    gate.purchases.alias(Purchase("florist", "F1"), "postdanmark", "PD1")
    gate.consent.grant("email:bo@example.dk", party="florist", purpose="review_request", source="form")
    decision = gate.check(email("review_request", to="email:bo@example.dk", purchase=purchase))
    assert "purchase_already_asked" in [str(reason) for reason in decision.reasons]


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
@pytest.mark.parametrize("to", ["anna@example.dk", "anna+shop@example.dk"], ids=["known", "variant"])
def test_waits_for_a_message_that_is_being_submitted_and_takes_it_along(
    gate: Gateway, clock: SimulatedClock, ledger_url: str, to: str
) -> None:
    """INVARIANT(nothing is typed beside an erasure). On SQLite nobody else writes meanwhile."""
    gate.submit(order_update())
    erased = threading.Event()

    def erase() -> None:
        gate.people.erase(ANNA_EMAIL)
        erased.set()

    erasing = threading.Thread(target=erase)
    with plain_engine(ledger_url) as engine, engine.connect() as conn, conn.begin():
        later = clock.now + timedelta(days=300)
        message = order_update(to=to, text="Secret.", send_after=later, idempotency_key="anna-77")
        gate.submit(message, connection=conn)
        erasing.start()
        assert not erased.wait(1)
    erasing.join()

    found = contents(ledger_url)["messages"]
    assert [row["status"] for row in found] == ["cancelled", "cancelled"]
    assert {row[name] for row in found for name in ("deliver_to", "text", "idempotency_key")} == {None}
    assert {row["address"] for row in contents(ledger_url)["contact_points"]} == {None}


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_waits_for_a_refusal_that_is_being_written_for_a_new_variant_of_an_address(
    gate: Gateway, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.submit(order_update())
    locks, taken_in, go_on = people.lock_persons_of, threading.Event(), threading.Event()

    def lock_later(conn: sa.Connection, contact_point_ids: Collection[str]) -> dict[str, str]:
        if not taken_in.is_set():
            taken_in.set()
            go_on.wait(20)
        return locks(conn, contact_point_ids)

    monkeypatch.setattr(people, "lock_persons_of", lock_later)
    with ThreadPoolExecutor(2) as pool:
        refusing = pool.submit(gate.consent.withdraw, "email:anna+shop@example.dk", evidence="she said so")
        assert taken_in.wait(20)
        erasing = pool.submit(gate.people.erase, ANNA_EMAIL)
        with pytest.raises(TimeoutError):
            erasing.result(timeout=1)
        go_on.set()
        refusing.result()
        assert len(erasing.result().contact_point_ids) == 2

    found = contents(ledger_url)
    assert [row["evidence"] for row in found["consent_events"]] == [None]
    assert {row["address"] for row in found["contact_points"]} == {None}


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_goes_on_beside_links_refusals_and_new_variants_without_a_deadlock(
    open_gate: OpenGate, clock: SimulatedClock
) -> None:
    """INVARIANT(locks in one order)."""
    gate = open_gate()
    deadlocks: list[object] = []

    def note(context: sa.engine.ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == "40P01":
            deadlocks.append(context.statement)

    sa.event.listen(gate._runtime.ledger.engine, "handle_error", note)
    gate.people.link(EMAIL, SMS, "one account")
    gate.submit(sms())

    def link(number: int) -> None:
        gate.people.link(EMAIL, SMS, "one account")
        with suppress(NotFound):
            gate.people.unlink(EMAIL, SMS)

    def refuse(number: int) -> None:
        gate.consent.withdraw(f"email:kirsten.olsen+a{number}@example.dk", evidence="kirsten")

    def submit(number: int) -> None:
        later = clock.now + timedelta(days=1)
        gate.submit(email(to=f"email:kirsten.olsen+b{number}@example.dk", send_after=later))

    def erase(number: int) -> None:
        gate.people.erase(EMAIL)

    def repeat(step: Callable[[int], None]) -> None:
        for number in range(8):
            step(number)

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(repeat, step) for step in (link, link, refuse, submit, erase)]:
            done.result()

    assert deadlocks == []


def test_keeps_nothing_of_what_is_typed_when_a_doubt_is_resolved_later(
    gate: Gateway, ledger_url: str
) -> None:
    install(gate, ScriptedChannel(IN_DOUBT))
    message_id = gate.submit(order_update()).message_id
    gate.drain()
    gate.people.erase(ANNA_EMAIL)

    gate.doubt.resolve(message_id, "sent", evidence="anna said so on the phone")

    assert "anna said so" not in str(contents(ledger_url))


def test_the_address_that_was_typed_is_not_shown_as_if_it_were_still_known(gate: Gateway) -> None:
    gate.submit(order_update())
    gate.people.erase(ANNA_EMAIL)

    assert list(gate.people.of(ANNA_EMAIL)) == ["email:(erased)"]
