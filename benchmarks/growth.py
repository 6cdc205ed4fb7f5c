"""Growth: what a message costs with a short and a long past, of the ledger as a whole and of the person at hand.

The ledgers are filled beforehand and worked on in turns. Submitting and deciding are timed apart, in one process and
without a queue. The persons are drawn at random from all.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import count

from benchmarks import history
from benchmarks.figures import Figure, Goal, at_most, number, ratio
from benchmarks.filling import FilledLedgers
from benchmarks.history import Past
from benchmarks.servers import Database, Kind, WrongResult
from benchmarks.sizes import Size
from benchmarks.watching import watching
from benchmarks.workload import newsletter
from notifygate import Gateway

GROWTH = "growth"

_GOAL = at_most(1.3)
_WARM_UP = 50
_LONG = timedelta(days=730)
_NEAR = timedelta(days=25)  # within the window of the cap per person, so that each past message counts
_keys = count()


def pasts(size: Size) -> Iterator[Past]:
    """The pasts that the ledgers need which this is measured on."""
    yield from map(history.of_rows, size.ledger_rows)
    for span in (_LONG, _NEAR):
        yield from (_of_length(size, past, span) for past in size.past_messages)


def _of_length(size: Size, past: int, span: timedelta) -> Past:
    """So many messages to each of as many persons as are decided about, each once."""
    persons = size.growth_by_history * size.repetitions
    return Past(persons=persons, messages=past * persons, span=span)


def measure(kind: Kind, size: Size, filled: FilledLedgers, tell: Callable[[str], None]) -> Iterator[Figure]:
    by_rows = {rows: filled.of(history.of_rows(rows)) for rows in size.ledger_rows}
    draw = random.Random(7)

    def anybody(rows: int, repetition: int) -> list[int]:
        return draw.choices(range(history.of_rows(rows).persons), k=size.growth)

    tell(f"growth by ledger rows ({kind})")
    yield from _grown(kind, size, by_rows, anybody, "rows in the ledger")

    def others_each_time(past: int, repetition: int) -> list[int]:
        start = size.growth_by_history * repetition
        return list(range(start, start + size.growth_by_history))

    for span, when, goal in ((_LONG, "in two years", _GOAL), (_NEAR, "all within a cap's window", None)):
        by_past = {past: filled.of(_of_length(size, past, span)) for past in size.past_messages}
        tell(f"growth by past messages, {when} ({kind})")
        yield from _grown(kind, size, by_past, others_each_time, f"past messages a person, {when},", goal)


def _grown(
    kind: Kind,
    size: Size,
    databases: Mapping[int, Database],
    persons: Callable[[int, int], Sequence[int]],
    what: str,
    goal: Goal | None = _GOAL,
) -> Iterator[Figure]:
    submits: dict[int, list[float]] = {much: [] for much in databases}
    drains: dict[int, list[float]] = {much: [] for much in databases}
    for repetition in range(size.repetitions):
        for much, database in databases.items():
            submit_us, drain_us = _work(database, persons(much, repetition))
            submits[much].append(submit_us)
            drains[much].append(drain_us)
    least, *more = databases
    for much in more:
        wanted = goal if much == more[-1] else None
        yield _figure(
            kind, f"deciding with {much:,} {what} by {least:,}", drains[much], drains[least], wanted
        )
        yield _figure(kind, f"submitting with {much:,} {what} by {least:,}", submits[much], submits[least])


def _figure(
    kind: Kind, name: str, over: Sequence[float], under: Sequence[float], goal: Goal | None = None
) -> Figure:
    told = f"{number(statistics.median(over))} µs by {number(statistics.median(under))} µs"
    return ratio(over, under, part=GROWTH, of=kind, name=name, goal=goal, told=told)


def _work(database: Database, persons: Sequence[int]) -> tuple[float, float]:
    """Microseconds a message: to submit, and to decide, send and record."""
    with Gateway.open(database.config()) as gate, watching(database.url) as watch:

        def submit(whom: Sequence[int]) -> list[str]:
            letters = [newsletter(person, f"new-{next(_keys)}") for person in whom]
            return [receipt.message_id for receipt in gate.submit_many(letters)]

        submit([persons[0]] * _WARM_UP)
        gate.drain()
        began = time.perf_counter()
        submitted = submit(persons)
        between = time.perf_counter()
        decided = gate.drain()
        ended = time.perf_counter()
        if decided != len(persons):
            raise WrongResult(f"{decided} of {len(persons)} messages were decided")
        watch.check_sent(submitted)
    return (between - began) / decided * 1e6, (ended - between) / decided * 1e6
