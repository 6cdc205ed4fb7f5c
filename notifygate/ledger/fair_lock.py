"""A lock that threads get in the order in which they came, but what is urgent before all else.

Python's own lock goes to whoever asks at the right moment, which is mostly the thread that has just let go of it: with
groups of a campaign one after the other, a login code would wait for many of them instead of one.
"""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """Held by one thread at a time, and handed to the next by whoever lets go of it."""

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._is_held = False
        self._urgent: deque[threading.Lock] = deque()
        self._others: deque[threading.Lock] = deque()

    def acquire(self, *, is_urgent: bool = False, timeout_s: float) -> bool:
        """Get the lock, and say whether that was possible in time."""
        with self._state:
            if not self._is_held:
                self._is_held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            waiting = self._urgent if is_urgent else self._others
            waiting.append(turn)
        has_it = False
        try:
            has_it = turn.acquire(timeout=timeout_s)
        finally:
            # Also where the thread is ended: nobody must hand the lock to one that has gone.
            if not has_it:
                with self._state:
                    is_waiting = turn in waiting
                    if is_waiting:
                        waiting.remove(turn)
                if not is_waiting:
                    self.release()
        return has_it

    def give_way(self) -> None:
        """For the holder: let what is urgent go first, and have the lock again before all that is not."""
        with self._state:
            if not self._urgent:
                return
            turn = threading.Lock()
            turn.acquire()
            self._others.appendleft(turn)
            self._urgent.popleft().release()
        try:
            turn.acquire()
        except BaseException:
            turn.acquire()  # whoever holds a lock will release it
            raise

    def release(self) -> None:
        """Hand the lock to who is next."""
        with self._state:
            if self._urgent:
                self._urgent.popleft().release()
            elif self._others:
                self._others.popleft().release()
            else:
                self._is_held = False
