"""How far a long look through the send log is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Called with how much is done, and how much there is; whoever calls it says of what."""
