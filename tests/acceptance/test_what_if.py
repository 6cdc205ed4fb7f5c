"""What-if against the real thing: what a replay of one run's log says of another policy is what a run under it does."""

from __future__ import annotations

import csv
import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from support import config as configs
from support.config import driver

from notifygate import Email, Gateway, Message, Purchase, config, ids
from notifygate.audit.simulate import Effect, WhatIf
from notifygate.ledger.schema import messages

ORDERS = os.environ.get("NOTIFYGATE_TEST_ORDERS")
"""A real order log (`order_id,customer_id,date`) to play instead of one that is made up."""
CUSTOMERS = int(os.environ.get("NOTIFYGATE_TEST_CUSTOMERS", "15"))
"""How many of its customers take part: all their orders, so that what counts for a person is complete."""

SHOP, CARRIER = "cykelpartner", "postdanmark"
END = datetime(1998, 7, 1, tzinfo=UTC)

AS_IT_IS: dict[str, Any] = {
    "purposes": {
        "newsletter": {
            "dedupe": "10d",
            "caps": [
                {"limit": 2, "window": "30d", "per": "merchant"},
                {"limit": 4, "window": "60d", "per": "person", "classes": ["marketing", "review"]},
            ],
        },
    },
    "review_requests": {
        "per_person": {"limit": 1, "window": "30d"},
        "per_person_and_merchant": {"limit": 1, "window": "90d"},
        "yield": "7d",
    },
}
STRICTER: dict[str, Any] = {
    "purposes": {
        "newsletter": {
            "dedupe": "40d",
            "caps": [
                {"limit": 1, "window": "30d", "per": "merchant"},
                {"limit": 2, "window": "60d", "per": "person", "classes": ["marketing", "review"]},
            ],
        },
        "review_request": {"caps": [{"limit": 1, "window": "20d", "per": "person", "over": "defer"}]},
    },
    "quiet_hours": {"evenings": {"allow": {"mon-sat": None, "tue-thu": "10:00-15:00"}}},
    "review_requests": {
        "per_person": {"limit": 1, "window": "60d"},
        "per_person_and_merchant": {"limit": 1, "window": "180d"},
        "yield": "deny",
    },
}
LOOSER: dict[str, Any] = {
    "purposes": {
        "newsletter": {
            "dedupe": "1h",
            "caps": [{"limit": 6, "window": "30d", "per": "merchant"}],
            "quiet_hours": None,
        },
    },
    "quiet_hours": {"evenings": {"allow": {"mon-sat": None, "mon-sun": "08:00-22:00"}, "holidays": False}},
    "review_requests": {
        "asks_per_purchase": 2,
        "per_person": {"limit": 3, "window": "10d"},
        "per_person_and_merchant": {"limit": 2, "window": "30d"},
        "yield": "2d",
        "delay": "5d",
    },
}
# Tightened in one place and loosened in another, so that messages make way for each other.
MIXED: dict[str, Any] = {
    "purposes": {
        "newsletter": {
            "dedupe": "5d",
            "caps": [{"limit": 1, "window": "7d", "per": "person", "over": "defer"}],
            "quiet_hours": None,
        },
    },
    "review_requests": {"per_person": {"limit": 2, "window": "90d"}, "yield": "12d", "delay": "9d"},
}


@dataclass(frozen=True, slots=True)
class Order:
    """One purchase, made at 12:00 UTC of its day."""

    order_id: str
    customer: str
    at: datetime


@pytest.fixture(scope="module")
def orders() -> list[Order]:
    """A year and a half of orders: the real ones of some customers, or made-up ones that look like them."""
    found = list(_real_orders(Path(ORDERS)) if ORDERS else _made_up_orders())
    customers = sorted({order.customer for order in found})[:CUSTOMERS]
    return sorted((one for one in found if one.customer in set(customers)), key=attrgetter("at"))


def _real_orders(path: Path) -> Iterator[Order]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            at = datetime.strptime(row["date"], "%Y-%m-%d").replace(hour=12, tzinfo=UTC)
            yield Order(row["order_id"], row["customer_id"], at)


def _made_up_orders() -> Iterator[Order]:
    """Most customers buy once or twice, and a few often, several times a day now and then."""
    rng = random.Random(11)
    numbers = itertools.count(1)
    for customer in range(CUSTOMERS):
        for _ in range(min(int(rng.paretovariate(0.9)), 40)):
            day = date(1997, 1, 1) + timedelta(days=rng.randrange(365))
            at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
            for _ in range(rng.choice((1, 1, 1, 1, 2))):
                yield Order(str(next(numbers)), f"{customer:05d}", at)


