"""`evaluate`: all rules run, the findings add up, and whatever cannot be judged is not sent."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import datetime
from typing import Any

import pytest
from core_builders import (
    CONSENT,
    DAY,
    NOW,
    POLICY,
    RICH_POLICY,
    SOFT,
    TICK,
    ask,
    handover,
    hours,
    merchant,
    purchase,
    purpose,
    record,
    request,
    suppression,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from notifygate.decision import Decision, Finding, Outcome, Reason
from notifygate.policy import Cap, Limit, Over, Per, Policy, Purpose
from notifygate.rules import RULES, Rule, evaluate
from notifygate.snapshot import Request, Snapshot

NAMES = ["suppression", "consent", "content", "review_request", "dedupe", "caps", "quiet_hours", "expiry"]
GRANTED = Snapshot(consent=(record("granted"),))


def says(finding: Finding) -> Rule:
    return lambda _request, _snapshot, _policy, _now: finding


ALLOWS = says(Finding.allow("fine", "Fine."))
DENIES = says(Finding.deny("no", "No."))
DEFERS = says(Finding.defer(NOW + DAY, "later", "Later."))
DEFERS_LONGER = says(Finding.defer(NOW + 2 * DAY, "much_later", "Much later."))


def decided(*rules: Rule, asked: Request | None = None) -> Decision:
    named = [(f"rule{number}", rule) for number, rule in enumerate(rules)]
    return evaluate(asked or request(), Snapshot(), POLICY, NOW, rules=named)


# All rules run.


def test_the_rules_are_those_of_the_design_in_its_order() -> None:
    assert [name for name, _ in RULES] == NAMES[:-1]


def test_every_rule_leaves_a_finding_whatever_the_others_say() -> None:
    worst = replace(
        GRANTED,
        suppressions=(suppression("erased"),),
        consent=(record("withdrawn"),),
        handovers=(handover(NOW),),
    )
    for snapshot in (Snapshot(), GRANTED, worst):
        decision = evaluate(request(expires_at=NOW), snapshot, RICH_POLICY, NOW)
        assert [finding.rule for finding in decision.findings] == NAMES


def test_each_finding_has_a_reason_and_a_sentence() -> None:
    for finding in evaluate(request(), GRANTED, RICH_POLICY, NOW).findings:
        assert finding.reason in set(Reason)
        assert finding.text.endswith(".")


# How they add up.


@pytest.mark.parametrize(
    ("rules", "outcome", "until"),
    [
        ((), Outcome.ALLOW, None),
        ((ALLOWS,), Outcome.ALLOW, None),
        ((ALLOWS, DEFERS), Outcome.DEFER, NOW + DAY),
        ((DEFERS, DEFERS_LONGER, ALLOWS), Outcome.DEFER, NOW + 2 * DAY),
        ((DENIES, DEFERS_LONGER), Outcome.DENY, None),
        ((ALLOWS, DENIES), Outcome.DENY, None),
        ((ALLOWS, DEFERS, DENIES, DEFERS_LONGER), Outcome.DENY, None),
    ],
    ids=["none", "allow", "defer", "latest", "deny over defer", "deny over allow", "all"],
)
def test_deny_beats_defer_beats_allow_and_the_latest_defer_wins(
    rules: tuple[Rule, ...], outcome: Outcome, until: datetime | None
) -> None:
    for order in itertools.permutations(rules):
        decision = decided(*order)
        assert (decision.outcome, decision.until) == (outcome, until)


def test_a_deferral_says_who_deferred_and_a_denial_who_denied() -> None:
    assert decided(DEFERS, ALLOWS, DEFERS_LONGER).reasons == ("later", "much_later")
    assert decided(DEFERS, DENIES).reasons == ("no",)
    assert decided(ALLOWS).reasons == ()
    assert decided(ALLOWS).reason is None
    assert [finding.rule for finding in decided(ALLOWS, DENIES).determining] == ["rule1"]


@pytest.mark.parametrize(
    ("spare", "outcome"), [(TICK, Outcome.DEFER), (0 * TICK, Outcome.DENY), (-TICK, Outcome.DENY)]
)
def test_a_deferral_to_or_past_the_expiry_is_a_denial(spare: Any, outcome: Outcome) -> None:
    decision = decided(DEFERS, DEFERS_LONGER, asked=request(expires_at=NOW + 2 * DAY + spare))
    assert decision.outcome is outcome
    assert outcome is Outcome.DEFER or decision.reasons == ("expired",)


def test_an_expired_message_is_denied_whatever_the_rules_say() -> None:
    assert decided(ALLOWS, asked=request(expires_at=NOW)).reasons == ("expired",)


def test_where_a_rule_denies_the_deferral_of_another_does_not_count_as_expiry() -> None:
    assert decided(DENIES, DEFERS, asked=request(expires_at=NOW + TICK)).reasons == ("no",)


def test_quiet_hours_and_a_cap_that_both_defer_wait_for_the_later() -> None:
    cap = Cap(limit=1, window=7 * DAY, per=Per.MERCHANT, over=Over.DEFER)
    policy = purpose("newsletter", caps=(cap,), quiet_hours="evenings")
    policy = replace(policy, quiet_hours={"evenings": hours()})
    night = datetime.fromisoformat("2026-05-12T22:00:00+00:00")
    sent = replace(GRANTED, handovers=(handover(night - 2 * DAY),))
    decision = evaluate(request(), sent, policy, night)
    assert (decision.outcome, decision.until) == (Outcome.DEFER, night + 5 * DAY)
    assert set(decision.reasons) == {"cap_reached", "quiet_hours"}


# Fail closed.


@pytest.mark.parametrize(
    "error", [ValueError("anna@example.dk"), KeyError("x"), ZeroDivisionError(), AssertionError()]
)
def test_a_rule_that_raises_denies_and_is_named(error: Exception) -> None:
    def breaks(*_: object) -> Finding:
        raise error

    decision = decided(ALLOWS, breaks, ALLOWS)
    (broken,) = decision.determining
    assert (decision.outcome, broken.reason, broken.rule) == (Outcome.DENY, "rule_error", "rule1")
    assert type(error).__name__ in broken.text
    assert "anna" not in json.dumps(decision.to_json())
    assert len(decision.findings) == 4


@pytest.mark.parametrize("answer", [None, True, "allow", Outcome.ALLOW, ()])
def test_a_rule_that_answers_with_something_else_denies(answer: Any) -> None:
    decision = decided(says(answer))
    assert (decision.outcome, decision.reasons) == (Outcome.DENY, ("rule_error",))


def test_a_rule_that_defers_without_saying_until_when_is_never_read_as_an_allow() -> None:
    def endless(*_: object) -> Finding:
        return Finding(outcome=Outcome.DEFER, reason="later", text="Some day.")

    assert decided(endless).outcome is Outcome.DENY
    assert decided(ALLOWS, endless, DEFERS).outcome is Outcome.DENY


def test_a_rule_that_defers_to_a_naive_time_denies_instead_of_breaking_the_evaluation() -> None:
    def naive(*_: object) -> Finding:
        return Finding.defer((NOW + DAY).replace(tzinfo=None), "later", "Later.")

    for rules in ((naive,), (naive, DEFERS)):
        for asked in (request(), request(expires_at=NOW + 9 * DAY)):
            decision = decided(*rules, asked=asked)
            assert (decision.outcome, decision.reasons) == (Outcome.DENY, ("rule_error",))


def test_a_rule_that_allows_until_some_time_is_no_deferral() -> None:
    def odd(*_: object) -> Finding:
        return Finding(outcome=Outcome.ALLOW, reason="fine", text="Fine.", until=NOW + DAY)

    assert decided(odd).outcome is not Outcome.DEFER


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"merchant": "stranger"}, "unknown_merchant"), ({"purpose": "whatever"}, "unknown_purpose")],
)
def test_an_unknown_merchant_or_purpose_is_denied(asked: dict[str, str], reason: str) -> None:
    decision = evaluate(request(**asked), GRANTED, POLICY, NOW)
    assert (decision.outcome, decision.reasons) == (Outcome.DENY, (reason,))
    (value,) = asked.values()
    assert value in decision.findings[0].text


def test_an_unknown_zone_is_denied() -> None:
    policy = replace(purpose("newsletter", quiet_hours="evenings"), quiet_hours={"evenings": hours()})
    assert evaluate(request(timezone="Mars/Base"), GRANTED, policy, NOW).outcome is Outcome.DENY


def test_quiet_hours_that_the_policy_does_not_have_are_denied() -> None:
    policy = purpose("newsletter", quiet_hours="misspelt")
    assert evaluate(request(), GRANTED, policy, NOW).reasons == ("rule_error",)


# The decision as a value.


def test_a_decision_says_when_it_was_made_and_under_which_policy() -> None:
    decision = evaluate(request(), GRANTED, POLICY, NOW)
    assert (decision.outcome, decision.at, decision.policy) == (Outcome.ALLOW, NOW, POLICY.hash)


def test_findings_and_decisions_are_frozen_and_keyword_only() -> None:
    decision = decided(DENIES)
    with pytest.raises(FrozenInstanceError):
        decision.outcome = Outcome.ALLOW  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        decision.findings[0].outcome = Outcome.ALLOW  # type: ignore[misc]
    with pytest.raises(TypeError):
        Finding("rule", Outcome.ALLOW, "fine", "Fine.")  # type: ignore[call-arg]


def test_a_finding_can_be_signed_without_changing_the_unsigned_one() -> None:
    finding = Finding.deny("no", "No.")
    assert (finding.by("mine").rule, finding.rule) == ("mine", "")
    assert hash(finding.by("mine")) == hash(Finding.deny("no", "No.").by("mine"))


# Properties of whole worlds.

TIMES = [NOW - days * DAY for days in (200, 181, 180, 61, 31, 30, 15, 14, 8, 7, 1, 0)] + [
    NOW - 7 * DAY + TICK,
    NOW - 30 * DAY + TICK,
    NOW + TICK,
]
times = st.sampled_from(TIMES)
merchants = st.sampled_from(sorted(RICH_POLICY.merchants))
purposes = st.sampled_from(sorted(RICH_POLICY.purposes))
points = {"one": ("email-1", "sms-1"), "other": ("email-2", "sms-2")}


def consents(of: str) -> st.SearchStrategy[Any]:
    permissions = st.builds(
        record,
        st.sampled_from(("granted", "granted", "soft_opt_in", "requested")),
        contact_point_id=st.sampled_from(points[of]),
        party=st.sampled_from(("m1", "g", "m3", "post", "trust")),
        channel=st.sampled_from(("email", "sms")),
        purpose=purposes,
        occurred_at=times,
    )
    refusals = st.builds(
        record,
        st.sampled_from(("withdrawn", "objected", "refused")),
        contact_point_id=st.sampled_from(points[of]),
        party=st.sampled_from(("m1", "g", "*")),
        purpose=st.sampled_from(("newsletter", "marketing", "review", "*")),
        occurred_at=times,
        includes_service=st.booleans(),
    )
    return permissions | refusals


def worlds(of: str) -> st.SearchStrategy[Snapshot]:
    """What is known of one person."""
    return st.builds(
        Snapshot,
        consent=st.lists(consents(of), max_size=5).map(tuple),
        suppressions=st.lists(
            st.builds(
                suppression,
                st.sampled_from(("hard_bounce", "complaint", "erased", "manual")),
                contact_point_id=st.sampled_from(points[of]),
                created_at=times,
                expires_at=st.none() | times,
            ),
            max_size=1,
        ).map(tuple),
        handovers=st.lists(
            st.builds(
                handover,
                times,
                merchant=merchants,
                purpose=purposes,
                channel=st.sampled_from(("email", "sms")),
                dedupe_key=st.sampled_from(("key", "other")),
            ),
            max_size=4,
        ).map(tuple),
        asks=st.lists(st.builds(ask, merchants, times), max_size=2).map(tuple),
    )


bought = st.none() | st.builds(
    purchase,
    seller=merchants,
    purchased_at=st.none() | times,
    delivered_at=st.none() | times,
    reviewed_at=st.sampled_from((None, None, NOW)),
    asks=st.lists(st.builds(ask, merchants, times), max_size=2).map(tuple),
)
asked = st.builds(
    request,
    merchant=merchants,
    purpose=purposes,
    channel=st.sampled_from(("email", "sms")),
    contact_point_id=st.sampled_from(points["one"]),
    role=st.sampled_from(("buyer", "recipient")),
    expires_at=st.sampled_from((None, None, NOW, NOW + TICK, NOW + 20 * DAY)),
    text=st.sampled_from(("hello anna@example.dk", "20% off")),
)
policies = st.sampled_from((POLICY, RICH_POLICY))
nows = st.sampled_from((NOW, NOW.replace(hour=22)))
plenty = settings(max_examples=80, deadline=None)


def joined(one: Snapshot, other: Snapshot) -> Snapshot:
    """One person's snapshot after both were linked; the purchase is what it was."""
    return Snapshot(
        consent=one.consent + other.consent,
        suppressions=one.suppressions + other.suppressions,
        handovers=one.handovers + other.handovers,
        asks=one.asks + other.asks,
        purchase=one.purchase,
    )


