"""A channel to nowhere: for benchmarks, dry runs and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from notifygate.channels import HandOff, HandOffOutcome, Result

_ACCEPTED = HandOffOutcome(result=Result.ACCEPTED)


class NullChannel:
    """Accepts every message at once and delivers none."""

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        """Yield `accepted` for each message."""
        for _ in batch:
            yield _ACCEPTED

    def check(self) -> str:
        """Say that nothing is ever delivered; there is nothing to reach."""
        return "null accepts everything and delivers nothing"

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""
