"""One by one, in bulk, and against a hand-written gate: messages a second, end to end, all against bare Dramatiq.

Measured in turns, so that whatever else the machine does falls on all alike: bare, the gate, the hand-written gate,
then again. Workers run, and are warm, before a clock starts; the clock stops when the last message is recorded as
sent. What is not measured does not run.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeVar

import sqlalchemy as sa
from support.tables import plain_engine

from benchmarks import bare, handwritten, history
from benchmarks.figures import Figure, at_least, at_most, median, ratio
from benchmarks.servers import Database, Kind, Stage, WrongResult
from benchmarks.sizes import MANY_THREADS, PROCESSES, THREADS, Size
from benchmarks.watching import LOOK_EVERY_S, wait_until, watching
from benchmarks.workers import GATE, dramatiq_app, running
from benchmarks.workload import MERCHANT, MESSAGES_PER_PERSON, NEWSLETTER, address, newsletter
from notifygate import Gateway
from notifygate.ids import new_id

T = TypeVar("T")

ONE_BY_ONE, BULK, HANDWRITTEN, MEMORY = "one_by_one", "bulk", "handwritten", "memory"
PARTS = (ONE_BY_ONE, BULK, HANDWRITTEN, MEMORY)

_WARM_UP = 6 * PROCESSES * THREADS


def measure(
    stage: Stage, kind: Kind, size: Size, parts: Collection[str], tell: Callable[[str], None]
) -> Iterator[Figure]:
    """Yield the figures of those of the parts that are wanted."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    people = _people(size)
    template = stage.prepared(kind)
    history.write(stage, template, history.Past(persons=people))
    for repetition in range(size.repetitions):
        of = f"{kind}, {repetition + 1} of {size.repetitions}"
        if {ONE_BY_ONE, BULK, HANDWRITTEN} & set(parts):
            tell(f"bare Dramatiq ({of})")
            _measure_bare(stage, template, size, found)
        if {ONE_BY_ONE, BULK, HANDWRITTEN, MEMORY} & set(parts):
            tell(f"the gate ({of})")
            _measure_gate(stage, template, size, parts, found)
        if HANDWRITTEN in parts:
            tell(f"the hand-written gate ({of})")
            _measure_handwritten(stage, kind, size, found)
    stage.drop(template)
    yield from _figures(kind, parts, found)


def _figures(kind: Kind, parts: Collection[str], found: dict[str, list[float]]) -> Iterator[Figure]:
    def rate(part: str, name: str, key: str) -> Figure:
        return median(found[key], part=part, of=kind, name=name, unit="/s")

    def against(part: str, name: str, over: str, under: str, goal: float | None = None) -> Figure:
        told = f"{statistics.median(found[over]):,.0f}/s by {statistics.median(found[under]):,.0f}/s"
        wanted = None if goal is None else at_least(goal)
        return ratio(found[over], found[under], part=part, of=kind, name=name, goal=wanted, told=told)

    if ONE_BY_ONE in parts:
        yield against(ONE_BY_ONE, "against bare Dramatiq", "one by one", "bare", 0.7)
        yield against(ONE_BY_ONE, "by one thread, against bare by one", "one thread", "bare one thread")
        yield against(ONE_BY_ONE, f"by {MANY_THREADS} threads, against bare Dramatiq", "many threads", "bare")
        yield rate(ONE_BY_ONE, "messages", "one by one")
    if BULK in parts:
        yield against(BULK, "against bare Dramatiq", "bulk", "bare", 3)
        yield rate(BULK, "messages", "bulk")
        yield rate(BULK, "messages, submitting alone", "bulk submitted")
    if HANDWRITTEN in parts:
        yield against(HANDWRITTEN, "the gate one by one", "one by one", "handwritten", 1.5)
        yield against(HANDWRITTEN, "the gate in bulk", "bulk", "handwritten", 5)
        yield against(HANDWRITTEN, "hand-written against bare", "handwritten", "bare")
    if MEMORY in parts:
        yield median(
            found["peak"], part=MEMORY, of=kind, name="peak of a worker in bulk", unit="MB", goal=at_most(150)
        )


def _measure_bare(stage: Stage, like: Database, size: Size, found: dict[str, list[float]]) -> None:
    stage.redis.wipe()
    config = like.config(queued=True)
    counter = like.folder / "counter"
    counter.unlink(missing_ok=True)
    actor = bare.declare(config, counter)
    sent = count(1)

    def send(number: int) -> None:
        actor.send(new_id("msg"))
        next(sent)

    with running(
        stage, dramatiq_app("benchmarks.bare:setup"), config, env={bare.COUNTER: str(counter)}
    ) as workers:

        def run(messages: int, threads: int) -> float:
            goal = counter.stat().st_size + messages
            began = time.perf_counter()
            in_threads(threads, range(messages), send)
            ended = wait_until(lambda: counter.stat().st_size >= goal, workers, "bare Dramatiq does all jobs")
            return messages / (ended - began)

        run(_WARM_UP, THREADS)
        found["bare"].append(run(size.bare, THREADS))
        found["bare one thread"].append(run(size.one_thread, 1))
        expected = next(sent) - 1
        time.sleep(LOOK_EVERY_S)
        if counter.stat().st_size != expected:
            raise WrongResult(f"bare Dramatiq did {counter.stat().st_size} of {expected} jobs")
    actor.broker.close()


