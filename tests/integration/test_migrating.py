"""From one version of the schema to the next, with rows in it and with workers of the version before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from support.clock import SimulatedClock
from support.databases import Databases
from support.fixtures import OpenGate
from support.messages import ANNA_EMAIL, ANNA_SMS, delivered_purchase, order_update, review_request
from support.tables import contents, plain_engine

import notifygate.ledger
from notifygate import Gateway, LedgerError, Status
from notifygate.ledger import database
from notifygate.ledger.database import Ledger

MIGRATIONS = Path(notifygate.ledger.__file__).parent / "migrations"
IN_2099 = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger_url(databases: Databases, tmp_path: Path) -> Iterator[str]:
    """A database with the tables of 0001."""
    with databases.fresh(tmp_path, empty=True) as url:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with plain_engine(url) as engine, engine.begin() as conn:
            config.attributes["connection"] = conn
            command.upgrade(config, "0001")
        yield url


@pytest.fixture
def as_of_0001(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code take 0001 for its own version."""
    monkeypatch.setattr(database, "HEAD", "0001")


@pytest.fixture
def old(as_of_0001: None, open_gate: OpenGate, clock: SimulatedClock) -> Gateway:
    """A gateway of 0001 that has been used, also while its clock was wrong."""
    gate = open_gate()
    gate.people.link(ANNA_EMAIL, ANNA_SMS, evidence="one account")
    gate.submit(order_update())
    gate.submit(review_request(delivered_purchase(clock.now), to=ANNA_SMS))
    gate.submit(order_update(to="bo@example.dk"))
    gate.drain()
    right = clock.now
    clock.set(IN_2099)
    gate.submit(order_update(text="From the future."))
    clock.set(right)
    gate.submit(order_update(text="One that waits."))
    return gate


def upgrade(url: str) -> None:
    ledger = Ledger(url)
    try:
        ledger.upgrade()
    finally:
        ledger.close()


def log_of(url: str) -> list[dict[str, object]]:
    return sorted(contents(url)["ledger"], key=lambda row: int(str(row["position"])))


def test_loses_nothing(old: Gateway, ledger_url: str) -> None:
    before = contents(ledger_url)
    found = [row.to_json() for row in old.log.search(contact_point=ANNA_EMAIL)]
    assert len(found) == 9

    upgrade(ledger_url)

    after = contents(ledger_url)
    for table in before.keys() - {"alembic_version", "keys", "ledger"}:
        assert after[table] == before[table]
    assert log_of(ledger_url) == sorted(before["ledger"], key=lambda row: int(str(row["position"])))
    assert [row.to_json() for row in old.log.search(contact_point=ANNA_EMAIL)] == found


def test_lets_code_of_the_version_before_go_on_and_start_anew(
    old: Gateway, open_gate: OpenGate, ledger_url: str
) -> None:
    upgrade(ledger_url)

    for gate in (old, open_gate()):
        message_id = gate.submit(order_update(text=f"By {id(gate)}.")).message_id
        gate.drain()
        assert gate.status(message_id) is Status.SENT
    positions = [row["position"] for row in log_of(ledger_url)]
    assert positions == list(range(1, len(positions) + 1))


def test_keeps_the_send_log_append_only(old: Gateway, ledger_url: str) -> None:
    upgrade(ledger_url)

    for statement in ("UPDATE ledger SET reason = 'forged'", "DELETE FROM ledger"):
        with (
            plain_engine(ledger_url) as engine,
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
            engine.begin() as conn,
        ):
            conn.execute(sa.text(statement))


def test_is_needed_before_the_new_code_works(
    ledger_url: str, open_gate: OpenGate, clock: SimulatedClock
) -> None:
    with pytest.raises(LedgerError, match="notifygate db upgrade"):
        open_gate()
    upgrade(ledger_url)
    open_gate()


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
class TestOnPostgresql:
    def test_what_was_there_is_the_first_partition(self, old: Gateway, ledger_url: str) -> None:
        count = len(log_of(ledger_url))
        upgrade(ledger_url)

        now = datetime.now(UTC)
        first_new = f"{now.year + now.month // 12}_{now.month % 12 + 1:02}"
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            places = sa.text("SELECT CAST(tableoid::regclass AS text), count(*) FROM ledger GROUP BY 1")
            found = {str(row[0]): row[1] for row in conn.execute(places)}
        assert found == {f"ledger_before_{first_new}": count - 1, "ledger_default": 1}

    def test_whoever_might_read_or_write_still_may(self, ledger_url: str) -> None:
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(sa.text("GRANT SELECT, INSERT ON ledger TO PUBLIC"))
        upgrade(ledger_url)

        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            may = sa.text("SELECT has_table_privilege('public', 'ledger', :what)")
            granted = {
                what: conn.execute(may, {"what": what}).scalar_one()
                for what in ("SELECT", "INSERT", "DELETE")
            }
        assert granted == {"SELECT": True, "INSERT": True, "DELETE": False}

    def test_lets_a_worker_finish_what_it_has_in_hand(self, old: Gateway, ledger_url: str) -> None:
        """Both take locks, and neither must wait for the other in a ring."""
        before = len(log_of(ledger_url))
        migrating = threading.Thread(target=upgrade, args=[ledger_url])
        with plain_engine(ledger_url) as engine, engine.begin() as worker:
            worker.execute(sa.text("UPDATE messages SET attempts = attempts"))
            migrating.start()
            time.sleep(0.5)
            worker.execute(sa.text("INSERT INTO ledger (kind, at, body) VALUES ('restored', 0, '{}')"))
        migrating.join()

        assert len(log_of(ledger_url)) == before + 1
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            assert conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == "0003"
