"""DESIGN.md section 4 through the public API: every state, what is refused when written, and the past."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from support.channel import FAILED, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate, Outbox
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)
from support.tables import row_counts

from notifygate import (
    ConsentEvent,
    Gateway,
    InvalidConsent,
    InvalidContactPoint,
    InvalidMessage,
    NotFound,
    Outcome,
    Reason,
    Status,
)

GRANT: dict[str, Any] = {
    "state": "granted",
    "party": "cykelpartner",
    "channel": "email",
    "purpose": "newsletter",
}
SOFT: dict[str, Any] = GRANT | {"state": "soft_opt_in", "sale_ref": "1001", "opt_out_offered": True}


def standing(gate: Gateway, merchant: str = "cykelpartner", **more: Any) -> str:
    asked = {"merchant": merchant, "purpose": "newsletter"} | more
    return str(gate.consent.effective(ANNA_EMAIL, **asked).standing)


class TestStates:
    def test_nothing_said_is_no_permission(self, gate: Gateway) -> None:
        assert standing(gate) == "missing"
        assert gate.check(newsletter()).reasons == (Reason.CONSENT_MISSING,)
        assert gate.check(order_update()).outcome is Outcome.ALLOW

    def test_granted_permits_exactly_what_it_names(self, gate: Gateway) -> None:
        event_id = gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")

        found = gate.consent.effective(ANNA_EMAIL, merchant="cykelpartner", purpose="newsletter")
        assert found.permitted
        assert found.event is not None
        assert found.event.event_id == event_id
        assert standing(gate, merchant="florist") == "missing"
        assert standing(gate, purpose="review_request") == "missing"
        assert standing(gate, channel="sms") == "missing"

    def test_granted_to_a_group_permits_its_merchants(self, gate: Gateway) -> None:
        gate.consent.grant(ANNA_EMAIL, party="interflora", purpose="newsletter")

        assert standing(gate, merchant="florist") == "permitted"
        assert standing(gate, merchant="headoffice") == "permitted"
        assert standing(gate) == "missing"

    def test_soft_opt_in_permits_and_is_named_as_such(self, gate: Gateway) -> None:
        gate.consent.soft_opt_in(
            ANNA_EMAIL, party="cykelpartner", purpose="newsletter", sale_ref="1001", opt_out_offered=True
        )

        decision = gate.check(newsletter())
        [finding] = [finding for finding in decision.findings if finding.rule == "consent"]
        assert (finding.outcome, finding.reason) == (Outcome.ALLOW, Reason.CONSENT_SOFT_OPT_IN)

    def test_soft_opt_in_never_outlives_a_refusal_but_a_grant_does(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        soft: dict[str, Any] = {"party": "cykelpartner", "purpose": "newsletter", "opt_out_offered": True}
        gate.consent.soft_opt_in(ANNA_EMAIL, sale_ref="1001", **soft)
        clock.advance(hours=1)
        gate.consent.object(ANNA_EMAIL, party="cykelpartner", purpose="marketing")
        clock.advance(hours=1)
        gate.consent.soft_opt_in(ANNA_EMAIL, sale_ref="1002", **soft)
        assert standing(gate) == "refused"

        clock.advance(hours=1)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        assert standing(gate) == "permitted"

    def test_requested_permits_nothing_and_lapses_after_seven_days(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.record(ConsentEvent(contact_point=ANNA_EMAIL, **GRANT | {"state": "requested"}))

        assert standing(gate) == "pending"
        assert gate.check(newsletter()).reasons == (Reason.CONSENT_PENDING,)
        clock.advance(days=7)
        assert standing(gate) == "missing"

    @pytest.mark.parametrize(
        ("refuse", "reason"),
        [
            ("withdraw", Reason.CONSENT_WITHDRAWN),
            ("object", Reason.CONSENT_OBJECTED),
            ("refuse", Reason.CONSENT_REFUSED),
        ],
    )
    def test_a_refusal_ends_a_permission_and_a_later_grant_the_refusal(
        self, gate: Gateway, clock: SimulatedClock, refuse: str, reason: Reason
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        clock.advance(hours=1)
        getattr(gate.consent, refuse)(ANNA_EMAIL)
        assert gate.check(newsletter()).reasons == (reason,)

        clock.advance(hours=1)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        assert standing(gate) == "permitted"
        assert standing(gate, merchant="florist") == "refused"

    def test_at_the_same_instant_the_refusal_wins(self, gate: Gateway) -> None:
        gate.consent.withdraw(ANNA_EMAIL)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")

        assert standing(gate) == "refused"

    def test_a_grant_dated_before_a_refusal_is_too_late(self, gate: Gateway, clock: SimulatedClock) -> None:
        gate.consent.withdraw(ANNA_EMAIL)
        gate.consent.grant(
            ANNA_EMAIL, party="cykelpartner", purpose="newsletter", occurred_at=clock.ago(hours=1)
        )

        assert standing(gate) == "refused"

    def test_a_broader_grant_never_undoes_a_narrower_refusal(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.withdraw(ANNA_EMAIL, party="florist")
        clock.advance(hours=1)
        gate.consent.grant(ANNA_EMAIL, party="interflora", purpose="newsletter")

        assert standing(gate, merchant="florist") == "refused"
        assert standing(gate, merchant="headoffice") == "permitted"

    def test_a_refusal_of_marketing_covers_reviews_and_one_of_reviews_leaves_marketing(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        for purpose in ("newsletter", "review_request"):
            gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose=purpose)
        clock.advance(hours=1)
        gate.consent.object(ANNA_EMAIL, party="cykelpartner", purpose="review")
        assert standing(gate) == "permitted"
        assert standing(gate, purpose="review_request") == "refused"

        gate.consent.object(ANNA_EMAIL, party="cykelpartner", purpose="marketing")
        assert standing(gate) == "refused"

    def test_a_service_message_heeds_only_a_refusal_that_includes_it(self, gate: Gateway) -> None:
        gate.consent.withdraw(ANNA_EMAIL)
        assert gate.check(order_update()).outcome is Outcome.ALLOW

        gate.consent.withdraw(ANNA_EMAIL, includes_service=True)
        assert gate.check(order_update()).reasons == (Reason.CONSENT_WITHDRAWN,)

    def test_a_permission_ends_at_its_expiry_and_not_before(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        ends = clock.now + timedelta(days=1)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", expires_at=ends)

        clock.set(ends - timedelta(microseconds=1))
        assert standing(gate) == "permitted"
        clock.set(ends)
        assert standing(gate) == "expired"

    def test_a_permission_dated_in_the_future_waits_and_a_refusal_does_not(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        tomorrow = clock.now + timedelta(days=1)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter", occurred_at=tomorrow)
        assert standing(gate) == "missing"
        clock.set(tomorrow)
        assert standing(gate) == "permitted"

        gate.consent.withdraw(ANNA_EMAIL, occurred_at=tomorrow + timedelta(days=1))
        assert standing(gate) == "refused"

    def test_invalidated_voids_one_permission_for_good(self, gate: Gateway, clock: SimulatedClock) -> None:
        bad = gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        gate.consent.invalidate(bad, actor="compliance", evidence="import of 2 March was wrong")
        assert standing(gate) == "invalidated"
        assert gate.check(newsletter()).reasons == (Reason.CONSENT_INVALIDATED,)

        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        assert standing(gate) == "permitted"

    def test_only_permissions_can_be_invalidated(self, gate: Gateway) -> None:
        refusal = gate.consent.withdraw(ANNA_EMAIL)

        for event_id in (refusal, "evt_unknown"):
            with pytest.raises(NotFound, match=event_id):
                gate.consent.invalidate(event_id)
        assert standing(gate) == "refused"

    def test_a_permission_can_be_void_once_its_address_is_gone(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gate = open_gate(retention={"contact_points": "365d"})
        bad = gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        clock.advance(days=366)
        list(gate.retention.run())
        assert standing(gate) == "permitted"

        event_id = gate.consent.invalidate(bad, evidence="anna@example.dk wrote", actor="compliance")

        assert standing(gate) == "invalidated"
        void = gate.consent.get(event_id)
        assert (void.invalidates, void.evidence, void.actor) == (bad, None, None)

    def test_neutral_post_sale_is_the_sellers_own_email_right_after_the_sale(
        self, open_gate: OpenGate, clock: SimulatedClock
    ) -> None:
        gate = open_gate(purposes={"review_request": {"permission": ["neutral_post_sale"]}})
        bicycle = delivered_purchase(clock.now)

        assert gate.check(review_request(bicycle)).outcome is Outcome.ALLOW
        assert Reason.CONSENT_MISSING in gate.check(review_request(bicycle, to=ANNA_SMS)).reasons
        assert Reason.CONSENT_MISSING in gate.check(review_request(bicycle, merchant="stars")).reasons
        gate.consent.refuse(ANNA_EMAIL, purpose="review")
        assert gate.check(review_request(bicycle)).reasons == (Reason.CONSENT_REFUSED,)


class TestWhatMustNotBeWritten:
    @pytest.mark.parametrize(
        ("event", "field"),
        [
            (GRANT | {"party": "*"}, "party"),
            (GRANT | {"channel": "*"}, "channel"),
            (GRANT | {"purpose": "*"}, "purpose"),
            (GRANT | {"purpose": "marketing"}, "purpose"),
            (GRANT | {"channel": "sms"}, "channel"),
            (GRANT | {"party": "nobody"}, "party"),
            (GRANT | {"purpose": "nothing"}, "purpose"),
            (GRANT | {"state": "requested", "party": "*"}, "party"),
            (SOFT | {"party": "interflora"}, "party"),
            (SOFT | {"sale_ref": None}, "sale_ref"),
            (SOFT | {"sale_ref": ""}, "sale_ref"),
            (SOFT | {"opt_out_offered": None}, "opt_out_offered"),
            (SOFT | {"opt_out_offered": False}, "opt_out_offered"),
            ({"state": "withdrawn", "party": "nobody"}, "party"),
            ({"state": "withdrawn", "channel": "fax"}, "channel"),
            ({"state": "withdrawn", "purpose": "nothing"}, "purpose"),
            ({"state": "invalidated"}, "invalidates"),
            (GRANT | {"event_id": "evt_mine"}, "event_id"),
        ],
    )
    def test_is_refused_by_the_name_of_the_field_and_leaves_nothing(
        self, gate: Gateway, ledger_url: str, event: dict[str, Any], field: str
    ) -> None:
        before = row_counts(ledger_url)

        with pytest.raises(InvalidConsent) as refused:
            gate.consent.record(ConsentEvent(contact_point=ANNA_EMAIL, **event))

        assert refused.value.field == field
        assert row_counts(ledger_url) == before

    @pytest.mark.parametrize(
        ("event", "field"),
        [
            ({"state": "maybe"}, "state"),
            (GRANT | {"occurred_at": datetime(2026, 3, 2)}, "occurred_at"),  # noqa: DTZ001
            (GRANT | {"expires_at": datetime(2026, 3, 2)}, "expires_at"),  # noqa: DTZ001
        ],
    )
    def test_is_refused_as_the_event_is_made(self, event: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidConsent) as refused:
            ConsentEvent(contact_point=ANNA_EMAIL, **event)

        assert refused.value.field == field

    @pytest.mark.parametrize("unfit", ["a\x00b", "\ud800", 1001])
    @pytest.mark.parametrize("name", ["basis", "source", "evidence", "notice_version", "sale_ref", "actor"])
    def test_is_a_text_that_no_ledger_can_hold(
        self, gate: Gateway, ledger_url: str, name: str, unfit: Any
    ) -> None:
        given: dict[str, Any] = {name: unfit}
        permission = gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        before = row_counts(ledger_url)
        records: list[Callable[[], str]] = [
            lambda: gate.consent.grant(ANNA_EMAIL, party="florist", purpose="newsletter", **given),
            lambda: gate.consent.withdraw(ANNA_EMAIL, **given),
            lambda: gate.consent.invalidate(permission, **given),
        ]

        for record in records:
            with pytest.raises(InvalidConsent) as refused:
                record()
            assert refused.value.field == name
        assert row_counts(ledger_url) == before

    def test_is_confirmed_by_a_text_that_no_ledger_can_hold(self, gate: Gateway) -> None:
        begun = gate.consent.request(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")

        with pytest.raises(InvalidConsent, match="token"):
            gate.consent.confirm(begun.token + "\ud800")
        with pytest.raises(InvalidConsent, match="source"):
            gate.consent.confirm(begun.token, source="\ud800")
        assert standing(gate) == "pending"

    def test_is_a_moment_of_recording_of_ones_own(self, gate: Gateway, clock: SimulatedClock) -> None:
        event = ConsentEvent(contact_point=ANNA_EMAIL, recorded_at=clock.ago(days=1), **GRANT)

        with pytest.raises(InvalidConsent, match="recorded_at"):
            gate.consent.record(event)

    def test_is_for_no_contact_point(self, gate: Gateway) -> None:
        with pytest.raises(InvalidContactPoint):
            gate.consent.grant("email:nobody", party="cykelpartner", purpose="newsletter")

    def test_includes_questions_about_what_is_not_in_the_config(self, gate: Gateway) -> None:
        with pytest.raises(InvalidConsent, match="merchant"):
            gate.consent.effective(ANNA_EMAIL, merchant="nobody", purpose="newsletter")
        with pytest.raises(InvalidConsent, match="purpose"):
            gate.consent.effective(ANNA_EMAIL, merchant="cykelpartner", purpose="nothing")
        with pytest.raises(InvalidMessage, match="at"):
            standing(gate, at=datetime(2026, 3, 2))  # noqa: DTZ001


class TestThePast:
    def test_is_told_by_what_was_known_then(self, gate: Gateway, clock: SimulatedClock) -> None:
        start = clock.now
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        after_grant = clock.advance(days=1)
        gate.consent.withdraw(ANNA_EMAIL)
        after_refusal = clock.advance(days=1)
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")

        assert standing(gate, at=start - timedelta(microseconds=1)) == "missing"
        assert standing(gate, at=start) == "permitted"
        assert standing(gate, at=after_grant - timedelta(microseconds=1)) == "permitted"
        assert standing(gate, at=after_grant) == "refused"
        assert standing(gate, at=after_refusal) == "permitted"

    def test_is_not_changed_by_what_is_recorded_later_and_dated_back(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        then = clock.advance(days=1)
        clock.advance(days=1)
        gate.consent.withdraw(ANNA_EMAIL, occurred_at=then - timedelta(hours=1))

        assert standing(gate, at=then) == "permitted"
        assert standing(gate) == "refused"

    def test_is_kept_whole_in_the_order_in_which_it_was_recorded(
        self, gate: Gateway, clock: SimulatedClock
    ) -> None:
        gate.consent.grant(
            ANNA_EMAIL,
            party="cykelpartner",
            purpose="newsletter",
            source="checkout",
            evidence="form 7",
            notice_version="2026-01",
            actor="web",
        )
        clock.advance(hours=1)
        gate.consent.withdraw("email:anna+shop@example.dk", occurred_at=clock.ago(days=9))

        first, second = gate.consent.history(ANNA_EMAIL)

        assert (first.state, first.basis, first.source, first.evidence) == (
            "granted",
            "consent",
            "checkout",
            "form 7",
        )
        assert (first.notice_version, first.actor, first.contact_point) == ("2026-01", "web", ANNA_EMAIL)
        assert (second.state, second.contact_point) == ("withdrawn", "email:anna+shop@example.dk")
        assert (second.occurred_at, second.recorded_at) == (clock.ago(days=9), clock.now)
        assert gate.consent.history("email:nobody@example.dk") == ()


class TestARefusalBeatsWhatIsInFlight:
    def test_between_submit_and_drain(self, gate: Gateway, clock: SimulatedClock, outbox: Outbox) -> None:
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        receipt = gate.submit(newsletter())
        clock.advance(minutes=1)
        gate.consent.withdraw(ANNA_EMAIL)
        gate.drain()

        assert gate.explain(receipt.message_id).reason == Reason.CONSENT_WITHDRAWN
        assert outbox() == []

    def test_between_a_failed_attempt_and_the_next(self, gate: Gateway, clock: SimulatedClock) -> None:
        sent = install(gate, ScriptedChannel(FAILED))
        gate.consent.grant(ANNA_EMAIL, party="cykelpartner", purpose="newsletter")
        receipt = gate.submit(newsletter())
        gate.drain()
        clock.advance(hours=1)
        gate.consent.withdraw(ANNA_EMAIL)
        gate.drain()

        assert gate.status(receipt.message_id) is Status.DENIED
        assert len(sent.taken) == 1
