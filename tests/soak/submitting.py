"""The processes that submit: applications with an outbox, which submit again what they may have submitted.

A lane is one such application. It works off every n-th block of the story, and notes a block as done only at its end:
after a kill its successor submits the whole block again, under the same idempotency keys. Each receipt is written
down as it is got.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from support.tables import plain_engine

from notifygate import Gateway, LedgerError
from soak.story import Request, Story

T = TypeVar("T")

_AHEAD = 600  # so many messages may wait; more would only make the end of the run longer
_AGAIN = 0.2  # the share of slices that are handed over again, long after
_SLICES = (1, 10, 80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What submitters and the judge must know alike. `began_at` is the start of the run."""

    folder: Path
    ledger: str
    seed: int
    lanes: int
    began_at: datetime

    @property
    def story(self) -> Story:
        return Story(self.seed, self.began_at)

    @property
    def stop(self) -> Path:
        """Where this file exists, submitters end after the block at hand."""
        return self.folder / "stop-submitting"

    def begun(self, lane: int) -> Path:
        """Holds how many blocks of a lane were begun: as many as are done, or one more."""
        return self.folder / f"lane-{lane}.begun"

    def done(self, lane: int) -> Path:
        """Holds how many blocks of a lane are done."""
        return self.folder / f"lane-{lane}.done"

    def receipts(self, lane: int) -> Path:
        """Holds a line of JSON for each receipt: merchant, key, message id."""
        return self.folder / f"lane-{lane}.receipts"

    def blocks_submitted(self) -> Iterator[int]:
        """The numbers of all blocks that are done."""
        for lane in range(self.lanes):
            for turn in range(_read_count(self.done(lane))):
                yield turn * self.lanes + lane


def submit(plan: Plan, lane: int, is_orphaned: Callable[[], bool]) -> None:
    """Submit the blocks of a lane, from the first that is not done, until told to stop; what was begun is finished."""
    gate = _patiently(lambda: Gateway.open(plan.folder / "notifygate.toml"))
    output = os.open(plan.receipts(lane), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    turn = _read_count(plan.done(lane))
    with gate, plain_engine(plan.ledger) as engine:
        while not is_orphaned():
            # A block that a predecessor began is submitted to its end, whatever else holds.
            if _read_count(plan.begun(lane)) == turn:
                if plan.stop.exists():
                    return
                if _waiting(engine) > _AHEAD:
                    time.sleep(0.1)
                    continue
                _write_count(plan.begun(lane), turn + 1)
            _submit_block(gate, plan, turn * plan.lanes + lane, output)
            turn += 1
            _write_count(plan.done(lane), turn)


def _submit_block(gate: Gateway, plan: Plan, number: int, output: int) -> None:
    block = plan.story.block(number)
    for fact in block.facts:
        _patiently(lambda fact=fact: fact.register(gate))  # type: ignore[misc]  # a default, so as to bind it
    for some in _sliced(block.requests):
        _hand_over(gate, plan, some, output)
        if random.random() < _AGAIN and number >= plan.lanes:
            earlier = plan.story.block(number - plan.lanes).requests
            _hand_over(gate, plan, random.sample(earlier, min(5, len(earlier))), output)


def _hand_over(gate: Gateway, plan: Plan, requests: Sequence[Request], output: int) -> None:
    messages = [request.message(plan.began_at) for request in requests]

    def hand_over() -> None:
        receipts = [gate.submit(messages[0])] if len(messages) == 1 else gate.submit_many(messages)
        for request, receipt in zip(requests, receipts, strict=True):
            line = json.dumps([request.merchant, request.key, receipt.message_id])
            os.write(output, line.encode() + b"\n")

    _patiently(hand_over)


def _sliced(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    start = 0
    while start < len(requests):
        size = random.choice(_SLICES)
        yield requests[start : start + size]
        start += size


def _patiently(attempt: Callable[[], T]) -> T:
    """Try until the ledger is there: it may be down at this moment."""
    while True:
        try:
            return attempt()
        except LedgerError:
            time.sleep(0.1)


def _waiting(engine: sa.Engine) -> int:
    query = sa.text("SELECT count(*) FROM messages WHERE status IN ('queued', 'deferred')")
    try:
        with engine.connect() as conn:
            return int(conn.execute(query).scalar_one())
    except sa.exc.DBAPIError:
        return _AHEAD + 1  # the ledger is down: wait


def _read_count(path: Path) -> int:
    return int(path.read_text()) if path.exists() else 0


def _write_count(path: Path, count: int) -> None:
    """Write as a whole, or not at all where we are killed."""
    written = path.with_suffix(".new")
    written.write_text(str(count))
    written.replace(path)
