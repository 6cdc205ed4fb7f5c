"""The gate that a good engineer would write in an afternoon, for the gateway to be measured against.

One Dramatiq job a message, which carries everything. It looks the consent up in SQL, hits two moving windows of the
`limits` library in Redis, marks the content as sent with SET NX EX, sends, and logs in SQL with a commit a message and
the same durability as the ledger has. What it lacks is what the gateway is for: it forgets what was asked when Redis
loses a key, sends twice or never where a worker dies, and explains nothing.

The workers run `setup`; the process that submits calls `declare`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dramatiq
import redis
import sqlalchemy as sa
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMonth
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

from benchmarks.workload import MERCHANT, NEWSLETTER, address
from notifygate import config
from notifygate.broker import open_broker

DATABASE = "BENCH_DATABASE"
"""The environment variable with the URL of its database."""

_ZONE = ZoneInfo("Europe/Copenhagen")
_OPEN_HOURS = range(24)
_CAPS: tuple[tuple[str, RateLimitItem], ...] = (
    ("merchant", RateLimitItemPerDay(5000, 7)),
    ("person", RateLimitItemPerMonth(9000, 1)),
)
_DEDUPE_S = 24 * 3600

_metadata = sa.MetaData()
consents = sa.Table(
    "consents",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("merchant", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("granted_at", sa.Float, nullable=False),
    sa.Column("withdrawn_at", sa.Float),
    sa.Index("ix_consents_address", "address"),
)
send_log = sa.Table(
    "send_log",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("message_id", sa.Text, nullable=False, index=True),
    sa.Column("address", sa.Text, nullable=False, index=True),
    sa.Column("merchant", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)


class HandwrittenGate:
    """What one worker process holds."""

    def __init__(self, database: str, redis_url: str) -> None:
        self.engine = _engine(database)
        self._redis = redis.Redis.from_url(redis_url)
        storage = RedisStorage(redis_url.replace("unix://", "redis+unix://"))
        self._limiter = MovingWindowRateLimiter(storage)

    def send(
        self, message_id: str, merchant: str, channel: str, purpose: str, to: str, subject: str, text: str
    ) -> None:
        """Decide about a message, hand it over, and log it."""
        with self.engine.connect() as conn:
            decision = self._decide(conn, merchant, channel, purpose, to, text)
            # Here the provider would be called.
            conn.execute(
                sa.insert(send_log).values(
                    message_id=message_id,
                    address=to,
                    merchant=merchant,
                    channel=channel,
                    purpose=purpose,
                    subject=subject,
                    text=text,
                    decision=decision,
                    at=time.time(),
                )
            )

    def _decide(
        self, conn: sa.Connection, merchant: str, channel: str, purpose: str, to: str, text: str
    ) -> str:
        found = conn.execute(
            sa.select(consents.c.withdrawn_at)
            .where(
                consents.c.address == to,
                consents.c.merchant == merchant,
                consents.c.channel == channel,
                consents.c.purpose == purpose,
            )
            .order_by(consents.c.granted_at.desc())
            .limit(1)
        ).one_or_none()
        if found is None or found.withdrawn_at is not None:
            return "no consent"
        if datetime.now(_ZONE).hour not in _OPEN_HOURS:
            return "quiet hours"
        digest = hashlib.sha256(f"{to}\n{merchant}\n{purpose}\n{text}".encode()).hexdigest()
        if not self._redis.set(f"sent:{digest}", 1, nx=True, ex=_DEDUPE_S):
            return "duplicate"
        for name, cap in _CAPS:
            key = (name, merchant, to) if name == "merchant" else (name, to)
            if not self._limiter.hit(cap, *key):
                return "capped"
        return "sent"


def create(database: str, persons: int) -> None:
    """Make the tables, with a consent for each person."""
    engine = _engine(database)
    _metadata.create_all(engine)
    rows = [
        {
            "address": address(person),
            "merchant": MERCHANT,
            "channel": "email",
            "purpose": NEWSLETTER,
            "granted_at": time.time(),
        }
        for person in range(persons)
    ]
    with engine.connect() as conn:
        conn.execute(sa.insert(consents), rows)
    engine.dispose()


def _engine(database: str) -> sa.Engine:
    """Every statement commits by itself, and what is committed is on the disk."""
    if not database.startswith("sqlite"):
        return sa.create_engine(database, isolation_level="AUTOCOMMIT", pool_size=16)
    engine = sa.create_engine(database, isolation_level="AUTOCOMMIT", connect_args={"timeout": 60.0})

    def set_up(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    sa.event.listen(engine, "connect", set_up)
    return engine


def setup() -> dramatiq.Broker:
    """The broker of the config, with the actor declared."""
    return declare(config.load().source, os.environ[DATABASE]).broker


def declare(config_path: Path, database: str) -> dramatiq.Actor[[str, str, str, str, str, str, str], None]:
    """The actor, on the broker that a gateway with that config would have."""
    settings = config.load(config_path).settings.gateway
    broker = open_broker(settings)
    if broker is None:
        raise ValueError("the config names no queue")
    dramatiq.set_broker(broker)
    gate = HandwrittenGate(database, settings.broker)
    declared = dramatiq.actor(
        broker=broker, actor_name="handwritten", queue_name="handwritten", max_retries=0
    )
    return declared(gate.send)