@pytest.fixture(autouse=True)
def _ids_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What falls due at one instant goes in the order of its ids, which must be the same in both runs."""
    numbers = itertools.count()
    numbered = SimpleNamespace(now=lambda: (0, 0), take=lambda: f"{next(numbers):015x}")
    monkeypatch.setattr(ids, "_pool", numbered)


class Run:
    """Orders played for real, on a clock that jumps from one due time to the next, up to the end.

    The shop asks for a review of each order and so does its carrier, for some of them before the goods are there; each
    order brings a newsletter, of which some say the same. Some customers opt out half-way.
    """

    def __init__(self, folder: Path, *policy: dict[str, Any]) -> None:
        folder.mkdir()
        self.now = datetime(1996, 12, 1, tzinfo=UTC)
        base = {"gateway": {"ledger": f"sqlite:///{folder}/ledger.db"}, "channels": _NOWHERE}
        self.config = configs.write(folder / "notifygate.toml", base, *policy)
        self.gate = Gateway.open(self.config, clock=lambda: self.now)
        self._known: set[str] = set()

    def play(self, orders: list[Order]) -> None:
        for at, day in groupby(orders, key=attrgetter("at")):
            todays = list(day)
            self._advance(to=at)
            self.now = at
            for order in todays:
                self._hear_of(order)
            wanted = [message for order in todays for message in _messages(order)]
            for _ in self.gate.submit_many(wanted):
                pass
        self._advance(to=END)
        self.now = END

    def _advance(self, *, to: datetime) -> None:
        while (due := self.gate.next_due()) is not None and due < to:
            self.now = max(self.now, due)
            self.gate.drain()
        if due == to != END:
            self.now = to
            self.gate.drain()

    def _hear_of(self, order: Order) -> None:
        point = f"email:{_address(order)}"
        if order.customer not in self._known:
            self._known.add(order.customer)
            for merchant in (SHOP, CARRIER):
                for purpose in ("newsletter", "review_request"):
                    self.gate.consent.grant(point, party=merchant, purpose=purpose)
        elif int(order.order_id) % 23 == 0:
            self.gate.consent.object(point, party=SHOP, purpose="marketing")

    def sent(self) -> dict[str, datetime]:
        """When each message that was handed over was, by its idempotency key."""
        keys = self.keys()
        allowed = self.gate.log.search(kind="decision", outcome="allow", limit=None)
        return {keys[row.message_id or ""]: row.at for row in allowed}

    def keys(self) -> dict[str, str]:
        """The idempotency key of each message, by its id."""
        columns = messages.c.message_id, messages.c.idempotency_key
        with self.gate._runtime.ledger.read() as conn:
            return dict(tuple(row) for row in conn.execute(sa.select(*columns)))


_NOWHERE = {"email": driver({"driver": "null"}), "sms": driver({"driver": "null"})}


def _messages(order: Order) -> Iterator[Message]:
    number = int(order.order_id)
    delivered_at = order.at + timedelta(days=3)
    told = Purchase(SHOP, order.order_id, purchased_at=order.at, delivered_at=delivered_at)
    untold = Purchase(SHOP, order.order_id, purchased_at=order.at)
    for merchant, purchase in ((CARRIER, untold if number % 3 else told), (SHOP, told)):
        yield _message(order, merchant, "review_request", "How was it?", purchase=purchase)
    yield _message(order, SHOP, "newsletter", f"Offer {number % 4}")


def _message(order: Order, merchant: str, purpose: str, text: str, **more: Any) -> Message:
    return Message(
        merchant=merchant,
        purpose=purpose,
        content=Email(_address(order), "From us", text=text),
        idempotency_key=f"{merchant}-{purpose}-{order.order_id}",
        **more,
    )


def _address(order: Order) -> str:
    return f"customer-{order.customer}@example.com"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, orders: list[Order]) -> Iterator[Run]:
    """The run whose log is replayed, under the policy that was in force."""
    with pytest.MonkeyPatch.context() as patched:
        _ids_in_order.__wrapped__(patched)  # type: ignore[attr-defined]
        run = Run(tmp_path_factory.mktemp("what-if") / "logged", AS_IT_IS)
        with run.gate:
            run.play(orders)
            yield run


@pytest.mark.timeout(3_600 if ORDERS else 300)
@pytest.mark.parametrize(
    "changed", [STRICTER, LOOSER, MIXED], ids=["a stricter policy", "a looser policy", "a mixed policy"]
)
def test_what_if_says_what_a_real_run_does(
    tmp_path: Path, orders: list[Order], logged: Run, changed: dict[str, Any]
) -> None:
    real = Run(tmp_path / "real", AS_IT_IS, changed)
    with real.gate:
        found = logged.gate.log.simulate(config.load(real.config), since=orders[0].at, until=END)
        real.play(orders)
        sent_before, sent_for_real = logged.sent(), real.sent()

    keys, expected = logged.keys(), dict(sent_before)
    for change in found.changes:
        expected.pop(keys[change.message_id], None)
        if change.after.sent_at is not None:
            expected[keys[change.message_id]] = change.after.sent_at
    assert expected == sent_for_real
    more, fewer = ids_of(found, Effect.MORE, logged), ids_of(found, Effect.FEWER, logged)
    assert more == sent_for_real.keys() - sent_before.keys()
    assert fewer == sent_before.keys() - sent_for_real.keys()
    assert found.sent.before == len(sent_before)
    assert found.sent.after == len(sent_for_real)
    assert len(more) + len(fewer) > 30  # else nothing was put to the test
    print(f"{found.messages} messages: {found.sent}")


def test_what_if_nothing_changes_finds_no_change(orders: list[Order], logged: Run) -> None:
    found = logged.gate.log.simulate(since=orders[0].at, until=END)

    assert found.changes == ()
    assert found.sent.before == found.sent.after == len(logged.sent())


def ids_of(found: WhatIf, effect: Effect, run: Run) -> set[str]:
    """The keys of the messages on which a change has that effect."""
    keys = run.keys()
    return {keys[change.message_id] for change in found.changes if change.effect is effect}
