"""Bare Dramatiq: an actor that does nothing but count, on the very broker that the gateway would have.

The workers run `setup`; the process that submits calls it too, and sends with the actor.
"""

from __future__ import annotations

import os
from pathlib import Path

import dramatiq

from notifygate import config
from notifygate.broker import open_broker

COUNTER = "BENCH_COUNTER"
"""The environment variable that names a file, to which every job adds one byte."""


def setup() -> dramatiq.Broker:
    """The broker of the config, with the actor declared."""
    return declare(config.load().source, Path(os.environ[COUNTER])).broker


def declare(config_path: Path, counter: Path) -> dramatiq.Actor[[str], None]:
    """The actor, on the broker that a gateway with that config would have."""
    broker = open_broker(config.load(config_path).settings.gateway)
    if broker is None:
        raise ValueError("the config names no queue")
    dramatiq.set_broker(broker)
    file = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @dramatiq.actor(broker=broker, queue_name="bare", max_retries=0)
    def count(message_id: str) -> None:
        os.write(file, b".")

    return count
