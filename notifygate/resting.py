"""Leaving a channel alone while its provider cannot be reached.

Without this, an outage makes every waiting message be decided, reserved and recorded as failed again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from notifygate.address import Channel

_FIRST = timedelta(seconds=5)
_LONGEST = timedelta(minutes=1)
_FORGOTTEN_AFTER = timedelta(minutes=10)


@dataclass(slots=True, kw_only=True)
class _Rest:
    length: timedelta
    until: datetime
    is_on_trial: bool = False

    def lasts(self, now: datetime) -> bool:
        # A clock that was set back must not make a rest longer than it was meant.
        return self.until - self.length <= now < self.until


class Rests:
    """Which channels rest in this process, and until when. Safe to share between threads.

    A channel that is found down rests for 5 seconds. Then one thread tries it with a single message; if it is still
    down, it rests for twice as long, up to a minute. The first message that reaches the provider ends that.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rests: dict[Channel, _Rest] = {}

    def resting(self) -> frozenset[Channel]:
        """The channels that nothing is to be handed to now: they rest, or another thread is trying them."""
        with self._lock:
            now = self._clock()
            return frozenset(
                channel for channel, rest in self._rests.items() if rest.lasts(now) or rest.is_on_trial
            )

    @contextmanager
    def trials(self) -> Iterator[frozenset[Channel]]:
        """Take it on to try the channels whose rest is over, each with a single message within the block."""
        with self._lock:
            now = self._clock()
            for channel in [one for one, rest in self._rests.items() if now > rest.until + _FORGOTTEN_AFTER]:
                del self._rests[channel]
            taken = {
                channel: rest
                for channel, rest in self._rests.items()
                if not rest.lasts(now) and not rest.is_on_trial
            }
            for rest in taken.values():
                rest.is_on_trial = True
        try:
            yield frozenset(taken)
        finally:
            with self._lock:
                for rest in taken.values():
                    rest.is_on_trial = False

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
