"""The judge of the soak: it must find every fault that is planted in the evidence, and none where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from soak.reconcile import Arrival, Evidence, MessageRow, ReservationRow, judge, read
from soak.story import Request, Story
from support.tables import plain_engine

from notifygate.address import ContactPoint

UPDATE = Request(merchant="shop", key="1", purpose="order_update", to="email:a@x.dk", text="", person="1")
CODE = replace(UPDATE, key="2", purpose="login_code")
ASK = replace(UPDATE, key="3", purpose="review_request", purchase="order-1")
SAME_PURCHASE = replace(ASK, key="4", person="2")
SAME_PERSON = replace(ASK, key="5", purchase="order-2")
REFUSED = replace(UPDATE, key="6", purpose="newsletter", refused=True)
NEWS = [replace(UPDATE, key=f"news-{n}", purpose="newsletter", text=str(n)) for n in range(3)]
SAME_NEWS = replace(NEWS[0], key="news-again")

Change = Callable[[Evidence], Evidence]


def sent(*requests: Request) -> Evidence:
    """What is to be found where these were sent as they should be."""
    names = [f"msg_{request.key}" for request in requests]
    return Evidence(
        requests=requests,
        receipts=[
            (request.merchant, request.key, name) for request, name in zip(requests, names, strict=True)
        ],
        arrivals=[Arrival(message_id=name, attempt_id=f"att_{name}", at=20, reserved=True) for name in names],
        messages=[
            MessageRow(message_id=name, merchant=one.merchant, idempotency_key=one.key, status="sent")
            for one, name in zip(requests, names, strict=True)
        ],
        reservations=[
            ReservationRow(attempt_id=f"att_{name}", message_id=name, reserved_at=10, state="accepted")
            for name in names
        ],
        decided=frozenset(f"att_{name}" for name in names),
        recorded=frozenset((f"att_{name}", "accepted") for name in names),
    )


def ended_as(status: str, **more: Any) -> Change:
    return lambda found: replace(
        found, messages=[replace(found.messages[0], status=status), *found.messages[1:]], **more
    )


def reservation(**fields: Any) -> Change:
    return lambda found: replace(found, reservations=[replace(found.reservations[0], **fields)])


def arrival(**fields: Any) -> Change:
    return lambda found: replace(found, arrivals=[replace(found.arrivals[0], **fields)])


def without(*names: str) -> Change:
    emptied: dict[str, Any] = {name: [] for name in names}
    return lambda found: replace(found, **emptied)


def twice(name: str) -> Change:
    def change(found: Evidence) -> Evidence:
        doubled: dict[str, Any] = {name: [*getattr(found, name)] * 2}
        return replace(found, **doubled)

    return change


def same_key_again(found: Evidence) -> Evidence:
    return replace(
        found, messages=[*found.messages, replace(found.messages[0], message_id="msg_other", status="denied")]
    )


def other_receipt(found: Evidence) -> Evidence:
    return replace(found, receipts=[("shop", "1", "msg_other")])


def nothing(found: Evidence) -> Evidence:
    return found


def test_a_run_in_order_is_found_to_be_so() -> None:
    verdict = judge(sent(UPDATE, CODE, ASK, *NEWS[:2]))

    assert verdict.is_good
    assert (verdict.hand_offs, verdict.statuses) == (5, {"sent": 5})


@pytest.mark.parametrize(
    ("fault", "requests", "change"),
    [
        ("not in the ledger", [UPDATE], without("messages", "arrivals", "reservations")),
        ("not in the ledger", [UPDATE], without("messages", "arrivals", "reservations", "requests")),
        ("in the ledger twice", [UPDATE], same_key_again),
        ("submitted by nobody", [UPDATE], without("requests", "receipts")),
        ("receipt for another message", [UPDATE], other_receipt),
        ("not ended", [UPDATE], ended_as("queued", arrivals=[])),
        ("not ended", [UPDATE], ended_as("sending", arrivals=[])),
        ("still held", [UPDATE], reservation(state="held")),
        ("arrived without a reservation", [UPDATE], without("reservations")),
        ("arrived without a reservation", [UPDATE], reservation(reserved_at=30)),
        ("arrived without a reservation", [UPDATE], reservation(message_id="msg_other")),
        ("arrived without a reservation", [UPDATE], arrival(reserved=False)),
        ("reserved without a logged decision", [UPDATE], without("decided")),
        ("ended without a log entry", [UPDATE], without("recorded")),
        ("ended without a log entry", [UPDATE], reservation(state="in_doubt")),
        ("sent and not arrived", [UPDATE], without("arrivals")),
        ("arrived and not counted as sent", [UPDATE], ended_as("denied")),
        ("arrived and not counted as sent", [UPDATE], ended_as("failed")),
        ("arrived twice", [UPDATE], twice("arrivals")),
        ("arrived twice", [ASK], twice("arrivals")),
        ("purchase asked about twice", [ASK, SAME_PURCHASE], nothing),
        ("person asked twice", [ASK, SAME_PERSON], nothing),
        ("arrived after a refusal", [REFUSED], nothing),
        ("newsletters over the cap", NEWS, nothing),
        ("issue received twice", [NEWS[0], SAME_NEWS], nothing),
    ],
)
def test_a_planted_fault_is_found(fault: str, requests: list[Request], change: Change) -> None:
    verdict = judge(change(sent(*requests)))

    assert verdict.faults[fault]
    assert not verdict.is_good


def test_a_login_code_may_arrive_again_and_is_counted() -> None:
    verdict = judge(twice("arrivals")(sent(CODE)))

    assert verdict.is_good
    assert verdict.login_codes_again == 1


@pytest.mark.parametrize(("arrivals", "arrived"), [(nothing, 1), (without("arrivals"), 0)])
def test_what_is_in_doubt_is_counted_with_how_much_of_it_arrived(arrivals: Change, arrived: int) -> None:
    verdict = judge(arrivals(ended_as("in_doubt")(sent(ASK))))

    assert verdict.is_good
    assert (verdict.in_doubt, verdict.in_doubt_arrived) == (1, arrived)


def test_the_evidence_is_read_from_the_tables_as_they_are(ledger_url: str) -> None:
    with plain_engine(ledger_url) as engine, engine.connect() as conn:
        tables = sa.inspect(conn).get_table_names()

    found = read(ledger=ledger_url, requests=[UPDATE], receipts=[], arrivals=[])

    assert {"messages", "reservations", "ledger"} <= set(tables)
    assert judge(found).faults["not in the ledger"] == ["shop 1"]


class TestTheStory:
    STORY = Story(7, datetime(2030, 1, 1, tzinfo=UTC))

    def test_is_told_the_same_again(self) -> None:
        assert self.STORY.block(3).requests == self.STORY.block(3).requests
        assert self.STORY.block(3).requests != Story(8, self.STORY.began_at).block(3).requests

    def test_names_every_request_once(self) -> None:
        names = [request.name for number in range(30) for request in self.STORY.block(number).requests]

        assert len(set(names)) == len(names)

    def test_has_all_that_the_soak_is_about_and_addresses_that_are_valid(self) -> None:
        told = [request for number in range(30) for request in self.STORY.block(number).requests]

        assert {one.purpose for one in told} == {"order_update", "login_code", "newsletter", "review_request"}
        assert any(one.refused for one in told)
        assert all(str(ContactPoint.parse(one.to, region="DK")) == one.to for one in told)
        asks = [one for one in told if one.purpose == "review_request"]
        by_purchase = {
            one.purchase: {other.order for other in asks if other.purchase == one.purchase} for one in asks
        }
        assert max(map(len, by_purchase.values())) == 2  # the seller's order, and the carrier's parcel
