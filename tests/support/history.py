"""A history in which everything happens that can: what a replay of the log must get right."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from notifygate import Email, Gateway, Message, Purchase, Sms
from notifygate.channels import HandOffOutcome
from notifygate.errors import InvalidConsent, InvalidMessage, NotCancellable, NotFound
from notifygate.message import Result
from support import channel
from support.channel import ScriptedChannel
from support.clock import SimulatedClock

TABLES: dict[str, Any] = {
    "delivery": {"max_attempts": 3, "retry_after": "10m"},
    "purposes": {
        "order_update": {
            "caps": [{"limit": 4, "window": "3d", "per": "person", "classes": ["service"], "over": "defer"}]
        },
        "newsletter": {
            "dedupe": "3d",
            "caps": [
                {"limit": 1, "window": "2d", "per": "merchant"},
                {"limit": 3, "window": "6d", "per": "person", "over": "defer"},
            ],
        },
        "confirm": {"class": "service", "permission": "none", "confirms": True},
    },
    "review_requests": {
        "asks_per_purchase": 2,
        "per_person": {"limit": 2, "window": "20d"},
        "per_person_and_merchant": {"limit": 1, "window": "10d"},
        "yield": "3d",
        "delay": "2d",
        "delay_without_delivery": "9d",
        "expires": "30d",
        "hold_for_cases": True,
    },
}

POINTS = (
    "email:anna@example.dk",
    "email:anna+shop@example.dk",
    "sms:+4520123456",
    "email:bo@example.dk",
    "sms:+4520654321",
    "email:carl@example.dk",
)
SHOPS = ("cykelpartner", "florist", "headoffice")
ASKERS = (*SHOPS, "postdanmark", "stars")
_REJECTED_FOR_NOW = HandOffOutcome(result=Result.FAILED, detail="no connection", attempted=False)


class History:
    """Plays a random history through a gateway on a simulated clock, the same for the same seed."""

    def __init__(self, gate: Gateway, clock: SimulatedClock, seed: int) -> None:
        self._gate, self._clock, self._random = gate, clock, random.Random(seed)
        self._messages: list[str] = []
        self._orders: list[tuple[str, str]] = []
        self._channel = channel.install(gate, ScriptedChannel())
        self._count = 0
        self._deeds: tuple[tuple[int, Callable[[], Any]], ...] = (
            (10, self._update),
            (10, self._news),
            (12, self._ask),
            (2, self._confirm),
            (5, self._permit),
            (2, self._refuse),
            (2, self._link),
            (1, self._unlink),
            (2, self._alias),
            (1, self._asked_elsewhere),
            (1, self._review),
            (3, self._case),
            (4, self._suppress),
            (2, self._cancel),
            (3, self._resolve),
            (14, self._work),
        )

    def go_on(self, steps: int) -> None:
        """Let so many things happen."""
        weights, deeds = zip(*self._deeds, strict=True)
        for _ in range(steps):
            self._clock.advance(seconds=self._random.choice((0, 0, 1, 60)))
            # Nothing to do that to.
            with contextlib.suppress(NotFound, NotCancellable, InvalidConsent, InvalidMessage):
                self._random.choices(deeds, weights)[0]()

    def _pick(self, *options: Any) -> Any:
        return self._random.choice(options)

    def _content(self, text: str, to: str | None = None) -> Email | Sms:
        kind, _, address = (to or self._pick(*POINTS)).partition(":")
        return Email(address, "News", text=text) if kind == "email" else Sms(address, text)

    def _submit(self, **asked: Any) -> None:
        now = self._clock.now
        later = timedelta(hours=self._random.randrange(1, 90))
        if self._random.random() < 0.15:
            asked["send_after"] = now + later
        if self._random.random() < 0.15:
            asked["expires_at"] = now + later * 2
        if self._random.random() < 0.1:
            asked["timezone"] = self._pick("America/New_York", "Asia/Tokyo")
        self._messages.append(self._gate.submit(Message(**asked)).message_id)

    def _update(self) -> None:
        text = self._pick("Your parcel is here.", "Rate us at trustpilot.com", "It is on its way.")
        purpose = self._pick("order_update", "login_code")
        self._submit(merchant=self._pick(*ASKERS), purpose=purpose, content=self._content(text))

    def _news(self) -> None:
        text = self._pick("New bicycles", "Roses", "Tulips", "Bells")
        self._submit(merchant=self._pick(*SHOPS), purpose="newsletter", content=self._content(text))

    def _confirm(self) -> None:
        point = self._pick(*POINTS)
        if self._random.random() < 0.7:
            token = self._gate.consent.request(point, party="cykelpartner", purpose="newsletter").token
            if self._random.random() < 0.3:
                self._gate.consent.confirm(token)
        content = self._content("Please confirm.", point)
        self._submit(merchant="cykelpartner", purpose="confirm", content=content)

    def _purchase(self, *, new: bool) -> Purchase:
        """One that is known, told with other dates perhaps, or a new one."""
        if new or not self._orders:
            self._count += 1
            self._orders.append((self._pick(*SHOPS, "postdanmark"), f"{self._count}"))
        seller, order = self._pick(*self._orders[-6:])
        bought = self._clock.now - timedelta(days=self._random.randrange(1, 5))
        return Purchase(
            seller,
            order,
            purchased_at=self._pick(None, bought),
            delivered_at=self._pick(None, None, bought + timedelta(days=1)),
        )

    def _ask(self) -> None:
        purchase = self._purchase(new=self._random.random() < 0.5)
        self._submit(
            merchant=self._pick(purchase.seller, purchase.seller, *ASKERS),
            purpose="review_request",
            role=self._pick("buyer", "buyer", "buyer", "recipient"),
            content=self._content("How was it?"),
            purchase=purchase,
        )

    def _permit(self) -> None:
        for point in self._random.sample(POINTS, 4):
            purpose, party = self._pick("newsletter", "review_request"), self._pick(*ASKERS, "interflora")
            if party in SHOPS and self._random.random() < 0.3:
                self._gate.consent.soft_opt_in(
                    point, party=party, purpose=purpose, sale_ref="7", opt_out_offered=True
                )
                continue
            expires = self._pick(None, None, self._clock.now + timedelta(days=4))
            event = self._gate.consent.grant(point, party=party, purpose=purpose, expires_at=expires)
            if self._random.random() < 0.1:
                self._gate.consent.invalidate(event)

    def _refuse(self) -> None:
        say = self._pick(self._gate.consent.withdraw, self._gate.consent.object, self._gate.consent.refuse)
        purpose = self._pick("newsletter", "review", "*")
        stops = self._random.random() < 0.2
        say(self._pick(*POINTS), party=self._pick(*ASKERS), purpose=purpose, includes_service=stops)

    def _link(self) -> None:
        one, other = self._random.sample(POINTS, 2)
        self._gate.people.link(one, other, evidence="said so")

    def _unlink(self) -> None:
        for one in POINTS:
            for other in POINTS:
                try:
                    self._gate.people.unlink(one, other)
                except (NotFound, InvalidMessage):
                    continue
                return

    def _alias(self) -> None:
        purchase = self._purchase(new=False)
        others = [order for seller, order in self._orders if seller == "postdanmark"]
        self._gate.purchases.alias(purchase, "postdanmark", self._pick(*others, "a parcel"))

    def _asked_elsewhere(self) -> None:
        at = self._clock.now - timedelta(days=self._random.randrange(5))
        point = self._pick(None, *POINTS)
        self._gate.purchases.record_ask(self._purchase(new=False), "elsewhere", at, contact_point=point)

    def _review(self) -> None:
        at = self._clock.now - timedelta(days=self._random.randrange(5))
        self._gate.purchases.record_review(self._purchase(new=False), at)

    def _case(self) -> None:
        self._pick(self._gate.purchases.open_case, self._gate.purchases.close_case)(self._purchase(new=False))

    def _suppress(self) -> None:
        marks = self._gate.suppressions.list()
        if marks and self._random.random() < 0.6:
            self._gate.suppressions.remove(marks[0].contact_point or "")
            return
        until = self._clock.now + timedelta(days=self._random.randrange(1, 8))
        reason = self._pick("manual", "hard_bounce")
        self._gate.suppressions.add(self._pick(*POINTS), reason, expires_at=until)

    def _cancel(self) -> None:
        self._gate.cancel(self._pick(*self._messages[-20:], "none"))

    def _resolve(self) -> None:
        doubts = self._gate.doubt.list()
        verdict = self._pick("sent", "not_sent")
        again = verdict == "not_sent" and self._random.random() < 0.5
        message_id = doubts[0].message_id if doubts else "none"
        self._gate.doubt.resolve(message_id, verdict, evidence="asked", send_again=again)

    def _work(self) -> None:
        """Move on, to when something is due or anywhere, and work off what is due by then."""
        answers = (*[channel.ACCEPTED] * 12, channel.FAILED, channel.FAILED, channel.REJECTED)
        rare = (channel.IN_DOUBT, channel.IN_DOUBT, _REJECTED_FOR_NOW)
        self._channel.script = [self._pick(*answers, *rare) for _ in range(50)]
        due = self._gate.next_due()
        if due is not None and due > self._clock.now and self._random.random() < 0.5:
            self._clock.set(due)
        else:
            self._clock.advance(minutes=self._random.choice((5, 60, 400, 3_000)))
        self._gate.drain()
