"""RabbitMQ as the queue, where `NOTIFYGATE_TEST_RABBITMQ_URL` names a server (it does not come from PyPI)."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from support.fixtures import ConfigFile, Outbox, StartWorkers
from support.messages import order_update
from support.processes import wait_until

from notifygate import Gateway, Status
from notifygate.broker import ping

URL = os.environ.get("NOTIFYGATE_TEST_RABBITMQ_URL", "")  # read before the tests clear their environment

pytestmark = pytest.mark.skipif(not URL, reason="NOTIFYGATE_TEST_RABBITMQ_URL names no RabbitMQ")


def test_messages_arrive_once_over_rabbitmq(
    config_file: ConfigFile, start_workers: StartWorkers, outbox: Outbox
) -> None:
    config = config_file(gateway={"broker": URL})
    workers = start_workers(config)
    with Gateway.open(config) as gate:
        assert "RabbitMQ answers" in ping(gate.config.settings.gateway)
        requests = (order_update(to=f"person{number}@example.dk") for number in range(100))
        message_ids = [receipt.message_id for receipt in gate.submit_many(requests)]
        wait_until(
            lambda: {gate.status(message_id) for message_id in message_ids} == {Status.SENT},
            what="all are sent",
        )

    assert workers.stop() == 0
    assert Counter(sent["message_id"] for sent in outbox()) == Counter(message_ids)
