"""Fail points: labelled places at which a test may stop the process, to see that nothing is lost there.

They do nothing unless a test arms them: in another process with the environment variable `NOTIFYGATE_FAIL_AT`, which
names a point and kills the process there with SIGKILL; in its own process with `armed`. `decide.committed:3` stands
for the third time that the point is reached.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import count

from notifygate.errors import NotifygateError

VARIABLE = "NOTIFYGATE_FAIL_AT"


class FailPoint(StrEnum):
    """Every fail point, in the order of a message's life (DESIGN.md section 7)."""

    SUBMIT_INSERTED = "submit.inserted"  # in the transaction, before its commit
    SUBMIT_COMMITTED = "submit.committed"  # safe in the ledger, not on the queue
    SUBMIT_QUEUED = "submit.queued"  # on the queue, the caller not told
    SWEEP_CLAIMED = "sweep.claimed"  # marked as queued, not on the queue
    SWEEP_QUEUED = "sweep.queued"  # on the queue, what else was due is not
    DECIDE_CLAIMED = "decide.claimed"  # in the transaction, nothing written
    DECIDE_WRITTEN = "decide.written"  # decision and reservation written, before their commit
    DECIDE_COMMITTED = "decide.committed"  # reserved, the provider not called
    HAND_OFF_STARTED = "hand_off.started"  # the driver is about to call the provider
    HAND_OFF_ANSWERED = "hand_off.answered"  # the provider has answered, nothing recorded
    RECORD_WRITTEN = "record.written"  # the outcome written, before its commit
    RECORD_COMMITTED = "record.committed"  # recorded, the job not acknowledged
    LEASES_EXPIRED = "leases.expired"  # put in doubt, before the commit
    DOUBT_RESOLVED = "doubt.resolved"  # a doubt resolved, before the commit
    SEAL_WRITTEN = "seal.written"  # rows of the send log given their places, before the commit
    CHECKPOINT_WRITTEN = "checkpoint.written"  # a checkpoint kept, before the commit


_armed: dict[FailPoint, Callable[[], None]] = {}


def reach(point: FailPoint) -> None:
    """Do what is armed at this point: in production nothing."""
    if _armed and (action := _armed.get(point)) is not None:
        action()


@contextmanager
def armed(point: FailPoint, action: Callable[[], None], *, at: int = 1) -> Iterator[None]:
    """Call `action` the `at`-th time that the point is reached within the block; it may raise."""
    _armed[point] = _at(at, action)
    try:
        yield
    finally:
        del _armed[point]


def _at(wanted: int, action: Callable[[], None]) -> Callable[[], None]:
    reached = count(1)

    def maybe() -> None:
        if next(reached) == wanted:
            action()

    return maybe


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm_from_environment() -> None:
    asked = os.environ.get(VARIABLE, "")
    if not asked:
        return
    name, _, number = asked.partition(":")
    if name not in list(FailPoint) or not (number or "1").isdigit():
        raise NotifygateError(f"{VARIABLE}: {asked!r} is no fail point; there are {', '.join(FailPoint)}")
    _armed[FailPoint(name)] = _at(int(number or "1"), _die)


_arm_from_environment()