@settings(max_examples=250, deadline=None)
@given(asked, worlds("one"), worlds("other"), bought, policies, nows)
def test_linking_never_turns_a_denial_into_an_allow_nor_a_wait_into_a_shorter_one(
    req: Request, one: Snapshot, other: Snapshot, about: Any, policy: Policy, now: datetime
) -> None:
    one = replace(one, purchase=about)
    before = evaluate(req, one, policy, now)
    after = evaluate(req, joined(one, other), policy, now)
    if before.outcome is Outcome.DENY:
        assert after.outcome is Outcome.DENY
    elif before.outcome is Outcome.DEFER:
        assert after.outcome is not Outcome.ALLOW
        assert after.until is None or before.until is None or after.until >= before.until


def _narrow_purposes(policy: Policy, **changes: Callable[[Purpose], Any]) -> Policy:
    """Change fields of every purpose, each to what a function of the purpose says."""
    changed = {
        name: replace(kind, **{field: of(kind) for field, of in changes.items()})
        for name, kind in policy.purposes.items()
    }
    return replace(policy, purposes=changed)


def _narrow_reviews(policy: Policy, **changes: Any) -> Policy:
    return replace(policy, review_requests=replace(policy.review_requests, **changes))


NARROWER: list[Callable[[Policy], Policy]] = [
    lambda policy: _narrow_purposes(
        policy, accepts=lambda kind: kind.accepts - SOFT if kind.accepts > SOFT else kind.accepts
    ),
    lambda policy: _narrow_purposes(policy, dedupe=lambda kind: (kind.dedupe or 0 * DAY) + 9 * DAY),
    lambda policy: _narrow_purposes(
        policy, caps=lambda kind: (*kind.caps, Cap(limit=1, window=40 * DAY, per=Per.PERSON))
    ),
    lambda policy: _narrow_purposes(
        policy,
        caps=lambda kind: tuple(
            replace(cap, limit=max(1, cap.limit - 1), window=2 * cap.window, over=Over.DENY)
            for cap in kind.caps
        ),
    ),
    lambda policy: _narrow_purposes(policy, audience=lambda _: "buyer"),
    lambda policy: replace(
        policy,
        quiet_hours={
            name: replace(quiet, allow=dict(list(quiet.allow.items())[1:]), holidays=True)
            for name, quiet in policy.quiet_hours.items()
        },
    ),
    lambda policy: replace(policy, promotion_markers=(*policy.promotion_markers, "hello")),
    lambda policy: _narrow_reviews(policy, asks_per_purchase=1),
    lambda policy: _narrow_reviews(policy, per_person=Limit(limit=1, window=400 * DAY)),
    lambda policy: _narrow_reviews(policy, per_person_and_merchant=Limit(limit=1, window=400 * DAY)),
    lambda policy: _narrow_reviews(policy, yield_for=None),
    lambda policy: _narrow_reviews(policy, expires=policy.review_requests.expires - 5 * DAY),
    lambda policy: _narrow_reviews(policy, hold_for_cases=True),
    lambda policy: replace(
        policy,
        merchants={name: replace(who, asks_for_reviews=True) for name, who in policy.merchants.items()},
    ),
]


