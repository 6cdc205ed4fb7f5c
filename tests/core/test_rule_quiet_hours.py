"""Quiet hours: in the recipient's own time, over clock changes, midnights and holidays."""

from __future__ import annotations

import threading
import time as clock
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import holidays as holiday_library
import pytest
from core_builders import DAY, TICK, asked_by, hours, merchant, purpose, request
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from notifygate.address import ContactPoint
from notifygate.decision import Finding, Outcome
from notifygate.policy import Policy, QuietHours
from notifygate.rules import quiet_hours
from notifygate.rules.quiet_hours import check

MON_SAT = hours(0, 1, 2, 3, 4, 5)
NEW_YORK = "America/New_York"
COPENHAGEN = "Europe/Copenhagen"


def z(text: str) -> datetime:
    """An instant in UTC, written `2026-05-12 07:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def quiet(allowed: QuietHours, **changes: Any) -> Policy:
    policy = purpose("newsletter", quiet_hours="evenings")
    return replace(policy, quiet_hours={"evenings": allowed}, **changes)


def found(at: str | datetime, allowed: QuietHours = MON_SAT, **asked: Any) -> Finding:
    now = z(at) if isinstance(at, str) else at
    return asked_by(check, request(**asked), quiet(allowed), now)


def until(at: str | datetime, allowed: QuietHours = MON_SAT, **asked: Any) -> datetime | None:
    """When it may go out; None for at once."""
    finding = found(at, allowed, **asked)
    assert finding.outcome is not Outcome.DENY, finding
    assert (finding.outcome is Outcome.DEFER) is (finding.until is not None)
    return finding.until


def assert_opens(opening: str, allowed: QuietHours = MON_SAT, **asked: Any) -> None:
    """Just before `opening` it waits for it; at `opening` it goes out."""
    instant = z(opening)
    assert until(instant - TICK, allowed, **asked) == instant
    assert until(instant, allowed, **asked) is None


def assert_closes(closing: str, following: str, allowed: QuietHours = MON_SAT, **asked: Any) -> None:
    """Just before `closing` it goes out; at `closing` it waits until `following`."""
    instant = z(closing)
    assert until(instant - TICK, allowed, **asked) is None
    assert until(instant, allowed, **asked) == z(following)


def test_a_purpose_without_quiet_hours_is_not_looked_at() -> None:
    assert asked_by(check).reason == "not_applicable"


def test_a_window_opens_and_closes_to_the_microsecond_in_local_time() -> None:
    assert_opens("2026-05-12 07:00")
    assert_closes("2026-05-12 18:00", "2026-05-13 07:00")


def test_the_finding_gives_the_reason_and_the_zone() -> None:
    finding = found("2026-05-12 18:00")
    assert finding.reason == "quiet_hours"
    assert finding.evidence["zones"] == [COPENHAGEN]
    assert "09:00" in finding.text


def test_a_day_without_windows_is_quiet_all_day() -> None:
    assert_closes("2026-05-16 18:00", "2026-05-18 07:00")
    assert until("2026-05-17 10:00") == z("2026-05-18 07:00")


def test_each_weekday_has_its_own_windows() -> None:
    allowed = QuietHours(
        allow={
            0: ((time(9), time(17)),),
            1: ((time(10), time(11)), (time(15), time(16))),
            6: ((time(12), time(13)),),
        }
    )
    assert_closes("2026-05-11 15:00", "2026-05-12 08:00", allowed)
    assert_closes("2026-05-12 09:00", "2026-05-12 13:00", allowed)
    assert_closes("2026-05-12 14:00", "2026-05-17 10:00", allowed)
    assert_closes("2026-05-17 11:00", "2026-05-18 07:00", allowed)


def test_windows_may_be_written_in_any_order_and_overlap() -> None:
    allowed = hours(windows="15:00-16:00,10:00-11:00,10:30-12:00")
    assert_opens("2026-05-12 08:00", allowed)
    assert_closes("2026-05-12 10:00", "2026-05-12 13:00", allowed)


def test_a_whole_day_has_no_quiet_hours_at_all() -> None:
    allowed = hours(windows="00:00-24:00")
    for instant in ("2026-05-12 21:59", "2026-05-12 22:00", "2026-03-29 01:00", "2026-10-25 01:00"):
        for step in (-TICK, 0 * TICK, TICK):
            assert until(z(instant) + step, allowed) is None


def test_a_window_over_midnight_ends_on_the_day_after() -> None:
    friday_night = hours(4, windows="22:00-02:00")
    assert_opens("2026-05-15 20:00", friday_night)
    assert until("2026-05-15 22:00", friday_night) is None
    assert_closes("2026-05-16 00:00", "2026-05-22 20:00", friday_night)


def test_a_window_until_midnight_ends_there() -> None:
    assert_closes("2026-05-15 22:00", "2026-05-22 20:00", hours(4, windows="22:00-24:00"))


def test_sunday_night_runs_into_monday() -> None:
    assert_closes("2026-05-18 00:00", "2026-05-24 20:00", hours(6, windows="22:00-02:00"))


# Daylight saving.


def test_copenhagen_in_spring_and_autumn() -> None:
    daily = hours()
    assert_closes("2026-03-28 19:00", "2026-03-29 07:00", daily)
    assert_opens("2026-03-28 08:00", daily)
    assert_opens("2026-03-29 07:00", daily)
    assert_closes("2026-10-24 18:00", "2026-10-25 08:00", daily)
    assert_opens("2026-10-25 08:00", daily)
    assert_closes("2026-10-25 19:00", "2026-10-26 08:00", daily)


def test_new_york_in_spring_and_autumn() -> None:
    daily, there = hours(), {"timezone": NEW_YORK}
    assert_closes("2026-03-08 01:00", "2026-03-08 13:00", daily, **there)
    assert_opens("2026-03-07 14:00", daily, **there)
    assert_opens("2026-03-08 13:00", daily, **there)
    assert_closes("2026-11-01 00:00", "2026-11-01 14:00", daily, **there)
    assert_opens("2026-11-01 14:00", daily, **there)


def test_a_night_window_is_as_long_as_the_night() -> None:
    nights = hours(windows="22:00-06:00")
    assert_closes("2026-03-29 04:00", "2026-03-29 20:00", nights)
    assert_closes("2026-10-25 05:00", "2026-10-25 21:00", nights)
    assert_closes("2026-03-08 10:00", "2026-03-09 02:00", nights, timezone=NEW_YORK)
    assert_closes("2026-11-01 11:00", "2026-11-02 03:00", nights, timezone=NEW_YORK)


def test_a_window_that_begins_in_the_missing_hour_opens_after_it_and_never_before() -> None:
    early = hours(windows="02:30-05:00")
    instant = until("2026-03-29 00:30", early)
    assert instant is not None
    assert z("2026-03-29 01:00") <= instant <= z("2026-03-29 01:30")
    assert_closes("2026-03-29 03:00", "2026-03-30 00:30", early)


def test_a_window_that_ends_in_the_repeated_hour_is_closed_after_its_second_passing() -> None:
    early = hours(windows="00:00-02:30")
    assert until("2026-10-24 23:59", early) is None
    assert until("2026-10-25 01:30", early) == z("2026-10-25 23:00")


def test_a_window_that_ends_in_the_repeated_hour_does_not_go_on_until_its_second_passing() -> None:
    early = hours(windows="00:00-02:30")
    for first_passing in ("2026-10-25 00:30", "2026-10-25 00:45"):  # 02:30 and 02:45, for the first time
        instant = until(first_passing, early)
        assert instant is not None
        assert instant >= z("2026-10-25 01:00")


def test_a_window_that_begins_in_the_repeated_hour_is_not_open_while_the_hour_is_shown_again() -> None:
    late = hours(windows="02:30-05:00")
    instant = until("2026-10-25 01:15", late)  # 02:15, for the second time
    assert instant == z("2026-10-25 01:30")


# Holidays.


@pytest.mark.parametrize("holidays", [True, False])
def test_nothing_goes_out_on_public_holidays_where_they_are_kept(holidays: bool) -> None:
    allowed = hours(0, 1, 2, 3, 4, 5, holidays=holidays)
    following = "2026-12-28 08:00" if holidays else "2026-12-25 08:00"
    assert_closes("2026-12-24 19:00", following, allowed)
    wanted = z("2026-12-28 08:00") if holidays else None
    assert until("2026-12-25 12:00", allowed) == wanted


def test_a_holiday_begins_and_ends_at_local_midnight() -> None:
    always = hours(windows="00:00-24:00", holidays=True)
    assert_closes("2026-12-31 23:00", "2027-01-01 23:00", always)


def test_a_window_over_midnight_stops_for_a_holiday_and_goes_on_after_it() -> None:
    nights = hours(windows="22:00-02:00", holidays=True)
    assert_closes("2026-12-31 23:00", "2027-01-01 23:00", nights)
    assert until("2027-01-02 00:59", nights) is None


def test_the_country_is_that_of_the_phone_number_and_else_the_default() -> None:
    allowed = hours(holidays=True)
    fourth_of_july = "2026-07-03 16:00"  # 2026-07-04 is a Saturday, so the Friday is kept
    there = {"timezone": NEW_YORK}
    assert until(fourth_of_july, allowed, country="US", **there) is not None
    assert until(fourth_of_july, allowed, **there) is None
    assert until("2026-12-25 12:00", allowed) is not None


def test_without_any_country_no_holidays_are_known() -> None:
    policy = quiet(hours(holidays=True), default_country=None)
    assert asked_by(check, request(), policy, z("2026-12-25 12:00")).outcome is Outcome.ALLOW


@pytest.mark.parametrize("country", ["AC", "001", "nowhere"])
def test_a_country_whose_holidays_are_not_known_has_none(country: str) -> None:
    assert until("2026-12-25 12:00", hours(holidays=True), country=country) is None


def test_holidays_are_kept_by_every_thread_while_another_is_still_working_out_the_year(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers are threads: `holidays` objects fill themselves in as they are asked, and are not safe to share."""
    for kept in vars(quiet_hours).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()
    populate = holiday_library.HolidayBase._populate
    begun = threading.Event()

    def slowly(self: holiday_library.HolidayBase, year: int) -> None:
        begun.set()
        clock.sleep(0.3)
        populate(self, year)

    monkeypatch.setattr(holiday_library.HolidayBase, "_populate", slowly)
    outcomes: list[Outcome] = []

    def decide() -> None:
        outcomes.append(found("2031-12-25 12:00", hours(holidays=True)).outcome)

    first = threading.Thread(target=decide)
    first.start()
    assert begun.wait(timeout=10)
    decide()
    first.join()
    assert outcomes == [Outcome.DEFER, Outcome.DEFER]


