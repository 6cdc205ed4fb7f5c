"""Workers with a bug: every job raises an error that quotes what it should not."""

from __future__ import annotations

from collections.abc import Sequence

import dramatiq

from notifygate import actors
from notifygate.runtime import Runtime

QUOTED = "Kirsten.Olsen@example.dk"


def setup() -> dramatiq.Broker:
    """As `notifygate.actors.setup`."""

    def work(self: Runtime, message_ids: Sequence[str], *, is_urgent: bool = False) -> int:
        try:
            raise KeyError(QUOTED)
        except KeyError as error:
            raise RuntimeError(f"cannot write to {QUOTED}") from error

    Runtime.work = work  # type: ignore[method-assign]  # the bug
    return actors.setup()
