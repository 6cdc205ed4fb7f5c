"""Content: a service message that advertises, or points at a review site, is mis-declared."""

from __future__ import annotations

import time
import tomllib
from dataclasses import replace

import pytest
from core_builders import POLICY, asked_by, request

from notifygate.config import TEMPLATE
from notifygate.decision import Finding, Outcome
from notifygate.policy import Policy
from notifygate.rules.content import check


def found(text: str, *, purpose: str = "order_update", policy: Policy = POLICY) -> Finding:
    return asked_by(check, request(purpose=purpose, text=text), policy)


@pytest.mark.parametrize(
    "text",
    [
        "Skriv en anmeldelse: https://www.trustpilot.com/evaluate/shop?x=1",
        "https://dk.legacy.trustpilot.com",
        "Find os på TrustPilot.com.",
        "trustpilot.com",
        "(trustpilot.com)",
        "https://user@trustpilot.com:443/",
        '<a href="//trustpilot.com">her</a>',
        "line\ntrustpilot.com\nline",
        "reviews.example",
        "trustpilot.com...tak",
        "https://click.example/?u=https%3A%2F%2Ftrustpilot.com%2Fevaluate",
        '<a href="https://trustpilot&#46;com">her</a>',
    ],
)
def test_a_service_message_may_not_point_at_a_review_site(text: str) -> None:
    finding = found(text)
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "misdeclared_class")
    assert finding.evidence["review_site"] in POLICY.review_domains


@pytest.mark.parametrize(
    "text",
    [
        "nottrustpilot.com",
        "trustpilot.community",
        "trustpilot.com.shop.example",
        "my-trustpilot.com",
        "trustpilot.com-archive.example",
        "we reviews example things",
        "Your parcel comes today between 10 and 12.",
        "",
    ],
)
def test_a_name_that_is_merely_alike_is_let_through(text: str) -> None:
    assert found(text).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("text", "marker"),
    [("A DISCOUNT for you", "discount"), ("now 20% off!", "20% off"), ("discount", "discount")],
)
def test_a_service_message_may_carry_no_promotion_marker(text: str, marker: str) -> None:
    finding = found(text)
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "misdeclared_class")
    assert finding.evidence["marker"] == marker


@pytest.mark.parametrize("text", ["discounted", "prediscount", "120% off", "20% offer"])
def test_a_marker_within_a_longer_word_is_no_marker(text: str) -> None:
    assert found(text).outcome is Outcome.ALLOW


def template_markers() -> tuple[str, ...]:
    """What the template of `notifygate init` suggests, switched off, as promotion markers."""
    (line,) = (line for line in TEMPLATE.splitlines() if line.startswith("# promotion_markers = "))
    return tuple(tomllib.loads(line.removeprefix("# "))["promotion_markers"])


@pytest.mark.parametrize(
    ("text", "marker"),
    [
        ("Your parcel is here. 20% off your next order!", "% off"),
        ("20 % off", "% off"),
        ("% off", "% off"),
        ("(20% OFF)", "% off"),
        ("Here is a discount code: X1", "discount code"),
    ],
)
def test_the_markers_that_the_template_suggests_are_found(text: str, marker: str) -> None:
    finding = found(text, policy=replace(POLICY, promotion_markers=template_markers()))
    assert (finding.outcome, finding.evidence["marker"]) == (Outcome.DENY, marker)


@pytest.mark.parametrize("text", ["20% offer", "a mydiscount code", "discount codes"])
def test_what_merely_holds_a_marker_of_the_template_is_let_through(text: str) -> None:
    finding = found(text, policy=replace(POLICY, promotion_markers=template_markers()))
    assert finding.outcome is Outcome.ALLOW


def test_a_marker_may_end_in_what_is_no_word() -> None:
    policy = replace(POLICY, promotion_markers=("sale!",))
    assert found("sale!now", policy=policy).outcome is Outcome.DENY
    assert found("wholesale!", policy=policy).outcome is Outcome.ALLOW


@pytest.mark.parametrize("purpose", ["newsletter", "review_request"])
def test_messages_that_are_declared_as_what_they_are_are_not_searched(purpose: str) -> None:
    finding = found("20% off, see trustpilot.com", purpose=purpose)
    assert (finding.outcome, finding.reason) == (Outcome.ALLOW, "not_applicable")


def test_with_no_sites_and_no_markers_set_everything_passes() -> None:
    bare = replace(POLICY, review_domains=(), promotion_markers=())
    assert found("discount at trustpilot.com", policy=bare).outcome is Outcome.ALLOW


def test_the_text_itself_does_not_reach_the_finding() -> None:
    finding = found("Dear anna@example.dk, a discount")
    assert "anna" not in repr(finding)


@pytest.mark.parametrize("text", ["a." * 300_000, "a-" * 300_000, "a" * 600_000, "." * 600_000])
def test_a_long_text_is_searched_in_time_that_grows_with_its_length_and_not_its_square(text: str) -> None:
    started = time.process_time()
    assert found(text).outcome is Outcome.ALLOW
    assert time.process_time() - started < 3
