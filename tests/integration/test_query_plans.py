"""Whatever a message goes through is answered by indexes: it takes as long in a ledger of ten million rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from support.channel import IN_DOUBT, ScriptedChannel, install
from support.clock import SimulatedClock
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)
from support.plans import recorded, scans, sorts
from support.tables import plain_engine

from notifygate import Gateway, Status
from notifygate.address import Channel
from notifygate.ledger import gauges, messages, partitions, searching


def live(gate: Gateway, clock: SimulatedClock) -> str:
    """Let all happen that happens to messages; return the id of one that was sent."""
    purchase = delivered_purchase(clock.now)
    gate.consent.grant(
        ANNA_EMAIL, party="cykelpartner", purpose="newsletter", source="form", notice_version="1"
    )
    gate.consent.soft_opt_in(
        ANNA_EMAIL, party="cykelpartner", purpose="review_request", sale_ref="1001", opt_out_offered=True
    )
    gate.people.link(ANNA_EMAIL, ANNA_SMS, evidence="one account")
    gate.purchases.alias(purchase, "postdanmark", "PX-77")
    sent = gate.submit(order_update(idempotency_key="k")).message_id
    assert gate.submit(order_update(idempotency_key="k")).duplicate
    list(gate.submit_many([newsletter(), review_request(purchase), order_update(to="bo@example.dk")]))
    waiting = gate.submit(review_request(purchase, send_after=clock.now + timedelta(days=1))).message_id
    gate.check(newsletter(text="More."))
    gate.drain()
    gate.purchases.open_case(purchase)
    gate.purchases.close_case(purchase)
    gate.purchases.record_review(purchase, clock.now)
    gate.cancel(waiting, reason="refunded")
    install(gate, ScriptedChannel(IN_DOUBT))
    doubtful = gate.submit(order_update(text="Hm.")).message_id
    gate.drain()
    gate.doubt.resolve(doubtful, "sent", evidence="mail log")
    gate.consent.withdraw(ANNA_SMS)
    gate.suppressions.add(ANNA_SMS, "manual")
    gate.people.unlink(ANNA_EMAIL, ANNA_SMS)
    assert gate.status(sent) is Status.SENT
    return sent


def sweep(gate: Gateway, clock: SimulatedClock) -> None:
    """What workers do beside: queue what is due, see to leases, look at the ledger."""
    runtime = gate._runtime
    for service in (True, False):
        with runtime.ledger.begin() as conn:
            messages.claim_for_queue(
                conn, clock.now, service=service, again_after=timedelta(minutes=1), limit=500
            )
    runtime.ledger.transact(lambda conn: messages.queue_again(conn, ["msg_1"], clock.now))
    runtime.expire_leases()
    runtime.mark.make()
    runtime.mark.check()
    with runtime.ledger.read() as conn:
        gauges.read(conn, clock.now)


def look_up(gate: Gateway, clock: SimulatedClock, message_id: str) -> None:
    """What people ask."""
    gate.explain(message_id)
    gate.log.of_message(message_id)
    gate.log.story(gate.log.story(message_id).attempts[0].attempt_id)
    for conditions in (
        {"contact_point": ANNA_EMAIL},
        {"contact_point": ANNA_EMAIL, "kind": "decision", "since": clock.ago(days=1), "until": clock.now},
        {"purchase": ("postdanmark", "PX-77")},
        {"message_id": message_id},
        {"since": clock.ago(days=1), "until": clock.now},
    ):
        assert list(gate.log.search(**conditions, limit=1)) or "until" in conditions
    with gate._runtime.ledger.read() as conn:
        messages.last_accepted(conn, Channel.EMAIL)


RARE = {
    "ix_ledger_scope": (
        {"merchant": "nobody"},
        {"merchant": "nobody", "purpose": "x"},
        {"purpose": "nothing"},
    ),
    "ix_ledger_policy": ({"policy": "f" * 64},),
    "ix_ledger_reason": ({"reason": "cap_reached"}, {"reason": "cap_reached", "merchant": "cykelpartner"}),
    "ix_ledger_outcome": ({"outcome": "rejected"}, {"outcome": "rejected", "channel": "sms"}),
    "ix_ledger_kind": ({"kind": "restored"}, {"kind": "restored", "since": datetime(2020, 1, 1, tzinfo=UTC)}),
}
"""Conditions that fit few rows or none, by the index that must find them."""


@pytest.fixture
def looks_at_one_row_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search of a small log take the ways that it takes in a long one."""
    monkeypatch.setattr(searching, "_LOOKED_THROUGH", {"sqlite": (1,), "postgresql": (1,)})


def test_no_statement_reads_a_whole_table(gate: Gateway, ledger_url: str, clock: SimulatedClock) -> None:
    with recorded(gate._runtime.ledger.engine) as statements:
        sent = live(gate, clock)
        sweep(gate, clock)
        look_up(gate, clock, sent)

    assert len(statements) > 40
    assert scans(ledger_url, statements) == []


