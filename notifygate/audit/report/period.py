"""The period of a report, and the days in it by the clocks of a zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from notifygate.audit.report.values import Period
from notifygate.errors import InvalidMessage
from notifygate.message import check_aware

BY_DEFAULT = timedelta(days=30)
_SECOND = timedelta(seconds=1)


def period_of(since: datetime | None, until: datetime | None, now: datetime, timezone: str) -> Period:
    """The period from `since` (30 days before its end) to `until` (now).

    Raises `InvalidMessage` for a naive instant, for one that is still to come, and for a period the wrong way round.
    """
    ends = check_aware("until", until) or now.astimezone(UTC)
    begins = check_aware("since", since)
    if ends > now:
        raise InvalidMessage("until", f"lies in the future; it can be {_shown(now)} at the latest")
    if begins is None:
        try:
            begins = ends - BY_DEFAULT
        except OverflowError as error:
            raise InvalidMessage("until", "lies too far back") from error
    if begins >= now:
        raise InvalidMessage("since", f"lies in the future; it must be before {_shown(now)}")
    if begins >= ends:
        raise InvalidMessage("since", f"must be before the end of the period, {_shown(ends)}")
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


def month(text: str, now: datetime, timezone: str) -> tuple[datetime, datetime]:
    """The instants between which a month such as `2026-05` lies, by the clocks of the zone; it ends now at the latest.

    Raises `ValueError` for what is no month.
    """
    if len(text) != len("2026-05"):
        raise ValueError("a month is written as 2026-05")
    first = date.fromisoformat(f"{text}-01")
    following = (first + timedelta(days=31)).replace(day=1)
    begins, ends = (_midnight(day, timezone) for day in (first, following))
    return begins, max(begins, min(ends, now)) if begins < now else ends


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
