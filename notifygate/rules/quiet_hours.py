"""Quiet hours: nobody is disturbed at night, in the time of the place where they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import holidays

from notifygate.decision import Finding, Reason
from notifygate.policy import Policy, QuietHours
from notifygate.snapshot import Request, Snapshot

_DAY = timedelta(days=1)
# Longer than any run of holidays. Where nothing is allowed in all zones for so long, nothing ever is.
_LOOK_AHEAD_DAYS = 31
_NONE_SET = Finding.allow(Reason.NOT_APPLICABLE, "The purpose sets no quiet hours.").by("quiet_hours")


def check(request: Request, snapshot: Snapshot, policy: Policy, now: datetime) -> Finding:
    """Defer to the first instant that is allowed in every zone where the recipient may be.

    The zones are the message's own, else those of the phone number, else the merchant's, else the default.
    """
    name = policy.purposes[request.purpose].quiet_hours
    if name is None:
        return _NONE_SET
    zones = _zones(request, policy)
    if not zones:
        return Finding.deny(
            Reason.TIMEZONE_UNKNOWN, "The recipient's time zone is not known, nor is a default set."
        )
    country = request.country or policy.default_country
    until, local_time = _first_allowed(policy.quiet_hours[name], zones, country, now)
    local = list(local_time)
    if until is None:
        text = f"The quiet hours {name!r} leave no time that is allowed in all of the recipient's zones."
        return Finding.deny(Reason.QUIET_HOURS, text, quiet_hours=name, zones=list(zones), local_time=local)
    if until == now:
        return Finding.allow(
            Reason.PASSED, "Outside quiet hours where the recipient is.", zones=list(zones), local_time=local
        )
    shown = until.astimezone(ZoneInfo(zones[0]))
    return Finding.defer(
        until,
        Reason.QUIET_HOURS,
        f"Quiet hours where the recipient is; not before {shown:%A %Y-%m-%d %H:%M} ({zones[0]}).",
        quiet_hours=name,
        zones=list(zones),
        local_time=local,
    )


def _zones(request: Request, policy: Policy) -> tuple[str, ...]:
    if request.timezone:
        return (request.timezone,)
    if request.zones:
        return request.zones
    zone = policy.merchants[request.merchant].timezone or policy.default_timezone
    return (zone,) if zone else ()


@lru_cache(maxsize=1_024)  # a batch of messages is decided at one instant, and mostly about few zones
def _first_allowed(
    hours: QuietHours, zones: tuple[str, ...], country: str | None, now: datetime
) -> tuple[datetime | None, tuple[str, ...]]:
    """When messages may go out from `now` on in all zones, or None within the look-ahead; and `now` in each of them."""
    local = tuple(now.astimezone(ZoneInfo(zone)).isoformat() for zone in zones)
    return _search(hours, zones, country, now), local


def _search(hours: QuietHours, zones: tuple[str, ...], country: str | None, now: datetime) -> datetime | None:
    candidate = now
    while candidate < now + _LOOK_AHEAD_DAYS * _DAY:
        nexts = [_next_in_zone(hours, ZoneInfo(zone), country, candidate) for zone in zones]
        known = [instant for instant in nexts if instant is not None]
        if len(known) < len(nexts):
            return None
        latest = max(known)
        if latest == candidate:
            return candidate
        candidate = latest
    return None


def _next_in_zone(hours: QuietHours, zone: ZoneInfo, country: str | None, at: datetime) -> datetime | None:
    today = at.astimezone(zone).date()
    for offset in range(_LOOK_AHEAD_DAYS):
        for start, end in _segments(hours, zone, country, today + offset * _DAY):
            if at < end:
                return max(at, start)
    return None


def _segments(
    hours: QuietHours, zone: ZoneInfo, country: str | None, day: date
) -> Iterator[tuple[datetime, datetime]]:
    """The allowed spans of one local day as UTC instants, in order. A window over midnight is two of them."""
    if hours.holidays and country is not None and day in _holidays(country, day.year):
        return
    midnight, next_midnight = time(0), day + _DAY
    spans: list[tuple[datetime, datetime]] = []
    for start, end in hours.allow.get((day - _DAY).weekday(), ()):
        if midnight < end <= start:
            spans.append((_opening(day, midnight, zone), _closing(day, end, zone)))
    for start, end in hours.allow.get(day.weekday(), ()):
        last = (day, end) if start < end else (next_midnight, midnight)
        spans.append((_opening(day, start, zone), _closing(*last, zone)))
    yield from sorted(span for span in spans if span[0] < span[1])


def _opening(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The instant of a local time; where the clock change makes it two or none, the later reading."""
    return max(_readings(day, at, zone))


def _closing(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The instant of a local time; where the clock change makes it two or none, the earlier reading."""
    return min(_readings(day, at, zone))


def _readings(day: date, at: time, zone: ZoneInfo) -> tuple[datetime, datetime]:
    local = datetime.combine(day, at, tzinfo=zone)
    return local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)


@lru_cache(maxsize=1_024)
def _holidays(country: str, year: int) -> frozenset[date]:
    """The public holidays of a country in a year; none for a country that the `holidays` package lacks.

    The package's own objects fill themselves in while they are asked, and threads must not share them.
    """
    try:
        return frozenset(holidays.country_holidays(country, years=year))
    except NotImplementedError:
        return frozenset()
