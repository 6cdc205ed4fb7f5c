"""Isolation: how long a service message takes while a campaign drains, against how long it takes alone.

From the call of `submit` until another connection sees the message recorded as sent. The same two worker processes do
both, over both queues. What is submitted when nothing of the campaign is due any more does not count.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import count

from benchmarks import history
from benchmarks.figures import Figure, at_most, percentile
from benchmarks.servers import Database, Kind, Stage, WrongResult
from benchmarks.sizes import Size
from benchmarks.watching import Watch, watching
from benchmarks.workers import GATE, Workers, running
from benchmarks.workload import MESSAGES_PER_PERSON, service
from notifygate import Gateway
from notifygate.ledger.messages import due
from notifygate.policy import PurposeClass

ISOLATION = "isolation"

_LOOK_EVERY_S = 0.002
_LOOK_FOR_CAMPAIGN_EVERY_S = 0.05
_WARM_UP = 16
_SENT_WITHIN_S = 120.0
_keys = count()


def measure(stage: Stage, kind: Kind, size: Size, tell: Callable[[str], None]) -> Iterator[Figure]:
    persons = max(1, size.campaign // MESSAGES_PER_PERSON)
    template = stage.prepared(kind)
    history.write(stage, template, history.Past(persons=persons))
    tell(f"service messages alone ({kind})")
    idle = _alone(stage, template, size, persons)
    stage.drop(template)
    tell(f"service messages beside a campaign of {size.campaign:,} ({kind})")
    busy, drained_per_s = _beside_a_campaign(stage, kind, size, persons)
    for percent in (50, 95):
        alone_ms, beside_ms = percentile(idle, percent) * 1e3, percentile(busy, percent) * 1e3
        yield Figure(
            part=ISOLATION,
            of=kind,
            name=f"service message beside a campaign, p{percent}, against alone",
            value=beside_ms / alone_ms,
            goal=at_most(3) if percent == 95 else None,
            told=f"{beside_ms:.1f} ms by {alone_ms:.1f} ms ({len(busy)} messages)",
        )
    yield Figure(part=ISOLATION, of=kind, name="campaign, meanwhile", value=drained_per_s, unit="/s")


def _alone(stage: Stage, template: Database, size: Size, persons: int) -> list[float]:
    stage.redis.wipe()
    database = stage.copied(template)
    config = database.config(queued=True)
    with (
        running(stage, GATE, config) as workers,
        watching(database.url) as watch,
        Gateway.open(config) as gate,
    ):
        _latencies(gate, watch, workers, persons, _WARM_UP, size.services_every_s)
        found = _latencies(gate, watch, workers, persons, size.services, size.services_every_s)
    stage.drop(database)
    return found


def _beside_a_campaign(stage: Stage, kind: Kind, size: Size, persons: int) -> tuple[list[float], float]:
    stage.redis.wipe()
    database = stage.prepared(kind)
    campaign = history.Past(
        persons=persons, messages=size.campaign, state="queued", span=timedelta(minutes=1)
    )
    history.write(stage, database, campaign)
    config = database.config(queued=True)
    with ExitStack() as opened:
        gate = opened.enter_context(Gateway.open(config))
        with gate._runtime.ledger.read() as conn:
            waiting = due(conn, datetime.now(UTC), size.campaign)
        if len(waiting) != size.campaign:
            raise WrongResult(f"{len(waiting)} messages of the campaign wait")
        gate._runtime.enqueue([(message_id, PurposeClass.MARKETING) for _, message_id in waiting])
        # Not before: workers would take the campaign off the queue as fast as it gets there.
        workers = opened.enter_context(running(stage, GATE, config))
        watch = opened.enter_context(watching(database.url))
        _latencies(gate, watch, workers, persons, _WARM_UP, size.services_every_s)
        before, began = watch.count_accepted(), time.perf_counter()
        found = _latencies(
            gate, watch, workers, persons, size.services, size.services_every_s, watch.is_campaign_due
        )
        drained = watch.count_accepted() - before - size.services
        per_s = drained / (time.perf_counter() - began)
    if not found:
        raise WrongResult(f"the campaign of {size.campaign} was over before it could be seen to matter")
    stage.drop(database)
    return found, per_s


def _latencies(
    gate: Gateway,
    watch: Watch,
    workers: Workers,
    persons: int,
    messages: int,
    every_s: float,
    goes_on: Callable[[], bool] = lambda: True,
) -> list[float]:
    """Submit at a steady pace, whatever becomes of each; return the seconds that they took.

    Those that are submitted when it goes on no longer are left out.
    """
    draw = random.Random(5)
    waiting: dict[str, float] = {}
    found: list[tuple[float, float]] = []
    over_at, look_again_at = float("inf"), 0.0
    failed: list[BaseException] = []

    def submit() -> None:
        try:
            start = time.perf_counter()
            for number in range(messages):
                time.sleep(max(0.0, start + number * every_s - time.perf_counter()))
                letter = service(draw.randrange(persons), f"service-{next(_keys)}")
                began = time.perf_counter()
                waiting[gate.submit(letter).message_id] = began
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            failed.append(error)

    submitting = threading.Thread(target=submit, daemon=True)
    submitting.start()
    deadline = time.perf_counter() + messages * every_s + _SENT_WITHIN_S
    while submitting.is_alive() or waiting:
        sent = watch.are_sent(list(waiting))
        ended = time.perf_counter()
        found += [(waiting.pop(message_id), ended) for message_id in sent]
        if ended >= look_again_at and over_at > ended:
            over_at = over_at if goes_on() else ended
            look_again_at = ended + _LOOK_FOR_CAMPAIGN_EVERY_S
        workers.check()
        if ended > deadline:
            raise WrongResult(f"{len(waiting)} service messages were not sent")
        time.sleep(_LOOK_EVERY_S)
    if failed:
        raise failed[0]
    return [ended - began for began, ended in found if began < over_at]
