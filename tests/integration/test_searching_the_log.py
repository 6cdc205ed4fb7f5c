"""`gate.log.search` finds exactly the rows that match, whatever way it takes to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support.clock import SimulatedClock
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)

from notifygate import Gateway, InvalidMessage
from notifygate.ledger import journal, schema, searching
from notifygate.ledger.journal import Kind, Row

_SEED = 6  # the same rows and the same conditions in every run
_MERCHANTS = (*["m1"] * 6, "m2", "m3", None)
_PURPOSES = (*["order_update"] * 4, "newsletter", None)
_POLICIES = [f"{number:064x}" for number in range(3)]
_OUTCOMES: dict[Kind, tuple[str | None, ...]] = {
    Kind.SUBMITTED: (None,),
    Kind.DECISION: ("allow", "allow", "deny", "defer"),
    Kind.ATTEMPT: ("accepted", "accepted", "rejected"),
    Kind.CONSENT: ("granted", "withdrawn"),
}


@pytest.fixture
def filled(gate: Gateway, clock: SimulatedClock) -> list[Row]:
    """A few hundred rows of all sorts, newest first; a few bear odd dates."""
    runtime, chances = gate._runtime, random.Random(_SEED)
    entries = []
    for number in range(400):
        kind = chances.choice([*[Kind.SUBMITTED, Kind.DECISION, Kind.ATTEMPT] * 3, Kind.CONSENT])
        outcome = chances.choice(_OUTCOMES[kind])
        at = clock.now - timedelta(hours=400 - number)
        if number % 37 == 0:
            at -= timedelta(days=chances.randrange(20))
        entries.append(
            Row(
                kind=kind,
                at=at,
                body={"number": number},
                message_id=f"msg_{number // 3}",
                merchant="m4" if number < 40 else chances.choice(_MERCHANTS),  # m4 is gone since
                purpose=chances.choice(_PURPOSES),
                channel="sms" if number in (5, 300) else "email",
                outcome=outcome,
                reason=chances.choice(["cap_reached", "quiet_hours"])
                if outcome in ("deny", "defer")
                else None,
                policy=_POLICIES[number // 150] if kind is Kind.DECISION else None,
            )
        )
    runtime.ledger.transact(lambda conn: journal.append(conn, entries))
    return list(gate.log.search(limit=None))


@pytest.fixture(params=["as it is", "everything is long ago", "everything is common"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search with the real limits, and with others that make it take its other ways in a small log."""
    if request.param != "as it is":
        few = 10_000 if request.param == "everything is long ago" else 1
        monkeypatch.setattr(searching, "_LOOKED_THROUGH", {"sqlite": (7,), "postgresql": (7, 20)})
        monkeypatch.setattr(searching, "_FEW", few)


def conditions(clock: SimulatedClock) -> Iterator[dict[str, Any]]:
    """Each condition alone, and a good many together."""
    single: list[dict[str, Any]] = [
        *({"merchant": name} for name in ("m1", "m2", "m4", "nobody")),
        *({"purpose": name} for name in ("order_update", "newsletter", "nothing")),
        *({"channel": name} for name in ("sms", "email")),
        *({"kind": name} for name in ("decision", "consent", "review")),
        *({"outcome": name} for name in ("allow", "deny", "withdrawn", "in_doubt")),
        *({"reason": name} for name in ("cap_reached", "quiet_hours", "no_such")),
        *({"policy": name} for name in (_POLICIES[0], _POLICIES[2], "f" * 64)),
        *({"message_id": name} for name in ("msg_3", "msg_x")),
        {"since": clock.now - timedelta(days=3)},
        {"until": clock.now - timedelta(days=10)},
        {"since": clock.now - timedelta(days=12), "until": clock.now - timedelta(days=5)},
        {"since": clock.now},
        {"until": clock.now - timedelta(days=100)},
    ]
    yield {}
    yield from single
    chances = random.Random(_SEED)
    for _ in range(60):
        together: dict[str, Any] = {}
        for one in chances.sample(single, k=chances.choice([2, 2, 3])):
            together |= one
        if together.get("since", clock.ago(days=1_000)) < together.get("until", clock.now):
            yield together


def matches(row: Row, wanted: dict[str, Any]) -> bool:
    rest = dict(wanted)
    since, until = rest.pop("since", None), rest.pop("until", None)
    return (
        all(getattr(row, name) == value for name, value in rest.items())
        and (since is None or row.at >= since)
        and (until is None or row.at < until)
    )


def test_finds_all_that_match_newest_first_and_nothing_else(
    gate: Gateway, clock: SimulatedClock, filled: list[Row], way: None
) -> None:
    found_something = 0
    for wanted in conditions(clock):
        expected = [row for row in filled if matches(row, wanted)]
        assert list(gate.log.search(**wanted, limit=None)) == expected, wanted
        assert list(gate.log.search(**wanted, limit=3)) == expected[:3], wanted
        found_something += bool(expected)
    assert found_something > 30


