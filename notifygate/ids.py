"""Random ids that sort by the time they were made, so that database indexes stay compact."""

from __future__ import annotations

import os
import threading
import time

_RANDOM_BYTES = 10
_AT_ONCE = 100


class _Pool(threading.local):
    """Random bytes of the operating system, fetched for many ids at a time: each call of it costs more than an id."""

    def __init__(self) -> None:
        self.process = 0
        self.digits = ""
        self.used = 0

    def take(self) -> str:
        # INVARIANT(no id twice): a forked process must not go on with the bytes of its parent.
        if self.used == len(self.digits) or self.process != os.getpid():
            self.process = os.getpid()
            self.digits = os.urandom(_RANDOM_BYTES * _AT_ONCE).hex()
            self.used = 0
        start = self.used
        self.used += 2 * _RANDOM_BYTES
        return self.digits[start : self.used]


_pool = _Pool()


def new_id(prefix: str) -> str:
    """A new id such as `msg_0193c2…`: 48 bits of milliseconds, then 80 random bits, in hexadecimal."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{_pool.take()}"
