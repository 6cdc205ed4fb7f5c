"""Memory: how much more a worker takes where a million messages wait in the ledger for a later time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from benchmarks import history
from benchmarks.figures import Figure, at_most
from benchmarks.servers import Database, Kind, Stage
from benchmarks.sizes import Size
from benchmarks.throughput import MEMORY
from benchmarks.watching import watching
from benchmarks.workers import GATE, running
from benchmarks.workload import MESSAGES_PER_PERSON, newsletter
from notifygate import Gateway

_DEFERRED_PER_PERSON = 50


def measure(stage: Stage, kind: Kind, size: Size, tell: Callable[[str], None]) -> Iterator[Figure]:
    tell(f"memory of workers with none deferred ({kind})")
    persons = max(1, size.bulk // MESSAGES_PER_PERSON)
    database = stage.prepared(kind)
    history.write(stage, database, history.Past(persons=persons))
    without_mb = _peak_mb(stage, database, size, persons)
    stage.drop(database)
    tell(f"memory of workers with {size.deferred:,} deferred ({kind})")
    database = stage.prepared(kind)
    history.write(stage, database, history.Past(persons=persons))
    waiting = history.Past(
        persons=max(1, size.deferred // _DEFERRED_PER_PERSON),
        messages=size.deferred,
        state="deferred",
        span=timedelta(hours=1),
        first_person=persons,
        logged=False,
    )
    history.write(stage, database, waiting)
    with_mb = _peak_mb(stage, database, size, persons)
    stage.drop(database)
    yield Figure(
        part=MEMORY,
        of=kind,
        name=f"more with {size.deferred:,} deferred",
        value=with_mb - without_mb,
        unit="MB",
        goal=at_most(20),
        told=f"{with_mb:.1f} MB by {without_mb:.1f} MB",
    )


def _peak_mb(stage: Stage, database: Database, size: Size, persons: int) -> float:
    stage.redis.wipe()
    config = database.config(queued=True)
    with (
        running(stage, GATE, config) as workers,
        watching(database.url) as watch,
        Gateway.open(config) as gate,
    ):
        letters = (newsletter(number % persons, f"letter-{number}") for number in range(size.bulk))
        submitted = [receipt.message_id for receipt in gate.submit_many(letters)]
        watch.wait_until_nothing_is_open(workers)
        watch.check_sent(submitted)
        time.sleep(size.sweeps_s)
        return workers.peak_mb()
