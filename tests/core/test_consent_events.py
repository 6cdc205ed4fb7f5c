"""Consent events that must not be written are refused, and the error names the field."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from core_builders import NOW, POLICY

from notifygate.address import ContactPoint
from notifygate.consent import ConsentEvent, check_event
from notifygate.errors import InvalidConsent, NotifygateError

EMAIL = ContactPoint.email("anna@example.dk")
PHONE = ContactPoint.sms("+4520123456")
GRANT: dict[str, Any] = {
    "state": "granted",
    "contact_point": EMAIL,
    "party": "m1",
    "channel": "email",
    "purpose": "newsletter",
    "basis": "consent",
}
SOFT: dict[str, Any] = GRANT | {"state": "soft_opt_in", "sale_ref": "1001", "opt_out_offered": True}


def check(values: dict[str, Any], point: ContactPoint = EMAIL) -> None:
    check_event(ConsentEvent(**values), point, POLICY)


@pytest.mark.parametrize("values", [GRANT, GRANT | {"party": "g"}, GRANT | {"state": "requested"}, SOFT])
def test_a_permission_that_names_one_of_each_may_be_written(values: dict[str, Any]) -> None:
    check(values)


@pytest.mark.parametrize("state", ["granted", "requested", "soft_opt_in"])
@pytest.mark.parametrize("field", ["party", "channel", "purpose"])
def test_a_permission_with_an_asterisk_is_refused(state: str, field: str) -> None:
    with pytest.raises(InvalidConsent) as caught:
        check(SOFT | {"state": state, field: "*"})
    assert caught.value.field == field


@pytest.mark.parametrize("state", ["granted", "requested", "soft_opt_in"])
@pytest.mark.parametrize("purpose", ["service", "marketing", "review"])
def test_a_permission_for_a_class_is_refused(state: str, purpose: str) -> None:
    with pytest.raises(InvalidConsent) as caught:
        check(SOFT | {"state": state, "purpose": purpose})
    assert caught.value.field == "purpose"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"party": "g"}, "party"),
        ({"sale_ref": None}, "sale_ref"),
        ({"sale_ref": ""}, "sale_ref"),
        ({"opt_out_offered": None}, "opt_out_offered"),
        ({"opt_out_offered": False}, "opt_out_offered"),
        ({"opt_out_offered": "yes"}, "opt_out_offered"),
    ],
    ids=str,
)
def test_a_soft_opt_in_needs_one_merchant_the_sale_and_the_offer_to_opt_out(
    change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidConsent) as caught:
        check(SOFT | change)
    assert caught.value.field == field


@pytest.mark.parametrize("point", [EMAIL, PHONE])
def test_the_channel_of_a_permission_is_that_of_its_contact_point(point: ContactPoint) -> None:
    other = "sms" if point is EMAIL else "email"
    with pytest.raises(InvalidConsent) as caught:
        check(GRANT | {"channel": other}, point)
    assert caught.value.field == "channel"


@pytest.mark.parametrize("state", ["withdrawn", "objected", "refused"])
@pytest.mark.parametrize("party", ["m1", "g", "*"])
@pytest.mark.parametrize("channel", ["sms", "email", "*"])
@pytest.mark.parametrize("purpose", ["newsletter", "service", "marketing", "review", "*"])
def test_a_refusal_is_never_rejected_for_being_broad(
    state: str, party: str, channel: str, purpose: str
) -> None:
    check({"state": state, "contact_point": EMAIL, "party": party, "channel": channel, "purpose": purpose})


@pytest.mark.parametrize("state", ["withdrawn", "granted"])
@pytest.mark.parametrize(
    ("field", "value"), [("party", "m1x"), ("channel", "fax"), ("purpose", "newsleter"), ("party", "")]
)
def test_what_an_event_names_must_exist(state: str, field: str, value: str) -> None:
    with pytest.raises(InvalidConsent) as caught:
        check(GRANT | {"state": state, field: value})
    assert caught.value.field == field


def test_an_invalidation_names_the_event_that_it_voids() -> None:
    check({"state": "invalidated", "contact_point": EMAIL, "invalidates": "evt-1"})
    with pytest.raises(InvalidConsent) as caught:
        check({"state": "invalidated", "contact_point": EMAIL})
    assert caught.value.field == "invalidates"


@pytest.mark.parametrize("state", ["grant", "", "GRANTED", None, 3])
def test_an_unknown_state_is_refused(state: Any) -> None:
    with pytest.raises(InvalidConsent) as caught:
        ConsentEvent(state=state, contact_point=EMAIL)
    assert caught.value.field == "state"


@pytest.mark.parametrize("field", ["occurred_at", "recorded_at", "expires_at"])
@pytest.mark.parametrize("value", [datetime(2026, 1, 1), "2026-01-01", 5])  # noqa: DTZ001  # naive on purpose
def test_a_time_without_zone_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidConsent) as caught:
        ConsentEvent(**GRANT | {field: value})
    assert caught.value.field == field


def test_times_are_kept_in_utc() -> None:
    local = datetime(2026, 5, 12, 14, tzinfo=timezone(timedelta(hours=2)))
    event = ConsentEvent(**GRANT | {"occurred_at": local})
    assert event.occurred_at == NOW
    assert event.occurred_at is not None
    assert event.occurred_at.tzinfo is UTC


def test_an_event_is_frozen_keyword_only_and_survives_pickling() -> None:
    event = ConsentEvent(**GRANT)
    with pytest.raises(FrozenInstanceError):
        event.party = "m2"  # type: ignore[misc]
    with pytest.raises(TypeError):
        ConsentEvent("granted", EMAIL)  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(event)) == event


def test_the_error_is_one_of_ours_and_a_value_error() -> None:
    assert issubclass(InvalidConsent, NotifygateError)
    assert issubclass(InvalidConsent, ValueError)


def test_the_repr_of_an_event_holds_no_address_however_it_was_given() -> None:
    for point in (EMAIL, "email:anna@example.dk"):
        assert "anna" not in repr(ConsentEvent(**GRANT | {"contact_point": point}))
