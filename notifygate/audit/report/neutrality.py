"""Of the purchases that could be asked about: which were, which were not, and by which rule."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from notifygate.audit.report.values import EligibleOf, Neutrality, Standing
from notifygate.audit.report.volumes import in_order
from notifygate.ledger import figures
from notifygate.ledger.figures import IN_DOUBT, OUTCOMES, SENT, Span

_Counts = Counter[tuple[str, str | None]]


def count(conn: sa.Connection, span: Span) -> Neutrality:
    """What came of the purchases about which review requests had a word in the period."""
    overall: _Counts = Counter()
    askers: defaultdict[str, _Counts] = defaultdict(Counter)
    sellers: defaultdict[str, _Counts] = defaultdict(Counter)
    for one in figures.eligible(conn, span):
        key = (one.outcome, one.reason)
        askers[one.asker][key] += one.purchases
        overall[key] += one.of_all
        sellers[one.seller or "?"][key] += one.of_all
    return Neutrality(
        purchases=overall.total(),
        asked=_asked(overall),
        outcomes=_outcomes(overall),
        by=_standings(overall),
        by_asker=_each(askers),
        by_seller=_each(sellers),
    )


def _each(counted: Mapping[str, _Counts]) -> tuple[EligibleOf, ...]:
    return tuple(
        EligibleOf(
            merchant=merchant,
            purchases=counts.total(),
            asked=_asked(counts),
            outcomes=_outcomes(counts),
            by=_standings(counts),
        )
        for merchant, counts in sorted(counted.items())
        if counts.total()
    )


def _asked(counts: _Counts) -> int:
    return sum(purchases for (outcome, _), purchases in counts.items() if outcome in (SENT, IN_DOUBT))


def _outcomes(counts: _Counts) -> dict[str, int]:
    found: Counter[str] = Counter()
    for (outcome, _), purchases in counts.items():
        found[outcome] += purchases
    return in_order(found)


def _standings(counts: _Counts) -> tuple[Standing, ...]:
    found: Iterable[tuple[tuple[str, str | None], int]] = counts.items()
    return tuple(
        Standing(outcome=outcome, reason=reason, purchases=purchases)
        for (outcome, reason), purchases in sorted(
            found, key=lambda item: (OUTCOMES.index(item[0][0]), -item[1], item[0][1] or "")
        )
        if purchases
    )
