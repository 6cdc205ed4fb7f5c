"""Review requests: section 6 of the design, edge by edge."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest
from core_builders import (
    DAY,
    NOW,
    POLICY,
    TICK,
    ask,
    asked_by,
    merchant,
    purchase,
    purpose,
    request,
    reviews,
)

from notifygate.decision import Finding, Outcome
from notifygate.policy import Limit, MerchantKind, Policy
from notifygate.rules.review_request import check
from notifygate.snapshot import Ask, PurchaseFacts

SELLER_ASKS = merchant("m1", asks_for_reviews=True)
UNLIMITED = reviews(per_person=None, per_person_and_merchant=None)


def found(
    bought: PurchaseFacts | None = None,
    *,
    asks: tuple[Ask, ...] = (),
    policy: Policy = POLICY,
    now: datetime = NOW,
    **asked: Any,
) -> Finding:
    asked = {"purpose": "review_request"} | asked
    return asked_by(check, request(**asked), policy, now, purchase=bought or purchase(), asks=asks)


def test_the_first_ask_about_a_delivered_purchase_is_allowed() -> None:
    assert (found().outcome, found().reason) == (Outcome.ALLOW, "passed")


@pytest.mark.parametrize("other", ["newsletter", "order_update"])
def test_other_messages_are_not_looked_at(other: str) -> None:
    bought = purchase(reviewed_at=NOW, asks=(ask("m1", NOW),))
    assert found(bought, purpose=other).reason == "not_applicable"


def test_a_review_request_says_which_purchase_it_is_about() -> None:
    finding = asked_by(check, request(purpose="review_request"))
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "purchase_missing")


# Who is asked.


def test_only_the_buyer_is_asked() -> None:
    finding = found(role="recipient")
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "not_the_buyer")


@pytest.mark.parametrize("role", ["buyer", "recipient"])
def test_a_purpose_for_recipients_asks_them_as_well(role: str) -> None:
    policy = purpose("review_request", audience="recipient")
    assert found(role=role, policy=policy).outcome is Outcome.ALLOW


# How often.


def test_a_review_that_exists_ends_the_asking() -> None:
    finding = found(purchase(reviewed_at=NOW - DAY))
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "review_exists")


@pytest.mark.parametrize("by", ["m1", "m2", "post", "trust", "somebody-else"])
@pytest.mark.parametrize("at", [NOW - 4_000 * DAY, NOW - DAY, NOW, NOW + DAY])
def test_a_purchase_is_asked_about_once_by_whomever_and_whenever(by: str, at: datetime) -> None:
    finding = found(purchase(asks=(ask(by, at),)), policy=UNLIMITED)
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "purchase_already_asked")
    assert [shown["by"] for shown in finding.evidence["asks"]] == [by]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_asks_per_purchase_is_how_many_may_be_made(limit: int) -> None:
    policy = reviews(UNLIMITED, asks_per_purchase=limit)
    for made in range(5):
        asks = tuple(ask("m1", NOW - number * DAY) for number in range(made))
        assert (found(purchase(asks=asks), policy=policy).outcome is Outcome.ALLOW) is (made < limit)


@pytest.mark.parametrize(
    ("at", "outcome"),
    [
        (NOW - 30 * DAY, Outcome.ALLOW),
        (NOW - 30 * DAY + TICK, Outcome.DENY),
        (NOW, Outcome.DENY),
    ],
)
@pytest.mark.parametrize("by", ["m2", "post", "somebody-else"])
def test_a_person_is_asked_once_in_thirty_days_over_all_merchants(
    at: datetime, outcome: Outcome, by: str
) -> None:
    finding = found(asks=(ask(by, at),))
    assert finding.outcome is outcome
    if outcome is Outcome.DENY:
        assert finding.reason == "person_asked_recently"


@pytest.mark.parametrize(
    ("by", "at", "outcome"),
    [
        ("m1", NOW - 180 * DAY, Outcome.ALLOW),
        ("m1", NOW - 180 * DAY + TICK, Outcome.DENY),
        ("m1", NOW - 31 * DAY, Outcome.DENY),
        ("m2", NOW - 31 * DAY, Outcome.ALLOW),
    ],
)
def test_one_merchant_asks_a_person_once_in_a_hundred_and_eighty_days(
    by: str, at: datetime, outcome: Outcome
) -> None:
    finding = found(asks=(ask(by, at),))
    assert finding.outcome is outcome
    if outcome is Outcome.DENY:
        assert finding.reason == "person_asked_by_merchant_recently"


def test_the_windows_and_limits_are_the_policys_own() -> None:
    policy = reviews(per_person=Limit(limit=2, window=DAY), per_person_and_merchant=None)
    asks = (ask("m2", NOW - DAY + TICK), ask("m3", NOW - TICK))
    assert found(asks=asks, policy=policy).reason == "person_asked_recently"
    assert found(asks=asks[1:], policy=policy).outcome is Outcome.ALLOW
    by_merchant = reviews(per_person=None, per_person_and_merchant=Limit(limit=2, window=DAY))
    own = (ask("m1", NOW - DAY + TICK), ask("m1", NOW - TICK))
    assert found(asks=own, policy=by_merchant).reason == "person_asked_by_merchant_recently"
    assert found(asks=own[1:], policy=by_merchant).outcome is Outcome.ALLOW


def test_limits_that_are_not_set_do_not_hold() -> None:
    assert found(asks=(ask("m1", NOW), ask("m2", NOW)), policy=UNLIMITED).outcome is Outcome.ALLOW


def test_the_sentence_and_evidence_tell_a_window_shorter_than_a_day() -> None:
    policy = reviews(per_person=Limit(limit=1, window=timedelta(hours=12)))
    finding = found(asks=(ask("m2", NOW),), policy=policy)
    assert "0 days" not in finding.text
    assert finding.evidence.get("window_days") != 0


# When.


@pytest.mark.parametrize(
    ("known", "due"),
    [
        ({"delivered_at": NOW}, NOW + 7 * DAY),
        ({"delivered_at": None, "purchased_at": NOW}, NOW + 30 * DAY),
        ({"delivered_at": None, "purchased_at": None, "known_since": NOW}, NOW + 30 * DAY),
    ],
    ids=["delivered", "bought", "heard of"],
)
def test_it_waits_for_exactly_the_delay(known: dict[str, datetime | None], due: datetime) -> None:
    bought = purchase(**known)
    early = found(bought, now=due - TICK)
    assert (early.outcome, early.until, early.reason) == (Outcome.DEFER, due, "review_not_due")
    assert found(bought, now=due).outcome is Outcome.ALLOW


def test_the_delays_are_the_policys_own() -> None:
    policy = reviews(delay=2 * DAY, delay_without_delivery=5 * DAY)
    assert found(purchase(delivered_at=NOW), policy=policy).until == NOW + 2 * DAY
    unknown = purchase(delivered_at=None, purchased_at=NOW)
    assert found(unknown, policy=policy).until == NOW + 5 * DAY


def test_a_delivery_date_beats_the_day_of_the_purchase() -> None:
    bought = purchase(purchased_at=NOW - 50 * DAY, delivered_at=NOW - DAY)
    assert found(bought).until == NOW + 6 * DAY


@pytest.mark.parametrize(
    ("now", "outcome"), [(NOW + 60 * DAY, Outcome.ALLOW), (NOW + 60 * DAY + TICK, Outcome.DENY)]
)
def test_nobody_is_asked_after_the_time_to_ask(now: datetime, outcome: Outcome) -> None:
    finding = found(purchase(delivered_at=NOW), now=now)
    assert finding.outcome is outcome
    if outcome is Outcome.DENY:
        assert finding.reason == "review_too_late"


def test_expires_is_the_policys_own() -> None:
    policy = reviews(expires=10 * DAY)
    assert found(purchase(delivered_at=NOW - 10 * DAY), policy=policy).outcome is Outcome.ALLOW
    late = found(purchase(delivered_at=NOW - 10 * DAY - TICK), policy=policy)
    assert late.reason == "review_too_late"


def test_without_a_delivery_date_the_time_to_ask_is_as_long_as_with_one() -> None:
    bought = purchase(delivered_at=None, purchased_at=NOW)
    last = NOW + 30 * DAY + (60 - 7) * DAY
    assert found(bought, now=last).outcome is Outcome.ALLOW
    assert found(bought, now=last + TICK).reason == "review_too_late"


# Who asks.


@pytest.mark.parametrize("by", ["post", "trust"])
def test_where_the_seller_asks_itself_lower_ranks_are_denied(by: str) -> None:
    finding = found(merchant=by, policy=SELLER_ASKS)
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "seller_asks_itself")


@pytest.mark.parametrize("by", ["post", "trust"])
def test_where_the_seller_does_not_ask_others_may(by: str) -> None:
    assert found(merchant=by).outcome is Outcome.ALLOW


def test_the_seller_itself_never_yields() -> None:
    assert found(merchant="m1", policy=SELLER_ASKS).outcome is Outcome.ALLOW


def test_another_of_the_sellers_own_rank_need_not_yield() -> None:
    assert found(merchant="m2", policy=SELLER_ASKS).outcome is Outcome.ALLOW


def test_the_precedence_is_the_policys_own() -> None:
    first = reviews(SELLER_ASKS, precedence=(MerchantKind.CARRIER, MerchantKind.SHOP, MerchantKind.PLATFORM))
    assert found(merchant="post", policy=first).outcome is Outcome.ALLOW
    assert found(merchant="trust", policy=first).reason == "seller_asks_itself"


def test_a_kind_that_the_precedence_leaves_out_comes_last() -> None:
    shops = reviews(SELLER_ASKS, precedence=(MerchantKind.SHOP,))
    assert found(merchant="post", policy=shops).reason == "seller_asks_itself"


@pytest.mark.parametrize("by", ["post", "trust"])
def test_a_lower_rank_that_may_wait_gets_its_turn_exactly_then(by: str) -> None:
    policy = reviews(SELLER_ASKS, yield_for=14 * DAY)
    bought = purchase(delivered_at=NOW)
    turn = NOW + (7 + 14) * DAY
    early = found(bought, merchant=by, policy=policy, now=turn - TICK)
    assert (early.outcome, early.until, early.reason) == (Outcome.DEFER, turn, "seller_asks_itself")
    assert found(bought, merchant=by, policy=policy, now=turn).outcome is Outcome.ALLOW


def test_of_two_waits_the_later_one_counts() -> None:
    policy = reviews(SELLER_ASKS, yield_for=14 * DAY)
    finding = found(purchase(delivered_at=NOW), merchant="post", policy=policy)
    assert finding.until == NOW + 21 * DAY


@pytest.mark.parametrize(("asker", "denied"), [("m1", True), ("trust", True), ("m2", True), ("post", False)])
def test_the_turn_is_lost_if_a_higher_rank_asked_meanwhile(asker: str, denied: bool) -> None:
    policy = reviews(reviews(SELLER_ASKS, yield_for=14 * DAY), asks_per_purchase=2, per_person=None)
    bought = purchase(delivered_at=NOW - 30 * DAY, asks=(ask(asker, NOW - DAY),))
    finding = found(bought, merchant="post", policy=policy)
    assert (finding.outcome is Outcome.DENY) is denied
    if denied:
        assert finding.reason == "seller_asks_itself"


def test_with_one_ask_a_purchase_the_turn_is_lost_whoever_asked() -> None:
    policy = reviews(SELLER_ASKS, yield_for=14 * DAY, per_person=None)
    bought = purchase(delivered_at=NOW - 30 * DAY, asks=(ask("trust", NOW - DAY),))
    assert found(bought, merchant="post", policy=policy).reason == "purchase_already_asked"


def test_a_seller_that_is_not_in_the_policy_takes_no_precedence() -> None:
    assert found(purchase(seller="unheard-of"), merchant="post").outcome is Outcome.ALLOW


# Open cases (principle 8: held the same for everyone, and released whatever the outcome).

HOLDING = reviews(hold_for_cases=True)


def with_case(**known: Any) -> PurchaseFacts:
    return purchase(**{"delivered_at": NOW - 7 * DAY, "case_open_since": NOW - DAY} | known)


def test_an_open_case_holds_nothing_by_default() -> None:
    assert found(with_case()).outcome is Outcome.ALLOW


def test_an_open_case_holds_the_ask_for_fourteen_days_from_the_time_it_was_due() -> None:
    due = NOW
    released = due + 14 * DAY
    for now in (due, due + DAY, released - TICK):
        finding = found(with_case(), policy=HOLDING, now=now)
        assert (finding.outcome, finding.until, finding.reason) == (Outcome.DEFER, released, "case_open")
    assert found(with_case(), policy=HOLDING, now=released).outcome is Outcome.ALLOW


def test_a_case_that_is_opened_late_holds_no_longer_than_one_opened_early() -> None:
    due = NOW
    for opened in (NOW - 100 * DAY, due, due + 13 * DAY):
        finding = found(with_case(case_open_since=opened), policy=HOLDING, now=due + 13 * DAY)
        assert finding.until == due + 14 * DAY


def test_a_purchase_without_a_case_is_not_held() -> None:
    assert found(with_case(case_open_since=None), policy=HOLDING).outcome is Outcome.ALLOW


def test_an_ask_that_is_not_due_waits_for_its_time_first() -> None:
    finding = found(with_case(), policy=HOLDING, now=NOW - TICK)
    assert (finding.until, finding.reason) == (NOW, "review_not_due")


@pytest.mark.parametrize("expires_days", [22, 30, 60])
def test_a_case_never_decides_whether_someone_is_asked_only_when(expires_days: int) -> None:
    """A worker takes the message up some time after it falls due: the release must leave it that time.

    The config sees to it that `expires` is longer than `delay` and the hold.
    """
    policy = reviews(HOLDING, expires=expires_days * DAY)
    held = found(with_case(), policy=policy)
    assert held.until is not None
    for later in (timedelta(0), timedelta(seconds=30)):
        assert found(with_case(), policy=policy, now=held.until + later).outcome is Outcome.ALLOW


# All of it together.


def test_a_window_is_judged_when_the_ask_is_due_and_not_while_it_waits() -> None:
    asks = (ask("m2", NOW - 29 * DAY),)
    waiting = found(purchase(delivered_at=NOW), asks=asks)
    assert (waiting.outcome, waiting.until) == (Outcome.DEFER, NOW + 7 * DAY)
    assert found(purchase(delivered_at=NOW - 7 * DAY), asks=asks).reason == "person_asked_recently"


def test_a_denial_beats_a_wait() -> None:
    bought = purchase(delivered_at=NOW, reviewed_at=NOW)
    assert found(bought).outcome is Outcome.DENY


def test_the_finding_does_not_depend_on_the_order_of_what_is_known() -> None:
    policy = reviews(SELLER_ASKS, yield_for=14 * DAY, asks_per_purchase=4, per_person=None)
    made = [ask("m1", NOW - 2 * DAY), ask("trust", NOW - DAY), ask("m2", NOW - 3 * DAY)]
    several = {
        repr(found(purchase(asks=order), asks=order, merchant="post", policy=policy))
        for order in itertools.permutations(made)
    }
    assert len(several) == 1
