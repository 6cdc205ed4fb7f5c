"""The send log of PostgreSQL in months: where rows land, how months are made and dropped, and what never changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from support.clock import SimulatedClock
from support.databases import PostgresDatabases
from support.fixtures import ConfigFile
from support.forks import run_at_once
from support.messages import ANNA_EMAIL, delivered_purchase, order_update, review_request
from support.tables import plain_engine

from notifygate import Gateway, LedgerError, Status
from notifygate.ledger import partitions
from notifygate.ledger.database import Ledger
from notifygate.ledger.partitions import MonthError, MonthsAhead, month_of, next_month, parse_month
from notifygate.message import Receipt
from notifygate.restoring import LedgerMark

MAY, JUNE, JULY = (datetime(2040, month, 1, tzinfo=UTC) for month in (5, 6, 7))
"""Months that no migration has made."""

FORBIDDEN = (
    "UPDATE {} SET reason = 'forged'",
    "UPDATE {} SET at = 0",
    "DELETE FROM {}",
    "DELETE FROM {} WHERE false",
    "TRUNCATE {}",
)


@pytest.fixture
def databases(postgres_databases: PostgresDatabases) -> PostgresDatabases:
    return postgres_databases


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    found = Ledger(ledger_url)
    try:
        yield found
    finally:
        found.close()


def submit_at(gate: Gateway, clock: SimulatedClock, at: datetime) -> Receipt:
    clock.set(at)
    return gate.submit(order_update(text=f"As of {at}."))


def places(url: str) -> dict[str, int]:
    """How many rows of the send log each partition holds that has any."""
    with plain_engine(url) as engine, engine.connect() as conn:
        found = conn.execute(
            sa.text("SELECT CAST(tableoid::regclass AS text), count(*) FROM ledger GROUP BY 1")
        )
        return {str(row[0]): int(row[1]) for row in found}


def all_rows(url: str) -> list[tuple[object, ...]]:
    with plain_engine(url) as engine, engine.connect() as conn:
        return [tuple(row) for row in conn.execute(sa.text("SELECT * FROM ledger ORDER BY position"))]


def named(ledger: Ledger) -> list[str]:
    with ledger.read() as conn:
        return [part.name for part in partitions.of_ledger(conn)]


def drop_before(ledger: Ledger, month: datetime, now: datetime) -> list[str]:
    return [part.name for part in partitions.drop_before(ledger, month, now, actor="tester")]


def refuse_all(url: str) -> None:
    """See that the send log as a whole and each part of it refuses to change."""
    before = all_rows(url)
    with plain_engine(url) as engine, engine.connect() as conn:
        parts = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'ledger'::regclass"
        names = ["ledger", *conn.execute(sa.text(parts)).scalars()]
        conn.rollback()
        assert len(names) > 5
        for name in names:
            for statement in FORBIDDEN:
                with pytest.raises(sa.exc.DBAPIError, match="append-only"):
                    conn.execute(sa.text(statement.format(name)))
                conn.rollback()
    assert all_rows(url) == before


class TestMonths:
    def test_are_those_of_utc(self) -> None:
        new_year_in_copenhagen = datetime.fromisoformat("2027-01-01T00:30:00+01:00")
        assert month_of(new_year_in_copenhagen) == datetime(2026, 12, 1, tzinfo=UTC)
        assert next_month(datetime(2026, 12, 1, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)

    @pytest.mark.parametrize(
        "text", ["2025", "2025-1", "2025-13", "2025-00", "25-01", "2025-01-01", "", "May", "0000-01"]
    )
    def test_that_are_written_otherwise_are_refused(self, text: str) -> None:
        with pytest.raises(MonthError, match="2025-01"):
            parse_month(text)

    def test_are_read(self) -> None:
        assert parse_month("2025-01") == datetime(2025, 1, 1, tzinfo=UTC)


class TestRows:
    def test_land_in_their_month(
        self, gate: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        partitions.make_ahead(ledger, MAY)
        for at in (MAY, JUNE - timedelta(microseconds=1), JUNE):
            submit_at(gate, clock, at)

        assert places(ledger_url) == {"ledger_2040_05": 2, "ledger_2040_06": 1}

    def test_of_any_other_date_have_a_place_too(
        self, gate: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        for at in (datetime(1969, 7, 20, tzinfo=UTC), datetime(1997, 3, 1, tzinfo=UTC), MAY):
            submit_at(gate, clock, at)

        assert places(ledger_url) == {"ledger_default": 3}

    def test_of_now_land_in_a_month_that_the_migration_made(
        self, gate: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        now = datetime.now(UTC)
        submit_at(gate, clock, now)

        assert places(ledger_url) == {f"ledger_{now:%Y_%m}": 1}

    def test_bear_positions_of_one_sequence(
        self, gate: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        partitions.make_ahead(ledger, MAY)
        for at in (JUNE, MAY, datetime(1997, 3, 1, tzinfo=UTC)):
            submit_at(gate, clock, at)

        first = all_rows(ledger_url)[0][0]
        assert [row[0] for row in all_rows(ledger_url)] == [first, first + 1, first + 2]  # type: ignore[operator]


class TestMakingMonths:
    def test_makes_this_month_and_those_ahead_once(self, ledger: Ledger) -> None:
        made = partitions.make_ahead(ledger, MAY + timedelta(days=20))

        assert made == ["ledger_2040_05", "ledger_2040_06", "ledger_2040_07", "ledger_2040_08"]
        assert partitions.make_ahead(ledger, MAY) == []
        assert partitions.make_ahead(ledger, JUNE) == ["ledger_2040_09"]

    def test_moves_the_rows_that_had_no_month(
        self, gate: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        for at in (datetime(1997, 3, 1, tzinfo=UTC), MAY, JUNE - timedelta(microseconds=1), JUNE):
            submit_at(gate, clock, at)
        before = all_rows(ledger_url)

        partitions.make_ahead(ledger, MAY)

        assert places(ledger_url) == {"ledger_default": 1, "ledger_2040_05": 2, "ledger_2040_06": 1}
        assert all_rows(ledger_url) == before
        refuse_all(ledger_url)

    def test_by_many_at_once_while_others_write_loses_nothing(
        self, gate: Gateway, config_file: ConfigFile, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        submit_at(gate, clock, MAY)
        opening = "from notifygate.ledger import partitions\nfrom support.messages import order_update\n"
        opening += "from datetime import UTC, datetime\nfrom notifygate import Gateway\n"
        opening += "may = datetime(2040, 5, 1, tzinfo=UTC)\ngate = Gateway.open(clock=lambda: may)\nready()\n"
        makes = opening + "print(len(partitions.make_ahead(gate._runtime.ledger, may)))"
        writes = opening + "print(sum(bool(gate.submit(order_update(text=f'{n}'))) for n in range(100)))"

        printed = run_at_once([makes, makes, makes, writes, writes], config_file())

        assert sum(map(int, printed[:3])) == 4
        assert printed[3:] == ["100", "100"]
        assert places(ledger_url) == {"ledger_2040_05": 201}

    def test_does_not_wait_long_for_others_and_is_done_later(
        self,
        gate: Gateway,
        ledger: Ledger,
        ledger_url: str,
        clock: SimulatedClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        submit_at(gate, clock, MAY)
        months = MonthsAhead(ledger, clock)
        with ledger.begin() as other:
            other.execute(sa.text("SELECT count(*) FROM ledger"))
            began_at = time.monotonic()
            months.make()
            assert time.monotonic() - began_at < 5
            assert "months_not_made" in caplog.text
            gate.submit(order_update(text="Goes on."))
        months._next_at = 0
        months.make()

        assert places(ledger_url) == {"ledger_2040_05": 2}

    def test_where_the_database_forbids_it_is_logged_and_stops_nothing(
        self,
        gate: Gateway,
        ledger: Ledger,
        ledger_url: str,
        clock: SimulatedClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        clock.set(MAY)
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(sa.text("CREATE TABLE ledger_2040_05 (in_the_way text)"))

        MonthsAhead(ledger, clock).make()

        assert "months_not_made" in caplog.text
        message_id = gate.submit(order_update()).message_id
        gate.drain()
        assert gate.status(message_id) is Status.SENT

    def test_is_done_by_the_scheduler_of_every_worker(
        self, gate: Gateway, ledger: Ledger, clock: SimulatedClock
    ) -> None:
        clock.set(MAY)
        gate._runtime.scheduler.start()
        deadline = time.monotonic() + 20
        while "ledger_2040_08" not in named(ledger):
            assert time.monotonic() < deadline
            time.sleep(0.05)


class TestWhatNeverChanges:
    def test_is_the_whole_and_every_part(
        self, gate: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        partitions.make_ahead(ledger, MAY)
        for at in (datetime(1997, 3, 1, tzinfo=UTC), MAY, datetime.now(UTC)):
            submit_at(gate, clock, at)

        refuse_all(ledger_url)

    def test_is_a_part_that_somebody_made_by_hand(
        self, gate: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            bounds = f"FROM ({int(MAY.timestamp())}000000) TO ({int(JUNE.timestamp())}000000)"
            conn.exec_driver_sql(f"CREATE TABLE by_hand PARTITION OF ledger FOR VALUES {bounds}")
        submit_at(gate, clock, MAY)

        for statement in ("UPDATE by_hand SET reason = 'forged'", "DELETE FROM by_hand"):
            with (
                plain_engine(ledger_url) as engine,
                pytest.raises(sa.exc.DBAPIError, match="append-only"),
                engine.begin() as conn,
            ):
                conn.execute(sa.text(statement))

    def test_two_rows_cannot_share_a_position_and_an_instant(
        self, gate: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        submit_at(gate, clock, MAY)
        with plain_engine(ledger_url) as engine, pytest.raises(sa.exc.IntegrityError), engine.begin() as conn:
            conn.execute(sa.text("INSERT INTO ledger SELECT * FROM ledger"))


class TestDropping:
    @pytest.fixture
    def used(self, gate: Gateway, ledger: Ledger, clock: SimulatedClock) -> Gateway:
        """Rows in 1997, in May and June; now it is the 10th of July."""
        partitions.make_ahead(ledger, MAY)
        for at in (datetime(1997, 3, 1, tzinfo=UTC), MAY, MAY + timedelta(days=1), JUNE):
            submit_at(gate, clock, at)
            gate.drain()
        clock.set(JULY + timedelta(days=9))
        return gate

    def test_takes_whole_months_and_says_so_in_the_send_log(
        self, used: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        before = all_rows(ledger_url)
        named_before = named(ledger)
        gone = [row for row in before if row[2] < int(JUNE.timestamp()) * 1_000_000]  # type: ignore[operator]

        dropped = partitions.drop_before(ledger, JUNE, clock.now, actor="tester")

        assert [part.name for part in dropped][:: len(dropped) - 1] == ["ledger_1997_03", "ledger_2040_05"]
        after = all_rows(ledger_url)
        rows = list(used.log.search(kind="dropped", limit=None))
        assert after[: -len(rows)] == [row for row in before if row not in gone]
        assert sum(row.body["rows"] for row in rows) == len(gone)
        may = rows[0]
        in_may = [row[0] for row in gone if row[2] >= int(MAY.timestamp()) * 1_000_000]  # type: ignore[operator]
        assert may.at == clock.now
        assert {**may.body, "leaves": None} == {
            "leaves": None,
            "partition": "ledger_2040_05",
            "since": "2040-05-01T00:00:00+00:00",
            "until": "2040-06-01T00:00:00+00:00",
            "rows": len(in_may),
            "first_position": in_may[0],
            "last_position": in_may[-1],
            "before": "2040-06",
            "actor": "tester",
        }
        assert set(named_before) - set(named(ledger)) == {
            part.name for part in dropped if part.name != "ledger_1997_03"
        }
        assert drop_before(ledger, JUNE, clock.now) == []

    def test_would_take_what_it_then_takes(
        self, used: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        before = all_rows(ledger_url)
        with ledger.read() as conn:
            found = partitions.older_than(conn, JUNE)
        assert all_rows(ledger_url) == before
        assert partitions.drop_before(ledger, JUNE, clock.now, actor="tester") == found

    def test_refuses_the_current_month_and_those_to_come(
        self, used: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        before = all_rows(ledger_url)
        for month in (next_month(JULY), datetime(2041, 1, 1, tzinfo=UTC)):
            with pytest.raises(MonthError, match="has not begun: drop what lies before 2040-07"):
                drop_before(ledger, month, clock.now)
        assert all_rows(ledger_url) == before

    def test_leaves_decisions_as_they_would_have_been(
        self, gate: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        partitions.make_ahead(ledger, MAY)
        clock.set(MAY + timedelta(days=13, hours=10))  # a Monday, at noon in Copenhagen
        purchase = delivered_purchase(clock.now)
        gate.consent.soft_opt_in(
            ANNA_EMAIL, party="cykelpartner", purpose="review_request", sale_ref="1001", opt_out_offered=True
        )
        asked = gate.submit(review_request(purchase)).message_id
        waits = gate.submit(order_update(send_after=JULY + timedelta(days=1))).message_id
        gate.drain()
        assert gate.status(asked) is Status.SENT
        clock.set(JULY + timedelta(days=1, hours=10))

        assert "ledger_2040_05" in drop_before(ledger, JULY, clock.now)

        gate.drain()
        assert gate.status(waits) is Status.SENT
        assert gate.explain(asked).decisions == ()
        assert gate.explain(asked).attempts[0].state == "accepted"
        again = gate.submit(review_request(purchase, dedupe_key="other")).message_id
        gate.drain()
        assert "purchase_already_asked" in gate.explain(again).decision.reasons  # type: ignore[union-attr]
        found = {(row.kind.value, row.message_id) for row in gate.log.search(contact_point=ANNA_EMAIL)}
        assert {("decision", waits), ("attempt", waits), ("decision", again)} <= found

    def test_waits_for_readers_and_lets_others_pass(
        self, used: Gateway, ledger: Ledger, clock: SimulatedClock
    ) -> None:
        url = ledger.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
        with psycopg.connect(url) as reader:
            reader.execute("SELECT count(*) FROM ledger")
            ends = threading.Timer(2.5, reader.rollback)
            ends.start()
            dropping = threading.Thread(target=partial(drop_before, ledger, JUNE, clock.now))
            dropping.start()
            time.sleep(0.3)
            began_at = time.monotonic()
            used.submit(order_update(text="Not kept waiting."))
            assert time.monotonic() - began_at < 2
            dropping.join()
            ends.join()
        assert "ledger_2040_05" not in named(ledger)

    def test_takes_no_month_that_a_hold_came_to_keep_while_it_waited(
        self, used: Gateway, ledger: Ledger, clock: SimulatedClock
    ) -> None:
        """INVARIANT(no hold overlooked)."""
        url = ledger.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
        dropped: list[str] = []
        with psycopg.connect(url) as reader:
            reader.execute("SELECT count(*) FROM ledger_2040_05")
            dropping = threading.Thread(
                target=lambda: dropped.extend(drop_before(ledger, JUNE, clock.now)), daemon=True
            )
            dropping.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
            with psycopg.connect(url, autocommit=True) as watcher:
                while watcher.execute(waiting).fetchone() == (0,):
                    time.sleep(0.05)
            used.people.hold(ANNA_EMAIL, reason="case 12")
            reader.rollback()
            dropping.join()
        assert "ledger_2040_05" not in dropped
        assert "ledger_2040_05" in named(ledger)

    def test_does_not_look_like_a_backup_to_workers(
        self, used: Gateway, ledger: Ledger, ledger_url: str, clock: SimulatedClock
    ) -> None:
        """A machine that was off for a while has noted a row that is gone with its month."""
        clock.set(MAY + timedelta(days=2))
        used.submit(order_update(text="The last that this machine saw."))
        used._runtime.mark.make()
        clock.set(JULY + timedelta(days=9))
        used.submit(order_update(text="Others went on."))
        used._runtime.sealer.seal()
        drop_before(ledger, JULY, clock.now)

        LedgerMark(used._runtime.ledger, used.config.settings.gateway.data_dir).check()
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(sa.text("ALTER TABLE ledger DISABLE TRIGGER USER"))
            conn.execute(sa.text("DELETE FROM ledger WHERE kind = 'dropped'"))
        with pytest.raises(LedgerError, match="notifygate db restored"):
            used._runtime.mark.check()


def test_sqlite_has_no_months(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    try:
        ledger.prepare()
        assert partitions.make_ahead(ledger, MAY) == []
        assert named(ledger) == []
    finally:
        ledger.close()
