"""Hand-offs that were put in doubt, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import sqlalchemy as sa

from notifygate.audit.report.values import DoubtEnded, Doubts
from notifygate.ledger import figures
from notifygate.ledger.figures import Span, Step
from notifygate.ledger.journal import Kind
from notifygate.message import Result

LATE_WORD, DECIDED_AGAIN = "late_word", "decided_again"


def count(conn: sa.Connection, span: Span) -> Doubts:
    """The doubts opened in the period, and what is in doubt now."""
    ended: Counter[tuple[str, str | None]] = Counter()
    opened = still_open = 0
    for page in figures.doubts_opened(conn, span):
        steps = figures.steps_of(conn, {step.message_id for step in page})
        for doubt in page:
            if not _is_first(doubt, steps[doubt.message_id]):
                continue
            opened += 1
            end = _end_of(doubt, steps[doubt.message_id])
            if end is None:
                still_open += 1
            else:
                ended[end] += 1
    open_now, since, message_id = figures.doubts_open(conn, span.merchant)
    return Doubts(
        opened=opened,
        ended=tuple(
            DoubtEnded(how=how, verdict=verdict, attempts=attempts)
            for (how, verdict), attempts in sorted(
                ended.items(), key=lambda item: (item[0][0], str(item[0][1]))
            )
        ),
        still_open=still_open,
        open_now=open_now,
        oldest_since=since,
        oldest_message_id=message_id,
    )


def _is_first(doubt: Step, steps: Iterable[Step]) -> bool:
    """Whether no earlier row put the same attempt in doubt."""
    return not any(
        step.position < doubt.position
        and step.kind == Kind.ATTEMPT
        and step.outcome == Result.IN_DOUBT.value
        and step.body.get("attempt_id") == doubt.body.get("attempt_id")
        for step in steps
    )


def _end_of(doubt: Step, steps: Iterable[Step]) -> tuple[str, str | None] | None:
    """How a doubt ended and with what verdict; None where it has not."""
    for step in steps:
        if step.position <= doubt.position:
            continue
        is_same = step.body.get("attempt_id") == doubt.body.get("attempt_id")
        if step.kind == Kind.RESOLUTION and is_same:
            return (str(step.body.get("by")), step.reason)
        if step.kind == Kind.ATTEMPT and is_same and step.outcome != Result.IN_DOUBT.value:
            return (LATE_WORD, "sent" if step.outcome == Result.ACCEPTED.value else "not_sent")
        if step.kind == Kind.DECISION:
            return (DECIDED_AGAIN, None)
    return None
