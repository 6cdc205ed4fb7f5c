"""The database itself: its schema, its version, what it refuses, and who may open it when."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from support.databases import Databases, PostgresDatabases
from support.fixtures import ConfigFile
from support.forks import run_at_once
from support.messages import ANNA_EMAIL, order_update
from support.tables import contents, plain_engine, row_counts

import notifygate.ledger
from notifygate import Gateway, LedgerError, Status
from notifygate.ledger import database, schema
from notifygate.ledger.database import HEAD, Ledger
from notifygate.ledger.migrations import is_compared

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
MIGRATIONS = Path(notifygate.ledger.__file__).parent / "migrations"


SEALED = (
    "INSERT INTO seals VALUES (900, 1, 900, 900, '[900]', '', 0, 900, NULL)",
    "INSERT INTO tree_nodes VALUES (8, 900, '')",
    "INSERT INTO checkpoints VALUES (901, '', 0)",
)


@pytest.fixture
def ledger_url(databases: Databases, tmp_path: Path) -> Iterator[str]:
    """An empty database, which opening a gateway gives its tables."""
    with databases.fresh(tmp_path, empty=True) as url:
        yield url


@pytest.fixture
def used(gate: Gateway, ledger_url: str) -> Gateway:
    """A gateway whose append-only tables all have rows."""
    gate.consent.withdraw(ANNA_EMAIL)
    gate.submit(order_update())
    gate.drain()
    with plain_engine(ledger_url) as engine, engine.begin() as conn:
        for statement in SEALED:
            conn.execute(sa.text(statement))
    return gate


class TestAppendOnly:
    def refuse(self, url: str, statement: str) -> None:
        with (
            plain_engine(url) as engine,
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
            engine.begin() as conn,
        ):
            conn.execute(sa.text(statement))

    @pytest.mark.parametrize("table", schema.APPEND_ONLY)
    @pytest.mark.parametrize(
        "statement",
        ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}", "DELETE FROM {table} WHERE 1 = 1"],
    )
    def test_tables_refuse_to_change_or_lose_a_row(
        self, used: Gateway, ledger_url: str, table: str, statement: str
    ) -> None:
        column = schema.metadata.tables[table].primary_key.columns[0].name
        before = contents(ledger_url)[table]
        assert before

        self.refuse(ledger_url, statement.format(table=table, column=column))

        assert contents(ledger_url)[table] == before

    @pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
    @pytest.mark.parametrize("table", schema.APPEND_ONLY)
    def test_tables_refuse_to_be_truncated(self, used: Gateway, ledger_url: str, table: str) -> None:
        self.refuse(ledger_url, f"TRUNCATE {table} CASCADE")

    @pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
    @pytest.mark.parametrize(
        ("table", "column"),
        [
            ("ledger", "reason"),
            ("policies", "text"),
            ("consent_events", "party"),
            ("seals", "positions"),
            ("tree_nodes", "hash"),
            ("checkpoints", "note"),
        ],
    )
    def test_tables_let_no_row_be_replaced(
        self, used: Gateway, ledger_url: str, table: str, column: str
    ) -> None:
        """SQLite's INSERT OR REPLACE removes the old row without asking the triggers for DELETE."""
        before = contents(ledger_url)[table]
        columns = [one.name for one in schema.metadata.tables[table].columns]
        forged = ", ".join("'forged'" if name == column else name for name in columns)

        with plain_engine(ledger_url) as engine, suppress(sa.exc.DBAPIError), engine.begin() as conn:
            conn.execute(sa.text(f"INSERT OR REPLACE INTO {table} SELECT {forged} FROM {table}"))

        assert contents(ledger_url)[table] == before

    def test_free_texts_of_a_consent_event_can_go_and_nothing_else_of_it(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        gate.consent.withdraw(ANNA_EMAIL, source="letter", evidence="scan 12", actor="kim")
        [before] = contents(ledger_url)["consent_events"]
        nothing = ", ".join(f"{name} = NULL" for name in schema.FREE_TEXTS)
        for statement in ("evidence = 'forged'", f"{nothing}, party = 'forged'", "evidence = NULL"):
            self.refuse(ledger_url, f"UPDATE consent_events SET {statement}")

        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(sa.text(f"UPDATE consent_events SET {nothing}"))

        [after] = contents(ledger_url)["consent_events"]
        assert after == before | dict.fromkeys(schema.FREE_TEXTS)
        self.refuse(ledger_url, f"UPDATE consent_events SET {nothing}")

    def test_tables_are_those_that_prove_something(self) -> None:
        assert set(schema.APPEND_ONLY) == {
            "ledger",
            "policies",
            "consent_events",
            "seals",
            "tree_nodes",
            "checkpoints",
        }


class TestSchema:
    def test_the_migrated_database_is_what_the_code_says(self, gate: Gateway, ledger_url: str) -> None:
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            context = MigrationContext.configure(
                conn,
                opts={"compare_type": True, "compare_server_default": True, "include_name": is_compared},
            )
            assert compare_metadata(context, schema.metadata) == []

    def test_check_constraints_and_partial_indexes_are_there(self, gate: Gateway, ledger_url: str) -> None:
        """Alembic does not compare these."""
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            inspector = sa.inspect(conn)
            checks = {check["name"] for check in inspector.get_check_constraints("reservations")}
            indexes = {index["name"]: index for index in inspector.get_indexes("reservations")}
            dialect = engine.dialect.name

        assert checks == {"ck_reservations_known_state"}
        once = indexes["uq_reservations_one_a_message"]
        assert once["unique"]
        assert str(once["dialect_options"][f"{dialect}_where"]).strip("()") == "blocks"

    def test_the_newest_migration_is_the_one_the_code_works_with(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))

        assert ScriptDirectory.from_config(config).get_heads() == [HEAD]

    @pytest.mark.parametrize(
        ("version", "what_to_do"),
        [("0000", "notifygate db upgrade"), ("9999", "install the version that wrote it")],
    )
    def test_of_another_version_is_refused_with_what_to_do(
        self, config_file: ConfigFile, ledger_url: str, version: str, what_to_do: str
    ) -> None:
        config = config_file()
        Gateway.open(config).close()
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": version})

        with pytest.raises(LedgerError, match=rf"{version}.*{HEAD}.*{what_to_do}"):
            Gateway.open(config)

    def test_that_is_newer_is_worked_with_where_it_says_so(
        self, config_file: ConfigFile, ledger_url: str
    ) -> None:
        config = config_file()
        Gateway.open(config).close()
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(sa.text("UPDATE alembic_version SET version_num = '9998'"))
            works_with = sa.text("UPDATE keys SET value = :value WHERE name = 'schema_works_with'")
            conn.execute(works_with, {"value": f"9998 {HEAD}"})
        with Gateway.open(config) as gate:
            assert gate.submit(order_update()).status is Status.QUEUED

        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(works_with, {"value": "9998 9997"})
        with pytest.raises(LedgerError, match="install the version that wrote it"):
            Gateway.open(config)

    def test_is_made_once_and_opening_again_adds_nothing(
        self, config_file: ConfigFile, ledger_url: str
    ) -> None:
        config = config_file()
        Gateway.open(config).close()
        before = contents(ledger_url)
        Gateway.open(config).close()

        assert contents(ledger_url) == before