# Whose time.


def test_the_messages_own_zone_beats_that_of_the_number() -> None:
    asked: dict[str, Any] = {"timezone": "Asia/Tokyo", "zones": (COPENHAGEN,)}
    assert_opens("2026-05-12 00:00", **asked)
    assert found("2026-05-12 00:00", **asked).evidence["zones"] == ["Asia/Tokyo"]


def test_the_zone_of_the_number_beats_those_of_merchant_and_config() -> None:
    policy = merchant("m1", quiet(MON_SAT), timezone="Asia/Tokyo")
    finding = asked_by(check, request(zones=(NEW_YORK,)), policy, z("2026-05-12 12:59"))
    assert finding.until == z("2026-05-12 13:00")


def test_the_zone_of_the_merchant_beats_the_default() -> None:
    policy = merchant("m1", quiet(MON_SAT), timezone="Asia/Tokyo")
    finding = asked_by(check, request(), policy, z("2026-05-11 23:59"))
    assert finding.until == z("2026-05-12 00:00")


def test_the_default_is_the_last_resort() -> None:
    assert found("2026-05-12 10:00").evidence["zones"] == [COPENHAGEN]


def test_without_any_zone_it_denies() -> None:
    policy = quiet(MON_SAT, default_timezone=None)
    finding = asked_by(check, request(), policy, z("2026-05-12 10:00"))
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "timezone_unknown")


