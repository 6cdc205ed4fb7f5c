"""Expiry: past its time, or deferred past it, a message is not sent."""

from __future__ import annotations

import pytest
from core_builders import DAY, NOW, TICK, request

from notifygate.decision import Outcome
from notifygate.rules.expiry import check


def test_a_message_without_expiry_is_not_looked_at() -> None:
    finding = check(request(), NOW, until=NOW + 1_000 * DAY)
    assert (finding.outcome, finding.reason) == (Outcome.ALLOW, "not_applicable")


@pytest.mark.parametrize(
    ("left", "outcome"), [(TICK, Outcome.ALLOW), (0 * TICK, Outcome.DENY), (-TICK, Outcome.DENY)]
)
def test_it_expires_exactly_at_expires_at(left: object, outcome: Outcome) -> None:
    finding = check(request(expires_at=NOW + left), NOW, until=None)  # type: ignore[operator]
    assert finding.outcome is outcome
    assert outcome is Outcome.ALLOW or finding.reason == "expired"


@pytest.mark.parametrize(
    ("spare", "outcome"), [(TICK, Outcome.ALLOW), (0 * TICK, Outcome.DENY), (-TICK, Outcome.DENY)]
)
def test_a_deferral_that_would_pass_the_expiry_is_a_denial_now(spare: object, outcome: Outcome) -> None:
    until = NOW + DAY
    finding = check(request(expires_at=until + spare), NOW, until=until)  # type: ignore[operator]
    assert finding.outcome is outcome
    assert outcome is Outcome.ALLOW or finding.evidence["until"] == until.isoformat()
