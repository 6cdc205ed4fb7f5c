"""What is handed out to a person who asks: everything, of all their contact points, and nobody else's."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
import sqlalchemy as sa
from support.channel import ACCEPTED, IN_DOUBT, ScriptedChannel, install
from support.clock import SimulatedClock
from support.fixtures import OpenGate
from support.messages import (
    ANNA_EMAIL,
    ANNA_SMS,
    delivered_purchase,
    newsletter,
    order_update,
    review_request,
)
from support.tables import contents, plain_engine

from notifygate import Email, Gateway, NotFound

NASTY = "<script>alert(1)</script> & \"quoted\" <img src='http://evil.example/x.png'>"


class Page(HTMLParser):
    """The text that a reader sees, the tags, and what a browser would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "srcset", "data")]
        self.loaded += [
            f"{tag}={value}" for name, value in attrs if name == "href" and not str(value).startswith("#")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def anna(gate: Gateway, clock: SimulatedClock) -> Gateway:
    """A gateway that knows Anna well, and Bo a little."""
    install(gate, ScriptedChannel(IN_DOUBT))
    gate.consent.grant(
        ANNA_EMAIL, party="cykelpartner", purpose="newsletter", source="checkout form", evidence="order 77"
    )
    gate.consent.withdraw(ANNA_SMS, party="cykelpartner", purpose="review_request", evidence="rang on Monday")
    gate.suppressions.add(ANNA_EMAIL, "hard_bounce")
    gate.suppressions.remove(ANNA_EMAIL)
    gate.people.link(ANNA_EMAIL, ANNA_SMS, "same account")
    purchase = delivered_purchase(clock.now)
    gate.purchases.alias(purchase, "postdanmark", "PD-1")
    gate.submit(
        order_update(
            content=Email("Anna@example.dk", NASTY, text=NASTY, html=f"<p>{NASTY}</p>"),
            metadata={"note": "gift"},
            idempotency_key="order-77",
        )
    )
    gate.submit(newsletter())
    gate.submit(review_request(purchase, to=ANNA_SMS))  # denied
    gate.purchases.record_ask(purchase, "stars", clock.now, contact_point=ANNA_SMS)
    gate.consent.grant("email:bo@example.dk", party="cykelpartner", purpose="newsletter", source="Bo's form")
    gate.submit(order_update(to="bo@example.dk", text="Hello Bo", purchase=purchase))
    gate.purchases.record_ask(purchase, "postdanmark", clock.now, contact_point="email:bo@example.dk")
    gate.drain()
    return gate


def test_it_holds_what_every_table_holds_of_her(anna: Gateway, ledger_url: str) -> None:
    found = json.loads(json.dumps(anna.people.export(ANNA_SMS).to_json()))

    assert found["about"] == [ANNA_EMAIL, ANNA_SMS]
    assert [one["country"] for one in found["contact_points"]] == [None, "DK"]
    assert found["links"][0]["evidence"] == "same account"
    assert sorted(map(sorted, found["links"][0]["between"])) == [[ANNA_EMAIL], [ANNA_SMS]]
    by_purpose = {one["purpose"]: one for one in found["messages"]}
    update = by_purpose["order_update"]
    assert (update["deliver_to"], update["subject"], update["text"]) == ("Anna@example.dk", NASTY, NASTY)
    assert update["html"] == f"<p>{NASTY}</p>"
    assert (update["metadata"], update["idempotency_key"]) == ({"note": "gift"}, "order-77")
    assert [one["state"] for one in update["attempts"]] in (["in_doubt"], ["accepted"])
    denied = by_purpose["review_request"]
    assert (denied["status"], denied["reason"]) == ("denied", "consent_withdrawn")
    [decision] = denied["decisions"]
    assert len(decision["findings"]) >= 8
    assert denied["purchase"] == "cykelpartner 1001"
    assert {one["evidence"] for one in found["consent"]} == {"order 77", "rang on Monday"}
    assert [one["reason"] for one in found["do_not_send_marks"]] == ["hard_bounce"]
    [purchase] = found["purchases"]
    assert {name["reference"] for name in purchase["names"]} == {"1001", "PD-1"}
    assert [one["by"] for one in found["review_requests"]] == ["stars"]
    assert {"submitted", "consent", "link", "suppression", "unsuppression"} <= {
        one["kind"] for one in found["log"]
    }
    rows = contents(ledger_url)
    hers = {row["contact_point_id"] for row in rows["contact_points"]} - {
        row["contact_point_id"] for row in rows["contact_points"] if row["address"] == "bo@example.dk"
    }
    for table, part in (
        ("messages", "messages"),
        ("consent_events", "consent"),
        ("suppressions", "do_not_send_marks"),
    ):
        assert len(found[part]) == sum(row["contact_point_id"] in hers for row in rows[table])


def test_it_tells_what_article_15_asks_for(anna: Gateway) -> None:
    told = anna.people.export(ANNA_EMAIL).to_json()["processing"]

    [shop] = told["merchants"]
    assert (shop["name"], shop["kind"]) == ("Cykelpartner.dk", "shop")
    assert {one["purpose"]: one["class"] for one in shop["purposes"]} == {
        "newsletter": "marketing",
        "order_update": "service",
        "review_request": "review",
    }
    assert "consent: checkout form" in shop["source"]
    assert {one["channel"] for one in told["providers"]} == {"email", "sms"}
    assert set(told["retention"].values()) == {"no fixed period: until it is erased"}
    assert len(told["rights"]) == 4


def test_what_was_asked_for_is_told_apart_from_what_was_sent(gate: Gateway) -> None:
    install(gate, ScriptedChannel(ACCEPTED, IN_DOUBT))
    for key in ("1", "2", "3"):
        gate.submit(order_update(text=f"Order {key}", idempotency_key=key))
        gate.drain()
    gate.submit(newsletter())  # denied: there is no permission
    gate.drain()

    found = gate.people.export(ANNA_EMAIL)
    [shop] = found.to_json()["processing"]["merchants"]
    told = {one["purpose"]: (one["messages"], one["sent"], one["in_doubt"]) for one in shop["purposes"]}
    text = " ".join(Page(found.to_html()).text.split())

    assert told == {
        "newsletter": ({"email": 1}, {}, {}),
        "order_update": ({"email": 3}, {"email": 2}, {"email": 1}),
    }
    assert "asked for: 1, sent: none" in text
    assert "asked for: 3, sent: 2 by email, perhaps sent: 1 by email" in text
    assert "handed over:" not in text
    assert text.count("Given to the provider on") == 3


def test_it_holds_nothing_about_anybody_else(anna: Gateway) -> None:
    found = anna.people.export(ANNA_EMAIL)
    for shown in (json.dumps(found.to_json()), found.to_html()):
        assert "bo@example" not in shown
        assert "Bo" not in shown


def test_the_periods_of_the_config_are_told(open_gate: OpenGate) -> None:
    gate = open_gate(retention={"texts": "90d", "send_log": "5y"})
    gate.submit(order_update())
    told = gate.people.export(ANNA_EMAIL).to_json()["processing"]["retention"]
    assert list(told.values()) == [
        "90 days",
        "no fixed period: until it is erased",
        "no fixed period: until it is erased",
        "1825 days",
    ]


def test_the_page_shows_it_all_and_runs_and_loads_nothing(anna: Gateway) -> None:
    found = anna.people.export(ANNA_EMAIL)
    page = Page(found.to_html())

    assert page.loaded == []
    assert {"script", "img", "link", "iframe"} & set(page.tags) == set()
    for shown in (
        ANNA_EMAIL,
        ANNA_SMS,
        NASTY,
        "gift",
        "checkout form",
        "rang on Monday",
        "same account",
        "PD-1",
        "hard bounce",
        "consent withdrawn",
        "stars asked you for a review",
        "Cykelpartner.dk",
    ):
        assert shown in page.text, shown


def test_that_it_was_handed_out_is_recorded_for_each_contact_point_without_content(
    anna: Gateway, ledger_url: str
) -> None:
    found = anna.people.export(ANNA_EMAIL)

    rows = [row for row in contents(ledger_url)["ledger"] if row["kind"] == "disclosed"]
    assert [row["contact_point_id"] for row in rows] == list(found.contact_point_ids)
    assert {str(row["body"]) for row in rows} == {"{}"}
    again = anna.people.export(ANNA_EMAIL).to_json()
    assert [one["kind"] for one in again["log"]].count("disclosed") == 2


def test_a_legal_hold_is_told_of_only_where_that_is_asked_for_and_its_reason_never(anna: Gateway) -> None:
    anna.people.hold(ANNA_EMAIL, "Anna against the shop")

    without = anna.people.export(ANNA_EMAIL)
    shown = json.dumps(without.to_json()) + without.to_html()
    assert [word for word in ("legal", "hld_", "held") if word in shown.casefold()] == []
    told = anna.people.export(ANNA_EMAIL, with_holds=True)
    assert [one["released_at"] for one in told.to_json()["legal_holds"]] == [None]
    assert "held" in [one["kind"] for one in told.to_json()["log"]]
    assert "Legal holds" in told.to_html()
    assert "against the shop" not in json.dumps(told.to_json()) + told.to_html()


def test_of_an_erased_person_the_facts_that_are_left_are_told(anna: Gateway) -> None:
    anna.people.erase(ANNA_EMAIL)
    found = anna.people.export(ANNA_EMAIL)

    assert found.to_json()["about"] == ["email:(erased)", "sms:(erased)"]
    assert {one["text"] for one in found.to_json()["messages"]} == {None}
    assert "erased" in Page(found.to_html()).text


def test_of_nobody_known_there_is_nothing_and_nothing_is_recorded(gate: Gateway, ledger_url: str) -> None:
    with pytest.raises(NotFound):
        gate.people.export(ANNA_EMAIL)
    assert contents(ledger_url)["ledger"] == []


def test_what_it_holds_is_not_shown_when_it_is_printed(anna: Gateway) -> None:
    assert "anna@" not in repr(anna.people.export(ANNA_EMAIL))


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_ten_thousand_messages_are_handed_out_whole(gate: Gateway, ledger_url: str) -> None:
    list(gate.submit_many(order_update(text=f"Parcel {number}") for number in range(10_000)))
    found = gate.people.export(ANNA_EMAIL)

    assert len(found.to_json()["messages"]) == 10_000
    assert found.to_html().count("<article>") == 10_000
    with plain_engine(ledger_url) as engine, engine.connect() as conn:
        assert conn.execute(sa.text("SELECT count(*) FROM messages")).scalar_one() == 10_000
