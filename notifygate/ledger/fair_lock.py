"""A lock that threads get in the order in which they came, but what is urgent before all else.

Python's own lock goes to whoever asks at the right moment, which is mostly the thread that has just let go of it: with
groups of a campaign one after the other, a login code would wait for many of them instead of one.
"""

from __future__ import annotations

import threading
from collections import deque

_URGENT_IN_A_ROW = 4
"""How many urgent ones go before something else that waits: without an end to it, that would wait for ever."""


class FairLock:
    """Held by one thread at a time, and handed to the next by whoever lets go of it."""

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._is_held = False
        self._urgent: deque[threading.Lock] = deque()
        self._others: deque[threading.Lock] = deque()
        self._in_a_row = 0

    def acquire(self, *, is_urgent: bool = False, timeout_s: float) -> bool:
        """Get the lock, and say whether that was possible in time."""
        waiting = self._urgent if is_urgent else self._others
        turn = threading.Lock()
        turn.acquire()
        has_it = False
        try:
            with self._state:
                if not self._is_held:
                    self._is_held = has_it = True
                    return True
                waiting.append(turn)
            has_it = turn.acquire(timeout=timeout_s)
        finally:
            # Also where the thread is ended: nobody must hand the lock to one that has gone.
            if not has_it:
                self._give_up(turn, waiting)
        return has_it

    def give_way(self) -> None:
        """For the holder: let what is urgent go first, and have the lock again before all that is not."""
        with self._state:
            if not self._urgent or self._in_a_row >= _URGENT_IN_A_ROW:
                return
            turn = threading.Lock()
            turn.acquire()
            self._others.appendleft(turn)
            self._hand_on()
        try:
            turn.acquire()
        except BaseException:
            turn.acquire()  # whoever holds a lock will release it
            raise

    def release(self) -> None:
        """Hand the lock to who is next."""
        with self._state:
            self._hand_on()

    def _hand_on(self) -> None:
        if self._urgent and not (self._others and self._in_a_row >= _URGENT_IN_A_ROW):
            self._in_a_row += 1
            self._urgent.popleft().release()
        elif self._others:
            self._in_a_row = 0
            self._others.popleft().release()
        else:
            self._in_a_row = 0
            self._is_held = False

    def _give_up(self, turn: threading.Lock, waiting: deque[threading.Lock]) -> None:
        with self._state:
            if turn in waiting:
                waiting.remove(turn)
            elif not turn.locked():  # it was handed over just now
                self._hand_on()