def test_a_number_with_several_zones_waits_until_it_is_allowed_in_all_of_them() -> None:
    both: dict[str, Any] = {"zones": (NEW_YORK, "America/Los_Angeles")}
    assert_opens("2026-05-12 16:00", **both)
    assert_closes("2026-05-13 00:00", "2026-05-13 16:00", **both)


def test_the_zones_of_a_real_number_are_all_kept() -> None:
    point = ContactPoint.sms("+61 412 345 678")
    assert len(point.zones) > 3
    finding = found("2026-05-12 00:00", channel="sms", zones=point.zones, country=point.country)
    at = finding.until or z("2026-05-12 00:00")
    for name in point.zones:
        assert time(9) <= at.astimezone(ZoneInfo(name)).time() < time(20), name


def test_zones_that_share_no_allowed_time_are_denied_and_not_searched_for_ever() -> None:
    started = clock.process_time()
    finding = found("2026-05-12 10:00", hours(windows="09:00-10:00"), zones=(NEW_YORK, "Asia/Tokyo"))
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "quiet_hours")
    assert clock.process_time() - started < 5


def test_hours_that_allow_nothing_are_denied() -> None:
    assert found("2026-05-12 10:00", QuietHours(allow={})).reason == "quiet_hours"


@pytest.mark.parametrize("server", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def test_the_zone_of_the_server_makes_no_difference(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", server)
        clock.tzset()
        assert_opens("2026-05-12 07:00")
        assert_closes("2026-10-24 18:00", "2026-10-25 08:00", hours())
    clock.tzset()


@pytest.mark.parametrize("zone", [UTC, ZoneInfo("Asia/Kolkata"), ZoneInfo(NEW_YORK)])
def test_it_is_the_instant_that_counts_and_not_the_zone_in_which_now_is_given(zone: Any) -> None:
    assert until(z("2026-05-12 06:59").astimezone(zone)) == z("2026-05-12 07:00")


# Against the wall clock.

ZONES = (COPENHAGEN, NEW_YORK, "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana", "UTC")
quarters = st.integers(0, 95).map(lambda quarter: time(quarter // 4, quarter % 4 * 15))
windows = st.tuples(quarters, quarters).filter(lambda window: window[0] != window[1])
weeks = st.dictionaries(
    st.integers(0, 6), st.lists(windows, min_size=1, max_size=2).map(tuple), min_size=1
).map(lambda allow: QuietHours(allow=allow))


def on_the_wall(allowed: QuietHours, zone: str, at: datetime) -> bool:
    """Whether the clock on the wall shows an allowed time: no more than that."""
    local = at.astimezone(ZoneInfo(zone))
    now, today = local.time(), local.date()
    for start, end in allowed.allow.get(today.weekday(), ()):
        if (start <= now < end) if start < end else start <= now:
            return True
    yesterday: date = today - DAY
    return any(end <= start and now < end for start, end in allowed.allow.get(yesterday.weekday(), ()))


def near_a_clock_change(zone: str, at: datetime) -> bool:
    offsets = {(at + step * DAY).astimezone(ZoneInfo(zone)).utcoffset() for step in (-1, 0, 1)}
    return len(offsets) > 1


@settings(max_examples=120, deadline=None)
@given(
    weeks,
    st.lists(st.sampled_from(ZONES), min_size=1, max_size=2, unique=True),
    st.integers(0, 365 * 96).map(lambda quarter: z("2026-01-01 00:00") + quarter * timedelta(minutes=15)),
)
def test_it_goes_out_at_the_first_instant_that_the_clocks_on_all_walls_allow(
    allowed: QuietHours, zones: list[str], now: datetime
) -> None:
    finding = found(now, allowed, zones=tuple(zones))
    assume(finding.outcome is not Outcome.DENY)  # two zones may share no time
    at = finding.until or now
    assert all(on_the_wall(allowed, zone, at) for zone in zones)
    step = timedelta(minutes=15)
    for number in range(min(int((at - now) / step), 300)):
        earlier = now + number * step
        if all(on_the_wall(allowed, zone, earlier) for zone in zones):
            assert any(near_a_clock_change(zone, earlier) for zone in zones), earlier


@settings(max_examples=150, deadline=None)
@given(
    weeks,
    st.sampled_from([(COPENHAGEN, "2026-03-29 01:00"), (COPENHAGEN, "2026-10-25 01:00"),
                     (NEW_YORK, "2026-03-08 07:00"), (NEW_YORK, "2026-11-01 06:00")]),
    st.integers(-12, 12),
)  # fmt: skip
def test_around_a_clock_change_nothing_goes_out_at_a_time_that_the_wall_forbids(
    allowed: QuietHours, change: tuple[str, str], quarter: int
) -> None:
    zone, at = change
    now = z(at) + quarter * timedelta(minutes=15)
    finding = found(now, allowed, timezone=zone)
    if finding.outcome is not Outcome.DENY:
        assert on_the_wall(allowed, zone, finding.until or now)
