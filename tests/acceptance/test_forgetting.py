"""`person erase` beside real workers: nothing of the person is left in the database's files, the queue or the logs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from support.fixtures import ConfigFile, StartWorkers
from support.messages import order_update
from support.processes import CHECKOUT, environment, wait_until
from support.redis_server import RedisServer
from support.sinks import MailSink, SmsSink
from support.tables import contents

from notifygate import Email, Gateway, Sms

EMAIL = "Kirsten.Olsen+gave@Example.DK"
SMS = "26 71 48 39"
SPELLINGS = ("kirsten", "olsen", "26714839", "26 71 48 39", "overraskelse", "hemmelig", "olsen-key")


def traces(data: bytes | str) -> list[str]:
    folded = (data.decode("latin-1") if isinstance(data, bytes) else data).casefold()
    return [secret for secret in SPELLINGS if secret in folded]


def in_redis(server: RedisServer) -> bytes:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        found = b""
        for key in client.scan_iter("*", count=1000):
            found += key + (client.dump(key) or b"")
            kind = client.type(key)
            if kind == b"list":
                found += b"".join(client.lrange(key, 0, -1))
            elif kind == b"hash":
                found += b"".join(one for pair in client.hgetall(key).items() for one in pair)
        return found


def messages() -> list[Any]:
    mail = Email(EMAIL, "Hemmelig", text="En overraskelse til dig.")
    text = Sms(SMS, "En overraskelse til dig.")
    return [
        order_update(content=content, idempotency_key=f"olsen-key-{number}-{name}")
        for number in range(20)
        for name, content in (("m", mail), ("s", text))
    ]


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_after_an_erasure_address_and_text_are_found_nowhere(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    sms_sink: SmsSink,
    start_workers: StartWorkers,
    tmp_path: Path,
    ledger_url: str,
) -> None:
    config = config_file(gateway={"broker": real_redis.url}, channels=servers)
    smtp_server.answers["Kirsten.Olsen+gave@example.dk"] = "451 4.2.1 <Kirsten.Olsen+gave@example.dk> is busy"
    workers = start_workers(config, processes=2, threads=2)
    with Gateway.open(config) as gate:
        list(gate.submit_many(messages()))
        gate.consent.withdraw(f"sms:{SMS}", evidence="Kirsten Olsen rang")
        gate.people.link(f"sms:{SMS}", f"email:{EMAIL}", "olsen said so")
        wait_until(lambda: len(sms_sink.requests) >= 20, what="the text messages arrive")
        # Work goes on for others while she is erased, and for her too.
        list(gate.submit_many(order_update(to=f"person{number}@example.dk") for number in range(200)))
        late = list(gate.submit_many(messages()))
        command = [sys.executable, "-m", "notifygate", "person", "erase", f"sms:{SMS}"]
        looked = subprocess.run(
            command, env=environment(config), cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        assert (looked.returncode, "Nothing was changed" in looked.stdout) == (0, True), looked.stderr
        done = subprocess.run(
            [*command, "--yes"],
            env=environment(config),
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        after = list(gate.submit_many(messages()))
        wait_until(
            lambda: all(gate.status(one.message_id).value != "queued" for one in [*late, *after]),
            what="all is decided",
        )
        wait_until(lambda: len(smtp_server.mails) >= 200, what="the others have theirs")

        rows = contents(ledger_url)
        assert traces(str(rows)) == []
        assert any(row["kind"] == "erased" for row in rows["ledger"])
        assert {gate.explain(one.message_id).reason for one in after} == {"suppressed_erased"}
        assert traces(in_redis(real_redis)) == []
        if ledger_url.startswith("sqlite"):
            # While the workers have the file open: what they wrote since holds nothing of her either.
            files = sorted(path.name for path in tmp_path.glob("ledger.db*"))
            assert files == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
            assert {name: traces((tmp_path / name).read_bytes()) for name in files} == {
                name: [] for name in files
            }
        assert workers.stop() == 0
    assert "ready for action" in workers.output
    assert traces(workers.output) == []
    assert traces(done.stderr) == []
    left = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and traces(path.read_bytes()) and path.name != "outbox.jsonl"
    ]
    assert left == []
