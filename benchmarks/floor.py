"""The floor: what the database alone needs to read and write the same rows in the same batches.

A run of `submit_many` and `drain` is recorded as the driver sees it. Then the same run is timed without the recorder,
and so is a replay of the recorded calls, each on a copy of the same database. What the gate adds to the replay is
what it costs to decide.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from support.tables import row_counts

from benchmarks import history
from benchmarks.figures import Figure, at_most, ratio
from benchmarks.recording import Step, recording, replay
from benchmarks.servers import Database, Kind, Stage, WrongResult
from benchmarks.sizes import Size
from benchmarks.watching import watching
from benchmarks.workload import MESSAGES_PER_PERSON, newsletter
from notifygate import Gateway
from notifygate.ledger.database import Ledger

FLOOR = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """What was recorded of the two halves, and how many rows each table had in the end."""

    submit: list[Step]
    drain: list[Step]
    connections: int
    rows: dict[str, int]


def measure(stage: Stage, kind: Kind, size: Size, tell: Callable[[str], None]) -> Iterator[Figure]:
    persons = max(1, size.floor // MESSAGES_PER_PERSON)
    template = stage.prepared(kind)
    history.write(stage, template, history.Past(persons=persons, messages=size.floor))
    tell(f"the floor: recording ({kind})")
    steps = _record(stage, template, size.floor)
    runs: list[tuple[float, float]] = []
    replays: list[tuple[float, float]] = []
    for repetition in range(size.repetitions):
        tell(f"the floor ({kind}, {repetition + 1} of {size.repetitions})")
        runs.append(_time_run(stage, template, size.floor))
        replays.append(_time_replay(stage, template, steps))
    stage.drop(template)
    for name, pick, goal in (
        ("the gate against its statements alone", sum, at_most(2)),
        ("… of which submit_many", lambda halves: halves[0], None),
        ("… of which drain", lambda halves: halves[1], None),
    ):
        over, under = [pick(one) for one in runs], [pick(one) for one in replays]
        told = f"{statistics.median(over):.2f} s by {statistics.median(under):.2f} s"
        yield ratio(over, under, part=FLOOR, of=kind, name=name, goal=goal, told=told)


def _record(stage: Stage, template: Database, messages: int) -> _Steps:
    database = stage.copied(template)
    with recording() as made, Gateway.open(database.config()) as gate:
        made.clear()
        submitted = _submit(gate, messages)
        half = len(made.steps)
        _drain(gate, messages)
        steps = made.steps.copy()
        connections = made.connections
    with watching(database.url) as watch:
        watch.check_sent(submitted)
    rows = row_counts(database.url)
    stage.drop(database)
    return _Steps(submit=steps[:half], drain=steps[half:], connections=connections, rows=rows)


def _time_run(stage: Stage, template: Database, messages: int) -> tuple[float, float]:
    database = stage.copied(template)
    with Gateway.open(database.config()) as gate:
        gc.collect()
        began = time.perf_counter()
        submitted = _submit(gate, messages)
        between = time.perf_counter()
        _drain(gate, messages)
        ended = time.perf_counter()
    with watching(database.url) as watch:
        watch.check_sent(submitted)
    stage.drop(database)
    return between - began, ended - between


def _time_replay(stage: Stage, template: Database, steps: _Steps) -> tuple[float, float]:
    database = stage.copied(template)
    ledger = Ledger(database.url)  # for connections with the settings that the gateway's have
    with ExitStack() as opened:
        opened.callback(ledger.close)
        connections: list[Any] = []
        for _ in range(steps.connections):
            taken = ledger.engine.raw_connection()
            opened.callback(taken.close)
            connections.append(taken.driver_connection)
        gc.collect()
        began = time.perf_counter()
        replay(steps.submit, connections)
        between = time.perf_counter()
        replay(steps.drain, connections)
        ended = time.perf_counter()
    rows = row_counts(database.url)
    if rows != steps.rows:
        raise WrongResult(f"the replay left {rows} where the gate left {steps.rows}")
    stage.drop(database)
    return between - began, ended - between


def _submit(gate: Gateway, messages: int) -> list[str]:
    persons = max(1, messages // MESSAGES_PER_PERSON)
    letters = (newsletter(number % persons, f"letter-{number}") for number in range(messages))
    return [receipt.message_id for receipt in gate.submit_many(letters)]


def _drain(gate: Gateway, messages: int) -> None:
    decided = gate.drain()
    if decided != messages:
        raise WrongResult(f"the gate decided {decided} of {messages} messages")
