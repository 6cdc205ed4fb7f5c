"""`gate.log.story` tells all that is known of a message, also when parts of it are no longer kept."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from support.channel import IN_DOUBT, ScriptedChannel, install
from support.clock import SimulatedClock
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)
from support.tables import plain_engine

from notifygate import Gateway, NotFound, Status
from notifygate.audit import Story
from notifygate.consent import State


@pytest.fixture
def told(gate: Gateway, clock: SimulatedClock) -> str:
    """A review request that was sent, about a purchase with two names, with the consent of the buyer."""
    purchase = delivered_purchase(clock.now)
    gate.consent.grant(
        ANNA_EMAIL,
        party="cykelpartner",
        purpose="review_request",
        source="checkout",
        notice_version="2026-03",
        evidence="form 17",
        actor="karen",
    )
    gate.purchases.alias(purchase, "postdanmark", "PX-77")
    message_id = gate.submit(review_request(purchase, metadata={"campaign": "may"})).message_id
    gate.drain()
    assert gate.status(message_id) is Status.SENT
    return message_id


def test_tells_who_asked_on_what_permission_under_which_rules_and_what_was_sent(
    gate: Gateway, told: str
) -> None:
    story = gate.log.story(told)

    assert (story.merchant, story.purpose, story.purpose_class) == (
        "cykelpartner",
        "review_request",
        "review",
    )
    assert (story.role, story.channel, story.contact_point) == ("buyer", "email", ANNA_EMAIL)
    assert story.purchase == ("cykelpartner", "1001")
    assert story.purchase_names == (("cykelpartner", "1001"), ("postdanmark", "PX-77"))
    assert story.metadata == {"campaign": "may"}
    assert [row.kind for row in story.rows] == ["submitted", "decision", "attempt"]
    [decision] = story.decisions
    assert {finding.rule for finding in decision.findings} >= {"consent", "caps", "review_request"}
    [event] = story.consent
    assert event.state is State.GRANTED
    assert (event.source, event.evidence, event.notice_version, event.actor) == (
        *("checkout", "form 17", "2026-03"),
        "karen",
    )
    [attempt] = story.attempts
    assert attempt.state == "accepted"
    [policy] = story.policies
    assert (policy.hash, policy.text) == (decision.policy, gate.config.policy.text)


def test_the_same_story_is_told_by_the_id_of_an_attempt(gate: Gateway, told: str) -> None:
    story = gate.log.story(told)
    assert gate.log.story(story.attempts[0].attempt_id) == story


def test_json_holds_all_of_it(gate: Gateway, told: str) -> None:
    shown = json.loads(json.dumps(gate.log.story(told).to_json()))
    assert shown["consent"][0]["notice_version"] == "2026-03"
    assert shown["decisions"][0]["findings"]
    assert shown["purchase_names"][1] == {"party": "postdanmark", "reference": "PX-77"}
    assert set(Story.__dataclass_fields__) - {"purpose_class"} <= shown.keys()


def test_what_refused_is_told_with_its_evidence(gate: Gateway) -> None:
    gate.consent.object(ANNA_SMS, party="*", purpose="marketing", source="telephone", evidence="call 9")
    gate.people.link(ANNA_SMS, ANNA_EMAIL, evidence="one account")
    message_id = gate.submit(newsletter()).message_id
    gate.drain()
    story = gate.log.story(message_id)
    assert story.reason == "consent_objected"
    [event] = story.consent
    assert (event.state, event.contact_point, event.evidence) == (State.OBJECTED, ANNA_SMS, "call 9")


def test_doubts_resolutions_and_cancellations_are_told(gate: Gateway, clock: SimulatedClock) -> None:
    install(gate, ScriptedChannel(IN_DOUBT))
    doubtful = gate.submit(order_update()).message_id
    gate.drain()
    gate.doubt.resolve(doubtful, "sent", evidence="mail log")
    assert [row.kind for row in gate.log.story(doubtful).rows][-2:] == ["attempt", "resolution"]
    cancelled = gate.submit(order_update(text="Another.")).message_id
    gate.cancel(cancelled, reason="refunded")
    story = gate.log.story(cancelled)
    assert (story.status, story.reason) == (Status.CANCELLED, "refunded")
    assert [row.kind for row in story.rows] == ["submitted", "cancelled"]


def test_after_erasure_all_but_the_address_is_told(gate: Gateway, told: str, ledger_url: str) -> None:
    before = gate.log.story(told)
    with plain_engine(ledger_url) as engine, engine.begin() as conn:
        conn.execute(sa.text("UPDATE contact_points SET address = NULL"))
        conn.execute(
            sa.text("UPDATE messages SET deliver_to = NULL, subject = NULL, text = NULL, html = NULL")
        )
        conn.execute(
            sa.text("UPDATE consent_events SET source = NULL, evidence = NULL, sale_ref = NULL, actor = NULL")
        )
    after = gate.log.story(told)
    assert after.contact_point is None
    assert "anna" not in json.dumps(after.to_json())
    assert after.rows == before.rows
    assert after.decisions == before.decisions
    assert [event.event_id for event in after.consent] == [event.event_id for event in before.consent]


def test_a_message_that_is_no_longer_kept_is_told_from_the_log(
    gate: Gateway, told: str, ledger_url: str
) -> None:
    before = gate.log.story(told)
    with plain_engine(ledger_url) as engine, engine.begin() as conn:
        for table in ("reservations", "messages"):
            conn.execute(sa.text(f"DELETE FROM {table}"))
    after = gate.log.story(told)
    assert (after.status, after.attempts) == (None, ())
    for name in (
        "merchant",
        "purpose",
        "purpose_class",
        "role",
        "channel",
        "contact_point",
        "purchase_names",
    ):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.rows, after.consent, after.policies) == (before.rows, before.consent, before.policies)


def test_an_unknown_id_is_not_found(gate: Gateway) -> None:
    for unknown in ("msg_x", "att_x"):
        with pytest.raises(NotFound, match=unknown):
            gate.log.story(unknown)


def test_the_rules_then_in_force_are_told_in_sentences(gate: Gateway, told: str) -> None:
    [policy] = gate.log.story(told).policies
    about = dict(policy.in_sentences_about("cykelpartner", "review_request"))
    assert set(about) == {
        "Merchant Cykelpartner.dk (cykelpartner)",
        'Purpose "review_request"',
        "Review requests: how often",
        "Review requests: who goes first",
        "Review requests: when",
    }
    assert any("at most" in sentence for sentence in about["Review requests: how often"])
    assert len(policy.in_sentences()) > len(about)
    assert not any(
        title.startswith("Review requests")
        for title, _ in policy.in_sentences_about("cykelpartner", "newsletter")
    )
