"""Dedupe: the same content to the same person only once within the purpose's window."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from core_builders import NOW, TICK, asked_by, handover, purpose, request

from notifygate.decision import Outcome
from notifygate.rules.dedupe import check

WINDOW = timedelta(hours=24)
POLICY = purpose("newsletter", dedupe=WINDOW)


@pytest.mark.parametrize(
    ("at", "outcome"),
    [
        (NOW - WINDOW, Outcome.ALLOW),
        (NOW - WINDOW + TICK, Outcome.DENY),
        (NOW - TICK, Outcome.DENY),
        (NOW, Outcome.DENY),
        (NOW + TICK, Outcome.ALLOW),
    ],
)
def test_the_window_is_open_at_its_beginning_and_closed_at_its_end(at: Any, outcome: Outcome) -> None:
    assert asked_by(check, policy=POLICY, handovers=(handover(at),)).outcome is outcome


def test_a_duplicate_is_denied_and_names_the_latest_earlier_message() -> None:
    earlier = [handover(NOW - TICK * 2, message_id="old"), handover(NOW - TICK, message_id="latest")]
    for order in (earlier, earlier[::-1]):
        finding = asked_by(check, policy=POLICY, handovers=tuple(order))
        assert (finding.outcome, finding.reason) == (Outcome.DENY, "duplicate")
        assert finding.evidence["message"] == "latest"


def test_the_channel_makes_no_difference() -> None:
    sent = handover(NOW - TICK, channel="sms")
    assert asked_by(check, policy=POLICY, handovers=(sent,)).outcome is Outcome.DENY


@pytest.mark.parametrize(
    "change", [{"merchant": "m2"}, {"purpose": "offers"}, {"dedupe_key": "other"}], ids=str
)
def test_another_merchant_purpose_or_content_is_no_duplicate(change: dict[str, str]) -> None:
    sent = handover(NOW - TICK, **change)
    assert asked_by(check, policy=POLICY, handovers=(sent,)).outcome is Outcome.ALLOW


def test_a_message_is_no_duplicate_of_itself() -> None:
    sent = handover(NOW - TICK, message_id=request().message_id)
    assert asked_by(check, policy=POLICY, handovers=(sent,)).outcome is Outcome.ALLOW


def test_a_purpose_without_window_is_not_looked_at() -> None:
    finding = asked_by(check, handovers=(handover(NOW),))
    assert (finding.outcome, finding.reason) == (Outcome.ALLOW, "not_applicable")
