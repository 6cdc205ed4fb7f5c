"""The period of a report, and the days in it by the clocks of a zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from notifygate.audit.report.values import Period
from notifygate.errors import InvalidMessage
from notifygate.message import check_aware

BY_DEFAULT = timedelta(days=30)
_AT_MOST = timedelta(days=3_660)
_SECOND = timedelta(seconds=1)


def period_of(
    now: datetime,
    timezone: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    month: str | None = None,
    last: timedelta | None = None,
) -> Period:
    """The period from `since` (30 days before its end) to `until` (now), or one month, or the last so much.

    Raises `InvalidMessage` for a naive instant, for one that is still to come, for a period the wrong way round and for
    one of more than ten years.
    """
    if sum((since is not None or until is not None, month is not None, last is not None)) > 1:
        raise InvalidMessage(
            "period", "is given in two ways; give since and until, or a month, or the last so much"
        )
    if month is not None:
        since, until = _month(month, now, timezone)
    ends = check_aware("until", until) or now.astimezone(UTC)
    begins = check_aware("since", since)
    if ends > now:
        raise InvalidMessage("until", f"lies in the future; it can be {_shown(now)} at the latest")
    if begins is None:
        try:
            begins = ends - (last or BY_DEFAULT)
        except OverflowError as error:
            raise InvalidMessage("last" if last else "until", "lies too far back") from error
    if begins >= now:
        raise InvalidMessage("since", f"lies in the future; it must be before {_shown(now)}")
    if begins >= ends:
        raise InvalidMessage("since", f"must be before the end of the period, {_shown(ends)}")
    if ends - begins > _AT_MOST:
        raise InvalidMessage(
            "since", "is more than ten years before the end of the period; report on less at a time"
        )
    return Period(since=begins, until=ends, timezone=timezone)


def days_of(period: Period) -> Iterator[date]:
    """All days that the period touches, in order."""
    zone = ZoneInfo(period.timezone)
    day = period.since.astimezone(zone).date()
    last = (period.until - timedelta(microseconds=1)).astimezone(zone).date()
    while day <= last:
        yield day
        day += timedelta(days=1)


def offsets_of(period: Period) -> list[tuple[datetime, timedelta]]:
    """The offsets from UTC that the zone has in the period, each with the instant it holds from on."""
    zone = ZoneInfo(period.timezone)
    found = [(period.since, _offset(period.since, zone))]
    # Twice a day, so that no zone can change and change back unseen.
    at = period.since
    while at < period.until:
        following = min(at + timedelta(hours=12), period.until)
        if _offset(following, zone) != found[-1][1]:
            begins = _change_between(at, following, zone)
            found.append((begins, _offset(begins, zone)))
        at = following
    return found


def _month(text: str, now: datetime, timezone: str) -> tuple[datetime, datetime]:
    """The instants between which a month lies, by the clocks of the zone; of this month, up to now."""
    try:
        first = datetime.strptime(text, "%Y-%m").date()  # noqa: DTZ007  # a month, not an instant
        following = (first + timedelta(days=31)).replace(day=1)
        begins, ends = _midnight(first, timezone), _midnight(following, timezone)
    except (ValueError, OverflowError) as error:
        raise InvalidMessage("month", "must be written as 2026-05") from error
    if begins >= now:
        raise InvalidMessage("month", f"has not begun; it must begin before {_shown(now)}")
    return begins, min(ends, now)


def _midnight(day: date, timezone: str) -> datetime:
    return datetime.combine(day, time(0), ZoneInfo(timezone)).astimezone(UTC)


def _change_between(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first whole second at which the offset is the later one."""
    low, high, earlier = before.replace(microsecond=0), after, _offset(before, zone)
    while high - low > _SECOND:
        middle = low + (high - low) / 2
        middle = middle.replace(microsecond=0)
        if middle <= low:
            break
        if _offset(middle, zone) == earlier:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0) if _offset(high.replace(microsecond=0), zone) != earlier else high


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta(0)


def _shown(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
