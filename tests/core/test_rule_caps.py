"""Frequency caps: rolling windows, exact to the microsecond."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from core_builders import DAY, NOW, POLICY, TICK, asked_by, handover, purpose, request
from hypothesis import given, settings
from hypothesis import strategies as st

from notifygate.decision import Finding, Outcome
from notifygate.policy import Cap, Over, Per, Policy, PurposeClass
from notifygate.rules.caps import check
from notifygate.snapshot import Handover, Snapshot

WEEK = 7 * DAY


def capped(*caps: Cap) -> Policy:
    return purpose("newsletter", caps=caps)


def cap(**changes: Any) -> Cap:
    values: dict[str, Any] = {"limit": 1, "window": WEEK, "per": Per.MERCHANT}
    return Cap(**values | changes)


def found(*sent: Handover, now: datetime = NOW, asked: Any = None, **changes: Any) -> Finding:
    return asked_by(check, asked or request(), capped(cap(**changes)), now, handovers=sent)


def test_a_purpose_without_caps_is_not_looked_at() -> None:
    assert asked_by(check, handovers=(handover(NOW),)).reason == "not_applicable"


@pytest.mark.parametrize(
    ("at", "outcome"),
    [
        (NOW - WEEK - TICK, Outcome.ALLOW),
        (NOW - WEEK, Outcome.ALLOW),
        (NOW - WEEK + TICK, Outcome.DENY),
        (NOW - TICK, Outcome.DENY),
        (NOW, Outcome.DENY),
        (NOW + TICK, Outcome.ALLOW),
    ],
)
def test_what_was_reserved_after_the_windows_beginning_and_not_after_now_counts(
    at: datetime, outcome: Outcome
) -> None:
    assert found(handover(at)).outcome is outcome


def test_the_limit_is_how_many_may_be_sent_and_not_one_less_or_more() -> None:
    sent = [handover(NOW - number * TICK) for number in range(5)]
    for count in range(6):
        finding = found(*sent[:count], limit=3)
        assert (finding.outcome is Outcome.ALLOW) is (count < 3), count
    assert found(*sent, limit=3).evidence["count"] == 5


@pytest.mark.parametrize(
    ("per", "merchant", "counts"),
    [
        (Per.MERCHANT, "m1", True),
        (Per.MERCHANT, "m2", False),
        (Per.MERCHANT, "m3", False),
        (Per.GROUP, "m1", True),
        (Per.GROUP, "m2", True),
        (Per.GROUP, "m3", False),
        (Per.PERSON, "m1", True),
        (Per.PERSON, "m2", True),
        (Per.PERSON, "m3", True),
    ],
)
def test_whose_messages_are_counted_together(per: Per, merchant: str, counts: bool) -> None:
    finding = found(handover(NOW - TICK, merchant=merchant), per=per)
    assert (finding.outcome is Outcome.DENY) is counts


def test_merchants_without_a_group_are_no_group_of_their_own() -> None:
    finding = found(handover(NOW - TICK, merchant="m3"), per=Per.GROUP, asked=request(merchant="post"))
    assert finding.outcome is Outcome.ALLOW
    own = found(handover(NOW - TICK, merchant="post"), per=Per.GROUP, asked=request(merchant="post"))
    assert own.outcome is Outcome.DENY


@pytest.mark.parametrize("sent_by", ["email", "sms"])
@pytest.mark.parametrize("asked_by_channel", ["email", "sms"])
def test_a_cap_without_channels_counts_all_of_them(sent_by: str, asked_by_channel: str) -> None:
    finding = found(handover(NOW, channel=sent_by), asked=request(channel=asked_by_channel))
    assert finding.outcome is Outcome.DENY


def test_a_cap_with_channels_counts_and_holds_only_those() -> None:
    only_sms: dict[str, Any] = {"channels": frozenset({"sms"})}
    by_sms, by_email = handover(NOW, channel="sms"), handover(NOW, channel="email")
    assert found(by_sms, asked=request(channel="sms"), **only_sms).outcome is Outcome.DENY
    assert found(by_email, asked=request(channel="sms"), **only_sms).outcome is Outcome.ALLOW
    assert found(by_sms, asked=request(channel="email"), **only_sms).outcome is Outcome.ALLOW


def test_a_cap_that_names_nothing_counts_its_own_purpose() -> None:
    assert found(handover(NOW, purpose="offers")).outcome is Outcome.ALLOW
    assert found(handover(NOW, purpose="newsletter")).outcome is Outcome.DENY


def test_a_cap_counts_the_purposes_that_it_names() -> None:
    both: dict[str, Any] = {"purposes": frozenset({"newsletter", "offers"})}
    assert found(handover(NOW, purpose="offers"), **both).outcome is Outcome.DENY
    assert found(handover(NOW, purpose="review_request"), **both).outcome is Outcome.ALLOW


def test_a_cap_counts_the_classes_that_it_names() -> None:
    marketing: dict[str, Any] = {"classes": frozenset({PurposeClass.MARKETING})}
    assert found(handover(NOW, purpose="offers"), **marketing).outcome is Outcome.DENY
    assert found(handover(NOW, purpose="newsletter"), **marketing).outcome is Outcome.DENY
    assert found(handover(NOW, purpose="order_update"), **marketing).outcome is Outcome.ALLOW
    assert found(handover(NOW, purpose="review_request"), **marketing).outcome is Outcome.ALLOW


def test_of_several_caps_any_that_is_reached_denies() -> None:
    narrow = cap(limit=2)
    wide = cap(limit=3, per=Per.PERSON)
    sent = (handover(NOW, merchant="m2"), handover(NOW, merchant="m3"), handover(NOW, merchant="m1"))
    for caps in ((narrow, wide), (wide, narrow)):
        assert asked_by(check, policy=capped(*caps), handovers=sent).outcome is Outcome.DENY
        assert asked_by(check, policy=capped(*caps), handovers=sent[:2]).outcome is Outcome.ALLOW


def test_a_cap_that_denies_beats_one_that_defers() -> None:
    defers, denies = cap(over=Over.DEFER), cap(per=Per.PERSON)
    for caps in ((defers, denies), (denies, defers)):
        assert asked_by(check, policy=capped(*caps), handovers=(handover(NOW),)).outcome is Outcome.DENY


def test_of_caps_that_defer_the_latest_counts() -> None:
    short, long = cap(over=Over.DEFER, window=DAY), cap(over=Over.DEFER, window=WEEK)
    for caps in ((short, long), (long, short)):
        finding = asked_by(check, policy=capped(*caps), handovers=(handover(NOW - TICK),))
        assert finding.until == NOW - TICK + WEEK


def test_it_defers_to_the_instant_when_a_place_frees_and_there_is_room_then() -> None:
    sent = tuple(handover(NOW - hours * timedelta(hours=1)) for hours in (1, 5, 3))
    finding = found(*sent, limit=2, over=Over.DEFER)
    until = NOW - timedelta(hours=3) + WEEK
    assert (finding.outcome, finding.until, finding.reason) == (Outcome.DEFER, until, "cap_reached")
    assert found(*sent, limit=2, over=Over.DEFER, now=until - TICK).outcome is Outcome.DEFER
    assert found(*sent, limit=2, over=Over.DEFER, now=until).outcome is Outcome.ALLOW


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 12), max_size=10),
    st.integers(1, 4),
    st.integers(1, 10),
    st.permutations(range(10)),
)
def test_the_deferral_is_the_first_instant_with_room(
    ages: list[int], limit: int, window: int, order: list[int]
) -> None:
    policy = capped(cap(limit=limit, window=window * TICK, over=Over.DEFER))
    times = [NOW - age * TICK for age in ages]
    snapshot = Snapshot(handovers=tuple(handover(times[i]) for i in order if i < len(times)))

    def room(at: datetime) -> bool:
        return sum(at - window * TICK < t <= at for t in times) < limit

    finding = check(request(), snapshot, policy, NOW)
    first = next(NOW + step * TICK for step in range(100) if room(NOW + step * TICK))
    assert (finding.until or NOW) == first


def test_the_sentence_tells_a_window_shorter_than_a_day() -> None:
    finding = found(handover(NOW), window=timedelta(hours=12))
    assert "0 days" not in finding.text
    assert finding.evidence["window_seconds"] == 12 * 3_600


def test_another_purposes_caps_are_not_looked_at() -> None:
    asked = request(purpose="offers")
    assert asked_by(check, asked, capped(cap()), handovers=(handover(NOW),)).reason == "not_applicable"
    assert POLICY.purposes["offers"].caps == ()
