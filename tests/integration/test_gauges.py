"""The gauges of the ledger: what they count, and that counting costs little however full the ledger is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from support.channel import IN_DOUBT, ScriptedChannel, install
from support.clock import A_MONDAY_MORNING, SimulatedClock
from support.messages import newsletter, order_update

from notifygate import Gateway
from notifygate.ledger import gauges
from notifygate.ledger.database import Ledger
from notifygate.ledger.gauges import Backlog, Gauges
from notifygate.ledger.schema import to_micros

NOTHING = Backlog(due=0, age=None)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    try:
        yield ledger
    finally:
        ledger.close()


def read(ledger: Ledger, clock: SimulatedClock) -> Gauges:
    with ledger.read() as conn:
        return gauges.read(conn, clock.now)


def test_an_empty_ledger_has_nothing_that_waits(ledger: Ledger, clock: SimulatedClock) -> None:
    assert read(ledger, clock) == Gauges(
        service=NOTHING, bulk=NOTHING, deferred=0, in_doubt=0, held=0, unsealed=0
    )


def test_what_is_due_is_counted_by_queue_with_the_age_of_the_oldest(
    gate: Gateway, ledger: Ledger, clock: SimulatedClock
) -> None:
    gate.submit(order_update())
    clock.advance(minutes=1)
    gate.submit(order_update(text="Another."))
    gate.submit(newsletter())
    clock.advance(minutes=4)

    found = read(ledger, clock)
    assert found.service == Backlog(due=2, age=timedelta(minutes=5))
    assert found.bulk == Backlog(due=1, age=timedelta(minutes=4))
    assert found.deferred == 0


def test_what_waits_for_later_is_not_due(gate: Gateway, ledger: Ledger, clock: SimulatedClock) -> None:
    gate.submit(order_update(send_after=clock.now + timedelta(hours=1)))
    gate.submit(newsletter(send_after=clock.now + timedelta(hours=1)))

    found = read(ledger, clock)
    assert (found.service, found.bulk, found.deferred) == (NOTHING, NOTHING, 2)
    clock.advance(hours=2)
    found = read(ledger, clock)
    assert (found.service.due, found.bulk.due, found.deferred) == (1, 1, 0)


def test_what_was_settled_is_not_due_and_what_is_in_doubt_is_counted(
    gate: Gateway, ledger: Ledger, clock: SimulatedClock
) -> None:
    install(gate, ScriptedChannel(IN_DOUBT))
    gate.submit(order_update())
    gate.submit(order_update(text="Another."))
    gate.drain()

    expected = Gauges(service=NOTHING, bulk=NOTHING, deferred=0, in_doubt=1, held=0, unsealed=0)
    assert read(ledger, clock) == expected


def test_what_is_being_handed_over_is_held(gate: Gateway, ledger: Ledger, clock: SimulatedClock) -> None:
    message_id = gate.submit(order_update()).message_id
    gate._runtime.turns.take((), [message_id])

    assert read(ledger, clock).held == 1


def test_a_count_stops_where_it_would_become_a_burden(
    gate: Gateway, ledger: Ledger, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "AT_MOST", 3)
    for number in range(5):
        gate.submit(newsletter(text=f"News {number}."))
        gate.submit(order_update(text=f"Parcel {number}."))
    clock.advance(seconds=1)

    found = read(ledger, clock)
    assert found.service.due == 3
    assert found.bulk.due <= 3


_OF_WAITING = (
    "ix_messages_(due|sweep)"  # all that wait are due, so that neither has to read more than the other
)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (gauges.service_due(A_MONDAY_MORNING), "ix_messages_sweep_service"),
        (gauges.bulk_due(A_MONDAY_MORNING), _OF_WAITING),
        (gauges.deferred(A_MONDAY_MORNING), _OF_WAITING),
        (gauges.in_doubt(), "ix_messages_in_doubt"),
        (gauges.held(), "ix_reservations_lease"),
    ],
    ids=["service", "bulk", "deferred", "in doubt", "held"],
)
def test_no_gauge_reads_a_whole_table(
    gate: Gateway, ledger: Ledger, query: sa.Select[int], index: str
) -> None:
    gate.submit(order_update())
    gate.drain()
    fill(ledger, 20_000)
    text = str(query.compile(ledger.engine, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN" if ledger.dialect == "sqlite" else "EXPLAIN"
    with ledger.read() as conn:
        plan = "\n".join(str(tuple(row)[-1]) for row in conn.execute(sa.text(f"{explain} {text}")))

    assert re.search(index, plan)
    assert "Seq Scan" not in plan
    assert not any(
        line.startswith("SCAN") and "INDEX" not in line and "anon" not in line for line in plan.split("\n")
    )


def fill(ledger: Ledger, count: int) -> None:
    """Copy the one message and its reservation that are there many times, all but a few of them settled long ago."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
    status = "CASE WHEN i % 500 = 0 THEN 'queued' WHEN i % 500 = 1 THEN 'in_doubt' ELSE 'sent' END"
    state = "CASE WHEN i % 500 = 0 THEN 'held' ELSE 'accepted' END"
    due = to_micros(A_MONDAY_MORNING)
    with ledger.begin() as conn:
        for table, changed in (
            (
                "messages",
                {
                    "message_id": "'m' || i",
                    "status": status,
                    "due_at": f"{due} + i - 10000",
                    "idempotency_key": "NULL",
                },
            ),
            ("reservations", {"attempt_id": "'a' || i", "message_id": "'m' || i", "state": state}),
        ):
            names = [column["name"] for column in sa.inspect(conn).get_columns(table)]
            values = ", ".join(changed.get(name, f"one.{name}") for name in names)
            into = f"INSERT INTO {table} ({', '.join(names)})"
            conn.execute(
                sa.text(f"{into} {numbers} SELECT {values} FROM n, (SELECT * FROM {table} LIMIT 1) AS one"),
                {"count": count},
            )
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("ANALYZE")
