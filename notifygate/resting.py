"""Leaving a channel alone while its provider cannot be reached.

Without this, an outage makes every waiting message be decided, reserved and recorded as failed again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from notifygate.address import Channel

_FIRST = timedelta(seconds=5)
_LONGEST = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    length: timedelta
    until: datetime

    def lasts(self, now: datetime) -> bool:
        # A clock that was set back must not make a rest longer than it was meant.
        return self.until - self.length <= now < self.until


class Rests:
    """Which channels rest in this process, and until when. Safe to share between threads.

    A channel that is found down rests for 5 seconds; when it is tried again and still down, for twice as long, up to a
    minute. The first message that reaches the provider ends that.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rests: dict[Channel, _Rest] = {}

    def resting(self) -> frozenset[Channel]:
        """The channels that nothing is to be handed to now."""
        now = self._clock()
        return frozenset(channel for channel, rest in self._rests.copy().items() if rest.lasts(now))

    def over(self) -> frozenset[Channel]:
        """The channels whose rest is over: each is to be tried with a single message."""
        return frozenset(self._rests.copy()) - self.resting()

    def found_down(self, channel: Channel) -> None:
        """Let a channel rest."""
        with self._lock:
            last = self._rests.get(channel)
            now = self._clock()
            if last is not None and last.lasts(now):
                return  # another thread has found the same
            length = _FIRST if last is None else min(last.length * 2, _LONGEST)
            self._rests[channel] = _Rest(length=length, until=now + length)

    def found_up(self, channel: Channel) -> None:
        """End the rests of a channel."""
        if self._rests:
            with self._lock:
                self._rests.pop(channel, None)