@settings(max_examples=400, deadline=None)
@given(
    asked, worlds("one"), bought, policies, nows, st.lists(st.sampled_from(NARROWER), min_size=1, max_size=4)
)
def test_a_narrower_policy_never_allows_more(
    req: Request,
    known: Snapshot,
    about: Any,
    policy: Policy,
    now: datetime,
    narrowings: list[Callable[[Policy], Policy]],
) -> None:
    known = replace(known, purchase=about)
    narrower = policy
    for narrow in narrowings:
        narrower = narrow(narrower)
    if evaluate(req, known, narrower, now).outcome is Outcome.ALLOW:
        assert evaluate(req, known, policy, now).outcome is Outcome.ALLOW


@plenty
@given(asked, worlds("one"), bought, policies, nows)
def test_a_decision_survives_json_and_names_no_address(
    req: Request, known: Snapshot, about: Any, policy: Policy, now: datetime
) -> None:
    decision = evaluate(req, replace(known, purchase=about), policy, now)
    text = json.dumps(decision.to_json())
    assert Decision.from_json(json.loads(text)) == decision
    assert "anna@" not in text


@plenty
@given(asked, worlds("one"), bought, policies, nows)
def test_the_same_arguments_give_the_same_decision(
    req: Request, known: Snapshot, about: Any, policy: Policy, now: datetime
) -> None:
    known = replace(known, purchase=about)
    assert evaluate(req, known, policy, now) == evaluate(req, known, replace(policy), now)


