"""The queue and the ledger down at once: what an application is told must still be true."""

from __future__ import annotations

from pathlib import Path

from support import config as configs
from support.messages import order_update
from support.postgres import restartable_server
from support.redis_server import RedisServer

from notifygate import Gateway, Status
from notifygate.failpoints import FailPoint, armed


def test_a_message_that_is_safe_in_the_ledger_gets_its_receipt_even_where_queue_and_ledger_then_go_down(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with restartable_server() as postgres:
        postgres.start()
        postgres.create("ledger")
        gateway = {"ledger": postgres.url("ledger"), "broker": redis_server.url}
        outbox = tmp_path / "outbox.jsonl"
        channels = {name: {"path": str(outbox)} for name in ("email", "sms")}
        config = configs.write(
            tmp_path / "notifygate.toml",
            {"gateway": gateway, "channels": channels, "delivery": {"requeue_after": "1s"}},
        )
        with Gateway.open(config) as gate:
            with armed(FailPoint.SUBMIT_COMMITTED, postgres.kill):
                receipt = gate.submit(order_update())

            postgres.start()
            assert gate.status(receipt.message_id) is Status.QUEUED
            assert gate.drain() == 1
            assert gate.status(receipt.message_id) is Status.SENT
