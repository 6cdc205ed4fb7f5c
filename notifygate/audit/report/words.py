"""What outcomes, grounds and spans are called, on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

LABELS: Mapping[str, str] = {
    "sent": "sent",
    "in_doubt": "in doubt",
    "deferred": "deferred",
    "waiting": "still waiting",
    "denied": "denied",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
BECAUSE: Mapping[str, str] = {
    "purchase": "the purchase was asked about already",
    "person": "the person was asked lately",
    "precedence": "a higher-ranked asker goes first",
}
HOW: Mapping[str, str] = {
    "person": "by a person",
    "look_up": "by asking the provider",
    "late_word": "by the worker's own late word",
    "decided_again": "decided again, as the purpose says",
}


def in_short(span: timedelta) -> str:
    """A span with its two largest units, such as `2 d 3 h` or `4.20 s`."""
    seconds = span.total_seconds()
    if seconds < 60:
        return f"{seconds:.2f} s"
    found = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            found.append(f"{int(count)} {unit}")
    return " ".join(found[:2])
