"""What holds for every history of consent, and agreement with a resolver written from the text of section 4."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from core_builders import CONSENT, EITHER, NOW, POLICY, SOFT, asked_by, request
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_resolver import permitted, refused

from notifygate.consent import ConsentRecord, Query, Standing, State, effective, recorded_by
from notifygate.decision import Outcome
from notifygate.policy import Accepts
from notifygate.rules import consent

STATES = ("granted", "soft_opt_in", "requested", "withdrawn", "objected", "refused", "invalidated")
REFUSALS = ("withdrawn", "objected", "refused")
POINTS = ("email-1", "email-2", "sms-1")
PARTIES = ("m1", "m2", "m3", "g")
CHANNELS = ("email", "sms")
PURPOSES = ("newsletter", "offers", "review_request", "order_update")
CLASSES = ("service", "marketing", "review")
GROUNDS: dict[frozenset[Accepts], frozenset[str]] = {
    CONSENT: frozenset({"granted"}),
    SOFT: frozenset({"soft_opt_in"}),
    EITHER: frozenset({"granted", "soft_opt_in"}),
}

# Few different instants, so that ties and edges are hit all the time.
instants = st.integers(-4, 4).map(lambda step: NOW + timedelta(microseconds=step))
expiries = st.none() | st.integers(-1, 6).map(lambda step: NOW + timedelta(microseconds=step))


def _scope(broad: bool) -> dict[str, st.SearchStrategy[str]]:
    more = ("*",) if broad else ()
    return {
        "contact_point_id": st.sampled_from(POINTS),
        "party": st.sampled_from(PARTIES + more),
        "channel": st.sampled_from(CHANNELS + more),
        "purpose": st.sampled_from(PURPOSES + (CLASSES + more if broad else ())),
    }


@st.composite
def records(draw: st.DrawFn, states: tuple[str, ...] = STATES) -> ConsentRecord:
    state = draw(st.sampled_from(states))
    values: dict[str, Any] = {name: draw(drawn) for name, drawn in _scope(state in REFUSALS).items()}
    return ConsentRecord(
        event_id="unnumbered",
        state=State(state),
        occurred_at=draw(instants),
        recorded_at=draw(instants),
        expires_at=draw(expiries) if state in ("granted", "soft_opt_in") else None,
        includes_service=draw(st.booleans()) if state in REFUSALS else False,
        invalidates=f"evt-{draw(st.integers(0, 7))}" if state == "invalidated" else None,
        **values,
    )


def numbered(history: list[ConsentRecord]) -> list[ConsentRecord]:
    return [replace(record, event_id=f"evt-{number}") for number, record in enumerate(history)]


histories = st.lists(records(), max_size=8).map(numbered)
queries = st.builds(
    Query,
    contact_point_id=st.sampled_from(POINTS),
    merchant=st.sampled_from(("m1", "m2", "m3")),
    channel=st.sampled_from(CHANNELS),
    purpose=st.sampled_from(PURPOSES),
)
accepted = st.sampled_from(sorted(GROUNDS, key=sorted))
many = settings(max_examples=120, deadline=None)


@many
@given(histories, records(REFUSALS), queries, instants, accepted)
def test_adding_a_refusal_never_turns_no_into_yes(
    history: list[ConsentRecord],
    refusal: ConsentRecord,
    query: Query,
    at: Any,
    accepts: frozenset[Accepts],
) -> None:
    before = effective(history, query, POLICY, at, accepts=accepts)
    after = effective([*history, refusal], query, POLICY, at, accepts=accepts)
    assert before.permitted or not after.permitted


@many
@given(histories, records(("granted", "soft_opt_in", "requested")), queries, instants, accepted)
def test_a_permission_for_another_contact_point_changes_nothing(
    history: list[ConsentRecord],
    permission: ConsentRecord,
    query: Query,
    at: Any,
    accepts: frozenset[Accepts],
) -> None:
    elsewhere = replace(permission, contact_point_id="another", event_id="evt-x")
    before = effective(history, query, POLICY, at, accepts=accepts)
    assert effective([*history, elsewhere], query, POLICY, at, accepts=accepts) == before


@many
@given(histories, st.randoms(use_true_random=False), queries, instants, accepted)
def test_the_order_of_records_is_irrelevant(
    history: list[ConsentRecord], rng: random.Random, query: Query, at: Any, accepts: frozenset[Accepts]
) -> None:
    shuffled = list(history)
    rng.shuffle(shuffled)
    assert effective(shuffled, query, POLICY, at, accepts=accepts) == effective(
        history, query, POLICY, at, accepts=accepts
    )


@many
@given(histories, records(REFUSALS), queries, instants)
def test_ties_go_to_the_refusal(
    history: list[ConsentRecord], refusal: ConsentRecord, query: Query, at: Any
) -> None:
    instant = max((record.occurred_at for record in history), default=at)
    tie = replace(refusal, occurred_at=instant, party="*", channel="*", purpose="*", event_id="evt-0-tie")
    assert not effective([*history, tie], query, POLICY, at, accepts=EITHER).permitted


@many
@given(histories, queries, instants)
def test_a_soft_opt_in_never_outlives_a_covering_refusal_earlier_or_later(
    history: list[ConsentRecord], query: Query, at: Any
) -> None:
    found = effective(history, query, POLICY, at, accepts=SOFT)
    known_by_then = max((record.recorded_at for record in history), default=at)
    if refused(history, query, POLICY, known_by_then):
        assert not found.permitted


@many
@given(histories, queries, instants, accepted)
def test_what_permits_is_a_permission_for_exactly_what_was_asked(
    history: list[ConsentRecord], query: Query, at: Any, accepts: frozenset[Accepts]
) -> None:
    found = effective(history, query, POLICY, at, accepts=accepts)
    if found.permitted:
        assert found.event is not None
        assert found.event.state in GROUNDS[accepts]
        assert found.event.contact_point_id == query.contact_point_id
        assert (found.event.channel, found.event.purpose) == (query.channel, query.purpose)


@many
@given(histories, queries, instants)
def test_a_permission_never_comes_back_as_time_passes_unless_one_is_dated_then(
    history: list[ConsentRecord], query: Query, at: Any
) -> None:
    later = at + timedelta(microseconds=1)
    begins = {record.occurred_at for record in history if record.state in ("granted", "soft_opt_in")}
    now_permitted = effective(history, query, POLICY, at, accepts=EITHER).permitted
    if effective(history, query, POLICY, later, accepts=EITHER).permitted and later not in begins:
        assert now_permitted


@settings(max_examples=400, deadline=None)
@given(histories, queries, instants, accepted)
def test_the_resolver_agrees_with_the_slow_one(
    history: list[ConsentRecord], query: Query, at: Any, accepts: frozenset[Accepts]
) -> None:
    found = effective(recorded_by(history, at), query, POLICY, at, accepts=accepts)
    assert found.permitted is permitted(history, query, POLICY, at, GROUNDS[accepts])
    if not found.permitted:
        assert (found.standing is Standing.REFUSED) is refused(history, query, POLICY, at)


def _random_history(rng: random.Random) -> list[ConsentRecord]:
    history = []
    for number in range(rng.randint(1, 7)):
        state = rng.choice((*STATES, "granted", "granted", "granted", "soft_opt_in"))
        broad = state in REFUSALS
        occurred = rng.randint(-5, 1 if broad else 3)
        history.append(
            ConsentRecord(
                event_id=f"evt-{number}",
                state=State(state),
                contact_point_id=rng.choice((*["email-1"] * 5, "sms-1")),
                party=rng.choice(("m1", "m1", "m1", "g", "m2", *(("*",) if broad else ()))),
                channel=rng.choice((*["email"] * 4, "sms", *(("*",) if broad else ()))),
                purpose=rng.choice(
                    (*["newsletter"] * 3, "review_request", *((*CLASSES, "*") if broad else ()))
                ),
                occurred_at=NOW + timedelta(microseconds=occurred),
                # Mostly written down at once, now and then late or ahead of time.
                recorded_at=NOW + timedelta(microseconds=occurred + rng.choice((0, 0, 0, 1, 3, -2))),
                expires_at=NOW + timedelta(microseconds=rng.randint(-2, 5))
                if not broad and rng.random() < 0.2
                else None,
                invalidates=f"evt-{rng.randint(0, 6)}" if state == "invalidated" else None,
            )
        )
    return history


@pytest.mark.parametrize("seed", range(10))
def test_the_resolver_agrees_with_the_slow_one_on_a_hundred_thousand_histories(seed: int) -> None:
    rng = random.Random(seed)
    verdicts = {True: 0, False: 0}
    for _ in range(10_000):
        history = _random_history(rng)
        query = Query(
            contact_point_id="email-1",
            merchant=rng.choice(("m1", "m1", "m2")),
            channel="email",
            purpose=rng.choice(("newsletter", "newsletter", "review_request")),
        )
        at = NOW + timedelta(microseconds=rng.randint(-2, 5))
        accepts = rng.choice((CONSENT, SOFT, EITHER, EITHER))
        wanted = permitted(history, query, POLICY, at, GROUNDS[accepts])
        found = effective(recorded_by(history, at), query, POLICY, at, accepts=accepts)
        assert found.permitted is wanted, (history, query, at, accepts)
        verdicts[wanted] += 1
    assert min(verdicts.values()) > 1_000, f"the histories are too much alike to prove anything: {verdicts}"


@many
@given(histories, st.sampled_from(("m1", "m2", "m3")), st.sampled_from(CHANNELS), instants)
def test_the_rule_says_what_the_resolver_says(
    history: list[ConsentRecord], merchant: str, channel: str, at: Any
) -> None:
    asked = request(merchant=merchant, channel=channel)
    query = Query(contact_point_id="email-1", merchant=merchant, channel=channel, purpose="newsletter")
    finding = asked_by(consent.check, asked, now=at, consent=tuple(history))
    wanted = effective(history, query, POLICY, at, accepts=EITHER).permitted
    assert (finding.outcome is Outcome.ALLOW) is wanted
