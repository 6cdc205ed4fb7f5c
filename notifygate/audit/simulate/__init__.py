"""What if: the requests of a period, replayed against another policy, in memory.

messages   a message and its two lives, the logged and the simulated one
world      what is known of persons and purchases at one moment
past       what was known when the period began
replay     the log, gone through once more
result     how the two lives differ, counted

Nothing is written and nothing is sent. The history that counts for a decision is the one that would have arisen: what
is now denied uses up no cap, and what is now sent counts against what comes after it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from notifygate.audit.progress import Progress
from notifygate.audit.simulate.past import load
from notifygate.audit.simulate.replay import Observe, Replay
from notifygate.audit.simulate.result import ASSUMPTIONS, Change, Effect, Standing, Tally, WhatIf, compare
from notifygate.config import Config
from notifygate.errors import InvalidMessage, NotFound
from notifygate.ledger import replays
from notifygate.ledger.database import Ledger
from notifygate.message import check_aware

__all__ = ["ASSUMPTIONS", "Change", "Effect", "Standing", "Tally", "WhatIf", "simulate"]


def simulate(
    ledger: Ledger,
    config: Config,
    *,
    since: datetime,
    until: datetime,
    progress: Progress | None = None,
    observe: Observe | None = None,
) -> WhatIf:
    """Replay the requests logged from `since` to before `until` under the policy of a config.

    `progress` is called with the rows of the log that were gone through so far, and how many that will be: each is read
    twice. Raises `InvalidMessage` for a period that is none, and `NotFound` where the log holds no row of it.
    """
    begins, ends = check_aware("since", since), check_aware("until", until)
    if begins is None or ends is None:
        raise InvalidMessage("since", "a period needs a beginning and an end")
    if begins >= ends:
        raise InvalidMessage("since", "must lie before 'until', which is now unless it is given")
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None and span is not None:
            progress(done, 2 * (span[1] - span[0] + 1))

    span = replays.span(ledger, begins)
    past = load(ledger, config.policy, begins, ends, tell)
    if past is None or not past.messages:
        raise NotFound(_nothing(ledger, begins, ends))
    replay = Replay(ledger, config, past, begins, observe)
    replay.run(tell)
    if span is not None:
        tell(2 * (span[1] - span[0] + 1) - done)  # rows after the period are read once
    found = WhatIf(
        since=begins,
        until=ends,
        policy=config.policy.hash,
        logged_by=dict(replay.logged_by),
        decisions=replay.decisions,
        texts_erased=len(replay.unsearched),
        left_out=past.left_out,
    )
    return compare(found, replay.messages.values())


def _nothing(ledger: Ledger, since: datetime, until: datetime) -> str:
    """Why there is nothing to replay."""
    bounds = replays.bounds(ledger)
    period = f"from {_shown(since)} to {_shown(until)}"
    if bounds is None:
        return (
            f"no message was logged {period}: the log is empty; is [gateway] ledger the one that is in use?"
        )
    first, last = (_shown(at) for at in bounds)
    return f"no message was logged {period}; the log goes from {first} to {last}"


def _shown(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