def test_answering_and_erasing_one_person_reads_no_whole_table(
    gate: Gateway, ledger_url: str, clock: SimulatedClock
) -> None:
    live(gate, clock)
    with recorded(gate._runtime.ledger.engine) as statements:
        gate.people.hold(ANNA_EMAIL, "case 7")
        gate.people.release(ANNA_EMAIL)
        gate.people.export(ANNA_EMAIL, with_holds=True)
        gate.submit(order_update(send_after=clock.now + timedelta(days=1)))
        gate.people.erase(ANNA_EMAIL, dry_run=True)
        gate.people.erase(ANNA_EMAIL)
        gate.submit(order_update(to="anna+new@example.dk"))
        gate.submit(order_update())
        gate.drain()

    assert len(statements) > 40
    assert scans(ledger_url, statements) == []


def test_what_the_send_log_has_about_persons_on_hold_is_found_by_indexes(
    gate: Gateway, ledger_url: str, clock: SimulatedClock
) -> None:
    """The holds themselves are read whole: there are few."""
    live(gate, clock)
    gate.people.hold(ANNA_EMAIL, "case 7")
    with recorded(gate._runtime.ledger.engine) as statements, gate._runtime.ledger.read() as conn:
        partitions.may_go_before(conn, clock.now)

    assert len(statements) == 3
    assert [found for found in scans(ledger_url, statements) if "legal_holds" not in found] == []


def test_what_is_due_is_read_in_the_order_of_its_index(
    gate: Gateway, ledger_url: str, clock: SimulatedClock
) -> None:
    """However much is due: a batch must not begin with sorting all of it."""
    with recorded(gate._runtime.ledger.engine) as statements, gate._runtime.ledger.read() as conn:
        messages.due(conn, clock.now, 100)
        messages.due(conn, clock.now, 100, after=(clock.now, "msg_1"))

    assert len(statements) == 2
    assert sorts(ledger_url, statements) == []


@pytest.mark.parametrize(
    "index",
    [
        "ix_reservations_history",
        "ix_ledger_message_id",
        "ix_ledger_contact_point_id",
        "ix_ledger_purchase_id",
        "ix_messages_contact_point_id",
        "ix_consent_events_contact_point_id",
    ],
)
def test_a_missing_index_is_noticed(
    gate: Gateway, ledger_url: str, clock: SimulatedClock, index: str
) -> None:
    with recorded(gate._runtime.ledger.engine) as statements:
        look_up(gate, clock, live(gate, clock))
    with plain_engine(ledger_url) as engine, engine.begin() as conn:
        conn.execute(sa.text(f"DROP INDEX {index}"))

    assert scans(ledger_url, statements) != []


@pytest.mark.usefixtures("looks_at_one_row_first")
def test_no_search_reads_the_whole_log(gate: Gateway, ledger_url: str, clock: SimulatedClock) -> None:
    live(gate, clock)
    wanted = [
        *(conditions for found_by in RARE.values() for conditions in found_by),
        *({"merchant": "cykelpartner"}, {"purpose": "newsletter"}, {"outcome": "deny"}, {"kind": "decision"}),
        *({"since": clock.ago(days=1), "merchant": "cykelpartner"}, {"until": clock.ago(days=1)}),
    ]
    with recorded(gate._runtime.ledger.engine) as statements:
        for conditions in wanted:
            list(gate.log.search(**conditions))

    read = scans(
        ledger_url, {sql: given for sql, given in statements.items() if " WHERE " in sql.replace("\n", " ")}
    )
    assert read == []


@pytest.mark.usefixtures("looks_at_one_row_first")
@pytest.mark.parametrize("index", RARE)
def test_what_is_rare_is_found_by_its_index(
    gate: Gateway, ledger_url: str, clock: SimulatedClock, index: str
) -> None:
    live(gate, clock)
    with plain_engine(ledger_url) as engine, engine.connect() as conn:
        for conditions in RARE[index]:
            with recorded(gate._runtime.ledger.engine) as statements:
                list(gate.log.search(**conditions))
            sql, parameters = list(statements.items())[-1]
            assert "ledger.body" in sql
            assert index in plan(conn, sql, parameters), conditions


def plan(conn: sa.Connection, sql: str, parameters: object) -> str:
    """What a database would do, with the indexes of the whole log by the names that its parts have for them."""
    if conn.dialect.name == "sqlite":
        return str(conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).all())  # type: ignore[arg-type]
    # The log of a test is so small that its key finds as much, and bitmaps of it cost more than its parts do.
    bounds = r" AND ledger.position >= \S+ AND ledger.position < \S+(?=\s)"
    without_bounds = re.sub(bounds, "", sql)
    assert without_bounds != sql
    for cheaper in ("enable_seqscan", "enable_sort"):
        conn.exec_driver_sql(f"SET {cheaper} = off")
    lines = str(conn.exec_driver_sql(f"EXPLAIN {without_bounds}", parameters).all())  # type: ignore[arg-type]
    children = conn.exec_driver_sql(
        "SELECT child.relname, parent.relname FROM pg_inherits"
        " JOIN pg_class child ON child.oid = inhrelid JOIN pg_class parent ON parent.oid = inhparent"
    )
    for child, parent in sorted(children.all(), key=lambda pair: -len(pair[0])):
        lines = lines.replace(child, parent)
    return lines
