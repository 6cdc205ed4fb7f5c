"""A policy is read back from its canonical text exactly, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest

from notifygate.audit.policies import PolicyText, read_policy
from notifygate.policy import (
    Accepts,
    Cap,
    Group,
    Merchant,
    MerchantKind,
    Over,
    Per,
    Policy,
    Purpose,
    PurposeClass,
    QuietHours,
    ReviewRequests,
)

FULL = Policy(
    merchants={"m": Merchant(name="M", kind=MerchantKind.SHOP, group="g", timezone="Europe/Copenhagen")},
    groups={"g": Group(name="G")},
    purposes={
        "news": Purpose(
            purpose_class=PurposeClass.MARKETING,
            accepts=frozenset({Accepts.CONSENT, Accepts.SOFT_OPT_IN}),
            dedupe=timedelta(hours=36),
            caps=(
                Cap(
                    limit=2,
                    window=timedelta(days=7, seconds=5),
                    per=Per.GROUP,
                    classes=frozenset({PurposeClass.MARKETING}),
                    over=Over.DEFER,
                ),
            ),
            quiet_hours="days",
        )
    },
    quiet_hours={"days": QuietHours(allow={0: ((time(9), time(20, 30)),), 6: ()}, holidays=True)},
    review_requests=ReviewRequests(yield_for=timedelta(days=14), per_person=None, hold_for_cases=True),
    review_domains=("trustpilot.com",),
    rule_settings={"blackout": {"from": "2026-12-24", "days": 3}},
    default_timezone="Europe/Copenhagen",
)


def test_a_policy_with_everything_in_it_is_read_back() -> None:
    found = read_policy(FULL.text)
    assert found == FULL
    assert found is not None
    assert found.hash == FULL.hash


@pytest.mark.parametrize(
    "text", ["{}", "no JSON", "[]", FULL.text.replace('"holidays":true', '"holidays":true,"moon":"full"')]
)
def test_a_text_in_another_form_is_not_guessed_at(text: str) -> None:
    assert read_policy(text) is None
    told = PolicyText(hash="0" * 64, text=text, first_seen_at=datetime.now(UTC))
    assert told.in_sentences() == []
    assert told.in_sentences_about("m", "news") == []
