"""The fourteen cases of DESIGN.md section 4, by number, at the resolver and at the rule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from core_builders import DAY, EITHER, NOW, POLICY, TICK, asked_by, record, request

from notifygate.consent import ConsentRecord, Query, effective
from notifygate.decision import Outcome
from notifygate.policy import PENDING_FOR
from notifygate.rules import consent

T0, T1, T2, T3, T4 = (NOW + number * DAY for number in range(5))
ASK_ALL = {"merchant": "m1", "channel": "email", "purpose": "newsletter", "contact_point_id": "email-1"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One query against one history: `reason` is the rule's; None stands for allow."""

    name: str
    events: tuple[ConsentRecord, ...]
    reason: str | None
    at: datetime = T4
    merchant: str = "m1"
    channel: str = "email"
    purpose: str = "newsletter"
    point: str = "email-1"


GRANT = record("granted", occurred_at=T0, event_id="grant")
ALL_WITHDRAWN = record("withdrawn", occurred_at=T1, event_id="withdrawal")
GRANT_AGAIN = record("granted", occurred_at=T2, event_id="grant-again")
GRANT_TO_GROUP = record("granted", party="g", occurred_at=T2, event_id="grant-to-group")
SALE = record("soft_opt_in", occurred_at=T0, event_id="sale")
OBJECTION = record("objected", party="m1", purpose="marketing", occurred_at=T1, event_id="objection")
NEW_SALE = record("soft_opt_in", occurred_at=T2, event_id="new-sale")
SAME_SCOPE = {"party": "m1", "channel": "email", "purpose": "newsletter"}
ASKED = record("requested", occurred_at=T0, event_id="asked")
REVIEW_GRANT = record("granted", purpose="review_request", occurred_at=T0, event_id="review-grant")
PHONE_GRANT = record(
    "granted", contact_point_id="sms-1", channel="sms", occurred_at=T0, event_id="phone-grant"
)
PHONE_WITHDRAWAL = record("withdrawn", contact_point_id="sms-1", occurred_at=T1, event_id="phone-withdrawal")
WIDE_REFUSED = "consent_withdrawn"

