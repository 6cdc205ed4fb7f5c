"""What waits costs nothing while it waits: it is rows in the ledger, not jobs in a worker's memory."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.fixtures import ConfigFile, StartWorkers
from support.messages import order_update
from support.processes import DramatiqWorkers, wait_until
from support.redis_server import RedisServer
from support.tables import plain_engine

from notifygate import Gateway, Status

MANY = 100_000
_MEGABYTE = 1024 * 1024


def memory(workers: DramatiqWorkers) -> int:
    """The resident memory of all worker processes, in bytes."""
    total = 0
    for pid in workers.children():
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        total += int(fields["VmRSS"].split()[0]) * 1024
    return total


def multiply(url: str, message_id: str, count: int) -> None:
    """Copy a message so many times, under other ids."""
    with plain_engine(url) as engine, engine.begin() as conn:
        names = [column["name"] for column in sa.inspect(conn).get_columns("messages")]
        others = ", ".join(f'"{name}"' for name in names if name != "message_id")
        conn.execute(
            sa.text(
                f"INSERT INTO messages (message_id, {others}) "
                f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
                f"SELECT 'copy_' || i, {others} FROM messages, n WHERE message_id = '{message_id}'"
            )
        )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_hundred_thousand_messages_deferred_for_a_month_cost_the_workers_no_memory(
    config_file: ConfigFile, real_redis: RedisServer, ledger_url: str, start_workers: StartWorkers
) -> None:
    config = config_file(gateway={"broker": real_redis.url})
    workers = start_workers(config, processes=1, threads=2)
    with Gateway.open(config) as gate:

        def send_one(number: int) -> None:
            receipt = gate.submit(order_update(text=f"Parcel {number}"))
            wait_until(lambda: gate.status(receipt.message_id) is Status.SENT, what="it is sent")

        send_one(0)
        before = memory(workers)
        in_a_month = datetime.now(UTC) + timedelta(days=30)
        multiply(ledger_url, gate.submit(order_update(send_after=in_a_month)).message_id, MANY)
        for number in range(1, 4):
            time.sleep(1.2)  # a sweep goes past the crowd about once a second
            send_one(number)
        after = memory(workers)

    assert after - before < 10 * _MEGABYTE
