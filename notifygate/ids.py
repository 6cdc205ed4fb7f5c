"""Random ids that sort by the time they were made, so that database indexes stay compact."""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str) -> str:
    """A new id such as `msg_0193c2…`: 48 bits of milliseconds, then 80 random bits, in hexadecimal."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