CASES = (
    Case(name="01 nothing is known: newsletter", events=(), reason="consent_missing"),
    Case(name="01 nothing is known: service", events=(), purpose="order_update", reason=None),
    Case(name="02 granted: the same query", events=(GRANT,), reason=None),
    Case(name="02 granted: on sms", events=(GRANT,), channel="sms", reason="consent_missing"),
    Case(name="02 granted: on sms at the phone", events=(GRANT,), channel="sms", point="sms-1",
         reason="consent_missing"),
    Case(name="02 granted: by M2", events=(GRANT,), merchant="m2", reason="consent_missing"),
    Case(name="03 all withdrawn", events=(GRANT, ALL_WITHDRAWN), reason=WIDE_REFUSED),
    Case(name="04 granted again: M1", events=(GRANT, ALL_WITHDRAWN, GRANT_AGAIN), reason=None),
    Case(name="04 granted again: M2", events=(GRANT, ALL_WITHDRAWN, GRANT_AGAIN), merchant="m2",
         reason=WIDE_REFUSED),
    Case(name="05 broader grant later: M1",
         events=(record("withdrawn", party="m1", occurred_at=T1), GRANT_TO_GROUP), reason=WIDE_REFUSED),
    Case(name="05 broader grant later: M2",
         events=(record("withdrawn", party="m1", occurred_at=T1), GRANT_TO_GROUP), merchant="m2", reason=None),
    Case(name="06 group grant, then M1 withdrawn: M1",
         events=(GRANT_TO_GROUP, record("withdrawn", party="m1", channel="email", occurred_at=T3)),
         reason=WIDE_REFUSED),
    Case(name="06 group grant, then M1 withdrawn: M2",
         events=(GRANT_TO_GROUP, record("withdrawn", party="m1", channel="email", occurred_at=T3)),
         merchant="m2", reason=None),
    Case(name="07 granted and withdrawn at one instant",
         events=(record("granted", occurred_at=T1), record("withdrawn", occurred_at=T1, **SAME_SCOPE)),
         reason=WIDE_REFUSED),
    Case(name="07 a microsecond makes the difference",
         events=(record("granted", occurred_at=T1 + TICK), record("withdrawn", occurred_at=T1, **SAME_SCOPE)),
         reason=None),
    Case(name="08 double opt-in pending", events=(ASKED,), at=T1, reason="consent_pending"),
    Case(name="08 confirmed after two days", events=(ASKED, record("granted", occurred_at=T2)), at=T2,
         reason=None),
    Case(name="08 pending until just before seven days", events=(ASKED,), at=T0 + 7 * DAY - TICK,
         reason="consent_pending"),
    Case(name="08 nothing pending after seven days", events=(ASKED,), at=T0 + 7 * DAY,
         reason="consent_missing"),
    Case(name="08 not confirmed after eight days", events=(ASKED,), at=T0 + 8 * DAY, reason="consent_missing"),
    Case(name="09 soft opt-in: before the objection", events=(SALE,), at=T1 - TICK, reason=None),
    Case(name="09 soft opt-in: after the objection", events=(SALE, OBJECTION), at=T1,
         reason="consent_objected"),
    Case(name="09 soft opt-in: a new sale does not help", events=(SALE, OBJECTION, NEW_SALE),
         reason="consent_objected"),
    Case(name="09 soft opt-in: for good", events=(SALE, OBJECTION, NEW_SALE), at=NOW + 4_000 * DAY,
         reason="consent_objected"),
    Case(name="09 soft opt-in: until an express grant",
         events=(SALE, OBJECTION, NEW_SALE, record("granted", occurred_at=T3)), reason=None),
    Case(name="10 just before it expires", events=(record("granted", occurred_at=T0, expires_at=T3),),
         at=T3 - TICK, reason=None),
    Case(name="10 when it expires", events=(record("granted", occurred_at=T0, expires_at=T3),), at=T3,
         reason="consent_expired"),
    Case(name="11 review after an objection to marketing", events=(REVIEW_GRANT, OBJECTION),
         purpose="review_request", reason="consent_objected"),
    Case(name="11 service after an objection to marketing", events=(REVIEW_GRANT, OBJECTION),
         purpose="order_update", reason=None),
    Case(name="11 a refusal of review leaves marketing alone",
         events=(GRANT, record("objected", party="m1", purpose="review", occurred_at=T1)), reason=None),
    Case(name="12 back-dated grant",
         events=(record("withdrawn", occurred_at=T2), record("granted", occurred_at=T1, recorded_at=T3)),
         reason=WIDE_REFUSED),
    Case(name="13 withdrawn at the linked phone", events=(GRANT, PHONE_WITHDRAWAL), reason=WIDE_REFUSED),
    Case(name="14 granted for the linked phone only", events=(PHONE_GRANT,), reason="consent_missing"),
    Case(name="14 granted for the linked phone only, asked on sms at the email", events=(PHONE_GRANT,),
         channel="sms", reason="consent_missing"),
    Case(name="14 granted for the linked phone: the phone itself", events=(PHONE_GRANT,), channel="sms",
         point="sms-1", reason=None),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_rule_decides_each_case_of_section_4_as_the_table_says(case: Case) -> None:
    asked = request(
        merchant=case.merchant, channel=case.channel, purpose=case.purpose, contact_point_id=case.point
    )
    finding = asked_by(consent.check, asked, now=case.at, consent=case.events)

    assert finding.outcome is (Outcome.ALLOW if case.reason is None else Outcome.DENY)
    if case.reason is not None:
        assert finding.reason == case.reason


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.purpose != "order_update"], ids=lambda case: case.name
)
def test_the_resolver_decides_each_case_of_section_4_as_the_table_says(case: Case) -> None:
    query = Query(
        contact_point_id=case.point, merchant=case.merchant, channel=case.channel, purpose=case.purpose
    )
    found = effective(case.events, query, POLICY, case.at, accepts=EITHER)

    assert found.permitted is (case.reason is None)


def test_all_fourteen_cases_are_here() -> None:
    assert {case.name[:2] for case in CASES} == {f"{number:02d}" for number in range(1, 15)}


@pytest.mark.parametrize(
    ("events", "at", "named"),
    [
        ((GRANT,), T4, "grant"),
        ((GRANT, ALL_WITHDRAWN), T4, "withdrawal"),
        ((GRANT, ALL_WITHDRAWN, GRANT_AGAIN), T4, "grant-again"),
        ((SALE, OBJECTION, NEW_SALE), T4, "objection"),
        ((ASKED,), T1, "asked"),
        ((GRANT, PHONE_WITHDRAWAL), T4, "phone-withdrawal"),
    ],
)
def test_the_finding_names_the_event_that_permits_or_refuses(
    events: tuple[ConsentRecord, ...], at: datetime, named: str
) -> None:
    assert asked_by(consent.check, now=at, consent=events).evidence["event"] == named


def test_where_nothing_speaks_either_way_the_finding_names_no_event() -> None:
    assert "event" not in asked_by(consent.check).evidence


def test_a_refusal_before_the_double_opt_in_keeps_it_refused_rather_than_pending() -> None:
    events = (record("withdrawn", occurred_at=T0), record("requested", occurred_at=T1))
    assert asked_by(consent.check, now=T2, consent=events).reason == "consent_withdrawn"


def test_a_permission_dated_in_the_future_waits() -> None:
    later = record("granted", occurred_at=T1, recorded_at=T0)
    assert asked_by(consent.check, now=T1 - TICK, consent=(later,)).reason == "consent_missing"
    assert asked_by(consent.check, now=T1, consent=(later,)).outcome is Outcome.ALLOW


