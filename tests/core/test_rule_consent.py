"""The consent rule beyond the table: grounds, service messages, and the narrow Danish exception."""

from __future__ import annotations

from typing import Any

import pytest
from core_builders import (
    CONSENT,
    DAY,
    NOW,
    POLICY,
    SOFT,
    TICK,
    asked_by,
    handover,
    merchant,
    purchase,
    purpose,
    record,
    request,
)

from notifygate.decision import Outcome
from notifygate.policy import Accepts
from notifygate.rules.consent import check

UPDATE = request(purpose="order_update")
NEUTRAL = request(purpose="neutral_review")
SOLD = NOW - 3 * DAY


@pytest.mark.parametrize(
    ("state", "accepts", "reason"),
    [
        ("granted", CONSENT, "consent_granted"),
        ("soft_opt_in", SOFT, "consent_soft_opt_in"),
        ("granted", SOFT, "consent_missing"),
        ("soft_opt_in", CONSENT, "consent_missing"),
        ("requested", CONSENT | SOFT, "consent_missing"),
    ],
)
def test_only_the_grounds_that_the_purpose_accepts_count(
    state: str, accepts: frozenset[Accepts], reason: str
) -> None:
    finding = asked_by(check, policy=purpose("newsletter", accepts=accepts), consent=(record(state),))
    assert finding.reason == reason


@pytest.mark.parametrize("state", ["withdrawn", "objected", "refused"])
def test_a_service_message_ignores_refusals(state: str) -> None:
    finding = asked_by(check, UPDATE, consent=(record(state),))
    assert (finding.outcome, finding.reason) == (Outcome.ALLOW, "consent_not_needed")


@pytest.mark.parametrize("point", ["email-1", "sms-1"])
def test_a_refusal_that_includes_service_stops_service_messages_on_every_contact_point(point: str) -> None:
    stop = record("withdrawn", contact_point_id=point, includes_service=True, event_id="stop")
    finding = asked_by(check, UPDATE, consent=(stop,))
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "consent_withdrawn")
    assert finding.evidence["event"] == "stop"


@pytest.mark.parametrize(
    ("scope", "covers"),
    [
        ({"party": "m1"}, True),
        ({"party": "g"}, True),
        ({"party": "m3"}, False),
        ({"channel": "sms"}, False),
        ({"channel": "email"}, True),
        ({"purpose": "service"}, True),
        ({"purpose": "order_update"}, True),
        ({"purpose": "marketing"}, False),
        ({"purpose": "review"}, False),
    ],
    ids=str,
)
def test_a_refusal_that_includes_service_still_covers_only_what_it_names(
    scope: dict[str, str], covers: bool
) -> None:
    stop = record("withdrawn", includes_service=True, **scope)
    assert (asked_by(check, UPDATE, consent=(stop,)).outcome is Outcome.DENY) is covers


def test_a_later_grant_for_the_service_purpose_undoes_the_stop() -> None:
    stop = record("withdrawn", includes_service=True, occurred_at=NOW - 2 * DAY)
    start = record("granted", purpose="order_update", occurred_at=NOW - DAY)
    assert asked_by(check, UPDATE, consent=(stop, start)).outcome is Outcome.ALLOW
    elsewhere = record("granted", purpose="order_update", contact_point_id="email-2", occurred_at=NOW - DAY)
    assert asked_by(check, UPDATE, consent=(stop, elsewhere)).outcome is Outcome.DENY


def test_a_stop_for_service_stops_marketing_as_well() -> None:
    events = (record("granted"), record("withdrawn", includes_service=True, occurred_at=NOW - DAY))
    assert asked_by(check, consent=events).reason == "consent_withdrawn"


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (SOLD - TICK, Outcome.DENY),
        (SOLD, Outcome.ALLOW),
        (SOLD + 14 * DAY - TICK, Outcome.ALLOW),
        (SOLD + 14 * DAY, Outcome.DENY),
    ],
)
def test_neutral_post_sale_holds_from_the_purchase_to_just_before_within_is_over(
    now: Any, outcome: Outcome
) -> None:
    finding = asked_by(check, NEUTRAL, now=now, purchase=purchase(purchased_at=SOLD))
    assert finding.outcome is outcome
    assert finding.reason == ("consent_neutral_post_sale" if outcome is Outcome.ALLOW else "consent_missing")


def test_within_is_the_purposes_own() -> None:
    policy = purpose("neutral_review", neutral_within=2 * DAY)
    for sold, outcome in ((NOW - 2 * DAY + TICK, Outcome.ALLOW), (NOW - 2 * DAY, Outcome.DENY)):
        finding = asked_by(check, NEUTRAL, policy, purchase=purchase(purchased_at=sold))
        assert finding.outcome is outcome


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ({"merchant": "m2"}, {}),
        ({"merchant": "post"}, {}),
        ({"channel": "sms"}, {}),
        ({}, {"purchased_at": None}),
        ({}, {"seller": "m3"}),
    ],
    ids=str,
)
def test_neutral_post_sale_is_for_the_sellers_own_email_about_a_dated_purchase(
    asked: dict[str, Any], known: dict[str, Any]
) -> None:
    bought = purchase(**{"purchased_at": SOLD} | known)
    finding = asked_by(check, request(purpose="neutral_review", **asked), purchase=bought)
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "consent_missing")


def test_neutral_post_sale_needs_a_purchase() -> None:
    assert asked_by(check, NEUTRAL).reason == "consent_missing"


