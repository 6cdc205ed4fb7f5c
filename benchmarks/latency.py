"""What one call takes: to submit a message, beside sending a bare job, and to read in a ledger with a long past."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks import bare, history
from benchmarks.figures import Figure, percentile
from benchmarks.filling import FilledLedgers
from benchmarks.servers import Kind, Stage, WrongResult
from benchmarks.sizes import Size
from benchmarks.workload import MESSAGES_PER_PERSON, address, newsletter
from notifygate import Gateway
from notifygate.ids import new_id

LATENCY = "latency"

_WARM_UP = 20


def pasts(size: Size) -> Iterator[history.Past]:
    """The pasts that the ledgers need which this is measured on."""
    yield from map(history.of_rows, size.ledger_rows[1:])


def measure(
    stage: Stage, kind: Kind, size: Size, filled: FilledLedgers, tell: Callable[[str], None]
) -> Iterator[Figure]:
    tell(f"latency of submit ({kind})")
    yield from _of_submitting(stage, kind, size)
    for rows in size.ledger_rows[1:]:
        database = filled.of(history.of_rows(rows))
        tell(f"latency of reading with {rows:,} rows ({kind})")
        with Gateway.open(database.config()) as gate:
            yield from _of_reading(gate, kind, size, rows)


def _of_submitting(stage: Stage, kind: Kind, size: Size) -> Iterator[Figure]:
    """By one thread, a submit and a bare send in turns, with nobody at work on either."""
    database = stage.prepared(kind)
    persons = max(1, size.submits // MESSAGES_PER_PERSON)
    history.write(stage, database, history.Past(persons=persons))
    stage.redis.wipe()
    config = database.config(queued=True)
    actor = bare.declare(config, database.folder / "counter")
    submits: list[float] = []
    sends: list[float] = []
    with Gateway.open(config) as gate:
        for number in range(_WARM_UP + size.submits):
            letter = newsletter(number % persons, f"letter-{number}")
            submits.append(_seconds(lambda letter=letter: gate.submit(letter)))  # type: ignore[misc]
            sends.append(_seconds(lambda: actor.send(new_id("msg"))))
    actor.broker.close()
    stage.redis.wipe()
    stage.drop(database)
    submits, sends = submits[_WARM_UP:], sends[_WARM_UP:]
    yield _figure("submit, p50", kind, submits, 50, f"bare send {percentile(sends, 50) * 1e3:.2f} ms")
    yield _figure("submit, p99", kind, submits, 99, f"bare send {percentile(sends, 99) * 1e3:.2f} ms")
    yield Figure(
        part=LATENCY,
        of=kind,
        name="submit against a bare send, p50",
        value=percentile(submits, 50) / percentile(sends, 50),
    )


def _of_reading(gate: Gateway, kind: Kind, size: Size, rows: int) -> Iterator[Figure]:
    draw = random.Random(11)
    persons = draw.choices(range(history.of_rows(rows).persons), k=size.reads)
    found: list[str] = []

    def search(person: int) -> None:
        entries = list(gate.log.search(contact_point=f"email:{address(person)}"))
        ids = [entry.message_id for entry in entries if entry.message_id is not None]
        if not ids:
            raise WrongResult("a search found nothing of a person with a past")
        found.append(draw.choice(ids))

    searches = [_seconds(lambda person=person: search(person)) for person in persons]  # type: ignore[misc]
    explains = [_seconds(lambda one=one: gate.explain(one)) for one in found]  # type: ignore[misc]
    for name, taken in (("log search by contact point", searches), ("explain", explains)):
        for percent in (50, 99):
            yield _figure(f"{name}, {rows:,} rows, p{percent}", kind, taken, percent)


def _figure(name: str, kind: Kind, taken: Sequence[float], percent: int, told: str = "") -> Figure:
    value = percentile(taken, percent) * 1e3
    return Figure(part=LATENCY, of=kind, name=name, value=value, unit="ms", told=told)


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
