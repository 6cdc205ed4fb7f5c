"""Real worker processes, a real Redis, real servers: what the operator runs. The oracle is what arrived."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from support.fixtures import ConfigFile, StartWorkers
from support.forks import run_at_once
from support.messages import newsletter, order_update
from support.processes import CHECKOUT, environment, wait_until
from support.redis_server import RedisServer, answers
from support.sinks import MailSink, SmsSink

from notifygate import Email, Gateway, Outcome, Sms, Status

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
"""Either will do where the database has no part in what is tested: these tests take seconds each."""


def emails(count: int) -> list[Any]:
    return [
        order_update(to=f"person{number}@example.dk", text=f"Parcel {number}.") for number in range(count)
    ]


def statuses(gate: Gateway, message_ids: list[str]) -> Counter[str]:
    return Counter(gate.status(message_id).value for message_id in message_ids)


def submit_all(gate: Gateway, messages: list[Any]) -> list[str]:
    return [receipt.message_id for receipt in gate.submit_many(messages)]


def test_a_thousand_messages_over_two_processes_all_arrive_once_and_the_ledger_explains_each(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    sms_sink: SmsSink,
    start_workers: StartWorkers,
) -> None:
    config = config_file(gateway={"broker": real_redis.url}, channels=servers)
    texts = [order_update(content=Sms(f"+4520{100_000 + number}", "On its way.")) for number in range(500)]
    with Gateway.open(config) as gate:
        message_ids = submit_all(gate, emails(500))
        workers = start_workers(config)
        message_ids += submit_all(gate, texts)

        def arrived() -> Counter[str]:
            return Counter(smtp_server.message_ids + sms_sink.message_ids)

        wait_until(lambda: arrived().total() >= 1_000, within_s=90, what="a thousand arrivals")
        assert workers.stop() == 0

        assert arrived() == Counter(message_ids)
        assert {mail.envelope_to for mail in smtp_server.mails} == {
            (f"person{number}@example.dk",) for number in range(500)
        }
        for message_id in message_ids:
            story = gate.explain(message_id)
            assert story.status is Status.SENT
            assert story.decision is not None
            assert story.decision.outcome is Outcome.ALLOW
            [attempt] = story.attempts
            assert attempt.state == "accepted"
            assert attempt.reserved_at >= story.submitted_at


@ON_SQLITE
def test_an_email_arrives_as_it_should_look(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    start_workers: StartWorkers,
) -> None:
    config = config_file(gateway={"broker": real_redis.url}, channels=servers)
    content = Email(
        "Bjorn.Sorensen@Example.DK",
        "Din pakke er p\u00e5 vej \N{PACKAGE}",
        text="K\u00e6re Bj\u00f8rn\n\n.En linje med punktum\nGl\u00e6d dig!",
        html="<p>K\u00e6re <b>Bj\u00f8rn</b></p>",
    )
    start_workers(config, processes=1, threads=1)
    with Gateway.open(config) as gate:
        receipt = gate.submit(order_update(content=content))
        wait_until(lambda: gate.status(receipt.message_id) is Status.SENT, what="the message is sent")
        attempt_id = gate.explain(receipt.message_id).attempts[0].attempt_id

    [mail] = smtp_server.mails
    assert mail.envelope_from == "hej@cykelpartner.example"
    assert mail.envelope_to == ("Bjorn.Sorensen@example.dk",)
    message = mail.message
    assert message["From"] == "Cykelpartner <hej@cykelpartner.example>"
    assert message["To"] == "Bjorn.Sorensen@example.dk"
    assert message["Subject"] == content.subject
    assert message["X-Notifygate-Message-Id"] == receipt.message_id
    assert message["Message-ID"] == f"<{attempt_id}@cykelpartner.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    sent_at = parsedate_to_datetime(message["Date"])
    assert sent_at.utcoffset() is not None
    assert message.get_content_type() == "multipart/alternative"
    plain, rich = message.iter_parts()
    assert (plain.get_content_type(), plain.get_content_charset()) == ("text/plain", "utf-8")
    assert plain.get_content().replace("\r\n", "\n").rstrip("\n") == content.text
    assert (rich.get_content_type(), rich.get_content_charset()) == ("text/html", "utf-8")
    assert rich.get_content().strip() == content.html


@ON_SQLITE
def test_a_service_message_waits_for_no_campaign_that_keeps_all_threads(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    sms_sink: SmsSink,
    start_workers: StartWorkers,
) -> None:
    config = config_file(
        gateway={"broker": real_redis.url},
        channels=servers,
        purposes={"offer": {"class": "marketing", "permission": ["consent"]}},
    )
    sms_sink.takes_s = 1.0
    with Gateway.open(config) as gate:
        for number in range(15):
            gate.consent.grant(f"sms:+4520{100_000 + number}", party="cykelpartner", purpose="offer")
        campaign = submit_all(
            gate,
            [newsletter(purpose="offer", content=Sms(f"+4520{100_000 + n}", "Bicycles.")) for n in range(15)],
        )
        start_workers(config, processes=1, threads=1)
        wait_until(lambda: bool(sms_sink.requests), what="the campaign has begun")

        submit_all(gate, emails(1))
        wait_until(lambda: bool(smtp_server.mails), within_s=8, what="the service message arrives")

        assert statuses(gate, campaign)["sent"] < len(campaign)


class TestALostQueue:
    @ON_SQLITE
    def test_that_is_down_at_submit_costs_no_receipt_and_no_message(
        self,
        config_file: ConfigFile,
        redis_server: RedisServer,
        servers: dict[str, Any],
        smtp_server: MailSink,
        start_workers: StartWorkers,
    ) -> None:
        config = config_file(gateway={"broker": redis_server.url}, channels=servers)
        workers = start_workers(config, processes=1)
        with Gateway.open(config) as gate:
            message_ids = [gate.submit(message).message_id for message in emails(3)]
            assert statuses(gate, message_ids) == {"queued": 3}

            redis_server.start()
            wait_until(lambda: statuses(gate, message_ids) == {"sent": 3}, what="all are sent")

        assert workers.stop() == 0
        assert Counter(smtp_server.message_ids) == Counter(message_ids)

    @ON_POSTGRESQL
    def test_that_is_wiped_between_submit_and_work_loses_nothing(
        self,
        config_file: ConfigFile,
        real_redis: RedisServer,
        servers: dict[str, Any],
        smtp_server: MailSink,
        start_workers: StartWorkers,
    ) -> None:
        config = config_file(
            gateway={"broker": real_redis.url}, channels=servers, delivery={"requeue_after": "2s"}
        )
        with Gateway.open(config) as gate:
            message_ids = submit_all(gate, emails(30))
            assert not real_redis.is_empty()
            real_redis.wipe()
            workers = start_workers(config)
            wait_until(lambda: statuses(gate, message_ids) == {"sent": 30}, what="all are sent")

        assert workers.stop() == 0
        assert Counter(smtp_server.message_ids) == Counter(message_ids)

    @ON_SQLITE
    def test_that_is_wiped_again_and_again_while_workers_work_sends_nothing_twice(
        self,
        config_file: ConfigFile,
        real_redis: RedisServer,
        servers: dict[str, Any],
        smtp_server: MailSink,
        start_workers: StartWorkers,
    ) -> None:
        config = config_file(
            gateway={"broker": real_redis.url}, channels=servers, delivery={"requeue_after": "1s"}
        )
        smtp_server.takes_s = 0.02
        workers = start_workers(config)
        with Gateway.open(config) as gate:
            message_ids = []
            for start in range(0, 100, 10):
                message_ids += submit_all(gate, emails(100)[start : start + 10])
                real_redis.wipe()
            wait_until(lambda: statuses(gate, message_ids) == {"sent": 100}, what="all are sent")

        assert workers.stop() == 0
        assert Counter(smtp_server.message_ids) == Counter(message_ids)


@pytest.mark.parametrize(
    ("databases", "channel"), [("sqlite", "email"), ("postgresql", "sms")], indirect=["databases"]
)
def test_a_sigterm_while_sending_lets_what_is_being_sent_finish_and_be_recorded(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    sms_sink: SmsSink,
    start_workers: StartWorkers,
    channel: str,
) -> None:
    config = config_file(gateway={"broker": real_redis.url}, channels=servers)
    sink: MailSink | SmsSink = smtp_server if channel == "email" else sms_sink
    sink.takes_s = 0.25
    messages = emails(12)
    if channel == "sms":
        messages = [
            order_update(content=Sms(f"+4520{100_000 + number}", "On its way.")) for number in range(12)
        ]
    workers = start_workers(config, processes=2, threads=2)
    with Gateway.open(config) as gate:
        message_ids = [gate.submit(message).message_id for message in messages]
        wait_until(lambda: len(sink.message_ids) >= 2, what="the first arrive")
        workers.terminate()

        assert workers.wait() == 0
        arrived = Counter(sink.message_ids)
        found = {message_id: gate.status(message_id) for message_id in message_ids}

    assert set(found.values()) <= {Status.SENT, Status.QUEUED}
    assert arrived == Counter(message_id for message_id, status in found.items() if status is Status.SENT)


@ON_SQLITE
class TestTheEmbeddedQueue:
    def test_is_started_by_the_workers_used_by_others_and_stopped_with_the_last_worker(
        self,
        config_file: ConfigFile,
        short_folder: Path,
        servers: dict[str, Any],
        smtp_server: MailSink,
        start_workers: StartWorkers,
    ) -> None:
        config = config_file(gateway={"broker": "embedded", "data_dir": str(short_folder)}, channels=servers)
        socket = short_folder / "redis" / "redis.sock"
        assert not answers(socket)
        workers = start_workers(config)
        assert answers(socket)

        script = """