@pytest.mark.parametrize(
    ("scope", "covers"),
    [
        ({}, True),
        ({"purpose": "review"}, True),
        ({"purpose": "marketing"}, True),
        ({"purpose": "neutral_review"}, True),
        ({"party": "g"}, True),
        ({"purpose": "newsletter"}, False),
        ({"party": "m2"}, False),
        ({"channel": "sms"}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("point", ["email-1", "sms-1"])
def test_neutral_post_sale_yields_to_any_covering_refusal(
    scope: dict[str, str], covers: bool, point: str
) -> None:
    refusal = record("refused", contact_point_id=point, **scope)
    finding = asked_by(check, NEUTRAL, consent=(refusal,), purchase=purchase(purchased_at=SOLD))
    assert finding.reason == ("consent_refused" if covers else "consent_neutral_post_sale")


@pytest.mark.parametrize("state", ["requested", "granted"])
def test_neutral_post_sale_holds_beside_a_permission_that_is_pending_or_over(state: str) -> None:
    event = record(
        state, purpose="neutral_review", occurred_at=NOW - DAY, expires_at=NOW if state == "granted" else None
    )
    finding = asked_by(check, NEUTRAL, consent=(event,), purchase=purchase(purchased_at=SOLD))
    assert finding.reason == "consent_neutral_post_sale"


def test_neutral_post_sale_is_nothing_to_a_purpose_that_does_not_accept_it() -> None:
    asked = request(purpose="review_request")
    assert asked_by(check, asked, purchase=purchase(purchased_at=SOLD)).reason == "consent_missing"


def test_a_group_takes_in_only_its_own_merchants() -> None:
    to_group = record("granted", party="g")
    assert asked_by(check, consent=(to_group,)).outcome is Outcome.ALLOW
    alone = merchant("m1", group=None)
    assert asked_by(check, policy=alone, consent=(to_group,)).outcome is Outcome.DENY


def test_the_finding_says_on_what_permission() -> None:
    finding = asked_by(check, consent=(record("granted", party="g", event_id="evt-g"),), policy=POLICY)
    assert (finding.evidence["event"], finding.evidence["party"]) == ("evt-g", "g")


# The one message that a pending double opt-in permits.

CONFIRM = request(purpose="confirmation")
ASKED = NOW - DAY
PENDING = record("requested", occurred_at=ASKED, event_id="asked")


def test_a_pending_double_opt_in_permits_the_message_that_asks_to_confirm_it() -> None:
    finding = asked_by(check, CONFIRM, consent=(PENDING,))
    assert (finding.outcome, finding.reason) == (Outcome.ALLOW, "consent_requested")
    assert finding.evidence["events"] == ["asked"]


def test_without_a_pending_double_opt_in_there_is_nothing_to_confirm() -> None:
    for events in ((), (record("granted", purpose="confirmation"),), (record("granted"),)):
        assert asked_by(check, CONFIRM, consent=events).outcome is Outcome.DENY


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (ASKED - TICK, Outcome.DENY),
        (ASKED, Outcome.ALLOW),
        (ASKED + 7 * DAY - TICK, Outcome.ALLOW),
        (ASKED + 7 * DAY, Outcome.DENY),
    ],
)
def test_a_double_opt_in_can_be_confirmed_for_exactly_seven_days(now: Any, outcome: Outcome) -> None:
    assert asked_by(check, CONFIRM, now=now, consent=(PENDING,)).outcome is outcome


@pytest.mark.parametrize(
    "change", [{"contact_point_id": "email-2"}, {"party": "m2"}, {"channel": "sms"}], ids=str
)
def test_a_double_opt_in_elsewhere_permits_no_message_here(change: dict[str, str]) -> None:
    event = record("requested", occurred_at=ASKED, **change)
    assert asked_by(check, CONFIRM, consent=(event,)).outcome is Outcome.DENY


@pytest.mark.parametrize("at", [ASKED, NOW - TICK, NOW])
def test_one_message_is_all_that_a_double_opt_in_permits(at: Any) -> None:
    sent = handover(at, purpose="confirmation", message_id="sent-before")
    finding = asked_by(check, CONFIRM, consent=(PENDING,), handovers=(sent,))
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "confirmation_sent")
    assert finding.evidence["messages"] == ["sent-before"]


@pytest.mark.parametrize(
    ("scope", "stops"),
    [
        ({}, True),
        ({"contact_point_id": "sms-1"}, True),
        ({"purpose": "marketing"}, True),
        ({"party": "g"}, True),
        ({"party": "m3"}, False),
        ({"purpose": "offers"}, False),
        ({"occurred_at": ASKED - TICK}, False),
        ({"occurred_at": ASKED}, True),
        ({"occurred_at": ASKED - DAY, "recorded_at": NOW - TICK}, True),
    ],
    ids=str,
)
def test_a_refusal_since_the_request_ends_it(scope: dict[str, Any], stops: bool) -> None:
    refusal = record("withdrawn", **{"occurred_at": NOW - TICK} | scope)
    finding = asked_by(check, CONFIRM, consent=(PENDING, refusal))
    assert (finding.outcome is Outcome.DENY) is stops


def test_the_finding_about_a_confirmation_does_not_depend_on_the_order_of_what_is_known() -> None:
    sent = [handover(NOW - number * TICK, purpose="confirmation") for number in (1, 2, 3)]
    found = {
        repr(asked_by(check, CONFIRM, consent=(PENDING,), handovers=order))
        for order in (tuple(sent), tuple(reversed(sent)))
    }
    assert len(found) == 1
