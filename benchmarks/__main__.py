"""Run the benchmarks: `make bench`, or `python -m benchmarks --messages 20000`.

Measured, on SQLite with full durability and the `null` channel, every rule on and every decision recorded:

* the gate: `submit_many` of newsletters with consent, and `drain`, in messages a second;
* the floor: the same number of rows of about the same size, written in the same number of transactions, by plain
  multi-row inserts into one table that nothing reads: what the database asks for if nobody decides anything;
* `evaluate`: one decision with 20 past messages, in microseconds.

The figure that means something on another machine is the ratio of the first two.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from notifygate import Email, Gateway, Message
from notifygate import config as configs
from notifygate.consent import ConsentRecord, State
from notifygate.policy import PurposeClass
from notifygate.rules import evaluate
from notifygate.snapshot import Handover, Request, Snapshot

CONFIG = """\
[gateway]
ledger = "sqlite:///bench.db"
broker = "none"
default_region = "DK"
default_timezone = "Europe/Copenhagen"
[channels.email]
driver = "null"
[merchants.shop]
name = "The shop"
kind = "shop"
email_from = "The shop <news@shop.example>"
[purposes.newsletter]
class = "marketing"
permission = ["consent", "soft_opt_in"]
dedupe = "24h"
caps = [{ limit = 50, window = "7d", per = "merchant" }, { limit = 90, window = "7d", per = "person" }]
quiet_hours = "always"
[quiet_hours.always]
allow = { daily = "00:00-24:00" }
"""
PERSONS_PER_MESSAGE = 0.2
ROWS_PER_MESSAGE = 6  # message, three ledger rows, reservation, and its share of people and consent
BATCH = 500
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def bench_gate(folder: Path, count: int) -> dict[str, float]:
    """Seconds that the gate takes to submit and to work off `count` messages to `count / 5` persons."""
    config = folder / "notifygate.toml"
    config.write_text(CONFIG, encoding="utf-8")
    persons = max(1, int(count * PERSONS_PER_MESSAGE))
    with Gateway.open(config, clock=lambda: NOW) as gate:
        for person in range(persons):
            gate.consent.grant(f"email:p{person}@example.com", party="shop", purpose="newsletter")
        messages = (_newsletter(number, number % persons) for number in range(count))
        began = time.perf_counter()
        submitted = sum(1 for _ in gate.submit_many(messages))
        between = time.perf_counter()
        drained = gate.drain()
        ended = time.perf_counter()
    if submitted != count or drained != count:
        raise SystemExit(f"benchmark: {submitted} of {count} submitted, {drained} decided")
    return {"submit_s": between - began, "drain_s": ended - between}


def bench_floor(folder: Path, count: int) -> float:
    """Seconds that SQLite takes to write as many rows in as many transactions, and nothing else."""
    database = sqlite3.connect(folder / "floor.db", isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE rows (id TEXT PRIMARY KEY, at INTEGER, kind TEXT, body TEXT)")
        database.execute("CREATE INDEX rows_at ON rows (at)")
        row = ("x" * 300,)
        began = time.perf_counter()
        for start in range(0, count * ROWS_PER_MESSAGE, BATCH):
            ids = range(start, min(start + BATCH, count * ROWS_PER_MESSAGE))
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT INTO rows VALUES (?, ?, 'decision', ?)", [(f"id_{n:032d}", n, *row) for n in ids]
            )
            database.execute("COMMIT")
        return time.perf_counter() - began
    finally:
        database.close()


def bench_evaluate(folder: Path, rounds: int = 5_000) -> float:
    """Microseconds that one decision takes, for a person with 20 past messages."""
    policy = configs.load(folder / "notifygate.toml").policy
    consent = ConsentRecord(
        event_id="evt_1",
        state=State.GRANTED,
        contact_point_id="cp_1",
        party="shop",
        channel="email",
        purpose="newsletter",
        occurred_at=NOW - timedelta(days=90),
        recorded_at=NOW - timedelta(days=90),
    )
    past = tuple(
        Handover(
            message_id=f"msg_{number}",
            merchant="shop",
            purpose="newsletter",
            purpose_class=PurposeClass.MARKETING,
            channel="email",
            dedupe_key=f"key {number}",
            at=NOW - timedelta(hours=number + 1),
        )
        for number in range(20)
    )
    snapshot = Snapshot(consent=(consent,), handovers=past)
    request = Request(
        message_id="msg",
        merchant="shop",
        purpose="newsletter",
        role="buyer",
        channel="email",
        contact_point_id="cp_1",
        dedupe_key="key",
        submitted_at=NOW,
    )
    began = time.perf_counter()
    for _ in range(rounds):
        evaluate(request, snapshot, policy, NOW)
    return (time.perf_counter() - began) / rounds * 1e6


def _newsletter(number: int, person: int) -> Message:
    return Message(
        merchant="shop",
        purpose="newsletter",
        content=Email(f"p{person}@example.com", "News", text=f"Spring is here, and this is letter {number}."),
        idempotency_key=f"letter-{number}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the gate.")
    parser.add_argument("--messages", type=int, default=5_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="notifygate-bench-") as name:
        folder, count = Path(name), options.messages
        gate = bench_gate(folder, count)
        floor = bench_floor(folder, count)
        micros = bench_evaluate(folder)
    total = gate["submit_s"] + gate["drain_s"]
    figures = {
        "messages": count,
        "submit_per_s": round(count / gate["submit_s"]),
        "drain_per_s": round(count / gate["drain_s"]),
        "floor_per_s": round(count / floor),
        "times_the_floor": round(total / floor, 1),
        "evaluate_us": round(micros, 1),
    }
    if options.json:
        print(json.dumps(figures))
        return 0
    table = Table("figure", "value", title="SQLite, synchronous=FULL, null channel, every rule on")
    table.columns[1].justify = "right"
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
