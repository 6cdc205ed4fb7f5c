"""What workers write into the ledger: how the last hand-offs ended, and what is decided next, in one transaction.

All threads of a process that come at the same time share it, so that many messages cost one commit.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from notifygate.address import Channel
from notifygate.delivery import Delivery, Ended
from notifygate.gate import Decided, Gate
from notifygate.ledger.database import Ledger
from notifygate.together import Together

_AT_ONCE = 100
# Where one writes at a time and something urgent is about, anything else is to be written in so many seconds, or in as
# many as its commit takes after that.
_BRIEFLY_S = 0.006
_FEWEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What one thread brings."""

    ended: Sequence[Ended]
    message_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ended) + len(self.message_ids)


class _Taken(NamedTuple):
    """What was decided, and how long that took together with the turns it shared its transaction with."""

    decided: Decided
    took_s: float


class Turns:
    """Records and decides. Safe to share between threads."""

    def __init__(self, ledger: Ledger, gate: Gate, delivery: Delivery) -> None:
        self._ledger = ledger
        self._gate = gate
        self._delivery = delivery
        self._brief = 0.0
        """How many messages are recorded and decided in as long as that, by those that were lately."""
        # Two, so that a login code waits for no campaign: it shares its transaction with other service messages only.
        self._urgent = Together(partial(self._take_all, is_urgent=True), then=self._tell, at_most=_AT_ONCE)
        self._other = Together(self._take_all, then=self._tell, at_most=_AT_ONCE, narrowed=self.at_once)

    def at_once(self, count: int) -> int:
        """How many of `count` messages that are not urgent to take at a time, so that what is urgent need not wait."""
        return min(count, max(_FEWEST, round(self._brief))) if self._ledger.is_wanted_urgently else count

    def take(
        self,
        ended: Sequence[Ended],
        message_ids: Sequence[str],
        *,
        is_urgent: bool = False,
        without: Collection[Channel] = (),
        one_of: Collection[Channel] = (),
    ) -> Decided:
        """Record what ended, and decide those of the messages that are due, reserving what is allowed.

        What `is_urgent` shares its transaction with what is urgent too. Messages of the channels `without` are left
        out, and of each of `one_of` all but one.

        Raises `LedgerError` where the ledger cannot be used: then nothing was decided, and what ended is recorded if
        that could be done within a minute.
        """
        turn = _Turn(ended=ended, message_ids=message_ids)
        if not turn:
            return Decided()
        try:
            if without or one_of:
                taken = self._take(turn, without, one_of, is_urgent=is_urgent)
                self._tell([turn], [taken])
            else:
                taken = (self._urgent if is_urgent else self._other)(turn)
        except Exception:
            if not ended:
                raise
        else:
            return taken.decided
        # Whatever keeps messages from being decided, what was handed over must not end as a doubt.
        self._delivery.record(ended, is_urgent=is_urgent)
        return self.take((), message_ids, is_urgent=is_urgent, without=without, one_of=one_of)

    def _take_all(self, turns: Sequence[_Turn], *, is_urgent: bool = False) -> list[_Taken]:
        if len(turns) == 1:
            return [self._take(turns[0], is_urgent=is_urgent)]
        whole = _Turn(
            ended=[one for turn in turns for one in turn.ended],
            message_ids=[message_id for turn in turns for message_id in turn.message_ids],
        )
        taken = self._take(whole, is_shared=True, is_urgent=is_urgent)
        return [
            _Taken(decided, taken.took_s)
            for decided in taken.decided.split([turn.message_ids for turn in turns])
        ]

    def _take(
        self,
        turn: _Turn,
        without: Collection[Channel] = (),
        one_of: Collection[Channel] = (),
        *,
        is_shared: bool = False,
        is_urgent: bool,
    ) -> _Taken:
        entered_at = began_at = written_at = time.monotonic()

        def work(conn: sa.Connection) -> Decided:
            nonlocal entered_at, began_at, written_at
            entered_at = time.monotonic()
            if turn.ended:
                self._delivery.write(conn, turn.ended)
            began_at = time.monotonic()
            decided = Decided()
            if turn.message_ids:
                decided = self._gate.decide(conn, turn.message_ids, without=without, one_of=one_of)
            written_at = time.monotonic()
            return decided

        # Neither other threads' messages nor outcomes may wait for what keeps one message from being decided.
        decided = self._ledger.transact(work, hurries=is_shared or bool(turn.ended), is_urgent=is_urgent)
        ended_at = time.monotonic()
        if decided.count and not is_urgent:
            briefly_s = max(_BRIEFLY_S, ended_at - written_at)
            self._brief += (decided.count * briefly_s / max(written_at - entered_at, 1e-6) - self._brief) / 5
        return _Taken(decided, ended_at - began_at)

    def _tell(self, turns: Sequence[_Turn], taken: Sequence[_Taken]) -> None:
        """Count and log what was committed in one transaction."""
        if ended := [one for turn in turns for one in turn.ended]:
            self._delivery.tell(ended)
        decided = Decided(
            decisions=tuple(pair for one in taken for pair in one.decided.decisions),
            reservations=tuple(reservation for one in taken for reservation in one.decided.reservations),
        )
        self._gate.tell(decided, taken[0].took_s)
