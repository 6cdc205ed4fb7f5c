"""What is sent: a story that a seed and a block's number tell in full, so that it can be told again after a crash.

A block is some customers, what is registered about them first (links, permissions, refusals, aliases), and then the
requests that several merchants hand over for them. Nothing is random but by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from notifygate import Email, Gateway, Message, Purchase, Sms

CUSTOMERS_A_BLOCK = 20
SELLER = "florist"
CARRIER = "postdanmark"
ASKERS = (SELLER, "headoffice", "stars", CARRIER)
NEWS_SENDERS = ("cykelpartner", "headoffice")
NEWS_A_WEEK = 2
"""How many newsletters one merchant may send a person: the cap of the config."""

CONFIG: dict[str, Any] = {
    "purposes": {
        "newsletter": {
            "quiet_hours": None,
            "caps": [
                {"limit": NEWS_A_WEEK, "window": "7d", "per": "merchant"},
                {"limit": 5, "window": "7d", "per": "person"},
            ],
        },
        "review_request": {"quiet_hours": None},
    },
}
"""What the story needs of the config, beside what `support.config` writes: no quiet hours, as it plays at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, and what must hold for it.

    `person` is one name for all linked contact points, `purchase` one for all aliases. `refused` says that the person
    had refused such messages before it was handed over.
    """

    merchant: str
    key: str
    purpose: str
    to: str
    text: str
    person: str
    purchase: str | None = None
    order: tuple[str, str] | None = None
    refused: bool = False

    @property
    def name(self) -> tuple[str, str]:
        """What makes the request unique."""
        return self.merchant, self.key

    @property
    def may_arrive_twice(self) -> bool:
        return self.purpose == "login_code"

    def message(self, began_at: datetime) -> Message:
        channel, _, address = self.to.partition(":")
        content = (
            Email(address, "A message", text=self.text) if channel == "email" else Sms(address, self.text)
        )
        return Message(
            merchant=self.merchant,
            purpose=self.purpose,
            content=content,
            idempotency_key=self.key,
            purchase=_purchase(self.order, began_at) if self.order else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something to be registered before the block's requests. May be registered again after a crash."""

    register: Callable[[Gateway], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    facts: tuple[Fact, ...]
    requests: tuple[Request, ...]


class Story:
    """Tells blocks. `began_at` is the start of the run: purchases were delivered some days before it."""

    def __init__(self, seed: int, began_at: datetime) -> None:
        self._seed = seed
        self.began_at = began_at

    def block(self, number: int) -> Block:
        """The same for the same number, whenever and wherever it is asked for."""
        chance = random.Random(f"{self._seed}/{number}")
        facts: list[Fact] = []
        requests: list[Request] = []
        first = number * CUSTOMERS_A_BLOCK
        for customer in range(first, first + CUSTOMERS_A_BLOCK):
            told = _Customer(customer, self.began_at, facts)
            requests += told.service(chance)
            requests += told.chapter(chance)
        chance.shuffle(requests)
        return Block(facts=tuple(facts), requests=tuple(requests))


class _Customer:
    """A customer with an email address and a phone, and the chapter of the story that he or she is in."""

    def __init__(self, number: int, began_at: datetime, facts: list[Fact]) -> None:
        self._number = number
        self._began_at = began_at
        self._facts = facts
        self._email = f"email:customer{number}@example.dk"
        self._phone = f"sms:+45{26_000_000 + number}"
        self._points = (self._email, self._phone)

    def service(self, chance: random.Random) -> Iterator[Request]:
        """Order updates and a login code, which nobody can refuse."""
        for count in range(2):
            to = chance.choice(self._points)
            text = f"Your order {self._number} is at stop {count}."
            yield self._request("cykelpartner", "order_update", to, f"update-{count}", text, self._number)
        to = chance.choice(self._points)
        yield self._request("stars", "login_code", to, "login", f"Your code is {self._number}.", self._number)

    def chapter(self, chance: random.Random) -> Iterator[Request]:
        tell = chance.choices(
            (self._linked, self._aliased, self._subscribed, self._withdrawn, self._quiet), (3, 3, 4, 2, 8)
        )[0]
        yield from tell(chance)

    def _quiet(self, chance: random.Random) -> Iterator[Request]:
        yield from ()

    def _linked(self, chance: random.Random) -> Iterator[Request]:
        """One person, two addresses, two purchases: one ask."""
        self._link()
        for to in self._points:
            self._grant(to, "review_request", ASKERS[:2])
        for bought in range(2):
            order = (SELLER, f"order-{self._number}-{bought}")
            for asker in ASKERS[:2]:
                to = chance.choice(self._points)
                yield self._ask(asker, to, order, order, self._number)

    def _aliased(self, chance: random.Random) -> Iterator[Request]:
        """Two persons not known to be linked, and one purchase that goes by two names: one ask."""
        order = (SELLER, f"order-{self._number}-0")
        parcel = (CARRIER, f"parcel-{self._number}")
        began_at = self._began_at
        self._tell(lambda gate: gate.purchases.alias(_purchase(order, began_at), *parcel))
        names = [(SELLER, order), (CARRIER, parcel)]
        chance.shuffle(names)
        for to, (asker, name) in zip(self._points, names, strict=True):
            self._grant(to, "review_request", (asker, "stars"))
            yield self._ask(asker, to, name, order, to)
            yield self._ask("stars", to, chance.choice((order, parcel)), order, to)

    def _subscribed(self, chance: random.Random) -> Iterator[Request]:
        """One person who has subscribed on both addresses: each issue once, and no more than the cap."""
        self._link()
        for to in self._points:
            self._grant(to, "newsletter", NEWS_SENDERS[:1])
        for issue in range(3):
            for to in self._points:
                yield self._news(NEWS_SENDERS[0], to, issue)

    def _withdrawn(self, chance: random.Random) -> Iterator[Request]:
        """One person who agreed to everything, and then withdrew it at one of the two addresses."""
        self._link()
        for to in self._points:
            self._grant(to, "newsletter", NEWS_SENDERS)
            self._grant(to, "review_request", (SELLER,))
        at, where = self._began_at - timedelta(hours=1), chance.choice(self._points)
        self._tell(lambda gate: gate.consent.withdraw(where, occurred_at=at, evidence="unsubscribed"))
        order = (SELLER, f"order-{self._number}-0")
        for to in self._points:
            yield self._ask(SELLER, to, order, order, self._number, refused=True)
            yield self._news(chance.choice(NEWS_SENDERS), to, 0, refused=True)

    def _ask(
        self, by: str, to: str, name: tuple[str, str], order: tuple[str, str], person: int | str, **more: Any
    ) -> Request:
        what = f"ask-{by}-{name[1]}-{to.partition(':')[0]}"
        text = "What do you think of your purchase?"
        return self._request(
            by, "review_request", to, what, text, person, order=name, purchase=order[1], **more
        )

    def _news(self, by: str, to: str, issue: int, **more: Any) -> Request:
        what = f"news-{issue}-{to.partition(':')[0]}"
        return self._request(
            by, "newsletter", to, what, f"Issue {issue}: new bicycles.", self._number, **more
        )

    def _request(
        self, by: str, purpose: str, to: str, what: str, text: str, person: int | str, **more: Any
    ) -> Request:
        key = f"{self._number}-{what}"
        return Request(merchant=by, key=key, purpose=purpose, to=to, text=text, person=str(person), **more)

    def _link(self) -> None:
        self._tell(lambda gate: gate.people.link(*self._points, evidence="same account"))

    def _grant(self, to: str, purpose: str, parties: tuple[str, ...]) -> None:
        at = self._began_at - timedelta(days=1)
        for party in dict.fromkeys(parties):
            self._tell(
                lambda gate, party=party: gate.consent.grant(  # type: ignore[misc]  # a default, so as to bind it
                    to, party=party, purpose=purpose, occurred_at=at, evidence="form"
                )
            )

    def _tell(self, register: Callable[[Gateway], object]) -> None:
        self._facts.append(Fact(register=register))


def _purchase(order: tuple[str, str], began_at: datetime) -> Purchase:
    """Bought 12 days and delivered 8 days before the run, so that one may ask."""
    return Purchase(
        *order, purchased_at=began_at - timedelta(days=12), delivered_at=began_at - timedelta(days=8)
    )
