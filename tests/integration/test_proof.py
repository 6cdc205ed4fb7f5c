"""That the send log was not altered: sealing, verifying, and proving it to others.

Tampering is done as an intruder would: in the database itself, with the triggers out of the way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.clock import SimulatedClock
from support.fixtures import ConfigFile, OpenGate
from support.messages import ANNA_EMAIL, newsletter, order_update
from support.processes import CHECKOUT
from support.tables import plain_engine

from notifygate import Gateway, LedgerError, NotFound
from notifygate.audit.verification import Fault, Verification
from notifygate.cli import main
from notifygate.failpoints import FailPoint, armed
from notifygate.ledger import gauges, journal, partitions, schema, seals
from notifygate.ledger.journal import Kind, Row
from notifygate.notes import Checkpoint, NoteError, Signer, new_private_key
from notifygate.restoring import Restoration
from notifygate.sealing import LogKeys

ON_POSTGRESQL = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)


@pytest.fixture
def used(gate: Gateway, clock: SimulatedClock) -> Gateway:
    """A gateway whose log has rows in several seals, and two checkpoints."""
    gate.consent.withdraw(ANNA_EMAIL)
    for text in ("One.", "Two.", "Three."):
        gate.submit(order_update(text=text))
        gate.submit(newsletter(text=text))
        gate.drain()
        clock.advance(minutes=2)
    return gate


@contextmanager
def intruder(url: str) -> Iterator[sa.Connection]:
    """A connection of somebody who may do anything to the database."""
    with plain_engine(url) as engine, engine.begin() as conn:
        if conn.dialect.name == "postgresql":
            conn.execute(sa.text("SET session_replication_role = replica"))  # no triggers
        else:
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for name in conn.execute(sa.text(triggers)).scalars().all():
                conn.execute(sa.text(f"DROP TRIGGER {name}"))
        yield conn


def tamper(url: str, *statements: str) -> None:
    with intruder(url) as conn:
        for statement in statements:
            assert conn.execute(sa.text(statement)).rowcount != 0


def faults(found: Verification) -> list[tuple[str, int | None]]:
    return [(problem.fault.value, problem.position) for problem in found.problems]


def positions(url: str) -> list[int]:
    with plain_engine(url) as engine, engine.connect() as conn:
        return list(conn.execute(sa.text("SELECT position FROM ledger ORDER BY position")).scalars())


PUT_IN = """
INSERT INTO consent_events
    (event_id, state, contact_point_id, party, channel, purpose, occurred_at, recorded_at, includes_service)
SELECT 'evt_forged', 'granted', contact_point_id, 'cykelpartner', 'email', 'newsletter', 4e15, 4e15, false
FROM contact_points WHERE channel = 'email' LIMIT 1
"""
"""A permission of somebody who has the database's password."""