class TestConstraints:
    """What must never be false is refused by the database, whatever the code does."""

    def refuse(self, url: str, statement: str) -> None:
        with plain_engine(url) as engine, pytest.raises(sa.exc.IntegrityError), engine.begin() as conn:
            conn.execute(sa.text(statement))

    def test_two_reservations_cannot_both_block_one_message(self, used: Gateway, ledger_url: str) -> None:
        columns = (
            "message_id, contact_point_id, merchant, purpose, purpose_class, channel, dedupe_key, "
            "reserved_at, lease_until, state, blocks"
        )
        self.refuse(
            ledger_url,
            f"INSERT INTO reservations (attempt_id, {columns}) SELECT 'att_2', {columns} FROM reservations",
        )

    def test_a_place_of_a_purchase_cannot_be_taken_twice(self, used: Gateway, ledger_url: str) -> None:
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(
                sa.text(
                    "INSERT INTO purchases (purchase_id, seller, order_id, known_since) "
                    "VALUES ('pur_1', 'florist', 'F1', 0)"
                )
            )
            conn.execute(
                sa.text(
                    "INSERT INTO asks (ask_id, purchase_id, slot, by, asked_at) VALUES ('a', 'pur_1', 1, 'x', 0)"
                )
            )
        self.refuse(
            ledger_url,
            "INSERT INTO asks (ask_id, purchase_id, slot, by, asked_at) VALUES ('b', 'pur_1', 1, 'y', 0)",
        )

    def test_a_key_of_a_merchant_cannot_name_two_messages(self, gate: Gateway, ledger_url: str) -> None:
        gate.submit(order_update(idempotency_key="k"))
        columns = ", ".join(
            column.name for column in schema.messages.columns if column.name not in ("message_id",)
        )
        self.refuse(
            ledger_url,
            f"INSERT INTO messages (message_id, {columns}) SELECT 'msg_2', {columns} FROM messages",
        )

    def test_an_attempt_cannot_end_in_an_unknown_way(self, used: Gateway, ledger_url: str) -> None:
        self.refuse(ledger_url, "UPDATE reservations SET state = 'maybe'")