def _measure_gate(
    stage: Stage, template: Database, size: Size, parts: Collection[str], found: dict[str, list[float]]
) -> None:
    stage.redis.wipe()
    database = stage.copied(template)
    config = database.config(queued=True)
    keys = count()
    total = 0
    with (
        running(stage, GATE, config) as workers,
        watching(database.url) as watch,
        Gateway.open(config) as gate,
    ):

        def finish(began: float, messages: int) -> float:
            nonlocal total
            ended = watch.wait_until_nothing_is_open(workers)
            total += messages
            return messages / (ended - began)

        def singly(messages: int, threads: int) -> float:
            began = time.perf_counter()
            in_threads(threads, _persons(messages), lambda person: submit(person))
            return finish(began, messages)

        def submit(person: int) -> None:
            gate.submit(newsletter(person, f"letter-{next(keys)}"))

        singly(_WARM_UP, THREADS)
        if {ONE_BY_ONE, HANDWRITTEN} & set(parts):
            found["one by one"].append(singly(size.one_by_one, THREADS))
            found["one thread"].append(singly(size.one_thread, 1))
            found["many threads"].append(singly(size.one_by_one, MANY_THREADS))
        if {BULK, HANDWRITTEN, MEMORY} & set(parts):
            began = time.perf_counter()
            letters = (newsletter(person, f"letter-{next(keys)}") for person in _persons(size.bulk))
            receipts = sum(1 for _ in gate.submit_many(letters))
            found["bulk submitted"].append(receipts / (time.perf_counter() - began))
            found["bulk"].append(finish(began, receipts))
            found["peak"].append(workers.peak_mb())
        watch.check_that_all_are_sent(total)
    stage.drop(database)


def _measure_handwritten(stage: Stage, kind: Kind, size: Size, found: dict[str, list[float]]) -> None:
    stage.redis.wipe()
    database = stage.empty(kind)
    config = database.config(queued=True)
    handwritten.create(database.url, _people(size))
    stage.settle(database)
    actor = handwritten.declare(config, database.url)
    keys = count()
    setup, env = dramatiq_app("benchmarks.handwritten:setup"), {handwritten.DATABASE: database.url}
    with (
        running(stage, setup, config, env=env) as workers,
        plain_engine(database.url) as engine,
        engine.connect() as plain,
    ):
        conn = plain.execution_options(isolation_level="AUTOCOMMIT")

        def submit(person: int) -> None:
            key = f"letter-{next(keys)}"
            text = f"Spring is here, and so is letter {key} with all that is new in the shop this week."
            actor.send(new_id("msg"), MERCHANT, "email", NEWSLETTER, address(person), "Spring is here", text)

        def run(messages: int, expected: int) -> float:
            began = time.perf_counter()
            in_threads(THREADS, _persons(messages), submit)
            newest = sa.select(sa.func.max(handwritten.send_log.c.id))
            ended = wait_until(
                lambda: (conn.execute(newest).scalar() or 0) >= expected, workers, "all is logged"
            )
            return messages / (ended - began)

        run(_WARM_UP, _WARM_UP)
        total = _WARM_UP + size.handwritten
        found["handwritten"].append(run(size.handwritten, total))
        sent = sa.select(sa.func.count()).where(handwritten.send_log.c.decision == "sent")
        logged = int(conn.execute(sent).scalar_one())
        if logged != total:
            raise WrongResult(f"the hand-written gate sent {logged} of {total} messages")
    actor.broker.close()
    stage.drop(database)


def in_threads(threads: int, items: Sequence[T], do: Callable[[T], None]) -> None:
    """Do something to each item, by so many threads at the same time; return when all is done."""

    broken_off = threading.Event()

    def do_some(start: int) -> None:
        for item in items[start::threads]:
            if broken_off.is_set():
                return
            do(item)

    with ThreadPoolExecutor(threads) as pool:
        try:
            list(pool.map(do_some, range(threads)))
        except BaseException:
            broken_off.set()
            raise


def _persons(messages: int) -> list[int]:
    """Who gets so many messages: each of a fifth as many persons five."""
    return [number % max(1, messages // MESSAGES_PER_PERSON) for number in range(messages)]


def _people(size: Size) -> int:
    return max(size.one_by_one, size.bulk, size.handwritten, size.one_thread, _WARM_UP) // MESSAGES_PER_PERSON
