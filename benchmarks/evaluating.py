"""Pure deciding: `evaluate` alone, in microseconds a message, with nothing read or written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from benchmarks.figures import Figure, at_most, median
from benchmarks.servers import WrongResult
from benchmarks.sizes import Size
from benchmarks.workload import MERCHANT, NEWSLETTER
from notifygate.consent import ConsentRecord, State
from notifygate.decision import Outcome
from notifygate.policy import Policy, PurposeClass
from notifygate.rules import evaluate
from notifygate.snapshot import Handover, Request, Snapshot

EVALUATE = "evaluate"

_NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
_ROUNDS = 5
_GOAL_IS_FOR = 20
_SPAN = timedelta(days=25)  # within the window of the cap per person, so that each counts


def measure(policy: Policy, size: Size, tell: Callable[[str], None]) -> Iterator[Figure]:
    tell("evaluate")
    for past in (0, 20, 200):
        snapshot = _snapshot(past)
        found = [_microseconds(policy, snapshot, size.evaluations) for _ in range(_ROUNDS)]
        goal = at_most(40) if past == _GOAL_IS_FOR else None
        told = f"{1e6 / statistics.median(found):,.0f}/s"
        name = f"with {past} past messages"
        yield median(found, part=EVALUATE, name=name, unit="µs", goal=goal, told=told)


def _microseconds(policy: Policy, snapshot: Snapshot, count: int) -> float:
    request = Request(
        message_id="msg_1",
        merchant=MERCHANT,
        purpose=NEWSLETTER,
        role="buyer",
        channel="email",
        contact_point_id="cp_1",
        dedupe_key="key",
        submitted_at=_NOW,
    )
    if evaluate(request, snapshot, policy, _NOW).outcome is not Outcome.ALLOW:
        raise WrongResult("evaluate did not allow what is to be allowed")
    began = time.perf_counter()
    for _ in range(count):
        evaluate(request, snapshot, policy, _NOW)
    return (time.perf_counter() - began) / count * 1e6


def _snapshot(past: int) -> Snapshot:
    consented_at = _NOW - timedelta(days=90)
    consent = ConsentRecord(
        event_id="evt_1",
        state=State.GRANTED,
        contact_point_id="cp_1",
        party=MERCHANT,
        channel="email",
        purpose=NEWSLETTER,
        occurred_at=consented_at,
        recorded_at=consented_at,
    )
    handovers = tuple(
        Handover(
            message_id=f"msg_past_{number}",
            merchant=MERCHANT,
            purpose=NEWSLETTER,
            purpose_class=PurposeClass.MARKETING,
            channel="email",
            dedupe_key=f"key {number}",
            at=_NOW - _SPAN * (past - number) / past,
        )
        for number in range(past)
    )
    return Snapshot(consent=(consent,), handovers=handovers)