class TestSealing:
    def test_gives_every_row_a_place_without_gaps(self, used: Gateway, ledger_url: str) -> None:
        found = used.proofs.verify()

        assert found.is_intact
        assert found.size == len(positions(ledger_url))
        assert found.signed_up_to == found.size
        assert (found.unsealed, found.removed, found.sealed_late) == (0, 0, 0)
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            rows = conn.execute(sa.text("SELECT first_leaf, leaves, positions FROM seals ORDER BY 1")).all()
        assert len(rows) >= 3
        assert [row[0] for row in rows] == [sum(row[1] for row in rows[:place]) for place in range(len(rows))]
        assert sorted(one for row in rows for one in json.loads(row[2])) == positions(ledger_url)

    def test_makes_a_checkpoint_as_often_as_the_config_says(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gate = open_gate(log={"checkpoint_every": "1h"})
        sizes = []
        for minutes in (0, 10, 49, 1):
            clock.advance(minutes=minutes)
            gate.submit(order_update(text=f"After {minutes}."))
            gate.drain()
            sizes.append(gate.proofs.verify().signed_up_to)

        assert sizes == [3, 3, 3, 12]

    def test_of_many_at_once_gives_each_row_one_place(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gates = [open_gate() for _ in range(3)]
        done = threading.Event()

        def seal(gate: Gateway) -> None:
            while not done.is_set():
                gate._runtime.sealer.work()

        sealing = [threading.Thread(target=seal, args=[gate]) for gate in gates]
        for thread in sealing:
            thread.start()
        for number in range(40):
            gates[0].submit(order_update(text=f"Parcel {number}."))
        done.set()
        for thread in sealing:
            thread.join()

        gates[1]._runtime.sealer.work()
        found = gates[2].proofs.verify()
        assert found.is_intact, found.problems
        assert found.size == 40

    @ON_POSTGRESQL
    def test_finds_rows_that_are_committed_after_later_ones(self, gate: Gateway, ledger_url: str) -> None:
        sealer = gate._runtime.sealer
        with plain_engine(ledger_url) as engine, engine.connect() as slow, slow.begin():
            gate.submit(order_update(text="Committed last."), connection=slow)
            for number in range(5):
                gate.submit(order_update(to=f"bo{number}@example.dk"))
                sealer.seal()
            assert gate.proofs.verify().size == 5
        assert gate.proofs.verify().unsealed == 1
        sealer.seal()

        found = gate.proofs.verify()
        assert found.is_intact, found.problems
        assert (found.size, found.unsealed) == (6, 0)

    @ON_POSTGRESQL
    def test_knows_that_a_row_which_was_rolled_back_never_comes(self, gate: Gateway, ledger_url: str) -> None:
        sealer = gate._runtime.sealer
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            transaction = conn.begin()
            gate.submit(order_update(text="Never."), connection=conn)
            transaction.rollback()
        for number in range(4):
            gate.submit(order_update(to=f"bo{number}@example.dk"))
            sealer.seal()

        assert gate.proofs.verify().is_intact
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            assert seals.settled_up_to(conn) == positions(ledger_url)[-3]

    @ON_POSTGRESQL
    @pytest.mark.parametrize("rows", [1, 50])
    def test_may_rely_on_it_that_a_transaction_has_its_number_before_its_rows_have_positions(
        self, gate: Gateway, ledger_url: str, clock: SimulatedClock, rows: int
    ) -> None:
        """Else one that stops for long between the two is taken for one that began later, and its row is left out."""
        tamper(
            ledger_url,
            """
            CREATE FUNCTION checked_position() RETURNS bigint LANGUAGE plpgsql AS $$
            BEGIN
                ASSERT pg_current_xact_id_if_assigned() IS NOT NULL;
                RETURN nextval('ledger_position_seq');
            END $$
            """,
            "ALTER TABLE ledger ALTER position SET DEFAULT checked_position()",
        )
        row = Row(kind=Kind.SUBMITTED, at=clock.now, body={}, message_id="msg_1")

        gate._runtime.ledger.transact(lambda conn: journal.append(conn, [row] * rows))

        assert len(positions(ledger_url)) == rows

    @pytest.mark.parametrize("point", [FailPoint.SEAL_WRITTEN, FailPoint.CHECKPOINT_WRITTEN])
    def test_that_broke_off_is_made_good_by_the_next(self, gate: Gateway, point: FailPoint) -> None:
        gate.submit(order_update())

        def break_off() -> None:
            raise KeyboardInterrupt

        with armed(point, break_off), pytest.raises(KeyboardInterrupt):
            gate._runtime.sealer.work()
        assert gate.proofs.verify().is_intact

        gate._runtime.sealer.work()
        found = gate.proofs.verify()
        assert found.is_intact
        assert (found.size, found.signed_up_to, found.unsealed) == (1, 1, 0)

    def test_that_fails_keeps_nothing_from_being_sent(
        self, open_gate: OpenGate, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = open_gate()
        (tmp_path / ".notifygate").mkdir(exist_ok=True)
        (tmp_path / ".notifygate" / "log-key.pem").write_text("no key")
        gate.submit(order_update())

        assert gate.drain() == 1
        assert "log_not_sealed" in caplog.text

    def test_keeps_the_private_key_to_its_owner_and_out_of_the_ledger(
        self, used: Gateway, ledger_url: str, tmp_path: Path
    ) -> None:
        key = tmp_path / ".notifygate" / "log-key.pem"

        assert key.stat().st_mode & 0o777 == 0o600
        secret = key.read_text().splitlines()[1]
        with plain_engine(ledger_url) as engine, engine.connect() as conn:
            values = conn.execute(sa.text("SELECT value FROM keys")).scalars().all()
        assert not [value for value in values if secret in value]

    def test_copies_the_newest_checkpoint_where_it_is_to_live(
        self, open_gate: OpenGate, tmp_path: Path
    ) -> None:
        gate = open_gate(log={"checkpoint_file": str(tmp_path / "kept.txt"), "origin": "shop.example/log"})
        gate.submit(order_update())
        gate.drain()

        kept = Checkpoint.parse((tmp_path / "kept.txt").read_text("utf-8"))
        assert (kept.origin, kept.size) == ("shop.example/log", 3)
        assert gate.proofs.verify(checkpoints=[kept]).is_intact


class TestTampering:
    def test_with_a_row_is_named(self, used: Gateway, ledger_url: str) -> None:
        tamper(ledger_url, "UPDATE ledger SET outcome = 'other' WHERE position = 5")

        assert faults(used.proofs.verify()) == [("altered", 5)]

    @ON_SQLITE
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ledger SET body = '{}' WHERE position = 5",
            "UPDATE ledger SET at = at + 1 WHERE position = 5",
            "UPDATE ledger SET merchant = NULL WHERE position = 5",
            "UPDATE ledger SET contact_point_id = 'cp_another' WHERE position = 5",
        ],
    )
    def test_with_any_column_is_seen(self, used: Gateway, ledger_url: str, statement: str) -> None:
        tamper(ledger_url, statement)

        assert faults(used.proofs.verify()) == [("altered", 5)]

    def test_by_removing_a_row_is_named(self, used: Gateway, ledger_url: str) -> None:
        tamper(ledger_url, "DELETE FROM ledger WHERE position = 7")

        assert faults(used.proofs.verify()) == [("missing", 7)]

    def test_by_putting_a_row_in_is_named(self, used: Gateway, ledger_url: str) -> None:
        columns = "kind, at, message_id, contact_point_id, merchant, purpose, channel, outcome, body"
        tamper(
            ledger_url,
            f"INSERT INTO ledger (position, {columns}) SELECT 0, {columns} FROM ledger WHERE position = 3",
        )

        assert faults(used.proofs.verify()) == [("inserted", 0)]

    def test_by_exchanging_rows_is_named(self, used: Gateway, ledger_url: str) -> None:
        tamper(
            ledger_url,
            "UPDATE ledger SET position = 1003 WHERE position = 3",
            "UPDATE ledger SET position = 3 WHERE position = 6",
            "UPDATE ledger SET position = 6 WHERE position = 1003",
        )

        found = used.proofs.verify()
        assert faults(found) == [("reordered", 3), ("reordered", 6)]
        assert "belongs in row 6" in found.problems[0].told

    def test_with_a_row_and_its_hash_is_narrowed_down_by_the_checkpoints(
        self, used: Gateway, ledger_url: str
    ) -> None:
        """Whoever computes the hash anew fails at the first checkpoint that was signed after it."""
        with intruder(ledger_url) as conn:
            conn.execute(sa.text("UPDATE ledger SET outcome = 'other' WHERE position = 7"))
            first, places, hashes = conn.execute(
                sa.text(
                    "SELECT first_leaf, positions, hashes FROM seals ORDER BY first_leaf LIMIT 1 OFFSET 1"
                )
            ).one()
            [row] = seals.rows_at(conn, [7])
            place = json.loads(places).index(7)
            forged = bytes(hashes)[: 32 * place] + row.hash + bytes(hashes)[32 * (place + 1) :]
            conn.execute(
                sa.text("UPDATE seals SET hashes = :forged WHERE first_leaf = :first"),
                {"forged": forged, "first": first},
            )

        found = used.proofs.verify()
        assert {problem.fault for problem in found.problems} == {Fault.CHECKPOINT_DIFFERS}
        assert found.problems[0].leaf == first  # signed up to there, and not beyond
        assert found.signed_up_to == first

    def test_by_cutting_off_the_end_is_seen_against_a_checkpoint_kept_elsewhere(
        self, used: Gateway, ledger_url: str, tmp_path: Path
    ) -> None:
        kept = used.proofs.checkpoint()
        with intruder(ledger_url) as conn:
            last = conn.execute(sa.text("SELECT max(first_leaf) FROM seals")).scalar_one()
            lowest = conn.execute(
                sa.text("SELECT lowest_position FROM seals WHERE first_leaf = :last"), {"last": last}
            ).scalar_one()
            for statement in (
                "DELETE FROM ledger WHERE position >= :lowest",
                "DELETE FROM seals WHERE first_leaf = :last",
                "DELETE FROM checkpoints WHERE size > :last",
            ):
                conn.execute(sa.text(statement), {"lowest": lowest, "last": last})

        for note in (tmp_path / ".notifygate").glob("log-signed-*.json"):
            note.rename(note.with_suffix(".away"))
        assert used.proofs.verify().is_intact  # nothing that is left tells of it
        found = used.proofs.verify(checkpoints=[kept])
        assert [(problem.fault.value, problem.leaf) for problem in found.problems] == [("truncated", last)]

        for note in (tmp_path / ".notifygate").glob("log-signed-*.away"):
            note.rename(note.with_suffix(".json"))
        found = used.proofs.verify()  # this machine has noted what it signed last
        assert [(problem.fault.value, problem.leaf) for problem in found.problems] == [("truncated", last)]

    def test_by_a_checkpoint_with_a_key_of_ones_own_is_seen(self, used: Gateway, ledger_url: str) -> None:
        kept = used.proofs.checkpoint()
        forger = Signer.from_pem(kept.origin, new_private_key())
        forged = Checkpoint.signed(forger, kept.origin, kept.size, bytes(32))
        with intruder(ledger_url) as conn:
            conn.execute(
                sa.text("UPDATE checkpoints SET note = :note WHERE size = :size"),
                {"note": forged.note, "size": kept.size},
            )

        found = used.proofs.verify()
        assert [(problem.fault.value, problem.leaf) for problem in found.problems] == [
            ("checkpoint_forged", kept.size)
        ]

    def test_with_a_signed_checkpoint_is_seen(self, used: Gateway, ledger_url: str) -> None:
        tamper(ledger_url, "UPDATE checkpoints SET note = replace(note, 'A', 'B')")

        assert {problem.fault for problem in used.proofs.verify().problems} == {Fault.CHECKPOINT_FORGED}

    @ON_SQLITE
    @pytest.mark.parametrize(
        ("statements", "fault"),
        [
            (["DELETE FROM seals WHERE first_leaf = 0"], Fault.MISSING),
            (["UPDATE seals SET leaves = leaves + 1 WHERE first_leaf = 0"], Fault.SEAL_ALTERED),
            (["UPDATE seals SET positions = 'x' WHERE first_leaf = 0"], Fault.SEAL_ALTERED),
            (["UPDATE seals SET positions = '[\"1\"]' WHERE first_leaf = 0"], Fault.SEAL_ALTERED),
        ],
    )
    def test_with_the_seals_is_seen_and_nothing_is_signed_any_more(
        self, used: Gateway, ledger_url: str, statements: list[str], fault: Fault
    ) -> None:
        tamper(ledger_url, *statements)

        assert fault in {problem.fault for problem in used.proofs.verify().problems}
        used.submit(order_update(text="One more."))
        with pytest.raises(LedgerError, match="log verify"):
            used.proofs.checkpoint()

    def test_with_the_kept_roots_of_subtrees_is_seen(self, gate: Gateway, ledger_url: str) -> None:
        list(gate.submit_many(order_update(text=f"Parcel {number}.") for number in range(600)))
        gate.proofs.checkpoint()
        assert gate.proofs.verify().is_intact

        tamper(ledger_url, "UPDATE tree_nodes SET hash = (SELECT hash FROM tree_nodes WHERE number = 0)")

        found = gate.proofs.verify()
        assert [(problem.fault.value, problem.leaf) for problem in found.problems] == [("seal_altered", 256)]

    def test_by_exchanging_rows_in_log_and_seals_alike_is_seen(self, used: Gateway, ledger_url: str) -> None:
        """The order in which rows are shown is part of each."""
        tamper(
            ledger_url,
            "UPDATE ledger SET position = 1002 WHERE position = 2",
            "UPDATE ledger SET position = 2 WHERE position = 3",
            "UPDATE ledger SET position = 3 WHERE position = 1002",
        )

        assert faults(used.proofs.verify()) == [("reordered", 2), ("reordered", 3)]

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE ledger SET body = 'x' WHERE position = 5",
            "UPDATE ledger SET at = 9000000000000000000 WHERE position = 5",
            "UPDATE ledger SET reason = {blob} WHERE position = 5",
            "UPDATE ledger SET body = {blob} WHERE position = 5",
            "UPDATE ledger SET reason = CAST({blob} AS TEXT) WHERE position = 5",
        ],
    )
    def test_with_a_value_that_no_row_has_is_named(
        self, used: Gateway, ledger_url: str, statement: str
    ) -> None:
        blob = "x'ff00'" if ledger_url.startswith("sqlite") else "'odd'"
        tamper(ledger_url, statement.format(blob=blob))

        assert faults(used.proofs.verify()) == [("altered", 5)]

    @ON_SQLITE
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE seals SET settled = 4000000000000000000 WHERE first_leaf = 0",
            "UPDATE seals SET highest_position = 0 WHERE first_leaf = 0",
            "UPDATE seals SET lowest_position = 0 WHERE first_leaf = 0",
        ],
    )
    def test_with_what_a_seal_notes_is_seen(self, used: Gateway, ledger_url: str, statement: str) -> None:
        tamper(ledger_url, statement)

        assert Fault.SEAL_ALTERED in {problem.fault for problem in used.proofs.verify().problems}

    @pytest.mark.parametrize("table", ["seals", "checkpoints"])
    def test_with_an_instant_that_never_was_stops_nothing(
        self, used: Gateway, ledger_url: str, table: str
    ) -> None:
        column = "sealed_at" if table == "seals" else "made_at"
        tamper(ledger_url, f"UPDATE {table} SET {column} = 9000000000000000000")

        assert used.proofs.verify().is_intact  # it proves nothing, and is not part of what is proved
        used.submit(order_update(text="One more."))
        assert used.proofs.checkpoint().size == used.proofs.verify().size

    def test_a_row_that_is_none_does_not_stop_the_sealing(self, used: Gateway, ledger_url: str) -> None:
        tamper(ledger_url, "INSERT INTO ledger (kind, at, body) VALUES ('decision', 1, '{')")
        used.submit(order_update(text="One more."))
        used.proofs.checkpoint()

        found = used.proofs.verify()
        assert (found.unsealed, found.size) == (0, len(positions(ledger_url)))

    def test_by_writing_a_history_anew_is_never_signed(self, used: Gateway, ledger_url: str) -> None:
        with intruder(ledger_url) as conn:
            for table in ("seals", "checkpoints", "tree_nodes"):
                conn.execute(sa.text(f"DELETE FROM {table}"))
            conn.execute(sa.text("UPDATE ledger SET outcome = 'other' WHERE position = 2"))

        with pytest.raises(LedgerError, match="not those that were signed"):
            used.proofs.checkpoint()
        assert Fault.CHECKPOINT_DIFFERS in {problem.fault for problem in used.proofs.verify().problems}

    @ON_SQLITE
    @pytest.mark.parametrize(
        ("statement", "told"),
        [
            ("UPDATE consent_events SET state = 'granted'", "says something else than the log: state"),
            ("UPDATE consent_events SET recorded_at = recorded_at - 1", "recorded_at"),
            ("UPDATE consent_events SET expires_at = 5", "expires_at"),
            ("DELETE FROM consent_events", "is missing"),
        ],
    )
    def test_with_a_consent_event_is_named(
        self, used: Gateway, ledger_url: str, statement: str, told: str
    ) -> None:
        tamper(ledger_url, statement)

        [problem] = used.proofs.verify().problems
        assert problem.fault is Fault.CONSENT_ALTERED
        assert told in problem.told

    def test_by_putting_a_consent_event_in_is_named(self, used: Gateway, ledger_url: str) -> None:
        with intruder(ledger_url) as conn:
            columns = [column["name"] for column in sa.inspect(conn).get_columns("consent_events")]
            forged = {"event_id": "'evt_forged'", "state": "'granted'"}
            chosen = ", ".join(forged.get(name, name) for name in columns)
            conn.execute(sa.text(f"INSERT INTO consent_events SELECT {chosen} FROM consent_events"))

        [problem] = used.proofs.verify().problems
        assert problem.told == "consent event evt_forged is not in the log: it was put in"

    def test_with_the_text_of_a_policy_is_named(self, used: Gateway, ledger_url: str) -> None:
        tamper(ledger_url, "UPDATE policies SET text = replace(text, '2', '9')")

        assert {problem.fault for problem in used.proofs.verify().problems} == {Fault.POLICY_ALTERED}

    def test_with_what_an_event_says_of_its_proof_is_named(self, used: Gateway, ledger_url: str) -> None:
        for column, value in (("notice_version", "'other'"), ("opt_out_offered", "true")):
            tamper(ledger_url, f"UPDATE consent_events SET {column} = {value}")
        told = used.proofs.verify().problems[0].told
        assert told.endswith("says something else than the log: notice_version, opt_out_offered")

    def test_by_taking_away_the_text_of_a_policy_is_named(self, used: Gateway, ledger_url: str) -> None:
        tamper(ledger_url, "DELETE FROM policies")
        [problem] = used.proofs.verify().problems
        assert problem.fault is Fault.POLICY_ALTERED
        assert "is missing, though decisions name it" in problem.told

    def test_by_putting_a_consent_event_in_is_not_hidden_by_a_row_that_waits_for_its_seal(
        self, used: Gateway, ledger_url: str
    ) -> None:
        used.suppressions.add("email:bo@example.dk", "manual")
        tamper(ledger_url, PUT_IN)

        found = used.proofs.verify()
        assert found.unsealed == 1
        assert [problem.told for problem in found.problems] == [
            "consent event evt_forged is not in the log: it was put in"
        ]

    def test_by_putting_a_row_in_and_calling_less_of_the_log_settled_is_seen(
        self, used: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        """Where positions were left free, as a rollback leaves them on PostgreSQL; there the row counts as late."""
        columns = "kind, at, message_id, contact_point_id, merchant, purpose, channel, outcome, body"
        clock.advance(hours=3)
        used.submit(order_update(text="Later."))
        used.drain()
        tamper(
            ledger_url,
            "UPDATE seals SET settled = 0",
            f"INSERT INTO ledger (position, {columns}) SELECT 0, {columns} FROM ledger WHERE position = 3",
        )
        if "sqlite" not in ledger_url:
            tamper(ledger_url, "UPDATE ledger SET position = 1000 WHERE position = 0")
            used._runtime.sealer.seal()
            tamper(ledger_url, "UPDATE seals SET sealed_at = 0")
            assert used.proofs.verify().sealed_late == 1
            return
        assert "seal_altered" in {fault for fault, _ in faults(used.proofs.verify())}

    @ON_SQLITE
    def test_with_the_last_seal_is_told_by_doctor_and_the_gauges(
        self, used: Gateway, ledger_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tamper(ledger_url, "UPDATE seals SET settled = 'x'")

        assert main(["doctor", "--config", str(tmp_path / "notifygate.toml")]) == 1
        assert "the seals of the send log are not what was written" in " ".join(
            capsys.readouterr().out.split()
        )
        with used._runtime.ledger.read() as conn:
            assert gauges.read(conn, used._runtime.clock()).unsealed == gauges.AT_MOST

    @ON_SQLITE
    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            ("UPDATE ledger SET body = '[]' WHERE kind = 'consent'", "altered"),
            ("UPDATE ledger SET body = '\"x\"' WHERE kind = 'consent'", "altered"),
            (
                "UPDATE ledger SET body = json_set(body, '$.occurred_at', 'x') WHERE kind = 'consent'",
                "altered",
            ),
            ("UPDATE policies SET text = x'00'", "policy_altered"),
            ("UPDATE checkpoints SET note = x'00'", "checkpoint_forged"),
            ("UPDATE checkpoints SET size = 'x' || size", "checkpoint_forged"),
            ("UPDATE seals SET sealed_at = 'x' WHERE first_leaf = 0", "seal_altered"),
            ("UPDATE seals SET settled = 'x' WHERE first_leaf = 0", "seal_altered"),
            ("UPDATE seals SET leaves = 'x' WHERE first_leaf = 0", "seal_altered"),
            ("UPDATE seals SET hashes = 'x' WHERE first_leaf = 0", "seal_altered"),
            ("UPDATE seals SET first_leaf = 'x' WHERE first_leaf = 0", "seal_altered"),
            ("UPDATE keys SET value = 'x' WHERE name LIKE 'log_verifier%'", "key_altered"),
            ("INSERT INTO tree_nodes (level, number, hash) VALUES (8, 0, x'00')", "seal_altered"),
            ("INSERT INTO tree_nodes (level, number, hash) VALUES ('x', 'y', 'z')", "seal_altered"),
        ],
    )
    def test_with_what_cannot_be_read_keeps_nothing_else_from_being_found(
        self, used: Gateway, ledger_url: str, statement: str, found: str
    ) -> None:
        tamper(ledger_url, statement)
        assert found in {fault for fault, _ in faults(used.proofs.verify())}

        tamper(ledger_url, "UPDATE ledger SET outcome = 'other' WHERE position = 7")
        seen = faults(used.proofs.verify())
        assert found in {fault for fault, _ in seen}
        assert ("altered", 7) in seen

    def test_with_roots_that_are_not_there_yet_stops_the_sealing_with_a_word(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        with intruder(ledger_url) as conn:
            conn.execute(sa.insert(schema.tree_nodes).values(level=8, number=0, hash=b"x"))
        rows = [Row(kind=Kind.SUBMITTED, at=gate._runtime.clock(), body={})] * 300
        gate._runtime.ledger.transact(lambda conn: journal.append(conn, rows))

        for patiently in (False, True):
            with pytest.raises(LedgerError, match="are not whole"):
                gate._runtime.sealer.seal(patiently=patiently)

    def test_with_very_many_rows_is_counted_and_the_first_are_named(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        list(gate.submit_many(order_update(text=f"Parcel {number}.") for number in range(300)))
        gate.proofs.checkpoint()
        tamper(ledger_url, "UPDATE ledger SET outcome = 'allow'")

        found = gate.proofs.verify()
        assert found.problem_count == 300
        assert faults(found) == [("altered", position) for position in range(1, 101)]


class TestVerifying:
    def test_counts_what_was_sealed_long_after_its_date(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.submit(order_update())
        clock.advance(hours=2)
        gate.proofs.checkpoint()

        assert gate.proofs.verify().sealed_late == 1

    def test_refuses_a_checkpoint_of_another_log(self, used: Gateway, open_gate: OpenGate) -> None:
        foreign = Checkpoint.signed(
            Signer.from_pem("other.example", new_private_key()), "other.example", 3, bytes(32)
        )

        found = used.proofs.verify(checkpoints=[foreign])
        assert [problem.fault for problem in found.problems] == [Fault.CHECKPOINT_FOREIGN]

    def test_where_the_key_is_not_goes_by_that_of_the_ledger_and_says_so(
        self, used: Gateway, open_gate: OpenGate, tmp_path: Path
    ) -> None:
        elsewhere = open_gate(gateway={"data_dir": str(tmp_path / "elsewhere")})

        found = elsewhere.proofs.verify()
        assert found.is_intact
        assert found.keys_are_the_ledgers_own
        assert not used.proofs.verify().keys_are_the_ledgers_own

    def test_a_machine_without_the_key_seals_and_leaves_signing_to_the_others(
        self, used: Gateway, open_gate: OpenGate, tmp_path: Path
    ) -> None:
        elsewhere = open_gate(gateway={"data_dir": str(tmp_path / "elsewhere")})
        elsewhere.submit(order_update(text="From elsewhere."))
        before = used.proofs.verify()
        elsewhere.drain()

        after = elsewhere.proofs.verify()
        assert after.size > before.size
        assert after.signed_up_to == before.signed_up_to
        with pytest.raises(LedgerError, match=r"log\.key_file"):
            elsewhere.proofs.checkpoint()

    def test_goes_by_all_keys_that_this_machine_ever_signed_with(
        self, used: Gateway, open_gate: OpenGate, tmp_path: Path
    ) -> None:
        kept = used.proofs.checkpoint()
        (tmp_path / "new.pem").write_bytes(new_private_key())
        changed = open_gate(log={"key_file": str(tmp_path / "new.pem"), "origin": "shop.example/log"})
        changed.submit(order_update(text="Signed with another key, under another name."))

        new = changed.proofs.checkpoint()
        assert new.origin == "shop.example/log"
        found = changed.proofs.verify(checkpoints=[kept])
        assert found.is_intact, found.problems
        assert changed.proofs.consistency(kept).new == new

    def test_says_of_a_key_that_only_the_ledger_names_that_it_is_not_trusted(
        self, used: Gateway, open_gate: OpenGate, tmp_path: Path
    ) -> None:
        (tmp_path / "new.pem").write_bytes(new_private_key())
        elsewhere = open_gate(
            log={"key_file": str(tmp_path / "new.pem")}, gateway={"data_dir": str(tmp_path / "elsewhere")}
        )

        assert {problem.fault for problem in elsewhere.proofs.verify().problems} == {
            Fault.CHECKPOINT_UNTRUSTED
        }
        assert elsewhere.proofs.verify(keys=used.proofs.verifiers()).is_intact

    def test_of_two_machines_that_make_a_key_at_once_one_throws_its_own_away(
        self, gate: Gateway, open_gate: OpenGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = open_gate(gateway={"data_dir": str(tmp_path / "elsewhere")})
        gate.submit(order_update())
        make = LogKeys._make

        def make_slowly(keys: LogKeys) -> tuple[bytes, bool]:
            made = make(keys)
            monkeypatch.setattr(LogKeys, "_make", make)
            assert gate.proofs.checkpoint().size == 1
            return made

        monkeypatch.setattr(LogKeys, "_make", make_slowly)
        elsewhere._runtime.sealer.work()

        assert elsewhere._runtime.sealer.keys.signer is None
        assert not (tmp_path / "elsewhere" / "log-key.pem").exists()
        assert gate.proofs.verify().is_intact
        assert elsewhere.proofs.verify().is_intact

    @ON_POSTGRESQL
    def test_waits_for_no_month_that_is_dropped_meanwhile(
        self, gate: Gateway, open_gate: OpenGate, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        partitions.make_ahead(gate._runtime.ledger, clock.now)
        gate.submit(order_update(text="Of a month that goes."))
        clock.advance(days=70)
        gate.submit(order_update(text="Of one that stays."))
        gate.proofs.checkpoint()
        other = open_gate()._runtime.ledger
        dropping = threading.Thread(
            target=partitions.drop_before,
            args=(other, partitions.month_of(clock.now), clock.now),
            kwargs={"actor": "tester"},
        )
        checkpoints = seals.all_checkpoints

        def meanwhile(conn: sa.Connection) -> Iterator[tuple[int, str, int]]:
            dropping.start()
            dropping.join(1)
            yield from checkpoints(conn)

        monkeypatch.setattr(seals, "all_checkpoints", meanwhile)
        found = gate.proofs.verify()
        monkeypatch.undo()
        dropping.join()

        assert found.is_intact, found.problems
        after = gate.proofs.verify()
        assert after.is_intact
        assert after.removed == 1
        assert sum(told.rows for told in after.removals) == 1
        assert {told.actor for told in after.removals} == {"tester"}

    def test_an_empty_log_is_intact(self, gate: Gateway) -> None:
        assert gate.proofs.verify().is_intact
        with pytest.raises(NotFound, match="nothing is in the send log"):
            gate.proofs.checkpoint()


class TestRemoving:
    """Whole months of the send log go, and what is left proves all the same."""

    @pytest.fixture
    def old(self, gate: Gateway, clock: SimulatedClock) -> Gateway:
        """A gateway with rows in April, May and June; now it is July."""
        for month in (4, 5, 6):
            clock.set(datetime(2040, month, 10, 9, tzinfo=UTC))
            for number in range(3):
                gate.submit(order_update(text=f"Parcel {number} of {month}."))
                gate.drain()
        clock.set(datetime(2040, 7, 10, 9, tzinfo=UTC))
        gate.proofs.checkpoint()
        return gate

    def drop(self, gate: Gateway, month: int) -> int:
        gate._runtime.sealer.seal()
        begin = datetime(2040, month, 1, tzinfo=UTC)
        dropped = partitions.drop_before(gate._runtime.ledger, begin, gate._runtime.clock(), actor="tester")
        return sum(part.rows for part in dropped)

    def test_is_told_by_the_log_itself_and_the_proof_stays_whole(self, old: Gateway, ledger_url: str) -> None:
        kept = old.proofs.checkpoint()
        june = next(row.message_id for row in old.log.search(kind="submitted"))
        assert self.drop(old, 6) == 18

        found = old.proofs.verify(checkpoints=[kept])
        assert found.is_intact, found.problems
        assert found.removed == 18
        assert len(old.proofs.prove(str(june)).rows) == 3

        old.proofs.checkpoint()
        assert self.drop(old, 7) == 9
        found = old.proofs.verify(checkpoints=[kept])
        assert found.is_intact, found.problems
        assert found.removed == 27

    def test_may_take_the_row_that_told_of_an_earlier_removal(
        self, old: Gateway, clock: SimulatedClock
    ) -> None:
        self.drop(old, 6)
        clock.set(datetime(2040, 9, 10, 9, tzinfo=UTC))
        self.drop(old, 9)

        old.submit(order_update(text="One more."))
        old.proofs.checkpoint()
        found = old.proofs.verify()
        assert found.is_intact, found.problems
        assert [row.kind for row in old.log.search(kind="dropped")] == ["dropped"] * len(
            list(old.log.search(kind="dropped"))
        )
        assert found.removed > 27

    def test_of_rows_that_are_not_sealed_is_refused(self, old: Gateway, clock: SimulatedClock) -> None:
        clock.set(datetime(2040, 5, 10, tzinfo=UTC))
        old.submit(order_update(text="Not sealed."))
        clock.set(datetime(2040, 7, 10, tzinfo=UTC))

        with pytest.raises(LedgerError, match="not all sealed yet"):
            partitions.drop_before(
                old._runtime.ledger, datetime(2040, 7, 1, tzinfo=UTC), clock.now, actor="tester"
            )
        assert old.proofs.verify().is_intact

    def test_twice_where_rows_lie_behind_later_ones_leaves_the_proof_whole(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        """Of two machines one is a moment behind: at midnight a row of the old month comes after one of the new."""
        for at in (
            *(datetime(2040, 5, day, tzinfo=UTC) for day in (10, 11, 12)),
            datetime(2040, 6, 1, tzinfo=UTC),
            datetime(2040, 5, 31, 23, 59, 59, tzinfo=UTC),
            *(datetime(2040, 6, day, tzinfo=UTC) for day in (10, 11, 12)),
        ):
            clock.set(at)
            gate.submit(order_update(text=f"{at}"))
        clock.set(datetime(2040, 7, 10, tzinfo=UTC))
        assert (self.drop(gate, 6), self.drop(gate, 7)) == (4, 4)

        found = gate.proofs.verify()
        assert found.is_intact, found.problems
        assert (found.removed, [told.rows for told in found.removals if told.rows]) == (8, [4, 4])

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ({"rows": 0, "leaves": [[0, 1_000_000]]}, "names rows that came after it"),
            ({"rows": 1_000, "leaves": [[12, 13]]}, "names 2 rows, and says that 1,000 were removed"),
            ({"rows": 0, "leaves": [[12, 15]]}, "names 4 rows, and says that 0 were removed"),
            ({"rows": 1, "leaves": "all"}, "cannot be read"),
            ([], "cannot be read"),
        ],
    )
    def test_is_believed_no_row_that_says_what_cannot_be(
        self, old: Gateway, ledger_url: str, clock: SimulatedClock, body: Any, told: str
    ) -> None:
        self.drop(old, 5)
        row = Row(kind=Kind.DROPPED, at=clock.now, body=body)
        old._runtime.ledger.transact(lambda conn: journal.append(conn, [row]))
        position = positions(ledger_url)[-1]
        self.drop(old, 6)  # what the forged row says is not handed on
        tamper(ledger_url, "DELETE FROM ledger WHERE position = 20")

        found = old.proofs.verify()
        assert faults(found) == [("missing", 20), ("removal_forged", position)]
        assert found.problems[1].told.endswith(told)

    def test_lets_no_consent_event_be_put_in_that_is_newer(
        self, old: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        old.consent.withdraw(ANNA_EMAIL)
        self.drop(old, 6)
        assert old.proofs.verify().is_intact
        tamper(ledger_url, PUT_IN)

        assert [problem.told for problem in old.proofs.verify().problems] == [
            "consent event evt_forged is not in the log: it was put in"
        ]

    def test_of_an_event_that_was_logged_leaves_the_event(self, gate: Gateway, clock: SimulatedClock) -> None:
        clock.set(datetime(2040, 4, 10, tzinfo=UTC))
        gate.consent.withdraw(ANNA_EMAIL)
        clock.set(datetime(2040, 7, 10, tzinfo=UTC))
        gate.consent.withdraw("email:bo@example.dk")
        assert self.drop(gate, 6) == 1

        assert gate.proofs.verify().is_intact

    def test_that_a_forged_row_tells_of_is_missing_all_the_same(self, old: Gateway, ledger_url: str) -> None:
        """The row that tells of a removal counts only where it is a leaf itself."""
        tamper(
            ledger_url,
            "UPDATE ledger SET kind = 'dropped', body = '{\"leaves\": [[0, 100]]}' WHERE position = 20",
            "DELETE FROM ledger WHERE position = 2",
        )

        assert faults(old.proofs.verify()) == [("missing", 2), ("altered", 20)]

    def test_leaves_the_log_append_only(self, old: Gateway, ledger_url: str) -> None:
        self.drop(old, 6)

        with (
            plain_engine(ledger_url) as engine,
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
            engine.begin() as conn,
        ):
            conn.execute(sa.text("DELETE FROM ledger"))


class TestRestoring:
    """A backup lacks what was signed since; whoever can change the ledger must not pass for one."""

    def cut(self, gate: Gateway, ledger_url: str) -> None:
        """Take the ledger back to its first seal."""
        tamper(
            ledger_url,
            "DELETE FROM ledger WHERE position > (SELECT highest_position FROM seals WHERE first_leaf = 0)",
            "DELETE FROM checkpoints WHERE size > (SELECT leaves FROM seals WHERE first_leaf = 0)",
            "DELETE FROM seals WHERE first_leaf > 0",
        )

    def restored(self, gate: Gateway) -> None:
        """Record it, as `notifygate db restored` does."""
        runtime = gate._runtime
        attest = runtime.sealer.attest_restored
        Restoration(runtime.ledger, gate.config.policy, runtime.clock, attest).put_in_doubt(runtime.clock())

    def test_lets_the_log_go_on_and_is_told(self, used: Gateway, ledger_url: str) -> None:
        self.cut(used, ledger_url)
        assert "truncated" in {fault for fault, _ in faults(used.proofs.verify())}
        self.restored(used)
        used.proofs.checkpoint()

        found = used.proofs.verify()
        assert found.is_intact, found.problems
        assert [told.is_signed for told in found.restorations] == [True]

    @pytest.mark.parametrize("attested", ["nothing", "nonsense", "an older one"])
    def test_that_no_key_attests_sets_nothing_aside(
        self, used: Gateway, ledger_url: str, clock: SimulatedClock, attested: str
    ) -> None:
        notes = {
            "nothing": None,
            "nonsense": "so it was",
            "an older one": used._runtime.sealer.attest_restored(clock.now),
        }
        clock.advance(minutes=5)
        used.submit(order_update(text="Signed since."))
        used.drain()
        self.cut(used, ledger_url)
        row = Row(kind=Kind.RESTORED, at=clock.now, body={"attested": notes[attested]})
        used._runtime.ledger.transact(lambda conn: journal.append(conn, [row]))

        with pytest.raises(LedgerError, match="not those that were signed"):
            used.proofs.checkpoint()
        found = used.proofs.verify()
        assert {fault for fault, _ in faults(found)} == {"truncated"}
        assert [told.is_signed for told in found.restorations] == [False]

    def test_is_known_on_another_machine_with_the_key(
        self, used: Gateway, open_gate: OpenGate, ledger_url: str, tmp_path: Path
    ) -> None:
        key = str(tmp_path / ".notifygate" / "log-key.pem")
        other = open_gate(gateway={"data_dir": str(tmp_path / "other")}, log={"key_file": key})
        other.proofs.checkpoint()
        self.cut(used, ledger_url)
        self.restored(used)

        other.submit(order_update(text="Goes on."))
        assert other.proofs.checkpoint().size == other.proofs.verify().signed_up_to


class TestForgetting:
    def test_a_person_changes_no_row_and_no_proof(self, used: Gateway, clock: SimulatedClock) -> None:
        message_id = used.submit(order_update(text="To be forgotten.")).message_id
        used.drain()
        kept = used.proofs.checkpoint()
        before = used.proofs.prove(message_id, checkpoint=kept)

        used.people.erase(ANNA_EMAIL)

        used.proofs.checkpoint()
        found = used.proofs.verify(checkpoints=[kept])
        assert found.is_intact, found.problems
        assert (found.removed, found.unsealed) == (0, 0)
        assert used.proofs.prove(message_id, checkpoint=kept) == before


class TestProving:
    def check(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the checker as an outsider would: without the package."""
        script = CHECKOUT / "examples" / "verify_proof.py"
        command = [sys.executable, "-I", str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def test_a_message_to_an_outsider(self, used: Gateway, tmp_path: Path) -> None:
        message_id = used.submit(order_update(text="To be proved.")).message_id
        used.drain()
        proof = used.proofs.prove(message_id).to_json()
        [key] = map(str, used.proofs.verifiers())
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(proof), encoding="utf-8")

        found = self.check(str(path), "--key", key)
        assert (found.returncode, found.stderr) == (0, "")
        assert [line.split(" ")[4] for line in found.stdout.splitlines()[:3]] == [
            "submitted",
            "decision",
            "attempt",
        ]
        assert "anna@example.dk" not in path.read_text("utf-8")
        assert "To be proved" not in path.read_text("utf-8")

    @pytest.mark.parametrize(
        "forge",
        [
            lambda proof: proof["rows"][1].update(
                record=proof["rows"][1]["record"].replace('"allow"', '"deny"')
            ),
            lambda proof: proof["rows"][1].update(proof=proof["rows"][0]["proof"]),
            lambda proof: proof.update(checkpoint=proof["checkpoint"].replace("\n19\n", "\n20\n")),
            lambda proof: proof.update(rows=[]),
            lambda proof: proof.update(about="msg_another"),
            lambda proof: proof["rows"].append(proof["rows"][0]),
            lambda proof: proof["rows"][0].update(
                proof=proof["rows"][0]["proof"].replace("\nindex ", "\nindex 1")
            ),
        ],
        ids=["record", "path", "checkpoint", "no rows", "message", "twice", "place"],
    )
    @ON_SQLITE
    def test_a_forged_one_does_not_hold(
        self, used: Gateway, tmp_path: Path, forge: Callable[[dict[str, object]], object]
    ) -> None:
        message_id = used.submit(order_update(text="To be proved.")).message_id
        used.drain()
        proof = used.proofs.prove(message_id).to_json()
        forge(proof)
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(proof), encoding="utf-8")

        assert self.check(str(path), "--key", *map(str, used.proofs.verifiers())).returncode == 1

    @ON_SQLITE
    def test_needs_the_right_key(self, used: Gateway, tmp_path: Path) -> None:
        message_id = used.submit(order_update(text="To be proved.")).message_id
        proof = used.proofs.prove(message_id)
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(proof.to_json()), encoding="utf-8")
        other = Signer.from_pem(proof.checkpoint.origin, new_private_key())

        found = self.check(str(path), "--key", str(other.verifier))
        assert found.returncode == 1
        assert "not signed by that key" in found.stderr

    def test_that_a_checkpoint_goes_on_from_an_older_one(self, used: Gateway, tmp_path: Path) -> None:
        old = used.proofs.checkpoint()
        for number in range(300):
            used.submit(order_update(text=f"Parcel {number}."))
        proof = used.proofs.consistency(old).to_json()
        [key] = map(str, used.proofs.verifiers())
        path = tmp_path / "proof.json"
        path.write_text(json.dumps(proof), encoding="utf-8")
        assert self.check(str(path), "--key", key).returncode == 0

        proof["path"] = [*proof["path"][1:], proof["path"][0]]
        path.write_text(json.dumps(proof), encoding="utf-8")
        assert self.check(str(path), "--key", key).returncode == 1

    def test_an_altered_row_is_refused(self, used: Gateway, ledger_url: str) -> None:
        message_id = used.submit(order_update(text="To be altered.")).message_id
        used.drain()
        tamper(ledger_url, f"UPDATE ledger SET outcome = 'deny' WHERE message_id = '{message_id}'")

        with pytest.raises(LedgerError, match="was altered"):
            used.proofs.prove(message_id)

    def test_against_a_checkpoint_that_was_kept_elsewhere(self, used: Gateway) -> None:
        message_id = used.submit(order_update(text="To be proved.")).message_id
        kept = used.proofs.checkpoint()
        used.submit(order_update(text="Later."))
        used.proofs.checkpoint()

        assert used.proofs.prove(message_id, checkpoint=kept).checkpoint == kept
        with pytest.raises(NotFound):
            used.proofs.prove("msg_unknown")
        forger = Signer.from_pem(kept.origin, new_private_key())
        with pytest.raises(NoteError, match="not signed"):
            used.proofs.prove(
                message_id, checkpoint=Checkpoint.signed(forger, kept.origin, kept.size, kept.root)
            )


@ON_SQLITE
class TestTheCommandLine:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
        code = main([*arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    @pytest.fixture
    def config(self, used: Gateway, config_file: ConfigFile) -> str:
        return str(config_file())

    def test_says_whether_the_log_is_intact(
        self, config: str, ledger_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kept = tmp_path / "kept.txt"
        assert self.run(capsys, "log", "checkpoint", "--out", str(kept), "--config", config)[0] == 0
        code, out, _ = self.run(
            capsys, "log", "verify", "--checkpoint", str(kept), "--config", config, "--json"
        )
        assert (code, json.loads(out)["intact"], json.loads(out)["outside_checkpoints"]) == (0, True, 1)

        tamper(ledger_url, "UPDATE ledger SET reason = 'forged' WHERE position = 2")
        code, out, _ = self.run(capsys, "log", "verify", "--config", config)
        assert code == 1
        assert "NOT INTACT" in out
        assert "row 2 was altered" in out

    def test_says_what_is_wrong_with_a_file(
        self, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        no_checkpoint = tmp_path / "note.txt"
        no_checkpoint.write_text("dear auditor\n", encoding="utf-8")
        for arguments, told in (
            (["verify", "--checkpoint", str(tmp_path / "missing.txt")], "No such file"),
            (["verify", "--checkpoint", str(no_checkpoint)], "not a signed note"),
            (["verify", "--key", "shop+12+34"], "notifygate log key"),
            (["checkpoint", "--out", str(no_checkpoint)], "--force"),
            (["checkpoint", "--out", str(tmp_path / "no" / "folder.txt")], "there is no folder"),
            (["prove", "msg_unknown"], "no message"),
        ):
            code, _, err = self.run(capsys, "log", *arguments, "--config", config)
            assert (code, told in err) == (2, True), (arguments, err)
        assert no_checkpoint.read_text("utf-8") == "dear auditor\n"

    def test_prints_the_key_that_checks_a_checkpoint(
        self, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, note, _ = self.run(capsys, "log", "checkpoint", "--config", config)
        _, key, _ = self.run(capsys, "log", "key", "--config", config)
        path = tmp_path / "key.txt"
        path.write_text(key, encoding="utf-8")

        kept = tmp_path / "kept.txt"
        kept.write_text(note, encoding="utf-8")
        for given in (key.strip(), str(path)):
            code, _, _ = self.run(
                capsys, "log", "verify", "--checkpoint", str(kept), "--key", given, "--config", config
            )
            assert code == 0


def test_a_checkpoint_is_never_dated_by_a_clock_that_was_set_back_for_long(
    gate: Gateway, clock: SimulatedClock
) -> None:
    gate.submit(order_update())
    gate.drain()
    clock.set(clock.now - timedelta(days=30))
    gate.submit(order_update(text="After the clock was set back."))
    gate.drain()

    assert gate.proofs.verify().signed_up_to == 6
