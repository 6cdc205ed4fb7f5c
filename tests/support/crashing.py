"""Doing one thing with a gateway in a process of its own, which a fail point may stop in the midst of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from notifygate import Gateway, Message
from notifygate.failpoints import VARIABLE, FailPoint
from support.clock import SimulatedClock
from support.forks import Fork
from support.messages import delivered_purchase, newsletter, order_update, review_request
from support.processes import environment


def requests(now: datetime) -> list[Message]:
    """One message of each kind, to four persons, with keys that say what they are."""
    return [
        review_request(delivered_purchase(now), idempotency_key="review"),
        newsletter(to="bodil@example.dk", idempotency_key="news"),
        order_update(to="carl@example.dk", idempotency_key="update"),
        order_update(to="dora@example.dk", purpose="login_code", text="1234", idempotency_key="code"),
    ]


def submit(gate: Gateway, now: datetime) -> None:
    """Hand over all four, in one transaction."""
    list(gate.submit_many(requests(now)))


def drain(gate: Gateway, now: datetime) -> None:
    gate.drain()


def sweep(gate: Gateway, now: datetime) -> None:
    gate._runtime.scheduler.sweep()


def resolve(gate: Gateway, now: datetime) -> None:
    """Find that nothing that is in doubt was sent, and send it again."""
    for doubt in gate.doubt.list():
        gate.doubt.resolve(doubt.message_id, "not_sent", evidence="the provider's log", send_again=True)


DEEDS: dict[str, Callable[[Gateway, datetime], None]] = {
    "submit": submit,
    "drain": drain,
    "sweep": sweep,
    "resolve": resolve,
}


def do(deed: str, config: Path, now: datetime, *, fail_at: FailPoint | str = "") -> int:
    """Do one of `DEEDS` in a process of its own, at that instant; return the exit code."""
    fork = Fork(_do, deed, now, env=environment(config, **{VARIABLE: str(fail_at)}))
    try:
        return fork.wait()
    finally:
        fork.kill()


def _do(deed: str, now: datetime) -> None:
    clock = SimulatedClock(now)
    with Gateway.open(clock=clock) as gate:
        DEEDS[deed](gate, clock())
