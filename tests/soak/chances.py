"""How often a sink misbehaves, and how."""

from __future__ import annotations

import random
from collections.abc import Iterator
from enum import Enum


class Mood(Enum):
    """What a sink does with one message."""

    TAKES = "takes it and says so"
    REFUSES = "says that it cannot now: SMTP 451, HTTP 429"
    DROPS = "takes it, and breaks the connection or answers 500"
    DROPS_UNTAKEN = "does the same and has not taken it"
    HANGS = "takes a moment"
    HANGS_LONG = "takes longer than the gateway waits"


_WEIGHTS = {
    Mood.TAKES: 9600,
    Mood.REFUSES: 150,
    Mood.DROPS: 60,
    Mood.DROPS_UNTAKEN: 60,
    Mood.HANGS: 120,
    Mood.HANGS_LONG: 10,
}


def moods(chance: random.Random) -> Iterator[Mood]:
    """An endless supply, each with its own likelihood."""
    while True:
        yield chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