from notifygate import Gateway
from support.messages import newsletter, order_update
ready()
with Gateway.open() as gate:
    print(gate.submit(order_update()).message_id)
"""
        [message_id] = run_at_once([script], config)
        wait_until(lambda: smtp_server.message_ids == [message_id], what="the message arrives")

        assert workers.stop() == 0
        assert not answers(socket)

    def test_keeps_what_was_submitted_between_two_lives_of_the_workers(
        self,
        config_file: ConfigFile,
        short_folder: Path,
        servers: dict[str, Any],
        smtp_server: MailSink,
        start_workers: StartWorkers,
    ) -> None:
        config = config_file(gateway={"broker": "embedded", "data_dir": str(short_folder)}, channels=servers)
        with Gateway.open(config) as gate:
            receipt = gate.submit(order_update())
            assert receipt.status is Status.QUEUED
            workers = start_workers(config, processes=1)
            wait_until(lambda: gate.status(receipt.message_id) is Status.SENT, what="the message is sent")
        assert workers.stop() == 0


class TestAWorkerThatCannotStart:
    @ON_SQLITE
    @pytest.mark.parametrize(
        ("tables", "line"),
        [
            ({"gateway": {"lodger": "x"}}, "gateway.lodger"),
            ({"gateway": {"broker": "none"}}, "gateway.broker"),
            ({"gateway": {"broker": "redis://localhost", "ledger": "sqlite:////no/folder/x.db"}}, "ledger"),
        ],
        ids=["unknown key", "no broker", "no ledger"],
    )
    def test_says_why_in_a_line_and_ends(
        self, config_file: ConfigFile, tables: dict[str, Any], line: str
    ) -> None:
        config = config_file(**tables)
        command = [sys.executable, "-m", "dramatiq", "notifygate.actors:setup", "-p", "1", "-t", "1"]
        ended = subprocess.run(
            command, cwd=CHECKOUT, env=environment(config), capture_output=True, text=True, timeout=40
        )
        output = ended.stdout + ended.stderr

        assert ended.returncode != 0
        said = [one for one in output.splitlines() if "notifygate: " in one]
        assert said
        assert line in said[0]
        assert "Traceback" not in output

    def test_without_a_config_says_so(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "dramatiq", "notifygate.actors:setup", "-p", "1", "-t", "1"]
        env = environment(tmp_path / "missing.toml")
        ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=40)

        assert ended.returncode != 0
        assert "missing.toml" in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr


@ON_SQLITE
def test_the_checkouts_own_worker_file_works_as_well(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    start_workers: StartWorkers,
) -> None:
    config = config_file(gateway={"broker": real_redis.url}, channels=servers)
    workers = start_workers(config, app="worker", processes=1, threads=2)
    with Gateway.open(config) as gate:
        receipt = gate.submit(order_update())
        wait_until(lambda: gate.status(receipt.message_id) is Status.SENT, what="the message is sent")

    assert workers.stop() == 0
    assert smtp_server.message_ids == [receipt.message_id]