def test_a_refusal_dated_in_the_future_counts_from_the_moment_it_is_recorded() -> None:
    later = record("withdrawn", occurred_at=T4, recorded_at=T1)
    assert asked_by(consent.check, now=T1, consent=(GRANT, later)).reason == "consent_withdrawn"


def test_an_invalidated_permission_is_void() -> None:
    void = record("invalidated", invalidates="grant", occurred_at=T2)
    finding = asked_by(consent.check, consent=(GRANT, void), now=T2)
    assert (finding.outcome, finding.reason) == (Outcome.DENY, "consent_invalidated")
    assert finding.evidence["event"] == "grant"


def test_invalidating_one_permission_leaves_another_in_force() -> None:
    void = record("invalidated", invalidates="grant", occurred_at=T3)
    finding = asked_by(consent.check, consent=(GRANT, GRANT_AGAIN, void), now=T4)
    assert finding.evidence["event"] == "grant-again"


def test_a_refusal_cannot_be_invalidated() -> None:
    void = record("invalidated", invalidates="withdrawal", occurred_at=T3)
    assert asked_by(consent.check, consent=(GRANT, ALL_WITHDRAWN, void), now=T4).reason == "consent_withdrawn"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("withdrawn", "consent_withdrawn"),
        ("objected", "consent_objected"),
        ("refused", "consent_refused"),
    ],
)
def test_each_kind_of_refusal_has_its_reason(state: str, reason: str) -> None:
    assert asked_by(consent.check, consent=(GRANT, record(state, occurred_at=T1)), now=T4).reason == reason


@pytest.mark.parametrize(
    ("scope", "covers"),
    [
        ({"party": "*"}, True),
        ({"party": "g"}, True),
        ({"party": "m1"}, True),
        ({"party": "m2"}, False),
        ({"party": "m3"}, False),
        ({"channel": "email"}, True),
        ({"channel": "sms"}, False),
        ({"purpose": "newsletter"}, True),
        ({"purpose": "marketing"}, True),
        ({"purpose": "review"}, False),
        ({"purpose": "service"}, False),
        ({"purpose": "offers"}, False),
    ],
    ids=str,
)
def test_a_refusal_covers_all_below_what_it_names_and_nothing_beside_it(
    scope: dict[str, str], covers: bool
) -> None:
    refusal = record("withdrawn", occurred_at=T1, **scope)
    finding = asked_by(consent.check, consent=(GRANT, refusal), now=T4)
    assert (finding.outcome is Outcome.DENY) is covers


@pytest.mark.parametrize(
    ("scope", "undone"),
    [
        ({"party": "*"}, True),
        ({"party": "g"}, True),
        ({"party": "m1"}, True),
        ({"channel": "email"}, True),
        ({"purpose": "marketing"}, True),
        ({"party": "g", "channel": "email", "purpose": "newsletter"}, True),
    ],
    ids=str,
)
def test_a_later_grant_undoes_a_refusal_whose_scope_holds_it(scope: dict[str, str], undone: bool) -> None:
    refusal = record("withdrawn", occurred_at=T1, **scope)
    finding = asked_by(consent.check, consent=(refusal, GRANT_AGAIN), now=T4)
    assert (finding.outcome is Outcome.ALLOW) is undone


def test_a_grant_to_a_group_undoes_a_refusal_of_the_group() -> None:
    refusal = record("withdrawn", party="g", occurred_at=T1)
    assert asked_by(consent.check, consent=(refusal, GRANT_TO_GROUP), now=T4).outcome is Outcome.ALLOW


def test_a_narrow_refusal_holds_beside_a_broad_one_that_a_grant_undid() -> None:
    broad = record("withdrawn", occurred_at=T0)
    narrow = record("withdrawn", party="m1", channel="email", purpose="newsletter", occurred_at=T3)
    assert asked_by(consent.check, consent=(broad, GRANT_AGAIN, narrow), now=T4).outcome is Outcome.DENY


def test_a_merchant_that_left_its_group_is_no_longer_covered_by_the_grant_to_it() -> None:
    finding = asked_by(consent.check, request(merchant="m3"), consent=(GRANT_TO_GROUP,), now=T4)
    assert finding.reason == "consent_missing"


def test_a_permission_recorded_in_the_ledger_with_an_asterisk_permits_nothing() -> None:
    for name in ("party", "channel", "purpose"):
        broad = record("granted", occurred_at=T0, **{name: "*"})
        assert asked_by(consent.check, consent=(broad,), now=T4).outcome is Outcome.DENY, name


def test_a_class_as_the_purpose_of_a_permission_permits_nothing() -> None:
    broad = record("granted", occurred_at=T0, purpose="marketing")
    assert asked_by(consent.check, consent=(broad,), now=T4).outcome is Outcome.DENY


def test_a_double_opt_in_may_be_confirmed_for_seven_days() -> None:
    assert timedelta(days=7) == PENDING_FOR