def test_a_page_goes_on_where_the_one_before_ended(
    gate: Gateway, clock: SimulatedClock, filled: list[Row], way: None
) -> None:
    several: tuple[dict[str, Any], ...] = (
        {},
        {"merchant": "m4"},
        {"outcome": "deny"},
        {"channel": "sms"},
        {"purpose": "newsletter"},
    )
    for wanted in several:
        pages: list[Row] = []
        while True:
            after = pages[-1].position if pages else None
            page = list(gate.log.search(**wanted, limit=4, after=after))
            if not page:
                break
            pages += page
        assert pages == [row for row in filled if matches(row, wanted)]


def test_a_row_that_is_added_meanwhile_moves_no_page(gate: Gateway, filled: list[Row]) -> None:
    first = list(gate.log.search(limit=5))
    gate.submit(order_update())
    assert list(gate.log.search(limit=5, after=first[-1].position)) == filled[5:10]


@pytest.fixture
def sent(gate: Gateway, clock: SimulatedClock) -> Callable[[str], str]:
    """A review request to Anna about a purchase with two names, and a newsletter to Bo."""
    purchase = delivered_purchase(clock.now)
    gate.people.link(ANNA_EMAIL, ANNA_SMS, evidence="one account")
    gate.purchases.alias(purchase, "postdanmark", "PX-77")
    ids = {
        "review": gate.submit(review_request(purchase)).message_id,
        "update": gate.submit(order_update()).message_id,
        "news": gate.submit(newsletter(to="bo@example.dk")).message_id,
    }
    gate.drain()
    return ids.__getitem__


def messages(gate: Gateway, **wanted: Any) -> set[str | None]:
    return {row.message_id for row in gate.log.search(**wanted, limit=None)}


def test_a_person_is_found_by_any_contact_point_and_by_id(gate: Gateway, sent: Callable[[str], str]) -> None:
    person = gate.explain(sent("review")).person_id
    both = {sent("review"), sent("update"), None}
    assert messages(gate, contact_point=ANNA_SMS) == both
    assert messages(gate, contact_point=ANNA_EMAIL) == both
    assert messages(gate, person=person) == both
    assert messages(gate, person=person, purpose="review_request") == {sent("review")}
    assert messages(gate, person="per_nobody") == set()
    with pytest.raises(InvalidMessage, match="person"):
        gate.log.search(person=person, contact_point=ANNA_SMS)


def test_a_purchase_is_found_by_any_of_its_names(gate: Gateway, sent: Callable[[str], str]) -> None:
    by_order = messages(gate, purchase=("cykelpartner", "1001"))
    assert sent("review") in by_order
    assert messages(gate, purchase=("postdanmark", "PX-77")) == by_order
    assert messages(gate, purchase=("postdanmark", "PX-77"), kind="decision") == {sent("review")}
    assert messages(gate, purchase=("postdanmark", "PX-77"), contact_point=ANNA_SMS, kind="alias") == set()
    assert messages(gate, purchase=("postdanmark", "PX-78")) == set()


def test_an_attempt_finds_its_own_rows(gate: Gateway, sent: Callable[[str], str]) -> None:
    [attempt] = gate.explain(sent("update")).attempts
    rows = list(gate.log.search(attempt_id=attempt.attempt_id))
    assert [row.kind for row in rows] == ["attempt", "decision"]
    assert {row.message_id for row in rows} == {sent("update")}
    assert list(gate.log.search(attempt_id=attempt.attempt_id, message_id=sent("news"))) == []
    assert list(gate.log.search(attempt_id="att_unknown")) == []


def test_a_policy_is_found_by_the_beginning_of_its_hash(gate: Gateway, sent: Callable[[str], str]) -> None:
    policy = gate.config.policy.hash
    assert messages(gate, policy=policy[:8]) == {sent("review"), sent("update"), sent("news")}
    assert messages(gate, policy=("0" if policy[0] != "0" else "1") * 8) == set()
    with pytest.raises(InvalidMessage, match="at least its first 6"):
        gate.log.search(policy=policy[:5])


def test_a_beginning_that_two_policies_share_is_refused(gate: Gateway, clock: SimulatedClock) -> None:
    hashes = [f"abcdef{number:058x}" for number in range(2)]
    with gate._runtime.ledger.begin() as conn:
        rows = [{"hash": one, "text": "{}", "first_seen_at": clock.now} for one in hashes]
        conn.execute(sa.insert(schema.policies), rows)
    with pytest.raises(InvalidMessage, match="several policies"):
        gate.log.search(policy="abcdef")
    assert list(gate.log.search(policy=hashes[1])) == []


@pytest.mark.parametrize(("name", "value"), [("channel", "fax"), ("kind", "sent"), ("limit", 0)])
def test_what_makes_no_sense_is_named(gate: Gateway, name: str, value: Any) -> None:
    wanted: dict[str, Any] = {name: value}
    with pytest.raises(InvalidMessage) as raised:
        gate.log.search(**wanted)
    assert raised.value.field == name
