"""Random ids that sort in the order in which they were made, so that database indexes stay compact.

What one thread submits one after the other is therefore decided in that order, however fast it follows. They are laid
out as RFC 9562 lays out UUIDs of version 7 with a finer clock (section 6.2, method 3), but for its fixed bits.
"""

from __future__ import annotations

import os
import threading
import time

_RANDOM_DIGITS = 15  # four bits each
_AT_ONCE = 128
_NANOSECONDS = 1_000_000  # of a millisecond


class _Pool(threading.local):
    """Random digits of the operating system, fetched for many ids at a time: each call of it costs more than an id."""

    def __init__(self) -> None:
        self.process = 0
        self.digits = ""
        self.used = 0
        self.last_ns = 0

    def take(self) -> str:
        # INVARIANT(no id twice): a forked process must not go on with the bytes of its parent.
        if self.used == len(self.digits) or self.process != os.getpid():
            self.process = os.getpid()
            self.digits = os.urandom(_RANDOM_DIGITS * _AT_ONCE // 2).hex()
            self.used = 0
        start = self.used
        self.used += _RANDOM_DIGITS
        return self.digits[start : self.used]

    def now(self) -> tuple[int, int]:
        """The time in milliseconds since 1970, and the nanoseconds beyond; for each thread always later than before."""
        self.last_ns = max(time.time_ns(), self.last_ns + 1)
        return divmod(self.last_ns, _NANOSECONDS)


_pool = _Pool()


def new_id(prefix: str) -> str:
    """A new id such as `msg_0193c2…`, in hexadecimal: 48 bits of milliseconds, 20 of nanoseconds, 60 random ones."""
    ms, ns = _pool.now()
    return f"{prefix}_{ms:012x}{ns:05x}{_pool.take()}"
