"""Servers that are killed while they are needed, and started again. The oracle is what arrived."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support import config as configs
from support.channel import ACCEPTED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import ConfigFile, StartWorkers
from support.messages import order_update
from support.postgres import RestartablePostgres, restartable_server
from support.processes import wait_until
from support.redis_server import RedisServer
from support.sinks import MailSink
from support.tables import row_counts

from notifygate import Gateway, LedgerError, Message
from notifygate import delivery as deliveries
from notifygate.channels import HandOff, HandOffOutcome

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)

WriteConfig = Callable[..., Path]


@pytest.fixture(scope="module")
def server() -> Iterator[RestartablePostgres]:
    with restartable_server() as found:
        yield found


@pytest.fixture
def postgres(server: RestartablePostgres) -> RestartablePostgres:
    """A server that runs when a test begins, whatever the one before has left."""
    server.kill()
    server.start()
    return server


@pytest.fixture
def database(postgres: RestartablePostgres) -> str:
    """The URL of an empty database on that server."""
    name = f"ledger_{uuid4().hex}"
    postgres.create(name)
    return postgres.url(name)


@pytest.fixture
def write_config(database: str, tmp_path: Path) -> WriteConfig:
    """Writes a config over that database, with tables laid over the base."""

    def write(**tables: dict[str, Any]) -> Path:
        return configs.write(tmp_path / "notifygate.toml", {"gateway": {"ledger": database}}, tables)

    return write


def emails(count: int, start: int = 0) -> list[Message]:
    return [
        order_update(to=f"person{number}@example.dk", idempotency_key=f"parcel-{number}")
        for number in range(start, start + count)
    ]


class TestPostgresql:
    def test_killed_twice_while_workers_work_loses_nothing_and_sends_nothing_twice(
        self,
        write_config: WriteConfig,
        postgres: RestartablePostgres,
        real_redis: RedisServer,
        servers: dict[str, Any],
        smtp_server: MailSink,
        start_workers: StartWorkers,
    ) -> None:
        config = write_config(
            gateway={"broker": real_redis.url},
            channels=servers,
            delivery={"requeue_after": "2s", "retry_after": "1s"},
        )
        smtp_server.takes_s = 0.02
        with Gateway.open(config) as gate:
            message_ids = [receipt.message_id for receipt in gate.submit_many(emails(80))]
            workers = start_workers(config, threads=2)
            for arrived in (10, 40):
                wait_until(lambda: len(smtp_server.message_ids) >= arrived, what="some arrive")  # noqa: B023
                postgres.kill()
                time.sleep(1.5)  # long enough for each part to notice
                postgres.start()
            wait_until(lambda: statuses(gate, message_ids) == {"sent": 80}, what="all are sent")

            assert workers.stop() == 0
            assert Counter(smtp_server.message_ids) == Counter(message_ids)
            for message_id in message_ids:
                assert [attempt.state for attempt in gate.explain(message_id).attempts] == ["accepted"]

    def test_down_at_submit_is_told_in_a_line_and_the_same_gateway_goes_on_after_it(
        self, write_config: WriteConfig, postgres: RestartablePostgres, database: str
    ) -> None:
        with Gateway.open(write_config()) as gate:
            first = gate.submit(emails(1)[0])
            before = row_counts(database)
            postgres.kill()
            for submit in (
                lambda: gate.submit(emails(1, start=1)[0]),
                lambda: list(gate.submit_many(emails(10, start=1))),
                lambda: gate.check(emails(1)[0]),
                lambda: gate.status(first.message_id),
                gate.drain,
            ):
                with pytest.raises(LedgerError) as raised:
                    submit()
                assert_one_line(raised.value)
                assert "the server does not answer or closed the connection" in str(raised.value)
            postgres.start()
            assert row_counts(database) == before

            receipts = [*gate.submit_many(emails(10))]

            assert [receipt.duplicate for receipt in receipts] == [True] + [False] * 9
            assert gate.drain() == 10

    def test_restarted_between_two_calls_is_not_even_noticed(
        self, write_config: WriteConfig, postgres: RestartablePostgres
    ) -> None:
        with Gateway.open(write_config()) as gate:
            message_ids = [gate.submit(emails(1)[0]).message_id]
            postgres.kill()
            postgres.start()
            message_ids.append(gate.submit(emails(1, start=1)[0]).message_id)
            postgres.kill()
            postgres.start()
            assert gate.drain() == 2
            assert statuses(gate, message_ids) == {"sent": 2}

    def test_down_at_opening_is_told_in_a_line(
        self, write_config: WriteConfig, postgres: RestartablePostgres
    ) -> None:
        config = write_config()
        postgres.kill()
        with pytest.raises(LedgerError) as raised:
            Gateway.open(config)
        assert_one_line(raised.value)
        assert "the server does not answer" in str(raised.value)

    def test_back_in_time_has_outcomes_recorded_that_came_while_it_was_down(
        self, write_config: WriteConfig, postgres: RestartablePostgres
    ) -> None:
        back = threading.Timer(2, postgres.start)

        def answer(hand_off: HandOff) -> HandOffOutcome:
            postgres.kill()
            back.start()
            return ACCEPTED

        with Gateway.open(write_config()) as gate:
            channel = install(gate, ScriptedChannel(answer))
            message_ids = [receipt.message_id for receipt in gate.submit_many(emails(5))]
            gate.drain()
            back.join()

            assert statuses(gate, message_ids) == {"sent": 5}
            assert Counter(taken.message_id for taken in channel.taken) == Counter(message_ids)

    def test_back_too_late_leaves_doubt_and_nothing_is_sent_again(
        self, write_config: WriteConfig, postgres: RestartablePostgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deliveries, "_RECORD_FOR_AT_MOST_S", 0.5)
        clock = SimulatedClock()

        def answer(hand_off: HandOff) -> HandOffOutcome:
            postgres.kill()
            return ACCEPTED

        with Gateway.open(write_config(), clock=clock) as gate:
            channel = install(gate, ScriptedChannel(answer))
            message_ids = [receipt.message_id for receipt in gate.submit_many(emails(5))]
            with pytest.raises(LedgerError):
                gate.drain()
            postgres.start()
            clock.advance(minutes=6)
            gate.drain()

            assert statuses(gate, message_ids) == {"in_doubt": 5}
            taken = Counter(one.message_id for one in channel.taken)
            assert set(taken.values()) == {1}  # those behind the outage are not even handed over

    def test_that_takes_a_connection_and_never_answers_holds_nobody_up_for_long(
        self, write_config: WriteConfig
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
            config = write_config(
                gateway={"ledger": f"postgresql+psycopg://postgres@127.0.0.1:{port}/ledger"}
            )
            started = time.monotonic()
            with pytest.raises(LedgerError) as raised:
                Gateway.open(config)
        assert time.monotonic() - started < 20
        assert_one_line(raised.value)
        assert "the server does not answer" in str(raised.value)


class TestRedis:
    @ON_SQLITE
    def test_killed_while_workers_work_loses_nothing_and_sends_nothing_twice(
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
        workers = start_workers(config, threads=2)
        with Gateway.open(config) as gate:
            message_ids = [receipt.message_id for receipt in gate.submit_many(emails(60))]
            wait_until(lambda: len(smtp_server.message_ids) >= 10, what="some arrive")
            real_redis.kill()
            message_ids += [receipt.message_id for receipt in gate.submit_many(emails(20, start=60))]
            real_redis.start()
            wait_until(lambda: statuses(gate, message_ids) == {"sent": 80}, what="all are sent")

        assert workers.stop() == 0
        assert Counter(smtp_server.message_ids) == Counter(message_ids)


def statuses(gate: Gateway, message_ids: list[str]) -> Counter[str]:
    try:
        return Counter(gate.status(message_id).value for message_id in message_ids)
    except LedgerError:  # not back yet
        return Counter()


def assert_one_line(error: LedgerError) -> None:
    assert len(str(error).splitlines()) == 1
    assert "@example" not in str(error)
