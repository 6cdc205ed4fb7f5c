"""RabbitMQ as the queue, where `NOTIFYGATE_TEST_RABBITMQ_URL` names a server: it does not come from PyPI.

Where `NOTIFYGATE_TEST_RABBITMQ_CONTROL` is the server's `rabbitmqctl`, it is stopped and started as well.
`.ci/rabbitmq` provides both. The tests empty the queues: name no server that anybody uses.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dramatiq
import pytest
from support.fixtures import ConfigFile, Outbox, StartWorkers
from support.messages import order_update
from support.processes import wait_until

from notifygate import Gateway, Message
from notifygate.broker import ACTORS, length, open_broker, ping
from notifygate.config import GatewaySettings
from notifygate.errors import BrokerError

# Read before the tests clear their environment.
URL = os.environ.get("NOTIFYGATE_TEST_RABBITMQ_URL", "")
CONTROL = os.environ.get("NOTIFYGATE_TEST_RABBITMQ_CONTROL", "")

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)

pytestmark = [
    pytest.mark.skipif(not URL, reason="NOTIFYGATE_TEST_RABBITMQ_URL names no RabbitMQ"),
    pytest.mark.timeout(300),  # they wait for one another
]


class RabbitMQ:
    """The server, which the test that has it may do with as it likes."""

    def purge(self) -> None:
        """Empty the queues."""
        with connected() as broker:
            for queue in ACTORS:
                broker.flush(queue)

    def length(self) -> int:
        with connected() as broker:
            return sum(length(broker, queue) for queue in ACTORS)

    def stop(self) -> None:
        """Break off all connections and take no new ones; what is on the queues is kept."""
        self._control("stop_app")

    def start(self) -> None:
        self._control("start_app")

    def _control(self, command: str) -> None:
        if not CONTROL:
            pytest.skip("NOTIFYGATE_TEST_RABBITMQ_CONTROL names no rabbitmqctl")
        subprocess.run([CONTROL, command], check=True, capture_output=True, timeout=60)


@contextmanager
def connected() -> Iterator[dramatiq.Broker]:
    broker = open_broker(GatewaySettings.model_construct(broker=URL))
    assert broker is not None
    try:
        for queue in ACTORS:
            broker.declare_queue(queue)
        yield broker
    finally:
        broker.close()


@pytest.fixture
def rabbitmq() -> Iterator[RabbitMQ]:
    """The server, for one test at a time over all processes of a test run: they share its queues."""
    server = RabbitMQ()
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server.purge()
        yield server
        if CONTROL:
            server.start()


def emails(count: int) -> list[Message]:
    return [order_update(to=f"person{number}@example.dk") for number in range(count)]


def test_messages_arrive_once_over_rabbitmq(
    rabbitmq: RabbitMQ, config_file: ConfigFile, start_workers: StartWorkers, outbox: Outbox
) -> None:
    config = config_file(gateway={"broker": URL})
    workers = start_workers(config)
    with Gateway.open(config) as gate:
        assert "RabbitMQ answers" in ping(gate.config.settings.gateway)
        message_ids = submit(gate, 100)
        wait_until(lambda: statuses(gate, message_ids) == {"sent": 100}, what="all are sent")

    assert workers.stop() == 0
    assert_each_arrived_once(outbox, message_ids)


@ON_SQLITE
def test_a_queue_that_is_wiped_is_filled_again_from_the_ledger(
    rabbitmq: RabbitMQ, config_file: ConfigFile, start_workers: StartWorkers, outbox: Outbox
) -> None:
    config = config_file(gateway={"broker": URL}, delivery={"requeue_after": "2s"})
    with Gateway.open(config) as gate:
        message_ids = submit(gate, 30)
        assert rabbitmq.length() > 0
        rabbitmq.purge()
        assert rabbitmq.length() == 0
        workers = start_workers(config)
        wait_until(lambda: statuses(gate, message_ids) == {"sent": 30}, what="all are sent")

    assert workers.stop() == 0
    assert_each_arrived_once(outbox, message_ids)


@ON_POSTGRESQL
def test_a_queue_that_is_wiped_again_and_again_while_workers_work_sends_nothing_twice(
    rabbitmq: RabbitMQ, config_file: ConfigFile, start_workers: StartWorkers, outbox: Outbox
) -> None:
    config = config_file(gateway={"broker": URL}, delivery={"requeue_after": "1s"})
    workers = start_workers(config)
    with Gateway.open(config) as gate:
        message_ids = []
        for _ in range(8):
            message_ids += submit(gate, 20)
            rabbitmq.purge()
        wait_until(lambda: statuses(gate, message_ids) == {"sent": 160}, what="all are sent")

    assert workers.stop() == 0
    assert_each_arrived_once(outbox, message_ids)


@ON_SQLITE
def test_a_server_that_is_down_at_submit_costs_no_receipt_and_no_message(
    rabbitmq: RabbitMQ, config_file: ConfigFile, start_workers: StartWorkers, outbox: Outbox
) -> None:
    config = config_file(gateway={"broker": URL})
    with Gateway.open(config) as gate:
        message_ids = submit(gate, 1)  # so that there is a connection, which breaks
        rabbitmq.stop()
        started = time.monotonic()
        message_ids += submit(gate, 20) + submit(gate, 20)
        assert time.monotonic() - started < 10
        with pytest.raises(BrokerError, match="does not answer"):
            ping(gate.config.settings.gateway)
        rabbitmq.start()
        workers = start_workers(config)
        wait_until(lambda: statuses(gate, message_ids) == {"sent": 41}, what="all are sent")

    assert workers.stop() == 0
    assert_each_arrived_once(outbox, message_ids)


@ON_POSTGRESQL
def test_a_server_that_is_restarted_while_workers_work_loses_nothing_and_sends_nothing_twice(
    rabbitmq: RabbitMQ, config_file: ConfigFile, start_workers: StartWorkers, outbox: Outbox
) -> None:
    config = config_file(gateway={"broker": URL}, delivery={"requeue_after": "2s"})
    workers = start_workers(config)
    with Gateway.open(config) as gate:
        message_ids = submit(gate, 200)
        rabbitmq.stop()
        message_ids += submit(gate, 100)
        rabbitmq.start()
        message_ids += submit(gate, 100)
        wait_until(lambda: statuses(gate, message_ids) == {"sent": 400}, what="all are sent", within_s=60)

        later = submit(gate, 1)
        wait_until(lambda: statuses(gate, later) == {"sent": 1}, what="work goes on by itself")

    assert workers.stop() == 0
    assert_each_arrived_once(outbox, message_ids + later)


def submit(gate: Gateway, count: int) -> list[str]:
    return [receipt.message_id for receipt in gate.submit_many(emails(count))]


def statuses(gate: Gateway, message_ids: list[str]) -> Counter[str]:
    return Counter(gate.status(message_id).value for message_id in message_ids)


def assert_each_arrived_once(outbox: Outbox, message_ids: list[str]) -> None:
    assert Counter(sent["message_id"] for sent in outbox()) == Counter(message_ids)
