"""What workers write into the ledger: how the last hand-offs ended, and what is decided next, in one transaction.

All threads of a process that come at the same time share it, so that many messages cost one commit.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from notifygate.address import Channel
from notifygate.delivery import Delivery, Ended
from notifygate.gate import Decided, Gate
from notifygate.ledger.database import Ledger
from notifygate.together import Together

_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """What one thread brings."""

    ended: Sequence[Ended]
    message_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ended) + len(self.message_ids)


class Turns:
    """Records and decides. Safe to share between threads."""

    def __init__(self, ledger: Ledger, gate: Gate, delivery: Delivery) -> None:
        self._ledger = ledger
        self._gate = gate
        self._delivery = delivery
        # Two, so that a login code waits for no campaign: it shares its transaction with other service messages only.
        self._urgent = Together(self._take_all, at_most=_AT_ONCE)
        self._other = Together(self._take_all, at_most=_AT_ONCE)

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
                return self._take(turn, without, one_of)
            return self._urgent(turn) if is_urgent else self._other(turn)
        except Exception:
            if not ended:
                raise
        # Whatever keeps messages from being decided, what was handed over must not end as a doubt.
        self._delivery.record(ended)
        return self.take((), message_ids, is_urgent=is_urgent, without=without, one_of=one_of)

    def _take_all(self, turns: Sequence[_Turn]) -> list[Decided]:
        if len(turns) == 1:
            return [self._take(turns[0])]
        whole = _Turn(
            ended=[one for turn in turns for one in turn.ended],
            message_ids=[message_id for turn in turns for message_id in turn.message_ids],
        )
        return self._take(whole).split([turn.message_ids for turn in turns])

    def _take(
        self, turn: _Turn, without: Collection[Channel] = (), one_of: Collection[Channel] = ()
    ) -> Decided:
        began_at = time.monotonic()

        def work(conn: sa.Connection) -> Decided:
            nonlocal began_at
            if turn.ended:
                self._delivery.write(conn, turn.ended)
            began_at = time.monotonic()
            if not turn.message_ids:
                return Decided()
            return self._gate.decide(conn, turn.message_ids, without=without, one_of=one_of)

        decided = self._ledger.transact(work)
        if turn.ended:
            self._delivery.tell(turn.ended)
        self._gate.tell(decided, time.monotonic() - began_at)
        return decided