@plenty
@given(asked, worlds("one"), bought, policies, nows, st.randoms(use_true_random=False))
def test_the_order_of_the_rules_is_irrelevant(
    req: Request, known: Snapshot, about: Any, policy: Policy, now: datetime, rng: random.Random
) -> None:
    known = replace(known, purchase=about)
    shuffled = list(RULES)
    rng.shuffle(shuffled)
    one, two = (evaluate(req, known, policy, now, rules=rules) for rules in (RULES, shuffled))
    assert (one.outcome, one.until) == (two.outcome, two.until)
    assert sorted(map(str, one.reasons)) == sorted(map(str, two.reasons))
    assert {finding.rule: finding for finding in one.findings} == {
        finding.rule: finding for finding in two.findings
    }


@plenty
@given(asked, worlds("one"), bought, policies, nows, st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_known_is_irrelevant(
    req: Request, known: Snapshot, about: Any, policy: Policy, now: datetime, rng: random.Random
) -> None:
    known = replace(known, purchase=about)
    changes: dict[str, Any] = {}
    for name in ("consent", "suppressions", "handovers", "asks"):
        shuffled = list(getattr(known, name))
        rng.shuffle(shuffled)
        changes[name] = tuple(shuffled)
    one, two = evaluate(req, known, policy, now), evaluate(req, replace(known, **changes), policy, now)
    assert one == two


@plenty
@given(asked, worlds("one"), bought, policies)
def test_deciding_changes_nothing(req: Request, known: Snapshot, about: Any, policy: Policy) -> None:
    known = replace(known, purchase=about)
    before = (repr(req), repr(known), policy.text)
    evaluate(req, known, policy, NOW)
    assert (repr(req), repr(known), policy.text) == before


def test_the_worlds_lead_to_every_outcome_so_that_the_properties_prove_something() -> None:
    outcomes: set[Outcome] = set()
    simple: Callable[..., Decision] = evaluate
    outcomes.add(simple(request(), GRANTED, RICH_POLICY, NOW).outcome)
    outcomes.add(simple(request(), GRANTED, RICH_POLICY, NOW.replace(hour=22)).outcome)
    outcomes.add(simple(request(), Snapshot(), RICH_POLICY, NOW).outcome)
    assert outcomes == set(Outcome)


# What the examples of section 1 come to.


def test_the_parcel_the_carrier_yields_to_the_shop() -> None:
    policy = merchant("m1", asks_for_reviews=True)
    consent = tuple(record("granted", party=party, purpose="review_request") for party in ("m1", "post"))
    known = Snapshot(consent=consent, purchase=purchase())
    carrier = request(merchant="post", purpose="review_request")
    shop = request(merchant="m1", purpose="review_request")
    assert evaluate(carrier, known, policy, NOW).reasons == ("seller_asks_itself",)
    assert evaluate(shop, known, policy, NOW).outcome is Outcome.ALLOW


def test_the_bouquet_the_woman_who_received_it_is_not_asked() -> None:
    known = Snapshot(consent=(record("granted", purpose="review_request"),), purchase=purchase())
    decision = evaluate(request(purpose="review_request", role="recipient"), known, POLICY, NOW)
    assert decision.reasons == ("not_the_buyer",)


def test_a_marketing_purpose_without_grounds_is_never_taken_for_a_service() -> None:
    """The config refuses such a purpose; a policy made by hand must fail closed as well."""
    policy = purpose("newsletter", accepts=frozenset())
    assert evaluate(request(), Snapshot(), policy, NOW).outcome is Outcome.DENY
    assert evaluate(request(), GRANTED, purpose("newsletter", accepts=CONSENT), NOW).outcome is Outcome.ALLOW


def nested(times: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(times):
        found = [found]
    return found


@pytest.mark.parametrize(
    "evidence",
    [
        {"ids": {1, 2}},
        {"half": "\ud800"},
        {"number": float("nan")},
        {"number": 2**64},
        {"counts": {1: 2}},
        {"word": "\x00"},
        {"deep": nested(260)},
        {"deep": nested(251)},  # can be written down, and not read as part of the row that it is in
    ],
    ids=["set", "surrogate", "nan", "large", "key", "nul", "deep", "just too deep"],
)
def test_a_finding_that_cannot_be_written_down_denies(evidence: dict[str, Any]) -> None:
    """It would otherwise keep its whole batch from being decided, for ever."""
    decision = decided(says(Finding.allow("fine", "Fine.", **evidence)))
    assert (decision.outcome, decision.reasons) == (Outcome.DENY, ("rule_error",))


@pytest.mark.parametrize("until", [NOW, NOW - TICK])
def test_a_deferral_that_is_over_before_it_begins_denies(until: datetime) -> None:
    """It would otherwise be decided again at once, for ever."""
    decision = decided(says(Finding.defer(until, "later", "Later.")))
    assert (decision.outcome, decision.reasons) == (Outcome.DENY, ("rule_error",))
