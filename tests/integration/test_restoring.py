"""A ledger restored from a backup sends nothing again that was sent since the backup."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from support.channel import ACCEPTED, FAILED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.databases import Databases
from support.fixtures import ConfigFile, OpenGate
from support.messages import ANNA_EMAIL, delivered_purchase, order_update, review_request
from support.tables import plain_engine

from notifygate import Gateway, LedgerError, Status, restoring
from notifygate.channels import HandOffOutcome, Inquiry
from notifygate.restoring import LedgerMark, Restoration

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)


def put_in_doubt(gate: Gateway, until: datetime) -> int:
    runtime = gate._runtime
    attest = runtime.sealer.attest_restored
    return Restoration(runtime.ledger, runtime.config.policy, runtime.clock, attest).put_in_doubt(until)


class Backup:
    """A copy of an SQLite ledger, taken while it is used."""

    def __init__(self, url: str, folder: Path) -> None:
        self._live = Path(make_url(url).database or "")
        self._copy = folder / "backup.db"
        with closing(sqlite3.connect(self._live)) as source, closing(sqlite3.connect(self._copy)) as target:
            source.backup(target)

    def restore(self) -> None:
        """Put the copy in place of the ledger, which nobody may have open."""
        for suffix in ("-wal", "-shm"):
            self._live.with_name(self._live.name + suffix).unlink(missing_ok=True)
        shutil.copy(self._copy, self._live)


@ON_SQLITE
class TestARestoredLedger:
    def test_sends_nothing_again(
        self, config_file: ConfigFile, clock: SimulatedClock, ledger_url: str, tmp_path: Path
    ) -> None:
        config = config_file()
        purchase = delivered_purchase(clock.now)
        sent = ScriptedChannel()
        with Gateway.open(config, clock=clock) as gate:
            install(gate, sent)
            gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
            waiting = [
                gate.submit(order_update()).message_id,
                gate.submit(review_request(purchase)).message_id,
            ]
            code = gate.submit(order_update(purpose="login_code")).message_id
            later = gate.submit(order_update(send_after=clock.now + timedelta(days=3))).message_id
            backup = Backup(ledger_url, tmp_path)
            gate.drain()
            assert len(sent.taken) == 3
        backup.restore()
        clock.advance(hours=1)

        with Gateway.open(config, clock=clock) as gate:
            install(gate, sent)
            assert put_in_doubt(gate, clock.now) == 2
            gate.drain()
            assert [gate.status(one) for one in waiting] == [Status.IN_DOUBT, Status.IN_DOUBT]
            assert gate.status(code) is Status.SENT, "a login code may come twice"
            again = gate.submit(review_request(purchase)).message_id
            gate.drain()
            assert gate.status(again) is Status.DENIED, "the ask that may have been made counts"
            assert {one.message_id for one in gate.doubt.list()} == set(waiting)
            clock.advance(days=3)
            gate.drain()
            assert gate.status(later) is Status.SENT, "what was not due yet goes out in its time"
            for message_id in waiting:
                gate.doubt.resolve(message_id, "sent", evidence="the provider's log")

        arrived = [hand_off.message_id for hand_off in sent.taken]
        assert sorted(arrived) == sorted([*waiting, code, code, later])


def test_what_waits_is_put_in_doubt_with_its_ask_and_its_place_in_caps(
    gate: Gateway, clock: SimulatedClock
) -> None:
    purchase = delivered_purchase(clock.now)
    gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="review_request")
    message_id = gate.submit(review_request(purchase)).message_id
    assert put_in_doubt(gate, clock.now) == 1
    gate.drain()

    story = gate.explain(message_id)
    assert (story.status, story.reason) == (Status.IN_DOUBT, "restored from a backup")
    assert [attempt.state for attempt in story.attempts] == ["in_doubt"]
    rows = gate.log.of_message(message_id)
    assert (rows[-1].kind, rows[-1].outcome) == ("attempt", "in_doubt")
    gate.doubt.resolve(message_id, "not_sent", send_again=True, evidence="the provider's log")
    gate.drain()
    assert gate.status(message_id) is Status.SENT


def test_what_failed_once_and_waits_for_another_try_is_put_in_doubt(
    gate: Gateway, clock: SimulatedClock
) -> None:
    install(gate, ScriptedChannel(FAILED))
    message_id = gate.submit(order_update()).message_id
    gate.drain()
    clock.advance(hours=1)

    assert put_in_doubt(gate, clock.now) == 1
    assert [attempt.state for attempt in gate.explain(message_id).attempts] == ["failed", "in_doubt"]


def test_more_than_a_batch_and_twice(gate: Gateway, clock: SimulatedClock) -> None:
    requests = (order_update(to=f"person{number}@example.dk") for number in range(1_100))
    message_ids = [receipt.message_id for receipt in gate.submit_many(requests)]
    runtime = gate._runtime
    restoration = Restoration(runtime.ledger, runtime.config.policy, runtime.clock)

    assert restoration.would_be_in_doubt(clock.now) == 1_100
    assert gate.status(message_ids[0]) is Status.QUEUED
    assert restoration.put_in_doubt(clock.now) == 1_100
    assert restoration.put_in_doubt(clock.now) == 0
    assert gate.doubt.count() == 1_100


def test_a_provider_that_never_heard_of_a_restored_attempt_is_not_believed(
    gate: Gateway, clock: SimulatedClock
) -> None:
    class Knowing(ScriptedChannel):
        looks_up = True

        def look_up(self, inquiry: Inquiry) -> HandOffOutcome:
            return ACCEPTED if inquiry.message_id == first else FAILED

    sent = install(gate, Knowing())
    first = gate.submit(order_update()).message_id
    gate.drain()
    message_id = gate.submit(order_update(text="Another.")).message_id
    assert put_in_doubt(gate, clock.now) == 1
    clock.advance(hours=1)
    gate.drain()

    assert gate.status(message_id) is Status.IN_DOUBT
    assert len(sent.taken) == 1


class TestTheMark:
    @pytest.fixture
    def used(self, open_gate: OpenGate) -> Gateway:
        gate = open_gate()
        gate.submit(order_update())
        gate.drain()
        gate._runtime.mark.make()
        return gate

    def remove_newest_row(self, url: str) -> None:
        """As a backup from before it would lack it."""
        with plain_engine(url) as engine, engine.begin() as conn:
            if engine.dialect.name == "sqlite":
                conn.execute(sa.text("DROP TRIGGER ledger_no_delete"))
            else:
                conn.execute(sa.text("ALTER TABLE ledger DISABLE TRIGGER USER"))
            newest = "SELECT max(position) FROM ledger"
            conn.execute(sa.text(f"DELETE FROM ledger WHERE position = ({newest})"))

    def test_lets_the_ledger_pass_that_has_grown(self, used: Gateway) -> None:
        used.submit(order_update(text="Another."))
        used._runtime.mark.check()

    def test_lets_a_first_start_pass(self, gate: Gateway) -> None:
        gate._runtime.mark.check()

    def test_stops_a_ledger_that_lacks_what_was_seen(
        self, used: Gateway, ledger_url: str, clock: SimulatedClock
    ) -> None:
        self.remove_newest_row(ledger_url)
        with pytest.raises(LedgerError, match="notifygate db restored"):
            used._runtime.mark.check()
        used.submit(order_update(text="Another."))
        used.submit(order_update(text="One more."))
        with pytest.raises(LedgerError, match="notifygate db restored"):
            used._runtime.mark.check()

        put_in_doubt(used, clock.now)
        used._runtime.mark.check()

    def test_is_not_overwritten_by_workers_that_ran_through_a_restore(
        self, used: Gateway, ledger_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(restoring, "_NOT_AGAIN_FOR_S", -1.0)
        waiting = used.submit(order_update(text="Another.")).message_id
        used._runtime.mark.make()
        self.remove_newest_row(ledger_url)
        with pytest.raises(LedgerError, match="notifygate db restored"):
            used._runtime.mark.make()
        used._runtime.ledger.engine.dispose()
        with pytest.raises(LedgerError, match="notifygate db restored"):
            used._runtime.work([waiting])
        assert used.status(waiting) is Status.QUEUED

    def test_is_left_by_a_drain(self, gate: Gateway, ledger_url: str) -> None:
        gate.submit(order_update())
        gate.drain()
        self.remove_newest_row(ledger_url)
        with pytest.raises(LedgerError, match="notifygate db restored"):
            gate.drain()

    def test_that_cannot_be_written_is_told_once_and_stops_nothing(
        self, gate: Gateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(restoring, "_NOT_AGAIN_FOR_S", -1.0)
        gate.config.settings.gateway.data_dir.write_text("in the way")
        for number in range(3):
            gate.submit(order_update(text=f"{number}"))
            assert gate.drain() == 1

        assert caplog.text.count("ledger_mark_not_written") == 1

    def test_is_not_about_another_ledger(self, used: Gateway, databases: Databases, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        with databases.fresh(other, empty=True) as url:
            from notifygate.ledger.database import Ledger

            ledger = Ledger(url)
            try:
                ledger.prepare()
                LedgerMark(ledger, used.config.settings.gateway.data_dir).check()
            finally:
                ledger.close()

    def test_that_cannot_be_read_says_what_to_do(self, used: Gateway) -> None:
        mark = used.config.settings.gateway.data_dir / "ledger-seen.json"
        assert json.loads(mark.read_text())["position"] > 0
        mark.write_text("{")
        with pytest.raises(LedgerError, match="remove it"):
            used._runtime.mark.check()
