"""Messages by what they came to, and the second asks among them that were prevented."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import date
from typing import Any

import sqlalchemy as sa

from notifygate.audit.report.period import days_of, offsets_of
from notifygate.audit.report.values import Asks, AsksMade, Concerned, Day, Period, Prevented, Volume, Volumes
from notifygate.decision import Reason
from notifygate.ledger import figures
from notifygate.ledger.figures import DEFERRED, DENIED, OUTCOMES, Span

BECAUSE: Mapping[str, str] = {
    Reason.PURCHASE_ALREADY_ASKED.value: "purchase",
    Reason.PERSON_ASKED_RECENTLY.value: "person",
    Reason.PERSON_ASKED_BY_MERCHANT_RECENTLY.value: "person",
    Reason.SELLER_ASKS_ITSELF.value: "precedence",
}
"""What makes an ask a second one, by the reason for which it is denied or waits."""

_GROUNDS = ("purchase", "person", "precedence")


def count(conn: sa.Connection, span: Span, period: Period) -> tuple[Volumes, Asks]:
    """The volumes and the asks of a period, in one pass over its messages."""
    volumes: Counter[tuple[Any, ...]] = Counter()
    days: defaultdict[date, Counter[str]] = defaultdict(Counter)
    second: defaultdict[tuple[str, str, str | None], Counter[str]] = defaultdict(Counter)
    for one in figures.volumes(conn, span, offsets_of(period)):
        volumes[(one.merchant, one.purpose, one.channel, one.outcome, one.reason)] += one.count
        days[one.day][one.outcome] += one.count
        if one.is_review and one.reason is not None and one.reason in BECAUSE:
            second[(one.reason, one.merchant, one.seller)][one.outcome] += one.count
    outcomes = in_order(sum(days.values(), Counter()))
    shown = Volumes(
        submitted=figures.submitted(conn, span),
        messages=sum(outcomes.values()),
        outcomes=outcomes,
        by=tuple(
            Volume(
                merchant=merchant,
                purpose=purpose,
                channel=channel,
                outcome=outcome,
                reason=reason,
                messages=messages,
            )
            for (merchant, purpose, channel, outcome, reason), messages in sorted(volumes.items(), key=_place)
        ),
        days=tuple(Day(day=day, outcomes=in_order(days[day])) for day in days_of(period)),
    )
    return shown, _asks(conn, span, second)


def in_order(outcomes: Mapping[str, int]) -> dict[str, int]:
    """A count for each outcome, in one order for all."""
    return {outcome: outcomes.get(outcome, 0) for outcome in OUTCOMES}


def _place(item: tuple[tuple[Any, ...], int]) -> tuple[Any, ...]:
    merchant, purpose, channel, outcome, reason = item[0]
    return (merchant, purpose, channel, OUTCOMES.index(outcome), reason or "")


def _asks(
    conn: sa.Connection, span: Span, second: Mapping[tuple[str, str, str | None], Mapping[str, int]]
) -> Asks:
    made: defaultdict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    for asker, seller, elsewhere, asks in figures.asks_made(conn, span):
        made[(asker, seller)][elsewhere] += asks
    prevented = tuple(
        Prevented(
            because=BECAUSE[reason],
            reason=reason,
            asker=asker,
            seller=seller,
            denied=outcomes.get(DENIED, 0),
            deferred=outcomes.get(DEFERRED, 0),
        )
        for (reason, asker, seller), outcomes in sorted(second.items(), key=_by_ground)
    )
    concerned = figures.concerned(conn, span, list(BECAUSE))
    return Asks(
        made=sum(counts.total() for counts in made.values()),
        made_by=tuple(
            AsksMade(asker=asker, seller=seller, here=counts[False], elsewhere=counts[True])
            for (asker, seller), counts in sorted(made.items())
        ),
        prevented={
            ground: sum(one.denied for one in prevented if one.because == ground) for ground in _GROUNDS
        },
        waiting={
            ground: sum(one.deferred for one in prevented if one.because == ground) for ground in _GROUNDS
        },
        prevented_by=prevented,
        concerned=tuple(
            Concerned(reason=reason, purchases=concerned[reason][0], persons=concerned[reason][1])
            for reason in BECAUSE
            if reason in concerned
        ),
    )


def _by_ground(item: tuple[tuple[str, str, str | None], Any]) -> tuple[int, str, str, str]:
    reason, asker, seller = item[0]
    return (_GROUNDS.index(BECAUSE[reason]), reason, asker, seller or "")
