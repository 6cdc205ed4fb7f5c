"""A clock that stands still until it is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

A_MONDAY_MORNING = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
"""11:00 in Copenhagen, no holiday: outside everybody's quiet hours."""


class SimulatedClock:
    """Pass it as `clock`; it may be shared between threads."""

    def __init__(self, now: datetime = A_MONDAY_MORNING) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **how_far: float) -> datetime:
        """Move on by a `timedelta` of these arguments; return the instant that is now."""
        self.now += timedelta(**how_far)
        return self.now

    def set(self, now: datetime) -> datetime:
        """Move to an instant, which may be an earlier one."""
        self.now = now
        return now

    def ago(self, **how_long: float) -> datetime:
        """An instant before now."""
        return self.now - timedelta(**how_long)
