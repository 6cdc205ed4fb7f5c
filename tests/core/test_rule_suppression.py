"""Suppression: marks on the contact point, and erasure of the person."""

from __future__ import annotations

import itertools

import pytest
from core_builders import DAY, NOW, TICK, asked_by, request, suppression

from notifygate.decision import Outcome
from notifygate.rules.suppression import check

REASONS = {
    "hard_bounce": "suppressed_hard_bounce",
    "complaint": "suppressed_complaint",
    "erased": "suppressed_erased",
    "manual": "suppressed_manual",
}


def test_without_marks_it_allows() -> None:
    assert asked_by(check).outcome is Outcome.ALLOW


@pytest.mark.parametrize(("mark", "reason"), REASONS.items())
def test_each_mark_on_the_contact_point_denies_with_its_own_reason(mark: str, reason: str) -> None:
    made = suppression(mark)
    finding = asked_by(check, suppressions=(made,))
    assert (finding.outcome, finding.reason) == (Outcome.DENY, reason)
    assert finding.evidence["suppression"] == made.suppression_id


@pytest.mark.parametrize("mark", REASONS)
def test_only_erasure_spreads_to_the_other_contact_points_of_the_person(mark: str) -> None:
    finding = asked_by(check, suppressions=(suppression(mark, contact_point_id="sms-1"),))
    assert (finding.outcome is Outcome.DENY) is (mark == "erased")


def test_a_mark_denies_a_service_message_too() -> None:
    finding = asked_by(check, request(purpose="order_update"), suppressions=(suppression("complaint"),))
    assert finding.outcome is Outcome.DENY


def test_a_mark_is_in_force_until_just_before_it_expires() -> None:
    bounce = suppression("hard_bounce", created_at=NOW - 30 * DAY, expires_at=NOW)
    assert asked_by(check, now=NOW - TICK, suppressions=(bounce,)).outcome is Outcome.DENY
    assert asked_by(check, now=NOW, suppressions=(bounce,)).outcome is Outcome.ALLOW


@pytest.mark.parametrize("mark", REASONS)
def test_a_mark_without_expiry_never_expires(mark: str) -> None:
    made = suppression(mark, expires_at=None)
    assert asked_by(check, now=NOW + 36_500 * DAY, suppressions=(made,)).outcome is Outcome.DENY


def test_a_lifted_mark_does_not_hide_another() -> None:
    marks = (suppression("erased", expires_at=NOW), suppression("manual"))
    assert asked_by(check, suppressions=marks).reason == "suppressed_manual"


def test_the_gravest_mark_is_named_in_whatever_order_they_come() -> None:
    marks = [suppression(mark) for mark in REASONS]
    for order in itertools.permutations(marks):
        assert asked_by(check, suppressions=order).reason == "suppressed_erased"
