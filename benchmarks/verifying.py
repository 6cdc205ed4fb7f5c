"""The proof of the send log: sealing its rows, verifying them, and proving one message, against reading the same rows.

On a ledger with a past. What verifying takes beyond reading is computing: the canonical form of each row and its hash.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from benchmarks import history
from benchmarks.figures import Figure, percentile
from benchmarks.filling import FilledLedgers
from benchmarks.servers import Database, Kind, WrongResult
from benchmarks.sizes import Size
from notifygate import Gateway
from notifygate.ledger.database import Ledger

VERIFY = "verify"

_PROOFS = 100
_NEXT = sa.text("SELECT * FROM ledger WHERE position > :last ORDER BY position LIMIT 20000")


def pasts(size: Size) -> Iterator[history.Past]:
    """The pasts that the ledgers need which this is measured on."""
    yield history.of_rows(size.verified, sealed=False)
    yield history.of_rows(size.ledger_rows[-1])


def measure(kind: Kind, size: Size, filled: FilledLedgers, tell: Callable[[str], None]) -> Iterator[Figure]:
    unsealed, longest = (filled.of(past) for past in pasts(size))
    with Gateway.open(unsealed.config()) as gate:
        tell(f"sealing {size.verified:,} rows ({kind})")
        began = time.perf_counter()
        sealed = gate._runtime.sealer.seal()
        per_s = sealed / (time.perf_counter() - began)
        gate.proofs.checkpoint()
        tell(f"verifying {sealed:,} rows ({kind})")
        read_s = _seconds(lambda: _read(gate._runtime.ledger))
        began = time.perf_counter()
        found = gate.proofs.verify()
        verify_s = time.perf_counter() - began
    if not found.is_intact or found.size < size.verified / 2 or found.unsealed:
        raise WrongResult(f"{found.size} rows were verified, and {found.problem_count} found wrong")
    told = f"{found.size / verify_s:,.0f} rows a second"
    name = "verifying rows against reading them"
    yield Figure(part=VERIFY, of=kind, name=name, value=verify_s / read_s, told=told)
    yield Figure(part=VERIFY, of=kind, name="sealing, by one process", value=per_s, unit="/s")
    yield from _proving(longest, kind, size)


def _proving(database: Database, kind: Kind, size: Size) -> Iterator[Figure]:
    with Gateway.open(database.config()) as gate:
        ids = [row.message_id for row in gate.log.search(kind="submitted", limit=_PROOFS)]
        chosen = random.Random(3).choices([one for one in ids if one is not None], k=_PROOFS)
        proofs = [_seconds(lambda one=one: gate.proofs.prove(one)) for one in chosen]  # type: ignore[misc]
    for percent in (50, 99):
        value = percentile(proofs, percent) * 1e3
        name = f"log prove, {size.ledger_rows[-1]:,} rows, p{percent}"
        yield Figure(part=VERIFY, of=kind, name=name, value=value, unit="ms")


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