class TestOpening:
    def test_by_six_processes_at_once_works_on_an_empty_database(
        self, config_file: ConfigFile, ledger_url: str
    ) -> None:
        script = """
from notifygate import Gateway
from support.messages import order_update
ready()
with Gateway.open() as gate:
    print(gate.submit(order_update(idempotency_key="k")).message_id)
"""
        printed = run_at_once([script] * 6, config_file())

        assert len(set(printed)) == 1
        counts = row_counts(ledger_url)
        assert (counts["messages"], counts["keys"], counts["alembic_version"]) == (1, 3, 1)

    @ON_SQLITE
    def test_an_sqlite_file_has_every_commit_reach_the_disk(self, config_file: ConfigFile) -> None:
        script = """
from notifygate import Gateway
ready()
with Gateway.open() as gate, gate._runtime.ledger.read() as conn:
    for pragma in ("synchronous", "journal_mode"):
        print(conn.exec_driver_sql(f"PRAGMA {pragma}").scalar_one())
"""
        assert run_at_once([script], config_file()) == ["2\nwal"]  # 2 is FULL

    def test_waits_for_another_process_that_is_writing_the_first_page_of_the_file(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "new.db"
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        lets_go = threading.Timer(0.3, other.execute, ["COMMIT"])
        lets_go.start()

        ledger = Ledger(f"sqlite:///{path}")
        ledger.prepare()

        assert ledger.is_usable()
        ledger.close()
        lets_go.join()
        other.close()

    def test_waits_while_another_process_recovers_the_file_after_a_crash(self) -> None:
        class Recovering:
            """A connection that is told three times what one is told while another reads the log of a dead process."""

            def __init__(self) -> None:
                self.left = 3

            def execute(self, sql: str) -> None:
                if self.left:
                    self.left -= 1
                    error = sqlite3.OperationalError("database is locked")
                    error.sqlite_errorcode = sqlite3.SQLITE_BUSY_RECOVERY
                    raise error

        assert database._execute_patiently(Recovering(), "BEGIN IMMEDIATE")  # type: ignore[arg-type]  # as good as one

    def test_with_another_secret_than_it_was_begun_with_is_refused(
        self, config_file: ConfigFile, tmp_path: Path, ledger_url: str
    ) -> None:
        (tmp_path / "secret").write_text("one")
        with_secret = config_file("with.toml", gateway={"secret_file": "secret"})
        Gateway.open(with_secret).close()
        Gateway.open(with_secret).close()

        with pytest.raises(LedgerError, match=r"gateway\.secret"):
            Gateway.open(config_file("without.toml"))
        (tmp_path / "secret").write_text("other")
        with pytest.raises(LedgerError, match=r"gateway\.secret"):
            Gateway.open(with_secret)

    def test_where_there_is_no_database_is_a_ledger_error(
        self, config_file: ConfigFile, ledger_url: str
    ) -> None:
        nowhere = ledger_url.replace("ledger", "no/such/ledger", 1)
        if nowhere.startswith("sqlite"):
            nowhere = "sqlite:////no/such/folder/ledger.db"
        with pytest.raises(LedgerError, match="the ledger cannot be used"):
            Gateway.open(config_file(gateway={"ledger": nowhere}))


def test_an_id_that_no_ledger_can_hold_is_a_ledger_error(gate: Gateway) -> None:
    with pytest.raises(LedgerError, match="cannot hold a value"):
        gate.consent.get("evt_\ud800")


class TestConnections:
    @pytest.fixture
    def url(self, postgres_databases: PostgresDatabases, tmp_path: Path) -> Iterator[str]:
        with postgres_databases.fresh(tmp_path) as url:
            yield url

    def test_are_given_up_in_time_where_the_server_is_gone(self, url: str) -> None:
        assert parameters(url)["connect_timeout"] == "10"
        assert parameters(url)["tcp_user_timeout"] == "30000"

    def test_take_what_the_url_says(self, url: str) -> None:
        assert parameters(f"{url}&connect_timeout=3")["connect_timeout"] == "3"
        ledger = Ledger(f"{url}&options=-c%20work_mem%3D77MB")
        try:
            with ledger.read() as conn:
                assert conn.exec_driver_sql("SHOW work_mem").scalar() == "77MB"
                assert conn.exec_driver_sql("SHOW lock_timeout").scalar() == "1min"
        finally:
            ledger.close()


def parameters(url: str) -> dict[str, str]:
    """What an open connection was opened with."""
    ledger = Ledger(url)
    try:
        with ledger.read() as conn:
            found: dict[str, str] = conn.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
            return found
    finally:
        ledger.close()
