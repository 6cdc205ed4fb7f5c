"""The proof of the send log: sealing its rows, verifying them, and proving one message, against reading the same rows.

On a ledger with a past. What verifying takes beyond reading is computing: the canonical form of each row and its hash.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from benchmarks import history
from benchmarks.figures import Figure, percentile, ratio
from benchmarks.growth import FilledLedgers
from benchmarks.servers import Kind, Stage, WrongResult
from benchmarks.sizes import Size
from notifygate import Gateway
from notifygate.ledger.database import Ledger

VERIFY = "verify"

_NEXT = sa.text("SELECT * FROM ledger WHERE position > :last ORDER BY position LIMIT 20000")


def measure(
    stage: Stage, kind: Kind, size: Size, filled: FilledLedgers, tell: Callable[[str], None]
) -> Iterator[Figure]:
    rows = size.ledger_rows[-1]
    database = filled.of(rows)
    reads: list[float] = []
    verifies: list[float] = []
    with Gateway.open(database.config()) as gate:
        for repetition in range(size.verifications):
            tell(f"verifying {rows:,} rows ({kind}, {repetition + 1} of {size.verifications})")
            reads.append(_seconds(lambda: _read(gate._runtime.ledger)))
            began = time.perf_counter()
            found = gate.proofs.verify()
            verifies.append(time.perf_counter() - began)
            if not found.is_intact or found.size < rows / 2 or found.unsealed:
                raise WrongResult(f"{found.size} rows were verified, and {found.problem_count} found wrong")
        ids = [row.message_id for row in gate.log.search(kind="submitted", limit=size.reads)]
        chosen = random.Random(3).choices([one for one in ids if one is not None], k=size.reads)
        proofs = [_seconds(lambda one=one: gate.proofs.prove(one)) for one in chosen]  # type: ignore[misc]
    told = f"{found.size / min(verifies):,.0f} rows a second"
    name = f"verifying {rows:,} rows against reading them"
    yield ratio(verifies, reads, part=VERIFY, of=kind, name=name, told=told)
    for percent in (50, 99):
        value = percentile(proofs, percent) * 1e3
        name = f"log prove, {rows:,} rows, p{percent}"
        yield Figure(part=VERIFY, of=kind, name=name, value=value, unit="ms")
    yield _sealing(stage, kind, size, tell)


def _sealing(stage: Stage, kind: Kind, size: Size, tell: Callable[[str], None]) -> Figure:
    """Rows a second that one sealer keeps up with, when the log grew while none was at work."""
    tell(f"sealing ({kind})")
    database = stage.prepared(kind)
    history.write(stage, database, history.Past(persons=size.floor), is_sealed=False)
    with Gateway.open(database.config()) as gate:
        began = time.perf_counter()
        sealed = gate._runtime.sealer.seal()
        taken = time.perf_counter() - began
    stage.drop(database)
    if sealed < size.floor:
        raise WrongResult(f"{sealed} of {size.floor} rows were sealed")
    return Figure(part=VERIFY, of=kind, name="sealing, by one process", value=sealed / taken, unit="/s")


def _read(ledger: Ledger) -> None:
    """Read all rows as verifying does, and do nothing with them."""
    last = 0
    with ledger.read(at_one_moment=True) as conn:
        while found := conn.execute(_NEXT, {"last": last}).all():
            last = found[-1].position


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
