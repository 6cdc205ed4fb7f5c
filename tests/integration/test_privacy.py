"""Personal data is in `contact_points` and `messages`, and nowhere else: no other table, no log, no error."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from support.channel import FAILED, IN_DOUBT, REJECTED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import delivered_purchase
from support.sinks import MailSink, SmsSink
from support.tables import contents, plain_engine

from notifygate import Email, Gateway, Message, NotifygateError, Purchase, Sms
from notifygate.actors import WorkerLife
from notifygate.channels import HandOff, HandOffOutcome

EMAIL = "email:Kirsten.Olsen+gave@example.dk"
SMS = "sms:+45 26 71 48 39"
SECRETS = (
    "kirsten",
    "olsen",
    "26714839",
    "26 71 48 39",
    "overraskelse",  # in a text
    "hemmelig",  # in a subject
    "bl\u00e5klokke",  # in html
    "personnummer",  # in metadata
)


def secrets_in(text: str) -> list[str]:
    folded = text.casefold()
    return [secret for secret in SECRETS if secret in folded]


def email(purpose: str, **more: Any) -> Message:
    content = Email(
        EMAIL.partition(":")[2], "Hemmelig", text="En overraskelse til dig.", html="<p>Bl\u00e5klokke</p>"
    )
    basics: dict[str, Any] = {"merchant": "florist", "purpose": purpose, "content": content}
    return Message(**basics | {"metadata": {"note": "personnummer 1"}} | more)


def sms(purpose: str, **more: Any) -> Message:
    content = Sms(SMS.partition(":")[2], "En overraskelse til dig.")
    basics: dict[str, Any] = {"merchant": "florist", "purpose": purpose, "content": content}
    return Message(**basics | more)


def busy_run(gate: Gateway, clock: SimulatedClock) -> None:
    """Let everything happen once that writes to the ledger."""
    for point in (EMAIL, SMS):
        for purpose in ("newsletter", "review_request"):
            gate.consent.grant(point, party="florist", purpose=purpose, source="checkout", evidence="form 7")
    purchase = delivered_purchase(clock.now, "F1", "florist")
    list(
        gate.submit_many(
            [
                email("order_update", idempotency_key="k", dedupe_key="d"),
                email("order_update", idempotency_key="k", dedupe_key="d"),
                email("newsletter"),
                email("newsletter"),
                sms("newsletter"),
                email("review_request", purchase=purchase),
                sms("review_request", purchase=purchase),
                email("login_code"),
                sms("order_update", send_after=clock.now.replace(year=2027)),
            ]
        )
    )
    gate.cancel(gate.submit(sms("order_update")).message_id, reason="refunded")
    gate.drain()
    gate.people.link(EMAIL, SMS, "customer account")
    gate.purchases.alias(purchase, "postdanmark", "PD1")
    gate.purchases.record_ask(
        Purchase("florist", "F2"), "florist", clock.now, contact_point="email:olsen.kirsten@example.dk"
    )
    gate.purchases.record_review(purchase, clock.now)
    gate.suppressions.add(EMAIL, "hard_bounce")
    gate.suppressions.remove(EMAIL)
    gate.consent.withdraw(SMS)
    gate.people.unlink(EMAIL, SMS)
    gate.people.hold(EMAIL, "case 7")
    gate.people.release(EMAIL)
    gate.people.export(EMAIL)
    gate.submit(email("newsletter"))
    for _ in range(3):
        clock.advance(minutes=10)
        gate.drain()


class TestTheLedger:
    def test_has_personal_data_in_two_tables_only(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        install(gate, ScriptedChannel(FAILED, IN_DOUBT, REJECTED))
        busy_run(gate, clock)

        found = {
            table
            for table, rows in contents(ledger_url).items()
            for row in rows
            for value in row.values()
            if secrets_in(str(value))
        }
        assert found == {"contact_points", "messages"}

    def test_has_rows_of_every_kind_after_that_run(
        self, gate: Gateway, clock: SimulatedClock, ledger_url: str
    ) -> None:
        """So that the test above has looked at something."""
        install(gate, ScriptedChannel(FAILED, IN_DOUBT, REJECTED))
        busy_run(gate, clock)

        found = contents(ledger_url)
        assert {str(row["kind"]) for row in found["ledger"]} == {
            "submitted",
            "decision",
            "attempt",
            "cancelled",
            "consent",
            "suppression",
            "unsuppression",
            "link",
            "unlink",
            "alias",
            "ask",
            "review",
            "held",
            "hold_released",
            "disclosed",
        }
        holds_hashes_only = {"tree_nodes", "consent_imports"}
        assert {name for name, rows in found.items() if not rows} <= holds_hashes_only


class TestLogs:
    def logged(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        """All that any handler could write of the records; those of the SMTP server in this process are its own."""
        formatter = logging.Formatter("%(name)s %(message)s")
        return [
            f"{formatter.format(record)} {vars(record)}"
            for record in caplog.records
            if not record.name.startswith("mail.")
        ]

    def test_hold_no_address_and_no_text_at_any_level(
        self,
        open_gate: OpenGate,
        clock: SimulatedClock,
        servers: dict[str, Any],
        smtp_server: MailSink,
        sms_sink: SmsSink,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        gate = open_gate(channels=servers)
        busy_run(gate, clock)
        assert smtp_server.mails
        assert sms_sink.requests

        assert [line for line in self.logged(caplog) if secrets_in(line)] == []

    def test_hold_none_where_servers_refuse_or_are_down(
        self,
        open_gate: OpenGate,
        clock: SimulatedClock,
        servers: dict[str, Any],
        smtp_server: MailSink,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        gate = open_gate(channels=servers)
        smtp_server.answers["Kirsten.Olsen+gave@example.dk"] = (
            "451 4.2.1 <Kirsten.Olsen+gave@example.dk> is busy"
        )
        gate.submit(email("order_update"))
        gate.drain()
        smtp_server.answers["Kirsten.Olsen+gave@example.dk"] = (
            "550 5.1.1 <Kirsten.Olsen+gave@example.dk> unknown"
        )
        clock.advance(hours=1)
        gate.drain()

        assert [line for line in self.logged(caplog) if secrets_in(line)] == []

    def test_hold_none_where_a_driver_has_a_bug(
        self, gate: Gateway, caplog: pytest.LogCaptureFixture
    ) -> None:
        def crash(hand_off: HandOff) -> HandOffOutcome:
            raise RuntimeError(f"cannot encode {hand_off.to}: {hand_off.text}")

        caplog.set_level(logging.DEBUG)
        install(gate, ScriptedChannel(crash))
        gate.submit(email("order_update"))
        gate.drain()

        lines = self.logged(caplog)
        assert any("channel_driver_raised" in line and "RuntimeError" in line for line in lines)
        assert [line for line in lines if secrets_in(line)] == []

    def test_hold_none_where_the_queue_is_down(
        self, open_gate: OpenGate, tmp_path: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        gate = open_gate(gateway={"broker": f"unix://{tmp_path / 'nobody.sock'}"})
        gate.submit(email("order_update"))

        lines = self.logged(caplog)
        assert any("queue_down_at_submit" in line for line in lines)
        assert [line for line in lines if secrets_in(line)] == []


class TestErrors:
    @pytest.mark.parametrize(
        "provoke",
        [
            lambda gate: gate.submit(
                email("order_update", content=Email("kirsten olsen@", "Hemmelig", text="overraskelse"))
            ),
            lambda gate: gate.submit(sms("order_update", content=Sms("26 71 48 39 1", "overraskelse"))),
            lambda gate: gate.submit(sms("order_update", content=Sms("kirsten", "overraskelse"))),
            lambda gate: [gate.submit(make("order_update", idempotency_key="k")) for make in (email, sms)],
            lambda gate: Email("kirsten@example.dk\n", "Hemmelig", text="overraskelse"),
            lambda gate: Email("kirsten@example.dk", "Hemmelig\n", text="overraskelse"),
            lambda gate: Sms("26714839", "overraskelse" * 1_000),
            lambda gate: gate.people.unlink(EMAIL, SMS),
            lambda gate: gate.suppressions.remove(EMAIL),
            lambda gate: gate.consent.grant("email:kirsten olsen", party="florist", purpose="newsletter"),
            lambda gate: gate.consent.grant(EMAIL, party="florist", purpose="newsletter", channel="sms"),
            lambda gate: gate.consent.grant("kirsten@example.dk", party="florist", purpose="newsletter"),
        ],
    )
    def test_hold_no_address_and_no_text(self, gate: Gateway, provoke: Callable[[Gateway], object]) -> None:
        with pytest.raises(NotifygateError) as raised:
            provoke(gate)

        assert secrets_in(f"{raised.value} {raised.value!r} {raised.value.args}") == []

    def test_of_the_database_hold_none_not_even_in_their_tracebacks(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        """Applications log tracebacks, and these show the whole chain of causes."""
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(sa.text("ALTER TABLE messages RENAME COLUMN text TO words"))

        with pytest.raises(NotifygateError) as raised:
            gate.submit(email("order_update"))

        assert secrets_in(str(raised.value)) == []
        causes = "".join(traceback.format_exception_only(raised.value))
        link: BaseException | None = raised.value.__cause__
        while link is not None:
            causes += str(link)
            link = link.__cause__
        assert secrets_in(causes) == []

    @pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
    def test_of_the_database_hold_no_row_that_was_being_inserted(
        self, gate: Gateway, ledger_url: str
    ) -> None:
        """PostgreSQL tells the whole row where a COPY ends early, as on a full disk or a lock that takes too long."""
        with plain_engine(ledger_url) as engine, engine.begin() as conn:
            conn.execute(
                sa.text(
                    "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$"
                )
            )
            conn.execute(
                sa.text(
                    "CREATE TRIGGER no_room BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION no_room()"
                )
            )

        with pytest.raises(NotifygateError, match="53100") as raised:
            gate.submit(email("order_update"))

        told = "".join(traceback.format_exception(raised.value))
        assert "COPY messages, line" not in told  # what follows it is the first hundred characters of the row
        assert secrets_in(told) == []

    def test_of_a_job_with_a_bug_hold_none_wherever_its_traceback_is_shown(self, gate: Gateway) -> None:
        """Dramatiq logs it, and what else is told of errors in workers shows all that it holds."""
        life = WorkerLife()
        life.runtime = gate._runtime

        def bug(*arguments: Any, **more: Any) -> None:
            raise ValueError(f"cannot write to {EMAIL}")

        life.runtime.work = bug  # type: ignore[method-assign,assignment]  # the bug
        with pytest.raises(NotifygateError, match=r"ValueError at .*test_privacy\.py") as raised:
            life.work(["msg_1"])

        assert secrets_in("".join(traceback.format_exception(raised.value))) == []

    def test_of_the_database_hold_none_in_the_log_of_its_library(
        self, open_gate: OpenGate, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An admin who wants to see the SQL does not ask for the addresses."""
        with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
            gate = open_gate()
            with suppress(NotifygateError):
                gate.submit(email("order_update"))
            gate.drain()

        assert [record for record in caplog.records if secrets_in(record.getMessage())] == []


def test_values_do_not_show_addresses_or_texts_when_printed(gate: Gateway) -> None:
    message = email("order_update")
    receipt = gate.submit(message)
    gate.suppressions.add(EMAIL, "manual")
    story = gate.explain(receipt.message_id)

    shown = [message, receipt, story, gate.people.of(EMAIL), *gate.suppressions.list()]
    assert [repr(one) for one in shown if secrets_in(repr(one))] == []
