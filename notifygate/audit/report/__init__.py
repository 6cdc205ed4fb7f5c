"""`gate.report(...)`: what was sent, denied and prevented in a period, for those who must answer for it."""

from __future__ import annotations

from datetime import datetime, timedelta

from notifygate.audit.report import doubts, neutrality, optouts, volumes
from notifygate.audit.report.period import period_of
from notifygate.audit.report.values import PolicyUsed, Report
from notifygate.ledger import figures
from notifygate.ledger.figures import Span
from notifygate.runtime import Runtime

__all__ = ["Report", "make"]

_NO_ZONE = "UTC"


def make(
    runtime: Runtime,
    *,
    version: str,
    since: datetime | None = None,
    until: datetime | None = None,
    month: str | None = None,
    last: timedelta | None = None,
    merchant: str | None = None,
) -> Report:
    """The report over a period, all of it read at one moment. Days and months are those of the configured time zone.

    Memory does not grow with the number of messages: the database counts, and what is left is read as a stream.

    A merchant that has left the config is found by the name it had; one that nobody knows has a report of zeros.

    Raises `InvalidMessage` for a period that makes no sense.
    """
    policy, now = runtime.config.policy, runtime.clock()
    zone = policy.default_timezone or _NO_ZONE
    period = period_of(now, zone, since=since, until=until, month=month, last=last)
    span = Span(since=period.since, until=period.until, merchant=merchant)
    with runtime.ledger.read() as conn:
        figures.freeze(conn)
        log_begins = figures.dropped_before(conn)
        counted, asks = volumes.count(conn, span, period)
        return Report(
            period=period,
            merchant=merchant,
            made_at=now,
            version=version,
            ledger_id=runtime.ledger.id,
            log_begins=log_begins if log_begins and log_begins > period.since else None,
            policies=tuple(
                PolicyUsed(hash=policy_hash, first_seen_at=first_seen_at, decisions=decisions)
                for policy_hash, first_seen_at, decisions in figures.policies_used(conn, span)
            ),
            volumes=counted,
            asks=asks,
            opt_outs=optouts.count(conn, span, policy, now),
            doubts=doubts.count(conn, span),
            neutrality=neutrality.count(conn, span),
        )
