"""What an operator sees of real worker processes: health, readiness, figures, log lines."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.endpoint import Endpoint
from support.fixtures import ConfigFile, StartWorkers
from support.messages import newsletter, order_update
from support.postgres import PostgresServer
from support.processes import CHECKOUT, environment, wait_until
from support.redis_server import RedisServer
from support.sinks import MailSink
from support.tables import contents

from notifygate import Gateway, Message, Sms

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)


@pytest.fixture
def watched(config_file: ConfigFile, real_redis: RedisServer, endpoint: Endpoint) -> Path:
    """A config with an endpoint, a queue that runs, and channels that write to a file."""
    return config_file(gateway={"broker": real_redis.url}, monitoring={"listen": endpoint.listen})


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


def messages_of_many_outcomes(smtp_server: MailSink) -> list[Message]:
    """Sent, rejected, retried, denied for two reasons, deferred."""
    smtp_server.answers |= {f"unknown{number}@example.dk": "550 5.1.1 unknown" for number in range(20)}
    smtp_server.answers |= {f"busy{number}@example.dk": "451 4.2.1 busy" for number in range(10)}
    return [
        *(order_update(to=f"person{number}@example.dk") for number in range(100)),
        *(order_update(content=Sms(f"+4520{100_000 + number}", "On its way.")) for number in range(100)),
        *(order_update(to=f"unknown{number}@example.dk") for number in range(20)),
        *(order_update(to=f"busy{number}@example.dk") for number in range(10)),
        *(
            order_update(to=f"person{number}@example.dk", text="Now at trustpilot.com")
            for number in range(15)
        ),
        *(newsletter(to=f"person{number}@example.dk") for number in range(25)),
    ]


def rows_of_the_log(ledger_url: str, kind: str, *columns: str) -> Counter[tuple[str, ...]]:
    rows = contents(ledger_url)["ledger"]
    return Counter(tuple(str(row[name]) for name in columns) for row in rows if row["kind"] == kind)


def reasons_of_the_log(ledger_url: str) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for row in contents(ledger_url)["ledger"]:
        if row["kind"] == "decision":
            body = json.loads(str(row["body"]))
            found.update((body["outcome"], reason) for reason in body["reasons"])
    return found


def test_the_figures_of_two_processes_add_up_to_what_the_ledger_has(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    start_workers: StartWorkers,
    ledger_url: str,
    endpoint: Endpoint,
) -> None:
    config = config_file(
        gateway={"broker": real_redis.url},
        channels=servers,
        monitoring={"listen": endpoint.listen},
        delivery={"retry_after": "1h"},
    )
    workers = start_workers(config, processes=2)
    with Gateway.open(config) as gate:
        messages = messages_of_many_outcomes(smtp_server)
        later = [
            order_update(to=f"later{n}@example.dk", send_after=gate._runtime.clock().replace(year=2099))
            for n in range(3)
        ]
        list(gate.submit_many([*messages, *later]))
    wait_until(endpoint.is_there, what="the endpoint answers")

    def decisions() -> int:
        return rows_of_the_log(ledger_url, "decision", "kind").total()

    wait_until(lambda: decisions() == len(messages), what="all are decided")
    attempts_expected = 230
    wait_until(
        lambda: rows_of_the_log(ledger_url, "attempt", "kind").total() == attempts_expected,
        what="all attempts are recorded",
    )
    wait_until(
        lambda: endpoint.scrape().total("notifygate_attempts_total") == attempts_expected,
        what="all attempts are counted",
    )
    scraped = endpoint.scrape()

    logged = rows_of_the_log(ledger_url, "attempt", "outcome", "channel")
    assert scraped.by("notifygate_attempts_total", "result", "channel") == logged
    assert set(logged) >= {
        ("accepted", "email"),
        ("accepted", "sms"),
        ("rejected", "email"),
        ("failed", "email"),
    }
    for (outcome,), count in rows_of_the_log(ledger_url, "decision", "outcome").items():
        assert scraped.total("notifygate_decisions_total", outcome=outcome) == count
    for (outcome, reason), count in reasons_of_the_log(ledger_url).items():
        counted = scraped.total("notifygate_decision_reasons_total", outcome=outcome, reason=reason)
        assert (reason, counted) == (reason, count)
    assert scraped.total("notifygate_decision_seconds_count") == len(messages)
    assert scraped.total("notifygate_decision_batch_messages_sum") == len(messages)
    assert scraped.total("notifygate_queue_wait_seconds_count", queue="service") == 245
    assert scraped.total("notifygate_queue_wait_seconds_count", queue="bulk") == 25
    assert scraped.total("notifygate_hand_off_seconds_count", channel="email") == 130
    assert scraped.total("notifygate_hand_off_seconds_count", channel="sms") == 100
    assert scraped.total("notifygate_sweeps_total") > 0
    assert scraped.total("notifygate_errors_total") == 0

    wait_until(lambda: endpoint.scrape().total("notifygate_deferred") == 13, what="gauges are read again")
    scraped = endpoint.scrape()
    assert scraped.total("notifygate_ledger_up") == 1
    assert scraped.total("notifygate_broker_up") == 1
    assert scraped.by("notifygate_due_backlog", "queue") == {("service",): 0, ("bulk",): 0}
    assert scraped.by("notifygate_queue_age_seconds", "queue") == {("service",): 0, ("bulk",): 0}
    assert scraped.by("notifygate_queue_jobs", "queue") == {("service",): 0, ("bulk",): 0}
    assert scraped.total("notifygate_in_doubt") == 0
    assert scraped.total("notifygate_reservations_held") == 0
    assert "example.dk" not in scraped.text
    assert "msg_" not in scraped.text

    assert workers.stop() == 0
    wait_until(lambda: not endpoint.is_there(), what="the endpoint ends with the workers")


def figures_folders(config: Path) -> set[str]:
    return {path.name for path in (config.parent / ".notifygate" / "metrics").iterdir() if path.is_dir()}


@ON_SQLITE
def test_figures_start_afresh_with_the_workers_after_one_of_them_was_killed(
    watched: Path, start_workers: StartWorkers, endpoint: Endpoint
) -> None:
    workers = start_workers(watched, processes=2)
    wait_until(endpoint.is_there, what="the endpoint answers")
    with Gateway.open(watched) as gate:
        gate.submit(order_update())
        wait_until(lambda: endpoint.scrape().total("notifygate_attempts_total") == 1, what="one is counted")
        first = figures_folders(watched)
        assert len(first) == 1

        os.kill(worker_ids(workers.output)[0], signal.SIGKILL)
        workers.wait()
        wait_until(lambda: not endpoint.is_there(), what="the endpoint ends with the workers")
        start_workers(watched, processes=2)
        wait_until(endpoint.is_there, what="the endpoint answers again")

        assert endpoint.scrape().total("notifygate_attempts_total") == 0
        second = figures_folders(watched)
        assert len(second) == 1
        assert second != first
        gate.submit(order_update(text="Another."))
        wait_until(lambda: endpoint.scrape().total("notifygate_attempts_total") == 1, what="one is counted")


def worker_ids(output: str) -> list[int]:
    return [int(found) for found in re.findall(r" worker_started .* process=([0-9]+)", output)]


@ON_SQLITE
def test_a_changed_config_is_counted_by_each_process_that_took_it_up_or_refused_it(
    watched: Path, start_workers: StartWorkers, endpoint: Endpoint
) -> None:
    start_workers(watched, processes=2)
    wait_until(endpoint.is_there, what="the endpoint answers")

    def counted(result: str) -> float:
        return endpoint.scrape().total("notifygate_config_reloads_total", result=result)

    good = watched.read_text("utf-8")
    watched.write_text(good.replace("Cykelpartner.dk", "Cykelpartner"), "utf-8")
    wait_until(lambda: counted("reloaded") == 2, what="both have taken it up")
    assert counted("refused") == 0
    watched.write_text(good.replace(endpoint.listen, "127.0.0.1:1"), "utf-8")
    wait_until(lambda: counted("refused") == 2, what="both refuse what only a restart can change")


class TestReadiness:
    @ON_SQLITE
    def test_ends_when_the_queue_goes_away_and_returns_with_it(
        self, watched: Path, real_redis: RedisServer, start_workers: StartWorkers, endpoint: Endpoint
    ) -> None:
        start_workers(watched, processes=1)
        wait_until(endpoint.is_there, what="the endpoint answers")
        ready = (200, {"ledger": "ok", "broker": "ok"})
        assert endpoint.readiness() == ready

        real_redis.stop()
        down = (503, {"ledger": "ok", "broker": "down"})
        wait_until(lambda: endpoint.readiness() == down, what="not ready")
        assert endpoint.is_there()
        scraped = endpoint.scrape()
        assert scraped.total("notifygate_broker_up") == 0
        assert scraped.total("notifygate_ledger_up") == 1
        assert "notifygate_queue_jobs" not in scraped.names

        real_redis.start()
        wait_until(lambda: endpoint.readiness() == ready, what="ready again")

    @ON_POSTGRESQL
    def test_ends_when_the_database_goes_away_and_returns_with_it(
        self,
        watched: Path,
        ledger_url: str,
        postgres_server: PostgresServer,
        start_workers: StartWorkers,
        endpoint: Endpoint,
    ) -> None:
        start_workers(watched, processes=1)
        wait_until(endpoint.is_there, what="the endpoint answers")
        wait_until(lambda: endpoint.readiness()[0] == 200, what="ready")
        assert endpoint.scrape().total("notifygate_ledger_up") == 1
        database = sa.engine.make_url(ledger_url).database

        with administration(ledger_url) as admin:
            admin.exec_driver_sql(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            admin.exec_driver_sql(ended, (database,))
            down = (503, {"ledger": "down", "broker": "ok"})
            wait_until(lambda: endpoint.readiness() == down, what="not ready")
            assert endpoint.is_there()
            scraped = endpoint.scrape()
            assert scraped.total("notifygate_ledger_up") == 0
            assert "notifygate_due_backlog" not in scraped.names
            assert "notifygate_sweeps_total" in scraped.names

            admin.exec_driver_sql(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
        wait_until(lambda: endpoint.readiness()[0] == 200, what="ready again")
        wait_until(lambda: endpoint.scrape().total("notifygate_ledger_up") == 1, what="read again")


@contextmanager
def administration(ledger_url: str) -> Iterator[sa.Connection]:
    """A connection to another database of the same server."""
    url = sa.engine.make_url(ledger_url).set(database="postgres")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as conn:
            yield conn
    finally:
        engine.dispose()


class TestTheEndpoint:
    @ON_SQLITE
    def test_answers_get_and_head_of_three_pages_and_nothing_else(
        self, watched: Path, start_workers: StartWorkers, endpoint: Endpoint
    ) -> None:
        start_workers(watched, processes=1)
        wait_until(endpoint.is_there, what="the endpoint answers")

        assert endpoint.get("/healthz").text == "ok\n"
        assert endpoint.get("/healthz?x=1").status_code == 200
        assert endpoint.get("/metrics").headers["Content-Type"].startswith("text/plain")
        assert endpoint.get("/metrics", "HEAD").content == b""
        assert endpoint.get("/metrics", "HEAD").status_code == 200
        for path in ("/", "/metrics/", "/../etc/passwd", "/kirsten@example.dk"):
            assert endpoint.get(path).status_code == 404
        for method in ("POST", "PUT", "DELETE"):
            refused = endpoint.get("/metrics", method)
            assert refused.status_code >= 400
            assert method not in refused.text
        assert "Python" not in endpoint.get("/healthz").headers["Server"]

    @ON_SQLITE
    def test_is_not_kept_by_clients_that_say_nothing(
        self, watched: Path, start_workers: StartWorkers, endpoint: Endpoint
    ) -> None:
        start_workers(watched, processes=1)
        wait_until(endpoint.is_there, what="the endpoint answers")

        with ExitStack() as opened:
            address = ("127.0.0.1", endpoint.port)
            silent = [opened.enter_context(socket.create_connection(address)) for _ in range(40)]
            wait_until(lambda: were_closed(silent) >= 8, within_s=3, what="some are too many")
            assert were_closed(silent) < 40
            wait_until(endpoint.is_there, within_s=15, what="the endpoint answers all the same")
            wait_until(lambda: were_closed(silent) == 40, within_s=15, what="all are given up")

    @ON_SQLITE
    def test_ends_with_its_parent_even_if_that_is_killed(
        self, watched: Path, start_workers: StartWorkers, endpoint: Endpoint
    ) -> None:
        workers = start_workers(watched, processes=1)
        wait_until(endpoint.is_there, what="the endpoint answers")

        os.kill(workers.pid, signal.SIGKILL)
        wait_until(lambda: not endpoint.is_there(), within_s=10, what="the endpoint ends")

    @ON_SQLITE
    def test_waits_for_a_port_that_is_taken_while_the_workers_work(
        self, watched: Path, start_workers: StartWorkers, endpoint: Endpoint
    ) -> None:
        with socket.create_server(("127.0.0.1", endpoint.port)):
            workers = start_workers(watched, processes=1)
            complaint = "monitoring_cannot_listen"
            wait_until(lambda: complaint in workers.output, what="the log says so")
            with Gateway.open(watched) as gate:
                receipt = gate.submit(order_update())
                wait_until(lambda: gate.status(receipt.message_id) == "sent", what="the message is sent")
        wait_until(endpoint.is_there, what="the endpoint answers once the port is free")
        assert workers.output.count(complaint) == 1
        assert f"listen={endpoint.listen}" in workers.output


class TestLogs:
    @ON_SQLITE
    def test_in_json_are_an_object_a_line_and_hold_no_address(
        self,
        config_file: ConfigFile,
        real_redis: RedisServer,
        servers: dict[str, Any],
        smtp_server: MailSink,
        start_workers: StartWorkers,
        endpoint: Endpoint,
    ) -> None:
        config = config_file(
            gateway={"broker": real_redis.url},
            channels=servers,
            monitoring={"listen": endpoint.listen, "log_format": "json"},
        )
        workers = start_workers(config, processes=2)
        with Gateway.open(config) as gate:
            receipts = list(gate.submit_many(messages_of_many_outcomes(smtp_server)))
            refused = receipts[200].message_id
            wait_until(lambda: gate.status(refused) == "failed", what="a message is refused")
            attempt = gate.explain(refused).attempts[0].attempt_id
        wait_until(lambda: "monitoring_started" in workers.output, what="the endpoint says that it is there")
        wait_until(lambda: refused in workers.output, what="the log tells of the refused one")
        assert workers.stop() == 0

        lines = of_our_processes(workers.output)
        events = [json.loads(line) for line in lines]
        assert all({"time", "level", "logger", "event", "process"} <= event.keys() for event in events)
        assert {event["event"] for event in events} >= {
            "worker_started",
            "Worker process is ready for action.",
            "monitoring_started",
            "attempt_ended",
        }
        [told] = [event for event in events if event.get("message_id") == refused]
        assert told["attempt_id"] == attempt
        assert (told["channel"], told["result"], told["detail"]) == ("email", "rejected", "smtp 550")
        assert "example.dk" not in workers.output
        assert "4520" not in re.sub(r"(msg|att)_[0-9a-f]+", "", workers.output)

    @ON_SQLITE
    @pytest.mark.parametrize("log_format", ["json", "text"])
    def test_of_a_job_with_a_bug_say_where_and_quote_nothing(
        self, config_file: ConfigFile, real_redis: RedisServer, start_workers: StartWorkers, log_format: str
    ) -> None:
        config = config_file(gateway={"broker": real_redis.url}, monitoring={"log_format": log_format})
        workers = start_workers(config, processes=1, app="support.broken_workers:setup")
        with Gateway.open(config) as gate:
            message_id = gate.submit(order_update()).message_id
        wait_until(lambda: "unhandled exception" in workers.output, what="the log tells of the bug")
        workers.stop()

        assert "Kirsten" not in workers.output
        assert "RuntimeError" in workers.output
        assert "broken_workers.py" in workers.output
        assert message_id in workers.output
        assert "Traceback" not in workers.output


def were_closed(connections: list[socket.socket]) -> int:
    """How many of these connections the other side has closed."""
    return len(select.select(connections, [], [], 0)[0])


def of_our_processes(output: str) -> list[str]:
    """The lines of workers and endpoint: Dramatiq's parent writes its own, and one before the endpoint runs."""
    own = re.compile(r"\[[^]]*\] \[PID [0-9]+\] \[MainThread\] \[dramatiq\.(MainProcess|ForkProcess\(0\))\]")
    return [line for line in output.splitlines() if not own.match(line)]


@ON_SQLITE
def test_workers_that_shall_be_watched_without_the_package_end_with_a_line_that_names_it(
    watched: Path,
) -> None:
    hidden = "import sys; sys.modules['prometheus_client'] = None; "
    hidden += "import notifygate.cli; sys.exit(notifygate.cli.main())"
    ended = subprocess.run(
        [sys.executable, "-c", hidden, "worker", "--config", str(watched)],
        env=environment(watched),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert "pip install 'notifygate[metrics]'" in ended.stderr
    assert "Traceback" not in ended.stderr
