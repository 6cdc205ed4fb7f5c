"""How much each part does: `small` for a test, `default` for `make bench`, `large` with a ledger of 10 million rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

SizeName = Literal["small", "default", "large"]

PROCESSES = 2
THREADS = 8
"""Of each worker process, and of the process that submits."""
MANY_THREADS = 32
"""Of a process that submits, where much is asked of a web application at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Counts of messages unless said otherwise. A person gets five of a run's messages."""

    repetitions: int
    bare: int
    one_by_one: int
    one_thread: int
    bulk: int
    handwritten: int
    floor: int
    ledger_rows: tuple[int, ...]
    """The sizes of the ledger that growth is measured over, smallest first."""
    past_messages: tuple[int, ...]
    """The lengths of a person's history that growth is measured over, shortest first."""
    growth: int
    """Decided in each repetition at each size of the ledger."""
    growth_by_history: int
    """Decided in each repetition at each length of history, each for another person."""
    verified: int
    """Rows of the ledger that is sealed and verified."""
    reads: int
    """How often `explain` and `search` are called."""
    submits: int
    campaign: int
    services: int
    services_every_s: float
    deferred: int
    sweeps_s: float
    """How long workers are left alone with what is deferred."""
    evaluations: int


_DEFAULT = Size(
    repetitions=3,
    bare=4_000,
    one_by_one=1_500,
    one_thread=200,
    bulk=6_000,
    handwritten=1_500,
    floor=3_000,
    ledger_rows=(10_000, 1_000_000),
    past_messages=(1, 20, 200),
    growth=2_000,
    growth_by_history=80,
    verified=50_000,
    reads=300,
    submits=1_000,
    campaign=100_000,
    services=150,
    services_every_s=0.075,
    deferred=1_000_000,
    sweeps_s=3.0,
    evaluations=5_000,
)

SIZES: dict[SizeName, Size] = {
    "small": Size(
        repetitions=1,
        bare=300,
        one_by_one=100,
        one_thread=25,
        bulk=300,
        handwritten=100,
        floor=200,
        ledger_rows=(1_000, 8_000),
        past_messages=(1, 20, 200),
        growth=150,
        growth_by_history=10,
        verified=1_000,
        reads=30,
        submits=50,
        campaign=5_000,
        services=12,
        services_every_s=0.05,
        deferred=2_000,
        sweeps_s=1.0,
        evaluations=300,
    ),
    "default": _DEFAULT,
    "large": replace(_DEFAULT, ledger_rows=(10_000, 1_000_000, 10_000_000), verified=1_000_000),
}
